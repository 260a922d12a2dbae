//! Builds a forwarding snapshot out of plain descriptions, and refuses what the datapath could not follow.
//!
//! The configuration language has checked all of this before and says it better; here it is checked again,
//! so that no caller can make a snapshot that sends a packet into another domain or past a table.

use thiserror::Error;

use crate::edge::{EdgeSpec, Edges};
use crate::forwarding::{Chain, Entrance, Forwarding, HOP_LIMIT, Port, PortRule, Replicas, Service};
use crate::ids::{
    ChainId, DomainId, ENDPOINTS_MAX, EndpointId, ObserversId, PortId, ReplicationId, ServiceId,
};
use crate::rule::{COPIES_MAX, Rule, RuleAction};

/// What a service's NFs may name in a verdict, besides next and drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Another service.
    Service(ServiceId),
    /// A port.
    Port(PortId),
}

/// What happens to a hop whose service has no live instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDead {
    /// Packets are dropped under `service_dead`.
    #[default]
    Closed,
    /// Packets skip the hop.
    Open,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The domains to which it belongs. Packets that no rule sends elsewhere enter the first one.
    pub domains: Vec<DomainId>,
    /// The chain that its packets take when no rule says otherwise; `None`: they are dropped as `no_chain`.
    pub chain: Option<ChainId>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its rights.
    pub may_target: Vec<Target>,
    /// What happens when no instance is live.
    pub when_dead: WhenDead,
}

impl ServiceSpec {
    fn may_services(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.may_target.iter().filter_map(|target| match target {
            Target::Service(id) => Some(*id),
            Target::Port(_) => None,
        })
    }

    fn may_ports(&self) -> impl Iterator<Item = PortId> + '_ {
        self.may_target.iter().filter_map(|target| match target {
            Target::Port(id) => Some(*id),
            Target::Service(_) => None,
        })
    }
}

/// One endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The domain of its VM or process.
    pub domain: DomainId,
    /// The service of which it is an instance.
    pub service: ServiceId,
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSpec {
    /// Services in order; may be empty.
    pub path: Vec<ServiceId>,
    /// The port after the last service.
    pub egress: PortId,
    /// Services that are shown each packet that a port sends into it.
    pub observers: Vec<ServiceId>,
}

/// Everything that a snapshot is built from; ids are positions in these lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardingSpec {
    /// Ports.
    pub ports: Vec<PortSpec>,
    /// Services.
    pub services: Vec<ServiceSpec>,
    /// Endpoints.
    pub endpoints: Vec<EndpointSpec>,
    /// Chains.
    pub chains: Vec<ChainSpec>,
    /// The chains among which the one is looked for that carries what an NF has made, in this order; none: all of
    /// them, by number.
    pub made_in: Option<Vec<ChainId>>,
    /// Rules in order; of each port the first match wins.
    pub rules: Vec<Rule>,
    /// Edges in order; of two domains the first that carries a packet takes it.
    pub edges: Vec<EdgeSpec>,
    /// Secret of the flow hash.
    pub flow_seed: u64,
}

/// Why a snapshot cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// A reference to something that is not in its list.
    #[error("{user} {position} names {kind} {id}, there are {count}")]
    Unknown {
        /// What names it.
        user: &'static str,
        /// Position of the one that names it.
        position: usize,
        /// What is named.
        kind: &'static str,
        /// The number given.
        id: u16,
        /// How many there are.
        count: usize,
    },
    /// A path that no packet could finish.
    #[error("chain {chain} has {hops} hops, at most {HOP_LIMIT} are allowed")]
    PathTooLong {
        /// Which.
        chain: usize,
        /// How many.
        hops: usize,
    },
    /// More endpoints than the ledger counts.
    #[error("{count} endpoints, at most {ENDPOINTS_MAX} are allowed")]
    TooManyEndpoints {
        /// How many.
        count: usize,
    },
    /// More of a kind than have numbers.
    #[error("{count} {kind}s, at most 65534 are allowed")]
    TooMany {
        /// Of what.
        kind: &'static str,
        /// How many.
        count: usize,
    },
    /// A port of nobody.
    #[error("port {port} belongs to no domain")]
    NoDomain {
        /// Which.
        port: usize,
    },
    /// A rule that would show what it drops.
    #[error("rule {rule} drops what it shows to service {service}; observers see what enters a chain")]
    ObservesDropped {
        /// Which.
        rule: usize,
        /// To whom.
        service: ServiceId,
    },
    /// A rule whose copies could not be bounded.
    #[error(
        "rule {rule} makes {copies} copies of a packet, from 1 to {COPIES_MAX} of one that goes on are allowed"
    )]
    Copies {
        /// Which.
        rule: usize,
        /// How many.
        copies: usize,
    },
    /// An edge that leads nowhere.
    #[error("edge {edge} leads from domain {domain} to itself")]
    EdgeToItself {
        /// Which.
        edge: usize,
        /// Whose.
        domain: DomainId,
    },
    /// A packet could leave its domain.
    #[error("{user} {position} of domain {from} leads to {kind} {id} of domain {to}, and no edge is drawn")]
    CrossesDomains {
        /// What leads there.
        user: &'static str,
        /// Position of the one that leads there.
        position: usize,
        /// Its domain.
        from: DomainId,
        /// What it leads to.
        kind: &'static str,
        /// Number of what it leads to.
        id: u16,
        /// The other domain.
        to: DomainId,
    },
}

impl ForwardingSpec {
    /// Checks everything and builds the snapshot.
    ///
    /// # Errors
    /// The first thing that the datapath could not follow.
    pub fn build(&self) -> Result<Forwarding, SnapshotError> {
        self.check_counts()?;
        self.check_references()?;
        self.check_ways()?;
        let mut lists = Lists::default();
        Ok(Forwarding {
            ports: (0..)
                .map(PortId)
                .zip(&self.ports)
                .map(|(id, port)| self.build_port(id, port, &mut lists))
                .collect(),
            services: (0..)
                .map(ServiceId)
                .zip(&self.services)
                .map(|(id, s)| self.build_service(id, s))
                .collect(),
            service_of: self.endpoints.iter().map(|endpoint| endpoint.service).collect(),
            domain_of: self.endpoints.iter().map(|endpoint| endpoint.domain).collect(),
            chains: self
                .chains
                .iter()
                .zip(0..)
                .map(|(chain, id)| self.build_chain(chain, ChainId(id)))
                .collect(),
            edges: Edges::new(&self.edges),
            observers: lists.observers.into_iter().map(Vec::into_boxed_slice).collect(),
            replications: lists.replications.into_boxed_slice(),
            flow_seed: self.flow_seed,
        })
    }

    fn build_port(&self, id: PortId, port: &PortSpec, lists: &mut Lists) -> Port {
        let default = self.build_entrance(port.chain, None, lists);
        let mut is_observed = default.observers != ObserversId::NONE;
        let mut rule = |rule: &Rule| PortRule {
            criteria: rule.criteria.clone(),
            entrance: match rule.action {
                RuleAction::Chain(chain) => {
                    let mut entrance = self.build_entrance(Some(chain), rule.observe, lists);
                    is_observed |= entrance.observers != ObserversId::NONE;
                    entrance.replication = self.build_replication(rule, lists);
                    Some(entrance)
                }
                RuleAction::Drop => None,
            },
        };
        let rules: Box<[PortRule]> =
            self.rules.iter().filter(|rule| rule.port == id).map(&mut rule).collect();
        let is_shared = port.domains.len() > 1;
        let leads_to_a_choice = || port.chain.is_some_and(|chain| self.leads_to_a_choice(chain));
        let needs_header = is_shared || !rules.is_empty() || leads_to_a_choice();
        let judges_flows = !rules.is_empty() && !rules.iter().any(|rule| rule.criteria.ask_stations());
        let domains = port.domains.as_slice().into();
        Port { domains, default, needs_header, judges_flows, is_observed, rules }
    }

    fn build_entrance(
        &self,
        chain: Option<ChainId>,
        observe: Option<ServiceId>,
        lists: &mut Lists,
    ) -> Entrance {
        let by_chain = chain.map_or(&[][..], |chain| &self.chains[chain.index()].observers);
        let observers = lists.number(by_chain.iter().copied().chain(observe));
        Entrance { chain: chain.unwrap_or(ChainId::NONE), observers, replication: ReplicationId::NONE }
    }

    /// Numbers what a rule makes of packets besides.
    fn build_replication(&self, rule: &Rule, lists: &mut Lists) -> ReplicationId {
        let Some(replication) = &rule.replication else { return ReplicationId::NONE };
        let entrances =
            replication.chains.iter().map(|chain| self.build_entrance(Some(*chain), None, lists)).collect();
        lists.replications.push(Replicas { entrances, copies_per_s: replication.copies_per_s });
        // As many as rules at most.
        u16::try_from(lists.replications.len() - 1).map_or(ReplicationId::NONE, ReplicationId)
    }

    fn build_chain(&self, chain: &ChainSpec, id: ChainId) -> Chain {
        Chain {
            path: chain.path.as_slice().into(),
            leads_to_a_choice: self.leads_to_a_choice(id),
            egress: chain.egress,
        }
    }

    /// Whether a service on a chain, or one that a packet can be sent to or is shown there, has several instances.
    fn leads_to_a_choice(&self, chain: ChainId) -> bool {
        let ChainSpec { path, observers, .. } = &self.chains[chain.index()];
        let mut to_visit = [path.as_slice(), observers].concat();
        let mut is_visited = vec![false; self.services.len()];
        while let Some(service) = to_visit.pop() {
            if std::mem::replace(&mut is_visited[service.index()], true) {
                continue;
            }
            if self.instances(service).nth(1).is_some() {
                return true;
            }
            to_visit.extend(self.services[service.index()].may_services());
        }
        false
    }

    fn build_service(&self, id: ServiceId, service: &ServiceSpec) -> Service {
        Service {
            instances: self.instances(id).map(|(endpoint, _)| endpoint).collect(),
            may_services: service.may_services().collect(),
            may_ports: service.may_ports().collect(),
            when_dead: service.when_dead,
            made_path: self.made_path(id),
        }
    }

    /// The chain on which a packet that an instance made goes on after "next": the first one that has the
    /// service, from its last place there.
    fn made_path(&self, service: ServiceId) -> Option<(ChainId, u8)> {
        let place_in = |id: ChainId| {
            let hop = self.chains.get(id.index())?.path.iter().rposition(|s| *s == service)?;
            Some((id, u8::try_from(hop).ok()?))
        };
        match &self.made_in {
            Some(chains) => chains.iter().copied().find_map(place_in),
            None => (0..).map(ChainId).take(self.chains.len()).find_map(place_in),
        }
    }

    pub(crate) fn instances(&self, service: ServiceId) -> impl Iterator<Item = (EndpointId, DomainId)> + '_ {
        (0..)
            .map(EndpointId)
            .zip(&self.endpoints)
            .filter(move |(_, endpoint)| endpoint.service == service)
            .map(|(id, endpoint)| (id, endpoint.domain))
    }

    fn check_counts(&self) -> Result<(), SnapshotError> {
        if self.endpoints.len() > ENDPOINTS_MAX {
            return Err(SnapshotError::TooManyEndpoints { count: self.endpoints.len() });
        }
        let counts = [
            ("port", self.ports.len()),
            ("service", self.services.len()),
            ("chain", self.chains.len()),
            ("edge", self.edges.len()),
            // Each may make one more list of observers.
            ("port, rule or copy", self.ports.len() + self.rules.len() + self.copies()),
        ];
        for (kind, count) in counts {
            if count >= usize::from(u16::MAX) {
                return Err(SnapshotError::TooMany { kind, count });
            }
        }
        for (chain, spec) in self.chains.iter().enumerate() {
            if spec.path.len() > usize::from(HOP_LIMIT) {
                return Err(SnapshotError::PathTooLong { chain, hops: spec.path.len() });
            }
        }
        Ok(())
    }

    fn check_references(&self) -> Result<(), SnapshotError> {
        for (position, port) in self.ports.iter().enumerate() {
            if let Some(chain) = port.chain {
                self.check_chain("port", position, chain)?;
            }
        }
        for (position, chain) in self.made_in.iter().flatten().enumerate() {
            self.check_chain("list of chains", position, *chain)?;
        }
        for (position, service) in self.services.iter().enumerate() {
            for target in &service.may_target {
                match *target {
                    Target::Service(id) => self.check_service("service", position, id)?,
                    Target::Port(id) => self.check_port("service", position, id)?,
                }
            }
        }
        for (position, endpoint) in self.endpoints.iter().enumerate() {
            self.check_service("endpoint", position, endpoint.service)?;
        }
        for (position, chain) in self.chains.iter().enumerate() {
            self.check_port("chain", position, chain.egress)?;
            for service in chain.path.iter().chain(&chain.observers) {
                self.check_service("chain", position, *service)?;
            }
        }
        for (position, rule) in self.rules.iter().enumerate() {
            self.check_port("rule", position, rule.port)?;
            if let Some(service) = rule.observe {
                self.check_service("rule", position, service)?;
            }
            self.check_replication(position, rule)?;
            match (rule.action, rule.observe) {
                (RuleAction::Chain(chain), _) => self.check_chain("rule", position, chain)?,
                (RuleAction::Drop, None) => {}
                (RuleAction::Drop, Some(service)) => {
                    return Err(SnapshotError::ObservesDropped { rule: position, service });
                }
            }
        }
        Ok(())
    }

    /// Copies are of packets that go on, and no more than a few of each.
    fn check_replication(&self, position: usize, rule: &Rule) -> Result<(), SnapshotError> {
        let Some(replication) = &rule.replication else { return Ok(()) };
        let copies = replication.chains.len();
        if !(1..=COPIES_MAX).contains(&copies) || rule.action == RuleAction::Drop {
            return Err(SnapshotError::Copies { rule: position, copies });
        }
        replication.chains.iter().try_for_each(|chain| self.check_chain("rule", position, *chain))
    }

    fn copies(&self) -> usize {
        self.rules.iter().filter_map(|rule| rule.replication.as_ref()).map(|each| each.chains.len()).sum()
    }

    fn check_chain(&self, user: &'static str, position: usize, id: ChainId) -> Result<(), SnapshotError> {
        check_known(user, position, "chain", id.0, self.chains.len())
    }

    fn check_port(&self, user: &'static str, position: usize, id: PortId) -> Result<(), SnapshotError> {
        check_known(user, position, "port", id.0, self.ports.len())
    }

    fn check_service(&self, user: &'static str, position: usize, id: ServiceId) -> Result<(), SnapshotError> {
        check_known(user, position, "service", id.0, self.services.len())
    }
}

/// The lists that a snapshot has numbers for.
#[derive(Default)]
struct Lists {
    /// Those of observers, each once.
    observers: Vec<Vec<ServiceId>>,
    replications: Vec<Replicas>,
}

impl Lists {
    fn number(&mut self, services: impl Iterator<Item = ServiceId>) -> ObserversId {
        let mut list = Vec::new();
        services.for_each(|service| {
            if !list.contains(&service) {
                list.push(service)
            }
        });
        if list.is_empty() {
            return ObserversId::NONE;
        }
        let known = self.observers.iter().position(|known| *known == list);
        let position = known.unwrap_or_else(|| {
            self.observers.push(list);
            self.observers.len() - 1
        });
        // As many lists as ports, rules and their copies at most; there are numbers for them.
        u16::try_from(position).map_or(ObserversId::NONE, ObserversId)
    }
}

fn check_known(
    user: &'static str,
    position: usize,
    kind: &'static str,
    id: u16,
    count: usize,
) -> Result<(), SnapshotError> {
    if usize::from(id) < count {
        return Ok(());
    }
    Err(SnapshotError::Unknown { user, position, kind, id, count })
}
