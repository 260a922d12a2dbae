//! How a network function comes, goes, and comes back.

mod support;

use std::time::Duration;

use guest_netlib::{
    AttachError, Burst, Device, DeviceError, Endpoint, Options, PciError, PollError, ProcessError,
};
use shm_ring::area::AreaError;
use shm_ring::attach::{GuestEvent, Refusal};
use shm_ring::desc::Verdict;
use support::{Areas, Memory, REGION_BYTES, TestHost, empty_loan, endpoint, pci_folder};

#[test]
fn an_attach_confirms_the_epoch_that_the_switch_chose() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    assert_eq!(endpoint.epoch(), 41);
    assert_eq!(endpoint.service_name(), "forwarder");
    host.wait_until("the confirmation", || host.has_seen(GuestEvent::Confirmed(41)));
}

#[test]
fn leaving_gives_back_everything_and_then_says_so() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 40);
    lcore.lend_desc(empty_loan(50));
    lcore.publish();
    {
        let mut burst = Burst::new();
        endpoint.queue_pairs()[0].poll_up_to(&mut burst, 3).unwrap();
        burst.next().unwrap().next();
    }
    drop(endpoint);
    host.wait_until("the goodbye", || host.has_seen(GuestEvent::Left(41)));
    let mut back = lcore.returned();
    assert_eq!(back.len(), 41);
    assert_eq!(back.pop().unwrap().code, Verdict::ReturnEmpty as u8);
    assert_eq!(back[0].code, Verdict::Next as u8);
    assert!(back[1..].iter().all(|desc| desc.code == Verdict::Drop as u8));
}

#[test]
fn the_connection_ends_with_the_last_owner_of_the_memory() {
    let host = TestHost::new(&[0]);
    let device = host.device();
    let endpoint = Endpoint::attach(&device, 0).unwrap();
    drop(device);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(host.ended_connections(), 0);
    drop(endpoint);
    host.wait_until("the end of the connection", || host.ended_connections() == 1);
}

#[test]
fn a_detached_endpoint_attaches_again_with_a_new_epoch() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    host.wait_until("the confirmation", || host.has_seen(GuestEvent::Confirmed(41)));
    let mut lcore = host.lcore(0);
    lcore.lend(0, 3);
    endpoint.queue_pairs()[0].poll(&mut Burst::new()).unwrap();
    host.wait_until("the detach", || {
        host.detach(0);
        let polled = endpoint.queue_pairs()[0].poll(&mut Burst::new());
        polled == Err(PollError::Detached { ours: 41 })
    });
    endpoint.attach_anew().unwrap();
    assert_eq!((endpoint.epoch(), endpoint.attaches()), (42, 2));
    assert!(host.has_seen(GuestEvent::Left(41)));
    let mut lcore = host.lcore(0);
    lcore.lend(7, 1);
    let mut burst = Burst::new();
    assert_eq!(endpoint.queue_pairs()[0].poll(&mut burst).unwrap(), 1);
    burst.next().unwrap().next();
    drop(burst);
    assert_eq!(lcore.returned()[0].buffer_index, 7);
    assert_eq!(endpoint.counters().received, 4, "counters go on over attaches");
}

#[test]
fn a_refusal_is_shown_with_its_reason() {
    let host = TestHost::new(&[0]);
    host.refuse(Some(Refusal::Quarantined));
    let err = Endpoint::attach(&host.device(), 0).unwrap_err();
    assert_eq!(
        err.to_string(),
        "the switch refuses endpoint 0: the endpoint is quarantined; check `netvm status`"
    );
}

#[test]
fn too_often_is_asked_again_after_a_pause() {
    let host = TestHost::new(&[0]);
    host.refuse(Some(Refusal::TooOften));
    assert_eq!(Endpoint::attach(&host.device(), 0).unwrap().epoch(), 41);
}

#[test]
fn a_silent_switch_ends_in_a_timeout() {
    let host = TestHost::new(&[0]);
    host.silence(true);
    let err = Endpoint::attach_within(&host.device(), 0, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(err, AttachError::TimedOut { position: 0, .. }), "{err}");
    host.silence(false);
    Endpoint::attach(&host.device(), 0).unwrap();
}

#[test]
fn an_endpoint_has_one_holder_at_a_time() {
    let host = TestHost::new(&[0]);
    let device = host.device();
    let first = Endpoint::attach(&device, 0).unwrap();
    let err = Endpoint::attach(&device, 0).unwrap_err();
    assert!(matches!(err, AttachError::InUse { position: 0 }), "{err}");
    drop(first);
    Endpoint::attach(&device, 0).unwrap();
}

#[test]
fn an_unknown_endpoint_is_refused_with_the_number_there_are() {
    let host = TestHost::new(&[0]);
    let err = Endpoint::attach(&host.device(), 1).unwrap_err();
    assert_eq!(
        err.to_string(),
        "no endpoint 1: the switch's config gives this VM or process 1, counted from 0"
    );
}

#[test]
fn the_switch_refuses_an_unknown_name_in_its_own_words() {
    let host = TestHost::new(&[0]);
    let err = Device::find(&Options::process(&host.socket, "fwd9")).unwrap_err();
    assert_eq!(err.to_string(), "the switch refuses process \"fwd9\": no process \"fwd9\"");
}

#[test]
fn no_switch_at_the_socket_is_said_with_what_to_check() {
    let err = Device::find(&Options::process("/nonexistent/endpoint.sock", "fwd0")).unwrap_err();
    assert!(matches!(err, DeviceError::Process(ProcessError::Connect { .. })));
    assert!(err.to_string().contains("check that `netvm run` is up"), "{err}");
    let nameless = Options { name: None, ..Options::process("/nonexistent/endpoint.sock", "") };
    assert!(matches!(Device::find(&nameless), Err(DeviceError::NameMissing)));
}

/// Memory of this shape, served by a host; the device must refuse it.
fn refused(spoil: impl FnOnce(&Areas)) -> DeviceError {
    let areas = Areas::new(vec![endpoint(&[0])]);
    spoil(&areas);
    let host = TestHost::serving(areas);
    Device::find(&host.options()).expect_err("spoiled memory")
}

#[test]
fn another_layout_version_is_refused_naming_both() {
    let err = refused(|areas| areas.control.write(8, &9u16.to_le_bytes()));
    let text = err.to_string();
    assert!(text.contains("version 9") && text.contains("version 1"), "{text}");
}

#[test]
fn garbage_is_no_control_area() {
    let err = refused(|areas| areas.control.write(0, &[0x5a; 4096]));
    assert!(matches!(err, DeviceError::Control(AreaError::Magic { .. })), "{err}");
    let err = refused(|areas| areas.control.write(16, &[0xff; 4000]));
    assert!(matches!(err, DeviceError::Control(_)), "{err}");
}

#[test]
fn the_region_of_another_domain_is_refused_naming_both_cookies() {
    let err = refused(|areas| areas.region.write(16, &0xdead_u64.to_le_bytes()));
    assert!(matches!(err, DeviceError::Region(AreaError::Cookie { found: 0xdead, .. })), "{err}");
    let err = refused(|areas| areas.region.write(0, &[0; 8]));
    assert!(matches!(err, DeviceError::Region(AreaError::Magic { .. })), "{err}");
}

fn guest_options(folder: &std::path::Path) -> Options {
    Options { pci_devices: folder.to_owned(), ..Options::default() }
}

#[test]
fn a_guest_finds_control_area_and_region_among_its_pci_devices() {
    let host = TestHost::new(&[0]);
    let (folder, other, foreign) =
        (tempfile::tempdir().unwrap(), Memory::new(65536), Memory::new(REGION_BYTES));
    foreign.write(0, &host.areas().region.read(0, 64));
    foreign.write(16, &1u64.to_le_bytes());
    let areas = host.areas();
    let devices = pci_folder(folder.path(), &[&other, &foreign, &areas.region, &areas.control]);
    let device = Device::find(&guest_options(folder.path())).unwrap();
    assert_eq!(std::fs::read_to_string(devices[3].join("enable")).unwrap(), "1");
    let endpoint = Endpoint::attach(&device, 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(3, 1);
    let mut burst = Burst::new();
    assert_eq!(endpoint.queue_pairs()[0].poll(&mut burst).unwrap(), 1);
    assert_eq!(burst.next().unwrap().data(), [3; 64]);
}

#[test]
fn two_programs_of_a_guest_cannot_attach_to_one_endpoint() {
    let host = TestHost::new(&[0]);
    let folder = tempfile::tempdir().unwrap();
    pci_folder(folder.path(), &[&host.areas().region, &host.areas().control]);
    let find = || Device::find(&guest_options(folder.path())).unwrap();
    let (one, other) = (find(), find());
    let held = Endpoint::attach(&one, 0).unwrap();
    let err = Endpoint::attach(&other, 0).unwrap_err();
    assert!(matches!(err, AttachError::InUse { position: 0 }), "{err}");
    drop(held);
    Endpoint::attach(&other, 0).unwrap();
}

#[test]
fn a_guest_without_the_devices_is_told_what_to_check() {
    let folder = tempfile::tempdir().unwrap();
    let err = Device::find(&guest_options(folder.path())).unwrap_err();
    assert!(matches!(err, DeviceError::Pci(PciError::Missing { seen: 0, .. })));
    assert!(err.to_string().contains("started by `netvm boot`"), "{err}");
    let areas = Areas::new(vec![endpoint(&[0])]);
    pci_folder(folder.path(), &[&areas.control]);
    let err = Device::find(&guest_options(folder.path())).unwrap_err();
    assert!(err.to_string().starts_with("no region among the 1 shared-memory devices"), "{err}");
}

#[test]
fn two_control_areas_are_one_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let areas = Areas::new(vec![endpoint(&[0])]);
    pci_folder(folder.path(), &[&areas.control, &areas.control]);
    let err = Device::find(&guest_options(folder.path())).unwrap_err();
    assert!(matches!(err, DeviceError::Pci(PciError::TwoControlAreas { .. })), "{err}");
}

#[test]
fn a_broken_counter_of_the_switch_is_an_error_with_both_figures() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 1);
    let areas = host.areas();
    let layout_produced = {
        // The only 1 in the host's counters: `produced` of the ring towards the guest.
        let bytes = areas.control.read(0, areas.control.bytes);
        (0..bytes.len())
            .step_by(128)
            .rev()
            .find(|&at| bytes[at..at + 4] == 1u32.to_le_bytes() && bytes[at + 4..at + 128] == [0; 124])
    };
    areas.control.write(layout_produced.unwrap(), &1000u32.to_le_bytes());
    let err = endpoint.queue_pairs()[0].poll(&mut Burst::new()).unwrap_err();
    assert!(err.to_string().contains("peer claims 1000 descriptors pending in a ring of 64 slots"), "{err}");
}
