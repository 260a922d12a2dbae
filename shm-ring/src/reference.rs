//! References: buffers that an observer may look at, until the host ends that without waiting for it.
//!
//! An observer maps the region read-only and holds no buffer. For each reference that a queue pair can bring at once,
//! its slots, there is one word of the host's: the generation of the reference that is good there now.
//!
//! - The host brings a reference by a descriptor of code [`crate::desc::REFERENCE`] with buffer, slot and
//!   generation; the word shows that generation already.
//! - While the word shows it, the buffer is given to nobody else. Those who have the packet may still change it.
//! - The host ends a reference by showing another generation, and only then lets the buffer go: when the observer
//!   gives it back, when its time is up, or when the observer is gone.
//! - The observer copies the bytes out and then looks at the word again. If it has changed, what it copied may be
//!   part of another packet, and is no use.
//! - The observer gives back each reference once ([`crate::desc::RELEASE`]), ended or not; before that, its slot brings no other one. So
//!   generations of sixteen bits are told apart, and who gives nothing back is shown nothing more.
//!
//! The words belong to the host: an observer that writes them deceives itself.

use crate::sync::{AtomicU32, Ordering, fence};

/// The words of the references of one queue pair.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceTable<'m> {
    words: &'m [AtomicU32],
}

impl<'m> ReferenceTable<'m> {
    /// A table over words of the host's section.
    #[must_use]
    pub const fn new(words: &'m [AtomicU32]) -> Self {
        Self { words }
    }

    /// How many references there can be at once.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.words.len()
    }

    /// The host's: makes `generation` the good one of a slot. Whatever it had before is ended with this, and what
    /// anybody writes into its buffer from here on is not seen without the end being seen.
    pub fn show(&self, slot: u16, generation: u16) {
        let Some(word) = self.words.get(usize::from(slot)) else { return };
        // Relaxed: the fence below orders it before all that follows; what came before needs no order.
        word.store(u32::from(generation), Ordering::Relaxed);
        if !cfg!(feature = "sabotage-reference-fence") {
            // Release: whoever sees a byte that is written into the buffer after this sees the word, too.
            // Pairs with the Acquire in `holds`.
            fence(Ordering::Release);
        }
    }

    /// The observer's: whether the reference held until now. Ask after the bytes were copied.
    #[must_use]
    pub fn holds(&self, slot: u16, generation: u16) -> bool {
        let Some(word) = self.words.get(usize::from(slot)) else { return false };
        if !cfg!(feature = "sabotage-view-fence") {
            // Acquire: the bytes that were copied were read before the word is. Pairs with the Release in `show`.
            fence(Ordering::Acquire);
        }
        // Relaxed: the fence above is what orders it.
        word.load(Ordering::Relaxed) == u32::from(generation)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reference_holds_while_its_own_generation_is_shown() {
        let words = [AtomicU32::new(0), AtomicU32::new(0)];
        let table = ReferenceTable::new(&words);
        table.show(1, u16::MAX);
        assert!(table.holds(1, u16::MAX));
        assert!(!table.holds(1, 0));
        assert!(table.holds(0, 0), "its neighbour is another's");
    }

    #[test]
    fn nothing_holds_in_a_slot_that_there_is_not() {
        let words = [AtomicU32::new(0)];
        let table = ReferenceTable::new(&words);
        table.show(1, 7);
        assert!(!table.holds(1, 7) && !table.holds(1, 0));
        assert!(table.holds(0, 0));
    }
}
