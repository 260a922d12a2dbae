//! The ways that a configuration draws from domain to domain: each must have an edge.
//!
//! What is checked is where packets are sent by the tables themselves: from a port to the first hop of its chain
//! and of its rules' chains, those of copies too, from hop to hop, over a hop that fails open, from the last hop to the egress port,
//! and from a service to what it may name; and to observers, from the domain in which a packet enters its chain.
//! An edge that is drawn may still refuse a packet when it comes:
//! [`crate::forwarding::Forwarding::edge`] has the last word.

use std::collections::BTreeSet;

use crate::ids::{ChainId, DomainId, PortId, ServiceId};
use crate::rule::RuleAction;
use crate::snapshot::{ChainSpec, ForwardingSpec, SnapshotError, Target, WhenDead};

/// Something that sends packets on.
#[derive(Clone, Copy)]
struct Sender<'s> {
    kind: &'static str,
    position: usize,
    /// The domains in which a packet may lie there. The host puts it into the one that it goes to, if that is
    /// one of these, and else into the first.
    domains: &'s [DomainId],
}

impl ForwardingSpec {
    /// That every way from one domain to another has an edge. References are known to be sound here.
    pub(crate) fn check_ways(&self) -> Result<(), SnapshotError> {
        self.check_edges()?;
        for (position, chain) in self.chains.iter().enumerate() {
            for (hop, service) in (1..).zip(&chain.path) {
                let domains: BTreeSet<_> = self.instances(*service).map(|(_, domain)| domain).collect();
                for domain in domains {
                    let sender = Sender { kind: "chain", position, domains: &[domain] };
                    self.check_path(sender, &chain.path[hop..], chain.egress)?;
                }
            }
        }
        for (position, port) in self.ports.iter().enumerate() {
            if let Some(chain) = port.chain {
                self.check_entry(Sender { kind: "port", position, domains: &port.domains }, chain, None)?;
            }
        }
        for (position, rule) in self.rules.iter().enumerate() {
            if let RuleAction::Chain(chain) = rule.action {
                let domains = &self.ports[rule.port.index()].domains;
                let sender = Sender { kind: "rule", position, domains };
                self.check_entry(sender, chain, rule.observe)?;
                for copied in rule.replication.iter().flat_map(|replication| &replication.chains) {
                    self.check_entry(sender, *copied, None)?;
                }
            }
        }
        self.check_targets()
    }

    fn check_edges(&self) -> Result<(), SnapshotError> {
        if let Some(port) = self.ports.iter().position(|port| port.domains.is_empty()) {
            return Err(SnapshotError::NoDomain { port });
        }
        match self.edges.iter().enumerate().find(|(_, edge)| edge.from == edge.to) {
            Some((edge, spec)) => Err(SnapshotError::EdgeToItself { edge, domain: spec.from }),
            None => Ok(()),
        }
    }

    fn check_targets(&self) -> Result<(), SnapshotError> {
        for endpoint in &self.endpoints {
            let position = endpoint.service.index();
            let sender = Sender { kind: "service", position, domains: &[endpoint.domain] };
            for target in &self.services[position].may_target {
                match *target {
                    Target::Service(id) => self.check_service_way(sender, id)?,
                    Target::Port(id) => self.check_port_way(sender, id)?,
                }
            }
        }
        Ok(())
    }

    fn check_entry(
        &self,
        sender: Sender<'_>,
        chain: ChainId,
        observe: Option<ServiceId>,
    ) -> Result<(), SnapshotError> {
        let ChainSpec { path, egress, observers } = &self.chains[chain.index()];
        self.check_path(sender, path, *egress)?;
        for service in observers.iter().chain(&observe) {
            for domain in self.entry_domains(sender.domains, path, *egress) {
                self.check_service_way(Sender { domains: &[domain], ..sender }, *service)?;
            }
        }
        Ok(())
    }

    /// The domains in which a packet of a port of `domains` may enter a path: as
    /// [`crate::forwarding::Forwarding::entry_domain`] for each first step that there can be.
    fn entry_domains(&self, domains: &[DomainId], path: &[ServiceId], egress: PortId) -> BTreeSet<DomainId> {
        let entry = |to: &[DomainId]| domains.iter().find(|domain| to.contains(domain)).or(domains.first());
        let mut found = BTreeSet::new();
        for service in path {
            found.extend(self.instances(*service).filter_map(|(_, domain)| entry(&[domain])));
            if self.services[service.index()].when_dead == WhenDead::Closed {
                return found;
            }
        }
        found.extend(entry(&self.ports[egress.index()].domains));
        found
    }

    /// To the first hop, over every hop that may be skipped, and to the port if all may be.
    fn check_path(
        &self,
        sender: Sender<'_>,
        path: &[ServiceId],
        egress: PortId,
    ) -> Result<(), SnapshotError> {
        for service in path {
            self.check_service_way(sender, *service)?;
            if self.services[service.index()].when_dead == WhenDead::Closed {
                return Ok(());
            }
        }
        self.check_port_way(sender, egress)
    }

    fn check_service_way(&self, sender: Sender<'_>, service: ServiceId) -> Result<(), SnapshotError> {
        self.instances(service).try_for_each(|(id, to)| self.check_way(sender, "endpoint", id.0, &[to]))
    }

    fn check_port_way(&self, sender: Sender<'_>, port: PortId) -> Result<(), SnapshotError> {
        self.check_way(sender, "port", port.0, &self.ports[port.index()].domains)
    }

    /// From where the sender's packets lie into any of `to`, or over an edge into the first of them.
    fn check_way(
        &self,
        sender: Sender<'_>,
        kind: &'static str,
        id: u16,
        to: &[DomainId],
    ) -> Result<(), SnapshotError> {
        let Sender { kind: user, position, domains } = sender;
        let (Some(&from), Some(&first)) = (domains.first(), to.first()) else { return Ok(()) };
        let is_drawn = || self.edges.iter().any(|edge| edge.from == from && edge.to == first);
        if domains.iter().any(|domain| to.contains(domain)) || is_drawn() || cfg!(feature = "sabotage-ways") {
            return Ok(());
        }
        Err(SnapshotError::CrossesDomains { user, position, from, kind, id, to: first })
    }
}

#[cfg(test)]
mod tests;
