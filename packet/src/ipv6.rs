//! The IPv6 header and the walk over its extension headers (RFC 8200).

use core::net::Ipv6Addr;

use crate::error::HeaderError;
use crate::field::{get, get_u16, get_u32, put, put_u16, split, split_mut};

/// Bytes of the IPv6 header.
pub const IPV6_BYTES: usize = 40;
/// Extension headers that the walk follows before it gives up.
pub const EXTENSION_HEADERS_MAX: usize = 8;
const NAME: &str = "an IPv6 header";

/// Whether a next-header value names an extension header (IANA's list; ESP is a tunnel here).
#[inline]
#[must_use]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254)
}

/// Where the walk over the extension headers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpperLayer<'p> {
    /// At a header that is no extension.
    Reached {
        /// What it is.
        protocol: u8,
        /// It and what follows.
        payload: &'p [u8],
    },
    /// At a fragment header; what is behind it is part of a packet.
    Fragment {
        /// What the fragment header says the packet is, which the receiver believes of the first one only.
        protocol: u8,
        /// Where this part belongs.
        offset_bytes: u16,
        /// Whether more parts follow.
        has_more: bool,
        /// What is behind the fragment header.
        payload: &'p [u8],
    },
    /// At the bound.
    TooMany {
        /// The header that was not looked at.
        next_header: u8,
    },
    /// At a header that is cut short.
    Truncated {
        /// That header.
        next_header: u8,
    },
}

/// Follows extension headers from `next_header` at the start of `bytes`, [`EXTENSION_HEADERS_MAX`] at most.
#[must_use]
pub fn walk(mut next_header: u8, mut bytes: &[u8]) -> UpperLayer<'_> {
    for _ in 0..EXTENSION_HEADERS_MAX {
        if !is_extension(next_header) {
            return UpperLayer::Reached { protocol: next_header, payload: bytes };
        }
        let Some(start) = bytes.first_chunk::<8>() else { return UpperLayer::Truncated { next_header } };
        let length_bytes = match next_header {
            44 => 8,
            // AH counts in words of four, less two (RFC 4302).
            51 => (usize::from(start[1]) + 2) * 4,
            _ => (usize::from(start[1]) + 1) * 8,
        };
        let Some(behind) = bytes.get(length_bytes..) else { return UpperLayer::Truncated { next_header } };
        if next_header == 44 {
            let place = get_u16(start, 2);
            return UpperLayer::Fragment {
                protocol: start[0],
                offset_bytes: place & 0xfff8,
                has_more: place & 1 == 1,
                payload: behind,
            };
        }
        next_header = start[0];
        bytes = behind;
    }
    if is_extension(next_header) {
        return UpperLayer::TooMany { next_header };
    }
    UpperLayer::Reached { protocol: next_header, payload: bytes }
}

/// An IPv6 packet, to read.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'p> {
    fixed: &'p [u8; IPV6_BYTES],
    payload: &'p [u8],
}

/// Checks version and length; returns the length of the payload.
#[inline]
fn check(bytes: &[u8]) -> Result<usize, HeaderError> {
    let (fixed, rest) = split::<IPV6_BYTES>(bytes, NAME)?;
    if fixed[0] >> 4 != 6 {
        return Err(HeaderError::Kind { header: NAME, found: u16::from(fixed[0] >> 4), wanted: 6 });
    }
    let claimed_bytes = usize::from(get_u16(fixed, 4));
    if claimed_bytes > rest.len() {
        let max_bytes = rest.len();
        return Err(HeaderError::Length { header: NAME, claimed_bytes, min_bytes: 0, max_bytes });
    }
    Ok(claimed_bytes)
}

impl<'p> Ipv6<'p> {
    /// Looks at a packet; bytes behind its payload (padding of the frame) are left out.
    ///
    /// # Errors
    /// If version or length are wrong, or the packet is cut short.
    #[inline]
    pub fn parse(bytes: &'p [u8]) -> Result<Self, HeaderError> {
        let payload_bytes = check(bytes)?;
        let (fixed, rest) = split(bytes, NAME)?;
        Ok(Self { fixed, payload: &rest[..payload_bytes] })
    }

    /// Differentiated services and congestion notification.
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        self.fixed[0] << 4 | self.fixed[1] >> 4
    }

    /// Label of the flow, 20 bits.
    #[inline]
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        get_u32(self.fixed, 0) & 0x000f_ffff
    }

    /// What the payload is: an extension header perhaps.
    #[inline]
    #[must_use]
    pub const fn next_header(&self) -> u8 {
        self.fixed[6]
    }

    /// Hops that it may still make.
    #[inline]
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.fixed[7]
    }

    /// From whom.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(get::<16, _>(self.fixed, 8))
    }

    /// To whom.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(get::<16, _>(self.fixed, 24))
    }

    /// What is behind the fixed header, extension headers included.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'p [u8] {
        self.payload
    }

    /// What is behind the extension headers.
    #[inline]
    #[must_use]
    pub fn upper_layer(&self) -> UpperLayer<'p> {
        walk(self.next_header(), self.payload)
    }
}

/// An IPv6 packet, to rewrite. The header has no checksum; transport checksums are the caller's.
#[derive(Debug)]
pub struct Ipv6Mut<'p> {
    fixed: &'p mut [u8; IPV6_BYTES],
    payload: &'p mut [u8],
}

impl<'p> Ipv6Mut<'p> {
    /// Looks at a packet.
    ///
    /// # Errors
    /// As [`Ipv6::parse`].
    #[inline]
    pub fn parse(bytes: &'p mut [u8]) -> Result<Self, HeaderError> {
        let payload_bytes = check(bytes)?;
        let (fixed, rest) = split_mut(bytes, NAME)?;
        Ok(Self { fixed, payload: &mut rest[..payload_bytes] })
    }

    /// The same packet, to read.
    #[inline]
    #[must_use]
    pub const fn as_view(&self) -> Ipv6<'_> {
        Ipv6 { fixed: self.fixed, payload: self.payload }
    }

    /// Takes one hop off; returns what is left. `None` if none would be left: the packet is unchanged and
    /// must not be forwarded.
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> Option<u8> {
        let left = self.fixed[7].checked_sub(1).filter(|left| *left > 0)?;
        self.fixed[7] = left;
        Some(left)
    }

    /// Sets from whom.
    #[inline]
    pub fn set_source(&mut self, address: Ipv6Addr) {
        put(self.fixed, 8, address.octets());
    }

    /// Sets to whom.
    #[inline]
    pub fn set_destination(&mut self, address: Ipv6Addr) {
        put(self.fixed, 24, address.octets());
    }

    /// What is behind the fixed header.
    #[inline]
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// What is behind the fixed header, for as long as the packet is borrowed.
    #[inline]
    #[must_use]
    pub fn into_payload(self) -> &'p mut [u8] {
        self.payload
    }
}

/// The fields of an IPv6 header, to write one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    /// From whom.
    pub source: Ipv6Addr,
    /// To whom.
    pub destination: Ipv6Addr,
    /// What follows.
    pub next_header: u8,
    /// Hops that it may make.
    pub hop_limit: u8,
    /// Differentiated services and congestion notification.
    pub traffic_class: u8,
    /// Label of the flow; bits beyond 20 are cut.
    pub flow_label: u32,
    /// Bytes that follow the header.
    pub payload_bytes: u16,
}

impl Ipv6Header {
    /// Writes the header; returns the bytes behind it.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn write<'p>(&self, bytes: &'p mut [u8]) -> Result<&'p mut [u8], HeaderError> {
        let (fixed, rest) = split_mut::<IPV6_BYTES>(bytes, NAME)?;
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0x000f_ffff;
        put(fixed, 0, first.to_be_bytes());
        put_u16(fixed, 4, self.payload_bytes);
        fixed[6] = self.next_header;
        fixed[7] = self.hop_limit;
        put(fixed, 8, self.source.octets());
        put(fixed, 24, self.destination.octets());
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Ipv6Header = Ipv6Header {
        source: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        destination: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
        next_header: 58,
        hop_limit: 64,
        traffic_class: 0xa5,
        flow_label: 0xb_cdef,
        payload_bytes: 8,
    };

    fn packet() -> [u8; 50] {
        let mut bytes = [0; 50];
        HEADER.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_header_that_was_written_reads_back_the_same() {
        let bytes = packet();
        assert_eq!(bytes[..8], [0x6a, 0x5b, 0xcd, 0xef, 0, 8, 58, 64]);
        let view = Ipv6::parse(&bytes).unwrap();
        let read = Ipv6Header {
            source: view.source(),
            destination: view.destination(),
            next_header: view.next_header(),
            hop_limit: view.hop_limit(),
            traffic_class: view.traffic_class(),
            flow_label: view.flow_label(),
            payload_bytes: u16::try_from(view.payload().len()).unwrap(),
        };
        assert_eq!(read, HEADER);
    }

    #[test]
    fn accepts_a_payload_that_ends_at_the_end_and_refuses_one_byte_more() {
        let bytes = packet();
        assert!(Ipv6::parse(&bytes[..48]).is_ok());
        assert!(matches!(Ipv6::parse(&bytes[..47]), Err(HeaderError::Length { .. })));
        assert!(matches!(Ipv6::parse(&bytes[..39]), Err(HeaderError::Truncated { .. })));
    }

    #[test]
    fn the_last_hop_is_not_taken_off() {
        let mut bytes = packet();
        assert_eq!(Ipv6Mut::parse(&mut bytes).unwrap().decrement_hop_limit(), Some(63));
        bytes[7] = 1;
        assert_eq!(Ipv6Mut::parse(&mut bytes).unwrap().decrement_hop_limit(), None);
    }

    #[test]
    fn walks_over_options_to_the_upper_layer() {
        // Hop-by-hop options of 8 bytes, destination options of 16, then UDP.
        let mut bytes = [0; 32];
        bytes[0] = 60;
        bytes[8] = 17;
        bytes[9] = 1;
        bytes[24] = 0x99;
        assert_eq!(walk(0, &bytes), UpperLayer::Reached { protocol: 17, payload: &bytes[24..] });
    }

    #[test]
    fn stops_at_a_fragment_header() {
        let bytes = [6, 0, 0x00, 0x09, 0, 0, 0, 1, 0xaa];
        let expected =
            UpperLayer::Fragment { protocol: 6, offset_bytes: 8, has_more: true, payload: &bytes[8..] };
        assert_eq!(walk(44, &bytes), expected);
    }

    #[test]
    fn follows_eight_extension_headers_and_not_nine() {
        let mut bytes = [0; 8 * 9];
        bytes.chunks_mut(8).for_each(|header| header[0] = 60);
        assert_eq!(walk(60, &bytes), UpperLayer::TooMany { next_header: 60 });
        bytes[8 * 7] = 6;
        assert_eq!(walk(60, &bytes), UpperLayer::Reached { protocol: 6, payload: &bytes[64..] });
    }

    #[test]
    fn names_the_extension_header_that_is_cut_short() {
        assert_eq!(walk(43, &[6, 0, 0, 0, 0, 0, 0]), UpperLayer::Truncated { next_header: 43 });
        assert_eq!(walk(43, &[6, 1, 0, 0, 0, 0, 0, 0]), UpperLayer::Truncated { next_header: 43 });
    }

    #[test]
    fn measures_an_authentication_header_in_words_of_four() {
        let mut bytes = [0; 25];
        bytes[0] = 6;
        bytes[1] = 4;
        assert_eq!(walk(51, &bytes), UpperLayer::Reached { protocol: 6, payload: &bytes[24..] });
    }
}
