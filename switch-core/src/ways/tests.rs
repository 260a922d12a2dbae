//! Ways with and without edges, in the switch of [`crate::test_switch`].

use proptest::prelude::*;
use shm_ring::desc::{Kind, Verdict};

use super::*;
use crate::forwarding::{Forwarding, Step};
use crate::ids::{BufferIndex, EndpointId};
use crate::ledger::PacketPath;
use crate::liveness::Liveness;
use crate::rule::{Replication, Rule};
use crate::shard::Returned;
use crate::test_frames::tcp;
use crate::test_switch::{BLUE, CLIENT, RED, SERVER, any_spec, edge, spec};

type Change = fn(&mut ForwardingSpec);

/// Each leads from blue to red, or back, in one place.
const WAYS: [(Change, DomainId, &str); 9] = [
    (|s| s.ports[0].chain = Some(ChainId(3)), BLUE, "port 0 of domain 0 leads to endpoint 4 of domain 1"),
    (
        |s| {
            s.ports[1].chain = Some(ChainId(3));
            s.chains[3].path.clear();
        },
        BLUE,
        "port 1 of domain 0 leads to port 2 of domain 1",
    ),
    (
        |s| s.chains[0].path.insert(1, ServiceId(3)),
        BLUE,
        "chain 0 of domain 0 leads to endpoint 4 of domain 1",
    ),
    (|s| s.chains[2].egress = PortId(2), BLUE, "chain 2 of domain 0 leads to port 2 of domain 1"),
    (|s| s.endpoints[1].domain = RED, RED, "chain 0 of domain 1 leads to endpoint 2 of domain 0"),
    (
        |s| s.services[1].may_target.push(Target::Port(PortId(2))),
        BLUE,
        "service 1 of domain 0 leads to port 2 of domain 1",
    ),
    (
        |s| s.services[2].may_target.push(Target::Service(ServiceId(3))),
        BLUE,
        "service 2 of domain 0 leads to endpoint 4 of domain 1",
    ),
    (
        |s| s.rules.push(Rule::for_all_of(CLIENT, RuleAction::Chain(ChainId(3)))),
        BLUE,
        "rule 0 of domain 0 leads to endpoint 4 of domain 1",
    ),
    (
        |s| {
            s.ports[0].domains = vec![BLUE, DomainId(2)];
            s.ports[0].chain = Some(ChainId(3));
        },
        BLUE,
        "port 0 of domain 0 leads to endpoint 4 of domain 1",
    ),
];

#[test]
fn refuses_every_way_without_an_edge() {
    for (change, from, message) in WAYS {
        let mut spec = spec();
        change(&mut spec);
        spec.edges = vec![edge(RED, DomainId(2)), edge(DomainId(2), RED)];
        // The other direction alone is no permission.
        spec.edges.push(if from == BLUE { edge(RED, BLUE) } else { edge(BLUE, RED) });
        let error = spec.build().map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, format!("{message}, and no edge is drawn"));
    }
}

#[test]
fn accepts_every_way_with_an_edge_in_both_directions() {
    for (change, _, message) in WAYS {
        let mut spec = spec();
        change(&mut spec);
        spec.edges = vec![edge(BLUE, RED), edge(RED, BLUE)];
        assert!(spec.build().is_ok(), "{message}");
    }
}

#[test]
fn a_hop_that_fails_open_is_one_more_way_around_it() {
    let mut spec = spec();
    // Port 0 → red service 3 → blue router; skipping service 3 needs no edge, coming from green does.
    spec.chains[0].path = vec![ServiceId(3), ServiceId(1)];
    spec.ports[0].domains = vec![DomainId(2)];
    spec.chains[1].egress = SERVER;
    spec.services[1].may_target.clear();
    spec.edges = vec![edge(DomainId(2), RED), edge(RED, BLUE)];
    assert!(spec.build().is_ok());
    spec.services[3].when_dead = WhenDead::Open;
    let error = spec.build().map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "port 0 of domain 2 leads to endpoint 2 of domain 0, and no edge is drawn");
    spec.edges.push(edge(DomainId(2), BLUE));
    assert!(spec.build().is_ok());
}

#[test]
fn a_shared_port_leads_into_each_of_its_domains_without_an_edge() {
    let mut spec = spec();
    spec.ports[0].domains = vec![BLUE, RED];
    spec.rules = vec![Rule::for_all_of(CLIENT, RuleAction::Chain(ChainId(3)))];
    spec.chains[3].egress = CLIENT;
    assert!(spec.build().is_ok());
}

#[test]
fn refuses_a_port_of_nobody_and_an_edge_to_itself() {
    let mut without = spec();
    without.ports[1].domains.clear();
    assert_eq!(without.build().map(|_| ()).unwrap_err().to_string(), "port 1 belongs to no domain");
    let mut circular = spec();
    circular.edges = vec![edge(BLUE, RED), edge(RED, RED)];
    let error = circular.build().map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "edge 1 leads from domain 1 to itself");
}

#[test]
fn observers_are_where_the_packet_enters_or_behind_an_edge_from_there() {
    let observed_by_red = |spec: &mut ForwardingSpec| spec.chains[0].observers = vec![ServiceId(3)];
    let mut one_domain = spec();
    observed_by_red(&mut one_domain);
    let error = one_domain.build().map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "port 0 of domain 0 leads to endpoint 4 of domain 1, and no edge is drawn");
    one_domain.edges = vec![edge(BLUE, RED)];
    assert!(one_domain.build().is_ok());
    let mut shared = spec();
    observed_by_red(&mut shared);
    shared.ports[0].domains = vec![BLUE, RED];
    assert!(shared.build().is_err(), "the packet enters blue, where its chain begins");
    let mut by_rule = spec();
    let to_chain = RuleAction::Chain(ChainId(0));
    by_rule.rules = vec![Rule { observe: Some(ServiceId(3)), ..Rule::for_all_of(CLIENT, to_chain) }];
    let error = by_rule.build().map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "rule 0 of domain 0 leads to endpoint 4 of domain 1, and no edge is drawn");
}

#[test]
fn copies_enter_chains_of_the_port_or_behind_an_edge_from_there() {
    let mut copying = spec();
    let way = ChainSpec { path: vec![ServiceId(3)], egress: CLIENT, observers: Vec::new() };
    copying.chains.push(way);
    let red = ChainId(u16::try_from(copying.chains.len() - 1).unwrap());
    let replication = Some(Replication { chains: vec![red], copies_per_s: 1 });
    let rule = Rule::for_all_of(CLIENT, RuleAction::Chain(ChainId(0)));
    copying.edges = vec![edge(RED, BLUE)];
    copying.rules = vec![Rule { replication, ..rule }];
    let error = copying.build().map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "rule 0 of domain 0 leads to endpoint 4 of domain 1, and no edge is drawn");
    copying.edges.push(edge(BLUE, RED));
    assert!(copying.build().is_ok());
    for (chains, action) in [
        (vec![], RuleAction::Chain(ChainId(0))),
        (vec![red; 9], RuleAction::Chain(ChainId(0))),
        (vec![red], RuleAction::Drop),
    ] {
        let copies = chains.len();
        let replication = Some(Replication { chains, copies_per_s: 1 });
        copying.rules = vec![Rule { replication, ..Rule::for_all_of(CLIENT, action) }];
        let error = copying.build().map(|_| ()).unwrap_err();
        assert_eq!(error, SnapshotError::Copies { rule: 0, copies });
    }
}

/// Where packets lie and go, hop by hop along one chain, with some instances dead: each step from one domain
/// to another, as the datapath makes them.
fn crossings(forwarding: &Forwarding, port: PortId, live: &Liveness) -> Vec<(DomainId, DomainId)> {
    let mut crossings = Vec::new();
    let mut decision = forwarding.ingress(port, &tcp(1000, 80), live);
    let mut lies_in = forwarding.entry_domain(port, decision.step).unwrap();
    loop {
        let goes_to = match decision.step {
            Step::Endpoint(endpoint) => forwarding.domain_of(endpoint).unwrap(),
            Step::Port(egress) => forwarding.egress_domain(lies_in, egress).unwrap(),
            Step::Drop(_) | Step::Home => return crossings,
        };
        if goes_to != lies_in {
            crossings.push((lies_in, goes_to));
        }
        lies_in = goes_to;
        let Step::Endpoint(endpoint) = decision.step else { return crossings };
        decision = forwarding.after(endpoint, &given_back(decision.path), live);
    }
}

fn given_back(path: PacketPath) -> Returned {
    let (kind, verdict) = (Kind::Packet, Verdict::Next);
    let index = BufferIndex(0);
    Returned { index, data_offset_bytes: 128, data_len_bytes: 60, kind, verdict, aux: 0, path }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn along_its_chain_a_packet_crosses_only_where_an_edge_is_drawn(spec in any_spec(), alive: u8, port in 0..2u16) {
        let Ok(forwarding) = spec.build() else { return Ok(()) };
        let mut live = Liveness::default();
        (0..8).for_each(|id| live.set(EndpointId(id), alive >> id & 1 == 1));
        for (from, to) in crossings(&forwarding, PortId(port), &live) {
            prop_assert!(spec.edges.iter().any(|edge| edge.from == from && edge.to == to), "{from} to {to}");
        }
    }
}
