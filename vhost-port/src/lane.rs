//! What one lcore owns of a port: its queue pairs, between which no lock is needed.
//!
//! Queue pair i belongs to lane i modulo the number of lanes. Between two bursts the lane takes up what control
//! has published ([`Lane::adopt`]); within a burst nothing changes, and nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chain::{BURST_CHAINS_MAX, Chains};
use crate::frame::{Frame, Received, Room, Segment};
use crate::guest_rx::GuestRx;
use crate::guest_tx::GuestTx;
use crate::lane_counters::{LaneCounters, PortDrop};
use crate::publication::Subscription;
use crate::queue::{Burst, Queue, Work};
use crate::ring_fault::RingFault;
use crate::setup::{DeviceSetup, RING_ENTRIES_MAX};

/// The code by which a queue's report names what broke it.
#[must_use]
pub const fn broken_code(fault: RingFault) -> u32 {
    fault.kind() as u32 + 1
}

/// The name of what broke a queue, by the code in its report.
#[must_use]
pub fn broken_name(code: u32) -> Option<&'static str> {
    RingFault::NAMES.get((code as usize).checked_sub(1)?).copied()
}

/// One pair of queues, seen from the guest.
#[derive(Debug, Default)]
struct QueuePair {
    receive: Option<Queue<GuestRx>>,
    transmit: Option<Queue<GuestTx>>,
}

/// One lcore's share of a port.
#[derive(Debug)]
pub struct Lane {
    subscription: Subscription<DeviceSetup>,
    lanes: usize,
    /// Whether control need not wait for us.
    is_away: bool,
    setup: Option<Arc<DeviceSetup>>,
    pairs: Vec<QueuePair>,
    /// Positions in `pairs` whose receive queue may be used.
    receiving: Vec<usize>,
    /// The pair whose transmit queue is looked at first.
    turn: usize,
    chains: Chains,
    counters: Arc<LaneCounters>,
    /// The owner of the port has closed it: nothing is served, however long control takes to end the session.
    is_closed: Arc<AtomicBool>,
}

impl Lane {
    /// A lane of `lanes`, which holds nothing and is not polled yet.
    #[must_use]
    pub fn new(subscription: Subscription<DeviceSetup>, lanes: usize, counters: Arc<LaneCounters>) -> Self {
        Self {
            subscription,
            lanes: lanes.max(1),
            is_away: true,
            setup: None,
            pairs: Vec::new(),
            receiving: Vec::new(),
            turn: 0,
            chains: Chains::new(RING_ENTRIES_MAX),
            counters,
            is_closed: Arc::default(),
        }
    }

    /// The same, of a port that is closed by this flag.
    pub(crate) fn closed_by(mut self, is_closed: Arc<AtomicBool>) -> Self {
        self.is_closed = is_closed;
        self
    }

    /// What this lane counts.
    #[must_use]
    pub fn counters(&self) -> &Arc<LaneCounters> {
        &self.counters
    }

    /// Takes up what control has published since the last look. To be called between two bursts, before each.
    #[inline]
    pub fn adopt(&mut self) {
        if self.is_away || self.subscription.has_news() {
            self.renew();
        }
    }

    /// Lets go of everything until the next [`Lane::adopt`]: control does not wait for this lane then.
    #[cold]
    pub fn park(&mut self) {
        if self.is_away {
            return;
        }
        self.report();
        self.forget();
        self.is_away = true;
        self.subscription.go_away();
    }

    /// Whether frames can go to the guest now.
    #[inline]
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        !self.receiving.is_empty() && self.may_serve()
    }

    /// Whether there may be something to dequeue: a look at one word of each ring, before rooms are made.
    #[inline]
    #[must_use]
    pub fn is_sending(&self) -> bool {
        let mut transmit = self.pairs.iter().filter_map(|pair| pair.transmit.as_ref());
        transmit.any(|queue| queue.is_usable() && queue.ring.has_moved()) && self.may_serve()
    }

    /// Whether flows are spread over several queues; if not, nobody looks at [`Frame::flow`].
    #[inline]
    #[must_use]
    pub fn spreads_flows(&self) -> bool {
        self.receiving.len() > 1
    }

    /// Copies what the guest has sent into rooms, in order for each queue, and says how many.
    ///
    /// Takes as many as there are rooms, and at most 64 of a queue; fewer when the budget of bytes or descriptors is
    /// spent, which all queues share.
    #[inline]
    pub fn dequeue(&mut self, rooms: &mut [Room<'_>], received: &mut [Received]) -> usize {
        if !self.may_serve() {
            return 0;
        }
        let Self { setup: Some(setup), pairs, turn, chains, counters, subscription, lanes, .. } = self else {
            return 0;
        };
        let mut burst = Burst::default();
        // One budget for all queues: a guest with many of them must not hold up an lcore for as many times.
        chains.clear();
        let (first, count) = (*turn, pairs.len());
        for at in (first..count).chain(0..first) {
            let Some(queue) = pairs[at].transmit.as_mut().filter(|queue| queue.is_usable()) else { continue };
            let mut work = Work {
                ring: &mut queue.ring,
                chains,
                memory: &setup.memory,
                hint: &mut queue.hint,
                counters,
                burst: &mut burst,
            };
            let done = queue.way.take(&mut work, rooms, received);
            queue.notify(&mut burst, counters);
            if let Err(fault) = done {
                let number = subscription.lane() + at * *lanes;
                queue.break_off(fault, counters, subscription.report(2 * number + 1));
            }
        }
        *turn = if first + 1 < count { first + 1 } else { 0 };
        if burst.frames > 0 {
            counters.count_from_guest(burst.frames as u64, burst.bytes);
        }
        burst.frames
    }

    /// Copies frames into the guest's buffers, in order for each flow, and says how many got there. The others
    /// are counted under named reasons.
    #[inline]
    pub fn enqueue(&mut self, frames: &[Frame<'_>]) -> usize {
        let mut burst = Burst::default();
        self.chains.clear();
        match *self.receiving {
            _ if !self.may_serve() => self.counters.count_drops(PortDrop::QueueOff, frames.len() as u64),
            [] => self.counters.count_drops(PortDrop::QueueOff, frames.len() as u64),
            [only] => self.put(only, frames, &mut burst),
            _ => self.spread(frames, &mut burst),
        }
        if burst.frames > 0 {
            self.counters.count_to_guest(burst.frames as u64, burst.bytes);
        }
        if burst.has_broken {
            self.find_receiving();
        }
        burst.frames
    }

    #[inline(always)]
    fn put(&mut self, at: usize, frames: &[Frame<'_>], burst: &mut Burst) {
        let Self { setup: Some(setup), pairs, chains, counters, .. } = self else { return };
        let Some(queue) = &mut pairs[at].receive else { return };
        let mut work = Work {
            ring: &mut queue.ring,
            chains,
            memory: &setup.memory,
            hint: &mut queue.hint,
            counters,
            burst,
        };
        let mut dealt_with = 0;
        let done = queue.way.put(&mut work, frames, &mut dealt_with);
        queue.notify(burst, counters);
        if let Err(fault) = done {
            burst.has_broken = true;
            self.break_receive(at, fault, frames.len() - dealt_with);
        }
    }

    /// Frames for several queues: those of one flow go to one queue.
    #[inline(never)]
    fn spread(&mut self, frames: &[Frame<'_>], burst: &mut Burst) {
        let nothing = Frame::whole(Segment::EMPTY, 0);
        // Those that were usable when the burst began: a flow keeps its queue until the end, whichever queue breaks.
        let queues = self.receiving.len();
        for part in frames.chunks(BURST_CHAINS_MAX) {
            for choice in 0..queues {
                let mut chosen = [nothing; BURST_CHAINS_MAX];
                let mut count = 0;
                for frame in part.iter().filter(|frame| frame.flow as usize % queues == choice) {
                    chosen[count] = *frame;
                    count += 1;
                }
                let at = self.receiving[choice];
                let is_usable = self.pairs[at].receive.as_ref().is_some_and(Queue::is_usable);
                match count {
                    0 => {}
                    _ if is_usable => self.put(at, &chosen[..count], burst),
                    _ => self.counters.count_drops(PortDrop::QueueOff, count as u64),
                }
            }
        }
    }

    #[cold]
    fn break_receive(&mut self, at: usize, fault: RingFault, frames: usize) {
        let report = self.subscription.report(2 * self.pair_number(at));
        if let Some(queue) = &mut self.pairs[at].receive {
            queue.break_off(fault, &self.counters, report);
        }
        self.counters.count_drops(PortDrop::QueueOff, frames as u64);
    }

    /// Takes up what control has published.
    #[cold]
    #[inline(never)]
    fn renew(&mut self) {
        if self.is_away {
            self.subscription.come_back();
            self.is_away = false;
        }
        let Some((generation, setup)) = self.subscription.take() else { return };
        self.report();
        let mut before = std::mem::take(&mut self.pairs);
        let count = setup.queues.len() / 2;
        self.pairs = (self.subscription.lane()..count)
            .step_by(self.lanes)
            .enumerate()
            .map(|(at, number)| {
                let old = before.get_mut(at).map(std::mem::take).unwrap_or_default();
                QueuePair {
                    receive: Queue::renewed(&setup, 2 * number, old.receive, GuestRx::new(setup.features)),
                    transmit: Queue::renewed(
                        &setup,
                        2 * number + 1,
                        old.transmit,
                        GuestTx::new(setup.features),
                    ),
                }
            })
            .collect();
        self.turn = 0;
        self.setup = Some(setup);
        self.find_receiving();
        drop(before);
        self.subscription.acknowledge(generation);
    }

    /// Tells control where each queue stands.
    fn report(&self) {
        for (at, pair) in self.pairs.iter().enumerate() {
            let number = 2 * self.pair_number(at);
            if let Some(queue) = &pair.receive {
                self.subscription.report(number).set_next_available(queue.ring.next_avail());
            }
            if let Some(queue) = &pair.transmit {
                self.subscription.report(number + 1).set_next_available(queue.ring.next_avail());
            }
        }
    }

    fn forget(&mut self) {
        self.pairs.clear();
        self.receiving.clear();
        self.chains.clear();
        self.setup = None;
    }

    /// Whether the port is open and no page of the guest's memory was lost: each further look there could be one
    /// more SIGBUS. Control ends the session in both cases, but not at once.
    #[inline]
    fn may_serve(&self) -> bool {
        let is_lost = self.setup.as_ref().is_some_and(|setup| setup.memory.is_lost());
        let is_closed = self.is_closed.load(Ordering::Relaxed) && !cfg!(feature = "sabotage-closed-port");
        !is_closed && (!is_lost || cfg!(feature = "sabotage-lost-memory"))
    }

    fn find_receiving(&mut self) {
        let usable = |pair: &QueuePair| pair.receive.as_ref().is_some_and(Queue::is_usable);
        self.receiving = (0..self.pairs.len()).filter(|&at| usable(&self.pairs[at])).collect();
    }

    /// The number in the device of a pair of ours.
    fn pair_number(&self, at: usize) -> usize {
        self.subscription.lane() + at * self.lanes
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.park();
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
