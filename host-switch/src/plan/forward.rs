//! Where packets go: the forwarding snapshot of a config.

use security_domains as config;
use security_domains::Config;
use switch_core::forwarding::Forwarding;
use switch_core::ids::{ChainId, DomainId, PortId, ServiceId};
use switch_core::rule::{Replication, Rule, RuleAction};
use switch_core::snapshot::{
    ChainSpec, EndpointSpec, ForwardingSpec, PortSpec, ServiceSpec, Target, WhenDead,
};

use super::PlanError;
use super::numbers::Numbered;

/// Builds the snapshot. `flow_seed` keys the flow hash, so that nobody outside can choose which instance or
/// lcore a flow meets.
pub(super) fn forwarding(numbered: &Numbered, flow_seed: u64) -> Result<Forwarding, PlanError> {
    let config = &numbered.config;
    let mut spec = ForwardingSpec {
        ports: config.ports.iter().map(|each| port(config, each)).collect(),
        services: config.services.iter().map(service).collect(),
        endpoints: config.endpoints().iter().map(endpoint).collect(),
        chains: config.chains.iter().map(chain).collect(),
        made_in: Some(numbered.chains.iter().map(|id| ChainId(id.0)).collect()),
        rules: config.rules.iter().map(rule).collect(),
        edges: Vec::new(),
        flow_seed,
    };
    super::edge::draw(config, &mut spec)
}

/// What is hidden in a domain that shares a port shares it too: a frame is copied once on its way in anyhow. From
/// and to an exclusive port, packets of a hidden domain cross into the declared one.
fn port(config: &Config, port: &config::Port) -> PortSpec {
    let mut domains: Vec<DomainId> = port.domains.iter().map(|domain| DomainId(domain.0)).collect();
    if port.is_shared() {
        let hidden = config.hidden_domains().into_iter();
        let shares = hidden.filter(|hidden| !hidden.observes && port.domains.contains(&hidden.parent));
        domains.extend(shares.map(|hidden| DomainId(hidden.id.0)));
    }
    PortSpec { domains, chain: Some(ChainId(port.chain.0)) }
}

fn service(service: &config::Service) -> ServiceSpec {
    let target = |target: &config::Target| match *target {
        config::Target::Service(id) => Target::Service(ServiceId(id.0)),
        config::Target::Port(id) => Target::Port(PortId(id.0)),
    };
    ServiceSpec {
        may_target: service.may_target.iter().map(target).collect(),
        when_dead: match service.when_dead {
            config::WhenDead::Closed => WhenDead::Closed,
            config::WhenDead::Open => WhenDead::Open,
        },
    }
}

fn endpoint(listing: &config::EndpointListing<'_>) -> EndpointSpec {
    EndpointSpec { domain: DomainId(listing.region.0), service: ServiceId(listing.endpoint.service.0) }
}

fn chain(chain: &config::Chain) -> ChainSpec {
    ChainSpec {
        path: chain.path.iter().map(|service| ServiceId(service.0)).collect(),
        egress: PortId(chain.egress.0),
        observers: chain.observers.iter().map(|service| ServiceId(service.0)).collect(),
    }
}

fn rule(rule: &config::Rule) -> Rule {
    Rule {
        port: PortId(rule.port.0),
        criteria: super::edge::criteria(&rule.flows),
        action: match rule.action {
            config::RuleAction::Chain(id) => RuleAction::Chain(ChainId(id.0)),
            config::RuleAction::Drop => RuleAction::Drop,
        },
        observe: rule.observe.map(|service| ServiceId(service.0)),
        replication: rule.replicate_limit_pps.map(|copies_per_s| Replication {
            chains: rule.replicate.iter().map(|chain| ChainId(chain.0)).collect(),
            copies_per_s: copies_per_s.into(),
        }),
    }
}
