//! Chains that an earlier backend had taken and not used when it ended.
//!
//! They are served first, from an available ring in our own memory to which nobody adds; then the guest's is taken
//! up. So the packet path knows nothing of them. Their descriptors are the guest's, and checked like any other's.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::vring::RingParts;

/// Flags and index, before the entries.
const FIRST_ENTRY: usize = 2;

/// What is left behind, while it is being served.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Flags, index, entries, event. The flags are 0: the driver is told of each burst.
    available: Box<[AtomicU16]>,
    /// How to go on behind it.
    after: RingParts,
}

impl Replay {
    /// Begins to serve these heads of chains, at most as many as the ring has entries.
    pub(crate) fn begin(heads: &[u16], after: RingParts) -> Self {
        let mut words = vec![0; FIRST_ENTRY + usize::from(after.size) + 1];
        let entries = &mut words[FIRST_ENTRY..][..heads.len().min(after.size.into())];
        entries.copy_from_slice(&heads[..entries.len()]);
        words[1] = u16::try_from(entries.len()).unwrap_or(after.size);
        Self { available: words.into_iter().map(AtomicU16::new).collect(), after }
    }

    /// The ring to serve meanwhile. It holds as long as this value.
    pub(crate) fn parts(&self) -> RingParts {
        let avail = NonNull::from(&*self.available).cast();
        RingParts { avail, next_avail: 0, event_index: false, ..self.after }
    }

    /// How to go on behind it.
    pub(crate) fn after(&self) -> RingParts {
        self.after
    }

    /// What is still to be served once the first `served` are.
    pub(crate) fn rest(&self, served: u16) -> Vec<u16> {
        let count = self.available[1].load(Ordering::Relaxed);
        let entries = self.available[FIRST_ENTRY..].iter().take(count.into()).skip(served.into());
        entries.map(|head| head.load(Ordering::Relaxed)).collect()
    }
}
