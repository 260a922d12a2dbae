//! One polling thread: what it owns, and one turn of its loop.
//!
//! A turn moves at most a burst for each receive queue and each endpoint, so its length is bounded by the
//! configuration. Nothing in it waits: a full ring, an empty pool and a full transmit queue are named drops.
//! Within a turn, buffers change hands in the ledger first, then in the rings; each ring is published once, at
//! the end.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use switch_core::forwarding::Forwarding;
use switch_core::header::HeaderCopy;
use switch_core::ids::{EndpointId, LcoreId};
use switch_core::liveness::Liveness;
use switch_core::share::Shares;

use super::change::Hold;
use super::crossing::{Crossings, EdgeLane};
use super::domain::{DomainLane, DomainState};
use super::egress::{Egress, FLUSH_FRAMES};
use super::endpoint::EndpointLane;
use super::flows::Flows;
use super::handoff::FromLcore;
use super::idle::Backoff;
use super::ingress::Ingress;
use super::limit::EntryLimits;
use super::message::{Event, Message};
use super::observe::Observed;
use super::replicate::Replications;
use super::route::EventSink;
use super::shared_ports::SharedPorts;
use super::throttle::Throttled;

/// Descriptors taken from an endpoint in one turn.
pub(super) const RETURN_BURST: usize = 64;
/// Turns between two looks at messages, clock and lost regions, unless the turns are long with waiting.
const HOUSEKEEPING_TURNS: u64 = 32;

/// Everything that one polling thread owns.
#[derive(Debug)]
pub(super) struct Lcore {
    pub id: LcoreId,
    /// How many there are.
    pub lcores: u16,
    pub cpu: Option<usize>,
    pub domains: Vec<DomainLane>,
    /// Of what enters domains.
    pub limits: EntryLimits,
    pub endpoints: Vec<EndpointLane>,
    pub ingresses: Vec<Ingress>,
    /// By port.
    pub egresses: Vec<Egress>,
    /// Frames of other lcores for ports whose only queue this lcore owns.
    pub handoffs: Vec<FromLcore>,
    /// Empty between two bursts.
    pub crossings: Crossings,
    /// Empty between two bursts.
    pub observed: Vec<Observed>,
    /// Empty between two frames.
    pub viewers: Vec<EndpointId>,
    /// By edge.
    pub edges: Vec<EdgeLane>,
    pub replications: Replications,
    pub forwarding: Arc<Forwarding>,
    /// What is remembered of flows, if anything is.
    pub flows: Option<Box<Flows>>,
    pub live: Liveness,
    /// Positions of the endpoints that have a queue pair here.
    pub attached: Vec<usize>,
    /// Positions of the endpoints that are shown packets by reference.
    pub observing: Vec<usize>,
    pub throttled: Vec<Throttled>,
    pub shared: SharedPorts,
    /// A change under way.
    pub hold: Option<Box<Hold>>,
    /// Of the cycles of this lcore; none for a lone domain.
    pub shares: Option<Shares>,
    pub messages: Receiver<Message>,
    pub events: EventSink,
    pub backoff: Backoff,
    pub started: Instant,
    pub now_ms: u32,
    pub polls: u64,
    pub idle_polls: u64,
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
            let is_due = self.polls.is_multiple_of(HOUSEKEEPING_TURNS) || is_idle && self.backoff.is_long();
            if is_due && self.keep_house() == Next::Stop {
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
        let elapsed = self.started.elapsed();
        #[allow(clippy::cast_possible_truncation, reason = "coarse time wraps by design")]
        {
            self.now_ms = elapsed.as_millis() as u32;
        }
        if let Some(flows) = &mut self.flows {
            flows.keep_house(elapsed);
        }
        self.notice_lost_regions();
        self.end_throttles();
        self.expire_references();
        if self.hold.is_some() {
            self.continue_hold();
        }
        self.adopt_messages()
    }

    /// One turn; how many packets and descriptors moved.
    pub(super) fn poll(&mut self) -> usize {
        self.polls += 1;
        let mut moved = 0;
        if let Some(shares) = &mut self.shares {
            shares.start_turn(|_| true);
        }
        for domain in 0..self.domains.len() {
            moved += if self.shares.is_some() { self.visit_in_share(domain) } else { self.visit(domain) };
        }
        if moved > 0 {
            self.flush(1);
        }
        if !self.shared.is_empty() {
            moved += self.serve_shared_ports();
        }
        moved += self.deliver_handoffs();
        self.lend_empties();
        for &position in &self.attached {
            self.endpoints[position].publish();
        }
        for domain in &self.domains {
            domain.pool.collect_foreign();
        }
        moved
    }

    /// Moves a burst for each queue and endpoint of a domain; how many packets and descriptors.
    #[inline(always)]
    pub(super) fn visit(&mut self, domain: usize) -> usize {
        let mut moved = 0;
        if !self.domains[domain].nics.is_empty() {
            moved += self.receive_from_guests(domain);
        }
        for at in 0..self.domains[domain].ingresses.len() {
            moved += self.receive(self.domains[domain].ingresses[at]);
            self.flush(FLUSH_FRAMES);
        }
        for at in 0..self.domains[domain].served.len() {
            moved += self.serve(self.domains[domain].served[at]);
            self.flush(FLUSH_FRAMES);
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
