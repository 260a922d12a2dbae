//! The handshake between an endpoint and the host.
//!
//! ```text
//! guest                                    host
//! version, features, attach_nonce = N  ->  sees a new nonce: checks version and features,
//!                                          waits until the lcore has let go of the rings,
//!                                          zeroes its own words, then
//!                                      <-  answered_nonce = N, epoch = E, phase = Published
//! takes up rings at 0,                     (guest zeroes its own counters before it confirms)
//! confirmed_epoch = E                  ->  attached: the lcore feeds it; phase = Attached
//! detached_epoch = E (leaving)         ->  buffers come home; phase = Detached
//! ```
//!
//! The host chooses epochs; they rise and are never 0.

/// The host's view of an endpoint, as published in [`crate::layout::EndpointEntry::phase`].
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
}

/// Why the host refuses an attach, as published in [`crate::layout::EndpointEntry::refusal`].
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
}
