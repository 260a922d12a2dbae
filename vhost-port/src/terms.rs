//! What a port grants whoever connects.

use std::fmt;
use std::sync::Arc;

use crate::features::{Features, Offer};
use crate::memory::{MemoryLimits, MemoryRules};
use crate::memory_watch::MemoryWatcher;
use crate::notifier::Notifier;

/// Smallest MTU of a network device (virtio 1.2, section 5.1.4.1).
pub const MTU_BYTES_MIN: u16 = 68;

/// The terms of one port, the same for every session.
#[derive(Clone)]
pub struct Terms {
    /// What logs call the port.
    pub name: String,
    /// Most queue pairs, at most [`crate::setup::QUEUE_PAIRS_MAX`].
    pub queue_pairs: u16,
    /// Most entries of a ring, at most [`crate::setup::RING_ENTRIES_MAX`].
    pub ring_entries: u16,
    /// Most bytes of a packet, without its Ethernet header.
    pub mtu_bytes: u16,
    /// Features on offer. More than one queue pair is on offer if there may be more than one.
    pub offer: Offer,
    /// What the guest's memory may be.
    pub memory: MemoryLimits,
    /// Who interrupts the guest.
    pub notifier: Arc<Notifier>,
    /// Who notices lost pages of its memory.
    pub watcher: Arc<dyn MemoryWatcher>,
}

impl Terms {
    pub(crate) fn features(&self) -> Features {
        Offer { multiqueue: self.queue_pairs > 1, ..self.offer }.features()
    }

    pub(crate) fn queue_count(&self) -> usize {
        2 * usize::from(self.queue_pairs)
    }

    pub(crate) fn memory_rules(&self) -> MemoryRules<'_> {
        MemoryRules { limits: &self.memory, watcher: self.watcher.as_ref() }
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms").field("name", &self.name).finish_non_exhaustive()
    }
}
