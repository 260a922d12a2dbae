//! One polling thread: what it owns, and one turn of its loop.
//!
//! A turn moves at most a burst for each receive queue and each endpoint, so its length is bounded by the
//! configuration. Nothing in it waits: a full ring, an empty pool and a full transmit queue are named drops.
//! Within a turn, buffers change hands in the ledger first, then in the rings; each ring is published once, at
//! the end.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use dpdk::MbufBurst;
use shm_ring::desc::{Kind, RawDesc, Verdict};
use switch_core::drop_reason::DropReason;
use switch_core::fault::DescFault;
use switch_core::forwarding::{Decision, Forwarding, Step};
use switch_core::header::HeaderCopy;
use switch_core::ids::{ChainId, LcoreId, PortId};
use switch_core::ledger::PacketPath;
use switch_core::liveness::Liveness;
use switch_core::shard::{Ingress as Arrival, Returned};

use super::domain::{DomainLane, DomainState, Frame};
use super::egress::{Egress, FLUSH_FRAMES};
use super::endpoint::EndpointLane;
use super::handoff::FromLcore;
use super::idle::Backoff;
use super::ingress::{self, Ingress, RX_BURST, Refused, Source};
use super::message::{Event, Message};
use super::route::{EventSink, Route, cut_off};

/// Descriptors taken from an endpoint in one turn.
pub(super) const RETURN_BURST: usize = 64;
/// Empty buffers lent to an endpoint in one turn.
const EMPTIES_BURST: usize = 16;
/// Turns between two looks at messages, clock and lost regions while packets move.
const HOUSEKEEPING_TURNS: u64 = 32;

/// Everything that one polling thread owns.
#[derive(Debug)]
pub(super) struct Lcore {
    pub id: LcoreId,
    pub cpu: Option<usize>,
    pub domains: Vec<DomainLane>,
    pub endpoints: Vec<EndpointLane>,
    pub ingresses: Vec<Ingress>,
    /// By port.
    pub egresses: Vec<Egress>,
    /// Frames of other lcores for ports whose only queue this lcore owns.
    pub handoffs: Vec<FromLcore>,
    pub forwarding: Arc<Forwarding>,
    pub live: Liveness,
    /// Positions of the endpoints that have a queue pair here.
    pub served: Vec<usize>,
    pub messages: Receiver<Message>,
    pub events: EventSink,
    pub backoff: Backoff,
    pub started: Instant,
    pub now_ms: u32,
    pub polls: u64,
    pub idle_polls: u64,
    pub returns: Box<[RawDesc; RETURN_BURST]>,
    pub header: Box<HeaderCopy>,
}

/// Whether the thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Poll,
    Stop,
}

impl Lcore {
    /// Polls until told to stop.
    pub(super) fn run(&mut self) {
        let mut is_idle = true;
        loop {
            if (is_idle || self.polls.is_multiple_of(HOUSEKEEPING_TURNS)) && self.keep_house() == Next::Stop {
                return self.let_go();
            }
            is_idle = self.poll() == 0;
            if is_idle {
                self.idle_polls += 1;
                self.backoff.wait();
            } else {
                self.backoff.moved();
            }
        }
    }

    /// What need not happen in every turn.
    fn keep_house(&mut self) -> Next {
        #[allow(clippy::cast_possible_truncation, reason = "coarse time wraps by design")]
        {
            self.now_ms = self.started.elapsed().as_millis() as u32;
        }
        self.notice_lost_regions();
        self.adopt_messages()
    }

    /// One turn; how many packets and descriptors moved.
    pub(super) fn poll(&mut self) -> usize {
        self.polls += 1;
        let mut moved = 0;
        for position in 0..self.ingresses.len() {
            moved += self.receive(position);
            self.flush(FLUSH_FRAMES);
        }
        for served in 0..self.served.len() {
            moved += self.serve(self.served[served]);
            self.flush(FLUSH_FRAMES);
        }
        self.flush(1);
        moved += self.deliver_handoffs();
        self.lend_empties();
        for &position in &self.served {
            self.endpoints[position].publish();
        }
        for domain in &self.domains {
            domain.pool.collect_foreign();
        }
        moved
    }

    /// Sends what waits for each port that has at least `frames`.
    #[inline]
    pub(super) fn flush(&mut self, frames: usize) {
        for egress in &mut self.egresses {
            if egress.waiting() >= frames {
                let domain = &mut self.domains[egress.domain.index()];
                egress.flush(domain);
            }
        }
    }

    /// Sends a burst of what each other lcore has handed on; how many.
    pub(super) fn deliver_handoffs(&mut self) -> usize {
        let Self { handoffs, egresses, domains, .. } = self;
        let deliver = |from: &mut FromLcore| {
            let egress = &mut egresses[from.port.index()];
            let domain = &mut domains[egress.domain.index()];
            egress.deliver(from, domain)
        };
        handoffs.iter_mut().map(deliver).sum()
    }

    /// Receives a burst from one queue and sends each frame on its way.
    fn receive(&mut self, position: usize) -> usize {
        if !self.may_receive(position) {
            return 0;
        }
        let ingress = &mut self.ingresses[position];
        let received = ingress.queue.burst(&mut ingress.burst);
        if received == 0 {
            return 0;
        }
        let DomainLane { cell, pool, state } = &mut self.domains[ingress.domain.index()];
        // Frames to be freed by DPDK, which takes the shard: dropped behind the borrow.
        let mut freed = MbufBurst::<RX_BURST>::new();
        let mut shard = cell.borrow();
        state.counters.entered += received as u64;
        ingress.counters.rx_packets += received as u64;
        #[allow(clippy::cast_possible_truncation, reason = "at most a burst")]
        let mut is_sample_due = state.sampler.is_due(received as u32);
        let mut route = Route {
            lcore: self.id,
            domain: state,
            shard: &mut shard,
            endpoints: &mut self.endpoints,
            egresses: &mut self.egresses,
            live: &mut self.live,
            events: &mut self.events,
        };
        let header = &mut *self.header;
        let needs_header = self.forwarding.needs_header(ingress.port);
        while let Some(mbuf) = ingress.burst.take_first() {
            ingress.counters.rx_bytes += u64::from(mbuf.pkt_len());
            let vlan = mbuf.stripped_vlan_tci().unwrap_or(0);
            let arrived = match (ingress::check(&mbuf), &mut ingress.source) {
                (Err(reason), _) => Err(Refused { mbuf, reason }),
                (Ok(()), Source::Region) => ingress::take_over(pool, mbuf).inspect(|arrived| {
                    if needs_header {
                        route.domain.copy_header(arrived.frame, header);
                    }
                }),
                (Ok(()), Source::Private(scratch)) => {
                    let copied = ingress::copy_over(route.domain, route.shard, scratch, header, mbuf);
                    ingress.counters.copies += u64::from(copied.is_ok());
                    copied
                }
            };
            let arrived = match arrived {
                Ok(arrived) => arrived,
                Err(Refused { mbuf, reason }) => {
                    route.domain.counters.drops.add(reason, 1);
                    // As many places as frames of a burst; each frame is freed at most once.
                    let _ = freed.push(mbuf);
                    continue;
                }
            };
            if let Some(mbuf) = arrived.copied_from {
                let _ = freed.push(mbuf);
            }
            let frame = arrived.frame;
            let decision = self.forwarding.ingress(ingress.port, header, route.live);
            let arrival =
                Arrival { path: decision.path, vlan, class: 0, offload_flags: 0, host_time_ms: self.now_ms };
            if !route.shard.received(frame.index, &arrival) {
                route.domain.counters.drops.add(DropReason::LedgerRefused, 1);
                continue;
            }
            route.domain.sampler.forget(frame.index.0);
            if is_sample_due {
                is_sample_due = false;
                route.domain.sampler.note(frame.index.0, arrived.place);
            }
            route.forward(frame, decision, None);
        }
        drop(shard);
        drop(freed);
        received
    }

    /// Whether a queue may be polled: its region is whole, and a paced port finds room all along its chain.
    fn may_receive(&mut self, position: usize) -> bool {
        let Self { ingresses, domains, endpoints, live, .. } = self;
        let ingress = &mut ingresses[position];
        let domain = &domains[ingress.domain.index()];
        if domain.state.is_lost {
            return false;
        }
        let Some(chain) = &ingress.paced else { return true };
        let shard = domain.cell.borrow();
        let lanes = || chain.iter().filter_map(|endpoint| endpoints.get(endpoint.index()));
        let is_fed = lanes().all(|lane| lane.pair.is_some() && live.is_live(lane.id));
        let on_the_way: u32 = lanes().map(|lane| lane.packets_held(&shard)).sum();
        // All of them could pile up at one endpoint; a burst more must still fit there.
        #[allow(clippy::cast_possible_truncation, reason = "32")]
        let fits = |lane: &EndpointLane| on_the_way + RX_BURST as u32 <= lane.packets_max();
        let may = is_fed && lanes().all(fits);
        ingress.counters.held_back += u64::from(!may);
        may
    }

    /// Takes what an endpoint has given back, checks it, and sends each frame on its way.
    pub(super) fn serve(&mut self, position: usize) -> usize {
        let lane = &mut self.endpoints[position];
        let (id, domain) = (lane.id, lane.domain);
        let Some(pair) = &mut lane.pair else { return 0 };
        let taken = match pair.from_guest.take(&mut self.returns[..]) {
            Ok(0) => return 0,
            Ok(taken) => taken,
            Err(error) => {
                cut_off(lane, &mut self.live, &mut self.events, self.id, error);
                return 0;
            }
        };
        let DomainLane { cell, state, .. } = &mut self.domains[domain.index()];
        let returns = &self.returns[..taken];
        for raw in returns {
            cell.prefetch(raw.unpack().buffer_index);
        }
        let mut shard = cell.borrow();
        let mut route = Route {
            lcore: self.id,
            domain: state,
            shard: &mut shard,
            endpoints: &mut self.endpoints,
            egresses: &mut self.egresses,
            live: &mut self.live,
            events: &mut self.events,
        };
        let limits = route.domain.limits;
        let mut accepted = 0;
        let mut last_question = Question::NONE;
        let mut decision = Decision { step: Step::Home, path: PATH_OF_NOTHING };
        for &raw in returns {
            // Taken apart at once, so that the fields stay in registers.
            let Returned { index, data_offset_bytes, data_len_bytes, kind, verdict, aux, path } =
                match route.shard.take_back(id, raw, &limits) {
                    Ok(returned) => returned,
                    Err(fault) => {
                        refuse(&mut route.endpoints[position], route.events, fault);
                        continue;
                    }
                };
            accepted += 1;
            let frame = Frame { index, offset_bytes: data_offset_bytes, len_bytes: data_len_bytes };
            let whole = || Returned { index, data_offset_bytes, data_len_bytes, kind, verdict, aux, path };
            if kind == Kind::Empty {
                made(&mut route, position, frame, whole(), &self.forwarding, &mut self.header);
                continue;
            }
            let question = Question::of(path, verdict, aux);
            if question != last_question {
                last_question = question;
                decision = self.forwarding.after(id, &whole(), route.live);
            }
            route.forward(frame, decision, Some(id));
        }
        let lane = &mut route.endpoints[position];
        lane.counters.returned += accepted;
        if let Some(pair) = &mut lane.pair {
            // Behind the ledger: should the process die in between, its successor reads these descriptors once
            // more and refuses them as not held, instead of believing that the endpoint still holds the buffers.
            pair.from_guest.release();
        }
        taken
    }

    /// Lends empty buffers to endpoints that make packets, as far as their credit goes.
    fn lend_empties(&mut self) {
        let Self { served, endpoints, domains, forwarding, live, .. } = self;
        for &position in served.iter() {
            let lane = &mut endpoints[position];
            let wanted = (lane.credit_left() as usize).min(EMPTIES_BURST);
            let DomainLane { cell, state, .. } = &mut domains[lane.domain.index()];
            if wanted == 0 || state.is_lost || !live.is_live(lane.id) {
                continue;
            }
            let mut shard = cell.borrow();
            let mut indices = [0; EMPTIES_BURST];
            if !shard.take(&mut indices[..wanted]) {
                continue;
            }
            let path = forwarding.path_for_made(lane.id);
            let arrival = Arrival { path, vlan: 0, class: 0, offload_flags: 0, host_time_ms: self.now_ms };
            let offset_bytes = state.geometry.headroom_bytes;
            let mut broken = None;
            for &index in &indices[..wanted] {
                let index = switch_core::ids::BufferIndex(index);
                let frame = Frame { index, offset_bytes, len_bytes: 0 };
                let is_lent = shard.received(index, &arrival)
                    && lane.lend(&mut shard, frame, Kind::Empty, path, &mut broken).is_ok();
                if !is_lent {
                    shard.give(&[index.0]);
                }
            }
            if let Some(error) = broken {
                cut_off(lane, live, &mut self.events, self.id, error);
            }
        }
    }

    /// Stops serving domains whose region lost a page.
    fn notice_lost_regions(&mut self) {
        for DomainLane { state, .. } in &mut self.domains {
            if !state.is_lost && state.region.is_dead() {
                lose(state, &mut self.endpoints, &mut self.live);
                self.events.tell(Event::RegionLost { domain: state.id, lcore: self.id });
            }
        }
    }
}

#[cold]
fn lose(domain: &mut DomainState, endpoints: &mut [EndpointLane], live: &mut Liveness) {
    domain.is_lost = true;
    for lane in endpoints.iter_mut().filter(|lane| lane.domain == domain.id) {
        lane.let_go();
        live.set(lane.id, false);
    }
}

/// All that [`Forwarding::after`] looks at, of a packet, in two words: equal questions of one burst have equal
/// answers, and packets that came in one after the other mostly ask the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Question(u64, u64);

impl Question {
    /// No packet asks this: there is no such verdict.
    const NONE: Self = Self(u64::MAX, 0);

    #[inline(always)]
    fn of(path: PacketPath, verdict: Verdict, aux: u32) -> Self {
        let PacketPath { chain, hop, visited, ingress_port, flow_hash } = path;
        let place = u64::from(chain.0) | u64::from(hop) << 16 | u64::from(visited) << 24;
        Self(
            place | u64::from(ingress_port.0) << 32 | u64::from(verdict as u8) << 48,
            u64::from(flow_hash) | u64::from(aux) << 32,
        )
    }
}

/// Stands for a path until there is one.
const PATH_OF_NOTHING: PacketPath =
    PacketPath { chain: ChainId::NONE, hop: 0, visited: 0, ingress_port: PortId::NONE, flow_hash: 0 };

/// An empty buffer came home, perhaps with a packet that the endpoint made: that one has no flow hash yet.
#[cold]
fn made(
    route: &mut Route<'_>,
    position: usize,
    frame: Frame,
    mut returned: Returned,
    forwarding: &Forwarding,
    header: &mut HeaderCopy,
) {
    let lane = &mut route.endpoints[position];
    let id = lane.id;
    lane.empties = lane.empties.saturating_sub(1);
    route.domain.copy_header(frame, header);
    returned.path.flow_hash = forwarding.flow_hash(header);
    let decision = forwarding.after(id, &returned, route.live);
    if decision.step != Step::Home {
        route.domain.counters.entered += 1;
    }
    route.forward(frame, decision, Some(id));
}

/// Counts a refused descriptor. Control hears of the first one; a guest that floods us with them moves a
/// counter and nothing else.
#[cold]
fn refuse(lane: &mut EndpointLane, events: &mut EventSink, fault: DescFault) {
    lane.counters.faults.add(fault.kind(), 1);
    if !lane.fault_told {
        lane.fault_told = true;
        events.tell(Event::Descriptor { endpoint: lane.id, fault });
    }
}
