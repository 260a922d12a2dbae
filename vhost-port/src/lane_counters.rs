//! What a lane counts. The lane alone writes; anybody may read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ring_fault::RingFault;

/// Why a frame was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortDrop {
    /// To the guest: it has no device running, or the queue is stopped, disabled or broken.
    QueueOff,
    /// To the guest: no receive buffers are left.
    NoGuestBuffer,
    /// To the guest: longer than its receive buffer, and buffers may not be merged.
    GuestBufferShort,
    /// To the guest: asks for an offload that the driver did not take.
    OffloadUntaken,
    /// From the guest: longer than the room.
    FrameTooLong,
    /// Either way: shorter than an Ethernet header.
    FrameTooShort,
    /// From the guest: its offload header asks for what was not agreed on.
    HeaderRefused,
}

impl PortDrop {
    /// How many reasons there are.
    pub const COUNT: usize = 7;

    /// All reasons, in the order of their counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::QueueOff,
        Self::NoGuestBuffer,
        Self::GuestBufferShort,
        Self::OffloadUntaken,
        Self::FrameTooLong,
        Self::FrameTooShort,
        Self::HeaderRefused,
    ];

    /// The counter's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueOff => "vhost_queue_off",
            Self::NoGuestBuffer => "vhost_no_guest_buffer",
            Self::GuestBufferShort => "vhost_guest_buffer_short",
            Self::OffloadUntaken => "vhost_offload_untaken",
            Self::FrameTooLong => "vhost_frame_too_long",
            Self::FrameTooShort => "vhost_frame_too_short",
            Self::HeaderRefused => "vhost_header_refused",
        }
    }
}

/// Counters of one lane.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LaneCounters {
    from_guest_frames: AtomicU64,
    from_guest_bytes: AtomicU64,
    to_guest_frames: AtomicU64,
    to_guest_bytes: AtomicU64,
    notifications: AtomicU64,
    drops: [AtomicU64; PortDrop::COUNT],
    faults: [AtomicU64; RingFault::KINDS],
}

/// One writer: no read-modify-write is needed, and a reader sees each value or an older one.
#[inline(always)]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl LaneCounters {
    #[inline(always)]
    pub(crate) fn count_from_guest(&self, frames: u64, bytes: u64) {
        add(&self.from_guest_frames, frames);
        add(&self.from_guest_bytes, bytes);
    }

    #[inline(always)]
    pub(crate) fn count_to_guest(&self, frames: u64, bytes: u64) {
        add(&self.to_guest_frames, frames);
        add(&self.to_guest_bytes, bytes);
    }

    #[inline(always)]
    pub(crate) fn count_notification(&self) {
        add(&self.notifications, 1);
    }

    #[cold]
    pub(crate) fn count_drops(&self, reason: PortDrop, frames: u64) {
        add(&self.drops[reason as usize], frames);
    }

    #[cold]
    pub(crate) fn count_fault(&self, fault: RingFault) {
        add(&self.faults[usize::from(fault.kind())], 1);
    }

    /// Frames and bytes that the guest sent and we took.
    #[must_use]
    pub fn from_guest(&self) -> (u64, u64) {
        (self.from_guest_frames.load(Ordering::Relaxed), self.from_guest_bytes.load(Ordering::Relaxed))
    }

    /// Frames and bytes that the guest got.
    #[must_use]
    pub fn to_guest(&self) -> (u64, u64) {
        (self.to_guest_frames.load(Ordering::Relaxed), self.to_guest_bytes.load(Ordering::Relaxed))
    }

    /// Interrupts that were asked for.
    #[must_use]
    pub fn notifications(&self) -> u64 {
        self.notifications.load(Ordering::Relaxed)
    }

    /// Frames dropped for one reason.
    #[must_use]
    pub fn drops(&self, reason: PortDrop) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    /// Queues broken by a kind of fault: a position in [`RingFault::NAMES`].
    #[must_use]
    pub fn faults(&self, kind: usize) -> u64 {
        self.faults.get(kind).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
