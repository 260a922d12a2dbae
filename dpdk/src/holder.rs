//! Which thread may use a pool's free list: one word.
//!
//! | word | meaning | who may change it |
//! |---|---|---|
//! | `NOBODY` | set-up and tear-down; any thread may claim it for one call | any thread, by exchange |
//! | `CLAIMED` | some thread is inside such a call | that thread |
//! | a thread's number | that thread owns the free list | that thread |
//!
//! Thread numbers are never used twice, so the word of a thread that is gone is nobody else's.

use std::cell::Cell;

use crate::sync::{AtomicU64, Ordering, ordering, yield_now};

const NOBODY: u64 = 0;
const CLAIMED: u64 = 1;
const FIRST_THREAD: u64 = 2;
const UNNUMBERED: u64 = u64::MAX;

thread_local! {
    static THREAD_NUMBER: Cell<u64> = const { Cell::new(UNNUMBERED) };
}

/// Number of a thread. One that never owned a pool has none, which equals no word.
#[derive(Clone, Copy)]
pub(crate) struct ThreadNumber(u64);

impl ThreadNumber {
    /// The calling thread's, if it has one.
    #[inline]
    pub(crate) fn current() -> Self {
        Self(THREAD_NUMBER.get())
    }

    /// The calling thread's, from now on.
    pub(crate) fn assigned() -> Self {
        // Not loom's: numbers go on from one run of a model to the next.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(FIRST_THREAD);
        if THREAD_NUMBER.get() == UNNUMBERED {
            // Relaxed: only uniqueness matters.
            THREAD_NUMBER.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
        Self::current()
    }
}

pub(crate) struct Holder(AtomicU64);

impl Holder {
    pub(crate) fn nobody() -> Self {
        Self(AtomicU64::new(NOBODY))
    }

    /// Whether it is this thread.
    #[inline]
    pub(crate) fn is(&self, me: ThreadNumber) -> bool {
        // Relaxed: equal only if this very thread stored it, and has not let go since.
        self.0.load(Ordering::Relaxed) == me.0
    }

    /// Makes it this thread. False if it is some thread already.
    pub(crate) fn own(&self, me: ThreadNumber) -> bool {
        loop {
            match self.exchange(me.0) {
                Ok(_) => return true,
                // Inside one call of the free list on another thread; over in a moment.
                Err(CLAIMED) => yield_now(),
                Err(_) => return false,
            }
        }
    }

    /// Makes it nobody, by the thread that it is.
    pub(crate) fn disown(&self) {
        // Release: what this thread did to the free list becomes visible before the word does.
        // Pairs with the Acquire in `exchange`.
        self.0.store(NOBODY, ordering!(Release, "sabotage-disown-relaxed"));
    }

    /// Takes it for one call, if it is nobody.
    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        self.exchange(CLAIMED).ok().map(|_| Claim(self))
    }

    fn exchange(&self, to: u64) -> Result<u64, u64> {
        // Acquire: what whoever let go did to the free list is visible here. Pairs with the Release
        // in `disown`. A refusal says nothing about the list, so Relaxed.
        let acquire = ordering!(Acquire, "sabotage-own-relaxed");
        self.0.compare_exchange(NOBODY, to, acquire, Ordering::Relaxed)
    }
}

/// The free list is the calling thread's until this is dropped.
pub(crate) struct Claim<'h>(&'h Holder);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.disown();
    }
}

#[cfg(all(test, loom))]
mod model {
    //! What the model does not show: that the word of an owner stays its own without any ordering. That
    //! rests on numbers being unique, which is no matter of orderings.

    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    use super::*;

    struct Shared {
        holder: Holder,
        uses: UnsafeCell<u32>,
    }

    // SAFETY: the model reports two uses at a time.
    unsafe impl Sync for Shared {}

    impl Shared {
        fn use_it(&self) {
            // SAFETY: loom checks that no other access is under way or unordered.
            self.uses.with_mut(|uses| unsafe { *uses += 1 });
        }
    }

    #[test]
    fn uses_by_an_owner_and_by_claims_never_overlap_and_see_each_other() {
        loom::model(|| {
            let shared = Arc::new(Shared { holder: Holder::nobody(), uses: UnsafeCell::new(0) });
            let owner = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    if shared.holder.own(ThreadNumber(7)) {
                        assert!(shared.holder.is(ThreadNumber(7)));
                        shared.use_it();
                        shared.holder.disown();
                    }
                })
            };
            let claimer = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    if let Some(_claim) = shared.holder.claim() {
                        shared.use_it();
                    }
                })
            };
            if let Some(_claim) = shared.holder.claim() {
                shared.use_it();
            }
            owner.join().unwrap();
            claimer.join().unwrap();
        });
    }
}
