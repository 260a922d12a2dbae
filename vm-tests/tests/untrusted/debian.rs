//! An unmodified Debian 12, as it comes from its packages: its own kernel, its own systemd.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::namespace::Namespace;
use lab::switch::Switch;
use lab::transfer::ping;
use vm_tests::Scene;
use vm_tests::config::{self, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;

use crate::measurement::{self, Measured, assert_measures, is_served};
use crate::{DEBIAN, DEBIAN_MAC, UPLINK, dhcp_server, qemu, start};

const BOOT_LIMIT: Duration = Duration::from_secs(400);
/// Bytes of a measurement that outlives its switch: some of them before, most behind.
const OUTLIVING_BYTES: u64 = 128 << 20;
/// More than move before a guest is reset.
const ENDLESS_BYTES: u64 = 1 << 40;

/// An unmodified Debian behind this device of a port, whose packets have `mtu_bytes`, and with the forwarder between
/// them if that is wanted. Its own NIC takes 9000 bytes always.
fn debian(folder: &str, device: &str, mtu_bytes: u16, through_forwarder: bool) -> String {
    let keys = "disk = \"DIR/root.ext4\"\nmemory_mib = 768\nkernel_args = \"root=/dev/vda rw net.ifnames=0\"\n\
        qemu_extra = [\"-monitor\", \"unix:DIR/monitor,server=on,wait=off\"]\n";
    let nic = config::nic("eth0", "out", &format!("mtu_bytes = 9000\nmac = \"{DEBIAN_MAC}\""));
    let own = config::untrusted_vm("web0", keys, &nic)
        .replace("KERNEL", &format!("{folder}/vmlinuz"))
        .replace("INITRAMFS", &format!("{folder}/initrd.img"));
    let path: &[&str] = if through_forwarder { &["forwarder"] } else { &[] };
    let forwarder = [config::service("forwarder", ""), config::process("fwd0", "forwarder", "")].concat();
    [
        SWITCH_AND_DOMAIN.replace("region_mib = 16", "region_mib = 32\nbuffer_stride_bytes = 9280"),
        UPLINK
            .replace("net_af_packet0,iface=IDc", device)
            .replace("\"in\"", &format!("\"in\"\nmtu_bytes = {mtu_bytes}")),
        config::chain("in", path, "web0.eth0"),
        config::chain("out", path, "uplink"),
        own,
        if through_forwarder { forwarder } else { String::new() },
    ]
    .concat()
}

/// Waits until Debian answers, and its iperf3 server too, which is among the last of its services.
fn wait_until_up(switch: &mut Switch, host: &Namespace) {
    let started = Instant::now();
    while ping(host, DEBIAN, 1, 200).expect("a ping").answered == 0 || !is_served(host) {
        assert!(started.elapsed() < BOOT_LIMIT, "no answer from {DEBIAN}");
        switch.child().check_alive().unwrap_or_else(|err| panic!("{err}"));
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("iperf3 answers {} s later", started.elapsed().as_secs());
}

/// Presses the reset button of the VM, and waits until its driver is gone.
fn reset(scene: &Scene, switch: &mut Switch) {
    let mut monitor = UnixStream::connect(scene.dir.join("monitor")).expect("QEMU's monitor");
    monitor.write_all(b"system_reset\n").expect("a monitor that listens");
    let gone = switch.wait_for("the driver to be gone", Duration::from_secs(60), |status| {
        status.port("web0.eth0").and_then(|port| port.nic.as_ref()).is_some_and(|nic| nic.queue_pairs == 0)
    });
    gone.unwrap_or_else(|err| panic!("{err}"));
}

/// Everything that came in and went out was accounted for, and the guest was refused nothing.
fn assert_faultless(switch: &Switch) {
    let status = switch.status().expect("a status");
    let port = status.port("web0.eth0").expect("a port");
    assert_eq!(port.nic.as_ref().expect("a NIC").faults.values().sum::<u64>(), 0, "{port:?}");
    assert_conserved(&status);
}

#[test]
#[ignore = "needs a Debian root, which takes minutes to make: cargo xtask test --long virtual"]
fn an_unmodified_debian_gets_its_address_by_dhcp_and_outlives_its_switch() {
    let folder = std::env::var(lab::artifacts::DEBIAN_DIR_VAR).expect("a Debian: cargo xtask test --long");
    let scene = Scene::new();
    // It is written to; the copy takes room for what is in it only.
    let mut copy = Command::new("cp");
    copy.arg("--sparse=always").arg(format!("{folder}/root.ext4")).arg(scene.dir.join("root.ext4"));
    lab::child::run_command(copy).unwrap_or_else(|err| panic!("{err}"));
    let host = scene.host("c", "10.1.0.2/24", None);
    let _dhcp = dhcp_server(&scene, &host);
    let cable = "net_af_packet0,iface=IDc";
    let mut switch = scene.switch(&debian(&folder, cable, 1500, false));
    let vm = start(&scene, &mut switch, "web0");
    wait_until_up(&mut switch, &host);
    assert!(ping(&host, DEBIAN, 20, 100).unwrap().answered >= 19);
    assert_measures(&host, "through the switch, MTU 1500");
    let process = qemu(&mut switch);

    // The switch dies under a measurement, and comes back with a trusted service in the chain.
    let mut measurement = measurement::start(&scene, &host, &mut switch, OUTLIVING_BYTES);
    switch.kill().unwrap();
    measurement.check_alive().unwrap_or_else(|err| panic!("it was over before the switch died: {err}"));
    std::thread::sleep(Duration::from_secs(2));
    let mut switch = scene.switch(&debian(&folder, cable, 1500, true));
    let forwarder = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    let ended = measurement.wait(Duration::from_secs(300)).unwrap_or_else(|err| panic!("{err}"));
    assert!(ended.success(), "{ended}");
    let Measured { bytes, mbit_per_second } = Measured::read(measurement.log());
    println!("with the switch away for two seconds: {mbit_per_second:.0} Mbit/s");
    assert!(bytes >= OUTLIVING_BYTES / 2, "{bytes} of {OUTLIVING_BYTES} bytes");
    assert_eq!(qemu(&mut switch), process);
    assert_measures(&host, "through a trusted chain, MTU 1500");
    assert!(switch.status().unwrap().endpoint_of("fwd0").unwrap().returned > 10_000);

    // The guest starts over under a measurement, which ends with it. The switch goes on.
    let cut_off = measurement::start(&scene, &host, &mut switch, ENDLESS_BYTES);
    reset(&scene, &mut switch);
    cut_off.kill().unwrap();
    wait_until_up(&mut switch, &host);
    assert_measures(&host, "after a reset of the guest");
    assert_eq!(qemu(&mut switch), process);
    assert_faultless(&switch);
    drop(forwarder);
    switch.stop().unwrap();

    // Packet sockets of DPDK take no long frames, libpcap does: the same VM on other switches.
    let far = Namespace::create(&format!("nv-{}t", scene.id), &scene.journal).unwrap();
    far.cable(&format!("{}t", scene.id), "10.1.0.2/24", 9000).unwrap();
    // A cable that was out makes systemd-networkd ask for its address again.
    let _dhcp_too = dhcp_server(&scene, &far);
    for through_forwarder in [false, true] {
        let long = "net_pcap0,rx_iface_in=IDt,tx_iface=IDt";
        let mut switch = scene.switch(&debian(&folder, long, 9000, through_forwarder));
        let forwarder = through_forwarder.then(|| switch.start_process("fwd0", "forwarder", &[]).unwrap());
        wait_until_up(&mut switch, &far);
        far.run("ping", &["-c", "1", "-M", "do", "-s", "8972", DEBIAN]).expect("a long ping");
        let what = if through_forwarder { "through a trusted chain" } else { "through the switch" };
        assert_measures(&far, &format!("{what}, MTU 9000"));
        assert_faultless(&switch);
        assert_eq!(qemu(&mut switch), process);
        drop(forwarder);
        switch.stop().unwrap();
    }
    drop(vm);
}
