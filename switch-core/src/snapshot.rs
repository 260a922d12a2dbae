//! Builds a forwarding snapshot out of plain descriptions, and refuses what the datapath could not follow.
//!
//! The configuration language has checked all of this before and says it better; here it is checked again,
//! so that no caller can make a snapshot that sends a packet into another domain or past a table.

use thiserror::Error;

use crate::forwarding::{Chain, Forwarding, HOP_LIMIT, Port, Service};
use crate::ids::{ChainId, DomainId, ENDPOINTS_MAX, EndpointId, PortId, ServiceId};
use crate::rule::{Rule, RuleAction};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The domain to which it belongs.
    pub domain: DomainId,
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
    /// Rules in order; of each port the first match wins.
    pub rules: Vec<Rule>,
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
    /// More ports, services or chains than have numbers.
    #[error("{count} {kind}s, at most 65534 are allowed")]
    TooMany {
        /// Of what.
        kind: &'static str,
        /// How many.
        count: usize,
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
        self.check_domains()?;
        Ok(Forwarding {
            ports: self.ports.iter().zip(0..).map(|(port, id)| self.build_port(port, PortId(id))).collect(),
            services: (0..)
                .map(ServiceId)
                .zip(&self.services)
                .map(|(id, s)| self.build_service(id, s))
                .collect(),
            service_of: self.endpoints.iter().map(|endpoint| endpoint.service).collect(),
            chains: self
                .chains
                .iter()
                .map(|chain| Chain { path: chain.path.as_slice().into(), egress: chain.egress })
                .collect(),
            flow_seed: self.flow_seed,
        })
    }

    fn build_port(&self, port: &PortSpec, id: PortId) -> Port {
        let rules: Box<[Rule]> = self.rules.iter().filter(|rule| rule.port == id).cloned().collect();
        let needs_header = !rules.is_empty() || port.chain.is_some_and(|chain| self.leads_to_a_choice(chain));
        Port { domain: port.domain, chain: port.chain, needs_header, rules }
    }

    /// Whether a service on a chain, or one that a packet can be sent to from there, has several instances.
    fn leads_to_a_choice(&self, chain: ChainId) -> bool {
        let mut to_visit = self.chains[chain.index()].path.clone();
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
        (0..).map(ChainId).zip(&self.chains).find_map(|(id, chain)| {
            let hop = chain.path.iter().rposition(|s| *s == service)?;
            Some((id, u8::try_from(hop).ok()?))
        })
    }

    fn instances(&self, service: ServiceId) -> impl Iterator<Item = (EndpointId, DomainId)> + '_ {
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
        let counts =
            [("port", self.ports.len()), ("service", self.services.len()), ("chain", self.chains.len())];
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
            for service in &chain.path {
                self.check_service("chain", position, *service)?;
            }
        }
        for (position, rule) in self.rules.iter().enumerate() {
            self.check_port("rule", position, rule.port)?;
            if let RuleAction::Chain(chain) = rule.action {
                self.check_chain("rule", position, chain)?;
            }
        }
        Ok(())
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

    /// No way leads from one domain to another: ports, their chains and rules, the services on a chain and
    /// the targets of a service are all of one domain. References are known to be sound here.
    fn check_domains(&self) -> Result<(), SnapshotError> {
        for (position, chain) in self.chains.iter().enumerate() {
            let domain = self.ports[chain.egress.index()].domain;
            for service in &chain.path {
                self.check_service_domain("chain", position, domain, *service)?;
            }
        }
        for (position, port) in self.ports.iter().enumerate() {
            if let Some(chain) = port.chain {
                self.check_chain_domain("port", position, port.domain, chain)?;
            }
        }
        for (position, rule) in self.rules.iter().enumerate() {
            if let RuleAction::Chain(chain) = rule.action {
                self.check_chain_domain("rule", position, self.ports[rule.port.index()].domain, chain)?;
            }
        }
        for endpoint in &self.endpoints {
            self.check_target_domains(endpoint)?;
        }
        Ok(())
    }

    fn check_target_domains(&self, endpoint: &EndpointSpec) -> Result<(), SnapshotError> {
        let (position, from) = (endpoint.service.index(), endpoint.domain);
        for target in &self.services[position].may_target {
            match *target {
                Target::Service(id) => self.check_service_domain("service", position, from, id)?,
                Target::Port(id) => {
                    let to = self.ports[id.index()].domain;
                    check_same("service", position, from, "port", id.0, to)?;
                }
            }
        }
        Ok(())
    }

    fn check_chain_domain(
        &self,
        user: &'static str,
        position: usize,
        from: DomainId,
        chain: ChainId,
    ) -> Result<(), SnapshotError> {
        let to = self.ports[self.chains[chain.index()].egress.index()].domain;
        check_same(user, position, from, "chain", chain.0, to)
    }

    fn check_service_domain(
        &self,
        user: &'static str,
        position: usize,
        from: DomainId,
        service: ServiceId,
    ) -> Result<(), SnapshotError> {
        self.instances(service)
            .try_for_each(|(endpoint, to)| check_same(user, position, from, "endpoint", endpoint.0, to))
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

fn check_same(
    user: &'static str,
    position: usize,
    from: DomainId,
    kind: &'static str,
    id: u16,
    to: DomainId,
) -> Result<(), SnapshotError> {
    if from == to {
        return Ok(());
    }
    Err(SnapshotError::CrossesDomains { user, position, from, kind, id, to })
}
