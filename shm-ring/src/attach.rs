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

use alloc::vec::Vec;

use crate::endpoint::GuestReport;

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
            _ => None,
        }
    }
}

/// A guest's wish to attach, copied out of its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Fresh and not zero.
    pub nonce: u64,
    /// Layout version of the guest: major in the high 16 bits, minor in the low.
    pub version: u32,
    /// Feature bits that the guest accepts.
    pub features: u64,
}

impl Ask {
    /// The version word.
    #[must_use]
    pub const fn pack_version(major: u16, minor: u16) -> u32 {
        (major as u32) << 16 | minor as u32
    }

    /// The guest's major version.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "sixteen bits remain")]
    pub const fn version_major(&self) -> u16 {
        (self.version >> 16) as u16
    }
}

/// What a guest's words say that they did not say before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// The NF of this epoch ended itself.
    Left(u32),
    /// The NF process of this epoch was reaped by its supervisor.
    Reaped(u32),
    /// A new nonce.
    NonceSeen(Ask),
    /// The guest took up this epoch.
    Confirmed(u32),
    /// The heartbeat moved.
    Beat(u64),
}

/// What the host has seen of a guest's words so far.
#[derive(Clone, Debug, Default)]
pub struct GuestWatch {
    seen: GuestReport,
}

impl GuestWatch {
    /// What is new in `report`: endings before beginnings, so that an old epoch is over before a new ask
    /// counts. A word that went back to zero says nothing.
    pub fn compare(&mut self, report: &GuestReport) -> Vec<GuestEvent> {
        let seen = core::mem::replace(&mut self.seen, *report);
        let changed = |now: u32, before: u32| (now != before && now != 0).then_some(now);
        let new_ask = report.ask.nonce != seen.ask.nonce && report.ask.nonce != 0;
        [
            changed(report.detached_epoch, seen.detached_epoch).map(GuestEvent::Left),
            changed(report.reaped_epoch, seen.reaped_epoch).map(GuestEvent::Reaped),
            new_ask.then_some(GuestEvent::NonceSeen(report.ask)),
            changed(report.confirmed_epoch, seen.confirmed_epoch).map(GuestEvent::Confirmed),
            (report.heartbeat != seen.heartbeat).then_some(GuestEvent::Beat(report.heartbeat)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
