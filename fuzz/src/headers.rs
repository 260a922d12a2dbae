//! Frames of arbitrary bytes, read as the switch and the network functions read them.

use std::net::IpAddr;

use packet::arp::Arp;
use packet::ethernet::{Ethernet, EthernetMut};
use packet::icmp::{Icmp, IcmpFamily, reply_to_echo};
use packet::ipv4::{Ipv4, Ipv4Mut};
use packet::ipv6::{Ipv6, Ipv6Mut, UpperLayer};
use packet::tcp::{Tcp, TcpMut};
use packet::udp::{Udp, UdpMut};
use packet::{FlowKey, Network, NotAFlow, Parsed, Transport};
use switch_core::header::{HEADER_COPY_BYTES, HeaderCopy};

use crate::slow_parse::{self, Flow, Hidden, Reading};

/// Reads a frame: its flow is what a second reading says, from the whole frame and from the switch's copy of its
/// start; each view shows without a panic what is there; checksums brought up to date equal new ones.
pub fn run(data: &[u8]) {
    compare(data, data.len());
    let copy = HeaderCopy::of_frame(data);
    let start = &data[..data.len().min(HEADER_COPY_BYTES)];
    assert_eq!(copy.as_bytes(), start);
    assert_eq!(copy.parse(), packet::parse(start, usize::from(copy.frame_bytes)));
    compare(start, data.len());
    agree(&packet::parse(start, data.len()), &packet::parse(data, data.len()));
    look(data);
    change(data);
    assert_eq!(packet::checksum::checksum(data), slow_parse::checksum(data));
}

fn compare(headers: &[u8], frame_bytes: usize) {
    let parsed = packet::parse(headers, frame_bytes);
    let reading = slow_parse::read(headers, frame_bytes);
    assert_eq!(as_reading(&parsed), reading, "{parsed:?}");
    if let Ok(key) = parsed.flow_key() {
        assert_eq!(key.direction_free(), key.reversed().direction_free());
        assert_eq!(parsed.symmetric_hash(7), key.reversed().symmetric_hash(7));
    }
}

fn as_reading(parsed: &Parsed) -> Reading {
    let hidden = |why| match &parsed.network {
        Network::Ip(ip) => Reading::Flowless(why, ip.source, ip.destination),
        network => panic!("hidden in {network:?}"),
    };
    match (parsed.flow_key(), &parsed.network) {
        (Ok(key), Network::Ip(ip)) => Reading::Flow(as_flow(&key, ip.transport)),
        (Err(NotAFlow::Fragment), _) => hidden(Hidden::Fragment),
        (Err(NotAFlow::Ipv6Extension), _) => hidden(Hidden::Extension),
        (Err(NotAFlow::Tunnel), _) => hidden(Hidden::Tunnel),
        (Err(NotAFlow::Truncated), _) => hidden(Hidden::Truncated),
        (Err(NotAFlow::NotIp), Network::NotIp { ethertype }) => Reading::NotIp(*ethertype),
        (Err(NotAFlow::Encapsulated), Network::Encapsulated { ethertype }) => {
            Reading::Encapsulated(*ethertype)
        }
        (Err(NotAFlow::Malformed), Network::Malformed(_)) => Reading::Malformed,
        other => panic!("{other:?}"),
    }
}

fn as_flow(key: &FlowKey, transport: Transport) -> Flow {
    let icmp_kind = match transport {
        Transport::Icmp { kind, .. } => Some(kind),
        _ => None,
    };
    let &FlowKey { source, destination, source_port, destination_port, protocol } = key;
    Flow { source, destination, ports: (source_port, destination_port), protocol, icmp_kind }
}

/// What is believed of a copy of the start is what the whole frame says: a copy may only hide.
fn agree(start: &Parsed, whole: &Parsed) {
    if let Ok(key) = start.flow_key() {
        assert_eq!(Ok(key), whole.flow_key());
    }
}

/// Every view, and all that it shows.
fn look(frame: &[u8]) {
    let Ok(ethernet) = Ethernet::parse(frame) else { return };
    let payload = ethernet.payload();
    if let Ok(arp) = Arp::read(payload) {
        let mut written = [0; 64];
        assert!(arp.write(&mut written).is_ok());
        assert_eq!(Arp::read(&written), Ok(arp));
    }
    if let Ok(ip) = Ipv4::parse(payload) {
        assert_eq!(ip.header_bytes() + ip.payload().len(), ip.total_bytes());
        assert!(ip.total_bytes() <= payload.len() && ip.options().len() <= 40);
        assert_eq!(ip.is_checksum_right(), slow_parse::checksum(&payload[..ip.header_bytes()]) == 0);
        assert_eq!(ip.is_fragment(), ip.has_more_fragments() || ip.fragment_offset_bytes() > 0);
        look_at_transport(ip.payload(), ip.source().into(), ip.destination().into());
    }
    if let Ok(ip) = Ipv6::parse(payload) {
        assert!(ip.payload().len() + 40 <= payload.len());
        if let UpperLayer::Reached { payload, .. } | UpperLayer::Fragment { payload, .. } = ip.upper_layer() {
            look_at_transport(payload, ip.source().into(), ip.destination().into());
        }
    }
}

fn look_at_transport(bytes: &[u8], source: IpAddr, destination: IpAddr) {
    if let Ok(tcp) = Tcp::parse(bytes) {
        assert!(tcp.payload().len() + 20 <= bytes.len());
        let sum = slow_parse::segment_checksum(source, destination, 6, bytes);
        assert_eq!(tcp.is_checksum_right(source, destination), sum == 0);
    }
    if let Ok(udp) = Udp::parse(bytes) {
        assert!(udp.payload().len() + 8 <= bytes.len());
        if udp.checksum() != 0 {
            let datagram = &bytes[..udp.payload().len() + 8];
            let sum = slow_parse::segment_checksum(source, destination, 17, datagram);
            assert_eq!(udp.is_checksum_right(source, destination), sum == 0);
        }
    }
    if let Ok(icmp) = Icmp::parse(bytes) {
        assert_eq!(icmp.is_checksum_right(IcmpFamily::V4), slow_parse::checksum(bytes) == 0);
    }
}

/// Every change that a network function makes in place: lengths stay, right checksums stay right.
fn change(frame: &[u8]) {
    let mut own = frame.to_vec();
    let Ok(mut ethernet) = EthernetMut::parse(&mut own) else { return };
    ethernet.swap_addresses();
    let payload = ethernet.payload_mut();
    if let Ok(mut ip) = Ipv4Mut::parse(payload) {
        let was_right = ip.as_view().is_checksum_right();
        let ttl = ip.as_view().ttl();
        assert_eq!(ip.decrement_ttl(), ttl.checked_sub(1).filter(|left| *left > 0));
        let (source, destination) = (ip.as_view().source(), ip.as_view().destination());
        ip.set_source(destination);
        ip.set_destination(source);
        ip.set_ttl(64);
        assert_eq!(ip.as_view().is_checksum_right(), was_right);
        change_transport(ip.payload_mut(), source.into(), destination.into());
        ip.fill_checksum();
        assert!(ip.as_view().is_checksum_right());
    } else if let Ok(mut ip) = Ipv6Mut::parse(payload) {
        let (source, destination) = (ip.as_view().source(), ip.as_view().destination());
        ip.decrement_hop_limit();
        ip.set_source(destination);
        ip.set_destination(source);
        change_transport(ip.payload_mut(), source.into(), destination.into());
    }
    assert_eq!(own.len(), frame.len());
}

fn change_transport(bytes: &mut [u8], source: IpAddr, destination: IpAddr) {
    if let Ok(mut tcp) = TcpMut::parse(bytes) {
        tcp.fill_checksum(source, destination);
        tcp.set_source_port(7);
        tcp.address_changed(source, destination);
        tcp.address_changed(destination, source);
        assert!(Tcp::parse(bytes).is_ok_and(|tcp| tcp.is_checksum_right(source, destination)));
    }
    if let Ok(mut udp) = UdpMut::parse(bytes) {
        udp.fill_checksum(source, destination);
        udp.set_destination_port(9);
        assert!(Udp::parse(bytes).is_ok_and(|udp| udp.is_checksum_right(source, destination)));
    }
    if Icmp::parse(bytes).is_ok_and(|icmp| icmp.is_checksum_right(IcmpFamily::V4))
        && reply_to_echo(bytes, IcmpFamily::V4).is_ok()
    {
        assert!(Icmp::parse(bytes).is_ok_and(|icmp| icmp.is_checksum_right(IcmpFamily::V4)));
    }
}
