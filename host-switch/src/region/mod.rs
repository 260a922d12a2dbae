//! Memory that the switch owns: regions and control areas that guests map, and the private ledger file.
//!
//! The laws of shared memory, kept by every module in here:
//!
//! - No slice and no reference covers bytes of a region: a guest may write any of them at any moment.
//!   Packet bytes leave by [`Mapping::copy_header`], a private copy that later decisions are made on.
//! - Every access to shared bytes is a volatile or atomic one of at most a word, bounds checked first.
//! - A guest that makes memory vanish (hole punching; seals stop truncation, but a file with a name has none)
//!   gets a zero page and loses its domain: see [`fault`]. The switch lives on.
//! - Mappings that the datapath uses are leaked on purpose ([`Mapping::leak`]): lcores and PMDs hold addresses
//!   into them until the process ends, so there is no moment at which unmapping would be right.

mod domain;
pub mod fault;
mod ledger_file;
mod mapping;
mod memory;
mod named_file;

pub use domain::{Region, RegionError};
pub use ledger_file::{LedgerError, LedgerFile, ShardMemory, ShardSize};
pub use mapping::{HEADER_BYTES_MAX, Mapping};
pub use memory::{MemoryError, PageKind, Pages, SharedMemory};
pub use named_file::{FileIdentity, FilePages};
