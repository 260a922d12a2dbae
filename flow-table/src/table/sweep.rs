//! The end of flows that nobody needs any more.

use crate::level::prefetch;
use crate::table::{Flow, FlowTable, SLOTS, low_half, slot_of};

/// Why a flow ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// No packet came for as long as [`crate::Limits`] say.
    Idle,
    /// It has been there for as long as any flow may.
    Hard,
}

impl FlowTable<'_> {
    /// Goes on through the table for so many buckets of 31 slots, and ends the flows whose time is up.
    ///
    /// A call that goes through all [`FlowTable::buckets`] ends all of them. Called with a few buckets a turn, a flow
    /// stays for up to one round longer.
    pub fn expire(&mut self, now_ms: u64, buckets: u32, mut ended: impl FnMut(&Flow, End)) {
        for _ in 0..buckets.min(self.bucket_count()) {
            let bucket = self.hand;
            self.hand = if bucket + 1 == self.bucket_count() { 0 } else { bucket + 1 };
            let mut ways = self.buckets[bucket as usize].occupied();
            self.ask_for_lines(bucket, ways);
            while ways != 0 {
                let slot = slot_of(bucket, ways.trailing_zeros());
                ways &= ways - 1;
                if let Some(end) = self.end_of(slot, now_ms) {
                    ended(&self.view(slot), end);
                    self.vacate(slot);
                    match end {
                        End::Idle => self.counters.expired_idle += 1,
                        End::Hard => self.counters.expired_hard += 1,
                    }
                }
            }
        }
    }

    /// How many buckets one round of the sweep has.
    #[must_use]
    pub const fn buckets(&self) -> u32 {
        self.bucket_count()
    }

    fn ask_for_lines(&self, bucket: u32, ways: u32) {
        let from = bucket as usize * SLOTS;
        for (way, line) in self.lines[from..from + SLOTS].iter().enumerate() {
            if ways >> way & 1 == 1 {
                prefetch(line);
            }
        }
    }

    /// Whether the time of a flow is up.
    fn end_of(&self, slot: u32, now_ms: u64) -> Option<End> {
        let line = &self.lines[slot as usize];
        let limit_ms = if line.is_answered() { self.limits.idle_ms } else { self.limits.unanswered_idle_ms };
        // Above half of the range, the flow was last seen after `now_ms`.
        let idle_ms = low_half(now_ms).wrapping_sub(line.last_seen_ms);
        if idle_ms.cast_signed() >= 0 && idle_ms >= limit_ms {
            return Some(End::Idle);
        }
        let hard_ms = self.limits.hard_ms?;
        let age_ms = now_ms.saturating_sub(self.accounts[slot as usize].first_seen_ms);
        (age_ms >= u64::from(hard_ms)).then_some(End::Hard)
    }
}
