//! Copies that rules make: as many as they say, of the frames that they are for, and within their limit.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::path::PathBuf;
use std::time::Instant;

use datapath_lab::frames::{UDP, ipv4};
use datapath_lab::{Lab, LabSpec, capture, device, edge, folder};
use host_switch::datapath::CountersSnapshot;
use switch_core::criteria::Criteria;
use switch_core::drop_reason::DropReason;
use switch_core::ids::{ChainId, PortId};
use switch_core::rule::{Replication, Rule, RuleAction};

/// Frames for one station and for all of them, in turn.
fn frames(count: usize) -> Vec<Vec<u8>> {
    let frame = |number: usize| {
        let mut frame = ipv4(UDP, 60 + number * 7 % 1400, 0xa5);
        frame[0] = if number.is_multiple_of(2) { 0xff } else { 0x02 };
        frame
    };
    (0..count).map(frame).collect()
}

fn of_groups(frames: &[Vec<u8>]) -> Vec<&Vec<u8>> {
    frames.iter().filter(|frame| frame[0] & 1 == 1).collect()
}

/// Of the frames that a rule copies and of the others, each in its order: those go on behind a burst.
fn assert_in_order(found: &[Vec<u8>], sent: &[Vec<u8>]) {
    let of_stations = |frames: &[Vec<u8>]| -> Vec<Vec<u8>> {
        frames.iter().filter(|frame| frame[0] & 1 == 0).cloned().collect()
    };
    assert_eq!(found.len(), sent.len());
    assert!(of_groups(found) == of_groups(sent) && of_stations(found) == of_stations(sent));
}

/// What groups are sent takes these chains besides.
fn copies(chains: &[u16], copies_per_s: u64) -> Rule {
    Rule {
        criteria: Criteria { for_group: true, ..Criteria::default() },
        replication: Some(Replication {
            chains: chains.iter().map(|&chain| ChainId(chain)).collect(),
            copies_per_s,
        }),
        ..Rule::for_all_of(PortId(0), RuleAction::Chain(ChainId(0)))
    }
}

/// Port 0 plays frames, which leave by port 1; copies leave by ports 2 and 3, which are of other domains.
fn copied(frames: &[Vec<u8>], adjust: impl FnOnce(&mut LabSpec)) -> (Lab, [PathBuf; 3]) {
    let (folder, _) = folder();
    let played = folder.join("in.pcap");
    capture::write(&played, frames);
    let written = [1, 2, 3].map(|port| folder.join(format!("out{port}.pcap")));
    let mut spec = LabSpec::chain(0, ["", ""]);
    spec.devices = vec![device("net_pcap", &format!(",rx_pcap={}", played.display()))];
    spec.devices.extend(written.iter().map(|to| device("net_pcap", &format!(",tx_pcap={}", to.display()))));
    spec.more_chains = vec![(u16::MAX, Vec::new(), 2), (u16::MAX, Vec::new(), 3)];
    spec.domains = 3;
    spec.port_domains = vec![0, 0, 1, 2];
    spec.edges = vec![edge(0, 1, None), edge(0, 2, None)];
    spec.edges[0].broadcast = true;
    spec.rules = vec![copies(&[1, 2], 1_000_000)];
    adjust(&mut spec);
    (Lab::start(&spec), written)
}

fn replicated(now: &CountersSnapshot) -> u64 {
    now.domains.iter().map(|domain| domain.packets.replicated).sum()
}

#[test]
fn what_groups_are_sent_is_copied_byte_for_byte_where_edges_carry_it() {
    let frames = frames(400);
    let (lab, [own, carried, refused]) = copied(&frames, |_| {});
    let counters = lab.wait_until("all frames and copies are accounted for", |now| {
        now.domains[0].packets.delivered + now.domains[0].packets.drops.total() == 600
            && now.domains[1].packets.delivered == 200
    });
    assert_eq!(replicated(&counters), 400);
    // Each edge is asked of each copy: one of them carries no groups.
    assert_eq!(counters.domains[0].packets.drops.get(DropReason::DomainEdgeDenied), 200);
    assert_eq!(counters.domains[0].packets.drops.total(), 200);
    assert_eq!(counters.edges[0].packets, 200);
    assert_eq!(counters.domains[2].packets.entered, 0);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    assert_in_order(&capture::read(&own), &frames);
    assert!(capture::read(&carried).iter().eq(of_groups(&frames)));
    assert!(capture::read(&refused).is_empty());
}

#[test]
fn copies_of_a_shared_port_go_into_their_own_domains_without_an_edge() {
    let frames = frames(400);
    let (lab, [own, first, second]) = copied(&frames, |spec| {
        spec.edges.clear();
        spec.shared_ports = vec![0];
    });
    let counters = lab.wait_until("all frames and copies are out", |now| {
        now.domains.iter().map(|domain| domain.packets.delivered).sum::<u64>() == 800
    });
    assert_eq!(replicated(&counters), 400);
    assert_eq!([0, 1, 2].map(|domain: usize| counters.domains[domain].packets.entered), [400, 200, 200]);
    assert_eq!(counters.ports[0].packets.copies, 800);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    assert_in_order(&capture::read(&own), &frames);
    for copies in [first, second] {
        assert!(capture::read(&copies).iter().eq(of_groups(&frames)));
    }
}

#[test]
fn copies_of_one_domain_leave_beside_their_packets() {
    let frames = frames(400);
    let (lab, [own, first, second]) = copied(&frames, |spec| {
        spec.edges.clear();
        spec.port_domains = vec![0; 4];
    });
    lab.wait_until("all frames and copies are out", |now| now.domains[0].packets.delivered == 800);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    assert_in_order(&capture::read(&own), &frames);
    for copies in [first, second] {
        assert!(capture::read(&copies).iter().eq(of_groups(&frames)));
    }
}

/// For exclusive ports and for shared ones.
#[test]
fn no_sender_makes_more_copies_than_the_rule_allows() {
    for shared in [false, true] {
        let started = Instant::now();
        let mut spec = LabSpec::chain(0, ["", ""]);
        spec.devices = (0..3).map(|_| device("net_null", "")).collect();
        spec.more_chains = vec![(1, Vec::new(), 1), (2, Vec::new(), 2)];
        spec.port_domains = vec![0; 3];
        if shared {
            spec.domains = 2;
            spec.shared_ports = vec![0];
        }
        // Frames of net_null are zeroes, and for nobody.
        let all = Rule { criteria: Criteria::default(), ..copies(&[1, 2], 2_000) };
        spec.rules = vec![all];
        let lab = Lab::start(&spec);
        let refused = |now: &CountersSnapshot| now.domains[0].packets.drops.get(DropReason::ReplicateLimit);
        let counters = lab.wait_until("the bucket was empty and filled again", |now| {
            // Sabotaged, it refuses nothing.
            replicated(now) >= 464 && refused(now) > 0 || replicated(now) > 100_000
        });
        let allowed = u64::try_from(started.elapsed().as_micros()).unwrap() * 2_000 / 1_000_000 + 64;
        let made = replicated(&counters);
        assert!(made <= allowed, "{made} of {allowed}");
        // The packets themselves go on.
        assert!(counters.domains[0].packets.delivered > 2 * made, "{counters:?}");
        lab.assert_conserved();
        lab.assert_nothing_vanished();
        lab.stop();
    }
}
