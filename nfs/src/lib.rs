//! Network functions that run unchanged in a VM or as a host process.
//!
//! Each program of this package is one network function. What they share is the command line ([`Common`]),
//! how they start ([`main_with`]), and what they say at exit ([`Summary`]).
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod common;
pub mod firewall;
pub mod frame;
pub mod l2fwd;
pub mod monitor;
pub mod router;
pub mod settings;
mod start;
mod summary;

/// Bytes of a packet that are copied before anything is decided by them: whoever maps the domain's region may
/// change the packet meanwhile, and nobody the copy.
pub const HEADER_BYTES: usize = 128;

pub use common::Common;
pub use start::{NfError, main_with};
pub use summary::Summary;
