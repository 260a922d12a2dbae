use std::net::{IpAddr, Ipv6Addr};

use packet::ethernet::{EthernetHeader, MacAddress};
use packet::ipv4::Ipv4Header;
use packet::ipv6::Ipv6Header;
use proptest::prelude::*;

use super::*;

const POLICY: &str = r#"
default = "drop"
arp = "allow"
ndp = "allow"

[[rule]]
name = "guarded"
action = "drop"
dst = "10.2.0.66/32"

[[rule]]
name = "no-telnet"
action = "drop"
proto = "tcp"
dport = 23

[[rule]]
name = "inside"
action = "allow"
src = "10.1.0.0/24"

[[rule]]
name = "replies"
action = "allow"
proto = "udp"
sport = "5000-5009"

[[rule]]
name = "v6"
action = "allow"
proto = "icmpv6"
src = "2001:db8::/32"
"#;

fn policy() -> Policy {
    file::parse("p.toml", POLICY).unwrap()
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    let (destination, source) = (MacAddress([2, 0, 0, 0, 0, 2]), MacAddress([2, 0, 0, 0, 0, 1]));
    EthernetHeader { destination, source, ethertype }.write(&mut frame).unwrap();
    frame.extend(payload);
    frame
}

fn ipv4(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    Ipv4Header {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        ttl: 64,
        traffic_class: 0,
        identification: 1,
        is_dont_fragment: false,
        payload_bytes: u16::try_from(payload.len()).unwrap(),
    }
    .write(&mut packet)
    .unwrap();
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

fn ports(source: u16, destination: u16, header_bytes: usize) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.resize(header_bytes, 0);
    header
}

fn tcp(source: &str, destination: &str, sport: u16, dport: u16) -> Vec<u8> {
    ipv4(source, destination, 6, &ports(sport, dport, 20))
}

fn udp(source: &str, destination: &str, sport: u16, dport: u16) -> Vec<u8> {
    ipv4(source, destination, 17, &ports(sport, dport, 8))
}

fn icmpv6(source: &str, kind: u8, hop_limit: u8) -> Vec<u8> {
    let mut packet = vec![0; 40];
    Ipv6Header {
        source: source.parse().unwrap(),
        destination: Ipv6Addr::LOCALHOST,
        next_header: 58,
        hop_limit,
        traffic_class: 0,
        flow_label: 0,
        payload_bytes: 8,
    }
    .write(&mut packet)
    .unwrap();
    packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    ethernet(0x86dd, &packet)
}

fn judge(frame: &[u8]) -> (Action, Reason) {
    let Judgement { action, reason } = policy().judge(frame, frame.len());
    (action, reason)
}

#[test]
fn the_first_rule_that_matches_wins() {
    assert_eq!(judge(&tcp("10.1.0.2", "10.2.0.2", 4000, 23)), (Action::Drop, Reason::Rule(1)));
    assert_eq!(judge(&tcp("10.1.0.2", "10.2.0.2", 4000, 24)), (Action::Allow, Reason::Rule(2)));
    assert_eq!(judge(&tcp("10.1.0.2", "10.2.0.66", 4000, 24)), (Action::Drop, Reason::Rule(0)));
}

#[test]
fn what_no_rule_matches_meets_the_default() {
    assert_eq!(judge(&tcp("10.9.0.2", "10.2.0.2", 4000, 80)), (Action::Drop, Reason::Default));
}

#[test]
fn a_port_range_holds_both_its_ends_and_nothing_beyond() {
    for (port, expected) in [(4999, Reason::Default), (5000, Reason::Rule(3)), (5009, Reason::Rule(3))] {
        assert_eq!(judge(&udp("10.2.0.2", "10.1.0.2", port, 9)).1, expected, "{port}");
    }
    assert_eq!(judge(&udp("10.2.0.2", "10.1.0.2", 5010, 9)).1, Reason::Default);
    assert_eq!(judge(&tcp("10.2.0.2", "10.1.0.2", 5000, 9)).1, Reason::Default, "another protocol");
}

#[test]
fn a_fragment_of_a_dropped_segment_does_not_slip_through_an_allowing_rule() {
    let mut frame = tcp("10.1.0.2", "10.2.0.2", 4000, 23);
    frame[14 + 7] = 1; // an offset of 8 bytes
    assert_eq!(judge(&frame), (Action::Drop, Reason::Fragment));
    frame[14 + 6] = 0x20; // more fragments,
    frame[14 + 7] = 0; // and this is the first
    assert_eq!(judge(&frame), (Action::Drop, Reason::Fragment));
}

#[test]
fn fragments_that_are_allowed_still_meet_rules_that_drop_by_address_alone() {
    let policy = Policy { fragments: Action::Allow, ..policy() };
    let judge = |mut frame: Vec<u8>| {
        frame[14 + 7] = 1;
        policy.judge(&frame, frame.len())
    };
    let allowed = Judgement { action: Action::Allow, reason: Reason::Fragment };
    assert_eq!(judge(tcp("10.9.0.2", "10.2.0.2", 4000, 23)), allowed);
    let dropped = Judgement { action: Action::Drop, reason: Reason::Rule(0) };
    assert_eq!(judge(tcp("10.9.0.2", "10.2.0.66", 4000, 80)), dropped);
}

#[test]
fn tunnels_extension_headers_and_cut_headers_have_names_of_their_own() {
    assert_eq!(judge(&ipv4("10.1.0.2", "10.2.0.2", 47, &[0; 8])), (Action::Drop, Reason::Tunnel));
    assert_eq!(judge(&ipv4("10.1.0.2", "10.2.0.2", 6, &[0; 19])), (Action::Drop, Reason::Truncated));
    let mut extended = icmpv6("2001:db8::1", 128, 64);
    extended[14 + 6] = 0; // hop-by-hop options
    assert_eq!(judge(&extended), (Action::Drop, Reason::ExtensionHeader));
}

#[test]
fn arp_and_neighbour_discovery_pass_by_their_own_keys() {
    assert_eq!(judge(&ethernet(0x0806, &[0; 28])), (Action::Allow, Reason::Arp));
    assert_eq!(judge(&icmpv6("fe80::1", 135, 255)), (Action::Allow, Reason::Ndp));
    let silent = Policy { arp: Action::Drop, ndp: Action::Drop, ..policy() };
    assert_eq!(silent.judge(&ethernet(0x0806, &[0; 28]), 42).action, Action::Drop);
    assert_eq!(silent.judge(&icmpv6("2001:db8::1", 136, 255), 62).action, Action::Drop);
}

#[test]
fn neighbour_discovery_from_beyond_the_link_is_malformed() {
    assert_eq!(judge(&icmpv6("fe80::1", 135, 254)), (Action::Drop, Reason::Malformed));
}

#[test]
fn other_icmpv6_messages_meet_the_rules() {
    assert_eq!(judge(&icmpv6("2001:db8::1", 128, 64)), (Action::Allow, Reason::Rule(4)));
    assert_eq!(judge(&icmpv6("2001:db9::1", 128, 64)), (Action::Drop, Reason::Default));
}

#[test]
fn frames_without_ip_are_dropped_unless_the_file_says_otherwise() {
    assert_eq!(judge(&ethernet(0x88cc, &[0; 46])), (Action::Drop, Reason::OtherEthertype));
    let open = Policy { other_ethertypes: Action::Allow, ..policy() };
    assert_eq!(open.judge(&ethernet(0x88cc, &[0; 46]), 60).action, Action::Allow);
    assert_eq!(open.judge(&ethernet(0x8847, &[0; 46]), 60).reason, Reason::Encapsulated);
}

#[test]
fn an_empty_file_drops_everything() {
    let policy = file::parse("p.toml", "").unwrap();
    for frame in [tcp("10.1.0.2", "10.2.0.2", 1, 2), ethernet(0x0806, &[0; 28]), icmpv6("fe80::1", 135, 255)]
    {
        assert_eq!(policy.judge(&frame, frame.len()).action, Action::Drop);
    }
}

#[test]
fn the_tally_adds_up_to_what_was_judged() {
    let policy = policy();
    let mut tally = Tally::new(&policy);
    for frame in [
        tcp("10.1.0.2", "10.2.0.2", 4000, 23),
        tcp("10.1.0.2", "10.2.0.2", 4000, 80),
        tcp("10.9.0.2", "10.2.0.2", 4000, 80),
        ethernet(0x0806, &[0; 28]),
    ] {
        tally.count(policy.judge(&frame, frame.len()), frame.len());
    }
    assert_eq!(tally.of(Reason::Rule(1)).1, Amount { packets: 1, bytes: 54 });
    assert_eq!(tally.of(Reason::Arp).0.packets, 1);
    assert_eq!(tally.shown(), [1, 1, 0, 1, 1, 0, 0, 0]);
    let text = tally.to_string();
    assert!(text.contains("rule[no-telnet] dropped 1 packets, 54 bytes\n"), "{text}");
    assert!(text.contains("default dropped 1 packets"), "{text}");
}

fn findings(text: &str) -> String {
    file::parse("p.toml", text).unwrap_err().to_string()
}

#[test]
fn a_bad_file_is_refused_with_every_finding() {
    let text = "default = \"deny\"\n\
        [[rule]]\nname = \"a\"\naction = \"allow\"\nproto = \"gre\"\n\
        [[rule]]\nname = \"a\"\naction = \"allow\"\nproto = 47\ndport = 70000\nsrc = \"10.0.0.1/8\"\n";
    assert_eq!(
        findings(text),
        "p.toml:1:11: default must be \"allow\" or \"drop\", got \"deny\"\n\
         p.toml:5:9: rule[a].proto must be \"tcp\", \"udp\", \"icmp\", \"icmpv6\", \"sctp\" or a number from 0 to 255, got \"gre\"\n\
         p.toml:7:8: rule[a].name must be unlike that of the rule in line 2, got \"a\"\n\
         p.toml:9:9: rule[a].proto must not be a tunnel: the key tunnels says what becomes of those, got 47\n\
         p.toml:10:9: rule[a].dport must be a port from 0 to 65535 or a range like \"1000-2000\", got 70000; nearest: 65535\n\
         p.toml:11:7: rule[a].src must be a prefix whose host bits are zero, got \"10.0.0.1/8\"; nearest: \"10.0.0.0/8\""
    );
}

#[test]
fn rules_that_could_never_match_are_refused() {
    let rule = |lines: &str| findings(&format!("[[rule]]\nname = \"a\"\naction = \"drop\"\n{lines}\n"));
    assert!(rule("dport = 80").contains("dport must come with a proto that has ports"));
    assert!(rule("proto = \"icmp\"\nsport = 80").contains("sport must come with a proto that has ports"));
    assert!(rule("src = \"10.0.0.0/8\"\ndst = \"::/0\"").contains("must be of the same IP version"));
    assert!(rule("proto = \"icmp\"\nsrc = \"::/0\"").contains("proto must be \"icmpv6\""));
    assert!(rule("proto = \"icmpv6\"\nsrc = \"0.0.0.0/0\"").contains("proto must be \"icmp\""));
    assert!(rule("proto = \"tcp\"\ndport = \"9-8\"").contains("nearest: \"8-9\""));
    assert!(rule("proto = \"tcp\"\ndport = \"+9\"").contains("must be a port from 0 to 65535"));
    assert!(rule("proto = \"tcp\"\ndport = \"\"").contains("must be a port from 0 to 65535"));
}

#[test]
fn the_example_of_an_untrusted_server_lets_it_get_an_address_and_serve() {
    let text = include_str!("../../../security-domains/examples/untrusted-rules.toml");
    let policy = file::parse("untrusted-rules.toml", text).unwrap();
    let judge = |frame: Vec<u8>| policy.judge(&frame, frame.len()).action;
    assert_eq!(judge(udp("0.0.0.0", "255.255.255.255", 68, 67)), Action::Allow);
    assert_eq!(judge(udp("10.1.0.2", "10.1.0.50", 67, 68)), Action::Allow);
    assert_eq!(judge(tcp("10.1.0.2", "10.1.0.50", 40000, 8080)), Action::Allow);
    assert_eq!(judge(tcp("10.1.0.50", "10.1.0.2", 8080, 40000)), Action::Allow);
    assert_eq!(judge(tcp("10.1.0.50", "10.1.0.2", 40000, 22)), Action::Drop);
    assert_eq!(judge(udp("10.1.0.50", "10.1.0.2", 40000, 53)), Action::Drop);
}

#[test]
fn the_example_of_the_demo_is_a_legal_policy() {
    let text = include_str!("../../../security-domains/examples/firewall-rules.toml");
    let policy = file::parse("firewall-rules.toml", text).unwrap();
    let judge = |frame: Vec<u8>| policy.judge(&frame, frame.len()).action;
    assert_eq!(judge(tcp("10.1.0.2", "10.2.0.2", 40000, 8080)), Action::Allow);
    assert_eq!(judge(tcp("10.2.0.2", "10.1.0.2", 8080, 40000)), Action::Allow);
    assert_eq!(judge(tcp("10.1.0.2", "10.2.0.2", 40000, 23)), Action::Drop);
    assert_eq!(judge(ipv4("10.1.0.2", "10.2.0.2", 1, &[8, 0, 0, 0, 0, 0, 0, 0])), Action::Allow);
    assert_eq!(judge(ethernet(0x0806, &[0; 28])), Action::Allow);
}

/// Any frame: noise, or a sound one with a few bytes changed and its end cut off.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..200);
    let sound = prop_oneof![
        Just(tcp("10.1.0.2", "10.2.0.2", 4000, 23)),
        Just(udp("10.2.0.2", "10.1.0.2", 5000, 9)),
        Just(icmpv6("fe80::1", 135, 255)),
        Just(ethernet(0x0806, &[0; 28])),
    ];
    let changes = proptest::collection::vec((0..64_usize, any::<u8>()), 0..6);
    let damaged = (sound, changes, 0..100_usize).prop_map(|(mut frame, changes, cut)| {
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(frame.len().saturating_sub(cut.saturating_sub(60)));
        frame
    });
    prop_oneof![noise, damaged]
}

proptest! {
    #[test]
    fn any_frame_gets_one_judgement_that_is_counted_once(frame in frames(), copied in 0..128_usize) {
        let policy = policy();
        let headers = &frame[..frame.len().min(copied)];
        let judgement = policy.judge(headers, frame.len());
        let mut tally = Tally::new(&policy);
        tally.count(judgement, frame.len());
        prop_assert_eq!(tally.shown().iter().sum::<u64>(), 1);
        let (allowed, dropped) = tally.of(judgement.reason);
        prop_assert_eq!(allowed.packets + dropped.packets, 1);
        prop_assert_eq!(allowed.packets == 1, judgement.action == Action::Allow);
    }

    #[test]
    fn nothing_is_allowed_that_is_not_a_whole_flow_or_named_by_a_key(frame in frames()) {
        let judgement = policy().judge(&frame, frame.len());
        if judgement.action == Action::Allow {
            let parsed = packet::parse(&frame, frame.len());
            let is_named = matches!(judgement.reason, Reason::Arp | Reason::Ndp);
            prop_assert!(is_named || parsed.flow_key().is_ok());
        }
    }

    #[test]
    fn rules_judge_as_a_plain_reading_of_them_does(
        source: [u8; 4], destination: [u8; 4], sport: u16, dport: u16, is_tcp: bool,
    ) {
        let [a, b] = [source, destination].map(|octets| IpAddr::from(octets).to_string());
        let frame = if is_tcp { tcp(&a, &b, sport, dport) } else { udp(&a, &b, sport, dport) };
        let expected = if b == "10.2.0.66" || (is_tcp && dport == 23) {
            Action::Drop
        } else if a.starts_with("10.1.0.") || (!is_tcp && (5000..5010).contains(&sport)) {
            Action::Allow
        } else {
            Action::Drop
        };
        prop_assert_eq!(judge(&frame).0, expected);
    }
}
