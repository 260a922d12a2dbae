//! A chain of two virtual machines: real guests, real traffic, real deaths.

use std::net::Ipv4Addr;
use std::time::Duration;

use lab::child::Child;
use lab::flood::Flood;
use lab::process::ProcessId;
use lab::switch::Switch;
use lab::transfer::ping;
use rustix::process::Signal;
use vm_tests::config::{CABLES, CAPTURES, SWITCH_AND_DOMAIN};
use vm_tests::random::Random;
use vm_tests::scene::{assert_conserved, wait_all_home};
use vm_tests::{Scene, capture, config};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long traffic may take to flow on a machine that is busy.
const BUSY: Duration = Duration::from_secs(60);
const SERVER: &str = "10.1.0.3";
const VMS: [&str; 2] = ["first", "second"];

/// The two VMs in a row; `keys` are further lines for the endpoint of the first.
fn two_vms(ports: &str, keys: &str) -> String {
    [
        SWITCH_AND_DOMAIN,
        ports,
        &config::service(VMS[0], ""),
        &config::service(VMS[1], ""),
        &config::there_and_back(&VMS),
        &config::vm(VMS[0], VMS[0], "forwarder", keys),
        &config::vm(VMS[1], VMS[1], "forwarder", ""),
    ]
    .concat()
}

fn boot_both(switch: &mut Switch) -> Vec<Child> {
    let vms = VMS.iter().map(|vm| switch.boot(vm).expect("a boot")).collect();
    switch.wait_attached(&VMS, BOOT_LIMIT).unwrap_or_else(|err| panic!("{err}"));
    vms
}

/// Signals the QEMU process of a VM, which leads a group of its own.
fn signal_qemu(switch: &Switch, vm: &str, signal: Signal) {
    let status = switch.status().expect("a status");
    let qemu = status.vms.iter().find(|running| running.name == vm).expect("a running VM");
    ProcessId::of(qemu.pid).expect("a live QEMU").signal_group(signal);
}

#[test]
fn pings_and_a_file_cross_two_vms_without_a_copy() {
    let scene = Scene::new();
    let (client, server) = scene.hosts();
    let mut switch = scene.switch(&two_vms(CABLES, ""));
    let vms = boot_both(&mut switch);

    let pings = ping(&client, SERVER, 20, 50).unwrap();
    assert!(pings.answered >= 19, "{pings:?}");
    scene.assert_a_file_crosses(&client, &server, SERVER);

    let status = switch.status().unwrap();
    assert_eq!(status.copies_in_trusted_chain, 0);
    for vm in VMS {
        assert!(status.endpoint_of(vm).unwrap().returned > 10_000, "{:?}", status.endpoints);
    }
    assert_conserved(&status);
    drop(vms);
    switch.stop().unwrap();
}

#[test]
fn a_capture_comes_out_of_two_vms_byte_for_byte_and_in_order() {
    let scene = Scene::new();
    let frames = capture::udp_frames(20_000, 7, 43);
    capture::prepare(&scene, &frames);
    let mut switch = scene.switch(&two_vms(CAPTURES, ""));
    let vms = boot_both(&mut switch);
    let expected = frames.len() as u64;
    let status = switch
        .wait_for("the capture to be played", Duration::from_secs(120), |status| {
            status.port("server").is_some_and(|port| port.tx_packets == expected)
        })
        .unwrap_or_else(|err| panic!("{err}"));
    assert!(status.drops_by_reason().values().all(|packets| *packets == 0), "{:?}", status.drops);
    assert_conserved(&status);
    drop(vms);
    switch.stop().unwrap();
    assert!(capture::read(&scene.dir.join("out.pcap")) == frames, "the frames differ");
}

#[test]
fn killed_vms_lose_no_buffer_and_serve_again_after_a_boot() {
    let kills = if std::env::var_os("NETVM_LONG_TESTS").is_some() { 50 } else { 5 };
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&two_vms(CABLES, ""));
    let mut vms = boot_both(&mut switch);
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 5_000).unwrap();
    let mut random = Random::seeded(0x766d_6b69_6c6c);
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(200 + random.below(300)));
        let at = usize::try_from(random.below(2)).unwrap();
        signal_qemu(&switch, VMS[at], Signal::KILL);
        vms.remove(at).wait(Duration::from_secs(10)).unwrap();
        let status = wait_all_home(&mut switch, VMS[at]);
        assert_conserved(&status);
        vms.insert(at, switch.boot(VMS[at]).unwrap());
        switch.wait_attached(&VMS, BOOT_LIMIT).unwrap_or_else(|err| panic!("after kill {kill}: {err}"));
    }
    flood.wait_for_more(100, BUSY).unwrap_or_else(|err| panic!("{err}"));
    let count = flood.stop();
    assert_eq!((count.damaged, count.reordered), (0, 0), "{count:?}");
    assert_conserved(&switch.status().unwrap());
    drop(vms);
    switch.stop().unwrap();
}

#[test]
fn a_vm_that_is_paused_for_ten_seconds_goes_on_where_it_was() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&two_vms(CABLES, ""));
    let vms = boot_both(&mut switch);
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 2_000).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    signal_qemu(&switch, VMS[0], Signal::STOP);
    std::thread::sleep(Duration::from_secs(10));
    assert_conserved(&switch.status().unwrap());
    signal_qemu(&switch, VMS[0], Signal::CONT);
    // What it held when it was paused is at most its quota; these are more.
    flood.wait_for_more(2_000, BUSY).unwrap_or_else(|err| panic!("{err}"));
    let count = flood.stop();
    assert_eq!(count.damaged, 0, "{count:?}");
    let status = switch.status().unwrap();
    assert!(status.endpoints.iter().all(|endpoint| endpoint.epoch == 1), "{:?}", status.endpoints);
    assert_conserved(&status);
    drop(vms);
    switch.stop().unwrap();
}

/// The two VMs, the first of which runs a script besides its network function.
fn with_script(scene: &Scene, script: &str) -> String {
    std::fs::write(scene.dir.join("script"), script).expect("a script");
    two_vms(CABLES, "files = { \"/etc/netvm/boot.d/script\" = \"script\" }")
}

/// Waits until the first VM's endpoint has been attached `epochs` times, with promise 6 holding all the while.
fn wait_for_epoch(switch: &mut Switch, epochs: u32) {
    switch
        .wait_for(&format!("epoch {epochs}"), BOOT_LIMIT, |status| {
            assert_conserved(status);
            status.endpoint_of(VMS[0]).is_some_and(|endpoint| endpoint.epoch >= epochs)
        })
        .unwrap_or_else(|err| panic!("{err}"));
}

/// Asserts that packets cross the chain again.
fn assert_flowing(switch: &mut Switch, flood: Flood) {
    switch.wait_attached(&VMS, BOOT_LIMIT).unwrap_or_else(|err| panic!("{err}"));
    flood.wait_for_more(100, BUSY).unwrap_or_else(|err| panic!("{err}"));
    let count = flood.stop();
    assert_eq!((count.damaged, count.reordered), (0, 0), "{count:?}");
}

#[test]
fn functions_killed_inside_a_guest_give_their_buffers_back_by_the_word_of_their_supervisor() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    // One that has lived for two seconds is attached; killed before that, it takes no epoch with it.
    let config = with_script(
        &scene,
        "for kill in 1 2 3 4 5 6; do\n\
         pid=none\n\
         until [ \"$pid\" = \"$(pidof forwarder)\" ]; do pid=$(pidof forwarder || echo none); sleep 2; done\n\
         kill -9 $pid\n\
         done\n",
    );
    let mut switch = scene.switch(&config);
    let vms = boot_both(&mut switch);
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 5_000).unwrap();
    wait_for_epoch(&mut switch, 7);
    assert_flowing(&mut switch, flood);
    let status = switch.status().unwrap();
    assert_conserved(&status);
    assert!(status.dropped("lost_with_endpoint") > 0, "they died with packets: {:?}", status.drops);
    assert!(status.buffers.values().all(|buffers| buffers.quarantined == 0), "{:?}", status.buffers);
    drop(vms);
    switch.stop().unwrap();
}

#[test]
fn a_guest_that_reboots_under_traffic_is_served_again() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&with_script(&scene, "sleep 4; reboot -f\n"));
    let vms = boot_both(&mut switch);
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 2_000).unwrap();
    wait_for_epoch(&mut switch, 3);
    assert_flowing(&mut switch, flood);
    assert_conserved(&switch.status().unwrap());
    drop(vms);
    switch.stop().unwrap();
}
