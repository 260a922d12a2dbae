//! What a guest sends: from its transmit queue into rooms of the host.

use crate::chain::{Chain, Chains, Direction, GuestSegment, Lookup, at_a_time};
use crate::features::{Features, Negotiated};
use crate::frame::{Received, Room};
use crate::guest_bytes;
use crate::header::{self, OffloadHeader};
use crate::lane_counters::PortDrop;
use crate::queue::{Burst, Work};
use crate::ring_fault::RingFault;

/// Shorter than this is no Ethernet frame.
pub(crate) const FRAME_BYTES_MIN: u32 = 14;
/// Bytes of one burst: no frame is begun behind this many.
const BURST_BYTES: u64 = 128 * 1024;
/// What a header is read as, whether its last two bytes belong to it or not.
const HEADER_READ_BYTES: u32 = 12;

/// How packets of one transmit queue look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestTx {
    features: Negotiated,
    header_bytes: u32,
    indirect: bool,
}

impl GuestTx {
    pub(crate) fn new(features: Negotiated) -> Self {
        Self {
            features,
            header_bytes: if features.header_bytes() == 10 { 10 } else { 12 },
            indirect: features.has(Features::INDIRECT),
        }
    }

    /// Copies waiting frames into rooms, in order, and gives the guest its buffers back.
    ///
    /// A frame that may not go on is counted under a named reason and leaves its room to the next.
    ///
    /// # Errors
    /// With what broke the ring. What was in order before that is received all the same.
    // Not inlined: the loops want all registers for themselves.
    #[inline(never)]
    pub(crate) fn take(
        &self,
        work: &mut Work<'_>,
        rooms: &mut [Room<'_>],
        received: &mut [Received],
    ) -> Result<(), RingFault> {
        let Work { ring, chains, memory, hint, counters, burst } = work;
        let free = rooms.len().min(received.len()).saturating_sub(burst.frames);
        let wanted = at_a_time(free);
        let count = ring.pending(wanted)?.min(wanted);
        if count == 0 {
            return Ok(());
        }
        ring.prefetch_used(count);
        chains.forget();
        let mut lookup = Lookup { memory, hint, direction: Direction::FromGuest, indirect: self.indirect };
        let mut outcome = chains.take(count, ring, &mut lookup);
        // What the loop works with is private and copied, so that it can stay in registers.
        let (header_bytes, entries) = (self.header_bytes, ring.used_entries());
        let Burst { mut frames, mut bytes, mut refused_bytes, .. } = **burst;
        let mut used = 0;
        for chain in chains.all() {
            if bytes + refused_bytes >= BURST_BYTES && !cfg!(feature = "sabotage-byte-budget") {
                // What comes behind is looked at again next time, with what may be wrong about it.
                outcome = Ok(());
                break;
            }
            let (Some(room), Some(to)) = (rooms.get_mut(frames), received.get_mut(frames)) else { break };
            match self.copy_out(header_bytes, chain, chains, room, to) {
                Ok(()) => {
                    frames += 1;
                    bytes += u64::from(to.len_bytes);
                }
                Err(reason) => {
                    // A copy in vain takes as long as any other.
                    if reason == PortDrop::HeaderRefused {
                        refused_bytes += u64::from(chain.len_bytes);
                    }
                    counters.count_drops(reason, 1);
                }
            }
            entries.put(used, chain.head, 0);
            used += 1;
        }
        (burst.frames, burst.bytes, burst.refused_bytes) = (frames, bytes, refused_bytes);
        if used > 0 {
            burst.notify |= ring.publish(used);
        }
        outcome
    }

    /// Copies one frame.
    #[inline(always)]
    fn copy_out(
        &self,
        header_bytes: u32,
        chain: &Chain,
        chains: &Chains,
        room: &mut Room<'_>,
        to: &mut Received,
    ) -> Result<(), PortDrop> {
        let frame_bytes = chain.len_bytes.saturating_sub(header_bytes);
        if frame_bytes < FRAME_BYTES_MIN {
            return Err(PortDrop::FrameTooShort);
        }
        if frame_bytes > room.room_bytes && !cfg!(feature = "sabotage-room") {
            return Err(PortDrop::FrameTooLong);
        }
        let Some(only) = chain.only() else {
            return self.copy_pieces(chains.segments(chain), frame_bytes, room, to);
        };
        // SAFETY: the only segment has the length of the chain, at least header and 14 bytes, and is translated.
        let (low, high) = unsafe { guest_bytes::load_header(only.at) };
        // SAFETY: the header is shorter than the segment.
        let from = unsafe { only.at.add(header_bytes as usize) };
        // SAFETY: - the segment goes on for `frame_bytes` behind the header, and stays mapped (`GuestMemory`).
        // - the room is at least as long (above), and ours (`Room::new`). No room lies in a guest's memory.
        unsafe { guest_bytes::copy(from, room.at, frame_bytes as usize) };
        if header::asks_something(low, high) {
            return self.complete(low, high, frame_bytes, room, to);
        }
        *to = Received { len_bytes: frame_bytes, offload: OffloadHeader::NONE };
        Ok(())
    }

    /// Judges what the header of a copied frame asks for, and completes what the driver left to us.
    #[inline(never)]
    fn complete(
        &self,
        low: u64,
        high: u32,
        frame_bytes: u32,
        room: &mut Room<'_>,
        to: &mut Received,
    ) -> Result<(), PortDrop> {
        let asked = OffloadHeader::from_words(low, high);
        let offload = asked.judge(self.features, frame_bytes).map_err(|_| PortDrop::HeaderRefused)?;
        if offload == OffloadHeader::NONE || offload.is_long() {
            *to = Received { len_bytes: frame_bytes, offload };
            return Ok(());
        }
        // SAFETY: the room is at least `frame_bytes` long and ours, and the header was judged with that length.
        unsafe { header::complete_checksum(room.at, frame_bytes, offload) };
        *to = Received { len_bytes: frame_bytes, offload: OffloadHeader::NONE };
        Ok(())
    }

    /// A frame of several segments. Their lengths sum up to header and frame.
    #[inline(never)]
    fn copy_pieces(
        &self,
        segments: &[GuestSegment],
        frame_bytes: u32,
        room: &mut Room<'_>,
        to: &mut Received,
    ) -> Result<(), PortDrop> {
        let mut head = [0; HEADER_READ_BYTES as usize];
        let (head_bytes, room_bytes) = (self.header_bytes as usize, frame_bytes as usize);
        let mut done = 0;
        for segment in segments {
            let (mut from, mut left) = (segment.at, segment.len_bytes as usize);
            if done < head_bytes {
                let part = left.min(head_bytes - done);
                let to = std::ptr::NonNull::from(&mut head[done]);
                // SAFETY: `part` bytes are left in the segment and in the header's private copy.
                unsafe { guest_bytes::copy(from, to, part) };
                // SAFETY: as above.
                from = unsafe { from.add(part) };
                left -= part;
                done += part;
            }
            let at = done.saturating_sub(head_bytes);
            let part = left.min(room_bytes - at);
            // SAFETY: `at` is at most the frame's length, which the room holds.
            let place = unsafe { room.at.add(at) };
            // SAFETY: `part` bytes are left in the segment and in the room.
            unsafe { guest_bytes::copy(from, place, part) };
            done += part;
        }
        let [b0, b1, b2, b3, b4, b5, b6, b7, rest @ ..] = head;
        let low = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        self.complete(low, u32::from_le_bytes(rest), frame_bytes, room, to)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
