//! Whether a driver is told of used chains (virtio 1.2, sections 2.7.7 and 2.7.10).
//!
//! Driver and device each write a word and then look at the other's: the driver says when it wants to hear of used
//! chains and looks for more of them, the device shows them and looks whether the driver wants to hear of it. At
//! least one must see the other's word, or both wait for ever.

use crate::sync::{Ordering, fence};

/// A 16-bit word that two sides share: an atomic, or loom's when a model runs.
pub(crate) trait SharedWord {
    fn load_relaxed(&self) -> u16;
    fn store_release(&self, value: u16);
}

impl SharedWord for std::sync::atomic::AtomicU16 {
    #[inline(always)]
    fn load_relaxed(&self) -> u16 {
        self.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[inline(always)]
    fn store_release(&self, value: u16) {
        self.store(value, std::sync::atomic::Ordering::Release);
    }
}

/// Shows the used index, and reads then what the driver wants to hear of.
#[inline(always)]
pub(crate) fn show_and_look<W: SharedWord>(used_index: &W, value: u16, wanted: &W) -> u16 {
    // Release: entries and packet bytes written before become visible before the index.
    // Pairs with the driver's read barrier (2.7.14).
    used_index.store_release(value);
    if !cfg!(feature = "sabotage-notify-fence") {
        // SeqCst: the index is out before we look. Pairs with the driver's barrier between its own two (2.7.7).
        fence(Ordering::SeqCst);
    }
    wanted.load_relaxed()
}

#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU16;

    use super::*;

    impl SharedWord for AtomicU16 {
        fn load_relaxed(&self) -> u16 {
            self.load(Ordering::Relaxed)
        }

        fn store_release(&self, value: u16) {
            self.store(value, Ordering::Release);
        }
    }

    const SILENT: u16 = 1;

    #[test]
    fn no_interrupt_is_missed_by_a_driver_that_asks_and_looks_again() {
        loom::model(|| {
            let words = Arc::new([AtomicU16::new(0), AtomicU16::new(SILENT)]);
            let of_driver = words.clone();
            let driver = loom::thread::spawn(move || {
                let [used_index, flags] = &*of_driver;
                flags.store(0, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                used_index.load(Ordering::Relaxed) == 1
            });
            let [used_index, flags] = &*words;
            let is_told = show_and_look(used_index, 1, flags) != SILENT;
            let has_seen = driver.join().unwrap();
            assert!(is_told || has_seen);
        });
    }
}
