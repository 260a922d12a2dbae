//! The Internet checksum: over bytes (RFC 1071), and brought up to date after a change (RFC 1624).

use core::net::IpAddr;

/// A ones' complement sum in the making. Parts may be added in any order, each starting on an even byte.
///
/// ```
/// use packet::checksum::Sum;
/// // The example of RFC 1071, section 3.
/// let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
/// assert_eq!(Sum::new().add_bytes(&bytes).folded(), 0xddf2);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// A sum of nothing.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes as big-endian 16-bit words; an odd last byte is the high half of a word.
    #[inline]
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        // Words of 32 bits: 2¹⁶ ≡ 1 in this arithmetic, so they count as both of their halves. A slice would
        // have to be 16 GiB long to overflow the 64-bit sum.
        let (words, tail) = bytes.as_chunks::<4>();
        let mut sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_be_bytes(*word)));
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        sum += u64::from(u32::from_be_bytes(last));
        Self(sum)
    }

    /// Adds one 16-bit word.
    #[inline]
    #[must_use]
    pub const fn add_word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds the pseudo-header of TCP, UDP or `ICMPv6` over IPv4 or IPv6.
    #[inline]
    #[must_use]
    pub fn add_pseudo_header(
        self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        transport_bytes: u32,
    ) -> Self {
        Self(self.add_address(source).add_address(destination).0 + u64::from(transport_bytes))
            .add_word(u16::from(protocol))
    }

    #[inline]
    fn add_address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.add_bytes(&v4.octets()),
            IpAddr::V6(v6) => self.add_bytes(&v6.octets()),
        }
    }

    /// The sum in 16 bits, carries added back in.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "four folds leave 16 bits")]
    pub const fn folded(self) -> u16 {
        let mut sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The checksum of some bytes.
#[inline]
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().add_bytes(bytes).checksum()
}

/// The checksum after one 16-bit word that it covers has changed from `old` to `new`.
///
/// RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`. Unlike the equation of RFC 1141 it never makes 0xffff out
/// of a checksum that should be 0.
#[inline]
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !Sum(!checksum as u64 + !old as u64 + new as u64).folded()
}

/// As [`update`], for a 32-bit field such as an IPv4 address.
#[inline]
#[must_use]
pub const fn update_32(checksum: u16, old: u32, new: u32) -> u16 {
    !Sum(!checksum as u64 + !old as u64 + new as u64).folded()
}

/// As [`update`], for any even number of bytes at an even offset. The shorter slice says how many.
#[must_use]
pub fn update_bytes(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    old.as_chunks::<2>()
        .0
        .iter()
        .zip(new.as_chunks::<2>().0)
        .fold(checksum, |sum, (old, new)| update(sum, u16::from_be_bytes(*old), u16::from_be_bytes(*new)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sums_the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().add_bytes(&bytes).folded(), 0xddf2);
        assert_eq!(checksum(&bytes), !0xddf2);
    }

    #[test]
    fn sums_in_parts_as_rfc_1071_section_2_allows() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().add_bytes(&bytes[4..]).add_bytes(&bytes[..4]).folded(), 0xddf2);
    }

    #[test]
    fn updates_the_example_of_rfc_1624_section_4() {
        // HC = 0xdd2f, m = 0x5555, m' = 0x3285; the RFC 1141 equation gives 0xffff here.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn an_odd_last_byte_is_the_high_half_of_a_word() {
        assert_eq!(Sum::new().add_bytes(&[0x12]).folded(), 0x1200);
        assert_eq!(Sum::new().add_bytes(&[0, 0, 0, 0, 0, 0, 0x12]).folded(), 0x1200);
    }

    #[test]
    fn no_bytes_sum_to_zero() {
        assert_eq!(checksum(&[]), 0xffff);
    }

    /// One word at a time, as the RFC's own C code does it.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn equals_the_sum_of_single_words(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(checksum(&bytes), reference(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..64),
            new: [u8; 4],
            at in 0..8usize,
        ) {
            // A header is never all zero, which is the one case with two representations.
            bytes[0] |= 0x45;
            let before = checksum(&bytes);
            let at = at * 2;
            let old: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            bytes[at..at + 4].copy_from_slice(&new);
            prop_assume!(bytes.iter().any(|byte| *byte != 0));
            let after = checksum(&bytes);
            prop_assert_eq!(update_bytes(before, &old, &new), after);
            prop_assert_eq!(update_32(before, u32::from_be_bytes(old), u32::from_be_bytes(new)), after);
        }
    }
}
