//! When a driver wants to hear of used chains.

use std::sync::atomic::{AtomicU16, AtomicU64};

use super::*;

const SIZE: u16 = 4;

/// The words of a ring of four entries.
#[derive(Default)]
struct Memory {
    descriptors: [AtomicU64; 8],
    /// Flags, index, entries, event.
    avail: [AtomicU16; 7],
    _line: [AtomicU64; 16],
    used: Used,
}

#[derive(Default)]
#[repr(C, align(128))]
struct Used {
    /// Flags, index; entries, event.
    words: [AtomicU16; 2],
    entries: [AtomicU64; 5],
}

impl Memory {
    fn ring(&self, event_index: bool, at: u16) -> Vring {
        self.avail[1].store(at, Ordering::Relaxed);
        self.used.words[1].store(at, Ordering::Relaxed);
        let parts = RingParts {
            size: SIZE,
            descriptors: NonNull::from(&self.descriptors).cast(),
            avail: NonNull::from(&self.avail).cast(),
            used: NonNull::from(&self.used).cast(),
            next_avail: at,
            event_index,
            first_avail: None,
        };
        // SAFETY: all words are in one value that outlives the ring in each test, as long as a ring of four needs,
        // and nothing but atomics.
        unsafe { Vring::take_up(parts, None) }
    }
}

#[test]
fn polling_asks_for_no_notifications_by_flag() {
    let memory = Memory::default();
    memory.ring(false, 0);
    assert_eq!(memory.used.words[0].load(Ordering::Relaxed), 1);
}

#[test]
fn a_flag_says_that_no_interrupt_is_wanted() {
    let memory = Memory::default();
    let mut ring = memory.ring(false, 0);
    assert!(ring.publish(1));
    memory.avail[0].store(1, Ordering::Relaxed);
    assert!(!ring.publish(1));
}

#[test]
fn an_interrupt_is_wanted_exactly_when_the_event_is_passed() {
    for start in [0, 1000, u16::MAX - 1] {
        let memory = Memory::default();
        let mut ring = memory.ring(true, start);
        // The driver wants to hear of the chain behind this index.
        memory.avail[6].store(start.wrapping_add(2), Ordering::Relaxed);
        assert_eq!([2, 1, 1].map(|count| ring.publish(count)), [false, true, false], "{start}");
        memory.avail[6].store(start.wrapping_add(4), Ordering::Relaxed);
        assert!(ring.publish(4));
        assert_eq!(memory.used.words[1].load(Ordering::Relaxed), start.wrapping_add(8));
    }
}
