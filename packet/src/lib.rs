//! Packet header views and checksums that the switch and the network functions share.
//!
//! Everything here works on bytes that the caller has: a private header copy in the switch, the packet itself
//! in an NF. Nothing allocates, nothing panics on any input, and what cannot be read has a name.
//!
//! [`parse()`](parse::parse) finds the flow of a frame in one pass; the other modules are one header each.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod flow;
pub mod parse;

pub use flow::{FlowKey, NotAFlow};
pub use parse::{Malformed, Network, Parsed, Transport, parse};
