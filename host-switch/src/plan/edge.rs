//! The edges of the datapath: those that the config draws, and those between a domain and what is hidden in it.
//!
//! The config speaks of declared domains. A VM or process whose packets are copied works in a hidden domain, so
//! a way that the config draws from blue to green may in truth lead from `fw0@blue` to green: it gets a copy of
//! the edge. Inside one declared domain nothing needs an edge; where something is hidden in it, one is implied,
//! for all packets and without a limit. Only ways that packets can take get an edge. What is copied of an edge counts
//! against the limit of that edge, and a hidden domain against that of its declared one: a limit is for all regions
//! together.

use std::collections::{BTreeMap, BTreeSet};

use packet::MacAddress;
use security_domains as config;
use security_domains::{Config, Flows, Limit};
use switch_core::criteria::{Criteria, Prefix};
use switch_core::edge::EdgeSpec;
use switch_core::forwarding::Forwarding;
use switch_core::ids::{DomainId, EdgeId};
use switch_core::rate::RateSpec;
use switch_core::snapshot::{ForwardingSpec, SnapshotError};

use super::PlanError;

type Way = (DomainId, DomainId);

/// Draws the edges of a snapshot that has none, and builds it. The edges of the config come first, in its order.
pub(super) fn draw(config: &Config, spec: &mut ForwardingSpec) -> Result<Forwarding, PlanError> {
    let parents = Parents::of(config);
    let ways = ways(config, &parents, spec)?;
    spec.edges =
        config.edges.iter().map(|edge| copy(edge, (domain(edge.from), domain(edge.to)), None)).collect();
    for &(from, to) in ways.iter().filter(|way| parents.hide(**way)) {
        if parents.one(from, to) {
            spec.edges.push(implied(from, to));
        }
        let declared =
            (0..).map(EdgeId).zip(&config.edges).filter(|(_, edge)| parents.covers(edge, (from, to)));
        spec.edges.extend(declared.map(|(id, edge)| copy(edge, (from, to), Some(id))));
    }
    Ok(spec.build()?)
}

/// Every way from one domain to another that packets can take. The snapshot knows them: it names one that has
/// no edge, until none is left.
fn ways(config: &Config, parents: &Parents, spec: &ForwardingSpec) -> Result<BTreeSet<Way>, SnapshotError> {
    let mut spec = spec.clone();
    let mut ways = BTreeSet::new();
    loop {
        match spec.build() {
            Ok(_) => return Ok(ways),
            Err(error @ SnapshotError::CrossesDomains { from, to, .. }) => {
                let way = (from, to);
                let drawn =
                    parents.one(from, to) || config.edges.iter().any(|edge| parents.covers(edge, way));
                if !drawn || !ways.insert(way) {
                    return Err(error);
                }
                spec.edges.push(implied(from, to));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The declared domain of each hidden one.
struct Parents(BTreeMap<DomainId, DomainId>);

impl Parents {
    fn of(config: &Config) -> Self {
        let hidden = config.hidden_domains();
        Self(hidden.iter().map(|hidden| (domain(hidden.id), domain(hidden.parent))).collect())
    }

    fn declared(&self, domain: DomainId) -> DomainId {
        self.0.get(&domain).copied().unwrap_or(domain)
    }

    /// Whether both are, or are hidden in, one declared domain.
    fn one(&self, from: DomainId, to: DomainId) -> bool {
        self.declared(from) == self.declared(to)
    }

    /// Whether an end of a way is hidden.
    fn hide(&self, (from, to): Way) -> bool {
        self.0.contains_key(&from) || self.0.contains_key(&to)
    }

    /// Whether an edge of the config is for a way.
    fn covers(&self, edge: &config::Edge, (from, to): Way) -> bool {
        (domain(edge.from), domain(edge.to)) == (self.declared(from), self.declared(to))
    }
}

fn domain(id: config::DomainId) -> DomainId {
    DomainId(id.0)
}

fn implied(from: DomainId, to: DomainId) -> EdgeSpec {
    EdgeSpec { from, to, flows: Criteria::default(), broadcast: true, limit: None, limited_with: None }
}

/// An edge of the config for a way; one that is copied for a hidden domain shares the limit.
fn copy(edge: &config::Edge, (from, to): Way, limited_with: Option<EdgeId>) -> EdgeSpec {
    let config::Edge { flows, broadcast, limit, .. } = edge;
    EdgeSpec { from, to, flows: criteria(flows), broadcast: *broadcast, limit: rate(*limit), limited_with }
}

/// What the datapath knows a limit as.
pub(super) fn rate(limit: Limit) -> Option<RateSpec> {
    let rate = RateSpec { packets_per_s: limit.packets_per_s.map(u64::from), bits_per_s: limit.bits_per_s() };
    (!limit.is_none()).then_some(rate)
}

/// What the datapath knows the flows of a rule or an edge as.
pub(super) fn criteria(flows: &Flows) -> Criteria {
    // The config has checked that the length fits the address.
    let prefix = |prefix: &config::Prefix| Prefix::new(prefix.address, prefix.length_bits);
    let ports = |range: &config::PortRange| range.first..=range.last;
    Criteria {
        for_group: flows.group,
        vlan: flows.vlan,
        source_mac: flows.smac.map(|mac| MacAddress(mac.0)),
        destination_mac: flows.dmac.map(|mac| MacAddress(mac.0)),
        protocol: flows.proto,
        source: flows.src.as_ref().and_then(prefix),
        destination: flows.dst.as_ref().and_then(prefix),
        source_ports: flows.sport.as_ref().map(ports),
        destination_ports: flows.dport.as_ref().map(ports),
    }
}
