//! Layout of the memory that host and guests share, and the descriptor rings in it.
//!
//! This crate is the only code that touches words which another party writes. Its laws:
//!
//! - A word that the peer writes is read **once**, atomically, into private memory; only that copy is
//!   checked and used.
//! - Nothing here makes a reference to plain (non-atomic) shared memory.
//! - A counter of the peer that breaks its invariant is an error with both figures in it, never clamped.
//!
//! Modules: [`layout`] says where everything lies, [`desc`] what sixteen bytes of descriptor mean,
//! [`ring`] moves descriptors, [`area`] lays all of it over memory, [`attach`] is the handshake between an endpoint and the host.
//! Positions of our rings are called `produced` and `consumed`; head and tail mean too many things.
#![cfg_attr(not(test), no_std)]
#![deny(missing_docs)]

#[cfg(all(feature = "sabotage", not(debug_assertions), not(loom)))]
compile_error!("a sabotage feature weakens one line so that a test can prove it notices; never ship it");

#[cfg(target_endian = "big")]
compile_error!("the layout is little-endian; byte swapping is not written");

extern crate alloc;

// With loom's atomics nothing can be laid over memory.
#[cfg(not(loom))]
pub mod area;
pub mod attach;
#[cfg(all(test, not(loom)))]
mod crash;
pub mod desc;
pub mod endpoint;
pub mod layout;
pub mod ring;
mod sync;
