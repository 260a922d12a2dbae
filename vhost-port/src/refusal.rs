//! Why a frontend's message is refused, and how often that happened.
//!
//! A refused message ends its session: the frontend cannot know what of its device is in force any more, and a new
//! session starts from nothing. Each kind has a name, which is its counter's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::features::Features;
use crate::memory::MemoryError;
use crate::memory_file::MemoryFileError;
use crate::publication::NotPassed;

/// What is refused, with what was found and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A header that no version 1 frontend sends.
    #[error("message header with flags {flags:#x} and {size_bytes} bytes to follow")]
    Header {
        /// Its flags.
        flags: u32,
        /// What it says of the length of its body.
        size_bytes: u32,
    },
    /// A body of the wrong length, or with a value that means nothing.
    #[error("request {request} with a body of {body_bytes} bytes that is not one of its kind")]
    Body {
        /// The request.
        request: u32,
        /// Length of its body.
        body_bytes: usize,
    },
    /// The wrong number of file descriptors.
    #[error("request {request} with {fds} file descriptors, {allowed} belong to it")]
    Fds {
        /// The request; 0 if it was not read that far.
        request: u32,
        /// How many came.
        fds: usize,
        /// How many there should be.
        allowed: usize,
    },
    /// The rest of a message did not come.
    #[error("message is incomplete after {waited:?}")]
    Partial {
        /// How long was waited.
        waited: Duration,
    },
    /// The frontend does not read what it asked for.
    #[error("answer is unread after {waited:?}")]
    Unread {
        /// How long was waited.
        waited: Duration,
    },
    /// Nothing that a network device is asked.
    #[error("request {request} is not one of a network device")]
    Unknown {
        /// The request.
        request: u32,
    },
    /// Belongs to a feature that is not in force.
    #[error("request {request} belongs to a protocol feature that was not negotiated")]
    NotNegotiated {
        /// The request.
        request: u32,
    },
    /// Features that were not on offer.
    #[error("features {foreign} were not on offer")]
    Features {
        /// Those bits.
        foreign: Features,
    },
    /// Protocol features that were not on offer.
    #[error("protocol features {foreign:#x} were not on offer")]
    ProtocolFeatures {
        /// Those bits.
        foreign: u64,
    },
    /// A queue that is not there.
    #[error("queue {queue} of a device with {queues} queues")]
    Queue {
        /// Its index.
        queue: u32,
        /// How many there are.
        queues: usize,
    },
    /// Not a size of a ring.
    #[error("ring of {size} entries; allowed are powers of two up to {max}")]
    RingSize {
        /// How many entries.
        size: u32,
        /// The most.
        max: u16,
    },
    /// Not an index of a ring.
    #[error("ring index {base} does not fit 16 bits")]
    RingBase {
        /// The index.
        base: u32,
    },
    /// A part of a ring that is not in guest memory with its full length.
    #[error(
        "{part} ring of queue {queue} needs {len_bytes} bytes at {address:#x}, which are not in one region"
    )]
    RingOutside {
        /// The queue.
        queue: usize,
        /// Which of its three parts.
        part: &'static str,
        /// Where it would be, as the frontend sees it.
        address: u64,
        /// How long it is.
        len_bytes: u64,
    },
    /// A part of a ring that its words cannot be read from.
    #[error("{part} ring of queue {queue} at {address:#x} is not aligned to {align_bytes} bytes")]
    RingMisaligned {
        /// The queue.
        queue: usize,
        /// Which of its three parts.
        part: &'static str,
        /// Where it would be.
        address: u64,
        /// What it must be aligned to.
        align_bytes: usize,
    },
    /// A log of written pages, which is not on offer.
    #[error("ring address with flags {flags:#x}; no log of written pages is kept")]
    RingFlags {
        /// The flags.
        flags: u32,
    },
    /// Something that only a stopped device lets be changed.
    #[error("{what} of queue {queue} cannot change while it runs")]
    Running {
        /// The queue.
        queue: usize,
        /// What should change.
        what: &'static str,
    },
    /// Guest memory that cannot be.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A file descriptor that raises no interrupt.
    #[error("call or error descriptor of queue {queue} is no eventfd: {source}")]
    Call {
        /// The queue.
        queue: usize,
        /// What the system says.
        source: std::io::Error,
    },
    /// A packet size that this port cannot have.
    #[error("mtu of {mtu} bytes; allowed are 68 to {max}")]
    Mtu {
        /// What was asked for.
        mtu: u64,
        /// The most.
        max: u16,
    },
    /// A record of buffers in flight that cannot be.
    #[error("record of buffers in flight: {what}")]
    Inflight {
        /// What is wrong with it.
        what: String,
    },
    /// Pages of guest memory are gone.
    #[error("pages of guest memory were taken away; zeroes are in their place")]
    MemoryLost,
    /// An lcore of ours did not let go in time. What it may use is kept.
    #[error(transparent)]
    LaneStalled(#[from] NotPassed),
    /// The connection.
    #[error("connection: {0}")]
    Connection(#[source] std::io::Error),
}

/// What is counted, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A header or body that means nothing.
    MessageMalformed,
    /// Too many or too few file descriptors.
    MessageFds,
    /// A message whose rest did not come in time.
    MessagePartial,
    /// More messages than a frontend needs; they were slowed down.
    MessageRate,
    /// A request that is not of a network device.
    RequestUnknown,
    /// A request of a feature that was not negotiated.
    RequestNotNegotiated,
    /// Answers that nobody reads.
    ReplyUnread,
    /// Features or protocol features that were not on offer.
    FeaturesForeign,
    /// A queue that is not there.
    QueueUnknown,
    /// A ring's size or index.
    RingSize,
    /// A ring that is not in guest memory.
    RingOutside,
    /// A ring whose words cannot be read.
    RingMisaligned,
    /// A log of written pages.
    RingLogged,
    /// Something changed that a running queue rests on.
    ChangedWhileRunning,
    /// A region without bytes, or that wraps.
    RegionRange,
    /// A region longer than its file.
    RegionPastFile,
    /// Regions that overlap.
    RegionOverlap,
    /// More regions than allowed.
    RegionTooMany,
    /// More memory than allowed.
    MemoryTooLarge,
    /// A file that is not of memory, or not writable.
    MemoryKind,
    /// A file that can shrink.
    MemoryUnsealed,
    /// Memory that the system does not map or populate.
    MemoryUnmappable,
    /// Pages that were taken away.
    MemoryLost,
    /// A call descriptor that is no eventfd.
    CallKind,
    /// An MTU that cannot be.
    Mtu,
    /// A record of buffers in flight that cannot be.
    Inflight,
    /// A ring that its lcore gave up.
    QueueBroken,
    /// An lcore that did not let go in time.
    LaneStalled,
    /// An error of the connection itself.
    Connection,
    /// A second connection beside the first.
    ConnectionExtra,
    /// Connections that came too fast; they were slowed down.
    ConnectionRate,
}

impl Fault {
    /// How many there are.
    pub const COUNT: usize = Self::ConnectionRate as usize + 1;

    /// Names in the order of the counters.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "message_malformed",
        "message_fds",
        "message_partial",
        "message_rate",
        "request_unknown",
        "request_not_negotiated",
        "reply_unread",
        "features_foreign",
        "queue_unknown",
        "ring_size",
        "ring_outside",
        "ring_misaligned",
        "ring_logged",
        "changed_while_running",
        "region_range",
        "region_past_file",
        "region_overlap",
        "region_too_many",
        "memory_too_large",
        "memory_kind",
        "memory_unsealed",
        "memory_unmappable",
        "memory_lost",
        "call_kind",
        "mtu",
        "inflight",
        "queue_broken",
        "lane_stalled",
        "connection",
        "connection_extra",
        "connection_rate",
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl Refusal {
    /// What it counts as.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Header { .. } | Self::Body { .. } => Fault::MessageMalformed,
            Self::Fds { .. } => Fault::MessageFds,
            Self::Partial { .. } => Fault::MessagePartial,
            Self::Unread { .. } => Fault::ReplyUnread,
            Self::Unknown { .. } => Fault::RequestUnknown,
            Self::NotNegotiated { .. } => Fault::RequestNotNegotiated,
            Self::Features { .. } | Self::ProtocolFeatures { .. } => Fault::FeaturesForeign,
            Self::Queue { .. } => Fault::QueueUnknown,
            Self::RingSize { .. } | Self::RingBase { .. } => Fault::RingSize,
            Self::RingOutside { .. } => Fault::RingOutside,
            Self::RingMisaligned { .. } => Fault::RingMisaligned,
            Self::RingFlags { .. } => Fault::RingLogged,
            Self::Running { .. } => Fault::ChangedWhileRunning,
            Self::Memory(error) => memory_fault(error),
            Self::Call { .. } => Fault::CallKind,
            Self::Mtu { .. } => Fault::Mtu,
            Self::Inflight { .. } => Fault::Inflight,
            Self::MemoryLost => Fault::MemoryLost,
            Self::LaneStalled(_) => Fault::LaneStalled,
            Self::Connection(_) => Fault::Connection,
        }
    }
}

fn memory_fault(error: &MemoryError) -> Fault {
    match error {
        MemoryError::Empty { .. } | MemoryError::Wraps { .. } => Fault::RegionRange,
        MemoryError::PastFile { .. } => Fault::RegionPastFile,
        MemoryError::Overlap { .. } => Fault::RegionOverlap,
        MemoryError::TooMany { .. } => Fault::RegionTooMany,
        MemoryError::TooLarge { .. } => Fault::MemoryTooLarge,
        MemoryError::File(MemoryFileError::Unsealed) => Fault::MemoryUnsealed,
        MemoryError::File(_) => Fault::MemoryKind,
        MemoryError::Map { .. } | MemoryError::Populate { .. } | MemoryError::Watch(_) => {
            Fault::MemoryUnmappable
        }
    }
}

/// How often each fault happened, over all sessions of a port.
#[derive(Debug, Default)]
pub struct FaultCounts([AtomicU64; Fault::COUNT]);

impl FaultCounts {
    pub(crate) fn count(&self, fault: Fault) {
        self.0[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often this happened.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize].load(Ordering::Relaxed)
    }

    /// All of them with their names.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Fault::NAMES.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
