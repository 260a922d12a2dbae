//! Classification, chains, ledger and verdicts of the switch; no DPDK, no unsafe.
//!
//! Two halves that meet in the datapath, and one type that both speak ([`ledger::PacketPath`]):
//!
//! - The **ledger**: [`shard::Shard`] says who holds each buffer and is the one place where a descriptor from
//!   a guest is checked ([`shard::Shard::take_back`], and [`shard::Shard::passing`] for packets alike). [`transition`] lists what may become of a buffer and
//!   what may not, with the reason. [`audit`] counts every state by itself.
//! - The **forwarding** snapshot: [`forwarding::Forwarding`] says where a packet goes, on arrival and after a
//!   verdict. It is immutable; control publishes a new one.
//!
//! [`rate`] and [`share`] say how much of it there may be when there is not enough for all.
//!
//! A shard and its counters belong to one lcore: no atomics, no locks. Nothing that runs per packet allocates,
//! and no input of a guest reaches a panic.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(all(
    not(debug_assertions),
    any(
        feature = "sabotage-generation",
        feature = "sabotage-holder",
        feature = "sabotage-bound",
        feature = "sabotage-length",
        feature = "sabotage-verdict-rights",
        feature = "sabotage-edge",
        feature = "sabotage-broadcast",
        feature = "sabotage-ways",
        feature = "sabotage-bucket",
        feature = "sabotage-share",
        feature = "sabotage-pin",
        feature = "sabotage-flow",
        feature = "sabotage-reference-held",
        feature = "sabotage-reference-generation",
        feature = "sabotage-reference-end"
    )
))]
compile_error!("the sabotage features break checks on purpose and never go into a release build");

mod named;

pub mod audit;
pub mod counters;
pub mod criteria;
mod descriptor;
pub mod drop_reason;
pub mod edge;
pub mod fault;
pub mod forwarding;
pub mod frame;
pub mod handover;
pub mod header;
pub mod ids;
pub mod instance;
pub mod ledger;
pub mod liveness;
pub mod passage;
pub mod rate;
pub mod recovery;
pub mod references;
pub mod rule;
pub mod shard;
pub mod share;
pub mod snapshot;
#[cfg(test)]
mod test_frames;
#[cfg(test)]
mod test_switch;
pub mod transition;
mod ways;

pub use named::Named;
