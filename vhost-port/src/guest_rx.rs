//! What a guest receives: from host memory into its receive queue.

use std::ptr::NonNull;

use crate::chain::{Chain, Chains, Direction, Lookup, at_a_time};
use crate::features::{Features, Negotiated};
use crate::frame::Frame;
use crate::guest_bytes;
use crate::guest_tx::FRAME_BYTES_MIN;
use crate::header;
use crate::lane_counters::PortDrop;
use crate::queue::Work;
use crate::ring_fault::RingFault;
use crate::vring::{UsedEntries, Vring};

/// Length of the header of every driver but an old one.
const HEADER_BYTES: u32 = 12;
/// How many chains more are looked up for a frame that takes several.
const MORE_CHAINS: u16 = 8;

/// How packets of one receive queue look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestRx {
    features: Negotiated,
    header_bytes: u32,
    mergeable: bool,
    indirect: bool,
}

/// What becomes of a frame that does not fit into one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// It goes into this many chains.
    Over(u16),
    /// The chains at hand are too few.
    Short,
    /// No chain will do.
    Never(PortDrop),
}

impl GuestRx {
    pub(crate) fn new(features: Negotiated) -> Self {
        Self {
            features,
            header_bytes: if features.header_bytes() == 10 { 10 } else { HEADER_BYTES },
            mergeable: features.has(Features::MERGEABLE),
            indirect: features.has(Features::INDIRECT),
        }
    }

    /// Copies frames into the guest's buffers, in order, and counts in `done` how many were dealt with. Each that
    /// does not get there is counted under a named reason.
    ///
    /// # Errors
    /// With what broke the ring.
    #[inline]
    pub(crate) fn put(
        &self,
        work: &mut Work<'_>,
        frames: &[Frame<'_>],
        done: &mut usize,
    ) -> Result<(), RingFault> {
        while *done < frames.len() {
            self.round(work, &frames[*done..], done)?;
        }
        Ok(())
    }

    /// Looks up as many chains as fit at a time, and fills them. Deals with at least one frame, or uses at least
    /// one chain, or finds out what is wrong with the next.
    // Not inlined: the loop wants all registers for itself.
    #[inline(never)]
    fn round(&self, work: &mut Work<'_>, frames: &[Frame<'_>], done: &mut usize) -> Result<(), RingFault> {
        let Work { ring, chains, memory, hint, counters, burst } = work;
        let wanted = at_a_time(frames.len());
        let count = ring.pending(wanted)?.min(wanted);
        if count == 0 {
            counters.count_drops(PortDrop::NoGuestBuffer, frames.len() as u64);
            *done += frames.len();
            return Ok(());
        }
        ring.prefetch_used(count);
        chains.forget();
        let mut lookup = Lookup { memory, hint, direction: Direction::ToGuest, indirect: self.indirect };
        let mut fault = chains.take(count, ring, &mut lookup).err();
        // What the loop works with is private and copied, so that it can stay in registers.
        let (features, is_short, entries) =
            (self.features, self.header_bytes != HEADER_BYTES, ring.used_entries());
        let (mut used, mut is_at_fault, mut delivered, mut bytes) = (0, false, 0, 0);
        for frame in &frames[..wanted.into()] {
            let frame_bytes = frame.len_bytes();
            let Some(words) = frame.offload.for_driver(features) else {
                counters.count_drops(PortDrop::OffloadUntaken, 1);
                *done += 1;
                continue;
            };
            if frame_bytes < FRAME_BYTES_MIN {
                counters.count_drops(PortDrop::FrameTooShort, 1);
                *done += 1;
                continue;
            }
            if let Some(chain) = chains.all().get(usize::from(used))
                && !is_short
                && fill_one(chain, frame, words)
            {
                entries.put(used, chain.head, frame_bytes + HEADER_BYTES);
                used += 1;
            } else {
                match self.fit(frame_bytes, used, ring, chains, &mut lookup, &mut fault) {
                    Fit::Over(count) => {
                        self.fill(used, count, entries, chains, frame, words);
                        used += count;
                    }
                    // What comes behind what is used up to here may be enough: see in another round.
                    Fit::Short if used > 0 || fault.is_some() => {
                        is_at_fault = fault.is_some();
                        break;
                    }
                    Fit::Short => {
                        counters.count_drops(PortDrop::NoGuestBuffer, 1);
                        *done += 1;
                        continue;
                    }
                    Fit::Never(reason) => {
                        counters.count_drops(reason, 1);
                        *done += 1;
                        continue;
                    }
                }
            }
            delivered += 1;
            bytes += u64::from(frame_bytes);
            *done += 1;
        }
        burst.frames += delivered;
        burst.bytes += bytes;
        if used > 0 {
            burst.notify |= ring.publish(used);
        }
        // What is wrong with a chain breaks the ring when a frame has come to it, not before.
        fault.filter(|_| is_at_fault).map_or(Ok(()), Err)
    }

    /// How many chains from `from` on a frame goes into; looks up more of them as needed.
    #[inline(never)]
    fn fit(
        &self,
        frame_bytes: u32,
        from: u16,
        ring: &mut Vring,
        chains: &mut Chains,
        lookup: &mut Lookup<'_>,
        fault: &mut Option<RingFault>,
    ) -> Fit {
        let needed = u64::from(self.header_bytes) + u64::from(frame_bytes);
        let (mut count, mut room_bytes) = (0, 0);
        while room_bytes < needed {
            let at = from + count;
            if usize::from(at) == chains.all().len() && fault.is_none() {
                *fault = self.look_up_more(at, ring, chains, lookup).err();
            }
            let Some(chain) = chains.all().get(usize::from(at)) else { return Fit::Short };
            if chain.len_bytes < self.header_bytes {
                *fault = Some(RingFault::NoRoomForHeader { len_bytes: chain.len_bytes });
                chains.cut(at.into());
                return Fit::Short;
            }
            room_bytes += u64::from(chain.len_bytes);
            if room_bytes < needed && !self.mergeable {
                return Fit::Never(PortDrop::GuestBufferShort);
            }
            count += 1;
        }
        Fit::Over(count)
    }

    fn look_up_more(
        &self,
        at: u16,
        ring: &mut Vring,
        chains: &mut Chains,
        lookup: &mut Lookup<'_>,
    ) -> Result<(), RingFault> {
        let waiting = ring.pending(at + 1)?.saturating_sub(at);
        chains.take(waiting.min(MORE_CHAINS), ring, lookup)
    }

    /// Fills `count` chains from `from` on, which hold header and frame.
    #[inline(never)]
    fn fill(
        &self,
        from: u16,
        count: u16,
        entries: UsedEntries,
        chains: &Chains,
        frame: &Frame<'_>,
        words: (u64, u32),
    ) {
        let (low, high) = (words.0, header::with_buffers(words.1, count));
        let mut head = [0; HEADER_BYTES as usize];
        head[..8].copy_from_slice(&low.to_le_bytes());
        head[8..].copy_from_slice(&high.to_le_bytes());
        let [first, second] = &frame.segments;
        let mut pieces = Pieces {
            rest: [
                (NonNull::from(&head).cast(), self.header_bytes),
                (first.at, first.len_bytes),
                (second.at, second.len_bytes),
            ],
        };
        for ahead in from..from + count {
            let Some(chain) = chains.all().get(usize::from(ahead)) else { return };
            let mut written_bytes = 0;
            for segment in chains.segments(chain) {
                // SAFETY: the segment is translated and stays mapped. The pieces are the private header and
                // the frame's (`Segment`), and no piece lies in a guest's own memory.
                written_bytes += unsafe { pieces.pour(segment.at, segment.len_bytes) };
            }
            entries.put(ahead, chain.head, written_bytes);
        }
    }
}

/// Fills a chain of one segment with a header of full length and a frame, if it is long enough; false if it is not.
#[inline(always)]
fn fill_one(chain: &Chain, frame: &Frame<'_>, words: (u64, u32)) -> bool {
    let Some(only) = chain.only() else { return false };
    let [first, second] = &frame.segments;
    // u64, because u32 + u32 can wrap to a small, "fitting" length.
    let needed = u64::from(HEADER_BYTES) + u64::from(first.len_bytes) + u64::from(second.len_bytes);
    let fits = u64::from(only.len_bytes) >= needed || cfg!(feature = "sabotage-guest-room");
    if !fits {
        return false;
    }
    let (low, high) = (words.0, header::with_buffers(words.1, 1));
    // SAFETY: the segment is translated and stays mapped, and holds header and frame (above).
    unsafe { guest_bytes::store_header_if_new(only.at, low, high) };
    // SAFETY: as above.
    let to = unsafe { only.at.add(HEADER_BYTES as usize) };
    // SAFETY: as above. The source is mapped (`Segment`), and no piece of it lies in a guest's own memory.
    unsafe { guest_bytes::copy(first.at, to, first.len_bytes as usize) };
    if second.len_bytes > 0 {
        // SAFETY: behind the first piece, the second still fits (above).
        let to = unsafe { to.add(first.len_bytes as usize) };
        // SAFETY: as for the first.
        unsafe { guest_bytes::copy(second.at, to, second.len_bytes as usize) };
    }
    true
}

/// What is left to copy of a header and a frame.
struct Pieces {
    rest: [(NonNull<u8>, u32); 3],
}

impl Pieces {
    /// Copies as much as is left, or as fits; how much.
    ///
    /// # Safety
    /// - `room_bytes` bytes from `to` are mapped, and no reference of ours points there.
    /// - The pieces are mapped, and overlap them nowhere.
    unsafe fn pour(&mut self, to: NonNull<u8>, room_bytes: u32) -> u32 {
        let mut done = 0;
        for (from, left) in &mut self.rest {
            let part = (*left).min(room_bytes - done);
            // SAFETY: `done` is at most the room.
            let to = unsafe { to.add(done as usize) };
            // SAFETY: `part` bytes are left of the piece, and of the room.
            unsafe { guest_bytes::copy(*from, to, part as usize) };
            // SAFETY: within the piece, or right behind it.
            *from = unsafe { from.add(part as usize) };
            *left -= part;
            done += part;
        }
        done
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
