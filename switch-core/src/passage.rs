//! Packets that all go on from one endpoint to one other: what must hold of each, in a few comparisons.
//!
//! The forwarding tables answered for one packet whose descriptor had passed every check. Whoever asks the same
//! gets the same answer, so of the packets behind it only equality is left to see, besides what each has for
//! itself: index, generation and bounds. What differs in any bit is no packet of the passage, and takes the way
//! through [`crate::shard::Shard::take_back`] and the tables, which names what is wrong with it if anything is.

use std::sync::atomic::{Ordering, compiler_fence};

use shm_ring::desc::{Desc, Kind, RawDesc};

use crate::frame::FrameLimits;
use crate::handover::Returned;
use crate::ids::EndpointId;
use crate::ledger::{LedgerEntry, PacketPath};
use crate::transition::HolderState;

/// Bits of a descriptor's second word that hold the generation.
const GENERATION: u64 = 0xffff;
/// Bits of [`head`] that no decision hangs on: class and offload flags.
const HEAD_FREE: u64 = 0xffff << 16;

/// One answered question: who gave the packet with which verdict and path, and to whom it goes with which.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    pub(crate) from: EndpointId,
    pub(crate) to: EndpointId,
    /// [`head`] of an entry, with generation and free bits zero.
    head: u64,
    /// [`origin`] of an entry.
    origin: u32,
    flow_hash: u32,
    /// [`tail`] of an entry.
    tail: u16,
    /// The second word of a descriptor given back, generation zero.
    given: u64,
    /// The second word of a descriptor lent on, generation zero.
    lent: u64,
    next: PacketPath,
}

impl Passage {
    /// The passage of packets like `returned`, a packet that `from` gave back and whose checks it has passed;
    /// `next` and `mark` are what the tables decided for it. None for what was lent empty.
    #[must_use]
    pub fn of(
        from: EndpointId,
        returned: &Returned,
        to: EndpointId,
        next: PacketPath,
        mark: u32,
    ) -> Option<Self> {
        if returned.kind != Kind::Packet {
            return None;
        }
        let (state, kind) = (HolderState::Endpoint as u8, Kind::Packet as u8);
        let mut entry = LedgerEntry { state, kind, endpoint: from.0, ..LedgerEntry::default() };
        entry.set_path(returned.path);
        let blank = Desc {
            buffer_index: 0,
            data_offset_bytes: 0,
            data_len_bytes: 0,
            generation: 0,
            code: returned.verdict as u8,
            flags: 0,
            aux: returned.aux,
        };
        Some(Self {
            from,
            to,
            head: head(&entry),
            origin: origin(&entry),
            flow_hash: entry.flow_hash,
            tail: tail(&entry),
            given: blank.pack().word1,
            lent: Desc { code: Kind::Packet as u8, aux: mark, ..blank }.pack().word1,
            next,
        })
    }

    /// Who gives the packets.
    #[inline(always)]
    #[must_use]
    pub const fn giver(&self) -> EndpointId {
        self.from
    }

    /// Who gets them.
    #[inline(always)]
    #[must_use]
    pub const fn receiver(&self) -> EndpointId {
        self.to
    }

    /// Whether the buffer of `entry` was given back by this very loan, as a packet of this passage, with data
    /// inside the buffer that is a frame.
    #[inline(always)]
    pub(crate) fn carries(&self, entry: &LedgerEntry, raw: RawDesc, limits: &FrameLimits) -> bool {
        // Holder state, hop, holder and generation in one comparison.
        let expected = self.head | raw.word1 << 48;
        let Desc { data_offset_bytes, data_len_bytes, .. } = raw.unpack();
        // u32, because u16 + u16 can wrap to a small, "valid" end.
        let end_bytes = u32::from(data_offset_bytes) + u32::from(data_len_bytes);
        head(entry) & !HEAD_FREE == expected
            && raw.word1 & !GENERATION == self.given
            && origin(entry) == self.origin
            && entry.flow_hash == self.flow_hash
            && tail(entry) == self.tail
            && end_bytes <= limits.stride_bytes
            && data_len_bytes >= limits.frame_bytes_min
            && data_len_bytes <= limits.frame_bytes_max
    }

    /// Takes the buffer back and lends it on, in the ledger. Endpoint → Lcore → Endpoint, with every store in
    /// the order of the two steps: see [`LedgerEntry::come_home`] and [`crate::shard::Shard::lend`]. Returns the
    /// second word of the descriptor for the next holder.
    #[inline(always)]
    pub(crate) fn carry(&self, entry: &mut LedgerEntry, sequence: u32) -> u64 {
        entry.come_home();
        entry.set_path(self.next);
        entry.endpoint = self.to.0;
        entry.ring_sequence = sequence;
        // AcqRel: as in `Shard::lend`, no store moves behind or before the state's.
        compiler_fence(Ordering::AcqRel);
        entry.state = HolderState::Endpoint as u8;
        self.lent | u64::from(entry.generation)
    }
}

/// The first eight bytes of an entry, as they lie in memory: the compiler makes one load of it.
#[inline(always)]
const fn head(entry: &LedgerEntry) -> u64 {
    entry.state as u64
        | (entry.hop as u64) << 8
        | (entry.class as u64) << 16
        | (entry.offload_flags as u64) << 24
        | (entry.endpoint as u64) << 32
        | (entry.generation as u64) << 48
}

/// Chain and ingress port.
#[inline(always)]
const fn origin(entry: &LedgerEntry) -> u32 {
    entry.chain as u32 | (entry.ingress_port as u32) << 16
}

/// Endpoints visited, and the kind.
#[inline(always)]
const fn tail(entry: &LedgerEntry) -> u16 {
    entry.visited as u16 | (entry.kind as u16) << 8
}

#[cfg(test)]
mod tests;
