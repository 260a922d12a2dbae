//! Keys of packets.

use packet::parse::{IpPacket, Network, Transport};

use super::*;

const BLUE: Place = Place { domain: 7 };

fn parsed(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Parsed {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let transport = Transport::Ports { source: source_port, destination: destination_port };
    let ip = IpPacket { source, destination, protocol: 6, transport_offset_bytes: 34, transport };
    Parsed { link: None, vlan: None, network_offset_bytes: 14, network: Network::Ip(ip) }
}

fn key(packet: &Parsed) -> Key {
    Key::of(packet, BLUE).unwrap().0
}

#[test]
fn both_directions_have_one_key_and_are_told_apart() {
    for (one, other) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00:0:0:1::"), ("10.0.0.1", "10.0.0.1")] {
        let (there, along) = Key::of(&parsed(one, 1000, other, 80), BLUE).unwrap();
        let (back, against) = Key::of(&parsed(other, 80, one, 1000), BLUE).unwrap();
        assert_eq!(there, back);
        assert_ne!(along, against);
    }
}

#[test]
fn says_what_it_was_made_of() {
    let packet = Parsed { vlan: Some(0xe123), ..parsed("fd00::2", 443, "fd00::1", 50_000) };
    let key = key(&packet);
    assert_eq!(key.lower(), ("fd00::1".parse().unwrap(), 50_000));
    assert_eq!(key.higher(), ("fd00::2".parse().unwrap(), 443));
    assert_eq!((key.protocol(), key.vlan(), key.domain()), (6, Some(0x123), 7));
    let key = super::tests::key(&parsed("10.0.0.2", 2, "10.0.0.1", 1));
    assert_eq!((key.lower(), key.vlan()), (("10.0.0.1".parse().unwrap(), 1), None));
}

#[test]
fn flows_that_differ_in_one_field_have_different_keys() {
    let base = parsed("10.0.0.1", 1000, "10.0.0.2", 80);
    let udp = {
        let Network::Ip(ip) = base.network else { unreachable!() };
        Parsed { network: Network::Ip(IpPacket { protocol: 17, ..ip }), ..base }
    };
    let others = [
        parsed("10.0.0.3", 1000, "10.0.0.2", 80),
        parsed("10.0.0.1", 1001, "10.0.0.2", 80),
        parsed("10.0.0.1", 1000, "10.0.0.3", 80),
        parsed("10.0.0.1", 1000, "10.0.0.2", 81),
        // The ports are exchanged, the addresses are not.
        parsed("10.0.0.1", 80, "10.0.0.2", 1000),
        // The same numbers as an address of IPv6.
        parsed("::a00:1", 1000, "::a00:2", 80),
        Parsed { vlan: Some(0), ..base },
        Parsed { vlan: Some(1), ..base },
        udp,
    ];
    for other in &others {
        assert_ne!(key(&base), key(other), "{other:?}");
    }
    assert_ne!(Key::of(&base, Place { domain: 8 }).unwrap().0, key(&base));
}

#[test]
fn a_tags_priority_is_not_part_of_the_flow() {
    let base = parsed("10.0.0.1", 1000, "10.0.0.2", 80);
    let with = |control| key(&Parsed { vlan: Some(control), ..base });
    assert_eq!(with(0x0005), with(0xf005));
}

#[test]
fn what_is_no_flow_has_no_key() {
    let base = parsed("10.0.0.1", 0, "10.0.0.2", 0);
    let Network::Ip(ip) = base.network else { unreachable!() };
    for (transport, why) in [
        (Transport::Fragment, NotAFlow::Fragment),
        (Transport::Ipv6Extension, NotAFlow::Ipv6Extension),
        (Transport::Tunnel, NotAFlow::Tunnel),
        (Transport::Truncated, NotAFlow::Truncated),
    ] {
        let packet = Parsed { network: Network::Ip(IpPacket { transport, ..ip }), ..base };
        assert_eq!(Key::of(&packet, BLUE), Err(NoKey::NotAFlow(why)));
    }
}

#[test]
fn the_last_domain_has_flows_and_the_one_behind_has_none() {
    let packet = parsed("10.0.0.1", 1, "10.0.0.2", 2);
    assert_eq!(Key::of(&packet, Place { domain: 1023 }).unwrap().0.domain(), 1023);
    assert_eq!(Key::of(&packet, Place { domain: 1024 }), Err(NoKey::Domain { domain: 1024 }));
}
