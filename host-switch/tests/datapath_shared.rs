//! A port that several domains share: each frame meets its own domain and no other.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::path::PathBuf;

use datapath_lab::capture;
use datapath_lab::frames::{PROTOCOL_AT, TCP, UDP, ipv4};
use datapath_lab::guest::Guest;
use datapath_lab::{Lab, LabSpec, device, folder};
use host_switch::region::{HEADER_BYTES_MAX, Mapping};
use switch_core::criteria::Criteria;
use switch_core::drop_reason::DropReason;
use switch_core::ids::{ChainId, PortId};
use switch_core::rule::{Rule, RuleAction};

/// Port 0 plays frames, port 1 writes; both are shared. UDP goes through endpoint 0 of domain 0, TCP through
/// endpoint 1 of domain 1.
fn shared(frames: &[Vec<u8>], adjust: impl FnOnce(&mut LabSpec)) -> (Lab, PathBuf) {
    let (folder, _) = folder();
    let (played, written) = (folder.join("in.pcap"), folder.join("out.pcap"));
    capture::write(&played, frames);
    let devices = [
        device("net_pcap", &format!(",rx_pcap={}", played.display())),
        device("net_pcap", &format!(",tx_pcap={}", written.display())),
    ];
    let mut spec = LabSpec::chain(2, [&devices[0], &devices[1]]);
    spec.path = vec![0];
    spec.more_chains = vec![(u16::MAX, vec![1], 1)];
    spec.domains = 2;
    spec.endpoint_domains = vec![0, 1];
    spec.shared_ports = vec![0, 1];
    spec.rules = vec![Rule {
        port: PortId(0),
        criteria: Criteria { protocol: Some(TCP), ..Criteria::default() },
        action: RuleAction::Chain(ChainId(1)),
        observe: None,
        replication: None,
    }];
    spec.paced = true;
    adjust(&mut spec);
    (Lab::start(&spec), written)
}

fn frames_of_both(count: usize) -> Vec<Vec<u8>> {
    let frame = |number: usize| {
        let (protocol, fill) = if number.is_multiple_of(2) { (UDP, 0xdd) } else { (TCP, 0xcc) };
        ipv4(protocol, 60 + number * 7 % 1400, fill)
    };
    (0..count).map(frame).collect()
}

fn of(frames: &[Vec<u8>], protocol: u8) -> Vec<&Vec<u8>> {
    frames.iter().filter(|frame| frame[PROTOCOL_AT] == protocol).collect()
}

/// Whether a region holds a run of bytes that only payloads have.
fn holds(region: &Mapping, fill: u8) -> bool {
    (0..region.bytes()).step_by(HEADER_BYTES_MAX).any(|at| {
        let mut part = [0; HEADER_BYTES_MAX];
        region.copy_header(at, HEADER_BYTES_MAX, &mut part);
        part.windows(8).any(|window| window == [fill; 8])
    })
}

#[test]
fn each_frame_meets_its_own_domain_and_leaves_as_it_came() {
    let frames = frames_of_both(2000);
    let (lab, written) = shared(&frames, |_| {});
    // The paced port waits for the endpoint of its own chain.
    lab.attach(1);
    let other = Guest::forwarder(&lab, 1);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let counters = lab.wait_until("all frames are out", |now| {
        now.domains.iter().map(|domain| domain.packets.delivered).sum::<u64>() == 2000
    });
    drop((guest, other));
    for domain in &counters.domains {
        assert_eq!((domain.packets.entered, domain.packets.drops.total()), (1000, 0));
    }
    assert_eq!(counters.ports[0].packets.copies, 2000);
    assert!(!counters.ports[0].zero_copy);
    assert_eq!(counters.ports[1].packets.tx_packets, 2000);
    let bytes: usize = frames.iter().map(Vec::len).sum();
    assert_eq!(counters.ports[1].packets.tx_bytes, bytes as u64);
    let [udp, tcp] = [0, 1].map(|domain: usize| lab.regions[domain].mapping());
    assert!(holds(udp, 0xdd) && !holds(udp, 0xcc));
    assert!(holds(tcp, 0xcc) && !holds(tcp, 0xdd));
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    let delivered = capture::read(&written);
    for protocol in [UDP, TCP] {
        assert_eq!(of(&delivered, protocol), of(&frames, protocol));
    }
}

#[test]
fn frames_of_every_lcore_leave_by_the_one_queue_of_a_shared_port() {
    let (folder, _) = folder();
    let written = folder.join("out.pcap");
    // A capture for each lcore: a queue to receive from for each, and one queue to send by for both.
    let of_lcores = [0xa0, 0xb0].map(|fill| {
        let frame = |number: usize| {
            let (protocol, kind) = if number.is_multiple_of(2) { (UDP, 0) } else { (TCP, 1) };
            ipv4(protocol, 60 + number * 7 % 1400, fill + kind)
        };
        (0..1000).map(frame).collect::<Vec<_>>()
    });
    let played = of_lcores.iter().enumerate().map(|(lcore, frames)| {
        let file = folder.join(format!("in{lcore}.pcap"));
        capture::write(&file, frames);
        format!(",rx_pcap={}", file.display())
    });
    let played = device("net_pcap", &played.collect::<String>());
    let (lab, _) = shared(&[], |spec| {
        spec.devices = vec![played, device("net_pcap", &format!(",tx_pcap={}", written.display()))];
        spec.lcores = 2;
        spec.region_bytes = 4 << 20;
    });
    #[cfg(feature = "test-hooks")]
    for region in [0, 1].map(|domain: usize| lab.regions[domain].mapping()) {
        // What is written behind the copy does not leave from another lcore either.
        let moment = host_switch::datapath::hook::Moment::HeadersJudged;
        host_switch::datapath::hook::at(moment, region, move |frame| region.copy_in(frame + 6, &[0x77; 6]));
    }
    lab.attach(1);
    lab.attach(0);
    let guests =
        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(number, lcore)| Guest::forwarder_on(&lab, number, lcore));
    let counters = lab.wait_until("all frames are out", |now| {
        now.domains.iter().map(|domain| domain.packets.delivered).sum::<u64>() == 2000
    });
    drop(guests);
    for domain in &counters.domains {
        assert_eq!((domain.packets.entered, domain.packets.drops.total()), (1000, 0));
    }
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    let delivered = capture::read(&written);
    assert_eq!(delivered.len(), 2000);
    for frames in &of_lcores {
        for frames in [of(frames, UDP), of(frames, TCP)] {
            let fill = frames[0].last();
            let same: Vec<_> = delivered.iter().filter(|frame| frame.last() == fill).collect();
            assert!(same == frames, "{fill:?}: {} of {}", same.len(), frames.len());
        }
    }
}

#[test]
fn frames_that_belong_nowhere_are_drops_of_the_first_domain() {
    let frames = [vec![3; 13], ipv4(UDP, 100, 1), vec![4; 3000]];
    let (lab, _) = shared(&frames, |spec| {
        spec.paced = false;
        spec.rules = vec![Rule::for_all_of(PortId(0), RuleAction::Drop)];
    });
    let counters = lab.wait_until("all frames are dropped", |now| now.domains[0].packets.drops.total() == 3);
    let drops = &counters.domains[0].packets.drops;
    assert_eq!((drops.get(DropReason::FrameTooShort), drops.get(DropReason::RuleDrop)), (1, 1));
    assert_eq!(drops.get(DropReason::FrameTooLong), 1);
    assert_eq!(counters.domains[1].packets.entered, 0);
    lab.assert_conserved();
    lab.stop();
}

#[cfg(feature = "test-hooks")]
#[test]
fn headers_rewritten_behind_the_copy_do_not_leave() {
    let frames = vec![ipv4(UDP, 300, 0x11); 200];
    let (lab, written) = shared(&frames, |_| {});
    let mapping = lab.regions[0].mapping();
    host_switch::datapath::hook::at(
        host_switch::datapath::hook::Moment::HeadersJudged,
        mapping,
        move |frame| {
            mapping.copy_in(frame + PROTOCOL_AT, &[TCP]);
        },
    );
    lab.attach(1);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    lab.wait_until("all frames are out", |now| now.domains[0].packets.delivered == 200);
    drop(guest);
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[cfg(feature = "test-hooks")]
#[test]
fn a_flood_of_one_domain_leaves_the_other_its_share_of_a_port() {
    sends_in_shares(device("net_null", ""), 1);
}

#[cfg(feature = "test-hooks")]
#[test]
fn a_flood_on_all_lcores_leaves_the_other_domain_its_share_of_the_one_queue_of_a_port() {
    sends_in_shares(device("net_pcap", ",tx_pcap=/dev/null"), 2);
}

#[cfg(feature = "test-hooks")]
fn sends_in_shares(sender: String, lcores: u16) {
    let mut spec = LabSpec::chain(1, ["", ""]);
    // Port 0 sends only: nobody attaches. The others receive for domain 0, and port 1 for domain 1.
    spec.devices = (0..6).map(|_| device("net_null", "")).collect();
    spec.devices[0] = sender;
    spec.lcores = lcores;
    spec.region_bytes *= u64::from(lcores);
    spec.path = Vec::new();
    spec.domains = 2;
    spec.shared_ports = vec![0];
    spec.port_domains = vec![0, 1, 0, 0, 0, 0];
    spec.more_chains = (1..6).map(|port| (port, Vec::new(), 0)).collect();
    spec.paced = true;
    let lab = Lab::start(&spec);
    let sent =
        |now: &host_switch::datapath::CountersSnapshot, domain: usize| now.domains[domain].packets.delivered;
    // The driver takes frames only while both domains have some that wait: how fast they came in, which is the
    // processor's to say, says nothing of who may send. Besides, it is full at every third look.
    let mut looks = 0_u32;
    host_switch::datapath::hook::when_driver_is_full(lab.regions[0].mapping(), move |waiting| {
        looks += 1;
        waiting.contains(&0) || looks.is_multiple_of(3)
    });
    lab.wait_until("the flood has filled its line", |now| {
        now.domains[0].packets.drops.get(DropReason::TxFull) > 0
    });
    let before = lab.counters();
    let counters = lab
        .wait_until("both have sent for long", |now| sent(now, 0) + sent(now, 1) > sent(&before, 0) + 40_000);
    lab.assert_conserved();
    lab.stop();
    let [flooding, other] = [0, 1].map(|domain| sent(&counters, domain) - sent(&before, domain));
    // Sabotaged, the first line goes first for ever.
    let of_hundred = other * 100 / (flooding + other);
    assert!((45..=55).contains(&of_hundred), "{flooding} and {other}");
}
