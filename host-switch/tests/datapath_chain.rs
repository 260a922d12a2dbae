//! Frames go through a chain of endpoints and leave as they came.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use datapath_lab::capture::{self, Dice};
use datapath_lab::guest::{Guest, Hands, verdict};
use datapath_lab::{Lab, LabSpec, device, folder};
use host_switch::datapath::PortPool;
use shm_ring::desc::{Desc, Kind, Verdict};
use switch_core::drop_reason::DropReason;
use switch_core::ids::EndpointId;

const FRAMES: usize = 3000;

/// A lab whose port 0 plays frames, and whose port 1 writes what it is given.
fn replay(
    endpoints: usize,
    frames: &[Vec<u8>],
    adjust: impl FnOnce(&mut LabSpec),
) -> (Lab, std::path::PathBuf) {
    let (folder, _) = folder();
    let (played, written) = (folder.join("in.pcap"), folder.join("out.pcap"));
    capture::write(&played, frames);
    let devices = [
        device("net_pcap", &format!(",rx_pcap={}", played.display())),
        device("net_pcap", &format!(",tx_pcap={}", written.display())),
    ];
    let mut spec = LabSpec::chain(endpoints, [&devices[0], &devices[1]]);
    spec.paced = true;
    adjust(&mut spec);
    (Lab::start(&spec), written)
}

fn delivered(lab: &Lab, count: usize) -> host_switch::datapath::CountersSnapshot {
    lab.wait_until("all frames are out", |counters| counters.domains[0].packets.delivered == count as u64)
}

#[test]
fn frames_leave_a_chain_of_two_byte_for_byte_in_order_and_uncopied() {
    let frames = Dice(1).frames(FRAMES);
    let (lab, written) = replay(2, &frames, |_| {});
    lab.attach(0);
    lab.attach(1);
    let guests = [0, 1].map(|number| Guest::forwarder(&lab, number));
    let counters = delivered(&lab, FRAMES);
    drop(guests);

    assert_eq!(counters.domains[0].packets.entered, FRAMES as u64);
    assert_eq!(counters.domains[0].packets.drops.total(), 0);
    assert_eq!(counters.endpoints[0].packets.lent, FRAMES as u64);
    assert_eq!(counters.endpoints[1].packets.returned, FRAMES as u64);
    let identity = counters.domains[0].identity;
    assert!(identity.same > 0 && identity.same == identity.sampled, "{identity:?}");
    assert_eq!(counters.copies_in_trusted_chain(), 0);
    assert_eq!(counters.ports[0].packets.copies, 0);
    lab.assert_conserved();
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn a_port_with_a_private_pool_copies_each_frame_once_and_says_so() {
    let frames = Dice(2).frames(FRAMES);
    let (lab, written) = replay(1, &frames, |spec| spec.pool = PortPool::Private);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let counters = delivered(&lab, FRAMES);
    drop(guest);
    assert_eq!(counters.ports[0].packets.copies, FRAMES as u64);
    assert!(counters.copies_in_trusted_chain() > 0);
    assert_eq!(counters.domains[0].identity.same, 0);
    lab.assert_conserved();
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn a_paced_port_loses_nothing_to_a_guest_that_is_slower_than_the_capture() {
    let frames = Dice(3).frames(FRAMES);
    let (lab, written) = replay(2, &frames, |spec| spec.quota_buffers = 64);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(lab.counters().domains[0].packets.entered, 0);
    lab.attach(0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(lab.counters().domains[0].packets.entered, 0);
    lab.attach(1);
    let mut hands = Hands::of(&lab, 1, 0);
    let slow = Guest::run(move || {
        let lent = hands.take();
        std::thread::sleep(std::time::Duration::from_micros(200));
        hands.give(lent.into_iter().map(|desc| verdict(desc, Verdict::Next)));
    });
    let fast = Guest::forwarder(&lab, 0);
    let counters = delivered(&lab, FRAMES);
    drop((slow, fast));
    assert_eq!(counters.domains[0].packets.drops.total(), 0);
    assert!(counters.ports[0].packets.held_back > 0);
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn a_guest_may_rewrite_grow_and_shrink_a_frame_inside_its_buffer() {
    let frames = Dice(4).frames(400);
    let (lab, written) = replay(1, &frames, |_| {});
    lab.attach(0);
    let mut hands = Hands::of(&lab, 0, 0);
    let (mapping, geometry) = (lab.regions[0].mapping(), *lab.regions[0].geometry());
    let guest = Guest::run(move || {
        let lent: Vec<Desc> = hands.take();
        hands.give(lent.into_iter().map(|desc| {
            // Four bytes of headroom become data; one byte at the end goes.
            let moved = Desc {
                data_offset_bytes: desc.data_offset_bytes - 4,
                data_len_bytes: desc.data_len_bytes + 3,
                ..desc
            };
            let at = geometry.buffer_offset(desc.buffer_index) + u64::from(moved.data_offset_bytes);
            mapping.copy_in(usize::try_from(at).unwrap(), b"NETV");
            verdict(moved, Verdict::Next)
        }));
    });
    delivered(&lab, frames.len());
    drop(guest);
    lab.stop();
    let expected: Vec<Vec<u8>> =
        frames.iter().map(|frame| [b"NETV", &frame[..frame.len() - 1]].concat()).collect();
    assert!(capture::read(&written) == expected);
}

#[test]
fn drops_by_verdict_and_denied_targets_are_counted_under_their_names() {
    let frames = Dice(5).frames(900);
    let (lab, written) = replay(1, &frames, |_| {});
    lab.attach(0);
    let mut hands = Hands::of(&lab, 0, 0);
    let mut number = 0;
    let guest = Guest::run(move || {
        let lent = hands.take();
        hands.give(lent.into_iter().map(|desc| {
            number += 1;
            match number % 3 {
                0 => verdict(desc, Verdict::Next),
                1 => verdict(desc, Verdict::Drop),
                // Port 1 is not among the targets of its service.
                _ => Desc { aux: 1, ..verdict(desc, Verdict::ToPort) },
            }
        }));
    });
    let counters = lab.wait_until("every frame is delivered or dropped", |counters| {
        let packets = &counters.domains[0].packets;
        packets.delivered + packets.drops.total() == 900
    });
    drop(guest);
    for drops in [&counters.domains[0].packets.drops, &counters.endpoints[0].packets.drops] {
        assert_eq!(drops.get(DropReason::NfDrop), 300);
        assert_eq!(drops.get(DropReason::VerdictDenied), 300);
        assert_eq!(drops.total(), 600);
    }
    lab.assert_conserved();
    lab.stop();
    assert_eq!(capture::read(&written).len(), 300);
}

#[test]
fn frames_that_no_buffer_or_no_header_fits_are_dropped_by_name_at_ingress() {
    let fitting = [vec![1; 14], vec![2; 1522]];
    let frames = [&fitting[0][..], &[3; 13], &[4; 3000], &[5; 1523], &fitting[1]].map(<[u8]>::to_vec);
    let (lab, written) = replay(1, &frames, |_| {});
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let counters = lab.wait_until("every frame is delivered or dropped", |counters| {
        let packets = &counters.domains[0].packets;
        packets.delivered + packets.drops.total() == 5
    });
    drop(guest);
    let drops = &counters.domains[0].packets.drops;
    assert_eq!(drops.get(DropReason::FrameTooShort), 1);
    // One in several buffers, and one that is longer than the port sends.
    assert_eq!(drops.get(DropReason::FrameTooLong), 2);
    assert_eq!(counters.endpoints[0].packets.lent, 3);
    lab.assert_conserved();
    lab.stop();
    assert!(capture::read(&written) == fitting);
}

#[test]
fn an_endpoint_with_credit_makes_packets_of_its_own() {
    let (lab, written) = replay(1, &[], |spec| {
        spec.credit_buffers = 8;
        spec.paced = false;
    });
    lab.attach(0);
    let mut hands = Hands::of(&lab, 0, 0);
    let (mapping, geometry) = (lab.regions[0].mapping(), *lab.regions[0].geometry());
    let mut left = 100;
    let guest = Guest::run(move || {
        for desc in hands.take() {
            assert_eq!(Kind::from_code(desc.code), Some(Kind::Empty));
            if left == 0 {
                hands.give([verdict(desc, Verdict::ReturnEmpty)]);
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            left -= 1;
            let at = geometry.buffer_offset(desc.buffer_index) + u64::from(desc.data_offset_bytes);
            mapping.copy_in(usize::try_from(at).unwrap(), &[left; 70]);
            hands.give([Desc { data_len_bytes: 70, ..verdict(desc, Verdict::Next) }]);
        }
    });
    let counters = delivered(&lab, 100);
    drop(guest);
    assert_eq!(counters.domains[0].packets.entered, 100);
    assert!(counters.endpoints[0].held <= 8, "{counters:?}");
    lab.assert_conserved();
    lab.stop();
    let expected: Vec<Vec<u8>> = (0..100).rev().map(|number| vec![number; 70]).collect();
    assert!(capture::read(&written) == expected);
}

#[test]
fn forwarding_can_be_replaced_and_feeding_stopped_under_traffic() {
    let devices = [device("net_null", ""), device("net_null", "")];
    let lab = Lab::start(&LabSpec::chain(1, [&devices[0], &devices[1]]));
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    lab.wait_until("packets flow", |counters| counters.domains[0].packets.delivered > 1000);
    lab.datapath().stop_feeding(EndpointId(0)).unwrap();
    let counters = lab.wait_until("what it held is back", |counters| counters.endpoints[0].held == 0);
    assert!(counters.endpoints[0].attached && !counters.endpoints[0].fed);
    let before = lab.counters();
    assert!(before.domains[0].packets.drops.get(DropReason::ServiceDead) > 0);
    assert_eq!(before.endpoints[0].packets.lent, counters.endpoints[0].packets.lent);
    lab.datapath().resume_feeding(EndpointId(0)).unwrap();
    lab.wait_until("packets flow again", |counters| {
        counters.domains[0].packets.delivered > before.domains[0].packets.delivered + 1000
    });
    drop(guest);
    lab.assert_conserved();
    lab.stop();
}
