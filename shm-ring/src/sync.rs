//! The atomics in use: those of `core`, loom's when a model runs, or ones that stop the writer in unit tests.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::fence;
#[cfg(not(any(loom, test)))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(all(test, not(loom)))]
pub(crate) use stopping::{AtomicU32, AtomicU64, Ordering};

/// An ordering that a model watches: Relaxed under its sabotage feature, which must make that model fail.
macro_rules! ordering {
    ($strong:ident, $sabotage:literal) => {
        if cfg!(feature = $sabotage) { Ordering::Relaxed } else { Ordering::$strong }
    };
}
pub(crate) use ordering;

/// Atomics whose writer can be stopped in front of any store, as a crash would.
#[cfg(all(test, not(loom)))]
pub(crate) mod stopping {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::atomic;
    pub(crate) use std::sync::atomic::Ordering;

    thread_local! {
        /// Stores until the stop; `None` while nobody is to be stopped.
        static STORES_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    struct Stopped;

    fn before_store() {
        match STORES_LEFT.get() {
            Some(0) => {
                STORES_LEFT.set(None);
                // Unwinds without the panic hook: nobody reads of thousands of intended stops.
                resume_unwind(Box::new(Stopped));
            }
            Some(left) => STORES_LEFT.set(Some(left - 1)),
            None => {}
        }
    }

    /// Runs `writer` until it is about to make one store more than `stores`. True: it came to its end.
    pub(crate) fn stop_after(stores: u32, writer: impl FnOnce()) -> bool {
        STORES_LEFT.set(Some(stores));
        let ended = catch_unwind(AssertUnwindSafe(writer));
        STORES_LEFT.set(None);
        match ended {
            Ok(()) => true,
            Err(payload) if payload.is::<Stopped>() => false,
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Runs `other`, whose stores are somebody else's and do not count.
    pub(crate) fn uncounted<R>(other: impl FnOnce() -> R) -> R {
        let left = STORES_LEFT.take();
        let result = other();
        STORES_LEFT.set(left);
        result
    }

    macro_rules! stopping_atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            #[repr(transparent)]
            pub struct $name(atomic::$name);

            impl $name {
                pub const fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub fn load(&self, ordering: Ordering) -> $value {
                    self.0.load(ordering)
                }

                pub fn store(&self, value: $value, ordering: Ordering) {
                    before_store();
                    self.0.store(value, ordering);
                }
            }
        };
    }
    stopping_atomic!(AtomicU32, u32);
    stopping_atomic!(AtomicU64, u64);
}
