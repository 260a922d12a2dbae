//! A stateless firewall: rules over 5-tuples, the first match wins, and nothing slips past what it cannot read.
//!
//! A packet is judged by a private copy of its headers. Fragments, IPv6 extension headers, tunnels and
//! everything else without a 5-tuple that could be believed have keys of their own, "drop" by default; of the
//! rules, only those that drop by address alone hold for them.

pub mod file;
mod policy;
mod rule;
mod tally;
#[cfg(test)]
mod tests;

pub use policy::{Judgement, Policy, Reason};
pub use rule::{Action, Rule};
pub use tally::{Amount, Tally};
