//! ICMP errors (RFC 792, RFC 1812 section 4.3): a packet is turned, in its own buffer, into the report of why
//! it went no further.

use std::net::Ipv4Addr;

use packet::ethernet::{ETHERNET_BYTES, Ethernet, EthernetHeader};
use packet::icmp::{
    DESTINATION_UNREACHABLE, ICMP_BYTES, IcmpFamily, IcmpHeader, PROTOCOL_ICMP, TIME_EXCEEDED,
};
use packet::ipv4::{IPV4_BYTES_MIN, Ipv4, Ipv4Header};
use packet::parse::ETHERTYPE_IPV4;

use super::counters::Event;
use super::interface::Interface;
use crate::frame::Frame;

/// Longest error, from its IP header on (RFC 1812 section 4.3.2.3).
const ERROR_BYTES_MAX: usize = 576;
/// What stands in front of the packet that the error is about, besides the Ethernet header.
const FRONT_BYTES: usize = IPV4_BYTES_MIN + ICMP_BYTES;
/// Hops that a packet of the router's own may make.
pub(super) const OWN_TTL: u8 = 64;
/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const TRAFFIC_CLASS: u8 = 0xc0;

/// What went wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Its hops ran out here.
    TimeExceeded,
    /// No route leads to its destination.
    NetUnreachable,
    /// The next hop does not answer ARP.
    HostUnreachable,
    /// It is for the router, which listens to no UDP port.
    PortUnreachable,
    /// It is too long for the next link and must not be fragmented.
    FragmentationNeeded {
        /// The longest that would pass.
        mtu_bytes: u16,
    },
}

impl IcmpError {
    const fn header(self) -> IcmpHeader {
        let (kind, code, argument) = match self {
            Self::TimeExceeded => (TIME_EXCEEDED, 0, [0; 4]),
            Self::NetUnreachable => (DESTINATION_UNREACHABLE, 0, [0; 4]),
            Self::HostUnreachable => (DESTINATION_UNREACHABLE, 1, [0; 4]),
            Self::PortUnreachable => (DESTINATION_UNREACHABLE, 3, [0; 4]),
            Self::FragmentationNeeded { mtu_bytes } => {
                let [high, low] = mtu_bytes.to_be_bytes();
                (DESTINATION_UNREACHABLE, 4, [0, 0, high, low])
            }
        };
        IcmpHeader { kind, code, argument }
    }

    /// What counts it.
    pub(super) const fn event(self) -> Event {
        match self {
            Self::TimeExceeded => Event::TimeExceededSent,
            Self::NetUnreachable => Event::NetUnreachableSent,
            Self::HostUnreachable => Event::HostUnreachableSent,
            Self::PortUnreachable => Event::PortUnreachableSent,
            Self::FragmentationNeeded { .. } => Event::FragmentationNeededSent,
        }
    }
}

/// Whether an error about this packet may be sent: not about errors, later fragments, or what was sent to or
/// from more than one host (RFC 1812 section 4.3.2.7).
#[must_use]
pub fn may_be_reported(ip: &Ipv4<'_>) -> bool {
    // Echo, timestamp, information and their replies are questions; the rest, or what cannot be read, is not.
    let is_error = ip.protocol() == PROTOCOL_ICMP
        && !matches!(ip.payload().first(), Some(0 | 8 | 13 | 14 | 15 | 16 | 17 | 18));
    let is_later_fragment = ip.fragment_offset_bytes() != 0;
    !is_error && !is_later_fragment && is_host(ip.source()) && !ip.destination().is_multicast()
}

/// Whether an address can belong to a single host somewhere.
pub(super) const fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // This network, loopback, groups, and what is reserved, broadcast included.
    !matches!(first, 0 | 127 | 224..=255)
}

/// Turns a frame with an IPv4 packet into an error about it, addressed to its sender. False, and the frame is of
/// no more use, if there is no room in front or the packet is not sound.
pub fn write_error<B: Frame>(frame: &mut B, from: &Interface, error: IcmpError) -> bool {
    let Ok(ethernet) = Ethernet::parse(frame.data()) else { return false };
    let Ok(ip) = Ipv4::parse(ethernet.payload()) else { return false };
    let (sender_mac, sender) = (ethernet.source(), ip.source());
    let quoted_bytes = ip.total_bytes().min(ERROR_BYTES_MAX - FRONT_BYTES);
    // The old Ethernet header ends up under the new headers' last bytes; the packet itself does not move.
    let (Ok(front_bytes), Ok(payload_bytes)) =
        (u16::try_from(FRONT_BYTES), u16::try_from(ICMP_BYTES + quoted_bytes))
    else {
        return false;
    };
    if !frame.grow_front(front_bytes) || !frame.set_len(ETHERNET_BYTES + FRONT_BYTES + quoted_bytes) {
        return false;
    }
    let ethernet = EthernetHeader { destination: sender_mac, source: from.mac, ethertype: ETHERTYPE_IPV4 };
    let ip = Ipv4Header {
        source: from.address,
        destination: sender,
        protocol: PROTOCOL_ICMP,
        ttl: OWN_TTL,
        traffic_class: TRAFFIC_CLASS,
        identification: 0,
        is_dont_fragment: true,
        payload_bytes,
    };
    let written = ethernet
        .write(frame.data_mut())
        .and_then(|rest| ip.write(rest))
        .and_then(|message| error.header().write(message, IcmpFamily::V4));
    written.is_ok()
}
