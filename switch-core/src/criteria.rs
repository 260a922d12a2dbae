//! Which packets a rule or an edge is for, by what their headers say.
//!
//! Criteria answer in three ways. They match, they do not match, or **it cannot be said**, because they ask for
//! a field that the packet hides. A rule drops such a packet under a named reason, whatever it would have done
//! with it: going on to the next rule could reach a permissive one that the packet was never meant for. An edge
//! does not carry it.
//!
//! Stations and VLAN are compared first, and a difference there is a certain "no match":
//!
//! | frame | criteria with a MAC address, or for groups | with a VLAN |
//! |---|---|---|
//! | with one or two tags (802.1Q, 802.1ad) | compared | the outer tag's number compared |
//! | without a tag | compared | no match |
//! | with a tag of an older kind (EtherType 0x9100, …) | compared | `tunnel_unclassified` |
//! | cut off within a tag | compared | `header_malformed` |
//! | shorter than an Ethernet header | `header_malformed` | `header_malformed` |
//!
//! Then the rest:
//!
//! | packet | criteria that ask for nothing more | with addresses only | with protocol or ports |
//! |---|---|---|---|
//! | whole TCP, UDP, ICMP, other | matches | compared | compared |
//! | not IP (ARP, LLC, …) | matches | no match | no match |
//! | fragment, the first one too | matches | compared | no match if an address, or in IPv4 the protocol, differs; else `fragment_unclassified` |
//! | IPv6 with extension headers | matches | compared | no match if an address differs; else `ipv6_extension_unclassified` |
//! | tunnel (IP in IP, GRE, ESP, …) | matches | outer ones compared | matches if they name that very protocol and no ports; no match if an address differs; else `tunnel_unclassified` |
//! | encapsulation below IP (MPLS, PPPoE, …) | matches | `tunnel_unclassified` | `tunnel_unclassified` |
//! | malformed below the addresses | matches | `header_malformed` | `header_malformed` |
//! | transport header cut short | matches | compared | no match if an address or the protocol differs; else `header_malformed` |

use core::net::IpAddr;
use core::ops::RangeInclusive;

use packet::parse::{IpPacket, is_tunnel, is_unread_tag};
use packet::{MacAddress, Malformed, Network, Parsed, Transport};

use crate::drop_reason::DropReason;

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// IPv4: network bits and mask.
    V4 {
        /// Host bits are zero.
        network: u32,
        /// Ones in front.
        mask: u32,
    },
    /// IPv6: network bits and mask.
    V6 {
        /// Host bits are zero.
        network: u128,
        /// Ones in front.
        mask: u128,
    },
}

impl Prefix {
    /// The prefix of `length` bits that `address` is in; `None` if the address has fewer bits.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let length = u32::from(length);
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32u32.checked_sub(length)?).unwrap_or(0);
                Some(Self::V4 { network: v4.to_bits() & mask, mask })
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128u32.checked_sub(length)?).unwrap_or(0);
                Some(Self::V6 { network: v6.to_bits() & mask, mask })
            }
        }
    }

    /// Whether an address is inside; one of the other family never is.
    #[inline]
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (*self, address) {
            (Self::V4 { network, mask }, IpAddr::V4(v4)) => v4.to_bits() & mask == network,
            (Self::V6 { network, mask }, IpAddr::V6(v6)) => v6.to_bits() & mask == network,
            _ => false,
        }
    }
}

/// What criteria say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// They are for this packet.
    Yes,
    /// They are not.
    No,
    /// They ask for what the packet hides.
    CannotSay(DropReason),
}

/// Fields that a packet must have. One that is `None` is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// Whether the frame must be for a group of stations: broadcast or multicast.
    pub for_group: bool,
    /// Number of the outer VLAN tag.
    pub vlan: Option<u16>,
    /// Station that sent the frame.
    pub source_mac: Option<MacAddress>,
    /// Station or group for which it is.
    pub destination_mac: Option<MacAddress>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Where the packet is from.
    pub source: Option<Prefix>,
    /// Where it goes.
    pub destination: Option<Prefix>,
    /// TCP, UDP, UDP-Lite or SCTP source port.
    pub source_ports: Option<RangeInclusive<u16>>,
    /// Destination port of the same.
    pub destination_ports: Option<RangeInclusive<u16>>,
}

/// Bits of a tag's control information that are the VLAN's number.
const VLAN_NUMBER: u16 = 0x0fff;

impl Criteria {
    /// Whether every packet matches, whatever it is.
    #[inline]
    #[must_use]
    pub const fn are_for_all(&self) -> bool {
        !self.asks_link() && !self.asks_addresses() && !self.asks_transport()
    }

    /// Holds them against a packet's headers. The tables in the module's documentation are this function.
    #[inline]
    #[must_use]
    pub fn evaluate(&self, parsed: &Parsed) -> Match {
        match self.evaluate_link(parsed) {
            Match::Yes => self.evaluate_network(parsed),
            other => other,
        }
    }

    #[inline]
    fn evaluate_link(&self, parsed: &Parsed) -> Match {
        if !self.asks_link() {
            return Match::Yes;
        }
        let Some(link) = parsed.link else { return Match::CannotSay(DropReason::HeaderMalformed) };
        let is_between = self.source_mac.is_none_or(|source| source == link.source)
            && self.destination_mac.is_none_or(|destination| destination == link.destination)
            && (!self.for_group || link.destination.0[0] & 1 == 1);
        match (self.vlan, parsed.vlan, &parsed.network) {
            _ if !is_between => Match::No,
            (None, ..) => Match::Yes,
            (Some(vlan), Some(control), _) if vlan == control & VLAN_NUMBER => Match::Yes,
            (_, None, Network::Malformed(Malformed::VlanTruncated)) => {
                Match::CannotSay(DropReason::HeaderMalformed)
            }
            (_, None, Network::Encapsulated { ethertype }) if is_unread_tag(*ethertype) => {
                Match::CannotSay(DropReason::TunnelUnclassified)
            }
            _ => Match::No,
        }
    }

    #[inline]
    fn evaluate_network(&self, parsed: &Parsed) -> Match {
        if !self.asks_addresses() && !self.asks_transport() {
            return Match::Yes;
        }
        match &parsed.network {
            Network::Ip(ip) if !self.matches_addresses(ip) => Match::No,
            Network::Ip(_) if !self.asks_transport() => Match::Yes,
            Network::Ip(ip) => self.evaluate_transport(ip),
            Network::NotIp { .. } => Match::No,
            Network::Encapsulated { .. } => Match::CannotSay(DropReason::TunnelUnclassified),
            Network::Malformed(_) => Match::CannotSay(DropReason::HeaderMalformed),
        }
    }

    /// Whether they ask which station sent a frame, or for which it is.
    #[must_use]
    pub const fn ask_stations(&self) -> bool {
        self.source_mac.is_some() || self.destination_mac.is_some() || self.for_group
    }

    const fn asks_link(&self) -> bool {
        self.vlan.is_some() || self.ask_stations()
    }

    const fn asks_addresses(&self) -> bool {
        self.source.is_some() || self.destination.is_some()
    }

    const fn asks_ports(&self) -> bool {
        self.source_ports.is_some() || self.destination_ports.is_some()
    }

    const fn asks_transport(&self) -> bool {
        self.protocol.is_some() || self.asks_ports()
    }

    fn matches_addresses(&self, ip: &IpPacket) -> bool {
        self.source.is_none_or(|prefix| prefix.contains(ip.source))
            && self.destination.is_none_or(|prefix| prefix.contains(ip.destination))
    }

    /// For criteria that ask for protocol or ports, of a packet whose addresses match.
    fn evaluate_transport(&self, ip: &IpPacket) -> Match {
        let is_protocol = self.protocol.is_none_or(|protocol| protocol == ip.protocol);
        match ip.transport {
            Transport::Ports { source, destination } => {
                let matches = is_protocol
                    && self.source_ports.as_ref().is_none_or(|ports| ports.contains(&source))
                    && self.destination_ports.as_ref().is_none_or(|ports| ports.contains(&destination));
                if matches { Match::Yes } else { Match::No }
            }
            Transport::Icmp { .. } | Transport::Other => {
                if is_protocol && !self.asks_ports() {
                    Match::Yes
                } else {
                    Match::No
                }
            }
            // The receiver puts fragments of one protocol together, so in IPv4 another protocol is certain;
            // unless that protocol is a tunnel, behind which the asked one may be. In IPv6 the protocol
            // stands in the first fragment only.
            Transport::Fragment if ip.source.is_ipv4() && !is_protocol && !is_tunnel(ip.protocol) => {
                Match::No
            }
            Transport::Fragment => Match::CannotSay(DropReason::FragmentUnclassified),
            Transport::Ipv6Extension => Match::CannotSay(DropReason::Ipv6ExtensionUnclassified),
            Transport::Tunnel if self.protocol == Some(ip.protocol) && !self.asks_ports() => Match::Yes,
            Transport::Tunnel => Match::CannotSay(DropReason::TunnelUnclassified),
            Transport::Truncated if !is_protocol => Match::No,
            Transport::Truncated => Match::CannotSay(DropReason::HeaderMalformed),
        }
    }
}

#[cfg(test)]
mod tests;
