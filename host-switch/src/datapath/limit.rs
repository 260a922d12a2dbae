//! Limits of packets and bits per second, as one lcore keeps them.

use std::time::Instant;

use dpdk::MbufBurst;
use switch_core::drop_reason::DropReason;
use switch_core::ids::DomainId;
use switch_core::rate::{Bucket, RateSpec};

use super::domain::DomainState;

/// A token bucket and the clock it is filled by.
#[derive(Debug)]
pub(super) struct Limit {
    bucket: Bucket,
    started: Instant,
}

impl Limit {
    /// The part of one of `lcores`; none for no limit.
    pub(super) fn part_of(spec: Option<RateSpec>, lcores: u16) -> Option<Box<Self>> {
        let part = spec.filter(|spec| !spec.is_unlimited())?.per_lcore(lcores);
        Some(Box::new(Self { bucket: Bucket::new(part, 0), started: Instant::now() }))
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether a frame may pass now.
    pub(super) fn admit(&mut self, bytes: u16) -> bool {
        let now_us = self.now_us();
        self.admit_at(now_us, 1, u32::from(bytes))
    }

    fn admit_at(&mut self, now_us: u64, frames: u32, bytes: u32) -> bool {
        cfg!(feature = "sabotage-limits") || self.bucket.admit(now_us, frames, bytes)
    }

    /// Takes the frames that may not pass out of a burst and frees them; how many. The order of the others stays.
    #[cold]
    pub(super) fn cut<const N: usize>(&mut self, burst: &mut MbufBurst<N>) -> u64 {
        let now_us = self.now_us();
        let mut refused = 0;
        for _ in 0..burst.len() {
            let Some(mbuf) = burst.take_first() else { break };
            if self.admit_at(now_us, 1, mbuf.pkt_len()) {
                // There is room: it has just left.
                let _ = burst.push(mbuf);
            } else {
                refused += 1;
            }
        }
        refused
    }
}

/// The limits of what enters domains, on one lcore: by domain.
#[derive(Debug, Default)]
pub(super) struct EntryLimits(Vec<Option<Box<Limit>>>);

impl EntryLimits {
    /// Adds that of the next domain.
    pub(super) fn push(&mut self, limit: Option<Box<Limit>>) {
        self.0.push(limit);
    }

    /// Limits a domain, and those that share its limit, anew.
    pub(super) fn set(&mut self, domain: DomainId, limit: Option<Box<Limit>>) {
        if let Some(old) = self.0.get_mut(domain.index()) {
            *old = limit;
        }
    }

    /// The one that packets of a domain count against.
    #[inline]
    pub(super) fn of(&mut self, domain: &DomainState) -> Option<&mut Limit> {
        self.0.get_mut(domain.limited_with.index())?.as_deref_mut()
    }

    /// Whether one more packet may enter a domain.
    pub(super) fn admit(&mut self, domain: &DomainState, bytes: u16) -> Result<(), DropReason> {
        let may = self.of(domain).is_none_or(|limit| limit.admit(bytes));
        if may { Ok(()) } else { Err(DropReason::DomainRate) }
    }

    /// Whether one more packet may enter `to` from another domain. From one to another that share a limit it has
    /// entered before.
    pub(super) fn admit_from(
        &mut self,
        from: &DomainState,
        to: &DomainState,
        bytes: u16,
    ) -> Result<(), DropReason> {
        if from.limited_with == to.limited_with { Ok(()) } else { self.admit(to, bytes) }
    }
}
