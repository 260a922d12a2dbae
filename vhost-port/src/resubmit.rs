//! Buffers that an earlier backend had taken and not used, in the shape of an available ring of our own.
//!
//! A lane serves them like any others: until they are used its queue reads this ring instead of the driver's. So
//! the packet path knows nothing of them.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU16;

/// An available ring in host memory, which nobody writes.
#[derive(Debug)]
pub struct Resubmit {
    /// Flags, index, entries, and the event behind them.
    ring: Box<[AtomicU16]>,
    heads: Box<[u16]>,
    first: u16,
}

impl Resubmit {
    /// These heads of chains, each less than `size` (a power of two), at the positions from `first` on.
    #[must_use]
    pub(crate) fn new(heads: Vec<u16>, first: u16, size: u16) -> Self {
        let mut words = vec![0; usize::from(size) + 3];
        let positions = (0_u16..).map(|ahead| first.wrapping_add(ahead));
        for (position, head) in positions.zip(&heads) {
            words[2 + usize::from(position & (size - 1))] = *head;
        }
        // By flags or by index, the driver wants to hear of the first one that is used.
        words[2 + usize::from(size)] = first;
        let resubmit =
            Self { ring: words.into_iter().map(AtomicU16::new).collect(), heads: heads.into(), first };
        resubmit.ring[1].store(resubmit.end(), std::sync::atomic::Ordering::Relaxed);
        resubmit
    }

    /// The ring, laid out as a driver lays it out.
    pub(crate) fn ring(&self) -> NonNull<u8> {
        NonNull::from(self.ring.as_ref()).cast()
    }

    /// The heads, in order.
    pub(crate) fn heads(&self) -> &[u16] {
        &self.heads
    }

    /// The position behind the last.
    pub(crate) fn end(&self) -> u16 {
        #[allow(clippy::cast_possible_truncation, reason = "no more heads than a ring has entries")]
        let count = self.heads.len() as u16;
        self.first.wrapping_add(count)
    }

    /// Whether all of them are used by this index of the used ring.
    pub(crate) fn is_over(&self, used_index: u16) -> bool {
        usize::from(used_index.wrapping_sub(self.first)) >= self.heads.len()
    }
}
