//! What a flow is told apart by.

use core::net::IpAddr;

use bytemuck::{Pod, Zeroable};
use packet::{NotAFlow, Parsed};
use thiserror::Error;

/// Addresses, ports, protocol, VLAN and domain of a flow in 40 bytes, the same for both of its directions.
///
/// The ends stand in the order of their addresses and ports: lower address (16 bytes), higher address (16 bytes),
/// and in the last word from its high bits on: port of the lower end (16 bits), port of the higher (16),
/// protocol (8), whether it is IPv6 (1), whether it has a VLAN (1), VLAN (12), domain (10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Key(pub(crate) [u64; 5]);

/// From which end of its flow a packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the end with the lower address and port.
    FromLower,
    /// From the other one.
    FromHigher,
}

impl Direction {
    /// For arrays with a place for each.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Where a packet was met: flows of two places are two flows, whatever their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the security domain; below [`Place::DOMAINS_MAX`].
    pub domain: u16,
}

impl Place {
    /// Most domains that keys tell apart.
    pub const DOMAINS_MAX: u16 = 1 << DOMAIN_BITS;
}

/// Why a packet has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoKey {
    /// Its headers name no flow that could be believed.
    #[error("the packet belongs to no flow: {0:?}")]
    NotAFlow(NotAFlow),
    /// The number of its domain does not fit.
    #[error("domain {domain} has no flows, only those below {} have", Place::DOMAINS_MAX)]
    Domain {
        /// The number.
        domain: u16,
    },
}

const DOMAIN_BITS: u32 = 10;
const VLAN_BITS: u32 = 12;
const VLAN_NUMBER: u16 = (1 << VLAN_BITS) - 1;

impl Key {
    /// The key of a packet, and the direction in which it goes.
    ///
    /// Of VLAN tags the number of the outer one counts, as in rules. Both ends may be the same: such a flow has one
    /// direction only.
    ///
    /// # Errors
    /// By name, why this packet has none. What has none is no flow, and takes its decision from the rules each time.
    #[inline]
    pub fn of(parsed: &Parsed, place: Place) -> Result<(Self, Direction), NoKey> {
        if place.domain >= Place::DOMAINS_MAX {
            return Err(NoKey::Domain { domain: place.domain });
        }
        let tuple = parsed.flow_key().map_err(NoKey::NotAFlow)?;
        let (source, destination) = (bits(tuple.source), bits(tuple.destination));
        let (source_port, destination_port) = (tuple.source_port, tuple.destination_port);
        let is_lower = (source, source_port) <= (destination, destination_port);
        let (low, high, low_port, high_port, direction) = if is_lower {
            (source, destination, source_port, destination_port, Direction::FromLower)
        } else {
            (destination, source, destination_port, source_port, Direction::FromHigher)
        };
        let vlan = parsed.vlan.map_or(0, |control| 1 << VLAN_BITS | control & VLAN_NUMBER);
        let last = u64::from(low_port) << 48
            | u64::from(high_port) << 32
            | u64::from(tuple.protocol) << 24
            | u64::from(tuple.source.is_ipv6()) << 23
            | u64::from(vlan) << DOMAIN_BITS
            | u64::from(place.domain);
        let ((low_0, low_1), (high_0, high_1)) = (halves(low), halves(high));
        Ok((Self([low_0, low_1, high_0, high_1, last]), direction))
    }

    /// Any 40 bytes as a key, for measurements and tests.
    #[must_use]
    pub const fn from_words(words: [u64; 5]) -> Self {
        Self(words)
    }

    /// Address and port of the lower end.
    #[must_use]
    pub fn lower(&self) -> (IpAddr, u16) {
        (self.address(self.0[0], self.0[1]), self.port(48))
    }

    /// Address and port of the higher end.
    #[must_use]
    pub fn higher(&self) -> (IpAddr, u16) {
        (self.address(self.0[2], self.0[3]), self.port(32))
    }

    /// IP protocol number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.0[4].to_be_bytes()[4]
    }

    /// Number of the outer VLAN tag.
    #[must_use]
    pub fn vlan(&self) -> Option<u16> {
        let field = self.port(DOMAIN_BITS);
        (field >> VLAN_BITS & 1 == 1).then_some(field & VLAN_NUMBER)
    }

    /// Number of the domain.
    #[must_use]
    pub const fn domain(&self) -> u16 {
        self.port(0) & (Place::DOMAINS_MAX - 1)
    }

    const fn is_ipv6(&self) -> bool {
        self.0[4] >> 23 & 1 == 1
    }

    /// 16 bits of the last word, from `shift` on.
    #[allow(clippy::cast_possible_truncation, reason = "16 bits are wanted")]
    const fn port(&self, shift: u32) -> u16 {
        (self.0[4] >> shift) as u16
    }

    fn address(&self, high: u64, low: u64) -> IpAddr {
        let bits = u128::from(high) << 64 | u128::from(low);
        #[allow(clippy::cast_possible_truncation, reason = "an IPv4 address has 32 bits")]
        let v4 = low as u32;
        if self.is_ipv6() { IpAddr::V6(bits.into()) } else { IpAddr::V4(v4.into()) }
    }
}

#[inline]
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the halves of a 128-bit address are wanted")]
const fn halves(bits: u128) -> (u64, u64) {
    ((bits >> 64) as u64, bits as u64)
}

#[cfg(test)]
mod tests;
