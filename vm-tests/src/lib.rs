//! Tests that drive the netvm binaries, namespaces and VMs from outside.
//!
//! A [`Scene`] has names of its own (from the pid), so tests that were killed do not stand in the way of the
//! next ones; what they left behind is undone by the next start. `cargo xtask test` builds the programs and
//! says where they are.

pub mod attacker;
pub mod capture;
pub mod config;
pub mod frontend;
pub mod random;
pub mod scene;
pub mod trial;

pub use scene::Scene;
