//! Where packets go: the forwarding snapshot of a config.

use packet::MacAddress;
use security_domains as config;
use security_domains::Config;
use switch_core::criteria::{Criteria, Prefix};
use switch_core::forwarding::Forwarding;
use switch_core::ids::{ChainId, DomainId, PortId, ServiceId};
use switch_core::rule::{Rule, RuleAction};
use switch_core::snapshot::{
    ChainSpec, EndpointSpec, ForwardingSpec, PortSpec, ServiceSpec, SnapshotError, Target, WhenDead,
};

/// Builds the snapshot. `flow_seed` keys the flow hash, so that nobody outside can choose which instance or
/// lcore a flow meets.
pub(super) fn forwarding(config: &Config, flow_seed: u64) -> Result<Forwarding, SnapshotError> {
    ForwardingSpec {
        ports: config.ports.iter().map(port).collect(),
        services: config.services.iter().map(service).collect(),
        endpoints: config.endpoints().iter().map(endpoint).collect(),
        chains: config.chains.iter().map(chain).collect(),
        rules: config.rules.iter().map(rule).collect(),
        edges: Vec::new(),
        flow_seed,
    }
    .build()
}

fn port(port: &config::Port) -> PortSpec {
    PortSpec { domains: vec![DomainId(port.domain().0)], chain: Some(ChainId(port.chain.0)) }
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
    EndpointSpec { domain: DomainId(listing.domain.0), service: ServiceId(listing.endpoint.service.0) }
}

fn chain(chain: &config::Chain) -> ChainSpec {
    ChainSpec {
        path: chain.path.iter().map(|service| ServiceId(service.0)).collect(),
        egress: PortId(chain.egress.0),
    }
}

fn rule(rule: &config::Rule) -> Rule {
    // The config has checked that the length fits the address.
    let prefix = |prefix: &config::Prefix| Prefix::new(prefix.address, prefix.length_bits);
    let flows = &rule.flows;
    let ports = |range: &config::PortRange| range.first..=range.last;
    Rule {
        port: PortId(rule.port.0),
        criteria: Criteria {
            vlan: flows.vlan,
            source_mac: flows.smac.map(|mac| MacAddress(mac.0)),
            destination_mac: flows.dmac.map(|mac| MacAddress(mac.0)),
            protocol: flows.proto,
            source: flows.src.as_ref().and_then(prefix),
            destination: flows.dst.as_ref().and_then(prefix),
            source_ports: flows.sport.as_ref().map(ports),
            destination_ports: flows.dport.as_ref().map(ports),
        },
        action: match rule.action {
            config::RuleAction::Chain(id) => RuleAction::Chain(ChainId(id.0)),
            config::RuleAction::Drop => RuleAction::Drop,
        },
    }
}
