//! The virtio features of a port: what it offers, and what a driver took of that.
//!
//! Source: virtio 1.2, sections 5.1.3 (network device) and 6 (reserved feature bits).

use std::fmt;
use std::ops::BitOr;

use virtio_bindings::virtio_config::{VIRTIO_F_ANY_LAYOUT, VIRTIO_F_IN_ORDER, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Length of `virtio_net_hdr` in bytes without its buffer count, as drivers before virtio 1.0 use it.
pub const HEADER_BYTES_LEGACY: usize = 10;
/// Length of `virtio_net_hdr` in bytes with its buffer count.
pub const HEADER_BYTES: usize = 12;

/// A set of feature bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// No feature.
    pub const NONE: Self = Self(0);
    /// The driver leaves checksums of what it sends to us.
    pub const CHECKSUM: Self = Self::bit(VIRTIO_NET_F_CSUM);
    /// The driver takes packets whose checksum is left to it.
    pub const GUEST_CHECKSUM: Self = Self::bit(VIRTIO_NET_F_GUEST_CSUM);
    /// We say how large packets may be.
    pub const MTU: Self = Self::bit(VIRTIO_NET_F_MTU);
    /// The driver takes TCP over IPv4 longer than the MTU.
    pub const GUEST_TSO4: Self = Self::bit(VIRTIO_NET_F_GUEST_TSO4);
    /// The driver takes TCP over IPv6 longer than the MTU.
    pub const GUEST_TSO6: Self = Self::bit(VIRTIO_NET_F_GUEST_TSO6);
    /// The same with congestion marks.
    pub const GUEST_ECN: Self = Self::bit(VIRTIO_NET_F_GUEST_ECN);
    /// The driver may send TCP over IPv4 longer than the MTU.
    pub const HOST_TSO4: Self = Self::bit(VIRTIO_NET_F_HOST_TSO4);
    /// The driver may send TCP over IPv6 longer than the MTU.
    pub const HOST_TSO6: Self = Self::bit(VIRTIO_NET_F_HOST_TSO6);
    /// The same with congestion marks.
    pub const HOST_ECN: Self = Self::bit(VIRTIO_NET_F_HOST_ECN);
    /// A received packet may lie in several buffers.
    pub const MERGEABLE: Self = Self::bit(VIRTIO_NET_F_MRG_RXBUF);
    /// More than one pair of queues.
    pub const MULTIQUEUE: Self = Self::bit(VIRTIO_NET_F_MQ);
    /// A driver before virtio 1.0 may lay out a packet as it likes.
    pub const ANY_LAYOUT: Self = Self::bit(VIRTIO_F_ANY_LAYOUT);
    /// Tables of descriptors outside the ring.
    pub const INDIRECT: Self = Self::bit(VIRTIO_RING_F_INDIRECT_DESC);
    /// Notifications are asked for by ring index.
    pub const EVENT_INDEX: Self = Self::bit(VIRTIO_RING_F_EVENT_IDX);
    /// Vhost-user's own bit: there are protocol features to talk about.
    pub const PROTOCOL: Self = Self(1 << 30);
    /// Virtio 1.0 or later.
    pub const VERSION_1: Self = Self::bit(VIRTIO_F_VERSION_1);
    /// Buffers are used in the order in which they were made available.
    pub const IN_ORDER: Self = Self::bit(VIRTIO_F_IN_ORDER);

    const fn bit(number: u32) -> Self {
        Self(1 << number)
    }

    /// These bits, known to us or not.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As they travel.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether all of these are in the set.
    #[inline]
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// The set without these.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

impl BitOr for Features {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What a port offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Whether checksums may be left to the receiver.
    pub checksums: bool,
    /// Whether TCP longer than the MTU may be sent and received. Needs `checksums`.
    pub segmentation: bool,
    /// Whether there is more than one pair of queues.
    pub multiqueue: bool,
    /// Not offered although we could: for tests and for drivers with a fault.
    pub withheld: Features,
}

impl Offer {
    /// The features, with vhost-user's own bit.
    #[must_use]
    pub fn features(self) -> Features {
        let mut all = Features::VERSION_1
            | Features::ANY_LAYOUT
            | Features::IN_ORDER
            | Features::MERGEABLE
            | Features::INDIRECT
            | Features::EVENT_INDEX
            | Features::MTU
            | Features::PROTOCOL;
        if self.multiqueue {
            all = all | Features::MULTIQUEUE;
        }
        if self.checksums {
            all = all | Features::CHECKSUM | Features::GUEST_CHECKSUM;
        }
        if self.checksums && self.segmentation {
            all = all | Features::HOST_TSO4 | Features::HOST_TSO6 | Features::HOST_ECN;
            all = all | Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::GUEST_ECN;
        }
        all.without(self.withheld.without(Features::PROTOCOL))
    }
}

/// The features in force: a subset of what was offered, so nothing unknown is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated(Features);

impl Negotiated {
    /// What a driver took of an offer.
    ///
    /// # Errors
    /// With the bits that were not on offer.
    pub fn take(taken: Features, offered: Features) -> Result<Self, Features> {
        let foreign = taken.without(offered);
        if foreign == Features::NONE { Ok(Self(taken)) } else { Err(foreign) }
    }

    /// As a set.
    #[must_use]
    pub fn features(self) -> Features {
        self.0
    }

    /// Whether all of these are in force.
    #[inline]
    #[must_use]
    pub fn has(self, features: Features) -> bool {
        self.0.contains(features)
    }

    /// Length of the header in front of each packet.
    #[must_use]
    pub fn header_bytes(self) -> usize {
        let is_long = self.has(Features::VERSION_1) || self.has(Features::MERGEABLE);
        if is_long { HEADER_BYTES } else { HEADER_BYTES_LEGACY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offer =
        Offer { checksums: true, segmentation: true, multiqueue: true, withheld: Features::NONE };

    #[test]
    fn takes_what_was_offered_and_refuses_one_bit_more() {
        let offered = ALL.features();
        assert_eq!(Negotiated::take(offered, offered).unwrap().features(), offered);
        let iommu = Features::from_bits(1 << 33);
        assert_eq!(Negotiated::take(offered | iommu, offered), Err(iommu));
    }

    #[test]
    fn what_is_withheld_is_not_offered_but_for_the_bit_of_vhost_user() {
        let withheld = Features::MERGEABLE | Features::PROTOCOL;
        let offered = Offer { withheld, ..ALL }.features();
        assert!(!offered.contains(Features::MERGEABLE));
        assert!(offered.contains(Features::PROTOCOL | Features::INDIRECT));
    }

    #[test]
    fn segmentation_is_offered_with_checksums_only() {
        let offered = Offer { checksums: false, ..ALL }.features();
        assert!(!offered.contains(Features::HOST_TSO4) && !offered.contains(Features::GUEST_TSO4));
    }

    #[test]
    fn the_header_is_short_for_a_driver_of_neither_virtio_1_nor_mergeable_buffers() {
        let with = |features| Negotiated::take(features, ALL.features()).unwrap().header_bytes();
        assert_eq!(with(Features::NONE), 10);
        assert_eq!(with(Features::MERGEABLE), 12);
        assert_eq!(with(Features::VERSION_1), 12);
    }
}
