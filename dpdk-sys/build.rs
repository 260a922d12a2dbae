//! Finds the installed libdpdk, generates bindings to the listed part of its interface, and
//! compiles the inline functions that have no symbol of their own.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Oldest release with the interface and the mbuf layout that the `dpdk` crate is written against.
const DPDK_OLDEST: &str = "22.11";

/// Functions that the `dpdk` crate calls; `netvm_.*` are those of `c/inline.h`.
const FUNCTIONS: &[&str] = &[
    "netvm_.*",
    "rte_dev_(probe|remove|dma_map|dma_unmap)",
    "rte_eal_(init|iova_mode)",
    "rte_eth_dev_(close|configure|get_port_by_name|info_get|socket_id|start|stop)",
    "rte_eth_(link_get_nowait|macaddr_get|promiscuous_enable|stats_get)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_extmem_(register|unregister)",
    "rte_(free|strerror|version|zmalloc_socket)",
    "rte_mempool_(avail_count|create_empty|free|obj_iter|populate_iova|register_ops|set_ops_byname)",
    "rte_pktmbuf_(free_bulk|init|pool_create|pool_init)",
    "rte_thread_(register|unregister)",
];

/// Types that no listed function mentions in its signature.
const TYPES: &[&str] = &["rte_mbuf_ext_shared_info", "rte_pktmbuf_pool_private", "rte_mempool_objhdr"];

const CONSTANTS: &[&str] =
    &["NETVM_.*", "RTE_ETH_NAME_MAX_LEN", "RTE_MAX_LCORE", "RTE_MAX_ETHPORTS", "RTE_MEMPOOL_OPS_NAMESIZE"];

/// Packed structures with aligned members, which Rust has no layout for; nothing here looks inside.
const OPAQUE: &[&str] =
    &["rte_arp_hdr", "rte_arp_ipv4", "rte_l2tpv2_combined_msg_hdr", "rte_gtp_psc_generic_hdr"];

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=c/inline.h");
    println!("cargo:rerun-if-changed=c/inline.c");
    match find_and_generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
    }
}

fn find_and_generate() -> Result<(), String> {
    pkg_config::Config::new().atleast_version(DPDK_OLDEST).probe("libdpdk").map_err(|err| {
        format!(
            "libdpdk {DPDK_OLDEST} or newer was not found by pkg-config.\n\
             On Debian or Ubuntu: apt install libdpdk-dev pkg-config\n\
             For a DPDK of your own, set PKG_CONFIG_PATH to the folder of its libdpdk.pc.\n\n{err}"
        )
    })?;
    let cflags = dpdk_cflags()?;
    compile_inline(&cflags);
    generate_bindings(&cflags)
}

/// All of DPDK's compiler flags, `-march` included: the inline functions are written for that
/// instruction set. The `pkg-config` crate passes on include paths only.
fn dpdk_cflags() -> Result<Vec<String>, String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(&tool)
        .args(["--cflags", "libdpdk"])
        .output()
        .map_err(|err| format!("{tool} --cflags libdpdk did not start: {err}"))?;
    if !output.status.success() {
        return Err(format!("{tool} --cflags libdpdk ended with {}", output.status));
    }
    let text = String::from_utf8(output.stdout)
        .map_err(|err| format!("{tool} --cflags libdpdk gave no UTF-8: {err}"))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn compile_inline(cflags: &[String]) {
    let mut build = cc::Build::new();
    // -O3 in every profile: these few functions are the datapath.
    build.file("c/inline.c").include("c").opt_level(3).warnings(true);
    // The headers of 22.11 compare signed with unsigned here and there.
    build.flag("-Wno-sign-compare").flag("-Wno-unused-parameter");
    for flag in cflags {
        build.flag(flag);
    }
    build.compile("netvm_dpdk_inline");
}

fn generate_bindings(cflags: &[String]) -> Result<(), String> {
    require_libclang()?;
    let mut builder = bindgen::Builder::default()
        .header("c/inline.h")
        .clang_arg("-Ic")
        .clang_args(cflags)
        .generate_comments(false)
        .layout_tests(false)
        .derive_default(true)
        .use_core()
        .prepend_enum_name(false);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    let bindings = builder.generate().map_err(|err| format!("bindgen refused the DPDK headers: {err}"))?;
    let out_dir = env::var_os("OUT_DIR").ok_or("cargo set no OUT_DIR")?;
    bindings
        .write_to_file(PathBuf::from(out_dir).join("bindings.rs"))
        .map_err(|err| format!("bindings.rs could not be written: {err}"))
}

/// bindgen loads libclang at run time and panics without it; say what to install instead.
fn require_libclang() -> Result<(), String> {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(bindgen::clang_version);
    std::panic::set_hook(loud);
    found.map(drop).map_err(|_| {
        "libclang was not found, and bindgen needs it to read the DPDK headers.\n\
         On Debian or Ubuntu: apt install libclang-dev\n\
         For a libclang elsewhere, set LIBCLANG_PATH to the folder of its libclang.so."
            .to_owned()
    })
}
