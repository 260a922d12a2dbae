//! An observer: what it copies, what it is told when a reference has ended, and what it gives back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use guest_netlib::holding::{Handler, SHOWN_COUNTERS};
use guest_netlib::{Device, Endpoint, Expired, Packet, PollError, Run, RunError, View};
use shm_ring::desc::{Desc, RELEASE};
use shm_ring::layout::GuestCounter;
use support::{INGRESS_PORT, Memory, REFERENCES, TestHost, loan, pci_folder, reference};

/// What this process may do in each of its mappings of a file, sorted.
fn rights_of_mappings(memory: &Memory) -> Vec<String> {
    let inode = rustix::fs::fstat(&memory.fd).unwrap().st_ino.to_string();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_file = maps.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_file = of_file.filter(|fields| fields.get(4) == Some(&inode.as_str()));
    let mut rights: Vec<String> = of_file.map(|fields| fields[1].to_owned()).collect();
    rights.sort();
    rights
}

fn released(desc: Desc) -> Desc {
    Desc { code: RELEASE, ..desc }
}

#[test]
fn a_view_copies_what_was_shown_and_goes_back_as_it_came() {
    let host = TestHost::observed(&[0]);
    let endpoint = Endpoint::attach(&host.observer(), 0).unwrap();
    assert!(endpoint.observes());
    let mut lcore = host.lcore(0);
    let frame: Vec<u8> = (0..201u8).collect();
    lcore.write_frame(7, &frame);
    // Where the chain has moved the data: aligned to nothing.
    lcore.refer(Desc { data_offset_bytes: 131, data_len_bytes: 198, ..loan(7, 0) }, 3);
    lcore.publish();
    let pair = &endpoint.queue_pairs()[0];
    let mut seen = Vec::new();
    let views = pair.poll_views(|view| {
        assert_eq!((view.len(), view.ingress_port(), view.holds()), (198, INGRESS_PORT, true));
        let mut copy = [0; 250];
        let copied = view.copy_out(&mut copy).unwrap();
        seen.extend_from_slice(&copy[..copied]);
        let mut start = [0; 5];
        assert_eq!((view.copy_out(&mut start), start), (Ok(5), [3, 4, 5, 6, 7]));
    });
    assert_eq!((views, &seen[..]), (Ok(1), &frame[3..]));
    let shown = reference(Desc { data_offset_bytes: 131, data_len_bytes: 198, ..loan(7, 0) }, 3);
    assert_eq!(lcore.returned(), [released(shown)]);
    let counters = endpoint.counters();
    assert_eq!((counters.received, counters.released, counters.sent, counters.dropped), (1, 1, 0, 0));
}

#[test]
fn an_ended_reference_says_so_and_goes_back_all_the_same() {
    let host = TestHost::observed(&[0]);
    let endpoint = Endpoint::attach(&host.observer(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.refer(loan(7, 64), 0);
    lcore.end(loan(7, 64), 0);
    lcore.publish();
    let seen = endpoint.queue_pairs()[0].poll_views(|view| {
        assert_eq!(view.copy_out(&mut [0; 64]), Err(Expired));
    });
    assert_eq!(seen, Ok(1));
    assert_eq!(lcore.returned(), [released(reference(loan(7, 64), 0))]);
}

#[test]
fn an_observer_maps_nothing_that_it_could_write() {
    let host = TestHost::observed(&[0]);
    let _device = host.observer();
    // The host of this test maps the region too, to write it.
    assert_eq!(rights_of_mappings(&host.areas().region), ["r--s", "rw-s"]);
}

#[test]
fn an_observer_in_a_guest_maps_the_region_read_only_whatever_its_file_allows() {
    let host = TestHost::observed(&[0]);
    let folder = tempfile::tempdir().unwrap();
    pci_folder(folder.path(), &[&host.areas().region, &host.areas().control]);
    let options = guest_netlib::Options {
        pci_devices: folder.path().to_owned(),
        observes: true,
        ..guest_netlib::Options::default()
    };
    let device = Device::find(&options).unwrap();
    assert!(device.observes());
    assert_eq!(rights_of_mappings(&host.areas().region), ["r--s", "rw-s"]);
}

#[test]
fn a_program_that_wants_packets_is_refused_by_name() {
    let host = TestHost::observed(&[0]);
    let refused = Device::find(&host.options()).unwrap_err().to_string();
    assert!(refused.contains("only observe its domain") && refused.contains("monitor"), "{refused}");
    // One that said it could observe, and polls for packets.
    let mut endpoint = Endpoint::attach(&host.observer(), 0).unwrap();
    let ran = endpoint.run(&Run::default(), |packet| packet.next());
    assert!(matches!(ran, Err(RunError::Observes { .. })), "{ran:?}");
}

#[test]
fn a_packet_lent_to_an_observer_is_a_fault_of_the_switch() {
    let host = TestHost::observed(&[0]);
    let endpoint = Endpoint::attach(&host.observer(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(1, 1);
    let pair = &endpoint.queue_pairs()[0];
    assert_eq!(pair.poll_views(|view| panic!("{view:?}")), Ok(0));
    assert!(matches!(pair.poll_views(|_| ()), Err(PollError::Descriptor { kind: 1, .. })));
    // Nor does the polling for packets take one: there is nothing that it could write.
    let mut burst = guest_netlib::Burst::new();
    assert!(pair.poll(&mut burst).is_err());
}

#[test]
fn a_reference_beyond_the_region_is_a_fault_of_the_switch() {
    let host = TestHost::observed(&[0]);
    let endpoint = Endpoint::attach(&host.observer(), 0).unwrap();
    let mut lcore = host.lcore(0);
    let count = host.areas().geometry.buffer_count;
    lcore.refer(Desc { buffer_index: count, ..loan(1, 64) }, 0);
    lcore.refer(Desc { data_len_bytes: 2368, ..loan(1, 64) }, 1);
    lcore.publish();
    let pair = &endpoint.queue_pairs()[0];
    assert_eq!(pair.poll_views(|view| panic!("{view:?}")), Ok(0));
    assert!(pair.poll_views(|_| ()).is_err());
}

/// Keeps views back until a tick, and counts.
#[derive(Default)]
struct Slow<'q> {
    views: Vec<View<'q>>,
    bytes: u64,
}

impl<'q> Handler<'q> for Slow<'q> {
    fn packet(&mut self, packet: Packet<'q>, _now: Duration) {
        panic!("{packet:?}");
    }
    fn view(&mut self, view: View<'q>, _now: Duration) {
        self.bytes += view.len() as u64;
        self.views.push(view);
    }
    fn tick(&mut self, _now: Duration) {
        self.views.clear();
    }
    fn shown(&self) -> [u64; SHOWN_COUNTERS] {
        [self.bytes, 0, 0, 0, 0, 0, 0, 0]
    }
}

#[test]
fn a_handler_may_keep_views_and_gives_each_back_once() {
    let host = TestHost::observed(&[0, 1]);
    let mut endpoint = Endpoint::attach(&host.observer(), 0).unwrap();
    let mut lcores = [host.lcore(0), host.lcore(1)];
    for lcore in &mut lcores {
        for slot in 0..REFERENCES {
            lcore.refer(loan(slot.into(), 64), slot);
        }
        lcore.publish();
    }
    let all = 2 * u64::from(REFERENCES);
    let how = Run { packets_max: Some(all), ..Run::default() };
    let report = endpoint.run_holding(&how, |attach| attach.poll(&mut Slow::default())).unwrap();
    assert_eq!((report.counters.received, report.counters.released), (all, all));
    // What the handler kept to the last goes back when it is dropped, and is shown with the next poll.
    endpoint.queue_pairs().iter().for_each(guest_netlib::QueuePair::flush);
    for lcore in &mut lcores {
        let mut back = lcore.returned();
        back.sort_by_key(|desc| desc.aux);
        let sent = (0..REFERENCES).map(|slot| released(reference(loan(slot.into(), 64), slot)));
        assert!(back.into_iter().eq(sent));
    }
    drop(endpoint);
    host.wait_until("the counters", || {
        host.counters()[GuestCounter::Received as usize] == all
            && host.counters()[GuestCounter::App as usize] == all * 64
    });
}

#[test]
fn a_loop_over_views_ends_at_its_limit() {
    let host = TestHost::observed(&[0]);
    let mut endpoint = Endpoint::attach(&host.observer(), 0).unwrap();
    let mut lcore = host.lcore(0);
    for slot in 0..5 {
        lcore.write_frame(slot.into(), &[u8::try_from(slot).unwrap(); 64]);
        lcore.refer(loan(slot.into(), 64), slot);
    }
    lcore.publish();
    let mut seen = Vec::new();
    let how = Run { packets_max: Some(3), ..Run::default() };
    let report = endpoint.run_views(&how, |view| {
        let mut copy = [0; 64];
        assert_eq!(view.copy_out(&mut copy), Ok(64));
        seen.push(copy[63]);
    });
    assert_eq!((report.unwrap().counters.received, seen), (3, vec![0, 1, 2]));
}
