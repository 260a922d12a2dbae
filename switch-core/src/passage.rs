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

/// The eight-byte words of an entry. The first is holder state, kind, hop, endpoints visited, holder and
/// generation; the second is chain, ingress port and flow hash.
type Words = [u64; 4];
/// Where word 0 has the generation.
const GENERATION_SHIFT: u32 = 48;
/// The flow hash in word 1.
const FLOW_HASH: u64 = 0xffff_ffff << 32;

const _: () = assert!(cfg!(target_endian = "little"), "shifts and masks are for little-endian words");

/// One answered question: who gave the packet with which verdict and path, and to whom it goes with which.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    pub(crate) from: EndpointId,
    pub(crate) to: EndpointId,
    /// Word 0 of an entry, generation zero.
    head: u64,
    /// Word 1 of an entry, under `way_mask`.
    way: u64,
    /// All of word 1, or all but the flow hash when every flow gets the same answer.
    way_mask: u64,
    /// The second word of a descriptor given back, generation zero.
    given: u64,
    /// The second word of a descriptor lent on, generation zero.
    lent: u64,
    /// Word 0 of the entry between the two holders, generation zero.
    next_head: u64,
}

impl Passage {
    /// The passage of packets like `returned`, a packet that `from` gave back and whose checks it has passed;
    /// `next` and `mark` are what the tables decided for it, for its flow only if `by_flow`. None for what was
    /// lent empty, and for a packet that changes its chain.
    #[must_use]
    pub fn of(
        from: EndpointId,
        returned: &Returned,
        to: EndpointId,
        next: PacketPath,
        mark: u32,
        by_flow: bool,
    ) -> Option<Self> {
        let PacketPath { hop, visited, .. } = next;
        if returned.kind != Kind::Packet || next != (PacketPath { hop, visited, ..returned.path }) {
            return None;
        }
        let (state, kind) = (HolderState::Endpoint as u8, Kind::Packet as u8);
        let mut entry = LedgerEntry { state, kind, endpoint: from.0, ..LedgerEntry::default() };
        entry.set_path(returned.path);
        let [head, way, ..] = *words(&entry);
        entry.endpoint = to.0;
        entry.set_path(next);
        let way_mask = if by_flow { u64::MAX } else { !FLOW_HASH };
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
            head,
            way: way & way_mask,
            way_mask,
            given: blank.pack().word1,
            lent: Desc { code: Kind::Packet as u8, aux: mark, ..blank }.pack().word1,
            next_head: words(&entry)[0],
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
    /// inside the buffer that is a frame. All comparisons go into one branch: they nearly always hold.
    #[inline(always)]
    pub(crate) fn carries(&self, entry: &LedgerEntry, raw: RawDesc, limits: &FrameLimits) -> bool {
        let [head, way, ..] = *words(entry);
        let mut differs = head ^ (self.head | raw.word1 << GENERATION_SHIFT);
        differs |= raw.word1 & !GENERATION ^ self.given;
        differs |= way & self.way_mask ^ self.way;
        let Desc { data_offset_bytes, data_len_bytes, .. } = raw.unpack();
        let (offset_bytes, len_bytes) = (u32::from(data_offset_bytes), u32::from(data_len_bytes));
        let (min, max) = (u32::from(limits.frame_bytes_min), u32::from(limits.frame_bytes_max));
        // u32, because u16 + u16 can wrap to a small, "valid" end; below `min` the difference is beyond any u16.
        (differs == 0)
            & (offset_bytes + len_bytes <= limits.stride_bytes)
            & (len_bytes.wrapping_sub(min) <= max.wrapping_sub(min))
    }

    /// Takes the buffer back and lends it on, in the ledger. Endpoint → Endpoint, through no state between: the
    /// ring sequence first, then everything that names the holder in one store of a word, which no kill can
    /// divide. Returns the second word of the descriptor for the next holder.
    ///
    /// A process that takes over after a kill between the two stores finds the old holder with the sequence of
    /// the new one's ring. The old holder has given the buffer back: that is how it came here, and its return
    /// was not released yet. So both answers of [`Shard::recover`](crate::shard::Shard::recover) are right: a
    /// buffer taken for the host's is the host's, and one that seems lent comes back by its return, which is
    /// read once more.
    #[inline(always)]
    pub(crate) fn carry(&self, entry: &mut LedgerEntry, raw: RawDesc, sequence: u32) -> u64 {
        let generation = raw.word1.wrapping_add(1);
        entry.ring_sequence = sequence;
        // AcqRel: as in `Shard::lend`, no store moves behind or before the holder's.
        compiler_fence(Ordering::AcqRel);
        words_mut(entry)[0] = self.next_head | generation << GENERATION_SHIFT;
        self.lent | generation & GENERATION
    }
}

#[inline(always)]
fn words(entry: &LedgerEntry) -> &Words {
    bytemuck::must_cast_ref(entry)
}

#[inline(always)]
fn words_mut(entry: &mut LedgerEntry) -> &mut Words {
    bytemuck::must_cast_mut(entry)
}

#[cfg(test)]
mod tests;
