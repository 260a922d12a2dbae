//! Virtual machines that nobody trusts: real guests with ordinary drivers, whose packets are copied in and out.

mod debian;
mod measurement;
mod middle;
mod virtio_user;

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::child::Child;
use lab::journal::Change;
use lab::namespace::Namespace;
use lab::process::ProcessId;
use lab::switch::Switch;
use lab::transfer::{Download, HttpServer, Payload, ping};
use vm_tests::Scene;
use vm_tests::config::{self, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;

const BOOT_LIMIT: Duration = Duration::from_secs(180);
const TRANSFER_LIMIT: Duration = Duration::from_secs(180);
const GUEST: &str = "10.1.0.9";
/// The address that Debian's NIC gets by DHCP.
const DEBIAN: &str = "10.1.0.50";
const DEBIAN_MAC: &str = "02:00:00:00:00:99";
/// What a guest shows when it has an address.
const CONNECTED: &str = "netvm-guest: eth0 has address";

/// The only port besides NICs, on the cable of host "c".
const UPLINK: &str = r#"
[[port]]
name = "uplink"
device = "net_af_packet0,iface=IDc"
domain = "blue"
chain = "in"
"#;

/// What a guest does when it is up: fetches a file from the host and says what it got, again and again.
const FETCH: &str = "while :; do\n\
    if timeout 30 wget -q -O /tmp/fetched http://10.1.0.2:8080/upload.bin; then\n\
    echo \"netvm-guest: fetched $(sha256sum < /tmp/fetched | cut -d' ' -f1)\"\n\
    break\nfi\nsleep 0.5\ndone\n";

/// A guest between the uplink and nobody; `path` is the chain between them.
fn one_guest(scene: &Scene, path: &[&str], keys: &str, nic_keys: &str, script: &str) -> String {
    fs::write(scene.dir.join("script"), script).expect("a script");
    let files =
        "files = { \"/etc/netvm/boot.d/script\" = \"script\", \"/www/payload.bin\" = \"payload.bin\" }";
    let keys = format!("{files}\n{keys}");
    [
        UPLINK,
        &config::chain("in", path, "web0.eth0"),
        &config::chain("out", path, "uplink"),
        &config::untrusted_vm("web0", &keys, &config::nic("eth0", "out", nic_keys)),
    ]
    .concat()
}

/// Boots a VM, and writes its QEMU down: it outlives its switch, and its launcher if that is killed.
fn start(scene: &Scene, switch: &mut Switch, vm: &str) -> Child {
    let child = switch.boot(vm).expect("a boot");
    let told = switch.wait_for("the VM to be told to the switch", Duration::from_secs(60), |status| {
        status.vms.iter().any(|running| running.name == vm && running.pid > 0)
    });
    let status = told.unwrap_or_else(|err| panic!("{err}"));
    let running = status.vms.iter().find(|running| running.name == vm).expect("a running VM");
    let qemu = ProcessId::of(running.pid).expect("a live QEMU");
    scene.journal.note(Change::Group(qemu)).expect("a note");
    child
}

fn boot(scene: &Scene, switch: &mut Switch, vm: &str) -> Child {
    let child = start(scene, switch, vm);
    switch.wait_console(vm, CONNECTED, 1, BOOT_LIMIT).unwrap_or_else(|err| panic!("{err}"));
    child
}

/// Downloads a file from a guest; the hashes must be equal.
fn assert_downloads(scene: &Scene, client: &Namespace, address: &str, payload: &Payload) {
    let into = scene.dir.join("received.bin");
    let download =
        Download::start(client, address, &payload.name, &into, TRANSFER_LIMIT, &scene.dir, &scene.journal);
    let got = download.and_then(|it| it.finish(TRANSFER_LIMIT)).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!((got.bytes, got.sha256.as_str()), (payload.bytes, payload.sha256.as_str()));
}

/// A DHCP server on a host, with addresses from 10.1.0.50 on.
fn dhcp_server(scene: &Scene, host: &Namespace) -> Child {
    let name = |what: &str| scene.dir.join(format!("{}.{what}", host.name()));
    let leases = name("leases");
    let conf = format!(
        "interface eth0\nstart 10.1.0.50\nend 10.1.0.59\nlease_file {}\npidfile {}\noption subnet 255.255.255.0\n\
         static_lease {DEBIAN_MAC} {DEBIAN}\n",
        leases.display(),
        name("pid").display()
    );
    let path = name("conf");
    fs::write(&path, conf).expect("a config");
    fs::write(&leases, "").expect("a lease file");
    let mut command = host.command("busybox");
    command.args(["udhcpd", "-f"]).arg(&path);
    Child::spawn(&format!("udhcpd-{}", host.name()), command, &scene.dir, &scene.journal)
        .expect("a DHCP server")
}

#[test]
fn a_guest_gets_its_address_by_dhcp_and_exchanges_files_through_a_trusted_chain() {
    let scene = Scene::new();
    let host = scene.host("c", "10.1.0.2/24", None);
    let _dhcp = dhcp_server(&scene, &host);
    let payload = Payload::write(&scene.dir, "payload.bin", 4 << 20, 3).unwrap();
    let upload = Payload::write(&scene.dir, "upload.bin", 4 << 20, 5).unwrap();
    let _http = HttpServer::start(&host, &scene.dir, &scene.dir, &scene.journal).unwrap();
    let chain = [config::service("forwarder", ""), config::process("fwd0", "forwarder", "")].concat();
    let guest = one_guest(&scene, &["forwarder"], "kernel_args = \"netvm.ip=dhcp netvm.httpd\"", "", FETCH);
    let mut switch = scene.switch(&[SWITCH_AND_DOMAIN, &chain, &guest].concat());
    let _forwarder = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    let vm = boot(&scene, &mut switch, "web0");
    let shown = switch.wait_console("web0", "netvm-guest: fetched", 1, TRANSFER_LIMIT);
    let shown = shown.unwrap_or_else(|err| panic!("{err}"));
    assert!(shown.contains(&format!("fetched {}", upload.sha256)), "{shown}");
    let address = shown.split(CONNECTED).nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!(address.starts_with("10.1.0.5"), "{address}");
    assert_eq!(ping(&host, address, 20, 50).unwrap().answered, 20);
    assert_downloads(&scene, &host, address, &payload);

    let status = switch.status().unwrap();
    let nic = status.port("web0.eth0").and_then(|port| port.nic.clone()).unwrap();
    assert!(nic.connected && nic.queue_pairs == 1, "{nic:?}");
    for feature in ["version_1", "mrg_rxbuf", "indirect", "event_idx"] {
        assert!(nic.features.iter().any(|name| name == feature), "no {feature}: {nic:?}");
    }
    assert_eq!(nic.faults.values().sum::<u64>(), 0, "{nic:?}");
    assert!(status.endpoint_of("fwd0").unwrap().returned > 4000, "{:?}", status.endpoints);
    assert_eq!(status.copies_in_trusted_chain, 0);
    assert_conserved(&status);
    drop(vm);
    switch.stop().unwrap();
}

/// Every subset of what a NIC may withhold.
fn withheld(number: usize) -> Vec<&'static str> {
    let all = ["mrg_rxbuf", "indirect", "event_idx"];
    all.into_iter().enumerate().filter(|(bit, _)| number >> bit & 1 == 1).map(|(_, name)| name).collect()
}

/// Whether a guest leaves its checksums to the switch on a link: one of two does, and the other looks at them.
fn leaves_checksums(link: usize, own: usize) -> bool {
    (link + link / 2 + link / 4 + own).is_multiple_of(2)
}

/// How many subsets there are, and links between the two guests.
const LINKS: usize = 8;

/// One of two guests with a NIC for each link: serves a file to the other and fetches the other's, at each MTU.
fn linked_guest(scene: &Scene, [name, other]: [&str; 2], own: usize, queue_pairs: u16) -> String {
    let peer = 3 - own;
    let mut script = String::new();
    for link in 0..LINKS {
        script += &format!(
            "ip address add 10.9.{link}.{own}/24 dev eth{link}\nip link set eth{link} mtu 1500 up\n"
        );
    }
    script += "echo \"netvm-guest: eth0 has address\"\n";
    for mtu in [1500, 9000] {
        script += &format!(
            "for link in 0 1 2 3 4 5 6 7; do ip link set eth$link mtu {mtu}; done\n\
             for link in 0 1 2 3 4 5 6 7; do\n\
             until timeout 60 wget -q -O /tmp/fetched http://10.9.$link.{peer}:8080/payload.bin; do sleep 0.5; done\n\
             echo \"netvm-guest: link $link mtu {mtu} $(sha256sum < /tmp/fetched | cut -d' ' -f1)\"\n\
             done\n"
        );
    }
    script += "echo \"netvm-guest: all links done\"\n";
    fs::write(scene.dir.join(name), script).expect("a script");
    let keys = format!(
        "files = {{ \"/etc/netvm/boot.d/script\" = \"{name}\", \"/www/payload.bin\" = \"payload.bin\" }}\n\
         kernel_args = \"netvm.httpd\"\nmemory_mib = 512\nvcpus = {queue_pairs}\n"
    );
    let nic = |link: usize| {
        let keys = format!(
            "mtu_bytes = 9000\nqueue_pairs = {queue_pairs}\nrx_slots = 256\ntx_slots = 256\noffloads = {}\n\
             withhold = {:?}",
            leaves_checksums(link, own),
            withheld(link)
        );
        config::nic(&format!("eth{link}"), &format!("from-{name}-{link}"), &keys)
    };
    let nics: String = (0..LINKS).map(nic).collect();
    let chain =
        |link: usize| config::chain(&format!("from-{name}-{link}"), &[], &format!("{other}.eth{link}"));
    let chains: String = (0..LINKS).map(chain).collect();
    [chains, config::untrusted_vm(name, &keys, &nics)].concat()
}

#[test]
fn every_set_of_features_passes_files_with_one_and_with_four_queue_pairs() {
    let scene = Scene::new();
    let payload = Payload::write(&scene.dir, "payload.bin", 1 << 20, 9).unwrap();
    // The longest frame of a jumbo MTU fits a buffer.
    let domain = SWITCH_AND_DOMAIN.replace("region_mib = 16", "region_mib = 32\nbuffer_stride_bytes = 9280");
    let text =
        [domain, linked_guest(&scene, ["one", "four"], 1, 1), linked_guest(&scene, ["four", "one"], 2, 4)];
    let mut switch = scene.switch(&text.concat());
    let vms = ["one", "four"].map(|vm| start(&scene, &mut switch, vm));
    for vm in ["one", "four"] {
        let shown = switch.wait_console(vm, "netvm-guest: all links done", 1, Duration::from_secs(600));
        let shown = shown.unwrap_or_else(|err| panic!("{err}"));
        for (link, mtu) in (0..LINKS).flat_map(|link| [(link, 1500), (link, 9000)]) {
            let wanted = format!("link {link} mtu {mtu} {}", payload.sha256);
            assert!(shown.contains(&wanted), "{vm} does not show {wanted}:\n{shown}");
        }
    }
    let status = switch.status().unwrap();
    for (own, (vm, pairs)) in [("one", 1), ("four", 4)].into_iter().enumerate().map(|(at, vm)| (at + 1, vm)) {
        for link in 0..LINKS {
            let port = status.port(&format!("{vm}.eth{link}")).unwrap();
            let nic = port.nic.as_ref().unwrap();
            assert_eq!(nic.queue_pairs, pairs, "{port:?}");
            for feature in ["mrg_rxbuf", "indirect", "event_idx"] {
                let is_on = nic.features.iter().any(|name| name == feature);
                assert_ne!(is_on, withheld(link).contains(&feature), "{feature} of {port:?}");
            }
            for feature in ["csum", "guest_csum"] {
                let is_on = nic.features.iter().any(|name| name == feature);
                assert_eq!(is_on, leaves_checksums(link, own), "{feature} of {port:?}");
            }
            assert_eq!(nic.faults.values().sum::<u64>(), 0, "{port:?}");
        }
    }
    assert_conserved(&status);
    drop(vms);
    switch.stop().unwrap();
}

/// How often the guest has booted, by its console.
fn boots(scene: &Scene) -> usize {
    let shown = fs::read(scene.dir.join("web0.serial.log")).unwrap_or_default();
    String::from_utf8_lossy(&shown).matches("netvm-guest: booted").count()
}

/// Which process QEMU is.
fn qemu(switch: &mut Switch) -> u32 {
    let status = switch.wait_for("the VM to be told to the switch", Duration::from_secs(30), |status| {
        status.vms.iter().any(|vm| vm.name == "web0" && vm.pid > 0)
    });
    status.unwrap_or_else(|err| panic!("{err}")).vms[0].pid
}

/// A ping that goes on in the background.
fn pinging(scene: &Scene, host: &Namespace) -> Child {
    let mut command: Command = host.command("ping");
    command.args(["-n", "-i", "0.2", GUEST]);
    Child::spawn("pings", command, &scene.dir, &scene.journal).expect("a ping")
}

#[test]
fn the_switch_and_the_guest_are_started_anew_under_traffic_and_the_other_goes_on() {
    let scene = Scene::new();
    let host = scene.host("c", "10.1.0.2/24", None);
    fs::write(scene.dir.join("payload.bin"), "unused").unwrap();
    let _http = HttpServer::start(&host, &scene.dir, &scene.dir, &scene.journal).unwrap();
    // A file too large for the initramfs, and a reboot when the host has a file of that name.
    let script = "head -c 96m /dev/urandom > /www/large.bin\n\
        echo \"netvm-guest: large $(sha256sum < /www/large.bin | cut -d' ' -f1)\"\n\
        until timeout 5 wget -q -O /dev/null http://10.1.0.2:8080/reboot-now; do sleep 0.5; done\n\
        reboot -f\n";
    let keys = format!("memory_mib = 512\nkernel_args = \"netvm.ip={GUEST}/24 netvm.httpd\"");
    let guest = one_guest(&scene, &[], &keys, "", script);
    let text = [SWITCH_AND_DOMAIN, &guest].concat();
    let mut switch = scene.switch(&text);
    let mut vm = boot(&scene, &mut switch, "web0");
    let process = qemu(&mut switch);
    let shown = switch.wait_console("web0", "netvm-guest: large", 1, BOOT_LIMIT);
    let shown = shown.unwrap_or_else(|err| panic!("{err}"));
    let hash =
        shown.split("large ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    let pings = pinging(&scene, &host);

    // The switch dies in the middle of a transfer, and is away for two seconds.
    let into = scene.dir.join("received.bin");
    let mut download =
        Download::start(&host, GUEST, "large.bin", &into, TRANSFER_LIMIT, &scene.dir, &scene.journal)
            .unwrap();
    while download.bytes_so_far() < 8 << 20 {
        assert!(!download.is_done().unwrap(), "it was over before the switch died");
        std::thread::sleep(Duration::from_millis(1));
    }
    switch.kill().unwrap();
    assert!(!download.is_done().unwrap(), "it was over before the switch died");
    std::thread::sleep(Duration::from_secs(2));
    let mut switch = scene.switch(&text);
    let got = download.finish(TRANSFER_LIMIT).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!((got.bytes, got.sha256), (96 << 20, hash));
    assert_eq!((boots(&scene), qemu(&mut switch)), (1, process), "the guest has noticed nothing");

    // The guest starts over while it is pinged.
    fs::write(scene.dir.join("reboot-now"), "").unwrap();
    switch.wait_console("web0", "netvm-guest: booted", 2, BOOT_LIMIT).unwrap_or_else(|err| panic!("{err}"));
    fs::remove_file(scene.dir.join("reboot-now")).unwrap();
    switch.wait_console("web0", CONNECTED, 2, BOOT_LIMIT).unwrap_or_else(|err| panic!("{err}"));
    assert!(ping(&host, GUEST, 50, 100).unwrap().answered >= 45);
    assert_eq!(qemu(&mut switch), process);
    drop(pings);
    let status = switch.status().unwrap();
    assert!(status.port("web0.eth0").unwrap().nic.as_ref().unwrap().connected);
    assert_conserved(&status);

    // An operator takes the cable out, and puts it back.
    vm_order(&scene, "detach", "web0");
    assert_eq!(ping(&host, GUEST, 5, 100).unwrap().answered, 0);
    vm_order(&scene, "attach", "web0");
    let ready = switch.wait_for("the NIC to be connected", Duration::from_secs(30), |status| {
        status.port("web0.eth0").and_then(|port| port.nic.as_ref()).is_some_and(|nic| nic.queue_pairs == 1)
    });
    ready.unwrap_or_else(|err| panic!("{err}"));
    assert!(ping(&host, GUEST, 20, 100).unwrap().answered >= 15);
    vm_order(&scene, "kill", "web0");
    vm.wait(Duration::from_secs(20)).unwrap_or_else(|err| panic!("{err}"));
    switch.stop().unwrap();
}

/// `netvm vm ACT VM`.
fn vm_order(scene: &Scene, act: &str, vm: &str) {
    let mut command = Command::new(scene.artifacts.program("netvm"));
    command.args(["vm", act, vm, "--switch", &scene.switch_name()]);
    lab::child::run_command(command).unwrap_or_else(|err| panic!("{err}"));
}
