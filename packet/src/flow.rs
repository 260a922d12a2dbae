//! The flow that a packet belongs to: its 5-tuple, and a form of it that both directions share.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The 5-tuple of a packet, in the direction in which the packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port; 0 for a protocol without ports.
    pub source_port: u16,
    /// Destination port; 0 for a protocol without ports.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// Why a packet has no 5-tuple that could be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAFlow {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// IP may be inside, below an encapsulation that is not looked into (MPLS, PPPoE, too many VLAN tags).
    Encapsulated,
    /// A header contradicts itself or the length of the frame.
    Malformed,
    /// A fragment: the first one shows ports that the others lack.
    Fragment,
    /// IPv6 extension headers stand before the transport header.
    Ipv6Extension,
    /// The payload is a packet in its own right, or encrypted.
    Tunnel,
    /// The transport header does not fit into what the IP header leaves for it, or into the copy.
    Truncated,
}

impl FlowKey {
    /// The same flow seen from the other end.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// The one of `self` and its reverse whose source sorts first: equal for both directions of a flow.
    #[inline]
    #[must_use]
    pub fn direction_free(self) -> Self {
        if (self.source, self.source_port) <= (self.destination, self.destination_port) {
            self
        } else {
            self.reversed()
        }
    }

    /// A hash that both directions of the flow share.
    ///
    /// `seed` is the caller's secret: without it a sender could pick flows that all meet in one place.
    #[inline]
    #[must_use]
    pub fn symmetric_hash(&self, seed: u64) -> u32 {
        let mut hash = hash_addresses(self.source, self.destination, seed);
        let low = u64::from(self.source_port.min(self.destination_port));
        let high = u64::from(self.source_port.max(self.destination_port));
        hash = mix(hash ^ (low << 32 | high << 8 | u64::from(self.protocol)), K2);
        fold(hash)
    }
}

// Odd constants with half their bits set: the fractional parts of the golden ratio, of √2 and of √3.
const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0x6a09_e667_f3bc_c909;
const K2: u64 = 0xbb67_ae85_84ca_a73b;

/// Multiplies to 128 bits and folds the halves: every bit of the result hangs on every bit of the input.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the two halves of a 128-bit product are wanted")]
const fn mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the two halves are folded into one")]
const fn fold(hash: u64) -> u32 {
    hash as u32 ^ (hash >> 32) as u32
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the two halves of a 128-bit address are wanted")]
const fn hash_v6(address: Ipv6Addr, seed: u64) -> u64 {
    let bits = address.to_bits();
    mix(mix(bits as u64 ^ seed ^ K0, K1) ^ (bits >> 64) as u64, K2)
}

/// Hashes a pair of addresses so that their order does not matter: two of IPv4 are one sorted word, two of
/// IPv6 are hashed each before they are added. No packet has one of each.
#[inline]
pub(crate) fn hash_addresses(one: IpAddr, other: IpAddr, seed: u64) -> u64 {
    let wide = |address| match address {
        IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4),
        IpAddr::V6(v6) => v6,
    };
    if let (IpAddr::V4(one), IpAddr::V4(other)) = (one, other) {
        let (one, other) = (one.to_bits(), other.to_bits());
        return mix((u64::from(one.min(other)) << 32 | u64::from(one.max(other))) ^ seed ^ K0, K1) ^ seed;
    }
    hash_v6(wide(one), seed).wrapping_add(hash_v6(wide(other), seed)) ^ seed
}

/// Hashes a pair of numbers so that their order does not matter.
#[inline]
pub(crate) fn hash_pair(one: u64, other: u64, seed: u64) -> u32 {
    fold(mix(mix(one ^ seed ^ K0, K1).wrapping_add(mix(other ^ seed ^ K0, K1)) ^ seed, K2))
}

/// The hash of two addresses alone, for packets whose ports cannot be read.
#[inline]
pub(crate) fn symmetric_address_hash(one: IpAddr, other: IpAddr, seed: u64) -> u32 {
    fold(mix(hash_addresses(one, other, seed), K2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source_last: u8, source_port: u16, destination_last: u8, destination_port: u16) -> FlowKey {
        FlowKey {
            source: IpAddr::from([10, 0, 0, source_last]),
            destination: IpAddr::from([10, 0, 0, destination_last]),
            source_port,
            destination_port,
            protocol: 6,
        }
    }

    #[test]
    fn both_directions_share_the_direction_free_form_and_the_hash() {
        for key in [key(1, 1000, 2, 80), key(2, 80, 1, 1000), key(1, 80, 1, 1000), key(9, 9, 9, 9)] {
            assert_eq!(key.direction_free(), key.reversed().direction_free());
            assert_eq!(key.symmetric_hash(7), key.reversed().symmetric_hash(7));
        }
    }

    #[test]
    fn flows_that_differ_in_one_field_have_different_forms() {
        let base = key(1, 1000, 2, 80);
        let others = [
            key(3, 1000, 2, 80),
            key(1, 1001, 2, 80),
            key(1, 1000, 3, 80),
            key(1, 1000, 2, 81),
            FlowKey { protocol: 17, ..base },
        ];
        for other in others {
            assert_ne!(base.direction_free(), other.direction_free());
            assert_ne!(base.symmetric_hash(7), other.symmetric_hash(7));
        }
    }

    #[test]
    fn the_hash_spreads_neighbouring_flows_evenly_over_eight_buckets() {
        let mut buckets = [0u32; 8];
        for port in 0..8000u16 {
            let hash = key(1, 1024 + port, 2, 80).symmetric_hash(0xfeed);
            buckets[(hash >> 29) as usize] += 1;
        }
        // 1000 expected each; five standard deviations are about 150.
        assert!(buckets.iter().all(|n| (850..=1150).contains(n)), "{buckets:?}");
    }

    #[test]
    fn another_seed_gives_another_hash() {
        assert_ne!(key(1, 1000, 2, 80).symmetric_hash(1), key(1, 1000, 2, 80).symmetric_hash(2));
    }
}
