//! What is new in the words of a guest.

use alloc::vec::Vec;

use super::AttachRecord;
use crate::endpoint::GuestReport;

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
    /// The guest is about to end this epoch, which it has taken up.
    Draining(u32),
    /// The heartbeat moved.
    Beat(u64),
}

/// What the host has seen of a guest's words so far.
#[derive(Clone, Debug, Default)]
pub struct GuestWatch {
    seen: GuestReport,
}

impl GuestWatch {
    /// What a process of this host that died had seen: an ask that it answered is not new, and one that it
    /// left unanswered is.
    #[must_use]
    pub fn resume(record: &AttachRecord) -> Self {
        let ask = Ask { nonce: record.answered_nonce, ..Ask::default() };
        let confirmed_epoch = if record.serving { record.last_epoch } else { 0 };
        Self { seen: GuestReport { ask, confirmed_epoch, ..GuestReport::default() } }
    }

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
            draining(report).filter(|_| draining(report) != draining(&seen)).map(GuestEvent::Draining),
            (report.heartbeat != seen.heartbeat).then_some(GuestEvent::Beat(report.heartbeat)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The epoch that is about to end. One that the guest has not taken up, as far as this report shows, is not meant
/// yet, or any more: the words are read one by one.
fn draining(report: &GuestReport) -> Option<u32> {
    let epoch = report.draining_epoch;
    (epoch != 0 && epoch == report.confirmed_epoch).then_some(epoch)
}
