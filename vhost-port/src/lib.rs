//! The device side of a virtio-net NIC that a VM nobody trusts drives, over vhost-user.
//!
//! Two halves that meet in [`setup`], an immutable snapshot of one guest's device:
//!
//! - **Control**, a thread for each port, may block. It speaks vhost-user with QEMU (which is trusted no more than
//!   its guest), checks and maps the guest's [`memory`], and publishes a new setup for every change
//!   ([`publication`]).
//! - **The lanes**, one for each lcore, never wait. They copy packets out of and into the guest's memory, and check
//!   every word of it once it is a copy of their own.
//!
//! # What the other side can do meanwhile
//! Everything: write any byte of its memory at any time, punch holes into it, send any message, pass any file
//! descriptor, stop reading, or go away. A frontend that breaks the protocol loses its session, a guest that breaks
//! its rings a queue; the next one is served. What it can still take from others in time is named in the threat
//! model (`docs/threat-model.md`, known limits of untrusted NICs).
#![deny(missing_docs)]

#[cfg(all(feature = "sabotage", not(debug_assertions), not(loom)))]
compile_error!("a sabotage feature breaks one check so that a test can prove it notices; never ship it");

#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!(
    "guest addresses are 64 bits wide and virtio 1 is little-endian; byte swapping is not written"
);

mod chain;
mod device;
mod event_signal;
pub mod features;
pub mod frame;
mod guest_bytes;
mod guest_rx;
mod guest_tx;
pub mod header;
mod indirect;
mod inflight;
mod interrupt;
pub mod lane;
pub mod lane_counters;
mod log_budget;
pub mod memory;
pub mod memory_file;
pub mod memory_watch;
pub mod notifier;
pub mod publication;
mod queue;
pub mod refusal;
#[cfg(feature = "test-guest")]
pub mod rehearsal;
mod requests;
pub mod resubmit;
mod ring_claim;
pub mod ring_fault;
pub mod server;
mod session;
pub mod setup;
mod sync;
pub mod terms;
#[cfg(all(any(test, feature = "test-guest"), not(loom)))]
pub mod test_guest;
mod vring;
mod wire;
