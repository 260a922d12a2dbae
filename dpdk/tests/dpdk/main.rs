//! DPDK without hugepages, NICs or root: virtual devices, and a region of plain memory.
//!
//! One process, because the EAL starts once in it; every test has its own devices and pools.
#![allow(clippy::unwrap_used, reason = "tests; their helper functions too")]

mod devices;
mod faults;
mod fixture;
mod frames;
mod ownership;
