//! Raw bindings to the installed libdpdk, 22.11 or newer.
//!
//! **What is bound.** Only what the `dpdk` crate calls: the lists are in `build.rs`. Functions that
//! DPDK's headers define inline have no symbol; `c/inline.c` gives the ones we need a symbol, under
//! the prefix `netvm_`. It is compiled with `-O3` and the flags of `pkg-config --cflags libdpdk`,
//! `-march` among them, so that it means the same machine as DPDK does.
//!
//! **How it is linked.** Against the shared libraries that `pkg-config` names, as an ordinary link
//! dependency (`links = "dpdk"`, so Cargo refuses a second copy in one program). Loading by hand
//! (`dlopen`, or what `raw-dylib` is on Windows) would hide a version clash until run time. Drivers
//! are no link dependency: the EAL loads every plug-in in the folder compiled into libdpdk (Debian:
//! `/usr/lib/<arch>/dpdk/pmds-23.0`) when it finds itself in a shared build, and `-d` adds others.
//!
//! **What is opaque.** `rte_arp_hdr`, `rte_arp_ipv4`, `rte_l2tpv2_combined_msg_hdr` and
//! `rte_gtp_psc_generic_hdr` mix packing with alignment in a way Rust has no layout for.
//!
//! Everything is `unsafe` here and says nothing about why a call would be right: see the `dpdk` crate.
#![no_std]

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    unnecessary_transmutes,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::missing_safety_doc,
    clippy::ptr_as_ptr,
    reason = "generated from the C headers, in their names and by the generator's own conventions"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;
