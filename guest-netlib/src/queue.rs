//! One queue pair: the rings between this endpoint and one lcore of the switch.
//!
//! Buffers of an lcore come back on the ring of the same lcore; a [`crate::Packet`] remembers its queue pair and
//! goes home there. Verdicts are staged as they are given and shown to the switch once a burst, at the next
//! [`QueuePair::poll`], when a [`crate::Burst`] ends, or by [`QueuePair::flush`].
//!
//! Each ring has one producer and one consumer, so a queue pair has one thread at a time:
//!
//! ```compile_fail,E0277
//! fn two_threads_poll_one_pair(endpoint: guest_netlib::Endpoint) {
//!     let pair = &endpoint.queue_pairs()[0];
//!     std::thread::scope(|threads| {
//!         threads.spawn(move || pair.flush()); // error: a queue pair cannot be shared
//!         pair.flush();
//!     });
//! }
//! ```

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use shm_ring::area::{self, GuestEndpoint};
use shm_ring::attach::HostPhase;
use shm_ring::desc::{Desc, Kind, REFERENCE, RawDesc, Verdict};
use shm_ring::layout::RING_SLOTS_MAX;
use shm_ring::reference::ReferenceTable;
use shm_ring::ring::{Consumer, PeerCounterError, Producer};

use crate::burst::{BURST_PACKETS_MAX, Burst};
use crate::device::Device;
use crate::empty::EmptyBuffer;
use crate::packet::{BurstCheck, Held, is_inside};
use crate::region::Buffers;
use crate::shown::{QueueCounters, Shown};
use crate::view::{View, released};

/// Polls between two looks at the slow words: heartbeat and counters.
const POLLS_PER_BEAT: u32 = 64;

/// Why a queue pair takes no more packets. Attach again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// The switch has ended this attach.
    #[error("the switch has detached this endpoint: epoch {ours} is over")]
    Detached {
        /// The epoch that we attached with.
        ours: u32,
    },
    /// A counter of the switch that no honest switch writes.
    #[error("host_to_guest or guest_to_host ring: {0}")]
    Counter(#[from] PeerCounterError),
    /// A descriptor that no honest switch writes.
    #[error(
        "the switch lends buffer {buffer_index} at offset {offset_bytes} with {len_bytes} bytes, kind {kind:#04x}; the region \
         has {buffer_count} buffers of {stride_bytes} bytes"
    )]
    Descriptor {
        /// Index in the descriptor.
        buffer_index: u32,
        /// Data offset in the descriptor.
        offset_bytes: u16,
        /// Data length in the descriptor.
        len_bytes: u16,
        /// Kind in the descriptor.
        kind: u8,
        /// Buffers of the region.
        buffer_count: u32,
        /// Bytes of a buffer.
        stride_bytes: u32,
    },
    /// The ring back has no room, though the switch promises one slot per lent buffer.
    #[error("the guest_to_host ring is full: the switch made it smaller than the quota of this endpoint")]
    NoRoomToReturn,
}

/// The rings between one endpoint and one lcore. It may move to another thread; two threads cannot share it.
#[derive(Debug)]
pub struct QueuePair {
    incoming: RefCell<Consumer<'static>>,
    outgoing: Producer<'static>,
    /// Empty buffers that wait for [`QueuePair::take_empty`]; room for the whole credit from the start.
    empties: RefCell<Vec<Desc>>,
    /// What packets may lie in; nothing, of an observer.
    buffers: Buffers,
    /// What views may lie in.
    seen: Buffers,
    references: ReferenceTable<'static>,
    words: GuestEndpoint<'static>,
    epoch: u32,
    lcore: u16,
    /// Position in the outgoing ring up to which the switch has been shown verdicts.
    published: Cell<u32>,
    /// What ended this queue pair; polls report it.
    fault: Cell<Option<PollError>>,
    polls_to_beat: Cell<u32>,
    counts: Counts,
    /// The counters as last added to those that the switch shows.
    shown_counters: Cell<QueueCounters>,
    shown: Arc<Shown>,
    /// Keeps the memory under the rings and `buffers` mapped; last, so that it goes last.
    _device: Arc<Device>,
}

/// What [`QueueCounters`] are made of, one cell each. Most packets are sent on, so that is what nobody counts:
/// it is what was given back, less the exceptions.
#[derive(Debug, Default)]
struct Counts {
    received: Cell<u64>,
    /// Shown to the switch, with whatever verdict.
    given_back: Cell<u64>,
    dropped: Cell<u64>,
    /// Empty buffers given back unused.
    unused: Cell<u64>,
    /// Views given back.
    released: Cell<u64>,
    made: Cell<u64>,
    empty_polls: Cell<u64>,
}

#[inline(always)]
fn count(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get().wrapping_add(more));
}

impl QueuePair {
    /// Takes up the rings of `pair` at zero, right after their epoch was confirmed.
    pub(crate) fn new(
        device: &Arc<Device>,
        words: GuestEndpoint<'static>,
        shown: &Arc<Shown>,
        epoch: u32,
        pair: &area::QueuePair<'static>,
    ) -> Self {
        // A credit that no ring could carry is no reason to allocate for it.
        let credit = words.facts().credit_buffers.min(RING_SLOTS_MAX);
        Self {
            incoming: RefCell::new(Consumer::new(pair.host_to_guest)),
            outgoing: Producer::new(pair.guest_to_host, None),
            empties: RefCell::new(Vec::with_capacity(credit as usize)),
            buffers: device.buffers(),
            seen: device.seen(),
            references: pair.references,
            words,
            epoch,
            lcore: pair.lcore,
            published: Cell::new(0),
            fault: Cell::new(None),
            polls_to_beat: Cell::new(POLLS_PER_BEAT),
            counts: Counts::default(),
            shown_counters: Cell::default(),
            shown: Arc::clone(shown),
            _device: Arc::clone(device),
        }
    }

    /// The switch's lcore at the other end.
    #[must_use]
    pub fn lcore(&self) -> u16 {
        self.lcore
    }

    /// Shows the switch the verdicts given so far, takes the packets that wait into `burst`, and returns how
    /// many. What `burst` still held goes back first, with the verdict drop. Never blocks.
    ///
    /// # Errors
    /// If this attach is over, or the switch wrote what no honest switch writes. Attach again.
    #[inline]
    pub fn poll<'q>(&'q self, burst: &mut Burst<'q>) -> Result<usize, PollError> {
        self.poll_up_to(burst, BURST_PACKETS_MAX)
    }

    /// As [`QueuePair::poll`], but takes at most `packets_max`.
    ///
    /// # Errors
    /// As [`QueuePair::poll`].
    #[inline]
    pub fn poll_up_to<'q>(&'q self, burst: &mut Burst<'q>, packets_max: usize) -> Result<usize, PollError> {
        burst.finish();
        self.flush();
        self.check_attached()?;
        let room = &mut burst.room()[..packets_max.min(BURST_PACKETS_MAX)];
        let packets = self.take_packets(room)?;
        // SAFETY: `take_packets` has moved to the front what passed the check, and nobody wrote there since.
        unsafe { burst.hold(self, packets) };
        self.count_poll(packets);
        Ok(packets)
    }

    /// Shows the switch the verdicts given so far. Needed only before a pause without a poll.
    #[inline]
    pub fn flush(&self) {
        let staged = self.outgoing.next_sequence();
        let more = staged.wrapping_sub(self.published.get());
        if more > 0 {
            self.outgoing.publish();
            self.published.set(staged);
            count(&self.counts.given_back, u64::from(more));
        }
    }

    /// An empty buffer to make a packet in, if the switch has lent one; polling brings them in.
    pub fn take_empty(&self) -> Option<EmptyBuffer<'_>> {
        let desc = self.empties.borrow_mut().pop()?;
        // Always there: `put_aside` keeps only descriptors that pass this check.
        Some(EmptyBuffer::new(Held::new(self, desc.pack())?))
    }

    /// What was moved since the attach.
    #[must_use]
    pub fn counters(&self) -> QueueCounters {
        let staged = self.outgoing.next_sequence();
        let given_back = self.counts.given_back.get() + u64::from(staged.wrapping_sub(self.published.get()));
        let (dropped, unused) = (self.counts.dropped.get(), self.counts.unused.get());
        let released = self.counts.released.get();
        QueueCounters {
            received: self.counts.received.get(),
            sent: given_back - dropped - unused - released,
            dropped,
            released,
            made: self.counts.made.get(),
            empty_polls: self.counts.empty_polls.get(),
        }
    }

    /// Shows the switch the views given back so far, and hands each view that waits, at most a burst, to `handler`;
    /// how many. For an observer: anybody else is brought packets. Never blocks.
    ///
    /// # Errors
    /// As [`QueuePair::poll`].
    pub fn poll_views<'q>(&'q self, handler: impl FnMut(View<'q>)) -> Result<usize, PollError> {
        self.poll_views_up_to(BURST_PACKETS_MAX, handler)
    }

    /// As [`QueuePair::poll_views`], but takes at most `views_max`.
    ///
    /// # Errors
    /// As [`QueuePair::poll`].
    pub fn poll_views_up_to<'q>(
        &'q self,
        views_max: usize,
        mut handler: impl FnMut(View<'q>),
    ) -> Result<usize, PollError> {
        self.flush();
        self.check_attached()?;
        let mut burst = [RawDesc::default(); BURST_PACKETS_MAX];
        let taken = self.take(&mut burst[..views_max.min(BURST_PACKETS_MAX)], |_| ())?;
        let mut views = 0;
        for raw in &burst[..taken] {
            let Desc { code, flags, .. } = raw.unpack();
            if code == REFERENCE && flags == 0 && is_inside(self.seen, *raw) {
                views += 1;
                handler(View::new(self, *raw));
            } else {
                self.refuse(raw.unpack());
            }
        }
        self.flush();
        self.count_poll(views);
        Ok(views)
    }

    /// Whether it brings views instead of packets.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.references.count() > 0
    }

    pub(crate) fn references(&self) -> ReferenceTable<'static> {
        self.references
    }

    pub(crate) fn seen(&self) -> Buffers {
        self.seen
    }

    /// Stages a view on its way home.
    pub(crate) fn give_back_view(&self, raw: RawDesc) {
        let back = released(raw);
        if self.outgoing.stage(back) || self.give_back_to_a_full_ring(back.word0, back.word1) {
            count(&self.counts.released, 1);
        }
    }

    pub(crate) fn buffers(&self) -> Buffers {
        self.buffers
    }

    pub(crate) fn count_made(&self) {
        count(&self.counts.made, 1);
    }

    /// Stages one descriptor on its way home; its code is that of `verdict`.
    #[inline(always)]
    pub(crate) fn give_back(&self, raw: RawDesc, verdict: Verdict) {
        if !self.outgoing.stage(raw) && !self.give_back_to_a_full_ring(raw.word0, raw.word1) {
            return;
        }
        match verdict {
            Verdict::Drop => count(&self.counts.dropped, 1),
            Verdict::ReturnEmpty => count(&self.counts.unused, 1),
            Verdict::Next | Verdict::ToService | Verdict::ToPort => {}
        }
    }

    /// Looks how far the switch has read by now, and tries once more; whether that helped.
    #[cold]
    #[inline(never)]
    fn give_back_to_a_full_ring(&self, word0: u64, word1: u64) -> bool {
        let fault = match self.outgoing.room(1) {
            // Words, so that the caller keeps its descriptor in registers.
            Ok(_) if self.outgoing.stage(RawDesc { word0, word1 }) => return true,
            Ok(_) => PollError::NoRoomToReturn,
            Err(err) => PollError::Counter(err),
        };
        // The buffer goes home when this epoch ends; polls report the fault, and that ends it.
        self.fault.set(Some(fault));
        false
    }

    #[inline(always)]
    fn check_attached(&self) -> Result<(), PollError> {
        if let Some(fault) = self.fault.get() {
            return Err(fault);
        }
        let served = matches!(
            self.words.phase(),
            Some(HostPhase::Published | HostPhase::Attached | HostPhase::Draining)
        );
        if !served || self.words.host_epoch() != self.epoch {
            return Err(PollError::Detached { ours: self.epoch });
        }
        Ok(())
    }

    /// Takes what waits into `room`, shows `look` each descriptor, and returns how many.
    #[inline(always)]
    fn take(&self, room: &mut [RawDesc], look: impl FnMut(RawDesc)) -> Result<usize, PollError> {
        let mut incoming = self.incoming.borrow_mut();
        let taken = incoming.take_in_place(room.len())?.copy_out(room, look);
        if taken > 0 {
            incoming.release();
        }
        Ok(taken)
    }

    /// As [`QueuePair::take`]; how many packets are in front of `room` then. Empty buffers are put aside, and a
    /// descriptor that names no part of the region is a fault that the next poll reports.
    #[inline(always)]
    fn take_packets(&self, room: &mut [RawDesc]) -> Result<usize, PollError> {
        let mut check = BurstCheck::new(self.buffers);
        let taken = self.take(room, |raw| check.add(raw))?;
        // Nearly always all of them are packets, and nothing is to be moved.
        if check.are_packets() { Ok(taken) } else { Ok(self.sort_out(&mut room[..taken])) }
    }

    /// Moves the packets of a burst that does not hold packets only to the front; how many.
    #[cold]
    fn sort_out(&self, taken: &mut [RawDesc]) -> usize {
        let mut packets = 0;
        for at in 0..taken.len() {
            let raw = taken[at];
            let Desc { code, flags, .. } = raw.unpack();
            if code == Kind::Packet as u8 && flags == 0 && is_inside(self.buffers, raw) {
                taken[packets] = raw;
                packets += 1;
            } else {
                self.put_aside(raw);
            }
        }
        packets
    }

    #[cold]
    fn put_aside(&self, raw: RawDesc) {
        let desc = raw.unpack();
        let empty = desc.code == Kind::Empty as u8 && desc.flags == 0 && is_inside(self.buffers, raw);
        let mut empties = self.empties.borrow_mut();
        if empty && empties.len() < empties.capacity() {
            empties.push(desc);
            return;
        }
        drop(empties);
        self.refuse(desc);
    }

    /// Takes note of a descriptor that no honest switch writes; the next poll reports it.
    #[cold]
    fn refuse(&self, desc: Desc) {
        self.fault.set(Some(PollError::Descriptor {
            buffer_index: desc.buffer_index,
            offset_bytes: desc.data_offset_bytes,
            len_bytes: desc.data_len_bytes,
            kind: desc.code,
            buffer_count: self.seen.count(),
            stride_bytes: self.seen.stride_bytes(),
        }));
    }

    #[inline(always)]
    fn count_poll(&self, packets: usize) {
        count(&self.counts.received, packets as u64);
        count(&self.counts.empty_polls, u64::from(packets == 0));
        let left = self.polls_to_beat.get() - 1;
        self.polls_to_beat.set(left);
        if left == 0 {
            self.beat();
        }
    }

    /// Moves the heartbeat on and brings the counters that the switch shows up to date.
    pub(crate) fn beat(&self) {
        self.polls_to_beat.set(POLLS_PER_BEAT);
        let now = self.counters();
        if self.shown.beat(&self.shown_counters.get(), &now) {
            self.shown_counters.set(now);
        }
    }

    /// Gives back what waits in the rings, without looking at it, and shows the last counters. An observer's
    /// references end by themselves when it leaves.
    pub(crate) fn end(&self) {
        if self.observes() {
            self.flush();
            return self.beat();
        }
        let mut burst = Burst::new();
        // Bounded: the switch may go on feeding until it sees that we leave.
        for _ in 0..RING_SLOTS_MAX as usize / BURST_PACKETS_MAX {
            match self.poll(&mut burst) {
                Ok(packets) if packets > 0 => {}
                Ok(_) | Err(_) => break,
            }
        }
        drop(burst);
        for empty in self.empties.take() {
            let unused = Desc { code: Verdict::ReturnEmpty as u8, aux: 0, ..empty };
            self.give_back(unused.pack(), Verdict::ReturnEmpty);
        }
        self.flush();
        self.beat();
    }
}
