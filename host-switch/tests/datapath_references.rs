//! Observers that look into the region by reference: what they see, how long, and that no chain waits for them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use datapath_lab::frames::{UDP, ipv4};
use datapath_lab::guest::{Guest, Hands, verdict};
use datapath_lab::{Lab, LabSpec, capture, device, edge, folder};
use host_switch::datapath::ReferenceSpec;
use shm_ring::desc::{Desc, REFERENCE, RELEASE, Verdict, reference_aux, reference_slot};
use shm_ring::reference::ReferenceTable;
use switch_core::drop_reason::DropReason;
use switch_core::fault::DescFaultKind;

/// Endpoint 0 forwards from port 0 to port 1; endpoint 1 has references to what enters that chain.
fn observed(
    frames: &[Vec<u8>],
    references: ReferenceSpec,
    adjust: impl FnOnce(&mut LabSpec),
) -> (Lab, PathBuf) {
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
    spec.references = Some(references);
    spec.paced = true;
    adjust(&mut spec);
    (Lab::start(&spec), written)
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| ipv4(UDP, 60 + number % 1400, number.to_le_bytes()[0])).collect()
}

/// The guest's hands of the observer, and the words that it looks at.
fn observer(lab: &Lab) -> (Hands, ReferenceTable<'static>) {
    lab.attach(1);
    let table = lab.guest_area().endpoint(1).pair(0).unwrap().references;
    (Hands::of(lab, 1, 0), table)
}

fn holds(table: ReferenceTable<'_>, desc: &Desc) -> bool {
    table.holds(reference_slot(desc.aux), desc.generation)
}

fn release(desc: Desc) -> Desc {
    Desc { code: RELEASE, ..desc }
}

/// Takes references until there are `count` of them.
fn take(hands: &mut Hands, count: usize) -> Vec<Desc> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut taken = Vec::new();
    while taken.len() < count {
        assert!(Instant::now() < deadline, "{} references came", taken.len());
        taken.extend(hands.take());
        std::thread::yield_now();
    }
    taken
}

const MANY: ReferenceSpec = ReferenceSpec { count: 256, lifetime_ms: 10_000 };

/// How the packets of the chain get where the observer looks.
type Way = fn(&mut LabSpec);

const WAYS: [(&str, Way); 3] = [
    ("received in the region", |_| {}),
    ("received by a shared port", |spec| {
        spec.domains = 2;
        spec.shared_ports = vec![0, 1];
    }),
    ("for a function that works elsewhere", |spec| {
        spec.domains = 2;
        spec.shared_ports = vec![0, 1];
        spec.endpoint_domains = vec![1, 0];
        spec.edges = vec![edge(1, 0, None)];
    }),
];

#[test]
fn an_observer_sees_by_reference_what_enters_the_chain() {
    let frames = numbered(200);
    for (way, adjust) in WAYS {
        let (lab, written) = observed(&frames, MANY, adjust);
        let (mut hands, table) = observer(&lab);
        let (mapping, geometry) = (lab.regions[0].mapping(), *lab.regions[0].geometry());
        let (seen, views) = channel();
        let observer = Guest::run(move || {
            let shown = hands.take();
            hands.give(shown.into_iter().map(|desc| {
                assert_eq!((desc.code, desc.flags, desc.aux & 0xffff), (REFERENCE, 0, 0), "{desc:?}");
                let at = geometry.buffer_offset(desc.buffer_index) + u64::from(desc.data_offset_bytes);
                let mut frame = vec![0; usize::from(desc.data_len_bytes)];
                mapping.copy_out(usize::try_from(at).unwrap(), &mut frame);
                assert!(holds(table, &desc), "{desc:?} ended while it was looked at");
                seen.send(frame).unwrap();
                release(desc)
            }));
        });
        lab.attach(0);
        let guest = Guest::forwarder(&lab, 0);
        let chain = usize::from(way == WAYS[2].0);
        let counters = lab.wait_until("all frames are out and given back", |now| {
            now.domains[chain].packets.delivered == 200 && now.endpoints[1].packets.returned == 200
        });
        drop((guest, observer));
        let endpoint = &counters.endpoints[1];
        assert_eq!(
            (endpoint.packets.referred, endpoint.packets.lent, endpoint.packets.expired),
            (200, 0, 0),
            "{way}"
        );
        assert_eq!((endpoint.references, endpoint.held), (0, 0), "{way}");
        assert_eq!(endpoint.packets.faults.total(), 0, "{way}");
        let reports = lab.assert_conserved();
        assert!(reports.iter().all(|report| report.audit.pinned == 0), "{way}: {reports:?}");
        lab.assert_nothing_vanished();
        lab.stop();
        assert!(capture::read(&written) == frames, "{way}");
        assert!(views.try_iter().eq(frames.iter().cloned()), "{way}");
    }
}

#[test]
fn a_chain_does_not_wait_for_an_observer_that_keeps_its_references() {
    let frames = numbered(2000);
    let keeps = ReferenceSpec { count: 50, lifetime_ms: 10_000 };
    let (lab, written) = observed(&frames, keeps, |_| {});
    let _observer = observer(&lab);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let counters = lab.wait_until("all frames are out", |now| now.domains[0].packets.delivered == 2000);
    drop(guest);
    assert_eq!(counters.endpoints[1].references, 50);
    assert_eq!(counters.endpoints[1].packets.drops.get(DropReason::ObserverFull), 1950);
    assert_eq!(counters.domains[0].packets.drops.total(), 0);
    let pinned = |lab: &Lab| lab.assert_conserved().iter().map(|report| report.audit.pinned).sum::<u32>();
    assert_eq!(pinned(&lab), 50, "done with, but for the observer");
    lab.assert_nothing_vanished();
    // It cannot write: no proof is needed that it has stopped.
    let released = lab.datapath().release(datapath_lab::endpoint(1)).unwrap();
    assert_eq!(released.quarantined, 0);
    assert_eq!(pinned(&lab), 0);
    assert_eq!(lab.counters().endpoints[1].references, 0);
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn a_reference_ends_by_itself_shows_it_and_may_be_given_back_late() {
    let frames = numbered(40);
    let (lab, _) = observed(&frames, ReferenceSpec { count: 10, lifetime_ms: 50 }, |_| {});
    let (mut hands, table) = observer(&lab);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let shown = take(&mut hands, 10);
    let counters = lab.wait_until("the references have ended", |now| {
        now.endpoints[1].packets.expired == 10 && now.domains[0].packets.delivered == 40
    });
    drop(guest);
    assert_eq!(counters.endpoints[1].references, 0);
    assert!(shown.iter().all(|desc| !holds(table, desc)), "an end must show");
    assert!(lab.assert_conserved().iter().all(|report| report.audit.pinned == 0));
    // Their slots bring nothing before they are given back.
    assert_eq!(counters.endpoints[1].packets.drops.get(DropReason::ObserverFull), 30);
    hands.give(shown.into_iter().map(release));
    let counters = lab.wait_until("they are given back", |now| now.endpoints[1].packets.returned == 10);
    assert_eq!(counters.endpoints[1].packets.faults.total(), 0, "late, and honest");
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn what_an_observer_gives_back_wrongly_is_counted_and_ends_nothing() {
    let frames = numbered(20);
    let (lab, written) = observed(&frames, ReferenceSpec { count: 8, lifetime_ms: 10_000 }, |_| {});
    let (mut hands, table) = observer(&lab);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let shown = take(&mut hands, 8);
    lab.wait_until("all frames are out", |now| now.domains[0].packets.delivered == 20);
    drop(guest);
    let (kept, given) = (shown[0], shown[1]);
    let another_slot = Desc { aux: reference_aux(0, 8), ..release(kept) };
    let another_buffer = Desc { buffer_index: kept.buffer_index + 1, ..release(kept) };
    let another_time = Desc { generation: kept.generation.wrapping_sub(1), ..release(kept) };
    hands.give([
        another_slot,
        Desc { aux: u32::MAX, ..another_slot },
        another_buffer,
        another_time,
        verdict(kept, Verdict::Next),
        verdict(kept, Verdict::Drop),
        Desc { code: REFERENCE, ..kept },
        Desc { flags: 1, ..release(kept) },
        release(given),
        // Once more.
        release(given),
        release(given),
    ]);
    let counters = lab.wait_until("all of it is judged", |now| now.endpoints[1].packets.faults.total() == 10);
    let faults = &counters.endpoints[1].packets.faults;
    assert_eq!(faults.get(DescFaultKind::ForeignReference), 2);
    assert_eq!(faults.get(DescFaultKind::ReferenceNotHeld), 3);
    assert_eq!(faults.get(DescFaultKind::ReferenceGeneration), 1);
    assert_eq!(faults.get(DescFaultKind::UnknownCode), 3);
    assert_eq!(faults.get(DescFaultKind::UnknownFlags), 1);
    assert_eq!(counters.endpoints[1].packets.returned, 1);
    assert_eq!(counters.endpoints[1].references, 7);
    assert!(holds(table, &kept) && !holds(table, &given));
    assert_eq!(lab.datapath().violations(datapath_lab::endpoint(1)).descriptors, 10);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
    assert!(capture::read(&written) == frames);
}

#[test]
fn an_observer_that_starts_anew_finds_none_of_its_old_references_good() {
    let frames = numbered(20);
    let (lab, _) = observed(&frames, ReferenceSpec { count: 8, lifetime_ms: 10_000 }, |_| {});
    let (mut hands, table) = observer(&lab);
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let shown = take(&mut hands, 8);
    lab.wait_until("all frames are out", |now| now.domains[0].packets.delivered == 20);
    drop(guest);
    lab.datapath().release(datapath_lab::endpoint(1)).unwrap();
    let (mut hands, _) = observer(&lab);
    assert!(shown.iter().all(|desc| !holds(table, desc)));
    hands.give([release(shown[3])]);
    let counters =
        lab.wait_until("the old one is refused", |now| now.endpoints[1].packets.faults.total() == 1);
    assert_eq!(counters.endpoints[1].packets.faults.get(DescFaultKind::ReferenceNotHeld), 1);
    lab.assert_conserved();
    lab.stop();
}
