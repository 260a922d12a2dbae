//! The routing table: the longest prefix that holds an address wins.

use std::net::Ipv4Addr;

/// A number of the router's interfaces, in the order of its file.
pub type InterfaceIndex = usize;

/// Where packets for a prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Out of this interface.
    pub interface: InterfaceIndex,
    /// To this neighbour; `None` on a prefix that is on the link itself.
    pub via: Option<Ipv4Addr>,
}

/// Routes by prefix length; within a length sorted by network, so that a look-up is one binary search for each
/// length that is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Longest first, none empty: mask, and the networks of that mask with their hops.
    lengths: Vec<(u32, Vec<(u32, Hop)>)>,
}

impl RouteTable {
    /// Adds a route. False, and nothing changed, if there is one for this prefix already. Host bits are cut.
    pub fn insert(&mut self, network: u32, mask: u32, hop: Hop) -> bool {
        let network = network & mask;
        // A longer prefix has the greater mask.
        let at = match self.lengths.binary_search_by(|(known, _)| mask.cmp(known)) {
            Ok(at) => at,
            Err(at) => {
                self.lengths.insert(at, (mask, Vec::new()));
                at
            }
        };
        let routes = &mut self.lengths[at].1;
        match routes.binary_search_by_key(&network, |(known, _)| *known) {
            Ok(_) => false,
            Err(at) => {
                routes.insert(at, (network, hop));
                true
            }
        }
    }

    /// Where packets for `address` go.
    #[must_use]
    pub fn look_up(&self, address: Ipv4Addr) -> Option<Hop> {
        let address = address.to_bits();
        self.lengths.iter().find_map(|(mask, routes)| {
            let at = routes.binary_search_by_key(&(address & mask), |(network, _)| *network).ok()?;
            Some(routes[at].1)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mask(length_bits: u32) -> u32 {
        u32::MAX.checked_shl(32 - length_bits).unwrap_or(0)
    }

    fn hop(interface: InterfaceIndex) -> Hop {
        Hop { interface, via: None }
    }

    fn table(routes: &[(&str, u32, InterfaceIndex)]) -> RouteTable {
        let mut table = RouteTable::default();
        for (network, length_bits, interface) in routes {
            let network: Ipv4Addr = network.parse().unwrap();
            assert!(table.insert(network.to_bits(), mask(*length_bits), hop(*interface)));
        }
        table
    }

    fn found(table: &RouteTable, address: &str) -> Option<InterfaceIndex> {
        table.look_up(address.parse().unwrap()).map(|hop| hop.interface)
    }

    #[test]
    fn the_longest_prefix_wins_at_both_of_its_ends() {
        let table = table(&[("0.0.0.0", 0, 0), ("10.0.0.0", 8, 1), ("10.1.0.0", 16, 2), ("10.1.2.3", 32, 3)]);
        for (address, interface) in [
            ("9.255.255.255", 0),
            ("10.0.0.0", 1),
            ("10.0.255.255", 1),
            ("10.1.0.0", 2),
            ("10.1.2.2", 2),
            ("10.1.2.3", 3),
            ("10.1.2.4", 2),
            ("10.1.255.255", 2),
            ("10.2.0.0", 1),
            ("11.0.0.0", 0),
        ] {
            assert_eq!(found(&table, address), Some(interface), "{address}");
        }
    }

    #[test]
    fn an_address_outside_every_prefix_has_no_route() {
        assert_eq!(found(&table(&[("10.0.0.0", 8, 1)]), "11.0.0.0"), None);
        assert_eq!(found(&RouteTable::default(), "10.0.0.1"), None);
    }

    #[test]
    fn a_second_route_for_a_prefix_is_refused_and_changes_nothing() {
        let mut table = table(&[("10.0.0.0", 8, 1)]);
        assert!(!table.insert(0x0a01_0203, mask(8), hop(2)));
        assert_eq!(found(&table, "10.0.0.1"), Some(1));
    }

    proptest! {
        #[test]
        fn finds_what_a_search_of_all_routes_finds(
            routes in proptest::collection::vec((any::<u32>(), 0..=32_u32), 0..60),
            addresses in proptest::collection::vec(any::<u32>(), 1..40),
        ) {
            let mut table = RouteTable::default();
            let mut kept: Vec<(u32, u32, usize)> = Vec::new();
            for (number, (network, length_bits)) in routes.iter().enumerate() {
                // Few networks, so that prefixes nest and repeat.
                let (network, mask) = (network & 0x8181_0303, mask(*length_bits));
                let is_new = !kept.iter().any(|(n, m, _)| *m == mask && n & mask == network & mask);
                prop_assert_eq!(table.insert(network, mask, hop(number)), is_new);
                if is_new {
                    kept.push((network, mask, number));
                }
            }
            let near = kept.iter().flat_map(|(network, _, _)| [*network, network ^ 1, network.wrapping_sub(1)]);
            for address in addresses.iter().map(|address| address & 0x8181_0303).chain(near) {
                let expected = kept
                    .iter()
                    .filter(|(network, mask, _)| network & mask == address & mask)
                    .max_by_key(|(_, mask, _)| mask.count_ones())
                    .map(|(_, _, number)| *number);
                let found = table.look_up(Ipv4Addr::from_bits(address)).map(|hop| hop.interface);
                prop_assert_eq!(found, expected);
            }
        }
    }
}
