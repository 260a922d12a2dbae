//! The flows that one lcore knows: exact match, memory that never grows, no locks and no atomics.
//!
//! A [`FlowTable`] lives in memory of the caller ([`FlowTable::lines_for`] says how much), cut into lines of
//! 64 bytes. Three kinds of them:
//!
//! - a **bucket**: the tags (16 bits of the hash) of 31 flows, and how many flows that belong here had to go to
//!   their other bucket. One comparison finds the candidates; as a rule one line says that there is none.
//! - a **flow line** for each slot: the whole key, and what changes with each packet.
//! - an **account** for each slot: what is looked at once in a while (sums, first packet, pinned instances).
//!
//! So a packet of a known flow costs two lines that may not be in the cache, and they are asked for before
//! anybody waits for them ([`FlowTable::lookup_bulk`]).
//!
//! Each flow has two buckets to be in, and never moves: an insertion looks at two lines of tags, whatever
//! the table holds, and an id stays good until its flow ends. The two follow from a hash with a secret seed.
//!
//! **Both directions** of a flow are one entry: [`Key::of`] sorts the two ends and says from which one the packet
//! came. A flow is **answered** when the end that opened it has spoken again after the other one had: a flood of
//! first packets never gets that far, not even with a server that replies to each. The others are **unanswered**,
//! may have a bounded part of the table, and the oldest of them makes room for a new one.
//!
//! **Deliberately absent:** eviction of answered flows (a new flow is refused instead, by name), growth, fragments
//! and tunnels as flows (they have no [`Key`]).
#![deny(missing_docs)]

#[cfg(all(not(debug_assertions), feature = "sabotage"))]
compile_error!("the sabotage features break checks on purpose and never go into a release build");

mod bucket;
mod counters;
mod hash;
mod id;
mod key;
mod level;
mod limits;
mod line;
mod table;

pub use counters::Counters;
pub use hash::Seed;
pub use id::FlowId;
pub use key::{Direction, Key, NoKey, Place};
pub use limits::{Limits, SetupError};
pub use line::Line;
pub use table::{BURST, End, Flow, FlowTable, PINS, Packet, Refused, Stage};
