//! Observers get copies, and nothing that they do or leave undone changes the chain.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::path::PathBuf;
use std::sync::mpsc::channel;

use datapath_lab::capture;
use datapath_lab::frames::{UDP, ipv4};
use datapath_lab::guest::{Guest, Hands, verdict};
use datapath_lab::{Lab, LabSpec, device, edge, folder};
use shm_ring::desc::Verdict;
use switch_core::drop_reason::DropReason;

/// Endpoint 0 of domain 0 forwards from port 0 to port 1; endpoint 1 of domain 1 observes that chain.
fn observed(frames: &[Vec<u8>], adjust: impl FnOnce(&mut LabSpec)) -> (Lab, PathBuf) {
    let (folder, _) = folder();
    let (played, written) = (folder.join("in.pcap"), folder.join("out.pcap"));
    capture::write(&played, frames);
    let devices = [
        device("net_pcap", &format!(",rx_pcap={}", played.display())),
        device("net_pcap", &format!(",tx_pcap={}", written.display())),
    ];
    let mut spec = LabSpec::chain(2, [&devices[0], &devices[1]]);
    spec.path = vec![0];
    spec.observers = vec![1];
    spec.domains = 2;
    spec.endpoint_domains = vec![0, 1];
    spec.edges = vec![edge(0, 1, None)];
    spec.paced = true;
    adjust(&mut spec);
    (Lab::start(&spec), written)
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| ipv4(UDP, 60 + number % 1400, number.to_le_bytes()[0])).collect()
}

#[test]
fn an_observer_sees_what_enters_the_chain_and_changes_nothing_of_it() {
    let frames = numbered(200);
    for shared in [false, true] {
        let (lab, written) = observed(&frames, |spec| {
            if shared {
                spec.shared_ports = vec![0, 1];
            }
        });
        lab.attach(1);
        let mut hands = Hands::of(&lab, 1, 0);
        let (mapping, geometry) = (lab.regions[1].mapping(), *lab.regions[1].geometry());
        let (seen, views) = channel();
        let observer = Guest::run(move || {
            let lent = hands.take();
            hands.give(lent.into_iter().enumerate().map(|(turn, desc)| {
                let at = geometry.buffer_offset(desc.buffer_index) + u64::from(desc.data_offset_bytes);
                let mut frame = vec![0; usize::from(desc.data_len_bytes)];
                mapping.copy_out(usize::try_from(at).unwrap(), &mut frame);
                seen.send(frame).unwrap();
                mapping.copy_in(usize::try_from(at).unwrap(), &[0xee; 14]);
                // Whatever it says.
                verdict(desc, [Verdict::Next, Verdict::Drop, Verdict::ToPort, Verdict::ToService][turn % 4])
            }));
        });
        lab.attach(0);
        let guest = Guest::forwarder(&lab, 0);
        let counters = lab.wait_until("all frames are out and seen", |now| {
            now.domains[0].packets.delivered == 200 && now.domains[1].packets.observed == 200
        });
        drop((guest, observer));
        assert_eq!(counters.domains[0].packets.entered, 200);
        assert_eq!(counters.domains[1].packets.entered, 200);
        assert_eq!(counters.domains[1].packets.delivered, 0);
        assert_eq!(counters.edges[0].packets, 200);
        lab.assert_conserved();
        lab.assert_nothing_vanished();
        lab.stop();
        assert!(capture::read(&written) == frames);
        assert!(views.try_iter().eq(frames.iter().cloned()));
    }
}

#[test]
fn a_chain_does_not_wait_for_an_observer_that_gives_nothing_back() {
    let frames = numbered(2000);
    let (lab, written) = observed(&frames, |spec| spec.quota_buffers = 100);
    lab.attach(1);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let counters = lab.wait_until("all frames are out", |now| now.domains[0].packets.delivered == 2000);
    drop(guest);
    assert_eq!(counters.endpoints[1].held, 100);
    assert_eq!(counters.endpoints[1].packets.drops.get(DropReason::ObserverFull), 1900);
    assert_eq!(counters.domains[0].packets.drops.total(), 0);
    assert_eq!(counters.domains[1].packets.drops.total(), 0);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn an_observer_sees_no_packet_that_no_edge_carries() {
    let frames = vec![ipv4(datapath_lab::frames::TCP, 100, 1); 50];
    let (lab, _) = observed(&frames, |spec| spec.edges = vec![edge(0, 1, Some(UDP))]);
    lab.attach(1);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let counters = lab.wait_until("all frames are out", |now| now.domains[0].packets.delivered == 50);
    drop(guest);
    assert_eq!(counters.endpoints[1].packets.lent, 0);
    assert_eq!(counters.endpoints[1].packets.drops.get(DropReason::DomainEdgeDenied), 50);
    assert_eq!(counters.domains[0].packets.drops.total(), 0);
    lab.stop();
}
