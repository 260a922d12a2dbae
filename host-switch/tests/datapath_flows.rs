//! What lcores remember of flows: the rules' own answers, until the rules are others.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::sync::Arc;
use std::time::Duration;

use datapath_lab::capture;
use datapath_lab::frames::{PROTOCOL_AT, TCP, UDP, ipv4};
use datapath_lab::guest_nic::GuestNic;
use datapath_lab::{Lab, LabSpec, NIC, device, folder, forwarding};
use flow_table::{Limits, Seed};
use host_switch::datapath::{CountersSnapshot, DatapathChange, FlowsSnapshot, FlowsSpec};
use packet::MacAddress;
use switch_core::criteria::Criteria;
use switch_core::drop_reason::DropReason;
use switch_core::ids::{ChainId, PortId};
use switch_core::rule::{Rule, RuleAction};

/// Where the ports of a frame of `ipv4` stand: the source port first.
const PORTS_AT: usize = 34;

fn flows(limits: Limits) -> Option<FlowsSpec> {
    Some(FlowsSpec { limits, seed: Seed::new([1, 2, 3, 4, 5, 6, 7, 8]) })
}

fn frame(protocol: u8, client_port: u8) -> Vec<u8> {
    let mut frame = ipv4(protocol, 100, 0);
    frame[PORTS_AT..PORTS_AT + 4].copy_from_slice(&[0x40, client_port, 0, 80]);
    frame
}

/// The other direction of the same flow.
fn reply(frame: &[u8]) -> Vec<u8> {
    let mut reply = frame.to_vec();
    let (source, destination) = (26..30, 30..34);
    reply[source.clone()].copy_from_slice(&frame[destination.clone()]);
    reply[destination].copy_from_slice(&frame[source]);
    reply[PORTS_AT..PORTS_AT + 2].copy_from_slice(&frame[PORTS_AT + 2..PORTS_AT + 4]);
    reply[PORTS_AT + 2..PORTS_AT + 4].copy_from_slice(&frame[PORTS_AT..PORTS_AT + 2]);
    reply
}

fn rule(port: u16, protocol: u8, action: RuleAction) -> Rule {
    let criteria = Criteria { protocol: Some(protocol), ..Criteria::default() };
    Rule { port: PortId(port), criteria, action, observe: None, replication: None }
}

/// Two guests, each the other's only neighbour; UDP is let through both ways by a rule, other packets by default.
fn neighbours() -> LabSpec {
    let mut spec = LabSpec::chain(0, [NIC, NIC]);
    spec.more_chains = vec![(1, Vec::new(), 0)];
    spec.rules = (0..2).map(|port| rule(port, UDP, RuleAction::Chain(ChainId(port)))).collect();
    spec.flows = flows(Limits::for_flows(100));
    spec
}

fn started(spec: &LabSpec) -> (Lab, [GuestNic; 2]) {
    let mut lab = Lab::start(spec);
    let mut nics = [lab.nics.remove(0), lab.nics.remove(0)];
    nics.iter_mut().for_each(|nic| nic.start(128));
    (lab, nics)
}

fn known(counters: &CountersSnapshot) -> FlowsSnapshot {
    counters.lcores[0].flows.unwrap()
}

/// Sends a frame and waits until the switch has taken it in.
fn send(lab: &Lab, nic: &mut GuestNic, frame: &[u8]) -> CountersSnapshot {
    let before = lab.counters().domains[0].packets.entered;
    nic.send(frame);
    lab.wait_until("the frame is in", |now| now.domains[0].packets.entered > before)
}

#[test]
fn flows_take_the_ways_that_rules_give_them_packet_by_packet() {
    let frames: Vec<Vec<u8>> = (0..3000_usize)
        .map(|at| {
            let protocol = [UDP, TCP, 47][at % 3];
            frame(protocol, u8::try_from(at % 50).unwrap())
        })
        .collect();
    let run = |memory: Option<FlowsSpec>| {
        let (folder, _) = folder();
        let (played, written) = (folder.join("in.pcap"), folder.join("out.pcap"));
        capture::write(&played, &frames);
        let devices = [
            device("net_pcap", &format!(",rx_pcap={}", played.display())),
            device("net_pcap", &format!(",tx_pcap={}", written.display())),
        ];
        let mut spec = LabSpec::chain(0, [&devices[0], &devices[1]]);
        // Of what is in a tunnel, rules cannot say what it is.
        spec.rules = vec![rule(0, TCP, RuleAction::Drop), rule(0, UDP, RuleAction::Chain(ChainId(0)))];
        spec.flows = memory;
        let lab = Lab::start(&spec);
        let counters = lab.wait_until("all frames are judged", |now| {
            let packets = &now.domains[0].packets;
            packets.entered == 3000 && packets.delivered + packets.drops.total() == 3000
        });
        lab.assert_conserved();
        lab.assert_nothing_vanished();
        lab.stop();
        (capture::read(&written), counters)
    };
    let (by_rules, without) = run(None);
    let (by_flows, with) = run(flows(Limits::for_flows(200)));
    assert!(by_rules == by_flows && by_flows.iter().all(|frame| frame[PROTOCOL_AT] != TCP));
    assert_eq!(without.lcores[0].flows, None);
    let drops = |counters: &CountersSnapshot, reason| counters.domains[0].packets.drops.get(reason);
    for reason in [DropReason::RuleDrop, DropReason::TunnelUnclassified] {
        assert_eq!((drops(&with, reason), drops(&without, reason)), (1000, 1000), "{reason:?}");
    }
    let known = known(&with);
    // What rules drop has no flow: TCP was looked for in vain. Packets in a tunnel were not looked for.
    assert_eq!((known.flows, known.counters.inserted), (50, 50));
    assert_eq!(known.counters.hits + known.counters.misses, 2000);
    assert!(known.counters.hits > 0 && known.counters.misses >= 1000 + 50, "{known:?}");
}

#[test]
fn both_directions_of_a_flow_are_one_and_each_takes_its_own_way() {
    let (lab, [mut client, mut server]) = started(&neighbours());
    let request = frame(UDP, 1);
    send(&lab, &mut client, &request);
    send(&lab, &mut server, &reply(&request));
    let counters = send(&lab, &mut client, &request);
    let known = known(&counters);
    assert_eq!((known.flows, known.unanswered, known.counters.hits), (1, 0, 2));
    lab.wait_until("all are out", |now| now.domains[0].packets.delivered == 3);
    assert_eq!(server.receive(), [request.clone(), request.clone()]);
    assert_eq!(client.receive(), [reply(&request)]);
    lab.assert_conserved();
    lab.stop();
}

#[test]
fn a_change_of_rules_holds_for_flows_that_are_known() {
    let mut spec = neighbours();
    let (lab, [mut client, _server]) = started(&spec);
    let old = forwarding(&spec);
    let request = frame(UDP, 1);
    for _ in 0..3 {
        send(&lab, &mut client, &request);
    }
    // The rule in the place of the one that was for it lets other packets in; the next one drops it.
    spec.rules[0].criteria.protocol = Some(TCP);
    spec.rules.insert(1, rule(0, UDP, RuleAction::Drop));
    let new = Arc::new(forwarding(&spec));
    lab.datapath().change(DatapathChange::of_tables(&old, new, Vec::new(), Duration::ZERO)).unwrap();
    let counters = send(&lab, &mut client, &request);
    assert_eq!(counters.domains[0].packets.drops.get(DropReason::RuleDrop), 1);
    assert_eq!(known(&counters).counters.hits, 3, "the flow is still known");
    lab.stop();
}

#[test]
fn rules_that_ask_for_stations_are_asked_each_time() {
    let mut spec = neighbours();
    let criteria = Criteria { source_mac: Some(MacAddress([2, 0, 0, 0, 0, 9])), ..Criteria::default() };
    spec.rules.push(Rule {
        port: PortId(0),
        criteria,
        action: RuleAction::Drop,
        observe: None,
        replication: None,
    });
    spec.rules.swap(0, 2);
    let (lab, [mut client, _server]) = started(&spec);
    let allowed = frame(UDP, 1);
    send(&lab, &mut client, &allowed);
    // The same flow from the station that is shut out.
    let mut refused = allowed.clone();
    refused[11] = 9;
    let counters = send(&lab, &mut client, &refused);
    assert_eq!(counters.domains[0].packets.drops.get(DropReason::RuleDrop), 1);
    assert_eq!(known(&counters).counters.misses, 0);
    lab.stop();
}

#[test]
fn a_flow_that_has_no_room_takes_the_way_that_rules_give_it() {
    let mut spec = neighbours();
    spec.flows = flows(Limits::for_flows(1));
    let (lab, [mut client, mut server]) = started(&spec);
    let first = frame(UDP, 1);
    send(&lab, &mut client, &first);
    send(&lab, &mut server, &reply(&first));
    send(&lab, &mut client, &first);
    for port in 2..10 {
        send(&lab, &mut client, &frame(UDP, port));
    }
    let counters = lab.wait_until("all are out", |now| now.domains[0].packets.delivered == 11);
    let known = known(&counters);
    assert_eq!((known.flows, known.unanswered, known.counters.refused_full), (1, 0, 8));
    assert_eq!(counters.domains[0].packets.drops.total(), 0);
    lab.stop();
}

#[test]
fn flows_without_packets_are_forgotten() {
    let mut spec = neighbours();
    spec.flows = flows(Limits { unanswered_idle_ms: 50, ..Limits::for_flows(100) });
    let (lab, [mut client, _server]) = started(&spec);
    for port in 0..20 {
        send(&lab, &mut client, &frame(UDP, port));
    }
    let counters = lab.wait_until("they are gone", |now| known(now).flows == 0);
    assert_eq!(known(&counters).counters.expired_idle, 20);
    lab.stop();
}
