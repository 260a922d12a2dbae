//! Observers that map the packet memory of their domain read-only: what they see, what they cannot do, and that
//! nobody waits for them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use lab::child::{Child, run_command};
use lab::flood::{Flood, FloodCount};
use lab::namespace::Namespace;
use lab::status::Status;
use lab::switch::Switch;
use rustix::process::{Pid, Signal, kill_process};
use vm_tests::attacker::deface::Defacement;
use vm_tests::config::{CABLES, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;
use vm_tests::{Scene, config};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
/// How long something may take on a machine that is busy.
const BUSY: Duration = Duration::from_secs(60);
/// How long a VM may take to come up.
const BOOT: Duration = Duration::from_secs(180);
/// A datagram of the flood as a frame: Ethernet, IPv4 and UDP headers, 200 bytes.
const FRAME_BYTES: u64 = 14 + 20 + 8 + 200;

/// A forwarder between client and server; what comes from the client is shown to `observer`, of service "ids".
fn observed(observer: &str) -> String {
    let chains = config::there_and_back(&["forwarder"]);
    [
        SWITCH_AND_DOMAIN,
        CABLES,
        &config::service("forwarder", ""),
        &config::service("ids", ""),
        &chains.replace("egress = \"server\"", "egress = \"server\"\nobservers = [\"ids\"]"),
        &config::process("fwd0", "forwarder", ""),
        observer,
    ]
    .concat()
}

fn process() -> String {
    "\n[[process]]\nname = \"ids0\"\ndomain = \"blue\"\naccess = \"observer\"\npinned_buffers_max = 256\n\
     [[process.endpoint]]\nservice = \"ids\"\n"
        .to_owned()
}

/// A VM that tries to write its region first, and looks on then.
fn vm(scene: &Scene) -> String {
    let program = scene.artifacts.static_program("attacker").display().to_string();
    format!(
        "\n[[vm]]\nname = \"ids0\"\ndomain = \"blue\"\naccess = \"observer\"\npinned_buffers_max = 256\n\
         kernel = \"KERNEL\"\ninitramfs = \"INITRAMFS\"\n[[vm.endpoint]]\nservice = \"ids\"\nring_slots = 512\n\
         nf = \"sh\"\nargs = [\"-c\", \"cp /etc/attacker /tmp/a; chmod +x /tmp/a; /tmp/a --deface; \
         exec monitor --every 1\"]\nfiles = {{ \"/etc/attacker\" = \"{program}\" }}\n"
    )
}

/// What a line of the monitor says.
#[derive(Debug, serde::Deserialize)]
struct Seen {
    packets: u64,
    expired_views: u64,
    protocols: BTreeMap<String, Amount>,
}

#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
struct Amount {
    packets: u64,
    bytes: u64,
}

/// The last line of the monitor in a log.
fn last_seen(log: &str) -> Option<Seen> {
    let lines = log.lines().rev().filter_map(|line| line.find("{\"seconds\"").map(|at| &line[at..]));
    lines.filter_map(|line| serde_json::from_str(line.trim()).ok()).next()
}

/// What the attacker said in a log or an output.
fn defacement(text: &str) -> Defacement {
    let said =
        text.lines().find_map(|line| line.split_once("attacker: {").map(|(_, json)| format!("{{{json}")));
    let said = said.unwrap_or_else(|| panic!("it said nothing: {text}"));
    serde_json::from_str(said.trim()).unwrap_or_else(|err| panic!("{err}: {said}"))
}

fn deface(scene: &Scene, name: &str) -> Defacement {
    let mut command = Command::new(scene.artifacts.static_program("attacker"));
    let socket = format!("/run/netvm/{}/endpoint.sock", scene.switch_name());
    command.args(["--deface", "--socket", &socket, "--name", name]);
    let output = run_command(command).unwrap_or_else(|err| panic!("{err}"));
    defacement(&String::from_utf8_lossy(&output.stdout))
}

fn flood(client: &Namespace, server: &Namespace, datagrams: u64, per_second: u32) -> FloodCount {
    let flood = Flood::start(client, server, SERVER, 9000, per_second).unwrap();
    flood.wait_for_more(datagrams, BUSY).unwrap_or_else(|err| panic!("{err}"));
    flood.stop()
}

/// Packets that the observer was shown, or not for want of room.
fn shown_and_not(status: &Status) -> (u64, u64) {
    let observer = status.endpoint_of("ids0").unwrap();
    (observer.received, observer.drops.get("observer_full").copied().unwrap_or(0))
}

/// Waits until nothing moves and everything that was shown is given back.
fn at_rest(switch: &mut Switch) -> Status {
    switch
        .wait_for("the observer to give back what it was shown", BUSY, |status| {
            let observer = status.endpoint_of("ids0").unwrap();
            observer.references == 0 && observer.returned == observer.received
        })
        .unwrap_or_else(|err| panic!("{err}"))
}

fn attached(switch: &mut Switch, owners: &[&str], limit: Duration) {
    switch.wait_attached(owners, limit).unwrap_or_else(|err| panic!("{err}"));
}

/// Every packet that entered between `before` and now was shown or counted as not shown; and what the observer says
/// it saw is what it was shown.
fn assert_sees_all(before: &Status, now: &Status, sent: &FloodCount, seen: &Seen) {
    let entered = |status: &Status| status.port("client").unwrap().rx_packets;
    let ((shown, not), (shown_before, not_before)) = (shown_and_not(now), shown_and_not(before));
    assert_eq!(entered(now) - entered(before), shown + not - shown_before - not_before, "{now:?}");
    assert_eq!(seen.packets + seen.expired_views, shown, "{seen:?}");
    let udp = seen.protocols.get("udp").copied().unwrap_or_default();
    assert!(
        udp.packets > 0 && udp.packets + not + seen.expired_views >= sent.received,
        "{seen:?} of {sent:?}"
    );
    assert!(udp.bytes >= udp.packets * FRAME_BYTES - FRAME_BYTES, "{seen:?}");
    assert_eq!(sent.damaged, 0, "{sent:?}");
}

#[test]
fn a_process_that_observes_sees_every_packet_and_cannot_write_one() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&observed(&process()));
    let forwarder = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    let monitor = switch.start_process("ids0", "monitor", &["--every", "1"]).unwrap();
    attached(&mut switch, &["fwd0", "ids0"], BUSY);
    let before = switch.status().unwrap();
    let sent = flood(&client, &server, 5000, 2000);
    let now = at_rest(&mut switch);
    let log = monitor.log().to_owned();
    monitor.stop(BUSY).unwrap();
    let seen = last_seen(&std::fs::read_to_string(log).unwrap()).unwrap();
    assert_sees_all(&before, &now, &sent, &seen);
    assert_eq!(now.copies_in_trusted_chain, 0);
    assert_eq!(now.buffers["blue"].pinned, 0);
    assert_conserved(&now);

    let tried = deface(&scene, "ids0");
    assert!(tried.is_in_vain(), "{tried:?}");
    assert_eq!((tried.words_written, tried.ways.len()), (0, 6), "{tried:?}");
    // The same program, where it may: it would have noticed.
    forwarder.stop(BUSY).unwrap();
    let allowed = deface(&scene, "fwd0");
    assert!(allowed.words_written > 0 && allowed.words_changed == allowed.words_written, "{allowed:?}");
    assert!(!allowed.is_in_vain(), "{allowed:?}");
    switch.stop().unwrap();
}

/// Stops the process of an observer under traffic, lets it go on, then kills it: its chain and its buffers do not care.
fn stop_and_kill(switch: &mut Switch, (client, server): (&Namespace, &Namespace), pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let (_, not_before) = shown_and_not(&switch.status().unwrap());
    kill_process(pid, Signal::STOP).unwrap();
    let sent = flood(client, server, 4000, 2000);
    assert_eq!((sent.damaged, sent.reordered), (0, 0), "{sent:?}");
    let full = |status: &Status| shown_and_not(status).1 > not_before;
    let status = switch.wait_for("a lost view", BUSY, full).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!(status.dropped("observer_full"), 0, "no packet of the domain was lost for it");
    // Its references end by themselves: nothing stays pinned.
    let ended = |status: &Status| {
        status.buffers["blue"].pinned == 0 && status.endpoint_of("ids0").unwrap().references == 0
    };
    let status = switch.wait_for("its references to end", BUSY, ended).unwrap_or_else(|err| panic!("{err}"));
    assert!(status.endpoint_of("ids0").unwrap().references_expired > 0);
    assert_conserved(&status);

    let shown_before = shown_and_not(&status).0;
    kill_process(pid, Signal::CONT).unwrap();
    let again = Flood::start(client, server, SERVER, 9000, 500).unwrap();
    let sees = |status: &Status| shown_and_not(status).0 > shown_before + 500;
    switch.wait_for("the observer to see again", BUSY, sees).unwrap_or_else(|err| panic!("{err}"));
    let faults = &switch.status().unwrap().endpoint_of("ids0").unwrap().faults.clone();
    assert_eq!(faults.values().sum::<u64>(), 0, "what it gave back late was no violation: {faults:?}");

    kill_process(pid, Signal::KILL).unwrap();
    let gone = |status: &Status| status.endpoint_of("ids0").unwrap().phase == "detached";
    switch.wait_for("its death to be noticed", BUSY, gone).unwrap_or_else(|err| panic!("{err}"));
    again.wait_for_more(500, BUSY).unwrap_or_else(|err| panic!("the chain waits for a dead observer: {err}"));
    drop(again);
    let status = switch.wait_for("its references to end", BUSY, ended).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!(status.buffers["blue"].quarantined, 0, "it could write nothing: there is nothing to wait for");
    assert_conserved(&status);
}

#[test]
fn nobody_waits_for_an_observer_that_is_stopped_or_killed() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&observed(&process()));
    let _forwarder = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    for _ in 0..2 {
        let monitor = switch.start_process("ids0", "monitor", &[]).unwrap();
        attached(&mut switch, &["fwd0", "ids0"], BUSY);
        stop_and_kill(&mut switch, (&client, &server), monitor.pid());
    }
    switch.stop().unwrap();
}

#[test]
fn a_program_that_handles_packets_is_told_that_it_may_only_observe() {
    let scene = Scene::new();
    let _hosts = scene.hosts();
    let switch = scene.switch(&observed(&process()));
    let mut forwarder: Child = switch.start_process("ids0", "forwarder", &[]).unwrap();
    assert!(!forwarder.wait(BUSY).unwrap().success());
    assert!(scene.log("ids0").contains("only observe its domain"), "{}", scene.log("ids0"));
    switch.stop().unwrap();
}

#[test]
fn a_vm_that_observes_sees_every_packet_cannot_write_one_and_holds_nobody_up() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&observed(&vm(&scene)));
    let _forwarder = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    let _vm = switch.boot("ids0").unwrap();
    attached(&mut switch, &["fwd0", "ids0"], BOOT);
    let log = switch.serial_log("ids0");
    let tried = defacement(&std::fs::read_to_string(&log).unwrap());
    assert!(tried.words_written > 10_000 && tried.is_in_vain(), "{tried:?}");

    let before = switch.status().unwrap();
    let sent = flood(&client, &server, 3000, 500);
    let now = at_rest(&mut switch);
    let shown = shown_and_not(&now).0;
    let is_printed = |seen: &Seen| seen.packets + seen.expired_views >= shown;
    let mut seen = None;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(200));
        seen = last_seen(&std::fs::read_to_string(&log).unwrap());
        if seen.as_ref().is_some_and(is_printed) {
            break;
        }
    }
    assert_sees_all(&before, &now, &sent, &seen.expect("a line of the monitor"));
    assert_conserved(&now);

    let qemu = now.vms.iter().find(|vm| vm.name == "ids0").unwrap().pid;
    stop_and_kill(&mut switch, (&client, &server), qemu);
    switch.stop().unwrap();
}
