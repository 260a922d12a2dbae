//! What a hostile, dead or silent endpoint cannot do.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::sync::atomic::Ordering;

use datapath_lab::capture::Dice;
use datapath_lab::guest::{Guest, Hands, verdict};
use datapath_lab::{Lab, LabSpec, device, endpoint};
use host_switch::datapath::{DatapathError, Event};
use shm_ring::desc::{Desc, RawDesc, Verdict};
use switch_core::drop_reason::DropReason;

/// Endless traffic through a chain of endpoints, from one null device to another.
fn endless(endpoints: usize, adjust: impl FnOnce(&mut LabSpec)) -> Lab {
    let devices = [device("net_null", ""), device("net_null", "")];
    let mut spec = LabSpec::chain(endpoints, [&devices[0], &devices[1]]);
    adjust(&mut spec);
    Lab::start(&spec)
}

#[test]
fn garbage_descriptors_break_nothing_and_are_counted() {
    let lab = endless(2, |_| {});
    lab.attach(0);
    lab.attach(1);
    let honest = Guest::forwarder(&lab, 1);
    let mut hands = Hands::of(&lab, 0, 0);
    let mut dice = Dice(11);
    let hostile = Guest::run(move || {
        for desc in hands.take() {
            let lie = match dice.below(8) {
                0 => RawDesc { word0: dice.next(), word1: dice.next() }.unpack(),
                1 => Desc { buffer_index: desc.buffer_index ^ 1, ..verdict(desc, Verdict::Next) },
                2 => Desc { buffer_index: u32::MAX, ..verdict(desc, Verdict::Next) },
                3 => Desc { generation: desc.generation.wrapping_add(1), ..verdict(desc, Verdict::Next) },
                4 => Desc { data_len_bytes: u16::MAX, ..verdict(desc, Verdict::Next) },
                5 => Desc { data_offset_bytes: 2360, ..verdict(desc, Verdict::Next) },
                6 => Desc { flags: 1, ..verdict(desc, Verdict::Next) },
                _ => Desc { code: 0, ..desc },
            };
            // The lie, then the truth, then the truth once more.
            let truth = verdict(desc, Verdict::Next);
            hands.give([lie, truth, truth]);
        }
    });
    let counters = lab
        .wait_until("many lies were told", |counters| counters.endpoints[0].packets.faults.total() > 20_000);
    // The others cannot be told with packets that were lent whole: no empty buffer was lent, and what is too
    // long for this stride ends past the buffer.
    let told =
        ["foreign_index", "not_held", "wrong_generation", "unknown_code", "unknown_flags", "past_buffer"];
    for (fault, count) in counters.endpoints[0].packets.faults.iter() {
        assert!(count > 0 || !told.contains(&fault.name()), "{fault}");
    }
    assert_eq!(counters.endpoints[1].packets.faults.total(), 0);
    drop((hostile, honest));
    // Control hears once, however many there were.
    let told = lab.datapath().events();
    assert_eq!(told.iter().filter(|event| matches!(event, Event::Descriptor { .. })).count(), 1, "{told:?}");
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[cfg(feature = "test-hooks")]
#[test]
fn descriptors_rewritten_behind_the_copy_change_nothing() {
    use host_switch::datapath::hook::{self, Moment};
    use std::sync::atomic::Ordering::Relaxed;
    let lab = endless(1, |_| {});
    let ring = lab.guest_area().endpoint(0).pair(0).unwrap().guest_to_host;
    let (count, counted) = std::sync::mpsc::channel();
    let mut read: u32 = 0;
    hook::at(Moment::DescriptorCopied, lab.regions[0].mapping(), move |_| {
        // The slot just read: the host reads one after the other.
        let slot = &ring.slots()[read as usize % ring.slots().len()];
        let lie = Desc { buffer_index: 0, data_len_bytes: u16::MAX, ..RawDesc::default().unpack() }.pack();
        slot.word0.store(lie.word0, Relaxed);
        slot.word1.store(lie.word1, Relaxed);
        read = read.wrapping_add(1);
        count.send(()).unwrap();
    });
    lab.attach(0);
    let mut hands = Hands::of(&lab, 0, 0);
    let honest = Guest::run(move || {
        let lent = hands.take();
        hands.give(lent.into_iter().map(|desc| verdict(desc, Verdict::Next)));
        // In step with the host, whose test rewrites what it has read.
        while hands.to_host.room(ring.slot_count()).unwrap() < ring.slot_count() {
            std::thread::yield_now();
        }
    });
    let counters =
        lab.wait_until("packets came back", |counters| counters.endpoints[0].packets.returned > 10_000);
    drop(honest);
    assert!(counted.try_iter().count() > 10_000, "the hook was called for each descriptor");
    assert_eq!(counters.endpoints[0].packets.faults.total(), 0);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn an_endpoint_that_keeps_everything_holds_no_more_than_its_quota() {
    let lab = endless(1, |spec| spec.quota_buffers = 100);
    lab.attach(0);
    let mut hands = Hands::of(&lab, 0, 0);
    let hoarder = Guest::run(move || _ = hands.take());
    let counters = lab.wait_until("drops are named", |counters| {
        counters.endpoints[0].packets.drops.get(DropReason::QuotaFull) > 1000
    });
    drop(hoarder);
    assert_eq!(counters.endpoints[0].held, 100);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn an_endpoint_that_takes_nothing_fills_its_ring_and_no_more() {
    let lab = endless(1, |spec| spec.ring_slots = 16);
    lab.attach(0);
    let counters = lab.wait_until("drops are named", |counters| {
        counters.endpoints[0].packets.drops.get(DropReason::RingFull) > 1000
    });
    assert_eq!(counters.endpoints[0].held, 16);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn a_broken_counter_cuts_the_endpoint_off_and_its_buffers_wait_for_release_and_proof() {
    for which in ["produced", "consumed"] {
        let lab = endless(1, |_| {});
        lab.attach(0);
        lab.wait_until("it holds packets", |counters| counters.endpoints[0].held > 0);
        let pair = *lab.guest_area().endpoint(0).pair(0).unwrap();
        let line = match which {
            "produced" => pair.guest_to_host.produced_line(),
            _ => pair.host_to_guest.consumed_line(),
        };
        line.value.store(0x8000_0000, Ordering::Release);
        let counters = lab.wait_until("it is cut off", |counters| counters.endpoints[0].counter_errors == 1);
        assert!(!counters.endpoints[0].attached);
        assert!(matches!(lab.datapath().events()[..], [Event::Counter { .. }]));
        lab.assert_conserved();
        lab.assert_nothing_vanished();

        let held = counters.endpoints[0].held;
        assert!(held > 0);
        // A proof about earlier attaches, such as a supervisor's late word, says nothing about this one.
        assert_eq!(lab.datapath().reclaim(endpoint(0)).unwrap(), 0);
        assert_eq!(lab.counters().endpoints[0].held, held);
        assert_eq!(lab.datapath().release(endpoint(0)).unwrap().quarantined, held);
        assert_eq!(lab.datapath().reclaim(endpoint(0)).unwrap(), held);
        let reports = lab.assert_conserved();
        assert!(reports[0].audit.endpoints.is_empty() && reports[0].audit.quarantined.is_empty());
        lab.assert_nothing_vanished();
        lab.stop();
    }
}

#[test]
fn release_and_reclaim_under_traffic_conserve_every_buffer() {
    let lab = endless(2, |_| {});
    lab.attach(1);
    let steady = Guest::forwarder(&lab, 1);
    let mut dice = Dice(12);
    for round in 0..20 {
        lab.attach(0);
        let guest = Guest::forwarder(&lab, 0);
        let before = lab.counters().domains[0].packets.delivered;
        lab.wait_until("packets flow", |counters| counters.domains[0].packets.delivered > before + 100);
        std::thread::sleep(std::time::Duration::from_micros(dice.below(2000)));
        // Even rounds: the guest dies first. Odd ones: it goes on writing while it is released.
        let guest = (round % 2 == 1).then_some(guest);
        let released = lab.datapath().release(endpoint(0)).unwrap();
        lab.assert_conserved();
        lab.assert_nothing_vanished();
        drop(guest);
        assert_eq!(lab.datapath().reclaim(endpoint(0)).unwrap(), released.quarantined);
        lab.assert_conserved();
        lab.assert_nothing_vanished();
    }
    drop(steady);
    lab.stop();
}

#[test]
fn a_late_proof_takes_home_the_old_epochs_buffers_and_leaves_the_new_ones() {
    let lab = endless(1, |spec| spec.quota_buffers = 100);
    lab.attach(0);
    lab.wait_until("it holds its quota", |counters| counters.endpoints[0].held == 100);
    // A broken counter: the lcore has let go by itself, nobody has released the endpoint.
    lab.guest_area()
        .endpoint(0)
        .pair(0)
        .unwrap()
        .guest_to_host
        .produced_line()
        .value
        .store(1 << 20, Ordering::Release);
    lab.wait_until("it is cut off", |counters| counters.endpoints[0].counter_errors == 1);
    lab.attach(0);
    let counters = lab.counters();
    assert_eq!((counters.endpoints[0].held, counters.endpoints[0].quarantined), (0, 100));
    // The old buffers are charged to its quota, so nothing new is lent.
    let lent = counters.endpoints[0].packets.lent;
    lab.wait_until("drops are named", |now| {
        now.domains[0].packets.drops.get(DropReason::QuotaFull)
            > counters.domains[0].packets.drops.get(DropReason::QuotaFull)
    });
    assert_eq!(lab.counters().endpoints[0].packets.lent, lent);

    assert_eq!(lab.datapath().reclaim(endpoint(0)).unwrap(), 100);
    lab.wait_until("it holds its quota", |counters| counters.endpoints[0].held == 100);
    assert_eq!(lab.datapath().reclaim(endpoint(0)).unwrap(), 0);
    let counters = lab.counters();
    assert_eq!((counters.endpoints[0].held, counters.endpoints[0].quarantined), (100, 0));
    assert_eq!(counters.endpoints[0].packets.drops.get(DropReason::LostWithEndpoint), 100);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn a_region_that_loses_a_page_ends_its_domain_and_nothing_else() {
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let lab = endless(1, |_| {});
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    lab.wait_until("packets flow", |counters| counters.domains[0].packets.delivered > 1000);
    // An empty file over one page of the region: the next access is the same SIGBUS that a page gives which
    // the kernel cannot bring back.
    let (empty, page) = (memfd_create("empty", MemfdFlags::CLOEXEC).unwrap(), 1 << 20);
    let at = lab.regions[0].mapping().base().as_ptr().wrapping_add(page);
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
    // SAFETY: replaces one page of a mapping whose bytes nobody refers to or relies on, with another that is
    // mapped as well.
    unsafe { mmap(at.cast(), 4096, protection, flags, &empty, 0) }.unwrap();
    lab.regions[0].mapping().copy_in(page, &[1; 64]);

    let counters = lab.wait_until("it is noticed", |counters| counters.domains[0].region_lost);
    assert!(!counters.endpoints[0].attached && !counters.endpoints[0].fed);
    assert!(lab.datapath().events().iter().any(|event| matches!(event, Event::RegionLost { .. })));
    drop(guest);
    assert!(matches!(lab.try_attach(0), Err(DatapathError::AttachRefused { .. })));
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn an_endpoint_is_attached_once() {
    let lab = endless(1, |_| {});
    lab.attach(0);
    assert!(matches!(lab.try_attach(0), Err(DatapathError::AttachRefused { .. })));
    lab.stop();
}

#[cfg(feature = "sabotage-leak")]
#[test]
fn the_audit_finds_a_buffer_that_was_leaked_on_purpose() {
    use switch_core::audit::AuditFinding;
    let lab = endless(1, |_| {});
    lab.assert_conserved();
    assert!(lab.datapath().leak(switch_core::ids::DomainId(0)).unwrap());
    let reports = lab.datapath().audit().unwrap();
    assert_eq!(reports[0].sum(), u64::from(reports[0].audit.size) - 1);
    let findings = reports[0].findings();
    assert!(findings.contains(&AuditFinding::Lcore { marked: 1, in_hand: 0 }), "{findings:?}");
    assert!(findings.iter().any(|finding| matches!(finding, AuditFinding::Sum { .. })), "{findings:?}");
}
