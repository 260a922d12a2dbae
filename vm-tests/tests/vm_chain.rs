//! A chain of two virtual machines: real guests, real traffic, real deaths.

use std::net::Ipv4Addr;
use std::time::Duration;

use lab::child::Child;
use lab::flood::Flood;
use lab::namespace::Namespace;
use lab::process::ProcessId;
use lab::switch::Switch;
use lab::transfer::{Download, HttpServer, Payload, ping};
use rustix::process::Signal;
use vm_tests::random::Random;
use vm_tests::scene::{assert_conserved, wait_all_home};
use vm_tests::{Scene, capture};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
const SERVER: &str = "10.1.0.3";
const VMS: [&str; 2] = ["first", "second"];

const SWITCH_AND_DOMAIN: &str = r#"
[switch]
name = "NAME"
lcores = [0]

[[domain]]
name = "blue"
region_mib = 16
pages = "hugetlb-or-plain"
"#;

const CABLES: &str = r#"
[[port]]
name = "client"
device = "net_af_packet0,iface=IDc"
domain = "blue"
chain = "upstream"

[[port]]
name = "server"
device = "net_af_packet1,iface=IDs"
domain = "blue"
chain = "downstream"
"#;

const CAPTURES: &str = r#"
[[port]]
name = "client"
device = "net_pcap0,rx_pcap=DIR/in.pcap,tx_pcap=DIR/unused.pcap"
domain = "blue"
chain = "upstream"
paced = true

[[port]]
name = "server"
device = "net_pcap1,rx_pcap=DIR/none.pcap,tx_pcap=DIR/out.pcap"
domain = "blue"
chain = "downstream"
"#;

const TWO_VMS: &str = r#"
[[service]]
name = "first"

[[service]]
name = "second"

[[chain]]
name = "upstream"
path = ["first", "second"]
egress = "server"

[[chain]]
name = "downstream"
path = ["second", "first"]
egress = "client"

[[vm]]
name = "first"
domain = "blue"
kernel = "KERNEL"
initramfs = "INITRAMFS"

[[vm.endpoint]]
service = "first"
nf = "forwarder"
quota_buffers = 512
ring_slots = 512

[[vm]]
name = "second"
domain = "blue"
kernel = "KERNEL"
initramfs = "INITRAMFS"

[[vm.endpoint]]
service = "second"
nf = "forwarder"
quota_buffers = 512
ring_slots = 512
"#;

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

fn hosts(scene: &Scene) -> (Namespace, Namespace) {
    (scene.host("c", "10.1.0.2/24", None), scene.host("s", "10.1.0.3/24", None))
}

#[test]
fn pings_and_a_file_cross_two_vms_without_a_copy() {
    let scene = Scene::new();
    let (client, server) = hosts(&scene);
    let mut switch = scene.switch(&[SWITCH_AND_DOMAIN, CABLES, TWO_VMS].concat());
    let vms = boot_both(&mut switch);

    let pings = ping(&client, SERVER, 20, 50).unwrap();
    assert!(pings.answered >= 19, "{pings:?}");
    let payload = Payload::write(&scene.dir, "payload.bin", 16 << 20, 2).unwrap();
    let _http = HttpServer::start(&server, &scene.dir, &scene.dir, &scene.journal).unwrap();
    let into = scene.dir.join("received.bin");
    let limit = Duration::from_secs(120);
    let download =
        Download::start(&client, SERVER, &payload.name, &into, limit, &scene.dir, &scene.journal).unwrap();
    let downloaded = download.finish(limit).unwrap();
    assert_eq!((downloaded.bytes, downloaded.sha256), (payload.bytes, payload.sha256));

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
    capture::write(&scene.dir.join("in.pcap"), &frames);
    capture::write(&scene.dir.join("none.pcap"), &[]);
    let mut switch = scene.switch(&[SWITCH_AND_DOMAIN, CAPTURES, TWO_VMS].concat());
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
    let (client, server) = hosts(&scene);
    let mut switch = scene.switch(&[SWITCH_AND_DOMAIN, CABLES, TWO_VMS].concat());
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
    let before = flood.count().received;
    std::thread::sleep(Duration::from_secs(1));
    let count = flood.stop();
    assert!(count.received > before, "the chain goes on: {count:?}");
    assert_eq!((count.damaged, count.reordered), (0, 0), "{count:?}");
    assert_conserved(&switch.status().unwrap());
    drop(vms);
    switch.stop().unwrap();
}

#[test]
fn a_vm_that_is_paused_for_ten_seconds_goes_on_where_it_was() {
    let scene = Scene::new();
    let (client, server) = hosts(&scene);
    let mut switch = scene.switch(&[SWITCH_AND_DOMAIN, CABLES, TWO_VMS].concat());
    let vms = boot_both(&mut switch);
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 2_000).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    signal_qemu(&switch, VMS[0], Signal::STOP);
    std::thread::sleep(Duration::from_secs(10));
    assert_conserved(&switch.status().unwrap());
    signal_qemu(&switch, VMS[0], Signal::CONT);
    std::thread::sleep(Duration::from_secs(1));
    let before = flood.count().received;
    std::thread::sleep(Duration::from_secs(1));
    let count = flood.stop();
    assert!(count.received > before + 200, "packets flow again: {count:?}, {before} before");
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
    let files = "nf = \"forwarder\"\nfiles = { \"/etc/netvm/boot.d/script\" = \"script\" }";
    [SWITCH_AND_DOMAIN, CABLES, &TWO_VMS.replacen("nf = \"forwarder\"", files, 1)].concat()
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
    let before = flood.count().received;
    std::thread::sleep(Duration::from_millis(1500));
    let count = flood.stop();
    assert!(count.received > before, "the chain goes on: {count:?}");
    assert_eq!((count.damaged, count.reordered), (0, 0), "{count:?}");
}

#[test]
fn functions_killed_inside_a_guest_give_their_buffers_back_by_the_word_of_their_supervisor() {
    let scene = Scene::new();
    let (client, server) = hosts(&scene);
    let config = with_script(
        &scene,
        "for kill in 1 2 3 4 5 6; do\nsleep 1; until killall -9 forwarder; do sleep 0.1; done\ndone\n",
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
    let (client, server) = hosts(&scene);
    let mut switch = scene.switch(&with_script(&scene, "sleep 4; reboot -f\n"));
    let vms = boot_both(&mut switch);
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 2_000).unwrap();
    wait_for_epoch(&mut switch, 3);
    assert_flowing(&mut switch, flood);
    assert_conserved(&switch.status().unwrap());
    drop(vms);
    switch.stop().unwrap();
}
