//! What an lcore works by: an immutable snapshot of one guest's device.
//!
//! Control makes a new one for every change and publishes it ([`crate::publication`]). Everything in it has been
//! checked: ring pointers lie in `memory` with the full length of their ring and are aligned as the ring asks.
//! What lies *behind* those pointers is the guest's and stays untrusted.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::features::Negotiated;
use crate::memory::GuestMemory;
use crate::notifier::Bell;
use crate::resubmit::Resubmit;

/// Most entries of a ring: QEMU's own limit for a network device.
pub const RING_ENTRIES_MAX: u16 = 1024;
/// Most queue pairs of a port.
pub const QUEUE_PAIRS_MAX: u16 = 8;

/// One started queue.
#[derive(Clone, Debug)]
pub struct QueueSetup {
    /// Which start of the queue this is. While it stays the same the lcore keeps its own indices, whatever else
    /// changes; when it is new the lcore begins at `next_available`.
    pub start: u64,
    /// Number of entries: a power of two, at most [`RING_ENTRIES_MAX`].
    pub size: u16,
    /// Descriptor table: 16 bytes an entry, aligned to 16.
    pub descriptors: NonNull<u8>,
    /// Available ring: 6 bytes and 2 an entry, aligned to 2.
    pub available: NonNull<u8>,
    /// Used ring: 6 bytes and 8 an entry, aligned to 4.
    pub used: NonNull<u8>,
    /// Index in the available ring of the first buffer to take.
    pub next_available: u16,
    /// Buffers that an earlier backend had taken and not used when it ended, to be served before anything from the
    /// available ring.
    pub resubmit: Option<Arc<Resubmit>>,
    /// Whether the driver wants traffic on it. A disabled queue is not touched.
    pub is_enabled: bool,
    /// How to interrupt the guest; none if it polls.
    pub call: Option<Arc<Bell>>,
}

/// All of a guest's device, in the order receiveq1, transmitq1, receiveq2, ...
#[derive(Clone, Debug)]
pub struct DeviceSetup {
    /// Where the rings and the packets are.
    pub memory: GuestMemory,
    /// The features in force.
    pub features: Negotiated,
    /// By queue index; `None` while a queue is stopped.
    pub queues: Vec<Option<QueueSetup>>,
}

// SAFETY: the ring pointers are addresses in `DeviceSetup::memory`, shared mappings that are valid in every thread
// for as long as that setup lives; they are dereferenced by who answers for it (`vring`).
unsafe impl Send for QueueSetup {}
// SAFETY: as for Send; nothing in it changes through a shared reference.
unsafe impl Sync for QueueSetup {}
