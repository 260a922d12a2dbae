//! A small switch of two domains, for tests.
//!
//! Blue: ports 0 (client) and 1 (server); services 0 firewall (endpoints 0 and 1), 1 router (endpoint 2),
//! 2 scanner (endpoint 3, fails open, in no chain but 2); chain 0 = firewall, router → server; chain 1 =
//! router, firewall, router → client; chain 2 = scanner → server. Red: port 2, service 3 (endpoint 4), chain 3.

use proptest::prelude::*;

use crate::criteria::Criteria;
use crate::edge::EdgeSpec;
use crate::ids::{ChainId, DomainId, EndpointId, PortId, ServiceId};
use crate::liveness::Liveness;
use crate::snapshot::{ChainSpec, EndpointSpec, ForwardingSpec, PortSpec, ServiceSpec, Target, WhenDead};

pub(crate) const BLUE: DomainId = DomainId(0);
pub(crate) const RED: DomainId = DomainId(1);
pub(crate) const CLIENT: PortId = PortId(0);
pub(crate) const SERVER: PortId = PortId(1);
pub(crate) const ROUTER: EndpointId = EndpointId(2);
pub(crate) const SCANNER: EndpointId = EndpointId(3);
pub(crate) const FIREWALL_ID: u32 = 0;
pub(crate) const ROUTER_ID: u32 = 1;
pub(crate) const SCANNER_ID: u32 = 2;

pub(crate) fn service(may_target: &[Target], when_dead: WhenDead) -> ServiceSpec {
    ServiceSpec { may_target: may_target.to_vec(), when_dead }
}

pub(crate) fn chain(path: &[u16], egress: PortId) -> ChainSpec {
    ChainSpec { path: path.iter().copied().map(ServiceId).collect(), egress, observers: Vec::new() }
}

pub(crate) fn spec() -> ForwardingSpec {
    let all = [0, 1, 2].map(|id| Target::Service(ServiceId(id)));
    let router = [all[0], all[2], Target::Port(CLIENT)];
    let endpoint = |domain, service| EndpointSpec { domain, service: ServiceId(service) };
    ForwardingSpec {
        ports: [(BLUE, 0), (BLUE, 1), (RED, 3)]
            .map(|(domain, chain)| PortSpec { domains: vec![domain], chain: Some(ChainId(chain)) })
            .to_vec(),
        services: vec![
            service(&[], WhenDead::Closed),
            service(&router, WhenDead::Closed),
            service(&all, WhenDead::Open),
            service(&[], WhenDead::Closed),
        ],
        endpoints: vec![
            endpoint(BLUE, 0),
            endpoint(BLUE, 0),
            endpoint(BLUE, 1),
            endpoint(BLUE, 2),
            endpoint(RED, 3),
        ],
        chains: vec![
            chain(&[0, 1], SERVER),
            chain(&[1, 0, 1], CLIENT),
            chain(&[2], SERVER),
            chain(&[3], PortId(2)),
        ],
        made_in: None,
        rules: Vec::new(),
        edges: Vec::new(),
        flow_seed: 11,
    }
}

pub(crate) fn live(endpoints: &[u16]) -> Liveness {
    let mut live = Liveness::default();
    endpoints.iter().for_each(|id| live.set(EndpointId(*id), true));
    live
}

pub(crate) fn all_live() -> Liveness {
    live(&[0, 1, 2, 3, 4])
}

/// An edge for everything but groups.
pub(crate) fn edge(from: DomainId, to: DomainId) -> EdgeSpec {
    EdgeSpec { from, to, flows: Criteria::default(), broadcast: false, limit: None, limited_with: None }
}

/// Two ports, four services and three chains of three domains, with any edges; not all of them can be built.
pub(crate) fn any_spec() -> impl Strategy<Value = ForwardingSpec> {
    let domain = || (0..3u16).prop_map(DomainId);
    let service = any::<bool>().prop_map(|open| ServiceSpec {
        may_target: Vec::new(),
        when_dead: if open { WhenDead::Open } else { WhenDead::Closed },
    });
    let port = (proptest::collection::vec(domain(), 1..3), 0..3u16)
        .prop_map(|(domains, chain)| PortSpec { domains, chain: Some(ChainId(chain)) });
    let endpoint = (domain(), 0..4u16)
        .prop_map(|(domain, service)| EndpointSpec { domain, service: ServiceId(service) });
    let chain = (proptest::collection::vec((0..4u16).prop_map(ServiceId), 0..4), 0..2u16)
        .prop_map(|(path, egress)| ChainSpec { path, egress: PortId(egress), observers: Vec::new() });
    let edge =
        (domain(), domain()).prop_filter_map("to itself", |(from, to)| (from != to).then(|| edge(from, to)));
    (
        proptest::collection::vec(port, 2),
        proptest::collection::vec(service, 4),
        proptest::collection::vec(endpoint, 1..6),
        proptest::collection::vec(chain, 3),
        proptest::collection::vec(edge, 0..6),
    )
        .prop_map(|(ports, services, endpoints, chains, edges)| ForwardingSpec {
            ports,
            services,
            endpoints,
            chains,
            made_in: None,
            rules: Vec::new(),
            edges,
            flow_seed: 3,
        })
}
