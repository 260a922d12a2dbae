//! Buffers given back on a foreign thread, waiting for the owner of their pool.
//!
//! A stack of indices, linked through one word per buffer: its size is the pool's, it cannot be full
//! (a buffer is given back by its one holder, so it is in here at most once), a stopped pusher blocks
//! nobody, and taking everything at once leaves no room for the ABA problem.

use crate::sync::{AtomicU32, Ordering, ordering};

/// Ends a chain; no index, since a pool has fewer buffers.
const NONE: u32 = u32::MAX;

/// Alone on its cache lines: pushers write it, the owner polls it.
#[repr(align(128))]
struct First(AtomicU32);

/// Many threads push, one takes.
pub(crate) struct ReturnStack {
    first: First,
    next: Box<[AtomicU32]>,
}

impl ReturnStack {
    /// For indices below `count`.
    pub(crate) fn new(count: u32) -> Self {
        let next = (0..count).map(|_| AtomicU32::new(NONE)).collect();
        Self { first: First(AtomicU32::new(NONE)), next }
    }

    /// Adds indices, each below the count and not in here yet.
    pub(crate) fn push(&self, indices: &[u32]) {
        let (Some(&first), Some(&last)) = (indices.first(), indices.last()) else { return };
        for pair in indices.windows(2) {
            // Relaxed: ours alone until the exchange below publishes the chain.
            self.next[pair[0] as usize].store(pair[1], Ordering::Relaxed);
        }
        let mut seen = self.first.0.load(Ordering::Relaxed);
        loop {
            self.next[last as usize].store(seen, Ordering::Relaxed);
            // Release: the links above, and what this thread did to the buffers and their headers,
            // become visible before the chain does. Pairs with the Acquire in `take_all`.
            let release = ordering!(Release, "sabotage-push-relaxed");
            match self.first.0.compare_exchange_weak(seen, first, release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether nothing waits. A hint: a push may be under way.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.0.load(Ordering::Relaxed) == NONE
    }

    /// Takes everything that waits.
    pub(crate) fn take_all(&self) -> Chain<'_> {
        // Acquire: pairs with the Release in `push`. Every push into this chain is an exchange on the
        // same word, so the release sequence of each of them reaches this load.
        let at = self.first.0.swap(NONE, ordering!(Acquire, "sabotage-take-all-relaxed"));
        Chain { next: &self.next, at }
    }
}

/// What was taken, last pushed first.
pub(crate) struct Chain<'s> {
    next: &'s [AtomicU32],
    at: u32,
}

impl Iterator for Chain<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let index = self.at;
        // A link is read before its index is handed out: once given to the free list, the buffer
        // may be lent and pushed again.
        self.at = self.next.get(index as usize)?.load(Ordering::Relaxed);
        Some(index)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_pushed_last_chain_first() {
        let stack = ReturnStack::new(8);
        stack.push(&[1, 2, 3]);
        stack.push(&[7]);
        stack.push(&[]);
        assert!(!stack.is_empty());
        assert_eq!(stack.take_all().collect::<Vec<_>>(), [7, 1, 2, 3]);
        assert!(stack.is_empty());
        assert_eq!(stack.take_all().count(), 0);
    }

    #[test]
    fn loses_and_doubles_nothing_between_three_pushers_and_a_taker() {
        const EACH: u32 = 4096;
        let stack = ReturnStack::new(3 * EACH);
        let mut times_seen = vec![0_u8; 3 * EACH as usize];
        std::thread::scope(|scope| {
            let stack = &stack;
            let pushers: Vec<_> = (0..3)
                .map(|pusher| {
                    scope.spawn(move || {
                        let mine: Vec<u32> = (pusher * EACH..(pusher + 1) * EACH).collect();
                        mine.chunks(7).for_each(|chunk| stack.push(chunk));
                    })
                })
                .collect();
            while !pushers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                stack.take_all().for_each(|index| times_seen[index as usize] += 1);
            }
            stack.take_all().for_each(|index| times_seen[index as usize] += 1);
        });
        assert!(times_seen.iter().all(|&times| times == 1));
    }
}

#[cfg(all(test, loom))]
mod model {
    //! What the model does not show: more than two pushers, and an owner that lends a buffer again while a
    //! chain is still walked (the owner does both, one after the other).

    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    use super::*;

    struct Shared {
        stack: ReturnStack,
        /// Stands for the buffers and their headers.
        written: [UnsafeCell<u32>; 3],
    }

    // SAFETY: the model reports unordered accesses.
    unsafe impl Sync for Shared {}

    fn write_and_push(shared: &Shared, indices: &[u32]) {
        for &index in indices {
            // SAFETY: loom checks that no other access is under way or unordered.
            shared.written[index as usize].with_mut(|word| unsafe { *word = 100 + index });
        }
        shared.stack.push(indices);
    }

    #[test]
    fn the_owner_sees_what_a_pusher_did_to_each_buffer_it_gave_back() {
        loom::model(|| {
            let shared = Arc::new(Shared {
                stack: ReturnStack::new(3),
                written: [UnsafeCell::new(0), UnsafeCell::new(0), UnsafeCell::new(0)],
            });
            let pushers = [&[0, 1][..], &[2]].map(|indices: &'static [u32]| {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || write_and_push(&shared, indices))
            });
            let mut seen = Vec::new();
            let mut collect = || {
                for index in shared.stack.take_all() {
                    // SAFETY: as above.
                    let word = shared.written[index as usize].with(|word| unsafe { *word });
                    assert_eq!(word, 100 + index);
                    seen.push(index);
                }
            };
            collect();
            for pusher in pushers {
                pusher.join().unwrap();
            }
            collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2]);
        });
    }
}
