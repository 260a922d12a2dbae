//! Frontends that behave: our own, and that of the `vhost` crate.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::guest::Guest;
use common::port::Port;

#[test]
fn frames_cross_and_come_back() {
    let port = Port::open("echo");
    let mut guest = Guest::started(&port);
    guest.echoes(300);
    guest.wait_for_interrupt();
    let status = port.server.status();
    assert!(status.is_connected);
    assert_eq!((status.sessions, status.memory_bytes), (1, common::guest::RAM_BYTES));
}
