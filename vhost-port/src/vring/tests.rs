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
#[repr(align(128))]
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

/// Both sides write first and look then: at least one must see the other's word. Many rounds at many distances,
/// since a processor only now and then puts a store off behind a load.
#[test]
fn no_interrupt_is_missed_by_a_driver_that_asks_and_looks_again() {
    const ROUNDS: u16 = 60_000;
    let memory = Memory::default();
    let (turn, answer) = (AtomicU16::new(0), AtomicU16::new(0));
    let missed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut ring = memory.ring(false, 0);
            for round in 1..=ROUNDS {
                wait_for(&turn, |seen| seen == round);
                let is_told = ring.publish(1);
                answer.store(1 + u16::from(is_told), Ordering::Release);
                wait_for(&answer, |answer| answer == 0);
            }
        });
        let mut missed = 0;
        for round in 1..=ROUNDS {
            memory.avail[0].store(NO_INTERRUPT, Ordering::SeqCst);
            turn.store(round, Ordering::SeqCst);
            (0..round % 256).for_each(|_| std::hint::black_box(()));
            // The driver asks for an interrupt, and looks again.
            memory.avail[0].store(0, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let sees = memory.used.words[1].load(Ordering::Acquire) == round;
            let is_told = wait_for(&answer, |answer| answer != 0) == 2;
            missed += u32::from(!sees && !is_told);
            answer.store(0, Ordering::Release);
        }
        missed
    });
    assert_eq!(missed, 0);
}

/// Waits for the other thread's word, also where both share a core.
fn wait_for(word: &AtomicU16, is_meant: impl Fn(u16) -> bool) -> u16 {
    for spins in 0_u32.. {
        let seen = word.load(Ordering::Acquire);
        if is_meant(seen) {
            return seen;
        }
        if spins > 2000 {
            std::thread::yield_now();
        }
    }
    unreachable!("the other thread ends the test if it fails")
}
