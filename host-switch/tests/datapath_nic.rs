//! The NIC of an untrusted guest as a port: frames are copied in and out, judged, counted, and none is lost.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use datapath_lab::capture::{self, Dice};
use datapath_lab::frames::{UDP, ipv4};
use datapath_lab::guest::Guest;
use datapath_lab::guest_nic::GuestNic;
use datapath_lab::{Lab, LabSpec, NIC, device, folder};
use switch_core::drop_reason::DropReason;
use switch_core::rate::RateSpec;

/// Frames that a guest has on the way at most, well below the entries of its ring.
const ON_THE_WAY: usize = 128;

/// Port 0 is a guest's NIC, port 1 writes a capture; endpoint 0 is between them.
fn outward(adjust: impl FnOnce(&mut LabSpec)) -> (Lab, PathBuf) {
    let written = folder().0.join("out.pcap");
    let mut spec = LabSpec::chain(1, [NIC, &device("net_pcap", &format!(",tx_pcap={}", written.display()))]);
    adjust(&mut spec);
    (Lab::start(&spec), written)
}

/// Port 0 plays frames, port 1 is a guest's NIC.
fn inward(frames: &[Vec<u8>]) -> Lab {
    let played = folder().0.join("in.pcap");
    capture::write(&played, frames);
    Lab::start(&LabSpec::chain(0, [&device("net_pcap", &format!(",rx_pcap={}", played.display())), NIC]))
}

/// Sends frames as fast as they are taken.
fn send_all(nic: &mut GuestNic, frames: &[Vec<u8>]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let base = nic.sent();
    for (count, frame) in frames.iter().enumerate() {
        while count - usize::from(nic.sent().wrapping_sub(base)) >= ON_THE_WAY {
            assert!(Instant::now() < deadline, "nobody takes what the guest sends");
            std::thread::yield_now();
        }
        nic.send(frame);
    }
}

#[test]
fn what_a_guest_sends_goes_through_a_chain_and_leaves_as_it_was() {
    let frames = Dice(7).frames(3000);
    let (mut lab, written) = outward(|_| {});
    lab.attach(0);
    let forwarder = Guest::forwarder(&lab, 0);
    let mut nic = lab.nics.remove(0);
    nic.start(0);
    // No more at a time than the quota of the endpoint.
    for (part, sent) in frames.chunks(200).zip((200..).step_by(200)) {
        send_all(&mut nic, part);
        lab.wait_until("a part is out", |now| now.domains[0].packets.delivered == sent);
    }
    let counters = lab.counters();
    drop(forwarder);
    assert_eq!((counters.ports[0].packets.rx_packets, counters.ports[0].packets.copies), (3000, 3000));
    let bytes: usize = frames.iter().map(Vec::len).sum();
    assert_eq!(counters.ports[0].packets.rx_bytes, bytes as u64);
    assert_eq!(counters.domains[0].packets.drops.total(), 0);
    assert_eq!(counters.copies_in_trusted_chain(), 0, "inside the chain, nothing was copied");
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn what_goes_to_a_guest_that_is_not_there_is_dropped_by_name() {
    let lab = inward(&Dice(11).frames(200));
    let counters = lab.wait_until("the capture is played", |now| now.domains[0].packets.entered == 200);
    assert_eq!(counters.domains[0].packets.drops.get(DropReason::PortDown), 200);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

/// Two guests, each the other's only neighbour.
fn neighbours(lcores: u16) -> Lab {
    let mut spec = LabSpec::chain(0, [NIC, NIC]);
    spec.more_chains = vec![(1, Vec::new(), 0)];
    spec.lcores = lcores;
    spec.region_bytes = 4 << 20;
    Lab::start(&spec)
}

fn exchange(lab: &mut Lab, frames: &[Vec<u8>]) {
    let mut nics = std::mem::take(&mut lab.nics);
    nics.iter_mut().for_each(|nic| nic.start(250));
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut came: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    let mut sent = 0;
    while came.iter().any(|came| came.len() < frames.len()) {
        assert!(Instant::now() < deadline, "{:?} of {}", came.map(|came| came.len()), frames.len());
        // Fewer than the other has buffers for, so that nothing is dropped.
        let behind = came.iter().map(Vec::len).min().unwrap_or(0);
        if sent < frames.len() && sent - behind < ON_THE_WAY {
            nics.iter_mut().for_each(|nic| nic.send(&frames[sent]));
            sent += 1;
        }
        for (nic, came) in nics.iter_mut().zip(&mut came) {
            came.extend(nic.receive());
        }
    }
    assert!(came.iter().all(|came| came == frames));
}

#[test]
fn two_guests_exchange_frames_in_order_without_a_service_between_them() {
    let frames = Dice(13).frames(2000);
    let mut lab = neighbours(1);
    exchange(&mut lab, &frames);
    let counters = lab.counters();
    for port in &counters.ports {
        assert_eq!((port.packets.rx_packets, port.packets.tx_packets), (2000, 2000));
        let nic = port.nic.as_ref().unwrap();
        assert_eq!(nic.drops.values().chain(nic.faults.values()).sum::<u64>(), 0, "{nic:?}");
    }
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn a_guest_of_one_queue_pair_is_reached_from_every_lcore() {
    let frames = Dice(17).frames(500);
    let mut lab = neighbours(2);
    exchange(&mut lab, &frames);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn a_guest_without_buffers_loses_its_own_frames_by_name() {
    let mut lab = neighbours(1);
    let [mut sender, mut receiver] = <[GuestNic; 2]>::try_from(std::mem::take(&mut lab.nics)).ok().unwrap();
    receiver.start(10);
    sender.start(0);
    send_all(&mut sender, &vec![ipv4(UDP, 100, 1); 60]);
    let counters = lab.wait_until("all came to something", |now| {
        let packets = &now.domains[0].packets;
        packets.entered == 60 && packets.delivered + packets.drops.total() == 60
    });
    assert_eq!(counters.domains[0].packets.drops.get(DropReason::TxFull), 50);
    let nic = counters.ports[1].nic.as_ref().unwrap();
    assert_eq!(nic.drops["vhost_no_guest_buffer"], 50);
    assert_eq!(receiver.receive().len(), 10);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn a_domain_lets_in_of_a_guest_what_its_rate_allows() {
    let (mut lab, _) = outward(|spec| {
        spec.domain_limit = Some(RateSpec { packets_per_s: Some(1000), bits_per_s: None });
        spec.path = Vec::new();
    });
    let mut nic = lab.nics.remove(0);
    nic.start(0);
    let started = Instant::now();
    send_all(&mut nic, &vec![ipv4(UDP, 100, 1); 5000]);
    let counters = lab.wait_until("all came to something", |now| now.domains[0].packets.entered == 5000);
    let allowed = 1000 * (started.elapsed().as_secs() + 1) + 64;
    assert!(counters.domains[0].packets.delivered <= allowed, "{counters:#?}");
    assert!(counters.domains[0].packets.drops.get(DropReason::DomainRate) > 0);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn a_frame_longer_than_the_mtu_allows_is_not_taken_and_one_of_that_length_is() {
    let (mut lab, _) = outward(|spec| spec.path = Vec::new());
    let mut nic = lab.nics.remove(0);
    nic.start(0);
    // 1500 bytes of MTU behind an Ethernet header and two tags.
    send_all(&mut nic, &[ipv4(UDP, 1523, 1), ipv4(UDP, 1522, 1)]);
    let counters = lab.wait_until("the second is out", |now| now.domains[0].packets.delivered == 1);
    assert_eq!(counters.domains[0].packets.entered, 1);
    assert_eq!(counters.ports[0].nic.as_ref().unwrap().drops["vhost_frame_too_long"], 1);
    lab.assert_conserved();
    lab.stop();
}

#[cfg(feature = "test-hooks")]
#[test]
fn headers_rewritten_behind_the_copy_do_not_reach_the_guest() {
    use datapath_lab::frames::{PROTOCOL_AT, TCP};
    let mut lab = neighbours(1);
    let mapping = lab.regions[0].mapping();
    host_switch::datapath::hook::at(
        host_switch::datapath::hook::Moment::HeadersJudged,
        mapping,
        move |frame| {
            mapping.copy_in(frame + PROTOCOL_AT, &[TCP]);
        },
    );
    exchange(&mut lab, &vec![ipv4(UDP, 300, 0x11); 100]);
    lab.stop();
}
