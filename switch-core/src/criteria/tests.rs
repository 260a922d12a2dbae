//! The tables of the module's documentation, cell by cell.

use super::*;
use crate::header::HeaderCopy;
use crate::test_frames::{ethernet, ipv4, ipv6, ports};

const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;

fn any() -> Criteria {
    Criteria::default()
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
}

fn from_here() -> Criteria {
    Criteria { source: Some(prefix("10.0.0.0/24")), ..any() }
}

fn from_elsewhere() -> Criteria {
    Criteria { source: Some(prefix("10.0.1.0/24")), ..any() }
}

fn of_protocol(protocol: u8) -> Criteria {
    Criteria { protocol: Some(protocol), ..any() }
}

fn to_port(port: u16) -> Criteria {
    Criteria { destination_ports: Some(port..=port), ..any() }
}

fn evaluate(criteria: &Criteria, frame: &[u8]) -> Match {
    criteria.evaluate(&HeaderCopy::of_frame(frame).parse())
}

fn v4(protocol: u8) -> Vec<u8> {
    ipv4([10, 0, 0, 1], [10, 0, 0, 2], protocol, &ports(1000, 80))
}

fn fragment(protocol: u8) -> Vec<u8> {
    let mut frame = v4(protocol);
    frame[14 + 6] = 0x20;
    frame
}

#[test]
fn a_rule_without_fields_matches_everything() {
    let mut malformed = v4(TCP);
    malformed[14] = 0x41;
    let frames = [v4(TCP), fragment(TCP), v4(GRE), ethernet(0x0806, &[0; 28]), ethernet(0x8847, &[0; 28])];
    for frame in frames.iter().chain([&malformed, &vec![0; 3]]) {
        assert_eq!(evaluate(&any(), frame), Match::Yes);
    }
}

/// From station 4 to station 2, as all test frames, in the VLANs of `tags`, outermost first.
fn tagged(tags: &[(u16, u16)]) -> Vec<u8> {
    let mut frame = v4(TCP);
    for (ethertype, control) in tags.iter().rev() {
        let tag = [ethertype.to_be_bytes(), control.to_be_bytes()].concat();
        frame.splice(12..12, tag);
    }
    frame
}

fn in_vlan(vlan: u16) -> Criteria {
    Criteria { vlan: Some(vlan), ..any() }
}

fn between(source: u8, destination: u8) -> Criteria {
    let station = |last| Some(MacAddress([last; 6]));
    Criteria { source_mac: station(source), destination_mac: station(destination), ..any() }
}

#[test]
fn the_number_of_the_outer_tag_is_compared_without_its_priority() {
    let frame = tagged(&[(0x88a8, 0xf064), (0x8100, 7)]);
    assert_eq!(evaluate(&in_vlan(100), &frame), Match::Yes);
    for other in [7, 99, 101, 100 | 1 << 11] {
        assert_eq!(evaluate(&in_vlan(other), &frame), Match::No, "{other}");
    }
}

#[test]
fn a_frame_without_a_tag_is_in_no_vlan() {
    assert_eq!(evaluate(&in_vlan(1), &v4(TCP)), Match::No);
    assert_eq!(evaluate(&in_vlan(1), &ethernet(0x8847, &[0; 40])), Match::No);
    assert_eq!(
        evaluate(&in_vlan(1), &tagged(&[(0x8100, 0xe000)])),
        Match::No,
        "a tag for its priority alone"
    );
}

#[test]
fn a_tag_that_is_not_read_hides_the_vlan() {
    let frame = tagged(&[(0x9100, 100)]);
    assert_eq!(evaluate(&in_vlan(100), &frame), Match::CannotSay(DropReason::TunnelUnclassified));
    let below_a_tag = tagged(&[(0x8100, 100), (0x9100, 5)]);
    assert_eq!(evaluate(&in_vlan(100), &below_a_tag), Match::Yes);
}

#[test]
fn a_frame_that_ends_within_its_header_or_tag_hides_what_is_behind() {
    let frame = tagged(&[(0x8100, 100)]);
    let cannot_say = Match::CannotSay(DropReason::HeaderMalformed);
    assert_eq!(evaluate(&in_vlan(100), &frame[..17]), cannot_say);
    assert_eq!(evaluate(&in_vlan(100), &frame[..18]), Match::Yes);
    assert_eq!(evaluate(&between(4, 2), &frame[..13]), cannot_say);
    assert_eq!(evaluate(&between(4, 2), &frame[..14]), Match::Yes);
    let elsewhere = Criteria { vlan: Some(100), ..between(4, 3) };
    assert_eq!(evaluate(&elsewhere, &frame[..17]), Match::No, "another station is certain");
}

#[test]
fn both_stations_are_compared_in_every_bit() {
    let frame = v4(TCP);
    assert_eq!(evaluate(&between(4, 2), &frame), Match::Yes);
    assert_eq!(evaluate(&between(2, 4), &frame), Match::No);
    for bit in 0..48 {
        let mut address = MacAddress([4; 6]);
        address.0[bit / 8] ^= 1 << (bit % 8);
        let criteria = Criteria { source_mac: Some(address), ..any() };
        assert_eq!(evaluate(&criteria, &frame), Match::No, "{address}");
    }
}

#[test]
fn stations_and_vlan_are_known_of_what_hides_the_rest() {
    let fragmented = fragment(TCP);
    let asking = Criteria { protocol: Some(TCP), ..between(4, 2) };
    assert_eq!(evaluate(&asking, &fragmented), Match::CannotSay(DropReason::FragmentUnclassified));
    assert_eq!(evaluate(&Criteria { protocol: Some(TCP), ..between(4, 3) }, &fragmented), Match::No);
}

#[test]
fn only_criteria_without_any_field_are_for_all() {
    assert!(any().are_for_all());
    let with_one_field = [
        in_vlan(1),
        Criteria { source_mac: Some(MacAddress::default()), ..any() },
        Criteria { destination_mac: Some(MacAddress::default()), ..any() },
        of_protocol(TCP),
        from_here(),
        Criteria { destination: Some(prefix("0.0.0.0/0")), ..any() },
        Criteria { source_ports: Some(0..=u16::MAX), ..any() },
        to_port(80),
    ];
    assert!(with_one_field.iter().all(|criteria| !criteria.are_for_all()));
}

#[test]
fn a_whole_packet_is_compared_field_by_field() {
    let frame = v4(TCP);
    for rule in [from_here(), of_protocol(TCP), to_port(80)] {
        assert_eq!(evaluate(&rule, &frame), Match::Yes);
    }
    for rule in [from_elsewhere(), of_protocol(UDP), to_port(81)] {
        assert_eq!(evaluate(&rule, &frame), Match::No);
    }
    let all = Criteria {
        protocol: Some(TCP),
        source: Some(prefix("10.0.0.1/32")),
        destination: Some(prefix("0.0.0.0/0")),
        source_ports: Some(1000..=1000),
        destination_ports: Some(80..=80),
        ..any()
    };
    assert_eq!(evaluate(&all, &frame), Match::Yes);
}

#[test]
fn a_port_range_holds_both_of_its_ends() {
    let rule = Criteria { destination_ports: Some(80..=90), ..any() };
    let to = |port| ipv4([10, 0, 0, 1], [10, 0, 0, 2], UDP, &ports(1, port));
    assert_eq!(evaluate(&rule, &to(80)), Match::Yes);
    assert_eq!(evaluate(&rule, &to(90)), Match::Yes);
    assert_eq!(evaluate(&rule, &to(79)), Match::No);
    assert_eq!(evaluate(&rule, &to(91)), Match::No);
}

#[test]
fn a_rule_for_ports_does_not_match_a_protocol_without_ports() {
    assert_eq!(evaluate(&to_port(80), &v4(1)), Match::No);
    assert_eq!(evaluate(&of_protocol(1), &v4(1)), Match::Yes);
    assert_eq!(evaluate(&of_protocol(89), &v4(89)), Match::Yes);
}

#[test]
fn what_is_not_ip_matches_no_rule_with_fields() {
    for rule in [from_here(), of_protocol(TCP), to_port(80)] {
        assert_eq!(evaluate(&rule, &ethernet(0x0806, &[0; 28])), Match::No);
    }
}

#[test]
fn a_fragment_never_matches_a_rule_with_transport_fields() {
    let cannot_say = Match::CannotSay(DropReason::FragmentUnclassified);
    assert_eq!(evaluate(&to_port(80), &fragment(TCP)), cannot_say);
    assert_eq!(evaluate(&to_port(81), &fragment(TCP)), cannot_say, "the first fragment shows its ports");
    assert_eq!(evaluate(&of_protocol(TCP), &fragment(TCP)), cannot_say);
    assert_eq!(evaluate(&from_here(), &fragment(TCP)), Match::Yes);
    assert_eq!(evaluate(&from_elsewhere(), &fragment(TCP)), Match::No);
}

#[test]
fn what_a_fragment_does_show_can_rule_it_out() {
    assert_eq!(evaluate(&of_protocol(UDP), &fragment(TCP)), Match::No);
    assert_eq!(evaluate(&Criteria { protocol: Some(TCP), ..from_elsewhere() }, &fragment(TCP)), Match::No);
    // A fragmented tunnel may carry the asked protocol inside.
    let cannot_say = Match::CannotSay(DropReason::FragmentUnclassified);
    assert_eq!(evaluate(&of_protocol(TCP), &fragment(4)), cannot_say);
}

#[test]
fn an_ipv6_fragment_says_nothing_of_its_protocol() {
    let mut payload = vec![UDP, 0, 0, 1, 0, 0, 0, 1];
    payload.extend(ports(1000, 80));
    let frame = ipv6("2001:db8::1", "2001:db8::2", 44, &payload);
    let cannot_say = Match::CannotSay(DropReason::FragmentUnclassified);
    assert_eq!(evaluate(&of_protocol(TCP), &frame), cannot_say);
    assert_eq!(evaluate(&of_protocol(44), &frame), cannot_say);
    assert_eq!(evaluate(&Criteria { source: Some(prefix("2001:db8::/32")), ..any() }, &frame), Match::Yes);
}

#[test]
fn extension_headers_hide_the_transport_from_every_rule_that_asks_for_it() {
    let mut payload = vec![TCP, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(ports(1000, 80));
    let frame = ipv6("2001:db8::1", "2001:db8::2", 60, &payload);
    let cannot_say = Match::CannotSay(DropReason::Ipv6ExtensionUnclassified);
    for rule in [of_protocol(TCP), of_protocol(UDP), of_protocol(60), to_port(80), to_port(81)] {
        assert_eq!(evaluate(&rule, &frame), cannot_say);
    }
    let other_source = Criteria { source: Some(prefix("2001:db9::/32")), ..to_port(80) };
    assert_eq!(evaluate(&other_source, &frame), Match::No);
}

#[test]
fn a_tunnel_matches_only_a_rule_for_that_very_tunnel() {
    let cannot_say = Match::CannotSay(DropReason::TunnelUnclassified);
    assert_eq!(evaluate(&of_protocol(GRE), &v4(GRE)), Match::Yes);
    assert_eq!(evaluate(&of_protocol(TCP), &v4(GRE)), cannot_say);
    assert_eq!(evaluate(&to_port(80), &v4(GRE)), cannot_say);
    assert_eq!(evaluate(&Criteria { protocol: Some(GRE), ..to_port(80) }, &v4(GRE)), cannot_say);
    assert_eq!(evaluate(&from_here(), &v4(GRE)), Match::Yes);
    assert_eq!(evaluate(&Criteria { protocol: Some(TCP), ..from_elsewhere() }, &v4(GRE)), Match::No);
}

#[test]
fn below_an_encapsulation_not_even_addresses_are_known() {
    let cannot_say = Match::CannotSay(DropReason::TunnelUnclassified);
    for rule in [from_here(), from_elsewhere(), of_protocol(TCP)] {
        assert_eq!(evaluate(&rule, &ethernet(0x8847, &[0; 40])), cannot_say);
    }
}

#[test]
fn a_malformed_header_is_named_by_every_rule_that_reads_it() {
    let mut frame = v4(TCP);
    frame[14 + 3] = 200;
    for rule in [from_here(), from_elsewhere(), of_protocol(UDP)] {
        assert_eq!(evaluate(&rule, &frame), Match::CannotSay(DropReason::HeaderMalformed));
    }
}

#[test]
fn a_transport_header_cut_short_is_named_where_it_would_count() {
    let frame = ipv4([10, 0, 0, 1], [10, 0, 0, 2], TCP, &ports(1000, 80)[..19]);
    assert_eq!(evaluate(&from_here(), &frame), Match::Yes);
    assert_eq!(evaluate(&of_protocol(UDP), &frame), Match::No);
    assert_eq!(evaluate(&of_protocol(TCP), &frame), Match::CannotSay(DropReason::HeaderMalformed));
    assert_eq!(evaluate(&to_port(80), &frame), Match::CannotSay(DropReason::HeaderMalformed));
}

#[test]
fn prefixes_hold_their_first_and_last_address_and_no_other() {
    let inside = |prefix: &Prefix, address: &str| prefix.contains(address.parse().unwrap());
    let four = prefix("10.1.2.77/23");
    assert!(inside(&four, "10.1.2.0") && inside(&four, "10.1.3.255"));
    assert!(!inside(&four, "10.1.1.255") && !inside(&four, "10.1.4.0"));
    let six = prefix("2001:db8:0:8000::/49");
    assert!(inside(&six, "2001:db8:0:8000::") && inside(&six, "2001:db8:0:ffff:ffff:ffff:ffff:ffff"));
    assert!(!inside(&six, "2001:db8:0:7fff:ffff:ffff:ffff:ffff") && !inside(&six, "2001:db8:1::"));
}

#[test]
fn a_prefix_of_no_bits_holds_its_family_and_one_of_all_bits_one_address() {
    let inside = |prefix: &Prefix, address: &str| prefix.contains(address.parse().unwrap());
    assert!(inside(&prefix("0.0.0.0/0"), "255.1.2.3") && !inside(&prefix("0.0.0.0/0"), "::1"));
    assert!(inside(&prefix("::/0"), "ffff::") && !inside(&prefix("::/0"), "1.2.3.4"));
    assert!(inside(&prefix("::1/128"), "::1") && !inside(&prefix("::1/128"), "::2"));
}

#[test]
fn refuses_a_prefix_longer_than_its_address() {
    assert!(Prefix::new("10.0.0.0".parse().unwrap(), 32).is_some());
    assert!(Prefix::new("10.0.0.0".parse().unwrap(), 33).is_none());
    assert!(Prefix::new("::".parse().unwrap(), 128).is_some());
    assert!(Prefix::new("::".parse().unwrap(), 129).is_none());
}

#[test]
fn criteria_for_groups_match_broadcast_and_multicast_and_no_single_station() {
    let groups = Criteria { for_group: true, ..any() };
    assert!(!groups.are_for_all());
    for (first, matches) in [(0xff, Match::Yes), (0x01, Match::Yes), (0x33, Match::Yes), (0x02, Match::No)] {
        let mut frame = v4(TCP);
        frame[0] = first;
        assert_eq!(evaluate(&groups, &frame), matches, "{first:#x}");
    }
    assert_eq!(evaluate(&groups, &[0xff; 13]), Match::CannotSay(DropReason::HeaderMalformed));
}
