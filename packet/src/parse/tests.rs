//! Frames of every kind that the parser names.

use proptest::prelude::*;

use super::*;
use crate::ethernet::{EthernetHeader, MacAddress};
use crate::ipv4::Ipv4Header;
use crate::ipv6::Ipv6Header;
use crate::vlan::VlanTag;

const V4_A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const V4_B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const V6_A: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const V6_B: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Ports 1000 and 80, then zeros: enough of a TCP header for its ports.
const PORTS: [u8; 20] = [3, 232, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0];

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_BYTES + payload.len()];
    let header = EthernetHeader { destination: MacAddress([2; 6]), source: MacAddress([4; 6]), ethertype };
    header.write(&mut frame).unwrap().copy_from_slice(payload);
    frame
}

fn tagged(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; VLAN_TAG_BYTES + payload.len()];
    let tag = VlanTag { priority: 1, is_drop_eligible: false, vlan_id: 42, ethertype };
    tag.write(&mut bytes).unwrap().copy_from_slice(payload);
    bytes
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; IPV4_BYTES_MIN + payload.len()];
    let header = Ipv4Header {
        source: V4_A,
        destination: V4_B,
        protocol,
        ttl: 64,
        traffic_class: 0,
        identification: 1,
        is_dont_fragment: false,
        payload_bytes: u16::try_from(payload.len()).unwrap(),
    };
    header.write(&mut bytes).unwrap().copy_from_slice(payload);
    bytes
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; IPV6_BYTES + payload.len()];
    let header = Ipv6Header {
        source: V6_A,
        destination: V6_B,
        next_header,
        hop_limit: 64,
        traffic_class: 0,
        flow_label: 0,
        payload_bytes: u16::try_from(payload.len()).unwrap(),
    };
    header.write(&mut bytes).unwrap().copy_from_slice(payload);
    bytes
}

fn parse_frame(frame: &[u8]) -> Parsed {
    parse(frame, frame.len())
}

fn transport(frame: &[u8]) -> Transport {
    match parse_frame(frame).network {
        Network::Ip(ip) => ip.transport,
        other => panic!("{other:?}"),
    }
}

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(ETHERTYPE_IPV4, &ipv4(protocol, payload))
}

fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(ETHERTYPE_IPV6, &ipv6(next_header, payload))
}

#[test]
fn the_stations_are_read_in_the_order_of_the_wire() {
    let frame = ethernet(ETHERTYPE_ARP, &[]);
    let link = Link { destination: MacAddress([2; 6]), source: MacAddress([4; 6]) };
    assert_eq!(parse(&frame, frame.len()).link, Some(link));
    assert_eq!(parse(&frame[..13], 13).link, None);
}

#[test]
fn finds_the_flow_of_tcp_over_ipv4() {
    let key = parse_frame(&v4(6, &PORTS)).flow_key().unwrap();
    let expected = FlowKey {
        source: IpAddr::V4(V4_A),
        destination: IpAddr::V4(V4_B),
        source_port: 1000,
        destination_port: 80,
        protocol: 6,
    };
    assert_eq!(key, expected);
}

#[test]
fn finds_the_flow_of_udp_over_ipv6() {
    let key = parse_frame(&v6(17, &PORTS[..8])).flow_key().unwrap();
    let expected = FlowKey {
        source: IpAddr::V6(V6_A),
        destination: IpAddr::V6(V6_B),
        source_port: 1000,
        destination_port: 80,
        protocol: 17,
    };
    assert_eq!(key, expected);
}

#[test]
fn icmp_is_a_flow_without_ports() {
    assert_eq!(transport(&v4(1, &[8, 3, 0, 0, 0, 0, 0, 0])), Transport::Icmp { kind: 8, code: 3 });
    assert_eq!(transport(&v6(58, &[128, 0, 0, 0])), Transport::Icmp { kind: 128, code: 0 });
    let key = parse_frame(&v4(1, &[8, 3, 0, 0])).flow_key().unwrap();
    assert_eq!((key.source_port, key.destination_port, key.protocol), (0, 0, 1));
}

#[test]
fn looks_through_two_tags_and_not_through_three() {
    let inner = tagged(ETHERTYPE_IPV4, &ipv4(6, &PORTS));
    let one = parse_frame(&ethernet(ETHERTYPE_VLAN, &inner));
    assert_eq!((one.vlan, one.network_offset_bytes), (Some(0x202a), 18));
    assert!(one.flow_key().is_ok());
    let inner = tagged(ETHERTYPE_VLAN, &inner);
    let two = parse_frame(&ethernet(ETHERTYPE_QINQ, &inner));
    assert_eq!(two.network_offset_bytes, 22);
    assert!(two.flow_key().is_ok());
    let three = parse_frame(&ethernet(ETHERTYPE_QINQ, &tagged(ETHERTYPE_VLAN, &inner)));
    assert_eq!(three.flow_key(), Err(NotAFlow::Encapsulated));
}

#[test]
fn a_fragment_is_one_wherever_it_stands() {
    for (high, low) in [(0x20, 0), (0x20, 9), (0, 1), (0x1f, 0xff)] {
        let mut frame = v4(6, &PORTS);
        frame[ETHERNET_BYTES + 6] = high;
        frame[ETHERNET_BYTES + 7] = low;
        assert_eq!(transport(&frame), Transport::Fragment);
    }
    for bits in [0x40, 0x80] {
        let mut frame = v4(6, &PORTS);
        frame[ETHERNET_BYTES + 6] = bits;
        assert!(matches!(transport(&frame), Transport::Ports { .. }), "bits that make no fragment");
    }
}

#[test]
fn an_ipv6_fragment_is_one_also_behind_options_and_when_it_is_the_only_one() {
    let mut payload = vec![6, 0, 0, 0, 0, 0, 0, 1];
    payload.extend(PORTS);
    assert_eq!(transport(&v6(44, &payload)), Transport::Fragment);
    let mut behind_options = vec![44, 0, 0, 0, 0, 0, 0, 0];
    behind_options.extend(payload);
    assert_eq!(transport(&v6(60, &behind_options)), Transport::Fragment);
}

#[test]
fn ports_behind_extension_headers_are_not_read() {
    for extension in [0, 43, 51, 60, 135, 139, 140, 253, 254] {
        let mut payload = vec![6, if extension == 51 { 4 } else { 2 }];
        payload.resize(24, 0);
        payload.extend(PORTS);
        let frame = v6(extension, &payload);
        assert_eq!(transport(&frame), Transport::Ipv6Extension, "{extension}");
        assert_eq!(parse_frame(&frame).flow_key(), Err(NotAFlow::Ipv6Extension));
    }
}

#[test]
fn what_carries_packets_of_its_own_is_a_tunnel() {
    for protocol in [4, 41, 47, 50, 51, 55, 94, 97, 98, 115, 137, 143] {
        assert_eq!(transport(&v4(protocol, &PORTS)), Transport::Tunnel, "{protocol}");
        let expected = if protocol == 51 { Transport::Ipv6Extension } else { Transport::Tunnel };
        assert_eq!(transport(&v6(protocol, &PORTS)), expected, "{protocol}");
    }
}

#[test]
fn a_transport_header_that_is_cut_short_by_the_ip_length_is_not_read() {
    for (protocol, fixed_bytes) in [(6, 20), (17, 8), (136, 8), (132, 12), (1, 4)] {
        assert_ne!(transport(&v4(protocol, &PORTS[..fixed_bytes])), Transport::Truncated);
        assert_eq!(transport(&v4(protocol, &PORTS[..fixed_bytes - 1])), Transport::Truncated);
    }
}

#[test]
fn padding_is_no_transport_header() {
    let mut frame = v4(6, &PORTS[..19]);
    frame.resize(60, 0);
    assert_eq!(transport(&frame), Transport::Truncated);
}

#[test]
fn a_copy_that_ends_before_the_ports_does_not_show_them() {
    let frame = v4(6, &PORTS);
    let parsed = parse(&frame[..ETHERNET_BYTES + IPV4_BYTES_MIN + 3], frame.len());
    assert_eq!(parsed.flow_key(), Err(NotAFlow::Truncated));
    assert!(parse(&frame[..ETHERNET_BYTES + IPV4_BYTES_MIN + 4], frame.len()).flow_key().is_ok());
}

#[test]
fn names_each_way_in_which_headers_contradict_themselves() {
    let with = |mut frame: Vec<u8>, offset: usize, value: u8| {
        frame[ETHERNET_BYTES + offset] = value;
        frame
    };
    let four = v4(6, &PORTS);
    let six = v6(6, &PORTS);
    let cases = [
        (four[..13].to_vec(), Malformed::EthernetTruncated),
        (ethernet(ETHERTYPE_VLAN, &[0, 1, 8]), Malformed::VlanTruncated),
        (four[..33].to_vec(), Malformed::Ipv4Truncated),
        (with(four.clone(), 0, 0x65), Malformed::IpVersion),
        (with(six.clone(), 0, 0x45), Malformed::IpVersion),
        (with(four.clone(), 0, 0x44), Malformed::Ipv4Length),
        (with(four.clone(), 3, 19), Malformed::Ipv4Length),
        (with(four.clone(), 3, 41), Malformed::Ipv4Length),
        (six[..53].to_vec(), Malformed::Ipv6Truncated),
        (with(six.clone(), 5, 21), Malformed::Ipv6Length),
    ];
    for (frame, reason) in cases {
        assert_eq!(parse_frame(&frame).network, Network::Malformed(reason), "{frame:?}");
    }
    // A header longer than the copy, though not longer than the frame.
    let long = with(four, 0, 0x4a);
    assert_eq!(parse(&long[..50], long.len()).network, Network::Malformed(Malformed::Ipv4Truncated));
}

#[test]
fn what_is_not_ip_says_what_it_is() {
    let arp = parse_frame(&ethernet(ETHERTYPE_ARP, &[0; 28]));
    assert_eq!(arp.network, Network::NotIp { ethertype: 0x0806 });
    assert_eq!(arp.flow_key(), Err(NotAFlow::NotIp));
    let mpls = parse_frame(&ethernet(0x8847, &[0; 28]));
    assert_eq!(mpls.network, Network::Encapsulated { ethertype: 0x8847 });
}

#[test]
fn fragments_of_one_pair_of_hosts_share_a_hash_in_both_directions() {
    let fragment = |a: Ipv4Addr, b: Ipv4Addr| {
        let mut frame = v4(17, &PORTS);
        frame[ETHERNET_BYTES + 6] = 0x20;
        frame[ETHERNET_BYTES + 12..ETHERNET_BYTES + 16].copy_from_slice(&a.octets());
        frame[ETHERNET_BYTES + 16..ETHERNET_BYTES + 20].copy_from_slice(&b.octets());
        parse_frame(&frame).symmetric_hash(5)
    };
    assert_eq!(fragment(V4_A, V4_B), fragment(V4_B, V4_A));
    assert_ne!(fragment(V4_A, V4_B), fragment(V4_A, V4_A));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160), frame_bytes: usize) {
        let parsed = parse(&bytes, frame_bytes);
        let _ = (parsed.flow_key(), parsed.symmetric_hash(1));
    }

    #[test]
    fn no_bytes_behind_a_plausible_start_make_it_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 64..160),
        ethertype in prop_oneof![Just(ETHERTYPE_IPV4), Just(ETHERTYPE_IPV6), Just(ETHERTYPE_VLAN)],
        next in prop_oneof![Just(0u8), Just(6), Just(44), Just(51), Just(60), any::<u8>()],
        cut in 0..160usize,
    ) {
        bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
        bytes[14] = if ethertype == ETHERTYPE_IPV4 { 0x40 | bytes[14] & 0x0f } else { 0x60 };
        bytes[16] = 0;
        bytes[18] = 0;
        bytes[20] = next;
        let copy = &bytes[..cut.min(bytes.len())];
        let parsed = parse(copy, bytes.len());
        let _ = (parsed.flow_key(), parsed.symmetric_hash(1));
        if let Network::Ip(ip) = parsed.network {
            prop_assert!(usize::from(ip.transport_offset_bytes) <= bytes.len());
        }
    }

    #[test]
    fn no_bytes_make_a_view_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = crate::ethernet::Ethernet::parse(&bytes).map(|view| view.payload().len());
        let _ = VlanTag::read(&bytes);
        let _ = crate::arp::Arp::read(&bytes);
        let _ = crate::icmp::Icmp::parse(&bytes).map(|view| view.argument());
        if let Ok(view) = crate::ipv4::Ipv4::parse(&bytes) {
            let _ = (view.is_checksum_right(), view.fragment_offset_bytes());
        }
        if let Ok(view) = crate::ipv6::Ipv6::parse(&bytes) {
            let _ = view.upper_layer();
        }
        if let Ok(view) = crate::tcp::Tcp::parse(&bytes) {
            let _ = view.is_checksum_right(IpAddr::V4(V4_A), IpAddr::V4(V4_B));
        }
        if let Ok(view) = crate::udp::Udp::parse(&bytes) {
            let _ = view.is_checksum_right(IpAddr::V4(V4_A), IpAddr::V4(V4_B));
        }
        let _ = crate::ipv4::Ipv4Mut::parse(&mut bytes).map(|mut view| view.decrement_ttl());
        let _ = crate::tcp::TcpMut::parse(&mut bytes).map(|mut view| view.set_source_port(1));
        let _ = crate::udp::UdpMut::parse(&mut bytes).map(|mut view| view.set_source_port(1));
        let _ = crate::icmp::reply_to_echo(&mut bytes, crate::icmp::IcmpFamily::V4);
    }
}
