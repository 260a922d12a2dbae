//! A small switch of two domains, for tests.
//!
//! Blue: ports 0 (client) and 1 (server); services 0 firewall (endpoints 0 and 1), 1 router (endpoint 2),
//! 2 scanner (endpoint 3, fails open, in no chain but 2); chain 0 = firewall, router → server; chain 1 =
//! router, firewall, router → client; chain 2 = scanner → server. Red: port 2, service 3 (endpoint 4), chain 3.

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
