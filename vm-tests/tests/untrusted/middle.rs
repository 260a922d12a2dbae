//! Untrusted VMs in the middle of a chain: copied in by one NIC, copied out by another; and guests in huge pages.

use std::fs;
use std::process::Command;

use lab::hugepages;
use lab::journal::Change;
use lab::transfer::{HttpServer, Payload, ping};
use vm_tests::Scene;
use vm_tests::config::{self, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;

use crate::{BOOT_LIMIT, TRANSFER_LIMIT, UPLINK, assert_downloads, start, vm_order};

/// Huge pages for both guests, with 128 MiB each, and for the switch.
const HUGEPAGES: u64 = 96 + 2 * 64;

/// Through a router to a server and back; packets pass a trusted service on both sides of the router.
const CHAINS: [(&str, &[&str], &str); 2] = [
    ("in", &["forwarder", "nat0.in>out", "forwarder"], "web0.eth0"),
    ("back", &["forwarder", "nat0.out>in", "forwarder"], "uplink"),
];

/// The router: its memory is a sealed file of huge pages.
const ROUTER: &str = "ip address add 10.1.0.1/24 dev eth0\nip address add 10.2.0.1/24 dev eth1\n\
    ip link set eth0 up\nip link set eth1 up\necho 1 > /proc/sys/net/ipv4/ip_forward\n\
    echo \"netvm-guest: routes\"\n";

/// The server: its memory is a file of huge pages with a name, and it leaves checksums to the switch.
const SERVER: &str = "ip address add 10.2.0.9/24 dev eth0\nip link set eth0 up\n\
    ip route add default via 10.2.0.1\necho \"netvm-guest: serves\"\n\
    until timeout 30 wget -q -O /tmp/fetched http://10.1.0.2:8080/upload.bin; do sleep 0.5; done\n\
    echo \"netvm-guest: fetched $(sha256sum < /tmp/fetched | cut -d' ' -f1)\"\n";

/// A folder of huge pages, which goes with the scene.
fn huge_pages(scene: &Scene) {
    let folder = scene.dir.join("huge");
    fs::create_dir(&folder).expect("a folder");
    scene.journal.note(Change::Mount(folder.clone())).expect("a note");
    let mut mount = Command::new("mount");
    mount.args(["-t", "hugetlbfs", "-o", "pagesize=2M", "none"]).arg(&folder);
    lab::child::run_command(mount).unwrap_or_else(|err| panic!("{err}"));
}

fn vm(scene: &Scene, name: &str, script: &str, keys: &str, nics: &str) -> String {
    fs::write(scene.dir.join(name), script).expect("a script");
    let files = format!(
        "files = {{ \"/etc/netvm/boot.d/script\" = \"{name}\", \"/www/payload.bin\" = \"payload.bin\" }}\n\
         memory_mib = 128\n{keys}"
    );
    config::untrusted_vm(name, &files, nics)
}

#[test]
fn guests_in_huge_pages_route_and_serve_between_trusted_services() {
    let scene = Scene::new();
    hugepages::ensure_free(HUGEPAGES, &scene.journal).expect("hugepages");
    huge_pages(&scene);
    let host = scene.host("c", "10.1.0.2/24", Some("10.1.0.1"));
    let payload = Payload::write(&scene.dir, "payload.bin", 4 << 20, 3).unwrap();
    let upload = Payload::write(&scene.dir, "upload.bin", 4 << 20, 5).unwrap();
    let _http = HttpServer::start(&host, &scene.dir, &scene.dir, &scene.journal).unwrap();
    let mut text = vec![SWITCH_AND_DOMAIN.to_owned(), UPLINK.to_owned()];
    text.push(config::service("forwarder", ""));
    text.extend(CHAINS.map(|(name, path, egress)| config::chain(name, path, egress)));
    text.push(config::process("fwd0", "forwarder", ""));
    let router_nics = "\n[[vm.nic]]\nname = \"in\"\n[[vm.nic]]\nname = \"out\"\n";
    text.push(vm(&scene, "nat0", ROUTER, "guest_memory = \"hugetlb-memfd\"", router_nics));
    let keys =
        "guest_memory = \"DIR/huge/web0\"\naccept_unsealed_memory = true\nkernel_args = \"netvm.httpd\"";
    text.push(vm(&scene, "web0", SERVER, keys, &config::nic("eth0", "back", "offloads = true")));
    let mut switch = scene.switch(&text.concat());
    let _forwarder = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    let vms = ["nat0", "web0"].map(|vm| start(&scene, &mut switch, vm));
    for (vm, shown) in [("nat0", "netvm-guest: routes"), ("web0", "netvm-guest: serves")] {
        switch.wait_console(vm, shown, 1, BOOT_LIMIT).unwrap_or_else(|err| panic!("{err}"));
    }

    let shown = switch.wait_console("web0", "netvm-guest: fetched", 1, TRANSFER_LIMIT);
    let shown = shown.unwrap_or_else(|err| panic!("{err}"));
    assert!(shown.contains(&format!("fetched {}", upload.sha256)), "{shown}");
    assert_downloads(&scene, &host, "10.2.0.9", &payload);
    assert_eq!(ping(&host, "10.2.0.9", 20, 50).unwrap().answered, 20);

    let status = switch.status().unwrap();
    let nic = |port: &str| status.port(port).and_then(|port| port.nic.clone()).unwrap();
    for feature in ["csum", "guest_csum"] {
        assert!(nic("web0.eth0").features.iter().any(|name| name == feature), "no {feature}");
        assert!(!nic("nat0.in").features.iter().any(|name| name == feature), "{feature}");
    }
    for port in ["nat0.in", "nat0.out", "web0.eth0"] {
        assert_eq!(nic(port).faults.values().sum::<u64>(), 0, "{port}");
        // Both files passed it, in frames of the MTU.
        let copied = status.port(port).unwrap();
        assert!(copied.rx_packets > 2900 && copied.tx_packets > 2900, "{copied:?}");
    }
    assert_conserved(&status);

    // Without its router the chain is closed: nothing passes it by, and what is not taken has a name.
    let before = status.dropped("port_down");
    vm_order(&scene, "detach", "nat0");
    assert_eq!(ping(&host, "10.2.0.9", 5, 100).unwrap().answered, 0);
    let status = switch.status().unwrap();
    assert!(status.dropped("port_down") >= before + 5, "{:?}", status.drops);
    assert_conserved(&status);
    drop(vms);
    switch.stop().unwrap();
}
