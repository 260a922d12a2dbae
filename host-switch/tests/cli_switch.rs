//! The life of a switch as an operator sees it: started, asked, refused, stopped, killed. Needs libdpdk, no
//! hugepages, no root, no devices.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod cli;

use std::io::Read;
use std::process::Stdio;

use cli::Lab;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, prlimit};

#[test]
fn a_switch_runs_answers_and_leaves_nothing_after_sigterm() {
    let lab = Lab::new();
    let switch = lab.switch(&lab.config("one", &["net_null0"]));

    let status = lab.netvm(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.output).unwrap();
    assert_eq!(status["switch"], "one");
    assert_eq!(status["endpoints"][0]["phase"], "detached");
    assert_eq!(status["buffers"]["blue"]["sum"], status["buffers"]["blue"]["total"]);

    let table = lab.netvm(&["status", "--switch", "one"]);
    assert!(table.good && table.output.contains("fwd0/forwarder"), "{table:?}");
    let audit = lab.netvm(&["audit"]);
    assert!(audit.good && audit.output.contains("every buffer is accounted for"), "{audit:?}");

    switch.signal(Signal::TERM);
    switch.wait_for("last audit of domain blue, lcore 0: all 3540 buffers accounted for");
    assert!(switch.wait().success());
    assert_eq!(lab.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_second_switch_of_the_same_name_is_refused_and_the_first_undisturbed() {
    let lab = Lab::new();
    let config = lab.config("twice", &["net_null0"]);
    let switch = lab.switch(&config);
    let second = lab.netvm(&["run", config.to_str().unwrap()]);
    assert!(!second.good);
    let expected = format!("switch twice already runs as process {}", switch.pid());
    assert!(second.errors.contains(&expected), "{}", second.errors);
    assert!(lab.netvm(&["status"]).good);

    let stopped = lab.netvm(&["stop"]);
    assert!(stopped.good, "{stopped:?}");
    assert!(switch.wait().success());
}

#[test]
fn a_switch_that_was_killed_is_no_obstacle_to_the_next() {
    let lab = Lab::new();
    let config = lab.config("killed", &["net_null0"]);
    let killed = lab.switch(&config);
    killed.signal(Signal::KILL);
    assert!(!killed.wait().success());
    let asked = lab.netvm(&["status", "--switch", "killed"]);
    assert!(!asked.good && asked.errors.contains("start it again with `netvm run FILE`"), "{asked:?}");

    let next = lab.switch(&config);
    assert!(lab.netvm(&["status"]).good);
    next.signal(Signal::INT);
    assert!(next.wait().success());
}

#[test]
fn a_watch_into_a_pipe_is_plain_text_and_ends_with_its_reader() {
    let lab = Lab::new();
    let _switch = lab.switch(&lab.config("watched", &["net_null0"]));
    let mut watch = lab.command(&["status", "--watch", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = watch.stdout.take().unwrap();
    let mut seen = [0; 14];
    output.read_exact(&mut seen).unwrap();
    drop(output);
    assert_eq!(std::str::from_utf8(&seen).unwrap(), "switch watched");
    assert!(watch.wait().unwrap().success());
}

/// A stand-in for QEMU that says on its console what the guest would, and stays deaf.
const QEMU: &str = r#"#!/bin/sh
for word in "$@"; do
    case "$word" in *id=netvm-serial,path=*) log="${word##*path=}" ;; esac
done
printf 'netvm-guest: booted\nnetvm-guest: ready\n' >> "$log"
exec sleep 600
"#;

#[test]
fn a_detached_vm_ends_with_a_switch_that_was_killed() {
    let lab = Lab::new();
    let config = lab.vm_config("/dev/null");
    let path = lab.program("qemu-system-x86_64", QEMU);
    let switch = lab.switch(&config);

    let boot = ["boot", "--detach", "--accel", "tcg", config.to_str().unwrap(), "fw0"];
    let booted = lab.netvm_with_path(&path, &boot);
    assert!(booted.good && booted.errors.contains("goes on in the background"), "{booted:?}");
    let status: serde_json::Value = serde_json::from_str(&lab.netvm(&["status", "--json"]).output).unwrap();
    let vm = i32::try_from(status["vms"][0]["pid"].as_i64().unwrap()).unwrap();
    // Taken while the VM runs, so that it cannot mean another process.
    let vm = pidfd_open(Pid::from_raw(vm).unwrap(), PidfdFlags::empty()).unwrap();
    let mut ended = [PollFd::new(&vm, PollFlags::IN)];
    assert_eq!(poll(&mut ended, Some(&Timespec::default())).unwrap(), 0, "the VM runs");

    switch.signal(Signal::KILL);
    assert!(!switch.wait().success());
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(poll(&mut ended, Some(&limit)).unwrap(), 1, "the VM outlives its switch");
}

#[test]
fn owners_are_listed_and_an_order_that_cannot_be_carried_out_says_why() {
    let lab = Lab::new();
    let _switch = lab.switch(&lab.config("owned", &["net_null0"]));
    let listed = lab.netvm(&["vm", "list", "--json"]);
    let owners: serde_json::Value = serde_json::from_str(&listed.output).unwrap();
    assert_eq!(owners[0]["name"], "fwd0");
    assert_eq!((&owners[0]["kind"], &owners[0]["state"]), (&"process".into(), &"absent".into()));
    assert_eq!(owners[0]["violations"]["epoch"]["wrong_epoch"], 0);
    for (order, why) in [
        (["vm", "detach", "fwd0"], "process fwd0 is not attached: nobody has come for it"),
        (["vm", "attach", "fwd0"], "process fwd0 is not detached"),
        (["vm", "kill", "fwd0"], "process fwd0 does not run"),
        (["vm", "kill", "fwd1"], "no VM or process \"fwd1\" in the config of this switch; nearest: fwd0"),
    ] {
        let said = lab.netvm(&order);
        assert!(!said.good && said.errors.contains(why), "{order:?}: {said:?}");
    }
}

/// Hundredths of a second that a thread of a process has run.
fn ticks(pid: u32, thread: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let mut stats = tasks.filter_map(|task| std::fs::read_to_string(task.join("stat")).ok());
    let stat = stats.find(|stat| stat.contains(&format!("({thread})"))).unwrap();
    let numbers: Vec<&str> = stat.rsplit(") ").next().unwrap().split_whitespace().collect();
    numbers[11].parse::<u64>().unwrap() + numbers[12].parse::<u64>().unwrap()
}

#[test]
fn a_connection_that_cannot_be_accepted_keeps_the_keeper_from_nothing() {
    let lab = Lab::new();
    let switch = lab.switch(&lab.config("files", &["net_null0"]));
    let pid = Pid::from_raw(i32::try_from(switch.pid()).unwrap()).unwrap();
    // Below every number that is still free: what is open stays, and nothing new can be.
    let limit = Rlimit { current: Some(3), maximum: Some(1024) };
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    let path = SocketAddrUnix::new(lab.run_dir().join("files/endpoint.sock")).unwrap();
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            connect(&socket, &path).unwrap();
            socket
        })
        .collect();
    switch.wait_for("a connection to endpoint.sock waits");
    let ran = ticks(switch.pid(), "netvm-keeper");
    std::thread::sleep(std::time::Duration::from_secs(1));
    let ran = ticks(switch.pid(), "netvm-keeper") - ran;
    assert!(ran < 50, "the keeper ran for {ran} hundredths of a second");

    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(1024), maximum: Some(1024) }).unwrap();
    drop(waiting);
    assert!(lab.netvm(&["status"]).good);
}

#[test]
fn a_wrong_pci_address_is_refused_and_nothing_stays_behind() {
    let lab = Lab::new();
    let config = lab.config("pci", &["0000:ff:1f.7"]);
    let said = lab.netvm(&["run", config.to_str().unwrap()]);
    assert!(!said.good);
    assert!(
        said.errors.contains("port port0: no PCI device 0000:ff:1f.7; network devices here: "),
        "{}",
        said.errors
    );
    assert_eq!(lab.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn every_device_that_is_missing_is_named_at_once() {
    let lab = Lab::new();
    let config =
        lab.config("devices", &["net_af_packet0,iface=nv-none", "net_pcap1,rx_pcap=/nonexistent.pcap"]);
    let said = lab.netvm(&["run", config.to_str().unwrap()]);
    assert!(!said.good);
    assert!(said.errors.contains("port port0: no network interface nv-none"), "{}", said.errors);
    assert!(said.errors.contains("port port1: no capture file /nonexistent.pcap"), "{}", said.errors);
    assert_eq!(lab.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_driver_that_dpdk_does_not_have_is_refused_and_nothing_stays_behind() {
    let lab = Lab::new();
    let config = lab.config("driver", &["net_nonesuch0"]);
    let said = lab.netvm(&["run", config.to_str().unwrap()]);
    assert!(!said.good);
    assert!(said.errors.contains("net_nonesuch0"), "{}", said.errors);
    assert_eq!(lab.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_device_of_another_switch_is_refused_with_its_holder() {
    let lab = Lab::new();
    // A TAP interface needs a privilege.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let device = format!("net_tap0,iface=nvt{}", std::process::id());
    let first = lab.switch(&lab.config("first", &[&device]));
    let said = lab.netvm(&["run", lab.config("second", &[&device]).to_str().unwrap()]);
    assert!(!said.good);
    let expected = format!("port device {device} is already bound by process {}", first.pid());
    assert!(said.errors.contains(&expected), "{}", said.errors);
    // Nor under another --run-dir.
    let elsewhere = Lab::new();
    let said = elsewhere.netvm(&["run", elsewhere.config("third", &[&device]).to_str().unwrap()]);
    assert!(!said.good);
    assert!(said.errors.contains(&expected), "{}", said.errors);
    assert_eq!(elsewhere.left_behind(), Vec::<std::path::PathBuf>::new());
    first.signal(Signal::TERM);
    assert!(first.wait().success());
    assert_eq!(lab.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_refused_config_starts_nothing() {
    let lab = Lab::new();
    let config = lab.config("broken", &["net_null0"]);
    let text = std::fs::read_to_string(&config).unwrap().replace("region_mib = 8", "region_mib = 7");
    std::fs::write(&config, text).unwrap();
    let said = lab.netvm(&["run", config.to_str().unwrap()]);
    assert!(!said.good);
    assert!(said.errors.contains("1 finding; nothing was started"), "{}", said.errors);
    assert_eq!(lab.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn too_few_hugepages_are_refused_where_the_config_insists() {
    let lab = Lab::new();
    let config = lab.config("huge", &["net_null0"]);
    let text = std::fs::read_to_string(&config).unwrap();
    // 64 GiB: more huge pages than a machine for tests has.
    let text = text
        .replace("pages = \"plain\"", "pages = \"hugetlb\"")
        .replace("region_mib = 8", "region_mib = 65536");
    std::fs::write(&config, text).unwrap();
    let said = lab.netvm(&["run", config.to_str().unwrap()]);
    assert!(!said.good);
    assert!(said.errors.contains("huge pages of 2 MiB"), "{}", said.errors);
    assert!(said.errors.contains("nr_hugepages"), "{}", said.errors);
    assert_eq!(lab.left_behind(), Vec::<std::path::PathBuf>::new());
}
