//! The chain of the demo as host processes: a firewall and a router between a client and a server.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use lab::child::Child;
use lab::namespace::Namespace;
use lab::switch::Switch;
use lab::transfer::ping;
use vm_tests::config::{CABLES, CAPTURES, SWITCH_AND_DOMAIN};
use vm_tests::random::Random;
use vm_tests::scene::{assert_conserved, wait_all_home};
use vm_tests::{Scene, capture, config};

/// A firewall, then a router that may be lent `credit` empty buffers.
fn firewall_and_router(ports: &str, credit: u32) -> String {
    [
        SWITCH_AND_DOMAIN,
        ports,
        &config::service("firewall", ""),
        &config::service("router", "may_target = [\"client\", \"server\"]"),
        &config::there_and_back(&["firewall", "router"]),
        &config::process("fw0", "firewall", ""),
        &config::process("rt0", "router", &format!("credit_buffers = {credit}")),
    ]
    .concat()
}

const RULES: &str = include_str!("../../security-domains/examples/firewall-rules.toml");
const ROUTES: &str = include_str!("../../security-domains/examples/router-routes.toml");

const SERVER: &str = "10.2.0.2";
const LIMIT: Duration = Duration::from_secs(60);

/// A switch with both network functions attached.
struct Chain {
    switch: Switch,
    firewall: Child,
    router: Child,
}

impl Chain {
    fn start(scene: &Scene, ports: &str, credit: u32, rules: &str, routes: &str) -> Self {
        let mut switch = scene.switch(&firewall_and_router(ports, credit));
        let file = |name: &str, text: &str| {
            let path = scene.dir.join(name);
            fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let (rules, routes) = (file("rules.toml", rules), file("routes.toml", routes));
        // The router first: a capture that is paced starts when the whole chain is attached.
        let router = switch.start_process("rt0", "router", &["--routes", &routes]).expect("a router");
        let firewall = switch.start_process("fw0", "firewall", &["--rules", &rules]).expect("a firewall");
        switch.wait_attached(&["fw0", "rt0"], Duration::from_secs(20)).unwrap_or_else(|err| panic!("{err}"));
        Self { switch, firewall, router }
    }

    /// Stops everything; both network functions say what they counted, and no buffer is missing.
    fn stop(mut self) {
        for child in [self.firewall, self.router] {
            let name = child.name().to_owned();
            assert!(child.stop(Duration::from_secs(10)).expect("an end").success(), "{name}");
            assert_conserved(&wait_all_home(&mut self.switch, &name));
        }
        self.switch.stop().expect("an end without a missing buffer");
    }
}

fn hosts(scene: &Scene) -> (Namespace, Namespace) {
    (scene.host("c", "10.1.0.2/24", Some("10.1.0.1")), scene.host("s", "10.2.0.2/24", Some("10.2.0.1")))
}

/// The number behind `what` in a log: "rule[web] allowed 12 packets", "forwarded 12".
fn counted(log: &str, what: &str) -> u64 {
    let rest = log.lines().find_map(|line| line.split_once(&format!("{what} "))).map(|(_, rest)| rest);
    let number = rest.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok());
    number.unwrap_or(0)
}

/// What a command says, whether it succeeds or not.
fn said(namespace: &Namespace, program: &str, args: &[&str]) -> String {
    let mut command: Command = namespace.command(program);
    let output = command.args(args).output().expect("a command that starts");
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

#[test]
fn pings_and_a_file_cross_a_firewall_and_a_router() {
    let scene = Scene::new();
    let (client, server) = hosts(&scene);
    let mut chain = Chain::start(&scene, CABLES, 8, RULES, ROUTES);

    let pings = ping(&client, SERVER, 20, 20).unwrap();
    assert_eq!(pings.answered, 20, "the first one too: it waits for its neighbour");
    scene.assert_a_file_crosses(&client, &server, SERVER);

    let status = chain.switch.status().unwrap();
    assert_eq!(status.copies_in_trusted_chain, 0);
    assert_eq!(status.dropped("verdict_denied"), 0, "{:?}", status.drops);
    for owner in ["fw0", "rt0"] {
        assert!(status.endpoint_of(owner).unwrap().returned > 10_000, "{:?}", status.endpoints);
    }
    assert_conserved(&status);
    chain.switch.child().check_alive().unwrap();
    chain.stop();
    let rules = scene.log("fw0");
    assert!(counted(&rules, "rule[ping] allowed") >= 40, "{rules}");
    assert!(counted(&rules, "rule[web-answers] allowed") > 10_000, "{rules}");
}

#[test]
fn without_credit_each_question_costs_one_ping_and_the_others_pass() {
    let scene = Scene::new();
    let (client, _server) = hosts(&scene);
    let chain = Chain::start(&scene, CABLES, 0, RULES, ROUTES);
    let pings = ping(&client, SERVER, 10, 200).unwrap();
    chain.stop();
    let asked = counted(&scene.log("rt0"), "turned_into_arp");
    assert!((1..=2).contains(&asked), "one question, or two if the first was lost: {asked}");
    assert_eq!(pings.answered + asked, 10, "{pings:?}");
}

#[test]
fn the_router_answers_arp_and_echo_for_itself_and_reports_what_it_cannot_forward() {
    let scene = Scene::new();
    let (client, server) = hosts(&scene);
    let chain = Chain::start(&scene, CABLES, 8, RULES, ROUTES);
    for (host, gateway, mac) in
        [(&client, "10.1.0.1", "02:00:00:00:01:01"), (&server, "10.2.0.1", "02:00:00:00:02:01")]
    {
        assert_eq!(ping(host, gateway, 3, 20).unwrap().answered, 3, "{gateway}");
        let neighbours = said(host, "ip", &["neigh"]);
        assert!(neighbours.contains(&format!("{gateway} dev eth0 lladdr {mac}")), "{neighbours}");
    }
    let expired = said(&client, "ping", &["-n", "-c", "1", "-W", "2", "-t", "1", SERVER]);
    assert!(expired.contains("From 10.1.0.1") && expired.contains("Time to live exceeded"), "{expired}");
    let nowhere = said(&client, "ping", &["-n", "-c", "1", "-W", "2", "192.0.2.1"]);
    assert!(nowhere.contains("From 10.1.0.1") && nowhere.contains("Net Unreachable"), "{nowhere}");
    let nobody = said(&client, "ping", &["-n", "-c", "1", "-W", "6", "10.2.0.99"]);
    assert!(nobody.contains("From 10.1.0.1") && nobody.contains("Host Unreachable"), "{nobody}");
    let upwards = said(&server, "ping", &["-n", "-c", "1", "-W", "2", "-t", "1", "10.1.0.2"]);
    assert!(upwards.contains("From 10.2.0.1") && upwards.contains("Time to live exceeded"), "{upwards}");
    chain.stop();
    let log = scene.log("rt0");
    assert_eq!(counted(&log, "time_exceeded_sent"), 2, "{log}");
    assert_eq!(counted(&log, "net_unreachable_sent"), 1, "{log}");
    assert_eq!(counted(&log, "host_unreachable_sent"), 1, "{log}");
    assert!(counted(&log, "echo_answered") >= 6, "{log}");
}

#[test]
fn a_port_that_the_rules_do_not_name_is_blocked_and_counted_in_both_directions() {
    let scene = Scene::new();
    let (client, server) = hosts(&scene);
    let chain = Chain::start(&scene, CABLES, 8, RULES, ROUTES);
    let url = |host: &str, port: u16| format!("http://{host}:{port}/");
    let curl = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "2"];
    for (host, url, why) in [
        (&client, url(SERVER, 23), "a rule drops it"),
        (&client, url(SERVER, 8081), "no rule allows it"),
        (&server, url("10.1.0.2", 8080), "requests come from the other side"),
    ] {
        let answer = said(host, "curl", &[&curl[..], &[&url]].concat());
        assert!(answer.contains("timed out"), "{why}: {answer}");
    }
    chain.stop();
    let log = scene.log("fw0");
    assert!(counted(&log, "rule[telnet] dropped") >= 1, "{log}");
    assert!(counted(&log, "default dropped") >= 2, "{log}");
}

#[test]
fn a_router_that_is_killed_and_started_again_loses_no_buffer_that_it_held() {
    let scene = Scene::new();
    let (client, _server) = hosts(&scene);
    let mut chain = Chain::start(&scene, CABLES, 8, RULES, ROUTES);
    // Pings to nobody: the router holds them while it asks.
    let waiting = said(&client, "ping", &["-n", "-c", "3", "-i", "0.1", "-W", "1", "10.2.0.99"]);
    assert!(waiting.contains("0 received"), "{waiting}");
    let held = chain.switch.status().unwrap().endpoint_of("rt0").unwrap().held;
    assert!(held > 8, "pings wait in the router, beside 8 empty buffers: {held}");
    chain.router.kill().unwrap();
    assert_conserved(&wait_all_home(&mut chain.switch, "rt0"));
    let routes = scene.dir.join("routes.toml").display().to_string();
    chain.router = chain.switch.start_process("rt0", "router", &["--routes", &routes]).unwrap();
    chain.switch.wait_attached(&["rt0"], Duration::from_secs(20)).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!(ping(&client, SERVER, 5, 20).unwrap().answered, 5);
    chain.stop();
}

/// A rewriter, then a monitor; the monitor alone on the way back.
fn rewriter_and_monitor() -> String {
    [
        SWITCH_AND_DOMAIN,
        CAPTURES,
        &config::service("rewriter", ""),
        &config::service("monitor", ""),
        &config::chain("upstream", &["rewriter", "monitor"], "server"),
        &config::chain("downstream", &["monitor"], "client"),
        &config::process("l2", "rewriter", ""),
        &config::process("mon0", "monitor", ""),
    ]
    .concat()
}

#[test]
fn a_capture_passes_a_rewriter_and_a_monitor_that_counts_every_byte_of_it() {
    let scene = Scene::new();
    let frames = capture::udp_frames(10_000, 7, 44);
    capture::prepare(&scene, &frames);
    let mut switch = scene.switch(&rewriter_and_monitor());
    let monitor = switch.start_process("mon0", "monitor", &["--every", "1"]).unwrap();
    let rewriter = switch.start_process("l2", "l2fwd", &["--swap"]).unwrap();
    let sent = frames.len() as u64;
    switch
        .wait_for("the capture to be played", LIMIT, |status| {
            status.port("server").is_some_and(|port| port.tx_packets == sent)
        })
        .unwrap_or_else(|err| panic!("{err}"));
    for child in [rewriter, monitor] {
        assert!(child.stop(Duration::from_secs(10)).unwrap().success());
    }
    switch.stop().unwrap();
    let out = capture::read(&scene.dir.join("out.pcap"));
    let swapped = |frame: &Vec<u8>| [&frame[6..12], &frame[..6], &frame[12..]].concat();
    assert!(out == frames.iter().map(swapped).collect::<Vec<_>>(), "the frames differ");

    let log = scene.log("mon0");
    let last = log.lines().rfind(|line| line.starts_with('{')).expect("a report");
    let report: serde_json::Value = serde_json::from_str(last).unwrap();
    let bytes: usize = frames.iter().map(Vec::len).sum();
    assert_eq!((&report["packets"], &report["bytes"]), (&sent.into(), &bytes.into()), "{last}");
    assert_eq!(
        (&report["protocols"]["udp"]["packets"], &report["flows"]),
        (&sent.into(), &7.into()),
        "{last}"
    );
}

/// What the capture's frames are addressed to.
const CLIENT_SIDE_MAC: &str = "02:00:00:00:00:02";
/// What the server is said to have, so that nobody needs to be asked.
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x02, 0x02];
const EGRESS_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x02, 0x01];

/// Makes the capture worth judging: some packets to a dropped port, some from a dropped source, some with few
/// hops left, and all with checksums that fit.
fn varied_frames(count: usize) -> Vec<Vec<u8>> {
    let mut random = Random::seeded(77);
    let mut frames = capture::udp_frames(count, 7, 43);
    for frame in &mut frames {
        frame[22] = u8::try_from(2 + random.below(254)).expect("at most 255");
        let port = [9_u16, 23, 5000, 5001][usize::try_from(random.below(4)).expect("below 4")];
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frames
}

/// The Internet checksum, one word at a time.
fn checksum(header: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in header.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// What the rules and routes of the replay make of a frame, worked out by hand: no code is shared with the
/// network functions, and the checksum is summed anew.
fn rewritten_by_hand(frame: &[u8]) -> Option<Vec<u8>> {
    let source = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
    let port = u16::from_be_bytes([frame[36], frame[37]]);
    if source == Ipv4Addr::new(10, 1, 0, 3) || !(port == 9 || port == 5000) {
        return None;
    }
    let mut out = frame.to_vec();
    out[..6].copy_from_slice(&SERVER_MAC);
    out[6..12].copy_from_slice(&EGRESS_MAC);
    out[22] -= 1;
    out[24..26].fill(0);
    let sum = checksum(&out[14..34]);
    out[24..26].copy_from_slice(&sum.to_be_bytes());
    Some(out)
}

#[test]
fn a_replayed_capture_comes_out_as_rules_and_routes_say_byte_for_byte_and_in_order() {
    let scene = Scene::new();
    let frames = varied_frames(20_000);
    capture::prepare(&scene, &frames);
    let rules = r#"
[[rule]]
name = "third"
action = "drop"
src = "10.1.0.3/32"

[[rule]]
name = "discard"
action = "allow"
proto = "udp"
dport = 9

[[rule]]
name = "five-thousand"
action = "allow"
proto = "udp"
src = "10.1.0.0/24"
dst = "10.2.0.0/24"
dport = "4000-5000"
"#;
    let neighbour = "\n[[neighbour]]\naddress = \"10.2.0.2\"\nmac = \"02:00:00:00:02:02\"\n";
    let routes = ROUTES.replace("02:00:00:00:01:01", CLIENT_SIDE_MAC) + neighbour;
    let expected: Vec<Vec<u8>> = frames.iter().filter_map(|frame| rewritten_by_hand(frame)).collect();
    assert!((5_000..15_000).contains(&expected.len()), "a capture worth judging");

    let mut chain = Chain::start(&scene, CAPTURES, 0, rules, &routes);
    let (sent, dropped) = (expected.len() as u64, (frames.len() - expected.len()) as u64);
    let status = chain
        .switch
        .wait_for("the capture to be played", LIMIT, |status| {
            status.port("server").is_some_and(|port| port.tx_packets == sent)
                && status.dropped("nf_drop") == dropped
        })
        .unwrap_or_else(|err| panic!("{err}"));
    assert_conserved(&status);
    let drops: u64 = status.drops_by_reason().values().sum();
    assert_eq!(drops, dropped, "nothing else is dropped: {:?}", status.drops);
    chain.stop();
    let out = capture::read(&scene.dir.join("out.pcap"));
    assert_eq!(out.len(), expected.len());
    let differing = out.iter().zip(&expected).position(|(out, expected)| out != expected);
    assert_eq!(differing, None, "the first frame that differs");
    let log = scene.log("fw0");
    let third = frames.iter().filter(|frame| frame[26..30] == [10, 1, 0, 3]).count() as u64;
    assert_eq!(counted(&log, "rule[third] dropped"), third, "{log}");
    assert_eq!(counted(&scene.log("rt0"), "forwarded"), sent);
}
