//! The files of `host-switch` that read what others wrote and need no DPDK for it.
//!
//! The crate itself links DPDK, which a fuzzer has no use for. A file that is listed here may use other crates of
//! the product, and of its own crate only what is listed here.

#[path = "../../host-switch/src/control/protocol.rs"]
pub mod protocol;
#[path = "../../host-switch/src/qemu/qmp.rs"]
pub mod qmp;
