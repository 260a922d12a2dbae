//! The files of `host-switch` that read what others wrote and need no DPDK for it.
//!
//! The crate itself links DPDK, which a fuzzer has no use for. A file that is listed here may use other crates of
//! the product, and of its own crate only what is listed here.

#[path = "../../host-switch/src/control/api.rs"]
pub mod api;
#[path = "../../host-switch/src/control/openapi.rs"]
pub mod openapi;
#[path = "../../host-switch/src/control/order.rs"]
pub mod order;
#[path = "../../host-switch/src/control/protocol.rs"]
pub mod protocol;
#[path = "../../host-switch/src/qemu/qmp.rs"]
pub mod qmp;
#[path = "../../host-switch/src/control/request.rs"]
pub mod request;
#[path = "../../host-switch/src/control/status.rs"]
pub mod status;
