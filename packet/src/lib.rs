//! Packet header views and checksums that the switch and the network functions share.
//!
//! Everything here works on bytes that the caller has: a private header copy in the switch, the packet itself
//! in an NF. Nothing allocates, nothing panics on any input, and what cannot be read has a name.
//!
//! [`parse()`](parse::parse) finds the flow of a frame in one pass; the other modules are one header each.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod arp;
pub mod checksum;
pub mod error;
pub mod ethernet;
mod field;
pub mod flow;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod parse;
pub mod tcp;
mod transport;
pub mod udp;
pub mod vlan;

pub use error::HeaderError;
pub use ethernet::MacAddress;
pub use flow::{FlowKey, NotAFlow};
pub use parse::{Link, Malformed, Network, Parsed, Transport, parse};
