//! Frames on their way to a port whose transmit queue another lcore owns.
//!
//! One ring for each such port and lcore, in private memory: the same single-producer single-consumer ring as
//! towards guests, with indices of the sending lcore's shard. The sender's ledger says `Pmd` from the moment a
//! frame is in the ring. Its buffer comes home through its pool's return stack, since it is freed on the
//! owner's thread.

use dpdk::{BufferIndex, MbufBurst, Pool};
use shm_ring::desc::{Desc, RawDesc};
use shm_ring::layout::{CounterLine, Slot};
use shm_ring::ring::{Consumer, Producer, RingMemory};
use switch_core::ids::PortId;

use super::domain::Frame;
use super::lcore::RETURN_BURST;

/// Frames that wait for the owner at most.
const HANDOFF_SLOTS: usize = 512;

/// The sending lcore's end.
#[derive(Debug)]
pub(super) struct ToOwner(Producer<'static>);

/// The owner's end.
#[derive(Debug)]
pub(super) struct FromLcore {
    pub port: PortId,
    frames: Consumer<'static>,
    /// The pool of the sender's shard.
    pool: Pool,
    taken: [RawDesc; RETURN_BURST],
}

/// What came out of a ring.
pub(super) struct Taken {
    /// All of them.
    pub frames: usize,
    /// Those that were freed.
    pub refused: u64,
    /// Bytes of the others.
    pub bytes: u64,
}

/// Makes a ring from the lcore that owns `pool` to the owner of `port`'s queue. It stays for the rest of the
/// process, as regions do.
pub(super) fn ring(port: PortId, pool: Pool) -> (ToOwner, FromLcore) {
    let line = || CounterLine { value: 0.into(), want_wakeup: 0.into(), reserved: Default::default() };
    let slots = (0..HANDOFF_SLOTS).map(|_| Slot { word0: 0.into(), word1: 0.into() }).collect::<Vec<_>>();
    let memory = RingMemory::new(Box::leak(Box::new(line())), Box::leak(Box::new(line())), slots.leak());
    let from =
        FromLcore { port, frames: Consumer::new(memory), pool, taken: [RawDesc::default(); RETURN_BURST] };
    (ToOwner(Producer::new(memory, None)), from)
}

impl ToOwner {
    /// How many frames can be handed on now. Nobody but the switch writes this memory, so the counters hold.
    pub(super) fn room(&mut self, wanted: usize) -> usize {
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        self.0.room(wanted).map_or(0, |room| room as usize)
    }

    /// Hands a frame on, whose buffer the ledger calls the PMD's; there is room.
    pub(super) fn stage(&mut self, frame: Frame) {
        let Frame { index, offset_bytes, len_bytes } = frame;
        let desc = Desc {
            buffer_index: index.0,
            data_offset_bytes: offset_bytes,
            data_len_bytes: len_bytes,
            generation: 0,
            code: 0,
            flags: 0,
            aux: 0,
        };
        let staged = self.0.stage(desc.pack());
        debug_assert!(staged);
    }

    pub(super) fn publish(&mut self) {
        self.0.publish();
    }
}

impl FromLcore {
    /// Takes frames, as far as `burst` has room. A frame that does not lie in its buffer is freed.
    pub(super) fn take<const N: usize>(&mut self, burst: &mut MbufBurst<N>) -> Taken {
        let room = (N - burst.len()).min(RETURN_BURST);
        let taken = self.frames.take(&mut self.taken[..room]).unwrap_or(0);
        let (mut refused, mut bytes) = (0, 0);
        for raw in &self.taken[..taken] {
            let Desc { buffer_index, data_offset_bytes, data_len_bytes, .. } = raw.unpack();
            // SAFETY: the sending lcore put this index of its own pool here after `Shard::send` agreed that it
            // held the buffer, and forgot it; the ring is private memory and gives each entry once. From here
            // on the mbuf is the holder.
            let mut mbuf = unsafe { self.pool.mbuf_at(BufferIndex(buffer_index)) };
            if mbuf.set_data(data_offset_bytes, data_len_bytes).is_err() || burst.push(mbuf).is_err() {
                refused += 1;
            } else {
                bytes += u64::from(data_len_bytes);
            }
        }
        self.frames.release();
        Taken { frames: taken, refused, bytes }
    }
}
