//! A supervisor with real programs that really die.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure in them is a failed test")]

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use guest_netlib::{DeathNotice, Device, Endpoint, Options};
use shm_ring::attach::GuestEvent;
use support::{TestHost, pci_folder};

/// Set in this test program when it plays a network function.
const PLAY: &str = "NETVM_TEST_PLAY";

/// Not a test of its own: what the supervisor starts. Attaches, then dies as it is told.
#[test]
fn play_a_network_function() {
    let Ok(how) = std::env::var(PLAY) else { return };
    let device = Device::find(&Options::from_env()).unwrap();
    let _endpoint = Endpoint::attach(&device, 0).unwrap();
    match how.as_str() {
        "abort" => std::process::abort(),
        "leave-a-child" => {
            // The child inherits nothing that it could map, but it is in the group and must go too.
            Command::new("sleep").arg("1000").spawn().unwrap();
            std::process::abort();
        }
        _ => loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        },
    }
}

fn supervise(folder: &Path, how: &str, flags: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netlib-supervise"));
    command.args(["--endpoint", "0"]).args(flags).arg("--");
    command.arg(std::env::current_exe().unwrap()).args(["play_a_network_function", "--exact", "--nocapture"]);
    command.env("NETVM_PCI_DEVICES", folder).env(PLAY, how).env_remove("NETVM_SOCKET");
    command.spawn().unwrap()
}

fn guest(host: &TestHost) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    pci_folder(folder.path(), &[&host.areas().region, &host.areas().control]);
    let path = folder.path().to_owned();
    (folder, path)
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn each_death_is_reported_before_the_next_instance_attaches() {
    let host = TestHost::new(&[0]);
    let (_folder, path) = guest(&host);
    let status = supervise(&path, "abort", &["--restarts", "2"]).wait().unwrap();
    assert_eq!(status.code(), Some(1), "gives up after two restarts");
    host.wait_until("the last notice", || host.has_seen(GuestEvent::Reaped(43)));
    let events = host.handshakes();
    assert_eq!(events.len(), 6, "{events:?}");
    for (epoch, of_epoch) in (41..).zip(events.chunks(2)) {
        // A death right after the attach may show both words at once; the next epoch comes later in any case.
        assert!(of_epoch.contains(&GuestEvent::Confirmed(epoch)), "{events:?}");
        assert!(of_epoch.contains(&GuestEvent::Reaped(epoch)), "{events:?}");
    }
}

#[test]
fn asked_to_stop_it_ends_the_network_function_and_reports() {
    let host = TestHost::new(&[0]);
    let (_folder, path) = guest(&host);
    let mut supervisor = supervise(&path, "wait", &[]);
    host.wait_until("the attach", || host.has_seen(GuestEvent::Confirmed(41)));
    signal(&supervisor, rustix::process::Signal::TERM);
    assert!(supervisor.wait().unwrap().success());
    host.wait_until("the notice", || host.has_seen(GuestEvent::Reaped(41)));
}

#[test]
fn the_children_of_a_dead_network_function_die_with_it() {
    let host = TestHost::new(&[0]);
    let (_folder, path) = guest(&host);
    let status = supervise(&path, "leave-a-child", &["--restarts", "0"]).wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(1), None));
    host.wait_until("the notice", || host.has_seen(GuestEvent::Reaped(41)));
}

#[test]
fn no_death_is_reported_while_somebody_is_attached() {
    let host = TestHost::new(&[0]);
    let (_folder, path) = guest(&host);
    let find = || Device::find(&Options { pci_devices: path.clone(), ..Options::default() }).unwrap();
    let notice = DeathNotice::new(find(), 0).unwrap();
    assert_eq!(notice.give().unwrap(), Some(0), "nobody was ever attached");
    let endpoint = Endpoint::attach(&find(), 0).unwrap();
    assert_eq!(notice.give().unwrap(), None);
    drop(endpoint);
    assert_eq!(notice.give().unwrap(), Some(41));
    host.wait_until("the notice", || host.has_seen(GuestEvent::Reaped(41)));
}

#[test]
fn a_lock_outlasts_its_owner_while_a_mapping_lives() {
    let host = TestHost::new(&[0]);
    let (_folder, path) = guest(&host);
    let find = || Device::find(&Options { pci_devices: path.clone(), ..Options::default() }).unwrap();
    let notice = DeathNotice::new(find(), 0).unwrap();
    let device = find();
    // As if the process had died without a goodbye while a forked child still maps the memory.
    std::mem::forget(Endpoint::attach(&device, 0).unwrap());
    drop(device);
    assert_eq!(notice.give().unwrap(), None);
    assert!(!host.has_seen(GuestEvent::Reaped(41)));
}
