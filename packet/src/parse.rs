//! One pass over a frame's headers that says which flow it belongs to, or by name why that cannot be said.
//!
//! What the result promises to whoever matches rules with it:
//!
//! - [`Transport::Ports`] and [`Transport::Icmp`] are given only for a whole, unencapsulated packet.
//! - A fragment is a [`Transport::Fragment`], the first one too: its ports say nothing of what the receiver
//!   puts together (RFC 1858, RFC 3128).
//! - An IPv6 packet with any extension header is a [`Transport::Ipv6Extension`], or a fragment if a fragment
//!   header is among them; the walk is bounded and reads no ports behind them.
//! - A payload that is a packet of its own, or encrypted, is a [`Transport::Tunnel`]. Tunnels over UDP are
//!   UDP: any port may carry one.
//! - Frames in which IP may hide below something else are [`Network::Encapsulated`], never "not IP".

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ethernet::{ETHERNET_BYTES, MacAddress};
use crate::flow::{FlowKey, NotAFlow, hash_pair, symmetric_address_hash};
use crate::ipv4::IPV4_BYTES_MIN;
use crate::ipv6::{IPV6_BYTES, UpperLayer, is_extension, walk};
use crate::vlan::VLAN_TAG_BYTES;

/// What a frame's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Between which stations it goes; `None` for fewer bytes than an Ethernet header.
    pub link: Option<Link>,
    /// Tag control information of the outer VLAN tag, if there is one.
    pub vlan: Option<u16>,
    /// Where the network header starts, in bytes from the start of the frame.
    pub network_offset_bytes: u8,
    /// What stands there.
    pub network: Network,
}

/// The link layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// To whom.
    pub destination: MacAddress,
    /// From whom.
    pub source: MacAddress,
}

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4 or IPv6 with a sound header.
    Ip(IpPacket),
    /// Something that carries no IP (ARP, LLDP, LLC frames, …).
    NotIp {
        /// The EtherType, or the length field of an LLC frame.
        ethertype: u16,
    },
    /// Something that may carry IP further inside: MPLS, PPPoE, NSH, a third VLAN tag, …
    Encapsulated {
        /// The EtherType of the encapsulation.
        ethertype: u16,
    },
    /// A header that contradicts itself or the length of the frame.
    Malformed(Malformed),
}

/// An IP packet whose own header is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IPv4: the protocol field. IPv6: the last next-header value that the bounded walk reached, which
    /// nobody should decide by unless the transport was read.
    pub protocol: u8,
    /// Where the transport header starts, in bytes from the start of the frame, if `transport` was read.
    pub transport_offset_bytes: u8,
    /// What could be read of the transport header.
    pub transport: Transport,
}

/// The transport layer of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, UDP, UDP-Lite or SCTP, header complete.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP or `ICMPv6`.
    Icmp {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
    /// A protocol without ports that we know of.
    Other,
    /// See [`NotAFlow::Fragment`].
    Fragment,
    /// See [`NotAFlow::Ipv6Extension`].
    Ipv6Extension,
    /// See [`NotAFlow::Tunnel`].
    Tunnel,
    /// See [`NotAFlow::Truncated`].
    Truncated,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than an Ethernet header.
    EthernetTruncated,
    /// A VLAN tag with nothing behind it.
    VlanTruncated,
    /// Fewer bytes than an IPv4 header, or fewer than its IHL says.
    Ipv4Truncated,
    /// The version nibble contradicts the EtherType.
    IpVersion,
    /// IHL below 5, or a total length below the header or beyond the frame.
    Ipv4Length,
    /// Fewer bytes than an IPv6 header.
    Ipv6Truncated,
    /// A payload length beyond the frame.
    Ipv6Length,
}

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// VLAN tags that are looked through.
pub const VLAN_TAGS_MAX: usize = 2;

/// Reads the headers of a frame.
///
/// `headers` are the first bytes of the frame (all of it, or a copy of its start); `frame_bytes` is how long
/// the whole frame is, against which the length fields are held.
#[inline]
#[must_use]
pub fn parse(headers: &[u8], frame_bytes: usize) -> Parsed {
    let Some((ethernet, mut rest)) = headers.split_first_chunk::<ETHERNET_BYTES>() else {
        return malformed_ethernet(None, Malformed::EthernetTruncated);
    };
    let link = Some(Link {
        destination: MacAddress([
            ethernet[0],
            ethernet[1],
            ethernet[2],
            ethernet[3],
            ethernet[4],
            ethernet[5],
        ]),
        source: MacAddress([ethernet[6], ethernet[7], ethernet[8], ethernet[9], ethernet[10], ethernet[11]]),
    });
    let mut ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    let mut offset = ETHERNET_BYTES;
    let mut vlan = None;
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        let Some((tag, inner)) = rest.split_first_chunk::<VLAN_TAG_BYTES>() else {
            return malformed_ethernet(link, Malformed::VlanTruncated);
        };
        vlan = vlan.or(Some(u16::from_be_bytes([tag[0], tag[1]])));
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        rest = inner;
        offset += VLAN_TAG_BYTES;
    }
    let payload_bytes = frame_bytes.saturating_sub(offset);
    let network = match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(rest, payload_bytes, offset),
        ETHERTYPE_IPV6 => parse_ipv6(rest, payload_bytes, offset),
        _ if may_carry_ip(ethertype) => Network::Encapsulated { ethertype },
        _ => Network::NotIp { ethertype },
    };
    Parsed { link, vlan, network_offset_bytes: saturate(offset), network }
}

fn malformed_ethernet(link: Option<Link>, reason: Malformed) -> Parsed {
    Parsed { link, vlan: None, network_offset_bytes: 0, network: Network::Malformed(reason) }
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the minimum fits")]
fn saturate(offset: usize) -> u8 {
    offset.min(u8::MAX as usize) as u8
}

/// Whether an EtherType is a VLAN tag of an older kind, which is not looked through: in which VLAN the frame is
/// cannot be said.
#[inline]
#[must_use]
pub const fn is_unread_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x9100 | 0x9200 | 0x9300)
}

/// VLAN tags beyond the bound, other tag types, MPLS, PPPoE session, provider backbone, TRILL, NSH, CFM-less
/// transparent bridging, ERSPAN, HSR/PRP, MACsec.
fn may_carry_ip(ethertype: u16) -> bool {
    matches!(
        ethertype,
        ETHERTYPE_VLAN
            | ETHERTYPE_QINQ
            | 0x9100
            | 0x9200
            | 0x9300
            | 0x8847
            | 0x8848
            | 0x8864
            | 0x88e7
            | 0x22f3
            | 0x894f
            | 0x6558
            | 0x88be
            | 0x22eb
            | 0x892f
            | 0x88fb
            | 0x88e5
    )
}

#[inline]
fn parse_ipv4(rest: &[u8], payload_bytes: usize, offset: usize) -> Network {
    let Some(header) = rest.first_chunk::<IPV4_BYTES_MIN>() else {
        return Network::Malformed(Malformed::Ipv4Truncated);
    };
    if header[0] >> 4 != 4 {
        return Network::Malformed(Malformed::IpVersion);
    }
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_bytes < IPV4_BYTES_MIN || total_bytes < header_bytes || total_bytes > payload_bytes {
        return Network::Malformed(Malformed::Ipv4Length);
    }
    let Some(transport_header) = rest.get(header_bytes..) else {
        return Network::Malformed(Malformed::Ipv4Truncated);
    };
    let protocol = header[9];
    // More fragments, or an offset that is not 0. The reserved and the do-not-fragment bit say nothing here.
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let transport = if is_fragment {
        Transport::Fragment
    } else {
        parse_transport(transport_header, total_bytes - header_bytes, protocol)
    };
    Network::Ip(IpPacket {
        source: IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15])),
        destination: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
        protocol,
        transport_offset_bytes: saturate(offset + header_bytes),
        transport,
    })
}

#[inline]
fn parse_ipv6(rest: &[u8], payload_bytes: usize, offset: usize) -> Network {
    let Some((header, behind)) = rest.split_first_chunk::<IPV6_BYTES>() else {
        return Network::Malformed(Malformed::Ipv6Truncated);
    };
    if header[0] >> 4 != 6 {
        return Network::Malformed(Malformed::IpVersion);
    }
    let declared_bytes = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if IPV6_BYTES + declared_bytes > payload_bytes {
        return Network::Malformed(Malformed::Ipv6Length);
    }
    let mut source = [0; 16];
    source.copy_from_slice(&header[8..24]);
    let mut destination = [0; 16];
    destination.copy_from_slice(&header[24..40]);
    let next = header[6];
    let (protocol, transport) = if is_extension(next) {
        walk_extensions(behind, next)
    } else {
        (next, parse_transport(behind, declared_bytes, next))
    };
    Network::Ip(IpPacket {
        source: IpAddr::V6(Ipv6Addr::from(source)),
        destination: IpAddr::V6(Ipv6Addr::from(destination)),
        protocol,
        transport_offset_bytes: saturate(offset + IPV6_BYTES),
        transport,
    })
}

/// Follows extension headers to tell a fragment from a whole packet. Returns the last next-header value.
#[cold]
fn walk_extensions(rest: &[u8], next_header: u8) -> (u8, Transport) {
    match walk(next_header, rest) {
        UpperLayer::Fragment { .. } => (44, Transport::Fragment),
        UpperLayer::Reached { protocol: last, .. }
        | UpperLayer::TooMany { next_header: last }
        | UpperLayer::Truncated { next_header: last } => (last, Transport::Ipv6Extension),
    }
}

/// Whether an IP protocol carries packets of its own, or hides what it carries: IP in IP (4, 41, 94), GRE (47),
/// ESP (50), AH (51; in IPv6 an extension header), minimal encapsulation (55), EtherIP (97), generic
/// encapsulation (98), L2TP (115), MPLS in IP (137), Ethernet (143).
#[inline]
#[must_use]
pub const fn is_tunnel(protocol: u8) -> bool {
    matches!(protocol, 4 | 41 | 47 | 50 | 51 | 55 | 94 | 97 | 98 | 115 | 137 | 143)
}

#[inline]
fn parse_transport(header: &[u8], payload_bytes: usize, protocol: u8) -> Transport {
    // What must be there before the ports are believed: the fixed part of each header.
    let fixed_bytes = match protocol {
        6 => 20,
        17 | 136 => 8,
        132 => 12,
        1 | 58 => 4,
        _ if is_tunnel(protocol) => return Transport::Tunnel,
        _ => return Transport::Other,
    };
    if payload_bytes < fixed_bytes {
        return Transport::Truncated;
    }
    let Some(first) = header.first_chunk::<4>() else { return Transport::Truncated };
    if matches!(protocol, 1 | 58) {
        return Transport::Icmp { kind: first[0], code: first[1] };
    }
    Transport::Ports {
        source: u16::from_be_bytes([first[0], first[1]]),
        destination: u16::from_be_bytes([first[2], first[3]]),
    }
}

impl Parsed {
    /// The 5-tuple of the packet.
    ///
    /// # Errors
    /// By name, why this frame has none that could be believed.
    #[inline]
    pub fn flow_key(&self) -> Result<FlowKey, NotAFlow> {
        let ip = match &self.network {
            Network::Ip(ip) => ip,
            Network::NotIp { .. } => return Err(NotAFlow::NotIp),
            Network::Encapsulated { .. } => return Err(NotAFlow::Encapsulated),
            Network::Malformed(_) => return Err(NotAFlow::Malformed),
        };
        let (source_port, destination_port) = match ip.transport {
            Transport::Ports { source, destination } => (source, destination),
            Transport::Icmp { .. } | Transport::Other => (0, 0),
            Transport::Fragment => return Err(NotAFlow::Fragment),
            Transport::Ipv6Extension => return Err(NotAFlow::Ipv6Extension),
            Transport::Tunnel => return Err(NotAFlow::Tunnel),
            Transport::Truncated => return Err(NotAFlow::Truncated),
        };
        Ok(FlowKey {
            source: ip.source,
            destination: ip.destination,
            source_port,
            destination_port,
            protocol: ip.protocol,
        })
    }

    /// A hash that both directions of a flow share; packets without a flow hash by what is left of them:
    /// their addresses, or their EtherType.
    #[inline]
    #[must_use]
    pub fn symmetric_hash(&self, seed: u64) -> u32 {
        if let Ok(key) = self.flow_key() {
            return key.symmetric_hash(seed);
        }
        match &self.network {
            Network::Ip(ip) => symmetric_address_hash(ip.source, ip.destination, seed),
            Network::NotIp { ethertype } | Network::Encapsulated { ethertype } => {
                hash_pair(u64::from(*ethertype), 0, seed)
            }
            Network::Malformed(_) => hash_pair(0, 0, seed),
        }
    }
}

#[cfg(test)]
mod tests;
