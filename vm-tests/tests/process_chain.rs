//! A chain with one forwarder as a host process: real hosts, real traffic, real deaths.

use std::net::Ipv4Addr;
use std::time::Duration;

use lab::flood::Flood;
use lab::switch::Switch;
use lab::transfer::ping;
use rustix::process::Signal;
use vm_tests::config::{CABLES, CAPTURES, SWITCH_AND_DOMAIN};
use vm_tests::random::Random;
use vm_tests::scene::{assert_conserved, wait_all_home};
use vm_tests::{Scene, capture, config};

/// One forwarder between client and server; `when_dead` says what its chains do without it.
fn one_forwarder(ports: &str, when_dead: &str) -> String {
    [
        SWITCH_AND_DOMAIN,
        ports,
        &config::service("forwarder", &format!("when_dead = \"{when_dead}\"")),
        &config::there_and_back(&["forwarder"]),
        &config::process("fwd0", "forwarder", ""),
    ]
    .concat()
}

/// How long traffic may take to flow on a machine that is busy.
const BUSY: Duration = Duration::from_secs(60);
const SERVER: &str = "10.1.0.3";

fn attached(switch: &mut Switch) {
    switch.wait_attached(&["fwd0"], Duration::from_secs(20)).unwrap_or_else(|err| panic!("{err}"));
}

#[test]
fn pings_and_a_file_cross_a_forwarder_without_a_copy() {
    let scene = Scene::new();
    let (client, server) = scene.hosts();
    let mut switch = scene.switch(&one_forwarder(CABLES, "closed"));
    let _nf = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    attached(&mut switch);

    let pings = ping(&client, SERVER, 20, 20).unwrap();
    assert_eq!(pings.answered, 20, "{pings:?}");

    scene.assert_a_file_crosses(&client, &server, SERVER);

    let status = switch.status().unwrap();
    assert_eq!(status.copies_in_trusted_chain, 0);
    assert!(status.endpoint_of("fwd0").unwrap().returned > 10_000);
    assert_conserved(&status);
    switch.stop().unwrap();
}

#[test]
fn a_chain_whose_service_is_dead_drops_by_name_when_closed() {
    let scene = Scene::new();
    let (client, _server) = scene.hosts();
    let switch = scene.switch(&one_forwarder(CABLES, "closed"));
    assert_eq!(ping(&client, SERVER, 3, 20).unwrap().answered, 0);
    let status = switch.status().unwrap();
    assert!(status.dropped("service_dead") > 0, "{:?}", status.drops);
    assert_conserved(&status);
    switch.stop().unwrap();
}

#[test]
fn a_chain_whose_service_is_dead_goes_round_it_when_open() {
    let scene = Scene::new();
    let (client, _server) = scene.hosts();
    let switch = scene.switch(&one_forwarder(CABLES, "open"));
    assert_eq!(ping(&client, SERVER, 5, 20).unwrap().answered, 5);
    switch.stop().unwrap();
}

#[test]
fn fifty_killed_forwarders_lose_no_buffer() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&one_forwarder(CABLES, "closed"));
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 20_000).unwrap();
    let mut random = Random::seeded(0x006b_696c_6c65_6421);
    for round in 0..50 {
        let nf = switch.start_process("fwd0", "forwarder", &[]).unwrap();
        attached(&mut switch);
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        nf.kill().unwrap();
        let status = wait_all_home(&mut switch, "fwd0");
        assert_conserved(&status);
        assert_eq!(status.endpoint_of("fwd0").unwrap().epoch, round + 1, "one epoch for each attach");
    }
    let nf = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    attached(&mut switch);
    flood.wait_for_more(100, BUSY).unwrap_or_else(|err| panic!("after 50 deaths: {err}"));
    let count = flood.stop();
    assert_eq!((count.damaged, count.reordered), (0, 0), "{count:?}");
    drop(nf);
    switch.stop().unwrap();
}

/// A second pair of ports on the cables of hosts "d" and "t", with a forwarder of its own.
const OTHER_CABLES: &str = r#"
[[port]]
name = "other-client"
device = "net_af_packet2,iface=IDd"
domain = "blue"
chain = "other-upstream"

[[port]]
name = "other-server"
device = "net_af_packet3,iface=IDt"
domain = "blue"
chain = "other-downstream"
"#;

#[test]
fn a_chain_that_avoids_the_dead_one_loses_no_packet() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let (other_client, other_server) =
        (scene.host("d", "10.5.0.2/24", None), scene.host("t", "10.5.0.3/24", None));
    let config = [
        &one_forwarder(CABLES, "closed"),
        OTHER_CABLES,
        &config::service("other", ""),
        &config::chain("other-upstream", &["other"], "other-server"),
        &config::chain("other-downstream", &["other"], "other-client"),
        &config::process("fwd1", "other", ""),
    ]
    .concat();
    let mut switch = scene.switch(&config);
    let _other = switch.start_process("fwd1", "forwarder", &[]).unwrap();
    switch.wait_attached(&["fwd1"], Duration::from_secs(20)).unwrap_or_else(|err| panic!("{err}"));
    let mut nf = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    attached(&mut switch);
    let noise = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 5_000).unwrap();
    let watched =
        Flood::start(&other_client, &other_server, Ipv4Addr::new(10, 5, 0, 3), 9000, 1_000).unwrap();
    let mut random = Random::seeded(0x0061_766f_6964);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_micros(50_000 + random.below(60_000)));
        nf.kill().unwrap();
        assert_conserved(&wait_all_home(&mut switch, "fwd0"));
        nf = switch.start_process("fwd0", "forwarder", &[]).unwrap();
        attached(&mut switch);
    }
    drop(nf);
    assert!(noise.stop().received > 0, "the other chain was in use");
    let count = watched.stop();
    assert!(count.sent > 500, "{count:?}");
    assert_eq!((count.received, count.damaged, count.reordered), (count.sent, 0, 0), "{count:?}");
    switch.stop().unwrap();
}

#[test]
fn a_paused_forwarder_goes_on_where_it_was() {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&one_forwarder(CABLES, "closed"));
    let nf = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    attached(&mut switch);
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 5_000).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    nf.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(4));
    assert_conserved(&switch.status().unwrap());
    nf.signal(Signal::CONT);
    // What it held when it was paused is at most its quota; these are more.
    flood.wait_for_more(2_000, BUSY).unwrap_or_else(|err| panic!("{err}"));
    let count = flood.stop();
    assert_eq!(count.damaged, 0, "{count:?}");
    let status = switch.status().unwrap();
    assert_eq!(status.endpoint_of("fwd0").unwrap().epoch, 1, "no new attach was needed");
    assert_conserved(&status);
    switch.stop().unwrap();
}

/// Fills the quota of forwarder fwd0 of an open chain, ends it by `end`, and shows how the switch stood then.
fn ended_under_saturation(end: Signal) -> lab::status::Status {
    let scene = Scene::new();
    let (client, server) = scene.introduced_hosts();
    let mut switch = scene.switch(&one_forwarder(CABLES, "open"));
    let flood = Flood::start(&client, &server, Ipv4Addr::new(10, 1, 0, 3), 9000, 50_000).expect("a flood");
    for _ in 0..10 {
        let mut nf = switch.start_process("fwd0", "forwarder", &[]).expect("a forwarder");
        attached(&mut switch);
        // It stands still until all that it may hold waits in its ring, and then learns that it is to end.
        nf.signal(Signal::STOP);
        switch
            .wait_for("the quota to be full", Duration::from_secs(5), |status| {
                status.endpoint_of("fwd0").is_some_and(|endpoint| endpoint.held == 512)
            })
            .unwrap_or_else(|err| panic!("{err}"));
        nf.signal(end);
        nf.signal(Signal::CONT);
        nf.wait(Duration::from_secs(10)).expect("its end");
        wait_all_home(&mut switch, "fwd0");
    }
    let count = flood.stop();
    assert_eq!(count.damaged, 0, "{count:?}");
    let status = switch.status().expect("a status");
    assert_conserved(&status);
    switch.stop().expect("a good end");
    status
}

#[test]
fn a_forwarder_that_leaves_under_saturation_loses_no_packet() {
    let status = ended_under_saturation(Signal::TERM);
    assert_eq!(
        (status.dropped("lost_with_endpoint"), status.dropped("nf_drop"), status.dropped("service_dead")),
        (0, 0, 0),
        "{:?}",
        status.drops
    );
}

#[test]
fn a_forwarder_that_is_killed_under_saturation_loses_what_it_held() {
    let status = ended_under_saturation(Signal::KILL);
    assert_eq!(status.dropped("lost_with_endpoint"), 10 * 512, "{:?}", status.drops);
}

#[test]
fn a_forwarder_says_what_it_did_when_its_switch_is_killed() {
    let scene = Scene::new();
    let (client, _server) = scene.hosts();
    let mut switch = scene.switch(&one_forwarder(CABLES, "closed"));
    let mut nf = switch.start_process("fwd0", "forwarder", &["--json"]).unwrap();
    attached(&mut switch);
    assert_eq!(ping(&client, SERVER, 5, 20).unwrap().answered, 5);
    switch.child().signal(Signal::KILL);
    assert!(!nf.wait(Duration::from_secs(10)).unwrap().success());
    let log = scene.log("fwd0");
    let summary = log.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{log}"));
    let summary: serde_json::Value = serde_json::from_str(summary).unwrap();
    assert_eq!(summary["end"], "switch_gone");
    assert!(summary["received"].as_u64().unwrap() >= 10, "{summary}");
}

#[test]
fn a_capture_comes_out_byte_for_byte_and_in_order() {
    let scene = Scene::new();
    let frames = capture::udp_frames(20_000, 7, 42);
    capture::prepare(&scene, &frames);
    let mut switch = scene.switch(&one_forwarder(CAPTURES, "closed"));
    let _nf = switch.start_process("fwd0", "forwarder", &[]).unwrap();
    let expected = frames.len() as u64;
    switch
        .wait_for("the capture to be played", Duration::from_secs(60), |status| {
            status.port("server").is_some_and(|port| port.tx_packets == expected)
        })
        .unwrap_or_else(|err| panic!("{err}"));
    let status = switch.status().unwrap();
    assert_conserved(&status);
    assert!(status.drops_by_reason().values().all(|packets| *packets == 0), "{:?}", status.drops);
    switch.stop().unwrap();
    assert!(capture::read(&scene.dir.join("out.pcap")) == frames, "the frames differ");
}
