//! The whole policy: rules in order, and a word for each kind of packet that rules cannot judge.

use std::net::IpAddr;

use packet::icmp::PROTOCOL_ICMPV6;
use packet::parse::{ETHERTYPE_ARP, IpPacket};
use packet::{FlowKey, Network, Parsed, Transport};

use super::rule::{Action, Rule};

/// What the firewall does with which packet. Everything that is not said is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For packets that match no rule.
    pub default: Action,
    /// For ARP.
    pub arp: Action,
    /// For neighbour discovery of IPv6 (RFC 4861).
    pub ndp: Action,
    /// For fragments, the first one included.
    pub fragments: Action,
    /// For IPv6 packets with extension headers.
    pub extension_headers: Action,
    /// For packets that carry packets, or hide what they carry.
    pub tunnels: Action,
    /// For frames that are neither IP nor ARP and carry no IP inside.
    pub other_ethertypes: Action,
    /// First match wins.
    pub rules: Vec<Rule>,
}

/// Which part of the policy judged a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The rule at this position.
    Rule(usize),
    /// No rule matched.
    Default,
    /// ARP.
    Arp,
    /// Neighbour discovery of IPv6.
    Ndp,
    /// A fragment, and no rule drops its addresses.
    Fragment,
    /// IPv6 extension headers, and no rule drops its addresses.
    ExtensionHeader,
    /// A packet in a packet, or an encrypted one, and no rule drops its addresses.
    Tunnel,
    /// Neither IP nor ARP.
    OtherEthertype,
    /// IP may be inside, below something that is not looked into; always dropped.
    Encapsulated,
    /// A transport header that is cut short; always dropped.
    Truncated,
    /// A header that contradicts itself or the frame, or neighbour discovery from beyond the link; always
    /// dropped.
    Malformed,
}

/// What becomes of a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it.
    pub action: Action,
    /// Which part of the policy says so.
    pub reason: Reason,
}

/// What RFC 4861 demands of neighbour discovery: no router has forwarded it.
const NDP_HOP_LIMIT: u8 = 255;

impl Policy {
    /// Judges a frame by a copy of its first bytes; `frame_bytes` is how long the whole frame is.
    #[must_use]
    pub fn judge(&self, headers: &[u8], frame_bytes: usize) -> Judgement {
        let parsed = packet::parse(headers, frame_bytes);
        match &parsed.network {
            Network::Ip(ip) => self.judge_ip(headers, &parsed, ip),
            Network::NotIp { ethertype: ETHERTYPE_ARP } => said(self.arp, Reason::Arp),
            Network::NotIp { .. } => said(self.other_ethertypes, Reason::OtherEthertype),
            Network::Encapsulated { .. } => said(Action::Drop, Reason::Encapsulated),
            Network::Malformed(_) => said(Action::Drop, Reason::Malformed),
        }
    }

    fn judge_ip(&self, headers: &[u8], parsed: &Parsed, ip: &IpPacket) -> Judgement {
        match ip.transport {
            Transport::Icmp { kind: 133..=137, .. } if ip.protocol == PROTOCOL_ICMPV6 => {
                self.judge_discovery(headers, parsed, ip)
            }
            Transport::Ports { .. } | Transport::Icmp { .. } | Transport::Other => match parsed.flow_key() {
                Ok(key) => self.judge_flow(&key),
                Err(_) => said(Action::Drop, Reason::Malformed),
            },
            Transport::Fragment => self.judge_flowless(ip, self.fragments, Reason::Fragment),
            Transport::Ipv6Extension => {
                self.judge_flowless(ip, self.extension_headers, Reason::ExtensionHeader)
            }
            Transport::Tunnel => self.judge_flowless(ip, self.tunnels, Reason::Tunnel),
            Transport::Truncated => said(Action::Drop, Reason::Truncated),
        }
    }

    fn judge_flow(&self, key: &FlowKey) -> Judgement {
        let found = self.rules.iter().enumerate().find(|(_, rule)| rule.matches(key));
        match found {
            Some((position, rule)) => said(rule.action, Reason::Rule(position)),
            None => said(self.default, Reason::Default),
        }
    }

    /// Judges a packet whose ports cannot be believed. Rules that drop addresses hold for it too. A rule that
    /// allows never does: the packet may be what a rule above it, which looks at ports, drops.
    fn judge_flowless(&self, ip: &IpPacket, otherwise: Action, reason: Reason) -> Judgement {
        match self.dropped_by_address(ip.source, ip.destination) {
            Some(position) => said(Action::Drop, Reason::Rule(position)),
            None => said(otherwise, reason),
        }
    }

    fn dropped_by_address(&self, source: IpAddr, destination: IpAddr) -> Option<usize> {
        self.rules.iter().position(|rule| {
            rule.action == Action::Drop
                && rule.is_by_address_alone()
                && rule.matches_addresses(source, destination)
        })
    }

    fn judge_discovery(&self, headers: &[u8], parsed: &Parsed, ip: &IpPacket) -> Judgement {
        // The hop limit is the eighth byte of the IPv6 header.
        let hop_limit = headers.get(usize::from(parsed.network_offset_bytes) + 7);
        if ip.source.is_ipv4() || hop_limit != Some(&NDP_HOP_LIMIT) {
            return said(Action::Drop, Reason::Malformed);
        }
        said(self.ndp, Reason::Ndp)
    }
}

const fn said(action: Action, reason: Reason) -> Judgement {
    Judgement { action, reason }
}
