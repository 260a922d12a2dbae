//! The config of a running switch changes under real traffic: nothing is lost to it, and every flow stays in order.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::child::run_command;
use lab::flood::Flood;
use vm_tests::config::{CABLES, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;
use vm_tests::{Scene, config};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
/// How long something may take on a machine that is busy.
const BUSY: Duration = Duration::from_secs(60);
const CHANGES: usize = 20;

/// Two forwarders, of which chains use the first, the second or both.
fn two_forwarders(upstream: &[&str]) -> String {
    [
        SWITCH_AND_DOMAIN,
        CABLES,
        &config::service("first", ""),
        &config::service("second", ""),
        &config::chain("upstream", upstream, "server"),
        &config::chain("downstream", &["first"], "client"),
        &config::process("fwd0", "first", ""),
        &config::process("fwd1", "second", ""),
    ]
    .concat()
}

/// Applies a file to the switch of a scene.
fn apply(scene: &Scene, file: &Path) {
    let mut command = Command::new(scene.artifacts.program("netvm"));
    command.args(["apply", "--switch", &scene.switch_name()]).arg(file);
    run_command(command).unwrap();
}

#[test]
fn a_chain_changes_under_a_flood_and_loses_no_datagram() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&two_forwarders(&["first", "second"]));
    let _first = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    let _second = switch.start_process("fwd1", "forwarder", &[]).unwrap();
    let before = switch.wait_attached(&["fwd0", "fwd1"], BUSY).unwrap();
    let flood = Flood::start(&client, &server, SERVER, 9000, 5_000).unwrap();
    for round in 0..CHANGES {
        flood.wait_for_more(100, BUSY).unwrap();
        let paths: [&[&str]; 3] = [&["second"], &[], &["first", "second"]];
        apply(&scene, &scene.config(&two_forwarders(paths[round % paths.len()])));
    }
    flood.wait_for_more(100, BUSY).unwrap();
    let count = flood.stop();
    assert_eq!((count.damaged, count.reordered), (0, 0), "{count:?}");
    assert_eq!(count.received, count.sent, "{count:?}");
    let status = switch.status().unwrap();
    assert_eq!(status.drops_by_reason(), before.drops_by_reason());
    assert!(status.endpoint_of("fwd1").unwrap().returned > 0, "the longer chain was in use");
    assert_conserved(&status);
    switch.stop().unwrap();
}
