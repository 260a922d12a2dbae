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
use shm_ring::desc::{Desc, Kind, RawDesc, Verdict};
use shm_ring::layout::RING_SLOTS_MAX;
use shm_ring::ring::{Consumer, PeerCounterError, Producer};

use crate::burst::{BURST_PACKETS_MAX, Burst};
use crate::device::Device;
use crate::empty::EmptyBuffer;
use crate::packet::Held;
use crate::region::Buffers;
use crate::shown::{QueueCounters, Shown};

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
    outgoing: RefCell<Producer<'static>>,
    /// Empty buffers that wait for [`QueuePair::take_empty`]; room for the whole credit from the start.
    empties: RefCell<Vec<Desc>>,
    buffers: Buffers,
    words: GuestEndpoint<'static>,
    epoch: u32,
    lcore: u16,
    /// Verdicts are staged that the switch has not been shown.
    unpublished: Cell<bool>,
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

/// [`QueueCounters`], one cell each: the hot path moves one at a time.
#[derive(Debug, Default)]
struct Counts {
    received: Cell<u64>,
    sent: Cell<u64>,
    dropped: Cell<u64>,
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
            outgoing: RefCell::new(Producer::new(pair.guest_to_host, None)),
            empties: RefCell::new(Vec::with_capacity(credit as usize)),
            buffers: device.buffers(),
            words,
            epoch,
            lcore: pair.lcore,
            unpublished: Cell::new(false),
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
        let taken = self.take(room)?;
        let packets = self.keep_packets(&mut room[..taken]);
        burst.hold(self, packets);
        self.count_poll(packets);
        Ok(packets)
    }

    /// Shows the switch the verdicts given so far. Needed only before a pause without a poll.
    #[inline]
    pub fn flush(&self) {
        if self.unpublished.replace(false) {
            self.outgoing.borrow_mut().publish();
        }
    }

    /// An empty buffer to make a packet in, if the switch has lent one; polling brings them in.
    pub fn take_empty(&self) -> Option<EmptyBuffer<'_>> {
        let desc = self.empties.borrow_mut().pop()?;
        // Always there: `keep_packets` keeps only descriptors that pass this check.
        Some(EmptyBuffer::new(Held::new(self, &desc)?))
    }

    /// What was moved since the attach.
    #[must_use]
    pub fn counters(&self) -> QueueCounters {
        QueueCounters {
            received: self.counts.received.get(),
            sent: self.counts.sent.get(),
            dropped: self.counts.dropped.get(),
            made: self.counts.made.get(),
            empty_polls: self.counts.empty_polls.get(),
        }
    }

    pub(crate) fn buffers(&self) -> Buffers {
        self.buffers
    }

    pub(crate) fn count_made(&self) {
        count(&self.counts.made, 1);
    }

    /// Stages one descriptor on its way home.
    #[inline(always)]
    pub(crate) fn give_back(&self, desc: Desc) {
        match Verdict::from_code(desc.code) {
            Some(Verdict::Drop) => count(&self.counts.dropped, 1),
            Some(Verdict::ReturnEmpty) | None => {}
            Some(_) => count(&self.counts.sent, 1),
        }
        if !self.outgoing.borrow_mut().stage(desc.pack()) {
            self.give_back_to_a_full_ring(desc);
        }
        self.unpublished.set(true);
    }

    /// Looks how far the switch has read by now, and tries once more.
    #[cold]
    fn give_back_to_a_full_ring(&self, desc: Desc) {
        let mut outgoing = self.outgoing.borrow_mut();
        let fault = match outgoing.room(1) {
            Ok(_) if outgoing.stage(desc.pack()) => return,
            Ok(_) => PollError::NoRoomToReturn,
            Err(err) => PollError::Counter(err),
        };
        // The buffer goes home when this epoch ends; polls report the fault, and that ends it.
        self.fault.set(Some(fault));
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

    #[inline(always)]
    fn take(&self, room: &mut [RawDesc]) -> Result<usize, PollError> {
        let mut incoming = self.incoming.borrow_mut();
        let taken = incoming.take(room)?;
        if taken > 0 {
            incoming.release();
        }
        Ok(taken)
    }

    /// Moves the packets to the front and returns how many; empty buffers are put aside, and a descriptor that
    /// names no part of the region is a fault that the next poll reports.
    #[inline(always)]
    fn keep_packets(&self, taken: &mut [RawDesc]) -> usize {
        let mut packets = 0;
        for at in 0..taken.len() {
            let raw = taken[at];
            let desc = raw.unpack();
            if desc.code == Kind::Packet as u8 && desc.flags == 0 && Held::new(self, &desc).is_some() {
                taken[packets] = raw;
                packets += 1;
            } else {
                self.put_aside(desc);
            }
        }
        packets
    }

    #[cold]
    fn put_aside(&self, desc: Desc) {
        let empty = desc.code == Kind::Empty as u8 && desc.flags == 0 && Held::new(self, &desc).is_some();
        let mut empties = self.empties.borrow_mut();
        if empty && empties.len() < empties.capacity() {
            empties.push(desc);
            return;
        }
        self.fault.set(Some(PollError::Descriptor {
            buffer_index: desc.buffer_index,
            offset_bytes: desc.data_offset_bytes,
            len_bytes: desc.data_len_bytes,
            kind: desc.code,
            buffer_count: self.buffers.count(),
            stride_bytes: self.buffers.stride_bytes(),
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

    /// Gives back what waits in the rings, without looking at it, and shows the last counters.
    pub(crate) fn end(&self) {
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
            self.give_back(Desc { code: Verdict::ReturnEmpty as u8, aux: 0, ..empty });
        }
        self.flush();
        self.beat();
    }
}
