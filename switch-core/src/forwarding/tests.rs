//! The ways of a packet through the small switch of [`crate::test_switch`].

use proptest::prelude::*;
use shm_ring::desc::{Kind, Verdict};

use super::*;
use crate::criteria::Criteria;
use crate::ids::BufferIndex;
use crate::rule::{Rule, RuleAction};
use crate::snapshot::{EndpointSpec, ForwardingSpec, SnapshotError, Target};
use crate::test_frames::{ipv4, ports, tcp};
use crate::test_switch::{
    BLUE, CLIENT, FIREWALL_ID, RED, ROUTER, ROUTER_ID, SCANNER, SCANNER_ID, SERVER, all_live, any_spec, live,
    spec,
};

fn returned(path: PacketPath, verdict: Verdict, aux: u32) -> Returned {
    let (index, kind) = (BufferIndex(0), Kind::Packet);
    Returned { index, data_offset_bytes: 128, data_len_bytes: 60, kind, verdict, aux, path }
}

fn at(chain: u16, hop: u8) -> PacketPath {
    PacketPath { chain: ChainId(chain), hop, visited: 1, ingress_port: CLIENT, flow_hash: 99 }
}

fn after(endpoint: EndpointId, path: PacketPath, verdict: Verdict, aux: u32) -> Decision {
    spec().build().unwrap().after(endpoint, &returned(path, verdict, aux), &all_live())
}

fn rule(action: RuleAction) -> Rule {
    Rule::for_all_of(CLIENT, action)
}

fn rule_for(criteria: Criteria, action: RuleAction) -> Rule {
    Rule { criteria, ..rule(action) }
}

#[test]
fn a_packet_passes_every_hop_of_its_chain_and_leaves() {
    let forwarding = spec().build().unwrap();
    let first = forwarding.ingress(CLIENT, &tcp(1000, 80), &all_live());
    let Step::Endpoint(firewall) = first.step else { panic!("{first:?}") };
    assert_eq!(forwarding.service_of(firewall), Some(ServiceId(0)));
    assert_eq!((first.path.chain, first.path.hop, first.path.visited), (ChainId(0), 0, 1));
    let second = forwarding.after(firewall, &returned(first.path, Verdict::Next, 0), &all_live());
    assert_eq!(second.step, Step::Endpoint(ROUTER));
    assert_eq!((second.path.hop, second.path.visited), (1, 2));
    let third = forwarding.after(ROUTER, &returned(second.path, Verdict::Next, 0), &all_live());
    assert_eq!((third.step, third.path.hop), (Step::Port(SERVER), 2));
}

#[test]
fn both_directions_of_a_flow_meet_one_instance() {
    let forwarding = spec().build().unwrap();
    for port in 0..64 {
        let there = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &ports(port, 80));
        let back = ipv4([10, 0, 0, 2], [10, 0, 0, 1], 6, &ports(80, port));
        let decide = |frame: &[u8]| forwarding.ingress(CLIENT, &HeaderCopy::of_frame(frame), &all_live());
        assert_eq!(decide(&there), decide(&back));
    }
}

#[test]
fn the_first_rule_that_matches_wins() {
    let mut spec = spec();
    spec.rules = vec![
        rule_for(Criteria { destination_ports: Some(22..=22), ..Criteria::default() }, RuleAction::Drop),
        rule_for(
            Criteria { destination_ports: Some(20..=30), ..Criteria::default() },
            RuleAction::Chain(ChainId(2)),
        ),
        Rule { port: SERVER, ..rule(RuleAction::Drop) },
    ];
    let forwarding = spec.build().unwrap();
    let decide = |port| forwarding.ingress(CLIENT, &tcp(1000, port), &all_live());
    assert_eq!(decide(22).step, Step::Drop(DropReason::RuleDrop));
    assert_eq!(decide(23).step, Step::Endpoint(SCANNER));
    assert_eq!(decide(80).path.chain, ChainId(0));
    assert_eq!(
        forwarding.ingress(SERVER, &tcp(1000, 80), &all_live()).step,
        Step::Drop(DropReason::RuleDrop)
    );
}

#[test]
fn a_fragment_does_not_fall_through_to_a_permissive_rule() {
    let mut spec = spec();
    spec.rules = vec![
        rule_for(
            Criteria { protocol: Some(6), destination_ports: Some(22..=22), ..Criteria::default() },
            RuleAction::Drop,
        ),
        rule(RuleAction::Chain(ChainId(0))),
    ];
    let mut frame = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &ports(1000, 22));
    frame[14 + 6] = 0x20;
    let decision = spec.build().unwrap().ingress(CLIENT, &HeaderCopy::of_frame(&frame), &all_live());
    assert_eq!(decision.step, Step::Drop(DropReason::FragmentUnclassified));
}

#[test]
fn a_permissive_transport_rule_does_not_take_a_fragment() {
    let mut spec = spec();
    spec.rules =
        vec![rule_for(Criteria { protocol: Some(6), ..Criteria::default() }, RuleAction::Chain(ChainId(2)))];
    let mut frame = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &ports(1000, 22));
    frame[14 + 6] = 0x20;
    let decision = spec.build().unwrap().ingress(CLIENT, &HeaderCopy::of_frame(&frame), &all_live());
    assert_eq!(decision.step, Step::Drop(DropReason::FragmentUnclassified));
}

#[test]
fn a_dead_service_that_fails_closed_drops() {
    let forwarding = spec().build().unwrap();
    let decision = forwarding.ingress(CLIENT, &tcp(1, 2), &live(&[2, 3]));
    assert_eq!(decision.step, Step::Drop(DropReason::ServiceDead));
}

#[test]
fn a_dead_service_that_fails_open_is_skipped() {
    let mut spec = spec();
    spec.services[0].when_dead = WhenDead::Open;
    let forwarding = spec.build().unwrap();
    let decision = forwarding.ingress(CLIENT, &tcp(1, 2), &live(&[2, 3]));
    assert_eq!((decision.step, decision.path.hop, decision.path.visited), (Step::Endpoint(ROUTER), 1, 1));
}

#[test]
fn a_chain_whose_services_are_all_skipped_leads_to_its_port() {
    let mut spec = spec();
    spec.ports[0].chain = Some(ChainId(2));
    let decision = spec.build().unwrap().ingress(CLIENT, &tcp(1, 2), &live(&[]));
    assert_eq!((decision.step, decision.path.visited), (Step::Port(SERVER), 0));
}

#[test]
fn a_chain_without_services_leads_to_its_port() {
    let mut spec = spec();
    spec.chains[0].path.clear();
    let decision = spec.build().unwrap().ingress(CLIENT, &tcp(1, 2), &live(&[]));
    assert_eq!(decision.step, Step::Port(SERVER));
}

#[test]
fn a_port_without_a_chain_drops_what_no_rule_takes() {
    let mut spec = spec();
    spec.ports[0].chain = None;
    let forwarding = spec.build().unwrap();
    let decision = forwarding.ingress(CLIENT, &tcp(1, 2), &all_live());
    assert_eq!(decision.step, Step::Drop(DropReason::NoChain));
    let decision = forwarding.ingress(PortId(77), &tcp(1, 2), &all_live());
    assert_eq!(decision.step, Step::Drop(DropReason::NoChain));
}

#[test]
fn to_a_service_of_the_chain_goes_on_behind_its_last_place() {
    // Chain 1 = router, firewall, router: the scanner's detour ends at the second router.
    let decision = after(SCANNER, at(1, 0), Verdict::ToService, ROUTER_ID);
    assert_eq!((decision.step, decision.path.hop), (Step::Endpoint(ROUTER), 2));
    let next = after(ROUTER, decision.path, Verdict::Next, 0);
    assert_eq!(next.step, Step::Port(CLIENT));
}

#[test]
fn to_a_service_outside_the_chain_goes_on_behind_the_hop_it_left() {
    let decision = after(ROUTER, at(1, 0), Verdict::ToService, SCANNER_ID);
    assert_eq!((decision.step, decision.path.hop), (Step::Endpoint(SCANNER), 0));
    let next = after(SCANNER, decision.path, Verdict::Next, 0);
    assert_eq!(next.path.hop, 1);
}

#[test]
fn to_a_dead_service_that_fails_open_goes_on_behind_it() {
    let forwarding = spec().build().unwrap();
    let to_scanner = returned(at(1, 0), Verdict::ToService, SCANNER_ID);
    let decision = forwarding.after(ROUTER, &to_scanner, &live(&[0, 2]));
    assert_eq!((decision.step, decision.path.hop), (Step::Endpoint(EndpointId(0)), 1));
    let to_firewall = returned(at(1, 0), Verdict::ToService, FIREWALL_ID);
    let decision = forwarding.after(ROUTER, &to_firewall, &live(&[2]));
    assert_eq!(decision.step, Step::Drop(DropReason::ServiceDead));
}

#[test]
fn a_target_that_the_service_may_name_is_followed() {
    let decision = after(ROUTER, at(0, 1), Verdict::ToPort, u32::from(CLIENT.0));
    assert_eq!(decision.step, Step::Port(CLIENT));
}

#[test]
fn refuses_a_target_that_the_service_may_not_name() {
    let firewall = EndpointId(0);
    for (endpoint, verdict, aux) in [
        (firewall, Verdict::ToService, ROUTER_ID),
        (firewall, Verdict::ToPort, u32::from(SERVER.0)),
        (ROUTER, Verdict::ToService, ROUTER_ID),
        (ROUTER, Verdict::ToPort, u32::from(SERVER.0)),
        (ROUTER, Verdict::ToPort, 2),
        (ROUTER, Verdict::ToPort, 77),
        (ROUTER, Verdict::ToPort, 0x1_0000),
        (ROUTER, Verdict::ToService, u32::MAX),
        (EndpointId(99), Verdict::ToService, FIREWALL_ID),
    ] {
        let decision = after(endpoint, at(0, 0), verdict, aux);
        assert_eq!(decision.step, Step::Drop(DropReason::VerdictDenied), "{endpoint} {verdict:?} {aux:#x}");
    }
}

#[test]
fn a_packet_that_was_at_31_endpoints_gets_one_more_and_no_other() {
    let path = |visited| PacketPath { visited, ..at(1, 0) };
    let decision = after(ROUTER, path(HOP_LIMIT - 1), Verdict::ToService, SCANNER_ID);
    assert_eq!((decision.step, decision.path.visited), (Step::Endpoint(SCANNER), HOP_LIMIT));
    let decision = after(SCANNER, decision.path, Verdict::ToService, ROUTER_ID);
    assert_eq!(decision.step, Step::Drop(DropReason::HopLimit));
    let decision = after(ROUTER, path(HOP_LIMIT), Verdict::ToPort, 0);
    assert_eq!(decision.step, Step::Port(CLIENT), "leaving is no hop");
}

#[test]
fn a_dropped_packet_is_counted_and_an_empty_buffer_just_goes_home() {
    let forwarding = spec().build().unwrap();
    let step = |verdict, kind| {
        let given = Returned { kind, ..returned(at(0, 0), verdict, 0) };
        forwarding.after(ROUTER, &given, &all_live()).step
    };
    assert_eq!(step(Verdict::Drop, Kind::Packet), Step::Drop(DropReason::NfDrop));
    assert_eq!(step(Verdict::Drop, Kind::Empty), Step::Home);
    assert_eq!(step(Verdict::ReturnEmpty, Kind::Empty), Step::Home);
}

#[test]
fn a_made_packet_goes_on_behind_its_maker_in_the_first_chain_that_has_it() {
    let forwarding = spec().build().unwrap();
    let path = forwarding.path_for_made(ROUTER);
    assert_eq!((path.chain, path.hop, path.ingress_port), (ChainId(0), 1, PortId::NONE));
    let decision = forwarding.after(ROUTER, &returned(path, Verdict::Next, 0), &all_live());
    assert_eq!(decision.step, Step::Port(SERVER));
}

#[test]
fn what_is_made_takes_the_first_of_the_chains_that_are_listed_for_it() {
    let mut spec = spec();
    spec.made_in = Some(vec![ChainId(2), ChainId(1), ChainId(0)]);
    let path = spec.build().unwrap().path_for_made(ROUTER);
    assert_eq!((path.chain, path.hop), (ChainId(1), 2));
    spec.made_in = Some(vec![ChainId(4)]);
    let said = spec.build().unwrap_err().to_string();
    assert_eq!(said, "list of chains 0 names chain 4, there are 4");
}

#[test]
fn a_packet_made_outside_every_chain_cannot_say_next() {
    let mut spec = spec();
    spec.chains[2].path.clear();
    let forwarding = spec.build().unwrap();
    let path = forwarding.path_for_made(SCANNER);
    let decision = forwarding.after(SCANNER, &returned(path, Verdict::Next, 0), &all_live());
    assert_eq!(decision.step, Step::Drop(DropReason::NoChain));
    let decision = forwarding.after(SCANNER, &returned(path, Verdict::ToService, ROUTER_ID), &all_live());
    assert_eq!(decision.step, Step::Endpoint(ROUTER));
}

#[test]
fn a_path_from_an_older_snapshot_ends_in_a_name_and_not_past_a_table() {
    let last_of_two_hops = after(ROUTER, at(0, 1), Verdict::Next, 0);
    assert_eq!(last_of_two_hops.step, Step::Port(SERVER));
    for hop in [2, 31, 200, 255] {
        let beyond_the_path = after(ROUTER, at(0, hop), Verdict::Next, 0);
        assert_eq!(beyond_the_path.step, Step::Drop(DropReason::NoChain));
    }
    let beyond_the_chains = after(ROUTER, at(40, 0), Verdict::Next, 0);
    assert_eq!(beyond_the_chains.step, Step::Drop(DropReason::NoChain));
}

#[test]
fn headers_are_needed_for_rules_and_for_any_choice_that_a_packet_can_get_to() {
    let needs = |spec: &ForwardingSpec| spec.build().unwrap().needs_header(CLIENT);
    assert!(needs(&spec()), "the firewall has two instances");
    let mut spec = spec();
    spec.endpoints[1].service = ServiceId(2);
    assert!(needs(&spec), "the router may name the scanner, which has two instances now");
    spec.services[1].may_target.clear();
    assert!(!needs(&spec));
    spec.rules = vec![Rule { port: SERVER, ..rule(RuleAction::Drop) }];
    assert!(!needs(&spec), "a rule of another port");
    spec.rules = vec![rule(RuleAction::Drop)];
    assert!(needs(&spec));
}

#[test]
fn without_need_the_header_is_not_looked_at() {
    let mut spec = spec();
    spec.endpoints.truncate(1);
    spec.endpoints.push(EndpointSpec { domain: BLUE, service: ServiceId(1) });
    let forwarding = spec.build().unwrap();
    let decision = forwarding.ingress(CLIENT, &HeaderCopy::default(), &live(&[0, 1]));
    assert_eq!((decision.step, decision.path.flow_hash), (Step::Endpoint(EndpointId(0)), 0));
}

#[test]
fn a_chain_is_live_when_each_hop_has_an_instance() {
    let forwarding = spec().build().unwrap();
    assert!(forwarding.is_chain_live(ChainId(0), &live(&[1, 2])));
    assert!(!forwarding.is_chain_live(ChainId(0), &live(&[0, 1])));
    assert!(!forwarding.is_chain_live(ChainId(9), &all_live()));
}

#[test]
fn all_chains_of_a_port_are_its_own_and_those_of_its_rules() {
    let mut spec = spec();
    spec.rules = vec![
        rule(RuleAction::Chain(ChainId(2))),
        rule(RuleAction::Drop),
        Rule { port: SERVER, ..rule(RuleAction::Chain(ChainId(1))) },
    ];
    let forwarding = spec.build().unwrap();
    assert!(forwarding.chains_from(CLIENT).eq([ChainId(0), ChainId(2)]));
    assert_eq!(forwarding.services_of(ChainId(0)), [ServiceId(0), ServiceId(1)]);
    assert_eq!(forwarding.instances(ServiceId(0)), [EndpointId(0), EndpointId(1)]);
}

#[test]
fn refuses_references_past_a_table_and_names_them() {
    type Change = fn(&mut ForwardingSpec);
    let cases: [(Change, &str); 9] = [
        (|s| s.ports[1].chain = Some(ChainId(4)), "port 1 names chain 4, there are 4"),
        (
            |s| s.services[2].may_target.push(Target::Service(ServiceId(4))),
            "service 2 names service 4, there are 4",
        ),
        (|s| s.services[0].may_target.push(Target::Port(PortId(3))), "service 0 names port 3, there are 3"),
        (|s| s.endpoints[0].service = ServiceId(9), "endpoint 0 names service 9, there are 4"),
        (|s| s.chains[1].egress = PortId(3), "chain 1 names port 3, there are 3"),
        (|s| s.chains[0].path.push(ServiceId(4)), "chain 0 names service 4, there are 4"),
        (|s| s.rules.push(rule(RuleAction::Chain(ChainId(4)))), "rule 0 names chain 4, there are 4"),
        (|s| s.chains[2].observers.push(ServiceId(4)), "chain 2 names service 4, there are 4"),
        (
            |s| {
                let chain = RuleAction::Chain(ChainId(0));
                s.rules.push(Rule { observe: Some(ServiceId(4)), ..rule(chain) });
            },
            "rule 0 names service 4, there are 4",
        ),
    ];
    for (change, message) in cases {
        let mut spec = spec();
        change(&mut spec);
        assert_eq!(spec.build().map(|_| ()).unwrap_err().to_string(), message);
    }
}

#[test]
fn accepts_a_path_of_32_hops_and_refuses_33() {
    let mut spec = spec();
    spec.chains[0].path = vec![ServiceId(1); 32];
    assert!(spec.build().is_ok());
    spec.chains[0].path.push(ServiceId(1));
    let error = spec.build().map(|_| ()).unwrap_err();
    assert_eq!(error, SnapshotError::PathTooLong { chain: 0, hops: 33 });
}

#[test]
fn accepts_1024_endpoints_and_refuses_one_more() {
    let mut spec = spec();
    spec.endpoints.resize(1024, EndpointSpec { domain: BLUE, service: ServiceId(0) });
    assert!(spec.build().is_ok());
    spec.endpoints.push(EndpointSpec { domain: BLUE, service: ServiceId(0) });
    let error = spec.build().map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "1025 endpoints, at most 1024 are allowed");
}

#[test]
fn a_frame_enters_the_only_domain_of_its_port_wherever_it_goes() {
    let forwarding = spec().build().unwrap();
    for step in [Step::Endpoint(EndpointId(4)), Step::Port(PortId(2)), Step::Drop(DropReason::RuleDrop)] {
        assert_eq!(forwarding.entry_domain(CLIENT, step), Some(BLUE));
    }
    assert_eq!(forwarding.entry_domain(PortId(3), Step::Home), None);
}

#[test]
fn a_frame_of_a_shared_port_enters_the_domain_it_goes_to_if_the_port_has_it() {
    let mut spec = spec();
    spec.ports[0].domains = vec![BLUE, RED];
    let forwarding = spec.build().unwrap();
    let domain = |step| forwarding.entry_domain(CLIENT, step).unwrap();
    assert_eq!(domain(Step::Endpoint(ROUTER)), BLUE);
    assert_eq!(domain(Step::Endpoint(EndpointId(4))), RED);
    assert_eq!(domain(Step::Port(PortId(2))), RED);
    assert_eq!(domain(Step::Port(SERVER)), BLUE);
    assert_eq!(domain(Step::Port(CLIENT)), BLUE, "the first of both");
    assert_eq!(domain(Step::Drop(DropReason::RuleDrop)), BLUE);
    assert!(forwarding.needs_header(CLIENT), "the domain is chosen by the header");
}

#[test]
fn a_packet_leaves_a_shared_port_from_its_own_domain_and_a_foreign_one_from_the_first() {
    let mut spec = spec();
    spec.ports[0].domains = vec![BLUE, RED];
    let forwarding = spec.build().unwrap();
    assert_eq!(forwarding.egress_domain(RED, CLIENT), Some(RED));
    assert_eq!(forwarding.egress_domain(DomainId(2), CLIENT), Some(BLUE));
    assert_eq!(forwarding.egress_domain(RED, SERVER), Some(BLUE));
    assert_eq!(forwarding.egress_domain(RED, PortId(3)), None);
}

#[test]
fn observers_of_the_chain_and_of_the_rule_are_shown_a_packet_once_each() {
    let mut spec = spec();
    spec.chains[0].observers = vec![ServiceId(2)];
    spec.rules = vec![
        Rule { observe: Some(ServiceId(1)), ..rule_for(to_port(22), RuleAction::Chain(ChainId(0))) },
        Rule { observe: Some(ServiceId(2)), ..rule_for(to_port(23), RuleAction::Chain(ChainId(0))) },
        Rule { observe: Some(ServiceId(1)), ..rule_for(to_port(24), RuleAction::Chain(ChainId(1))) },
        rule_for(to_port(25), RuleAction::Chain(ChainId(1))),
        rule_for(to_port(26), RuleAction::Drop),
    ];
    let forwarding = spec.build().unwrap();
    assert!(forwarding.is_observed(CLIENT) && !forwarding.is_observed(SERVER));
    let shown = |port| {
        let arrival = forwarding.arrival(CLIENT, &tcp(1000, port), &all_live());
        assert_eq!(arrival.decision, forwarding.ingress(CLIENT, &tcp(1000, port), &all_live()));
        let hash = arrival.decision.path.flow_hash;
        forwarding.observers_of_flow(arrival.observers, hash, &all_live()).collect::<Vec<_>>()
    };
    assert_eq!(shown(22), [SCANNER, ROUTER]);
    assert_eq!(shown(23), [SCANNER]);
    assert_eq!(shown(24), [ROUTER]);
    assert_eq!(shown(25), []);
    assert_eq!(shown(26), []);
    assert_eq!(shown(80), [SCANNER]);
    assert_eq!(forwarding.observers.len(), 3, "equal lists are one");
}

fn to_port(port: u16) -> Criteria {
    Criteria { destination_ports: Some(port..=port), ..Criteria::default() }
}

#[test]
fn observers_change_nothing_and_see_nothing_that_is_dropped() {
    let plain = spec().build().unwrap();
    let mut spec = spec();
    spec.chains[0].observers = vec![ServiceId(2)];
    let observed = spec.build().unwrap();
    let decide = |forwarding: &Forwarding, live: &Liveness| forwarding.arrival(CLIENT, &tcp(1, 2), live);
    for live in [all_live(), live(&[0, 2]), live(&[2, 3]), live(&[])] {
        assert_eq!(decide(&plain, &live).decision, decide(&observed, &live).decision);
    }
    assert_eq!(decide(&observed, &live(&[2, 3])).observers, ObserversId::NONE, "the firewall is dead");
    let unseen = decide(&observed, &live(&[0, 2]));
    assert_ne!(unseen.observers, ObserversId::NONE);
    assert_eq!(observed.observers_of_flow(unseen.observers, 1, &live(&[0, 2])).count(), 0, "nobody is live");
}

#[test]
fn one_instance_of_an_observer_is_shown_all_of_a_flow() {
    let mut spec = spec();
    // The firewall with its two instances observes the scanner's chain.
    spec.ports[0].chain = Some(ChainId(2));
    spec.services[2].may_target.clear();
    assert!(!spec.build().unwrap().needs_header(CLIENT));
    spec.chains[2].observers = vec![ServiceId(0)];
    let forwarding = spec.build().unwrap();
    assert!(forwarding.needs_header(CLIENT), "the instance hangs on the flow");
    let shown = |header: &HeaderCopy| {
        let arrival = forwarding.arrival(CLIENT, header, &all_live());
        let hash = arrival.decision.path.flow_hash;
        forwarding.observers_of_flow(arrival.observers, hash, &all_live()).collect::<Vec<_>>()
    };
    let instances: std::collections::BTreeSet<_> = (0..64).map(|port| shown(&tcp(port, 80))).collect();
    assert_eq!(instances.len(), 2);
    assert_eq!(shown(&tcp(7, 80)), shown(&tcp(80, 7)));
}

#[test]
fn refuses_to_show_what_is_dropped() {
    let mut spec = spec();
    spec.rules = vec![Rule { observe: Some(ServiceId(2)), ..rule(RuleAction::Drop) }];
    let error = spec.build().map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "rule 0 drops what it shows to service 2; observers see what enters a chain");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn where_none_is_chosen_by_flow_all_flows_go_the_same_way(
        spec in any_spec(),
        (alive, flows) in (any::<u8>(), proptest::collection::vec(any::<u32>(), 12)),
        (chain, hop) in (0..4u16, 0..6u8),
    ) {
        let mut spec = spec;
        // All of one domain: this is not about edges.
        spec.ports.iter_mut().for_each(|port| port.domains = vec![BLUE]);
        spec.endpoints.iter_mut().for_each(|endpoint| endpoint.domain = BLUE);
        let forwarding = spec.build().unwrap();
        if forwarding.chooses_by_flow(ChainId(chain)) {
            return Ok(());
        }
        let mut live = Liveness::default();
        (0..8).for_each(|id| live.set(EndpointId(id), alive >> id & 1 == 1));
        let decide = |flow_hash| {
            let path = PacketPath { flow_hash, ..at(chain, hop) };
            let decision = forwarding.after(ROUTER, &returned(path, Verdict::Next, 0), &live);
            assert_eq!(decision.path.flow_hash, flow_hash);
            (decision.step, PacketPath { flow_hash: 0, ..decision.path })
        };
        let expected = decide(0);
        for flow_hash in flows {
            prop_assert_eq!(decide(flow_hash), expected);
        }
    }
}
