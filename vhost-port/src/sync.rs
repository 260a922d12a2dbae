//! The atomics in use: those of `std`, or loom's when a model runs.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// An ordering that a model watches: Relaxed under its sabotage feature, which must make that model fail.
macro_rules! ordering {
    ($strong:ident, $sabotage:literal) => {
        if cfg!(feature = $sabotage) { Ordering::Relaxed } else { Ordering::$strong }
    };
}
pub(crate) use ordering;
