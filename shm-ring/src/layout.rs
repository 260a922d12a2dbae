//! Where everything lies in a control area and in a region; layout version 1.
//!
//! A **control area** belongs to one VM (or process) and nobody else maps it:
//!
//! ```text
//! 0                      ControlHeader                     ┐
//! endpoint_table_offset  EndpointEntry × endpoint_count    │ host section: the host writes it and never
//! ring_table_offset      RingEntry × ring_count            │ reads it back; a guest that writes here
//! target_table_offset    TargetEntry × target_count        │ harms itself only
//! ...                    CounterLine, descriptors,         ┘ (host_to_guest: produced; guest_to_host: consumed)
//!                        words of references
//! guest_section_offset   GuestWords × endpoint_count       ┐ guest section: the guest writes it
//! ...                    CounterLine, descriptors          ┘ (host_to_guest: consumed; guest_to_host: produced)
//! ```
//!
//! Both sections start on a 4 KiB page, so no page has two writers. Which rings there are is a table, not a
//! fixed pair; a reader follows the offsets of the table and assumes no order.
//!
//! A **region** is the packet memory of one domain: a [`RegionHeader`] in its first page, which the host
//! writes and never reads, then buffers `buffers_offset + index × buffer_stride_bytes`. The region holds
//! nothing else; the host trusts no byte of it.
//!
//! The header and the entries of a table may be longer than the structs here: a later minor version adds fields at
//! their ends, and who does not know them steps over them by the sizes that the header gives.
//!
//! All integers are little-endian. Fields named `reserved` are zero. The C header `include/netvm.h` says the
//! same for C guests; a test holds the two against each other.

use crate::desc::RawDesc;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// First eight bytes of a control area: "NETVMCTL".
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"NETVMCTL");
/// First eight bytes of a region: "NETVMRGN".
pub const REGION_MAGIC: u64 = u64::from_le_bytes(*b"NETVMRGN");
/// Major layout version; another one is refused, naming both.
pub const VERSION_MAJOR: u16 = 1;
/// Minor layout version; a newer one only adds what old code may ignore.
pub const VERSION_MINOR: u16 = 0;
/// Pages of different writers never share one of these.
pub const PAGE_BYTES: usize = 4096;
/// Each counter has this many bytes to itself: two cache lines, because the adjacent-line prefetcher pairs them.
pub const COUNTER_LINE_BYTES: usize = 128;
/// Bytes of one descriptor in a ring.
pub const DESC_BYTES: usize = size_of::<RawDesc>();
/// Fewest slots of a ring.
pub const RING_SLOTS_MIN: u32 = 8;
/// Most slots of a ring.
pub const RING_SLOTS_MAX: u32 = 32_768;
/// Most references that one ring brings at once; a ring back can hold them all.
pub const REFERENCES_MAX: u32 = RING_SLOTS_MAX;
/// Smallest region: one 2 MiB page.
pub const REGION_BYTES_MIN: u64 = 2 << 20;
/// Smallest control area.
pub const CONTROL_BYTES_MIN: u64 = 64 << 10;
/// Strides, alignments of descriptors and of guest words are multiples of this.
pub const CACHE_LINE_BYTES: u32 = 64;
/// Least room for data in a buffer; with less, some NICs fall back to 1 KiB segments.
pub const DATA_ROOM_BYTES_MIN: u32 = 2048;
/// Largest distance between buffers, so that offset and length of a descriptor reach every byte.
pub const STRIDE_BYTES_MAX: u32 = 1023 * CACHE_LINE_BYTES;
/// Bytes in front of the data of a received packet.
pub const HEADROOM_BYTES: u16 = 128;
/// Default distance between buffers: 37 cache lines. An odd number spreads headers over the cache sets.
pub const STRIDE_BYTES_DEFAULT: u32 = 2368;
/// Bytes of a name in the tables, zero-padded UTF-8.
pub const NAME_BYTES: usize = 28;

/// Feature bits of the handshake. None is defined in version 1; bit 0 is reserved for offload metadata.
pub const FEATURES_KNOWN: u64 = 0;

/// Zero words beside words that change. Atomic like their neighbours, because a reference to plain memory
/// would promise that nobody writes it meanwhile, and a peer can.
pub type ReservedWords<const N: usize> = [core::sync::atomic::AtomicU32; N];

fn no_words<const N: usize>() -> ReservedWords<N> {
    core::array::from_fn(|_| core::sync::atomic::AtomicU32::new(0))
}

/// Head of a control area, 128 bytes, written by the host before anybody else maps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ControlHeader {
    /// [`CONTROL_MAGIC`].
    pub magic: u64,
    /// [`VERSION_MAJOR`] of the host.
    pub version_major: u16,
    /// [`VERSION_MINOR`] of the host.
    pub version_minor: u16,
    /// Size of this struct; at least 128.
    pub header_bytes: u32,
    /// Bytes of the control area in use; the mapping may be longer (a PCI BAR is a power of two).
    pub control_bytes: u64,
    /// Feature bits that the host offers.
    pub features_offered: u64,
    /// Where the guest section starts; a multiple of [`PAGE_BYTES`].
    pub guest_section_offset: u64,
    /// Bytes of the domain's region.
    pub region_bytes: u64,
    /// The cookie that the right region shows in its [`RegionHeader`].
    pub region_cookie: u64,
    /// Where buffer 0 starts in the region.
    pub buffers_offset: u64,
    /// Distance between buffers, an odd number of cache lines.
    pub buffer_stride_bytes: u32,
    /// Number of buffers in the region.
    pub buffer_count: u32,
    /// Headroom of a received packet.
    pub headroom_bytes: u16,
    /// 0: the region is read-write (trusted). 1: read-only (observer).
    pub access: u16,
    /// Where the table of [`EndpointEntry`] starts.
    pub endpoint_table_offset: u32,
    /// Where the table of [`RingEntry`] starts.
    pub ring_table_offset: u32,
    /// Where the table of [`TargetEntry`] starts.
    pub target_table_offset: u32,
    /// Entries of the endpoint table.
    pub endpoint_count: u16,
    /// Size of an [`EndpointEntry`]; at least 128, in eights.
    pub endpoint_entry_bytes: u16,
    /// Entries of the ring table.
    pub ring_count: u16,
    /// Size of a [`RingEntry`]; at least 64, in eights.
    pub ring_entry_bytes: u16,
    /// Entries of the target table.
    pub target_count: u16,
    /// Size of a [`TargetEntry`]; at least 32, in eights.
    pub target_entry_bytes: u16,
    /// Size of a [`GuestWords`]; at least 512, in eights.
    pub guest_words_bytes: u32,
    /// Zero.
    pub reserved: [u8; 24],
}

/// One endpoint of the control area, 128 bytes, written by the host: facts, then the words of its handshake.
#[derive(Debug)]
#[repr(C)]
pub struct EndpointEntry {
    /// What never changes while the control area lives.
    pub facts: EndpointFacts,
    /// What the host writes at run time.
    pub words: HostWords,
}

/// What never changes about an endpoint, 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointFacts {
    /// The switch's number for this endpoint.
    pub endpoint_id: u16,
    /// The service it is an instance of.
    pub service_id: u16,
    /// First entry of its rings in the ring table; they follow each other.
    pub first_ring: u16,
    /// How many rings it has.
    pub ring_count: u16,
    /// Most buffers it may hold, or as an observer has references to, at once.
    pub quota_buffers: u32,
    /// Empty buffers it may be lent at once, to make packets of its own.
    pub credit_buffers: u32,
    /// Where its [`GuestWords`] start in the control area.
    pub guest_words_offset: u64,
    /// Zero-padded name of the service.
    pub service_name: [u8; NAME_BYTES],
    /// Zero.
    pub reserved0: u32,
}

/// The host's side of an endpoint's handshake, 72 bytes, written by the host at run time.
///
/// An answer is `epoch`, `phase` and `refusal` first, `answered_nonce` last: who finds the own nonce there
/// finds the rest of the answer too.
#[derive(Debug)]
#[repr(C)]
pub struct HostWords {
    /// Epoch that the host has published for the current attach; 0 = none.
    pub epoch: AtomicU32,
    /// The host's view, a code of [`crate::attach::HostPhase`].
    pub phase: AtomicU32,
    /// The nonce that the other words answer.
    pub answered_nonce: AtomicU64,
    /// Why an attach was refused, a code of [`crate::attach::Refusal`]; 0 = it was not.
    pub refusal: AtomicU32,
    /// Zero.
    pub reserved: ReservedWords<13>,
}

impl HostWords {
    /// The words before any handshake.
    #[must_use]
    pub fn zeroed() -> Self {
        Self {
            epoch: AtomicU32::new(0),
            phase: AtomicU32::new(0),
            answered_nonce: AtomicU64::new(0),
            refusal: AtomicU32::new(0),
            reserved: no_words(),
        }
    }
}

/// Which way descriptors flow, and so who writes which half of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// The host produces.
    HostToGuest = 1,
    /// The guest produces.
    GuestToHost = 2,
}

impl Direction {
    /// The direction with this code, if there is one.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::HostToGuest),
            2 => Some(Self::GuestToHost),
            _ => None,
        }
    }
}

/// One ring of the table, 64 bytes, written by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RingEntry {
    /// A [`Direction`] code.
    pub direction: u8,
    /// Traffic class; 0 in version 1.
    pub class: u8,
    /// Index into the endpoint table of this control area.
    pub endpoint: u16,
    /// The lcore at the other end. Rings of the same endpoint and lcore form a queue pair.
    pub lcore: u16,
    /// Zero.
    pub reserved0: u16,
    /// Slots: a power of two within [`RING_SLOTS_MIN`]..=[`RING_SLOTS_MAX`].
    pub slots: u32,
    /// Reserved: the doorbell of the consumer; `u32::MAX` = none.
    pub doorbell_id: u32,
    /// Where the producer's [`CounterLine`] lies, in the producer's section.
    pub produced_offset: u64,
    /// Where the consumer's [`CounterLine`] lies, in the consumer's section.
    pub consumed_offset: u64,
    /// Where the descriptors start, in the producer's section; 64-byte aligned.
    pub descriptors_offset: u64,
    /// Reserved: where the offload metadata (32 bytes a slot) starts; 0 = none.
    pub metadata_offset: u64,
    /// Towards the guest, of an observer: where the words of its references start, in the host's section; 64-byte
    /// aligned. See [`crate::reference`].
    pub references_offset: u64,
    /// How many words of references there are: at most [`REFERENCES_MAX`], 0 of any other ring.
    pub reference_count: u32,
    /// Zero.
    pub reserved1: u32,
}

/// A service or port that the endpoints of this control area may name in a verdict, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TargetEntry {
    /// 1 = service, 2 = port.
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
    /// The id to put into a descriptor's `aux`. For ports also what the mark of a packet shows.
    pub id: u16,
    /// Zero-padded name.
    pub name: [u8; NAME_BYTES],
}

/// The name in a zero-padded field: what stands before the first zero, with only zeros behind it. `None` if
/// it is empty or no UTF-8.
#[must_use]
pub fn unpad_name(field: &[u8; NAME_BYTES]) -> Option<&str> {
    let name_bytes = field.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
    let (name, padding) = field.split_at(name_bytes);
    let padded = name_bytes > 0 && padding.iter().all(|&byte| byte == 0);
    core::str::from_utf8(name).ok().filter(|_| padded)
}

/// What the guest says of one endpoint, 512 bytes, written by the guest at run time.
#[derive(Debug)]
#[repr(C)]
pub struct GuestWords {
    /// A fresh non-zero number asks for an attach. Written after the version and feature words.
    pub attach_nonce: AtomicU64,
    /// Layout version of the guest: major in the high 16 bits, minor in the low.
    pub version: AtomicU32,
    /// The epoch that the guest has taken up; equal to the published one, it ends the handshake.
    pub confirmed_epoch: AtomicU32,
    /// Feature bits that the guest accepts; a subset of those offered.
    pub features_accepted: AtomicU64,
    /// Epoch that the NF itself has ended; it touches no buffer of that epoch any more.
    pub detached_epoch: AtomicU32,
    /// Epoch whose NF process has died, said by netlib's supervisor after it reaped that process.
    pub reaped_epoch: AtomicU32,
    /// Counts up while the NF polls. A standstill stops the feeding; it proves nothing.
    pub heartbeat: AtomicU64,
    /// Epoch that the NF is about to end: equal to the confirmed one, it stops the feeding for good.
    pub draining_epoch: AtomicU32,
    /// Zero.
    pub reserved0: ReservedWords<5>,
    /// Counters of the NF, for display only. See [`GuestCounter`].
    pub counters: [AtomicU64; 16],
    /// Zero.
    pub reserved1: ReservedWords<80>,
}

impl GuestWords {
    /// The words before any handshake.
    #[must_use]
    pub fn zeroed() -> Self {
        Self {
            attach_nonce: AtomicU64::new(0),
            version: AtomicU32::new(0),
            confirmed_epoch: AtomicU32::new(0),
            features_accepted: AtomicU64::new(0),
            detached_epoch: AtomicU32::new(0),
            reaped_epoch: AtomicU32::new(0),
            heartbeat: AtomicU64::new(0),
            draining_epoch: AtomicU32::new(0),
            reserved0: no_words(),
            counters: core::array::from_fn(|_| AtomicU64::new(0)),
            reserved1: no_words(),
        }
    }
}

/// What each word of [`GuestWords::counters`] counts. The host shows them and believes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum GuestCounter {
    /// Packets taken.
    Received = 0,
    /// Packets given back with a verdict other than drop.
    Sent = 1,
    /// Packets given back with the verdict drop.
    Dropped = 2,
    /// Packets made from empty buffers.
    Made = 3,
    /// Times the poller found nothing.
    EmptyPolls = 4,
    /// First of eight counters that belong to the app.
    App = 8,
}

/// One counter of a ring and the wish of the side that owns it, alone on 128 bytes.
///
/// Both counters of a ring run freely and wrap at 2³²; neither is masked in place.
///
/// Invariant: `produced - consumed <= slots` (wrapping). Each side keeps its own counter; neither is
/// trusted to, so whoever reads the other's checks the distance.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct CounterLine {
    /// `produced` or `consumed`.
    pub value: AtomicU32,
    /// Reserved for doorbells, in the consumer's line: 1 = wake me when you publish.
    pub want_wakeup: AtomicU32,
    /// Zero.
    pub reserved: ReservedWords<30>,
}

impl CounterLine {
    /// A counter that stands at `value`, nobody waiting for it.
    #[must_use]
    pub fn at(value: u32) -> Self {
        Self { value: AtomicU32::new(value), want_wakeup: AtomicU32::new(0), reserved: no_words() }
    }
}

/// One slot of a ring: a descriptor as two atomic words, each read once.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct Slot {
    /// See [`RawDesc::word0`].
    pub word0: AtomicU64,
    /// See [`RawDesc::word1`].
    pub word1: AtomicU64,
    /// Shows a model an access by one side that is not ordered after the other's.
    #[cfg(loom)]
    turn: loom::cell::UnsafeCell<()>,
}

#[cfg(loom)]
// SAFETY: `turn` holds nothing; loom itself reports accesses to it that are not ordered.
unsafe impl Sync for Slot {}

impl Slot {
    /// An empty slot: no valid descriptor.
    #[must_use]
    pub fn zeroed() -> Self {
        Self {
            word0: AtomicU64::new(0),
            word1: AtomicU64::new(0),
            #[cfg(loom)]
            turn: loom::cell::UnsafeCell::new(()),
        }
    }

    /// Writes both words. Relaxed: what publishes the slot makes them visible.
    #[inline(always)]
    pub(crate) fn store(&self, desc: RawDesc) {
        #[cfg(loom)]
        self.turn.with_mut(|_| ());
        self.word0.store(desc.word0, Ordering::Relaxed);
        self.word1.store(desc.word1, Ordering::Relaxed);
    }

    /// Copies both words, each read once. Relaxed: what found the slot published ordered this after it.
    #[inline(always)]
    #[must_use]
    pub fn load(&self) -> RawDesc {
        #[cfg(loom)]
        self.turn.with(|_| ());
        RawDesc { word0: self.word0.load(Ordering::Relaxed), word1: self.word1.load(Ordering::Relaxed) }
    }
}

/// First bytes of a region, written by the host and never read by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RegionHeader {
    /// [`REGION_MAGIC`].
    pub magic: u64,
    /// [`VERSION_MAJOR`] of the host.
    pub version_major: u16,
    /// [`VERSION_MINOR`] of the host.
    pub version_minor: u16,
    /// Zero.
    pub reserved0: u32,
    /// Ties region and control area together: see [`ControlHeader::region_cookie`].
    pub cookie: u64,
    /// Bytes of the region.
    pub region_bytes: u64,
    /// Zero.
    pub reserved1: [u8; 32],
}

// With loom's atomics these structs have other sizes; they are shared with nobody then.
#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<ControlHeader>() == 128);
    assert!(size_of::<EndpointEntry>() == 128);
    assert!(size_of::<EndpointFacts>() == 56);
    assert!(size_of::<HostWords>() == 72);
    assert!(size_of::<RingEntry>() == 64);
    assert!(size_of::<TargetEntry>() == 32);
    assert!(size_of::<GuestWords>() == 512);
    assert!(size_of::<CounterLine>() == COUNTER_LINE_BYTES);
    assert!(size_of::<Slot>() == DESC_BYTES);
    assert!(size_of::<RegionHeader>() == 64);
    assert!(core::mem::offset_of!(EndpointEntry, words) == 56);
};
