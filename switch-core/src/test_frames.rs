//! Frames for tests.

use core::net::{Ipv4Addr, Ipv6Addr};

use packet::ethernet::{EthernetHeader, MacAddress};
use packet::ipv4::Ipv4Header;
use packet::ipv6::Ipv6Header;

use crate::header::HeaderCopy;

/// A TCP header with these ports and nothing else that counts; enough bytes for UDP too.
pub(crate) fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    header[12] = 0x50;
    header
}

pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload.len()];
    let header = EthernetHeader { destination: MacAddress([2; 6]), source: MacAddress([4; 6]), ethertype };
    header.write(&mut frame).unwrap().copy_from_slice(payload);
    frame
}

pub(crate) fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20 + payload.len()];
    let header = Ipv4Header {
        source: Ipv4Addr::from(source),
        destination: Ipv4Addr::from(destination),
        protocol,
        ttl: 64,
        traffic_class: 0,
        identification: 1,
        is_dont_fragment: false,
        payload_bytes: u16::try_from(payload.len()).unwrap(),
    };
    header.write(&mut bytes).unwrap().copy_from_slice(payload);
    ethernet(0x0800, &bytes)
}

pub(crate) fn ipv6(source: &str, destination: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40 + payload.len()];
    let header = Ipv6Header {
        source: source.parse::<Ipv6Addr>().unwrap(),
        destination: destination.parse::<Ipv6Addr>().unwrap(),
        next_header,
        hop_limit: 64,
        traffic_class: 0,
        flow_label: 0,
        payload_bytes: u16::try_from(payload.len()).unwrap(),
    };
    header.write(&mut bytes).unwrap().copy_from_slice(payload);
    ethernet(0x86dd, &bytes)
}

/// TCP from 10.0.0.1 to 10.0.0.2.
pub(crate) fn tcp(source: u16, destination: u16) -> HeaderCopy {
    HeaderCopy::of_frame(&ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &ports(source, destination)))
}
