//! A change of tables and limits while packets flow: taken up by each lcore between two bursts.
//!
//! The new tables hold from one burst to the next. Packets that are on their way keep chain and hop in the ledger,
//! and the tables keep chains for them that new packets do not enter any more. What could still be wrong then is
//! the order: a new packet of a flow may have a shorter way than one before it. So the ports whose packets go
//! other ways now are **held**: an lcore does not poll them until what they had sent on their way before has left,
//! at most [`DatapathChange::hold_max`]. What was still on its way then is counted.
//!
//! The walk over the ledger that looks for such packets is done in slices, beside the housekeeping: it stops at a
//! packet of a held port until that has left, and ends behind the last buffer. Nothing behind it can become such a
//! packet, for nothing enters by held ports; but a packet may cross into a domain that was walked already, so a
//! walk during which packets crossed begins anew.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use switch_core::edge::EdgeSpec;
use switch_core::forwarding::Forwarding;
use switch_core::ids::{BufferIndex, ChainId, DomainId, EdgeId, EndpointId, PortId};
use switch_core::ledger::LedgerEntry;
use switch_core::rate::RateSpec;
use switch_core::transition::HolderState;

use super::domain::DomainLane;
use super::idle::{Backoff, Idle};
use super::lcore::Lcore;
use super::limit::Limit;
use super::replicate::Replications;
use super::turn::shares;

/// Buffers looked at between two turns.
const SLICE_BUFFERS: u32 = 4096;

/// What is other than before.
#[derive(Clone, Debug)]
pub struct DatapathChange {
    /// Where packets go.
    pub forwarding: Arc<Forwarding>,
    /// Of each edge, which one it was; none: a new one.
    pub edges_were: Vec<Option<EdgeId>>,
    /// Ports whose packets go other ways than before.
    pub held: Vec<PortId>,
    /// How long they are held at most.
    pub hold_max: Duration,
    /// Whom the polls of each port wait for: see [`super::PortSpec::paced`]. Ports that are not listed stay.
    pub paced: Vec<(PortId, Option<Vec<EndpointId>>)>,
    /// Weights of all domains, if they are others.
    pub shares: Option<Vec<u16>>,
    /// Limits of domains that have another one.
    pub domain_limits: Vec<(DomainId, Option<RateSpec>)>,
    /// Limits of endpoints that have another one.
    pub endpoint_limits: Vec<(EndpointId, Option<RateSpec>)>,
    /// What an lcore does when nothing moves, if that is something else.
    pub idle: Option<Idle>,
}

impl DatapathChange {
    /// Other tables than `old`, and nothing else.
    #[must_use]
    pub fn of_tables(
        old: &Forwarding,
        forwarding: Arc<Forwarding>,
        held: Vec<PortId>,
        hold_max: Duration,
    ) -> Self {
        Self {
            edges_were: edges_were(old.edges(), forwarding.edges()),
            forwarding,
            held,
            hold_max,
            paced: Vec::new(),
            shares: None,
            domain_limits: Vec::new(),
            endpoint_limits: Vec::new(),
            idle: None,
        }
    }
}

/// Which edge each new one was: the first of the same packets that no other one was.
fn edges_were(old: &[EdgeSpec], new: &[EdgeSpec]) -> Vec<Option<EdgeId>> {
    let mut free: Vec<Option<&EdgeSpec>> = old.iter().map(Some).collect();
    let is_same = |one: &EdgeSpec, other: &EdgeSpec| {
        let EdgeSpec { from, to, flows, broadcast, limit: _, limited_with: _ } = one;
        (*from, *to, *broadcast) == (other.from, other.to, other.broadcast) && *flows == other.flows
    };
    let find = |edge: &EdgeSpec| {
        let was = free.iter().position(|old| old.is_some_and(|old| is_same(old, edge)))?;
        free[was] = None;
        u16::try_from(was).ok().map(EdgeId)
    };
    new.iter().map(find).collect()
}

/// How a change went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// How long ports were held, on the lcore that held them longest.
    pub held_for: Duration,
    /// Packets that were still on their way when ports were polled again: later ones of their flows may have
    /// overtaken them.
    pub overtaken: u64,
}

impl Changed {
    /// Both together.
    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            held_for: self.held_for.max(other.held_for),
            overtaken: self.overtaken.saturating_add(other.overtaken),
        }
    }
}

/// A change that one lcore has taken up and not finished.
#[derive(Debug)]
pub(super) struct Hold {
    change: Arc<DatapathChange>,
    /// Positions of receiving sides that are not polled, each with the domain of its list.
    ingresses: Vec<(usize, usize)>,
    /// The same of ports that several domains share.
    shared: Vec<usize>,
    /// NICs of untrusted VMs, each with its domain.
    nics: Vec<(usize, usize)>,
    since: Instant,
    walk: Walk,
    /// The tables of before, which control frees.
    old: Arc<Forwarding>,
    done: Sender<(Arc<Forwarding>, Changed)>,
}

/// How far the look at the ledger has come.
#[derive(Clone, Copy, Debug)]
struct Walk {
    domain: usize,
    /// Buffers of that domain's shard that were looked at.
    buffers: u32,
    /// Packets that had crossed into other domains when it began.
    crossed: u64,
}

impl Lcore {
    /// Takes up a change: tables and limits at once, the answer when no port is held any more.
    #[cold]
    pub(super) fn change(&mut self, change: Arc<DatapathChange>, done: Sender<(Arc<Forwarding>, Changed)>) {
        self.end_hold();
        self.adopt_edges(&change.forwarding, &change.edges_were);
        self.replications = Replications::all(&change.forwarding, self.lcores);
        let old = std::mem::replace(&mut self.forwarding, Arc::clone(&change.forwarding));
        if let Some(flows) = &mut self.flows {
            flows.forget_decisions();
        }
        self.adopt_limits(&change);
        let mut hold = Hold {
            ingresses: Vec::new(),
            shared: Vec::new(),
            nics: Vec::new(),
            since: Instant::now(),
            walk: self.walk(),
            change,
            old,
            done,
        };
        if !cfg!(feature = "sabotage-hold") {
            self.stop_polling(&mut hold);
        }
        self.hold = Some(Box::new(hold));
        self.continue_hold();
    }

    fn adopt_limits(&mut self, change: &DatapathChange) {
        for (port, paced) in &change.paced {
            for ingress in self.ingresses.iter_mut().filter(|ingress| ingress.port == *port) {
                ingress.paced.clone_from(paced);
            }
        }
        if let Some(weights) = &change.shares {
            self.shares = shares(weights);
            for egress in &mut self.egresses {
                egress.share_anew(weights);
            }
        }
        for (id, limit) in &change.domain_limits {
            self.limits.set(*id, Limit::part_of(*limit, self.lcores));
        }
        for (id, limit) in &change.endpoint_limits {
            if let Some(lane) = self.endpoints.get_mut(id.index()) {
                lane.limit = Limit::part_of(*limit, self.lcores);
            }
        }
        if let Some(idle) = change.idle {
            self.backoff = Backoff::new(idle);
        }
    }

    /// Takes the queues of held ports out of the lists that a turn goes through.
    fn stop_polling(&mut self, hold: &mut Hold) {
        let Self { ingresses, domains, shared, .. } = self;
        let is_held = |port: PortId| hold.change.held.contains(&port);
        for (position, domain) in domains.iter_mut().enumerate() {
            let own = domain.ingresses.extract_if(.., |at| is_held(ingresses[*at].port));
            hold.ingresses.extend(own.map(|at| (position, at)));
            let nic = |port: &mut usize| u16::try_from(*port).is_ok_and(|port| is_held(PortId(port)));
            hold.nics.extend(domain.nics.extract_if(.., nic).map(|port| (position, port)));
        }
        let own = shared.ingresses.extract_if(.., |at| is_held(ingresses[*at].port));
        hold.shared.extend(own);
    }

    fn walk(&self) -> Walk {
        let crossed = self.domains.iter().map(|domain| domain.state.counters.crossed).sum();
        Walk { domain: 0, buffers: 0, crossed }
    }

    /// Looks on for packets of held ports that are still on their way, and ends the hold when there are none.
    pub(super) fn continue_hold(&mut self) {
        let Some(hold) = &self.hold else { return };
        let holds_nothing = hold.ingresses.is_empty() && hold.shared.is_empty() && hold.nics.is_empty();
        if holds_nothing || hold.since.elapsed() >= hold.change.hold_max || self.has_walked_to_the_end() {
            self.end_hold();
        }
    }

    /// Walks on by a slice; whether nothing was left on the way.
    fn has_walked_to_the_end(&mut self) -> bool {
        let begun = self.walk();
        let Some(hold) = &mut self.hold else { return true };
        let Walk { mut domain, mut buffers, crossed } = hold.walk;
        let mut slice = SLICE_BUFFERS;
        while let Some(lane) = self.domains.get(domain) {
            let shard = lane.cell.borrow();
            let left = shard.size().saturating_sub(buffers).min(slice);
            let range = shard.first() + buffers..shard.first() + buffers + left;
            let is_on_its_way = |index: &u32| {
                shard.entry(BufferIndex(*index)).is_some_and(|entry| is_of(entry, &hold.change.held))
            };
            if let Some(stopped) = range.clone().find(is_on_its_way) {
                hold.walk = Walk { domain, buffers: stopped - shard.first(), crossed };
                return false;
            }
            (buffers, slice) = (buffers + left, slice - left);
            if buffers == shard.size() {
                (domain, buffers) = (domain + 1, 0);
            } else {
                hold.walk = Walk { domain, buffers, crossed };
                return false;
            }
        }
        hold.walk = begun;
        begun.crossed == crossed
    }

    /// Polls all ports again and says how it went.
    pub(super) fn end_hold(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let Hold { change, ingresses, shared, nics, since, old, done, .. } = *hold;
        let has_held = !(ingresses.is_empty() && shared.is_empty() && nics.is_empty());
        let held_for = if has_held { since.elapsed() } else { Duration::ZERO };
        for (domain, at) in ingresses {
            self.domains[domain].ingresses.push(at);
        }
        for (domain, port) in nics {
            self.domains[domain].nics.push(port);
        }
        self.shared.ingresses.extend(shared);
        let is_late = has_held && held_for >= change.hold_max;
        let overtaken = if is_late { self.on_their_way(&change.held) } else { 0 };
        // Whoever asked may be gone, with the switch.
        _ = done.send((old, Changed { held_for, overtaken }));
    }

    /// Packets that entered by these ports and are somewhere on their chains.
    fn on_their_way(&self, ports: &[PortId]) -> u64 {
        let of_domain = |domain: &DomainLane| {
            let shard = domain.cell.borrow();
            let entries = (shard.first()..shard.first() + shard.size()).map(BufferIndex);
            entries.filter_map(|index| shard.entry(index)).filter(|entry| is_of(entry, ports)).count() as u64
        };
        self.domains.iter().map(of_domain).sum()
    }

    /// Which of these chains a packet is on, somewhere in the hands of an lcore or an endpoint, dead ones included.
    pub(super) fn carried(&self, chains: &[ChainId]) -> Vec<ChainId> {
        let mut found: Vec<ChainId> = Vec::new();
        for domain in &self.domains {
            let shard = domain.cell.borrow();
            for index in (shard.first()..shard.first() + shard.size()).map(BufferIndex) {
                let Some(entry) = shard.entry(index) else { continue };
                let chain = entry.path().chain;
                let is_held = !matches!(
                    entry.holder_state(),
                    Some(HolderState::Pool | HolderState::Pmd | HolderState::Pinned)
                );
                if is_held && chains.contains(&chain) && !found.contains(&chain) {
                    found.push(chain);
                }
            }
        }
        found
    }
}

/// Whether a buffer holds a packet that entered by one of these ports and goes on along its chain.
fn is_of(entry: &LedgerEntry, ports: &[PortId]) -> bool {
    matches!(entry.holder_state(), Some(HolderState::Lcore | HolderState::Endpoint))
        && ports.contains(&entry.path().ingress_port)
}
