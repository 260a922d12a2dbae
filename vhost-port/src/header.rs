//! The offload header in front of each packet (`virtio_net_hdr`, virtio 1.2 section 5.1.6).
//!
//! A driver's header is read once into two words and judged here, against the length of the copied frame and
//! the features in force. A checksum that the driver left to us is completed in the host's copy.

use std::ptr::NonNull;

use packet::checksum::Sum;

use crate::features::{Features, Negotiated};
use crate::guest_bytes;

/// The checksum from `checksum_start` on is to be completed.
const NEEDS_CHECKSUM: u8 = 1;
/// The checksum has been found right.
const DATA_VALID: u8 = 2;

/// Not longer than the MTU.
const SEGMENT_NONE: u8 = 0;
const SEGMENT_TCP4: u8 = 1;
const SEGMENT_TCP6: u8 = 4;
/// Beside one of the two: with congestion marks.
const SEGMENT_ECN: u8 = 0x80;

/// Bytes that are summed at a time: even, as each part of a sum must be.
const SUM_BYTES: usize = 512;

/// Offloads of one packet; the default asks for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadHeader {
    /// The checksum is left to the receiver, or known to be right.
    pub flags: u8,
    /// Whether the packet is longer than the MTU, and of which protocol.
    pub segment_kind: u8,
    /// Length of the headers of a packet that is longer than the MTU: a hint.
    pub header_bytes: u16,
    /// Bytes of payload in each segment.
    pub segment_bytes: u16,
    /// Where the part that the checksum covers starts.
    pub checksum_start: u16,
    /// Where the checksum lies from there.
    pub checksum_offset: u16,
}

/// A header that asks for what was not agreed on, or points outside its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offload header asks for what was not agreed on, or for something outside the packet")]
pub struct HeaderRefused;

/// Whether the words of a header, as they lie in memory, say anything. How many buffers a packet takes is ours to say.
#[inline(always)]
pub(crate) const fn asks_something(low: u64, high: u32) -> bool {
    low != 0 || high & 0xffff != 0
}

/// The second word of a header with the number of buffers that its packet takes.
#[inline(always)]
pub(crate) const fn with_buffers(high: u32, buffers: u16) -> u32 {
    high | (buffers as u32) << 16
}

impl OffloadHeader {
    /// Nothing is asked.
    pub const NONE: Self = Self {
        flags: 0,
        segment_kind: SEGMENT_NONE,
        header_bytes: 0,
        segment_bytes: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Whether the checksum is still to be completed.
    #[inline]
    #[must_use]
    pub const fn needs_checksum(self) -> bool {
        self.flags & NEEDS_CHECKSUM != 0
    }

    /// Whether the packet is longer than the MTU and to be cut.
    #[inline]
    #[must_use]
    pub const fn is_long(self) -> bool {
        self.segment_kind != SEGMENT_NONE
    }

    /// From the words as they lie in memory.
    #[inline]
    #[must_use]
    pub const fn from_words(low: u64, high: u32) -> Self {
        let [flags, segment_kind, header0, header1, segment0, segment1, start0, start1] = low.to_le_bytes();
        let [offset0, offset1, ..] = high.to_le_bytes();
        Self {
            flags,
            segment_kind,
            header_bytes: u16::from_le_bytes([header0, header1]),
            segment_bytes: u16::from_le_bytes([segment0, segment1]),
            checksum_start: u16::from_le_bytes([start0, start1]),
            checksum_offset: u16::from_le_bytes([offset0, offset1]),
        }
    }

    /// As the words lie in memory, without a number of buffers.
    #[inline]
    #[must_use]
    pub const fn to_words(self) -> (u64, u32) {
        let [header0, header1] = self.header_bytes.to_le_bytes();
        let [segment0, segment1] = self.segment_bytes.to_le_bytes();
        let [start0, start1] = self.checksum_start.to_le_bytes();
        let [offset0, offset1] = self.checksum_offset.to_le_bytes();
        let low = [self.flags, self.segment_kind, header0, header1, segment0, segment1, start0, start1];
        (u64::from_le_bytes(low), u32::from_le_bytes([offset0, offset1, 0, 0]))
    }

    /// What a driver asks of a frame of `frame_bytes`, if the features in force allow it and it lies inside.
    ///
    /// Bits that mean nothing to us are left out, as the standard wants it.
    ///
    /// # Errors
    /// [`HeaderRefused`]: the frame cannot be completed, and must not go on half done.
    pub fn judge(self, features: Negotiated, frame_bytes: u32) -> Result<Self, HeaderRefused> {
        let asked = Self { flags: self.flags & NEEDS_CHECKSUM, ..self };
        if asked.needs_checksum() {
            let end = u32::from(asked.checksum_start) + u32::from(asked.checksum_offset) + 2;
            let is_inside = end <= frame_bytes || cfg!(feature = "sabotage-checksum-bound");
            if !features.has(Features::CHECKSUM) || !is_inside {
                return Err(HeaderRefused);
            }
        }
        let needed = match asked.segment_kind & !SEGMENT_ECN {
            _ if asked.segment_kind == SEGMENT_NONE => {
                return Ok(if asked.needs_checksum() { asked.checksum_only() } else { Self::NONE });
            }
            SEGMENT_TCP4 => Features::HOST_TSO4,
            SEGMENT_TCP6 => Features::HOST_TSO6,
            _ => return Err(HeaderRefused),
        };
        let marks = if asked.segment_kind & SEGMENT_ECN == 0 { Features::NONE } else { Features::HOST_ECN };
        let is_whole = asked.needs_checksum() && asked.segment_bytes > 0;
        if features.has(needed) && features.has(marks) && is_whole { Ok(asked) } else { Err(HeaderRefused) }
    }

    const fn checksum_only(self) -> Self {
        Self { segment_kind: SEGMENT_NONE, header_bytes: 0, segment_bytes: 0, ..self }
    }

    /// What of this header a driver may be told that took `features`, in words; the rest must be done before.
    #[inline(always)]
    pub(crate) fn for_driver(self, features: Negotiated) -> Option<(u64, u32)> {
        if self == Self::NONE { Some((0, 0)) } else { self.with_offloads(features) }
    }

    #[inline(never)]
    fn with_offloads(self, features: Negotiated) -> Option<(u64, u32)> {
        let kind = match self.segment_kind & !SEGMENT_ECN {
            SEGMENT_NONE => Features::NONE,
            SEGMENT_TCP4 => Features::GUEST_TSO4,
            _ => Features::GUEST_TSO6,
        };
        let marks = if self.segment_kind & SEGMENT_ECN == 0 { Features::NONE } else { Features::GUEST_ECN };
        let takes_checksums = features.has(Features::GUEST_CHECKSUM);
        if !features.has(kind) || !features.has(marks) || (self.needs_checksum() && !takes_checksums) {
            return None;
        }
        let known = if takes_checksums { NEEDS_CHECKSUM | DATA_VALID } else { 0 };
        Some(Self { flags: self.flags & known, ..self }.to_words())
    }
}

/// Completes the checksum of a frame of which `header` has been judged.
///
/// The sum covers what lies behind `checksum_start`; the driver has put the pseudo header's sum where the
/// checksum goes.
///
/// # Safety
/// - `frame_bytes` bytes from `frame` are mapped, and may be written by us.
/// - `header` has been judged with `frame_bytes`.
pub(crate) unsafe fn complete_checksum(frame: NonNull<u8>, frame_bytes: u32, header: OffloadHeader) {
    let (mut at, end) = (usize::from(header.checksum_start), frame_bytes as usize);
    let mut sum = Sum::new();
    let mut part = [0; SUM_BYTES];
    while at < end {
        let len_bytes = SUM_BYTES.min(end - at);
        // SAFETY: `at` is below the length of the frame.
        let from = unsafe { frame.add(at) };
        // SAFETY: `len_bytes` from `at` end with the frame at the latest; the part is private and as long.
        unsafe { guest_bytes::copy(from, NonNull::from(&mut part).cast(), len_bytes) };
        sum = sum.add_bytes(&part[..len_bytes]);
        at += len_bytes;
    }
    // Zero means "no checksum" to UDP; for TCP both are the same number.
    let checksum = match sum.checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    let bytes = checksum.to_be_bytes();
    let checksum_at = usize::from(header.checksum_start) + usize::from(header.checksum_offset);
    // SAFETY: `judge` has seen that both bytes are inside the frame.
    let to = unsafe { frame.add(checksum_at) };
    // SAFETY: as above; the source is private.
    unsafe { guest_bytes::copy(NonNull::from(&bytes).cast(), to, 2) };
}
