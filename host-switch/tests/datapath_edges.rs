//! Packets go from one domain into another where an edge is drawn, as copies, and nowhere else.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::path::PathBuf;

use datapath_lab::capture;
use datapath_lab::frames::{TCP, UDP, ipv4};
use datapath_lab::guest::{Guest, Hands, verdict};
use datapath_lab::{Lab, LabSpec, device, edge, folder};
use host_switch::datapath::CountersSnapshot;
use host_switch::region::{HEADER_BYTES_MAX, Mapping};
use shm_ring::desc::{Desc, Verdict};
use switch_core::drop_reason::DropReason;

/// Port 0 and endpoint 0 are of domain 0, port 1 and endpoint 1 of domain 1; port 0 plays `frames`, port 1
/// writes what it is given.
fn two_domains(frames: &[Vec<u8>], adjust: impl FnOnce(&mut LabSpec)) -> (Lab, PathBuf) {
    let (folder, _) = folder();
    let (played, written) = (folder.join("in.pcap"), folder.join("out.pcap"));
    capture::write(&played, frames);
    let devices = [
        device("net_pcap", &format!(",rx_pcap={}", played.display())),
        device("net_pcap", &format!(",tx_pcap={}", written.display())),
    ];
    let mut spec = LabSpec::chain(2, [&devices[0], &devices[1]]);
    spec.paced = true;
    spec.domains = 2;
    spec.endpoint_domains = vec![0, 1];
    spec.port_domains = vec![0, 1];
    spec.edges = vec![edge(0, 1, None)];
    adjust(&mut spec);
    (Lab::start(&spec), written)
}

fn all_accounted(counters: &CountersSnapshot, frames: usize) -> bool {
    let ended = |domain: usize| {
        let packets = &counters.domains[domain].packets;
        packets.delivered + packets.drops.total()
    };
    ended(0) + ended(1) == frames as u64
}

#[test]
fn an_edge_delivers_byte_for_byte_in_order_and_both_domains_account_for_every_packet() {
    let frames: Vec<Vec<u8>> =
        (0..2000).map(|number: usize| ipv4(UDP, 60 + number % 1440, number.to_le_bytes()[0])).collect();
    let (lab, written) = two_domains(&frames, |_| {});
    lab.attach(0);
    lab.attach(1);
    let guests = [0, 1].map(|number| Guest::forwarder(&lab, number));
    let counters = lab.wait_until("all frames are out", |now| now.domains[1].packets.delivered == 2000);
    drop(guests);
    let [from, to] = [0, 1].map(|domain| &counters.domains[domain].packets);
    assert_eq!((from.entered, from.crossed, from.delivered, from.drops.total()), (2000, 2000, 0, 0));
    assert_eq!((to.entered, to.crossed, to.drops.total()), (2000, 0, 0));
    let bytes: usize = frames.iter().map(Vec::len).sum();
    assert_eq!((counters.edges[0].packets, counters.edges[0].bytes), (2000, bytes as u64));
    // The copy is another buffer of another region: nothing of it was sent from where it was received.
    assert_eq!(counters.domains[1].identity.same, 0);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn frames_cross_straight_from_a_port_and_straight_to_a_port() {
    let frames: Vec<Vec<u8>> = (0..500).map(|number: usize| ipv4(UDP, 60 + number, 7)).collect();
    let (lab, written) = two_domains(&frames, |spec| {
        spec.endpoint_domains = vec![1, 1];
        spec.port_domains = vec![0, 0];
        spec.edges = vec![edge(0, 1, None), edge(1, 0, None)];
    });
    lab.attach(0);
    lab.attach(1);
    let guests = [0, 1].map(|number| Guest::forwarder(&lab, number));
    let counters = lab.wait_until("all frames are out", |now| now.domains[0].packets.delivered == 500);
    drop(guests);
    assert_eq!(counters.domains[0].packets.entered, 1000);
    assert_eq!((counters.edges[0].packets, counters.edges[1].packets), (500, 500));
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn an_edge_that_is_not_drawn_lets_nothing_through() {
    // The edge is for UDP; everything else has none.
    let frames: Vec<Vec<u8>> =
        (0..1000).map(|number| ipv4(if number % 2 == 0 { UDP } else { TCP }, 100, 1)).collect();
    let (lab, written) = two_domains(&frames, |spec| spec.edges = vec![edge(0, 1, Some(UDP))]);
    lab.attach(0);
    lab.attach(1);
    let guests = [0, 1].map(|number| Guest::forwarder(&lab, number));
    let counters = lab.wait_until("every frame is accounted for", |now| all_accounted(now, 1000));
    drop(guests);
    assert_eq!(counters.domains[0].packets.drops.get(DropReason::DomainEdgeDenied), 500);
    assert_eq!(counters.endpoints[0].packets.drops.get(DropReason::DomainEdgeDenied), 500);
    assert_eq!(counters.domains[1].packets.entered, 500);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    let delivered = capture::read(&written);
    assert_eq!(delivered.len(), 500);
    assert!(delivered.iter().all(|frame| frame[datapath_lab::frames::PROTOCOL_AT] == UDP));
}

#[test]
fn a_broadcast_crosses_only_where_the_edge_says_so() {
    let mut broadcast = ipv4(UDP, 100, 1);
    broadcast[..6].fill(0xff);
    for allowed in [false, true] {
        let frames = vec![broadcast.clone(); 10];
        let (lab, _) = two_domains(&frames, |spec| spec.edges[0].broadcast = allowed);
        lab.attach(0);
        lab.attach(1);
        let guests = [0, 1].map(|number| Guest::forwarder(&lab, number));
        let counters = lab.wait_until("every frame is accounted for", |now| all_accounted(now, 10));
        drop(guests);
        assert_eq!(counters.domains[1].packets.delivered, if allowed { 10 } else { 0 });
        let denied = counters.domains[0].packets.drops.get(DropReason::DomainEdgeDenied);
        assert_eq!(denied, if allowed { 0 } else { 10 });
        lab.stop();
    }
}

/// Endless traffic from a null device, over an edge; nobody gives back what endpoint 1 is lent.
fn endless_over_an_edge(adjust: impl FnOnce(&mut LabSpec)) -> (Lab, Guest) {
    let (lab, _) = two_domains(&[], |spec| {
        spec.devices[0] = device("net_null", "");
        spec.paced = false;
        adjust(spec);
    });
    lab.attach(1);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    (lab, guest)
}

#[test]
fn what_the_other_domain_has_no_room_for_is_dropped_there_under_its_name() {
    let (lab, guest) = endless_over_an_edge(|_| {});
    let counters = lab.wait_until("drops are named", |now| now.domains[1].packets.drops.total() > 1000);
    drop(guest);
    assert_eq!(counters.endpoints[1].held, 256);
    let dropped = counters.domains[1].packets.drops.total();
    assert_eq!(counters.endpoints[1].packets.drops.get(DropReason::RingFull), dropped);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn a_frame_that_finds_no_buffer_in_the_other_domain_stays_a_drop_of_its_own() {
    // More than the buffers of the region.
    let (lab, guest) = endless_over_an_edge(|spec| (spec.quota_buffers, spec.ring_slots) = (1024, 1024));
    let counters = lab
        .wait_until("drops are named", |now| now.domains[0].packets.drops.get(DropReason::NoBuffer) > 1000);
    drop(guest);
    assert_eq!(counters.domains[1].packets.drops.total(), 0);
    let dropped = counters.domains[0].packets.drops.get(DropReason::NoBuffer);
    assert_eq!(counters.edges[0].drops.get(DropReason::NoBuffer), dropped);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

/// Every byte of a region.
fn bytes_of(region: &Mapping) -> Vec<u8> {
    let mut all = Vec::with_capacity(region.bytes());
    for at in (0..region.bytes()).step_by(HEADER_BYTES_MAX) {
        let mut part = [0; HEADER_BYTES_MAX];
        region.copy_header(at, HEADER_BYTES_MAX, &mut part);
        all.extend(part);
    }
    all
}

fn contains(bytes: &[u8], canary: &[u8]) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary)
}

#[test]
fn nothing_but_the_frame_crosses() {
    const CANARY: &[u8] = b"canary of zero!!";
    let frames: Vec<Vec<u8>> =
        (0..800).map(|number| ipv4(UDP, if number % 2 == 0 { 1500 } else { 64 }, 0x11)).collect();
    let (lab, written) = two_domains(&frames, |_| {});
    lab.attach(0);
    lab.attach(1);
    let mut hands = Hands::of(&lab, 0, 0);
    let (mapping, geometry) = (lab.regions[0].mapping(), *lab.regions[0].geometry());
    let write = move |desc: &Desc, from: usize, to: usize| {
        let start = usize::try_from(geometry.buffer_offset(desc.buffer_index)).unwrap();
        for at in (from..to.saturating_sub(CANARY.len())).step_by(CANARY.len()) {
            mapping.copy_in(start + at, CANARY);
        }
    };
    let guest = Guest::run(move || {
        let lent = hands.take();
        hands.give(lent.into_iter().map(|desc| {
            let (offset, len) = (usize::from(desc.data_offset_bytes), usize::from(desc.data_len_bytes));
            // All around the frame; long frames are full of it and are dropped.
            write(&desc, 0, offset);
            write(&desc, offset + len, 2368);
            if len < 1500 {
                return verdict(desc, Verdict::Next);
            }
            write(&desc, offset, offset + len);
            verdict(desc, Verdict::Drop)
        }));
    });
    let forwarder = Guest::forwarder(&lab, 1);
    lab.wait_until("every frame is accounted for", |now| all_accounted(now, 800));
    drop((guest, forwarder));
    assert!(contains(&bytes_of(lab.regions[0].mapping()), CANARY));
    let other = bytes_of(lab.regions[1].mapping());
    assert!(!contains(&other, CANARY));
    // The frames are there, so the search looked at the right place.
    assert!(contains(&other, &ipv4(UDP, 64, 0x11)));
    lab.stop();
    assert_eq!(capture::read(&written), vec![ipv4(UDP, 64, 0x11); 400]);
}

#[cfg(feature = "test-hooks")]
#[test]
fn headers_rewritten_after_the_judgement_do_not_cross() {
    use datapath_lab::frames::PROTOCOL_AT;
    let frames = vec![ipv4(UDP, 300, 0x11); 200];
    let (lab, written) = two_domains(&frames, |spec| spec.edges = vec![edge(0, 1, Some(UDP))]);
    let mapping = lab.regions[0].mapping();
    let mut rewritten = 0;
    let (count, counted) = std::sync::mpsc::channel();
    host_switch::datapath::hook::at(
        host_switch::datapath::hook::Moment::HeadersJudged,
        mapping,
        move |frame| {
            mapping.copy_in(frame + PROTOCOL_AT, &[TCP]);
            mapping.copy_in(frame, &[0xff; 6]);
            rewritten += 1;
            count.send(rewritten).unwrap();
        },
    );
    lab.attach(0);
    lab.attach(1);
    let guests = [0, 1].map(|number| Guest::forwarder(&lab, number));
    lab.wait_until("every frame is accounted for", |now| all_accounted(now, 200));
    drop(guests);
    assert_eq!(counted.try_iter().last(), Some(200));
    lab.stop();
    assert!(capture::read(&written) == frames);
}
