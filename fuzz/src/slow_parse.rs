//! A second reading of a frame's headers: byte by byte from the RFCs, in no hurry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a frame is to whoever matches flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Its 5-tuple.
    Flow(Flow),
    /// A packet with addresses whose ports are hidden.
    Flowless(Hidden, IpAddr, IpAddr),
    /// No IP, and none inside.
    NotIp(u16),
    /// IP may be inside.
    Encapsulated(u16),
    /// A header contradicts itself or the frame.
    Malformed,
}

/// Why ports are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// Part of a packet.
    Fragment,
    /// Behind extension headers of IPv6.
    Extension,
    /// A packet in a packet, or encrypted.
    Tunnel,
    /// Cut short.
    Truncated,
}

/// A 5-tuple, with what ICMP says instead of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// From and to which port; 0 without ports.
    pub ports: (u16, u16),
    /// IP protocol.
    pub protocol: u8,
    /// Type of an ICMP message.
    pub icmp_kind: Option<u8>,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from(*bytes.get(at)?) << 8 | u16::from(*bytes.get(at + 1)?))
}

/// Reads the first bytes of a frame that is `frame_bytes` long.
#[must_use]
pub fn read(headers: &[u8], frame_bytes: usize) -> Reading {
    let mut at = 14;
    let Some(mut ethertype) = be16(headers, 12) else { return Reading::Malformed };
    let mut tags = 0;
    while matches!(ethertype, 0x8100 | 0x88a8) && tags < 2 {
        let Some(inner) = be16(headers, at + 2) else { return Reading::Malformed };
        (ethertype, at, tags) = (inner, at + 4, tags + 1);
    }
    match ethertype {
        0x0800 => read_ipv4(headers, frame_bytes, at).unwrap_or(Reading::Malformed),
        0x86dd => read_ipv6(headers, frame_bytes, at).unwrap_or(Reading::Malformed),
        0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 | 0x8847 | 0x8848 | 0x8864 | 0x88e7 | 0x22f3 | 0x894f
        | 0x6558 | 0x88be | 0x22eb | 0x892f | 0x88fb | 0x88e5 => Reading::Encapsulated(ethertype),
        _ => Reading::NotIp(ethertype),
    }
}

fn read_ipv4(headers: &[u8], frame_bytes: usize, at: usize) -> Option<Reading> {
    let header = headers.get(at..at + 20)?;
    let (words, total) = (usize::from(header[0] & 15), usize::from(be16(header, 2)?));
    let is_sound = header[0] >> 4 == 4 && words >= 5 && total >= words * 4 && at + total <= frame_bytes;
    if !is_sound || at + words * 4 > headers.len() {
        return None;
    }
    let address =
        |from: usize| Ipv4Addr::new(header[from], header[from + 1], header[from + 2], header[from + 3]);
    let (source, destination) = (address(12).into(), address(16).into());
    let (has_more, offset) = (header[6] & 0x20 != 0, be16(header, 6)? & 0x1fff);
    if has_more || offset != 0 {
        return Some(Reading::Flowless(Hidden::Fragment, source, destination));
    }
    Some(read_transport(headers, at + words * 4, total - words * 4, header[9], source, destination))
}

fn read_ipv6(headers: &[u8], frame_bytes: usize, at: usize) -> Option<Reading> {
    let header = headers.get(at..at + 40)?;
    let payload = usize::from(be16(header, 4)?);
    if header[0] >> 4 != 6 || at + 40 + payload > frame_bytes {
        return None;
    }
    let address = |from: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[from..from + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let (source, destination) = (address(8), address(24));
    let hidden = |why| Some(Reading::Flowless(why, source, destination));
    let is_extension = |next: u8| matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254);
    let (mut next, mut at) = (header[6], at + 40);
    if !is_extension(next) {
        return Some(read_transport(headers, at, payload, next, source, destination));
    }
    // Extension headers hide the ports; all that is left to see is whether one of the first is a fragment's.
    for _ in 0..8 {
        let Some(start) = headers.get(at..at + 8) else { break };
        let bytes = match next {
            44 => return hidden(Hidden::Fragment),
            51 => usize::from(start[1]) * 4 + 8,
            _ if is_extension(next) => usize::from(start[1]) * 8 + 8,
            _ => break,
        };
        (next, at) = (start[0], at + bytes);
    }
    hidden(Hidden::Extension)
}

fn read_transport(
    headers: &[u8],
    at: usize,
    payload: usize,
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
) -> Reading {
    let needed = match protocol {
        6 => 20,
        132 => 12,
        17 | 136 => 8,
        1 | 58 => 4,
        4 | 41 | 47 | 50 | 51 | 55 | 94 | 97 | 98 | 115 | 137 | 143 => {
            return Reading::Flowless(Hidden::Tunnel, source, destination);
        }
        _ => {
            return Reading::Flow(Flow { source, destination, ports: (0, 0), protocol, icmp_kind: None });
        }
    };
    let (Some(first), Some(second), true) = (be16(headers, at), be16(headers, at + 2), payload >= needed)
    else {
        return Reading::Flowless(Hidden::Truncated, source, destination);
    };
    let is_icmp = needed == 4;
    let ports = if is_icmp { (0, 0) } else { (first, second) };
    let icmp_kind = if is_icmp { Some(first.to_be_bytes()[0]) } else { None };
    Reading::Flow(Flow { source, destination, ports, protocol, icmp_kind })
}

/// The checksum of RFC 1071, one word at a time.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The checksum of a segment behind its pseudo-header, as RFC 9293 and RFC 8200 lay it out.
#[must_use]
pub fn segment_checksum(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(segment);
    checksum(&bytes)
}
