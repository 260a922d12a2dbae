//! Proves on samples that nothing is copied between ingress and egress.
//!
//! Now and then a received packet is noted: where the driver put its bytes. When the packet in that buffer leaves,
//! the address that the driver gets for transmission is compared with the note. They are equal only if the
//! bytes are sent from where they were received: the host has then copied nothing, whatever the code says.
//! The note is in host-private memory and holds one packet at a time.

use super::counters::IdentityCounters;

/// Packets received between the end of one observation and the start of the next.
const SAMPLE_EVERY_PACKETS: u32 = 64;
/// Packets received until an observation is given up: the packet was dropped, or its holder is silent.
const PATIENCE_PACKETS: u32 = 4096;
/// A buffer index that no shard has.
const NONE: u32 = u32::MAX;

/// Where a packet is in the host's address space: the address of the buffer that its mbuf describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Place {
    #[inline]
    pub(super) fn of(mbuf: &dpdk::Mbuf) -> Self {
        Self(mbuf.data_address().addr().get().wrapping_sub(usize::from(mbuf.data_off())))
    }
}

/// The packet under observation.
#[derive(Debug)]
pub(super) struct Sampler {
    index: u32,
    place: Place,
    packets_until_next: u32,
    pub(super) counters: IdentityCounters,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self { index: NONE, place: Place(0), packets_until_next: 0, counters: IdentityCounters::default() }
    }

    /// Counts `packets` received ones; true when one of them is to be noted.
    #[inline]
    pub(super) fn is_due(&mut self, packets: u32) -> bool {
        self.packets_until_next = self.packets_until_next.saturating_sub(packets);
        self.packets_until_next == 0
    }

    /// Notes the packet that was received at `place` and is in buffer `index` now.
    pub(super) fn note(&mut self, index: u32, place: Place) {
        (self.index, self.place) = (index, place);
        self.packets_until_next = PATIENCE_PACKETS;
        self.counters.sampled += 1;
    }

    /// The buffer has been received into again: what was noted of it has left by another way.
    #[inline(always)]
    pub(super) fn forget(&mut self, index: u32) {
        if index == self.index {
            self.end();
        }
    }

    /// Whether buffer `index` is under observation.
    #[inline(always)]
    pub(super) fn watches(&self, index: u32) -> bool {
        index == self.index
    }

    /// Compares the place from which the packet in the watched buffer is sent.
    pub(super) fn compare(&mut self, sent_from: Place) {
        if sent_from == self.place {
            self.counters.same += 1;
        } else {
            self.counters.moved += 1;
        }
        self.end();
    }

    fn end(&mut self) {
        self.index = NONE;
        self.packets_until_next = self.packets_until_next.min(SAMPLE_EVERY_PACKETS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place(0x8000);

    #[test]
    fn a_packet_sent_from_where_it_came_in_is_the_same() {
        let mut sampler = Sampler::new();
        assert!(sampler.is_due(1));
        sampler.note(7, HERE);
        assert!(sampler.watches(7) && !sampler.watches(8));
        sampler.compare(HERE);
        assert_eq!(sampler.counters, IdentityCounters { sampled: 1, same: 1, moved: 0 });
        assert!(!sampler.watches(7));
    }

    #[test]
    fn a_packet_sent_from_elsewhere_was_moved() {
        let mut sampler = Sampler::new();
        sampler.note(7, HERE);
        sampler.compare(Place(0x9000));
        assert_eq!(sampler.counters, IdentityCounters { sampled: 1, same: 0, moved: 1 });
    }

    #[test]
    fn a_buffer_that_came_back_from_the_pool_is_not_compared() {
        let mut sampler = Sampler::new();
        sampler.note(7, HERE);
        sampler.forget(8);
        assert!(sampler.watches(7));
        sampler.forget(7);
        assert!(!sampler.watches(7));
    }

    #[test]
    fn the_next_packet_is_noted_some_time_after_the_last_one_has_left() {
        let mut sampler = Sampler::new();
        sampler.note(7, HERE);
        assert!(!sampler.is_due(SAMPLE_EVERY_PACKETS));
        sampler.compare(HERE);
        assert!(!sampler.is_due(SAMPLE_EVERY_PACKETS - 1));
        assert!(sampler.is_due(1));
    }

    #[test]
    fn an_observation_without_end_is_given_up() {
        let mut sampler = Sampler::new();
        sampler.note(7, HERE);
        assert!(!sampler.is_due(PATIENCE_PACKETS - 1));
        assert!(sampler.is_due(1));
    }
}
