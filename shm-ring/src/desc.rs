//! One descriptor: sixteen bytes that name a buffer and say what happens to it.
//!
//! ```text
//! word 0   bits  0..32  buffer index (within the region; never a byte offset)
//!          bits 32..48  data offset, bytes from the start of the buffer
//!          bits 48..64  data length, bytes
//! word 1   bits  0..16  generation of the buffer at hand-over
//!          bits 16..24  code: a kind or REFERENCE (host to guest), a verdict or RELEASE (guest to host)
//!          bits 24..32  flags; unknown ones are refused
//!          bits 32..64  aux: the mark (to the guest), the target (back); of a reference, its slot both ways
//! ```
//!
//! All zero is no valid descriptor, so memory that nobody wrote is refused.

/// The two words of a descriptor as they were read, unchecked.
///
/// Take it by value: the peer may rewrite the shared words at any moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct RawDesc {
    /// Index, offset and length.
    pub word0: u64,
    /// Generation, code, flags and aux.
    pub word1: u64,
}

/// The fields of a descriptor, still as the peer claims them: nothing but the packing is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desc {
    /// Which buffer, as an index into the region.
    pub buffer_index: u32,
    /// Where the data starts, in bytes from the start of the buffer.
    pub data_offset_bytes: u16,
    /// How long the data is, in bytes.
    pub data_len_bytes: u16,
    /// Generation of the buffer at hand-over; a late return of an older loan carries an older one.
    pub generation: u16,
    /// The code of a [`Kind`] or a [`Verdict`], [`REFERENCE`] or [`RELEASE`].
    pub code: u8,
    /// Flag bits: see [`FLAGS_KNOWN`].
    pub flags: u8,
    /// The mark (see [`mark`]) towards the guest; the target id of a verdict towards the host. Of a reference,
    /// both ways, what [`reference_aux`] makes.
    pub aux: u32,
}

/// Reserved: the frame goes on in the next descriptor. Refused in layout version 1.
pub const FLAG_MORE: u8 = 1 << 0;
/// Flag bits that layout version 1 accepts: none.
pub const FLAGS_KNOWN: u8 = 0;

impl Desc {
    /// Packs the fields into the two words that go into a ring slot.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> RawDesc {
        RawDesc {
            word0: self.buffer_index as u64
                | (self.data_offset_bytes as u64) << 32
                | (self.data_len_bytes as u64) << 48,
            word1: self.generation as u64
                | (self.code as u64) << 16
                | (self.flags as u64) << 24
                | (self.aux as u64) << 32,
        }
    }
}

impl RawDesc {
    /// Undoes the packing. Every bit pattern unpacks; whether it makes sense is the caller's check.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "each cast cuts exactly the field out of its word")]
    pub const fn unpack(self) -> Desc {
        Desc {
            buffer_index: self.word0 as u32,
            data_offset_bytes: (self.word0 >> 32) as u16,
            data_len_bytes: (self.word0 >> 48) as u16,
            generation: self.word1 as u16,
            code: (self.word1 >> 16) as u8,
            flags: (self.word1 >> 24) as u8,
            aux: (self.word1 >> 32) as u32,
        }
    }
}

/// What the host lends: the code of a host-to-guest descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A packet to look at, change, and give back with a verdict.
    Packet = 0x01,
    /// An empty buffer, lent to an endpoint that has credit to make packets.
    Empty = 0x02,
}

impl Kind {
    /// The kind with this code, if there is one.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0x01 => Some(Self::Packet),
            0x02 => Some(Self::Empty),
            _ => None,
        }
    }
}

/// What an NF says of a packet: the code of a guest-to-host descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// On to the next hop of the packet's chain.
    Next = 0x11,
    /// To the service whose id is in `aux`.
    ToService = 0x12,
    /// Out of the port whose id is in `aux`.
    ToPort = 0x13,
    /// Drop it; the buffer goes home.
    Drop = 0x14,
    /// An empty buffer comes back unused.
    ReturnEmpty = 0x15,
}

impl Verdict {
    /// The verdict with this code, if there is one.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0x11 => Some(Self::Next),
            0x12 => Some(Self::ToService),
            0x13 => Some(Self::ToPort),
            0x14 => Some(Self::Drop),
            0x15 => Some(Self::ReturnEmpty),
            _ => None,
        }
    }
}

/// The code of a host-to-guest descriptor that brings a reference: see [`crate::reference`]. It is no [`Kind`]:
/// nothing is lent.
pub const REFERENCE: u8 = 0x03;
/// The code of a guest-to-host descriptor that gives a reference back, otherwise as it came. It is no [`Verdict`]:
/// an observer has none.
pub const RELEASE: u8 = 0x16;

/// What a reference carries in `aux`: ingress port id low, its slot high.
#[must_use]
pub const fn reference_aux(ingress_port: u16, slot: u16) -> u32 {
    ingress_port as u32 | (slot as u32) << 16
}

/// The slot of a reference, by its `aux`.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the shift leaves sixteen bits")]
pub const fn reference_slot(aux: u32) -> u16 {
    (aux >> 16) as u16
}

/// The mark that a packet carries to the guest in `aux`: ingress port id low, rule mark high.
#[must_use]
pub const fn mark(ingress_port: u16, rule_mark: u16) -> u32 {
    ingress_port as u32 | (rule_mark as u32) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_each_field_where_the_layout_says() {
        let raw = Desc {
            buffer_index: 0x0403_0201,
            data_offset_bytes: 0x0605,
            data_len_bytes: 0x0807,
            generation: 0x0a09,
            code: 0x0b,
            flags: 0x0c,
            aux: 0x100f_0e0d,
        }
        .pack();
        assert_eq!(raw.word0.to_le_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(raw.word1.to_le_bytes(), [9, 10, 11, 12, 13, 14, 15, 16]);
    }

    #[test]
    fn unpacking_undoes_packing() {
        let raw = RawDesc { word0: 0x0123_4567_89ab_cdef, word1: 0xfedc_ba98_7654_3210 };
        assert_eq!(raw.unpack().pack(), raw);
    }

    #[test]
    fn a_reference_carries_its_slot_beside_the_port() {
        let aux = reference_aux(0x0102, 0xfffe);
        assert_eq!((aux, reference_slot(aux)), (0xfffe_0102, 0xfffe));
    }

    #[test]
    fn a_reference_is_no_loan_and_its_release_no_verdict() {
        assert_eq!(Kind::from_code(REFERENCE), None);
        assert_eq!(Verdict::from_code(RELEASE), None);
    }

    #[test]
    fn zeroed_memory_holds_neither_a_kind_nor_a_verdict() {
        let desc = RawDesc::default().unpack();
        assert_eq!(Kind::from_code(desc.code), None);
        assert_eq!(Verdict::from_code(desc.code), None);
    }
}
