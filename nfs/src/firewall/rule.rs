//! One rule: which packets it is about, and what becomes of them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use packet::FlowKey;

use crate::settings::Prefix;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the next hop.
    Allow,
    /// Dropped.
    Drop,
}

/// One rule. A field that is `None` matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What the counters call it.
    pub name: String,
    /// What it says of packets that match.
    pub action: Action,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Where from.
    pub source: Option<Prefix>,
    /// Where to.
    pub destination: Option<Prefix>,
    /// From which ports.
    pub source_ports: Option<RangeInclusive<u16>>,
    /// To which ports.
    pub destination_ports: Option<RangeInclusive<u16>>,
}

impl Rule {
    /// Whether the rule is about this flow.
    #[inline]
    #[must_use]
    pub fn matches(&self, key: &FlowKey) -> bool {
        self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && self.matches_addresses(key.source, key.destination)
            && self.source_ports.as_ref().is_none_or(|ports| ports.contains(&key.source_port))
            && self.destination_ports.as_ref().is_none_or(|ports| ports.contains(&key.destination_port))
    }

    /// Whether the rule names neither protocol nor ports, so that it can judge a fragment.
    #[must_use]
    pub const fn is_by_address_alone(&self) -> bool {
        self.protocol.is_none() && self.source_ports.is_none() && self.destination_ports.is_none()
    }

    /// Whether the rule is about packets between these addresses.
    #[inline]
    #[must_use]
    pub fn matches_addresses(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.source.is_none_or(|prefix| prefix.contains(source))
            && self.destination.is_none_or(|prefix| prefix.contains(destination))
    }
}
