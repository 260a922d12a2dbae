//! Where a packet goes next: on arrival, and after an NF's verdict.
//!
//! A [`Forwarding`] is immutable. Control builds a new one ([`crate::snapshot::ForwardingSpec::build`]) and an
//! lcore takes it up between two bursts; packets that are on their way keep chain and hop in the ledger, and
//! one whose place in the new chain does not exist ends in a named drop, never past a table.
//!
//! The ways of a packet:
//!
//! - **Next**: the next hop of its chain; behind the last one, the chain's egress port.
//! - **To service s**: to s, and on `next` from there to the hop behind the last place of s in the chain. If
//!   s is not in the chain, `next` resumes behind the hop that the packet left.
//! - **To port p**: out.
//! - A hop without a live instance is skipped or drops the packet, as its service says.
//! - After [`HOP_LIMIT`] endpoints a packet is dropped, wherever it is.
//!
//! A packet lies in the region of one domain. Where the step leads to another one, the lcore asks
//! [`Forwarding::edge`] before it copies the packet across.
//!
//! Observers are shown packets as they enter a chain: [`Forwarding::arrival`] says which. They decide nothing.

use shm_ring::desc::{Kind, Verdict};

use crate::criteria::{Criteria, Match};
use crate::drop_reason::DropReason;
use crate::edge::{EdgeSpec, Edges};
use crate::header::HeaderCopy;
use crate::ids::{ChainId, DomainId, EdgeId, EndpointId, ObserversId, PortId, ReplicationId, ServiceId};
use crate::instance;
use crate::ledger::PacketPath;
use crate::liveness::Liveness;
use crate::shard::Returned;
use crate::snapshot::WhenDead;

/// Most endpoints that a packet visits.
pub const HOP_LIMIT: u8 = 32;

/// What the lcore does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Lend it to this endpoint.
    Endpoint(EndpointId),
    /// Send it out of this port.
    Port(PortId),
    /// Count it and free its buffer.
    Drop(DropReason),
    /// Free the buffer; it was empty, so there is nothing to count.
    Home,
}

/// Where a packet goes, and how far it has come then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the lcore does.
    pub step: Step,
    /// For the ledger: [`crate::shard::Ingress::path`], [`crate::shard::Loan::path`].
    pub path: PacketPath,
}

/// Where a packet goes that has just arrived, and who is shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where it goes.
    pub decision: Decision,
    /// Who is shown it; [`ObserversId::NONE`] for one that is dropped.
    pub observers: ObserversId,
    /// What is made of it besides, wherever it goes itself.
    pub replication: ReplicationId,
}

impl Arrival {
    /// Whether nobody is shown it, and nothing is made of it besides.
    #[inline]
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.observers == ObserversId::NONE && self.replication == ReplicationId::NONE
    }
}

/// What the rules of a port say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classification {
    /// No rule is for it.
    Default,
    /// This one is, by its place among the port's.
    Rule(u16),
    /// That cannot be said, for this reason.
    CannotSay(DropReason),
}

/// The forwarding tables of one moment.
#[derive(Clone, Debug)]
pub struct Forwarding {
    pub(crate) ports: Box<[Port]>,
    pub(crate) services: Box<[Service]>,
    /// The service of each endpoint.
    pub(crate) service_of: Box<[ServiceId]>,
    /// The domain of each endpoint.
    pub(crate) domain_of: Box<[DomainId]>,
    pub(crate) chains: Box<[Chain]>,
    pub(crate) edges: Edges,
    pub(crate) observers: Box<[Box<[ServiceId]>]>,
    pub(crate) replications: Box<[Replicas]>,
    pub(crate) flow_seed: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// At least one.
    pub(crate) domains: Box<[DomainId]>,
    /// For packets that no rule is for.
    pub(crate) default: Entrance,
    /// Whether any decision about its packets can hang on their headers.
    pub(crate) needs_header: bool,
    /// Whether what its rules say of a packet is what they say of all packets of the flow in that direction.
    pub(crate) judges_flows: bool,
    /// Whether anybody is shown any of its packets.
    pub(crate) is_observed: bool,
    pub(crate) rules: Box<[PortRule]>,
}

/// Which chain packets enter, and who is shown them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrance {
    /// Or [`ChainId::NONE`].
    pub(crate) chain: ChainId,
    pub(crate) observers: ObserversId,
    pub(crate) replication: ReplicationId,
}

/// What a rule makes of a packet besides.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    pub(crate) entrances: Box<[Entrance]>,
    pub(crate) copies_per_s: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct PortRule {
    pub(crate) criteria: Criteria,
    /// `None`: dropped.
    pub(crate) entrance: Option<Entrance>,
}

impl Port {
    /// The first rule that is for a packet.
    #[inline]
    fn classify(&self, parsed: &packet::Parsed) -> Classification {
        for (place, rule) in (0..).zip(&self.rules) {
            match rule.criteria.evaluate(parsed) {
                Match::No => {}
                Match::CannotSay(reason) => return Classification::CannotSay(reason),
                Match::Yes => return Classification::Rule(place),
            }
        }
        Classification::Default
    }

    /// Which chain a packet enters; why it is dropped otherwise.
    #[inline]
    fn entrance(&self, classification: Classification) -> Result<Entrance, DropReason> {
        match classification {
            Classification::Default => Ok(self.default),
            Classification::CannotSay(reason) => Err(reason),
            Classification::Rule(place) => {
                self.rules.get(usize::from(place)).and_then(|rule| rule.entrance).ok_or(DropReason::RuleDrop)
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) instances: Box<[EndpointId]>,
    pub(crate) may_services: Box<[ServiceId]>,
    pub(crate) may_ports: Box<[PortId]>,
    pub(crate) when_dead: WhenDead,
    pub(crate) made_path: Option<(ChainId, u8)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) path: Box<[ServiceId]>,
    /// Whether a packet on it can get to a service with several instances.
    pub(crate) leads_to_a_choice: bool,
    pub(crate) egress: PortId,
}

impl Forwarding {
    /// Where a packet goes that `port` has just received.
    ///
    /// `header` is not looked at when [`Forwarding::needs_header`] says no; an empty one will do.
    #[inline]
    #[must_use]
    pub fn ingress(&self, port: PortId, header: &HeaderCopy, live: &Liveness) -> Decision {
        self.arrival(port, header, live).decision
    }

    /// As [`Forwarding::ingress`], and who is shown the packet; for ports that are observed.
    #[inline]
    #[must_use]
    pub fn arrival(&self, port: PortId, header: &HeaderCopy, live: &Liveness) -> Arrival {
        let Some(tables) = self.ports.get(port.index()) else {
            return refuse(path_from(port, 0), DropReason::NoChain);
        };
        let mut path = path_from(port, 0);
        let mut entrance = tables.default;
        if tables.needs_header {
            let parsed = header.parse();
            path.flow_hash = self.hash_of(&parsed);
            match tables.entrance(tables.classify(&parsed)) {
                Ok(found) => entrance = found,
                Err(reason) => return refuse(PacketPath { chain: entrance.chain, ..path }, reason),
            }
        }
        self.through(entrance, path, live)
    }

    /// What the rules of a port say of a packet.
    #[inline]
    #[must_use]
    pub fn classify(&self, port: PortId, parsed: &packet::Parsed) -> Classification {
        self.ports.get(port.index()).map_or(Classification::Default, |tables| tables.classify(parsed))
    }

    /// As [`Forwarding::arrival`], of a packet of which is known what the rules say. `flow_hash`: see
    /// [`Forwarding::hash_of`].
    #[inline]
    #[must_use]
    pub fn arrival_of(
        &self,
        port: PortId,
        classification: Classification,
        flow_hash: u32,
        live: &Liveness,
    ) -> Arrival {
        let path = path_from(port, flow_hash);
        let Some(tables) = self.ports.get(port.index()) else { return refuse(path, DropReason::NoChain) };
        match tables.entrance(classification) {
            Ok(entrance) => self.through(entrance, path, live),
            Err(reason) => refuse(PacketPath { chain: tables.default.chain, ..path }, reason),
        }
    }

    /// By an entrance, to the first hop.
    #[inline]
    fn through(&self, entrance: Entrance, mut path: PacketPath, live: &Liveness) -> Arrival {
        path.chain = entrance.chain;
        let decision = self.at_hop(path, live);
        let is_dropped = matches!(decision.step, Step::Drop(_));
        let observers = if is_dropped { ObserversId::NONE } else { entrance.observers };
        Arrival { decision, observers, replication: entrance.replication }
    }

    /// Where the copy of a packet goes that is the `at`th of a replication, and who is shown it; none behind the last.
    #[must_use]
    pub fn replica(
        &self,
        replication: ReplicationId,
        at: usize,
        path: PacketPath,
        live: &Liveness,
    ) -> Option<Arrival> {
        let entrance = self.replications.get(replication.index())?.entrances.get(at)?;
        let path = PacketPath { chain: entrance.chain, hop: 0, visited: 0, ..path };
        let decision = self.at_hop(path, live);
        let is_dropped = matches!(decision.step, Step::Drop(_));
        let observers = if is_dropped { ObserversId::NONE } else { entrance.observers };
        Some(Arrival { decision, observers, replication: ReplicationId::NONE })
    }

    /// How many copies each replication may make in a second, in their order.
    pub fn copies_per_s(&self) -> impl Iterator<Item = u64> + '_ {
        self.replications.iter().map(|replicas| replicas.copies_per_s)
    }

    /// Where a packet goes that `endpoint` has given back. The caller counts a `verdict_denied` to it.
    #[inline]
    #[must_use]
    pub fn after(&self, endpoint: EndpointId, returned: &Returned, live: &Liveness) -> Decision {
        let path = returned.path;
        match (returned.verdict, returned.kind) {
            (Verdict::Next, _) => self.at_hop(PacketPath { hop: path.hop.saturating_add(1), ..path }, live),
            (Verdict::ToService, _) => match self.allowed_service(endpoint, returned.aux) {
                Some(service) => self.at_service(path, service, live),
                None => drop(path, DropReason::VerdictDenied),
            },
            (Verdict::ToPort, _) => match self.allowed_port(endpoint, returned.aux) {
                Some(port) => Decision { step: Step::Port(port), path },
                None => drop(path, DropReason::VerdictDenied),
            },
            (Verdict::Drop, Kind::Packet) => drop(path, DropReason::NfDrop),
            (Verdict::Drop, Kind::Empty) | (Verdict::ReturnEmpty, _) => Decision { step: Step::Home, path },
        }
    }

    /// The path with which an empty buffer is lent: "next" of the packet made in it goes to the hop behind
    /// the endpoint's service, in the first chain that has this service.
    #[must_use]
    pub fn path_for_made(&self, endpoint: EndpointId) -> PacketPath {
        let made = self.service_of(endpoint).and_then(|service| self.services[service.index()].made_path);
        let (chain, hop) = made.unwrap_or((ChainId::NONE, 0));
        PacketPath { chain, hop, visited: 1, ingress_port: PortId::NONE, flow_hash: 0 }
    }

    /// The direction-free hash of a packet's flow, for a packet that an NF made.
    #[must_use]
    pub fn flow_hash(&self, header: &HeaderCopy) -> u32 {
        self.hash_of(&header.parse())
    }

    /// The direction-free hash of a packet's flow.
    #[inline]
    #[must_use]
    pub fn hash_of(&self, parsed: &packet::Parsed) -> u32 {
        parsed.symmetric_hash(self.flow_seed)
    }

    /// From the hop at which `path` stands onwards: the first one that can be served, else the egress port.
    #[inline]
    fn at_hop(&self, mut path: PacketPath, live: &Liveness) -> Decision {
        let Some(chain) = self.chains.get(path.chain.index()) else { return drop(path, DropReason::NoChain) };
        if usize::from(path.hop) > chain.path.len() {
            return drop(path, DropReason::NoChain);
        }
        while let Some(service) = chain.path.get(usize::from(path.hop)) {
            match self.serve(path, *service, live) {
                Some(decision) => return decision,
                None => path.hop += 1,
            }
        }
        Decision { step: Step::Port(chain.egress), path }
    }

    /// To a service out of turn.
    fn at_service(&self, mut path: PacketPath, service: ServiceId, live: &Liveness) -> Decision {
        let places = self.chains.get(path.chain.index()).map_or(&[][..], |chain| &chain.path);
        if let Some(hop) = places.iter().rposition(|s| *s == service).and_then(|hop| u8::try_from(hop).ok()) {
            path.hop = hop;
        }
        match self.serve(path, service, live) {
            Some(decision) => decision,
            None => self.at_hop(PacketPath { hop: path.hop.saturating_add(1), ..path }, live),
        }
    }

    /// To the live instance of a service; `None` if there is none and the hop is to be skipped.
    #[inline]
    fn serve(&self, path: PacketPath, service: ServiceId, live: &Liveness) -> Option<Decision> {
        let Some(tables) = self.services.get(service.index()) else {
            return Some(drop(path, DropReason::ServiceDead));
        };
        match (instance::choose(&tables.instances, path.flow_hash, live), tables.when_dead) {
            (Some(_), _) if path.visited >= HOP_LIMIT => Some(drop(path, DropReason::HopLimit)),
            (Some(endpoint), _) => {
                let path = PacketPath { visited: path.visited + 1, ..path };
                Some(Decision { step: Step::Endpoint(endpoint), path })
            }
            (None, WhenDead::Closed) => Some(drop(path, DropReason::ServiceDead)),
            (None, WhenDead::Open) => None,
        }
    }

    /// The service that `aux` names, if the endpoint's service may name it.
    ///
    /// The number that comes out is the configuration's own, not the guest's, so the processor never guesses
    /// its way into a table with an index that a guest chose.
    fn allowed_service(&self, endpoint: EndpointId, aux: u32) -> Option<ServiceId> {
        if cfg!(feature = "sabotage-verdict-rights") {
            return u16::try_from(aux).ok().map(ServiceId);
        }
        let rights = &self.services.get(self.service_of(endpoint)?.index())?.may_services;
        rights.iter().copied().find(|service| u32::from(service.0) == aux)
    }

    /// The port that `aux` names, if the endpoint's service may name it. As `allowed_service`.
    fn allowed_port(&self, endpoint: EndpointId, aux: u32) -> Option<PortId> {
        if cfg!(feature = "sabotage-verdict-rights") {
            return u16::try_from(aux).ok().map(PortId);
        }
        let rights = &self.services.get(self.service_of(endpoint)?.index())?.may_ports;
        rights.iter().copied().find(|port| u32::from(port.0) == aux)
    }

    /// The service of an endpoint.
    #[inline]
    #[must_use]
    pub fn service_of(&self, endpoint: EndpointId) -> Option<ServiceId> {
        self.service_of.get(endpoint.index()).copied()
    }

    /// The domain of an endpoint.
    #[inline]
    #[must_use]
    pub fn domain_of(&self, endpoint: EndpointId) -> Option<DomainId> {
        self.domain_of.get(endpoint.index()).copied()
    }

    /// The domains of a port; a buffer of any other one must not leave there. Several share it.
    #[inline]
    #[must_use]
    pub fn domains_of(&self, port: PortId) -> &[DomainId] {
        self.ports.get(port.index()).map_or(&[], |port| &port.domains)
    }

    /// The domain into whose region a frame belongs that `port` has received and that goes to `step` first: that
    /// of the step, if it is one of the port's, else the port's first one, from where the frame has to cross.
    #[must_use]
    pub fn entry_domain(&self, port: PortId, step: Step) -> Option<DomainId> {
        let domains = self.domains_of(port);
        let first = domains.first().copied();
        if domains.len() < 2 {
            return first;
        }
        let own = |is_of_step: &dyn Fn(DomainId) -> bool| domains.iter().copied().find(|d| is_of_step(*d));
        let of_step = match step {
            Step::Endpoint(endpoint) => own(&|domain| self.domain_of(endpoint) == Some(domain)),
            Step::Port(egress) => own(&|domain| self.domains_of(egress).contains(&domain)),
            Step::Drop(_) | Step::Home => None,
        };
        of_step.or(first)
    }

    /// The domain in whose region a packet of domain `from` has to lie to leave by `port`: its own, if it is one
    /// of the port's, else the port's first one.
    #[must_use]
    pub fn egress_domain(&self, from: DomainId, port: PortId) -> Option<DomainId> {
        let domains = self.domains_of(port);
        if domains.contains(&from) { Some(from) } else { domains.first().copied() }
    }

    /// The edge on which a packet with these headers crosses: the first one in order that carries it.
    ///
    /// # Errors
    /// [`DropReason::DomainEdgeDenied`] if none does.
    pub fn edge(&self, from: DomainId, to: DomainId, header: &HeaderCopy) -> Result<EdgeId, DropReason> {
        self.edges.carrying(from, to, header).ok_or(DropReason::DomainEdgeDenied)
    }

    /// Every edge, in order.
    #[must_use]
    pub fn edges(&self) -> &[EdgeSpec] {
        &self.edges.specs
    }

    /// Whether any decision about a port's packets can hang on their headers: the port is shared by domains, or
    /// has rules, or a service that they can get to has several instances to choose from.
    #[inline]
    #[must_use]
    pub fn needs_header(&self, port: PortId) -> bool {
        self.ports.get(port.index()).is_some_and(|port| port.needs_header)
    }

    /// Whether a port has rules, and what they say of a packet is what they say of all packets of its flow in that
    /// direction: none asks for stations, which are no part of a flow.
    #[inline]
    #[must_use]
    pub fn judges_flows(&self, port: PortId) -> bool {
        self.ports.get(port.index()).is_some_and(|port| port.judges_flows)
    }

    /// Whether a packet of which the rules of a port say this enters a chain.
    #[must_use]
    pub fn enters(&self, port: PortId, classification: Classification) -> bool {
        self.ports.get(port.index()).is_some_and(|tables| tables.entrance(classification).is_ok())
    }

    /// Whether anybody is shown any packet of a port: then [`Forwarding::arrival`] is to be asked.
    #[inline]
    #[must_use]
    pub fn is_observed(&self, port: PortId) -> bool {
        self.ports.get(port.index()).is_some_and(|port| port.is_observed)
    }

    /// The services of a list of observers.
    #[must_use]
    pub fn observers(&self, list: ObserversId) -> &[ServiceId] {
        self.observers.get(list.index()).map_or(&[], |services| services)
    }

    /// Of each service in a list of observers, the live instance that is shown the packets of a flow.
    pub fn observers_of_flow<'f>(
        &'f self,
        list: ObserversId,
        flow_hash: u32,
        live: &'f Liveness,
    ) -> impl Iterator<Item = EndpointId> + 'f {
        let instance = move |service: &ServiceId| instance::choose(self.instances(*service), flow_hash, live);
        self.observers(list).iter().filter_map(instance)
    }

    /// Whether the way of a packet on `chain` hangs on its flow: a service that it can get to has several
    /// instances.
    #[inline]
    #[must_use]
    pub fn chooses_by_flow(&self, chain: ChainId) -> bool {
        !cfg!(feature = "sabotage-flow")
            && self.chains.get(chain.index()).is_none_or(|chain| chain.leads_to_a_choice)
    }

    /// Every chain that packets of a port may take themselves: by default, or by a rule.
    pub fn chains_from(&self, port: PortId) -> impl Iterator<Item = ChainId> + '_ {
        let tables = self.ports.get(port.index());
        let by_rule = tables.into_iter().flat_map(|tables| &tables.rules).filter_map(|rule| rule.entrance);
        let entrances = tables.map(|tables| tables.default).into_iter().chain(by_rule);
        entrances.map(|entrance| entrance.chain).filter(|chain| *chain != ChainId::NONE)
    }

    /// Whether every hop of a chain has a live instance; a paced port is polled only then.
    #[must_use]
    pub fn is_chain_live(&self, chain: ChainId, live: &Liveness) -> bool {
        self.chains.get(chain.index()).is_some_and(|chain| {
            chain.path.iter().all(|service| self.instances(*service).iter().any(|e| live.is_live(*e)))
        })
    }

    /// The services of a chain in order.
    #[must_use]
    pub fn services_of(&self, chain: ChainId) -> &[ServiceId] {
        self.chains.get(chain.index()).map_or(&[], |chain| &chain.path)
    }

    /// The instances of a service, live or not.
    #[must_use]
    pub fn instances(&self, service: ServiceId) -> &[EndpointId] {
        self.services.get(service.index()).map_or(&[], |tables| &tables.instances)
    }
}

/// Where a packet stands that a port has just received.
#[inline]
const fn path_from(port: PortId, flow_hash: u32) -> PacketPath {
    PacketPath { chain: ChainId::NONE, hop: 0, visited: 0, ingress_port: port, flow_hash }
}

#[inline]
const fn drop(path: PacketPath, reason: DropReason) -> Decision {
    Decision { step: Step::Drop(reason), path }
}

#[inline]
const fn refuse(path: PacketPath, reason: DropReason) -> Arrival {
    let (observers, replication) = (ObserversId::NONE, ReplicationId::NONE);
    Arrival { decision: drop(path, reason), observers, replication }
}

#[cfg(test)]
mod tests;
