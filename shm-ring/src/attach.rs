//! The handshake between an endpoint and the host.
//!
//! ```text
//! guest                                    host
//! version, features, attach_nonce = N  ->  sees a new nonce: checks rate, version and features,
//!                                          waits until the lcores have let go of the rings,
//!                                          zeroes its own words, then
//!                                      <-  epoch = E, phase = Published, answered_nonce = N
//! takes up rings at 0,                     (guest zeroes its own counters before it confirms)
//! confirmed_epoch = E                  ->  attached: the lcore feeds it; phase = Attached
//! draining_epoch = E (about to leave)  ->  stops feeding; phase = Draining
//! gives back what it holds, then
//! detached_epoch = E (leaving)         ->  buffers come home; phase = Detached
//! ```
//!
//! Draining is a courtesy: who leaves without it, or does not wait for the host's answer, loses what the host lends
//! until it sees the leave. What the guest holds stays lent to it as before.
//!
//! The host chooses epochs; they rise and are never 0. [`AttachMachine`] decides on the host's side, by the
//! tables [`LEGAL`] and [`PROHIBITED`]; [`Handshake`] takes the steps of the guest.

mod bucket;
mod handshake;
mod machine;
mod transitions;
mod watch;

pub use bucket::TokenBucket;
pub use handshake::{Handshake, HandshakeStep};
pub use machine::{AttachAction, AttachEvent, AttachLimits, AttachMachine, AttachRecord};
pub use transitions::{AttachEventKind, AttachState, LEGAL, Legal, PROHIBITED, Prohibited};
pub use watch::{Ask, GuestEvent, GuestWatch};

/// The host's view of an endpoint, as published in [`crate::layout::HostWords::phase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HostPhase {
    /// Nobody is attached.
    Detached = 0,
    /// An epoch is published; the guest has not confirmed it yet.
    Published = 1,
    /// The guest has confirmed; packets flow.
    Attached = 2,
    /// The last attach was refused; see [`Refusal`].
    Refused = 3,
    /// The host has stopped serving this endpoint until somebody lets it in again.
    Quarantined = 4,
    /// The guest is about to leave, and the host has stopped feeding: what is in the rings now is the last.
    Draining = 5,
}

/// Why the host refuses an attach, as published in [`crate::layout::HostWords::refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// Another major layout version.
    Version = 1,
    /// Feature bits that were not offered.
    Features = 2,
    /// Too many attaches in a short time.
    TooOften = 3,
    /// Quarantined.
    Quarantined = 4,
    /// Earlier epochs whose writers may still run hold too many buffers.
    Unproven = 5,
}

impl HostPhase {
    /// The phase with this code, if there is one.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Detached),
            1 => Some(Self::Published),
            2 => Some(Self::Attached),
            3 => Some(Self::Refused),
            4 => Some(Self::Quarantined),
            5 => Some(Self::Draining),
            _ => None,
        }
    }
}

impl Refusal {
    /// The refusal with this code, if there is one.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Version),
            2 => Some(Self::Features),
            3 => Some(Self::TooOften),
            4 => Some(Self::Quarantined),
            5 => Some(Self::Unproven),
            _ => None,
        }
    }
}
