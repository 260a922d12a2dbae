//! What each fuzz target does with its bytes, and what must hold whatever they are.
//!
//! A function for each target, in a module of its name; `fuzz_targets/` only hands it the fuzzer's bytes. Each
//! holds the product against a second, slower opinion where there is one, and otherwise against what the
//! product promises. None may panic, and none may leave an invariant broken.
//!
//! [`switch`] is the part of the switch's crate that needs no DPDK, compiled here from the same files.
#![deny(missing_docs)]

pub mod config;
pub mod control_area;
pub mod counters;
pub mod descriptors;
pub mod firewall_packets;
pub mod firewall_rules;
pub mod guest_words;
pub mod headers;
pub mod http_api;
mod input;
mod ledger_model;
pub mod messages;
pub mod plan;
pub mod qmp;
pub mod router_packets;
pub mod router_routes;
mod settings;
pub mod slow_parse;
pub mod switch;
pub mod vhost_messages;
pub mod virtio_chains;

pub use input::Input;
