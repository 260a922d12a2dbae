//! The IPv4 header (RFC 791).

use core::net::Ipv4Addr;

use crate::checksum::{Sum, checksum, update, update_32};
use crate::error::HeaderError;
use crate::field::{get_u16, get_u32, put, put_u16, split_mut};

/// Bytes of an IPv4 header without options.
pub const IPV4_BYTES_MIN: usize = 20;
const NAME: &str = "an IPv4 header";

/// An IPv4 packet, to read.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'p> {
    fixed: &'p [u8; IPV4_BYTES_MIN],
    options: &'p [u8],
    payload: &'p [u8],
}

/// Checks version and lengths; returns the length of the header and of the packet.
#[inline]
fn check(bytes: &[u8]) -> Result<(usize, usize), HeaderError> {
    let present_bytes = bytes.len();
    let Some(fixed) = bytes.first_chunk::<IPV4_BYTES_MIN>() else {
        return Err(HeaderError::Truncated { header: NAME, needed_bytes: IPV4_BYTES_MIN, present_bytes });
    };
    if fixed[0] >> 4 != 4 {
        return Err(HeaderError::Kind { header: NAME, found: u16::from(fixed[0] >> 4), wanted: 4 });
    }
    let header_bytes = usize::from(fixed[0] & 0x0f) * 4;
    let total_bytes = usize::from(get_u16(fixed, 2));
    if header_bytes < IPV4_BYTES_MIN || header_bytes > present_bytes {
        let (claimed_bytes, min_bytes) = (header_bytes, IPV4_BYTES_MIN);
        return Err(HeaderError::Length { header: NAME, claimed_bytes, min_bytes, max_bytes: present_bytes });
    }
    if total_bytes < header_bytes || total_bytes > present_bytes {
        let (claimed_bytes, min_bytes) = (total_bytes, header_bytes);
        return Err(HeaderError::Length { header: NAME, claimed_bytes, min_bytes, max_bytes: present_bytes });
    }
    Ok((header_bytes, total_bytes))
}

impl<'p> Ipv4<'p> {
    /// Looks at a packet; bytes behind its total length (padding of the frame) are left out.
    ///
    /// # Errors
    /// If version or lengths are wrong, or the packet is cut short.
    #[inline]
    pub fn parse(bytes: &'p [u8]) -> Result<Self, HeaderError> {
        let (header_bytes, total_bytes) = check(bytes)?;
        let (header, payload) = bytes[..total_bytes].split_at(header_bytes);
        let (fixed, options) = crate::field::split(header, NAME)?;
        Ok(Self { fixed, options, payload })
    }

    /// Differentiated services and congestion notification.
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        self.fixed[1]
    }

    /// Bytes of the header, options included.
    #[inline]
    #[must_use]
    pub const fn header_bytes(&self) -> usize {
        IPV4_BYTES_MIN + self.options.len()
    }

    /// Bytes of header and payload.
    #[inline]
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        self.header_bytes() + self.payload.len()
    }

    /// Number that fragments of one packet share.
    #[inline]
    #[must_use]
    pub fn identification(&self) -> u16 {
        get_u16(self.fixed, 4)
    }

    /// Whether routers must not fragment it.
    #[inline]
    #[must_use]
    pub const fn is_dont_fragment(&self) -> bool {
        self.fixed[6] & 0x40 != 0
    }

    /// Whether more fragments follow this one.
    #[inline]
    #[must_use]
    pub const fn has_more_fragments(&self) -> bool {
        self.fixed[6] & 0x20 != 0
    }

    /// Where this fragment's payload belongs.
    #[inline]
    #[must_use]
    pub fn fragment_offset_bytes(&self) -> u16 {
        // 13 bits, so the product fits.
        (get_u16(self.fixed, 6) & 0x1fff) * 8
    }

    /// Whether it is a fragment, the first one included.
    #[inline]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.has_more_fragments() || self.fragment_offset_bytes() != 0
    }

    /// Hops that it may still make.
    #[inline]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// What the payload is.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// From whom.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(get_u32(self.fixed, 12))
    }

    /// To whom.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(get_u32(self.fixed, 16))
    }

    /// The header's checksum as it stands.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        get_u16(self.fixed, 10)
    }

    /// Whether the header's checksum is right.
    #[inline]
    #[must_use]
    pub fn is_checksum_right(&self) -> bool {
        Sum::new().add_bytes(self.fixed).add_bytes(self.options).checksum() == 0
    }

    /// Options, 0 to 40 bytes.
    #[inline]
    #[must_use]
    pub const fn options(&self) -> &'p [u8] {
        self.options
    }

    /// What is behind the header.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'p [u8] {
        self.payload
    }
}

/// An IPv4 packet, to rewrite. Every setter keeps the header's checksum right by RFC 1624.
#[derive(Debug)]
pub struct Ipv4Mut<'p> {
    fixed: &'p mut [u8; IPV4_BYTES_MIN],
    options: &'p mut [u8],
    payload: &'p mut [u8],
}

impl<'p> Ipv4Mut<'p> {
    /// Looks at a packet.
    ///
    /// # Errors
    /// As [`Ipv4::parse`].
    #[inline]
    pub fn parse(bytes: &'p mut [u8]) -> Result<Self, HeaderError> {
        let (header_bytes, total_bytes) = check(bytes)?;
        let (header, payload) = bytes[..total_bytes].split_at_mut(header_bytes);
        let (fixed, options) = split_mut(header, NAME)?;
        Ok(Self { fixed, options, payload })
    }

    /// The same packet, to read.
    #[inline]
    #[must_use]
    pub const fn as_view(&self) -> Ipv4<'_> {
        Ipv4 { fixed: self.fixed, options: self.options, payload: self.payload }
    }

    /// Takes one hop off; returns what is left. `None` if none would be left: the packet is unchanged and
    /// must not be forwarded.
    #[inline]
    pub fn decrement_ttl(&mut self) -> Option<u8> {
        let left = self.fixed[8].checked_sub(1).filter(|left| *left > 0)?;
        self.set_ttl(left);
        Some(left)
    }

    /// Sets the hops that it may still make.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        let old = get_u16(self.fixed, 8);
        self.fixed[8] = ttl;
        self.patch_checksum(old, get_u16(self.fixed, 8));
    }

    /// Sets from whom. The transport checksum is the caller's: [`update_32`] with both addresses.
    #[inline]
    pub fn set_source(&mut self, address: Ipv4Addr) {
        self.set_address(12, address);
    }

    /// Sets to whom. As [`Ipv4Mut::set_source`].
    #[inline]
    pub fn set_destination(&mut self, address: Ipv4Addr) {
        self.set_address(16, address);
    }

    #[inline]
    fn set_address(&mut self, offset: usize, address: Ipv4Addr) {
        let checksum = update_32(get_u16(self.fixed, 10), get_u32(self.fixed, offset), address.to_bits());
        put(self.fixed, offset, address.octets());
        put_u16(self.fixed, 10, checksum);
    }

    #[inline]
    fn patch_checksum(&mut self, old: u16, new: u16) {
        let checksum = update(get_u16(self.fixed, 10), old, new);
        put_u16(self.fixed, 10, checksum);
    }

    /// Computes the header's checksum from scratch.
    pub fn fill_checksum(&mut self) {
        put_u16(self.fixed, 10, 0);
        let checksum = Sum::new().add_bytes(self.fixed).add_bytes(self.options).checksum();
        put_u16(self.fixed, 10, checksum);
    }

    /// What is behind the header.
    #[inline]
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// What is behind the header, for as long as the packet is borrowed.
    #[inline]
    #[must_use]
    pub fn into_payload(self) -> &'p mut [u8] {
        self.payload
    }
}

/// The fields of an IPv4 header without options, to write one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    /// From whom.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
    /// What follows.
    pub protocol: u8,
    /// Hops that it may make.
    pub ttl: u8,
    /// Differentiated services and congestion notification.
    pub traffic_class: u8,
    /// Number that fragments of one packet share.
    pub identification: u16,
    /// Whether routers must not fragment it.
    pub is_dont_fragment: bool,
    /// Bytes that follow the header.
    pub payload_bytes: u16,
}

impl Ipv4Header {
    /// Writes the header with its checksum; returns the bytes behind it.
    ///
    /// # Errors
    /// If there is no room for it, or header and payload are longer than 65535 bytes.
    pub fn write<'p>(&self, bytes: &'p mut [u8]) -> Result<&'p mut [u8], HeaderError> {
        let (fixed, rest) = split_mut::<IPV4_BYTES_MIN>(bytes, NAME)?;
        let claimed_bytes = IPV4_BYTES_MIN + usize::from(self.payload_bytes);
        let total_bytes = u16::try_from(claimed_bytes).map_err(|_| HeaderError::Length {
            header: NAME,
            claimed_bytes,
            min_bytes: IPV4_BYTES_MIN,
            max_bytes: usize::from(u16::MAX),
        })?;
        *fixed = [0; IPV4_BYTES_MIN];
        fixed[0] = 0x45;
        fixed[1] = self.traffic_class;
        put_u16(fixed, 2, total_bytes);
        put_u16(fixed, 4, self.identification);
        fixed[6] = if self.is_dont_fragment { 0x40 } else { 0 };
        fixed[8] = self.ttl;
        fixed[9] = self.protocol;
        put(fixed, 12, self.source.octets());
        put(fixed, 16, self.destination.octets());
        put_u16(fixed, 10, checksum(fixed));
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header often used as an example: 192.168.0.1 to 192.168.0.199, UDP, checksum 0xb861.
    const WELL_KNOWN: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0,
        0xa8, 0x00, 0xc7,
    ];
    const HEADER: Ipv4Header = Ipv4Header {
        source: Ipv4Addr::new(192, 168, 0, 1),
        destination: Ipv4Addr::new(192, 168, 0, 199),
        protocol: 17,
        ttl: 64,
        traffic_class: 0,
        identification: 0,
        is_dont_fragment: true,
        payload_bytes: 0x73 - 20,
    };

    fn packet() -> [u8; 0x73] {
        let mut bytes = [0; 0x73];
        HEADER.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn writes_the_well_known_header_with_its_checksum() {
        assert_eq!(packet()[..20], WELL_KNOWN);
    }

    #[test]
    fn reads_every_field_of_it() {
        let bytes = packet();
        let view = Ipv4::parse(&bytes).unwrap();
        assert_eq!((view.source(), view.destination()), (HEADER.source, HEADER.destination));
        assert_eq!((view.protocol(), view.ttl(), view.total_bytes()), (17, 64, 0x73));
        assert!(view.is_dont_fragment() && !view.is_fragment() && view.is_checksum_right());
    }

    #[test]
    fn padding_behind_the_total_length_is_no_payload() {
        let mut bytes = [0xee; 0x80];
        bytes[..0x73].copy_from_slice(&packet());
        assert_eq!(Ipv4::parse(&bytes).unwrap().payload().len(), 0x73 - 20);
    }

    #[test]
    fn every_setter_keeps_the_checksum_right() {
        let mut bytes = packet();
        let mut view = Ipv4Mut::parse(&mut bytes).unwrap();
        assert_eq!(view.decrement_ttl(), Some(63));
        assert!(view.as_view().is_checksum_right());
        view.set_source(Ipv4Addr::new(10, 1, 2, 3));
        view.set_destination(Ipv4Addr::new(255, 255, 255, 255));
        assert!(view.as_view().is_checksum_right());
        let incremental = view.as_view().checksum();
        view.fill_checksum();
        assert_eq!(view.as_view().checksum(), incremental);
    }

    #[test]
    fn the_last_hop_is_not_taken_off() {
        for ttl in [0, 1] {
            let mut bytes = packet();
            let mut view = Ipv4Mut::parse(&mut bytes).unwrap();
            view.set_ttl(ttl);
            assert_eq!(view.decrement_ttl(), None);
            assert_eq!(view.as_view().ttl(), ttl);
        }
    }

    #[test]
    fn options_belong_to_the_header() {
        let mut bytes = [0; 28];
        Ipv4Header { payload_bytes: 8, ..HEADER }.write(&mut bytes).unwrap();
        bytes[0] = 0x46;
        bytes[20..24].copy_from_slice(&[1, 1, 1, 0]);
        Ipv4Mut::parse(&mut bytes).unwrap().fill_checksum();
        let view = Ipv4::parse(&bytes).unwrap();
        assert_eq!((view.options(), view.payload().len()), (&[1, 1, 1, 0][..], 4));
        assert!(view.is_checksum_right());
    }

    #[test]
    fn refuses_lengths_that_contradict_each_other() {
        let whole = packet();
        assert!(matches!(Ipv4::parse(&whole[..0x72]), Err(HeaderError::Length { .. })));
        assert!(matches!(Ipv4::parse(&whole[..19]), Err(HeaderError::Truncated { .. })));
        for (offset, value) in [(0, 0x44), (3, 19), (0, 0x65)] {
            let mut bytes = whole;
            bytes[offset] = value;
            assert!(Ipv4::parse(&bytes).is_err() && Ipv4Mut::parse(&mut bytes).is_err());
        }
        assert!(Ipv4Header { payload_bytes: 65_516, ..HEADER }.write(&mut [0; 20]).is_err());
        assert!(Ipv4Header { payload_bytes: 65_515, ..HEADER }.write(&mut [0; 20]).is_ok());
    }

    #[test]
    fn tells_fragments_from_whole_packets() {
        for (high, low, is_fragment, offset) in
            [(0x20, 0, true, 0), (0, 1, true, 8), (0x1f, 0xff, true, 65_528), (0xc0, 0, false, 0)]
        {
            let mut bytes = packet();
            bytes[6] = high;
            bytes[7] = low;
            let view = Ipv4::parse(&bytes).unwrap();
            assert_eq!((view.is_fragment(), view.fragment_offset_bytes()), (is_fragment, offset));
        }
    }
}
