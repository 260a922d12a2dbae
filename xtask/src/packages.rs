//! The Debian packages that building, testing and showing need.

use std::path::Path;
use std::process::Command;

use crate::error::XtaskError;
use lab::error::LabError;

/// A package and why it is needed.
struct Package {
    name: &'static str,
    why: &'static str,
    /// A file that is there when the package is, where a name in PATH does not tell.
    proof: &'static str,
}

const PACKAGES: &[Package] = &[
    Package { name: "gcc", why: "C shims of the DPDK bindings", proof: "/usr/bin/gcc" },
    Package { name: "g++", why: "the fuzzer's runtime", proof: "/usr/bin/g++" },
    Package { name: "pkg-config", why: "finds libdpdk", proof: "/usr/bin/pkg-config" },
    Package { name: "libdpdk-dev", why: "the switch", proof: "/usr/include/dpdk/rte_ethdev.h" },
    Package { name: "libclang-dev", why: "reads DPDK's headers", proof: "/usr/share/doc/libclang-dev" },
    Package { name: "libpcap0.8", why: "capture ports", proof: "/usr/share/doc/libpcap0.8" },
    Package { name: "qemu-system-x86", why: "the VMs", proof: "/usr/bin/qemu-system-x86_64" },
    Package {
        name: "busybox-static",
        why: "the guest image, the HTTP server",
        proof: "/usr/share/doc/busybox-static",
    },
    Package { name: "iproute2", why: "network namespaces", proof: "/usr/share/doc/iproute2" },
    Package { name: "ethtool", why: "checksum offload of veth", proof: "/usr/share/doc/ethtool" },
    Package { name: "iputils-ping", why: "pings", proof: "/usr/share/doc/iputils-ping" },
    Package { name: "curl", why: "the file transfer", proof: "/usr/bin/curl" },
    Package { name: "iperf3", why: "traffic with a small Debian", proof: "/usr/bin/iperf3" },
    Package { name: "mmdebstrap", why: "a small Debian as a guest", proof: "/usr/bin/mmdebstrap" },
    Package { name: "e2fsprogs", why: "its disk", proof: "/usr/sbin/mkfs.ext4" },
];

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask setup --check")]
pub struct Options {
    /// Only say what is missing; fail if anything is
    #[arg(long)]
    check: bool,
}

/// `cargo xtask setup`.
pub fn setup(options: &Options) -> Result<(), XtaskError> {
    let missing = missing();
    if missing.is_empty() {
        println!("all {} packages are installed", PACKAGES.len());
        return Ok(());
    }
    if options.check {
        for package in &missing {
            println!("missing: {} ({})", package.name, package.why);
        }
        return Err(XtaskError::Packages(missing.iter().map(|package| package.name).collect()));
    }
    install(&missing)
}

/// Installs what is missing, saying so first.
pub fn ensure() -> Result<(), XtaskError> {
    let missing = missing();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn missing() -> Vec<&'static Package> {
    PACKAGES.iter().filter(|package| !Path::new(package.proof).exists()).collect()
}

fn install(missing: &[&'static Package]) -> Result<(), XtaskError> {
    let names: Vec<&'static str> = missing.iter().map(|package| package.name).collect();
    if !rustix::process::geteuid().is_root() {
        return Err(XtaskError::Packages(names));
    }
    for package in missing {
        println!("installing {} ({}); it stays installed", package.name, package.why);
    }
    apt_get(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(&names);
    apt_get(&args)
}

fn apt_get(args: &[&str]) -> Result<(), XtaskError> {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    lab::child::run_command(command).map(drop).map_err(|err| match err {
        LabError::Failed { command, output, .. } => XtaskError::Build { what: command, tail: output },
        other => other.into(),
    })
}
