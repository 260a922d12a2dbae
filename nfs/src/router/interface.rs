//! One interface of the router: a port of the switch with an address of its own.

use std::net::Ipv4Addr;

use packet::MacAddress;

/// A port with a MAC address, an IP address and the prefix that is on its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name of the port in the switch's config.
    pub port: String,
    /// What neighbours send frames to.
    pub mac: MacAddress,
    /// The router's address on this link.
    pub address: Ipv4Addr,
    /// The mask of the prefix around it.
    pub mask: u32,
    /// Longest IP packet that leaves here.
    pub mtu_bytes: u16,
}

impl Interface {
    /// The prefix on the link, with zero host bits.
    #[must_use]
    pub const fn network(&self) -> u32 {
        self.address.to_bits() & self.mask
    }

    /// Whether an address lies within the prefix.
    #[must_use]
    pub const fn holds(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask == self.network()
    }

    /// Whether an address is one that a single host on this link can have. Prefixes of 31 bits have two hosts
    /// (RFC 3021) and those of 32 bits one; all others keep their first and last address.
    #[must_use]
    pub const fn holds_host(&self, address: Ipv4Addr) -> bool {
        let host_bits = address.to_bits() & !self.mask;
        self.holds(address) && (self.mask.count_ones() >= 31 || (host_bits != 0 && host_bits != !self.mask))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(mask: u32) -> Interface {
        Interface {
            port: "client".into(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            address: Ipv4Addr::new(10, 1, 0, 1),
            mask,
            mtu_bytes: 1500,
        }
    }

    #[test]
    fn the_first_and_the_last_address_of_a_prefix_are_no_hosts() {
        let interface = interface(0xffff_ff00);
        for (last, is_host) in [(0, false), (1, true), (254, true), (255, false)] {
            assert_eq!(interface.holds_host(Ipv4Addr::new(10, 1, 0, last)), is_host, "{last}");
        }
        assert!(!interface.holds_host(Ipv4Addr::new(10, 1, 1, 1)));
    }

    #[test]
    fn a_prefix_of_31_bits_has_two_hosts() {
        let interface = interface(0xffff_fffe);
        assert!(interface.holds_host(Ipv4Addr::new(10, 1, 0, 0)));
        assert!(!interface.holds_host(Ipv4Addr::new(10, 1, 0, 2)));
    }
}
