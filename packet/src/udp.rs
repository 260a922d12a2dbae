//! The UDP header (RFC 768).

use core::net::IpAddr;

use crate::checksum::update;
use crate::error::HeaderError;
use crate::field::{get_u16, put_u16, split, split_mut};
use crate::transport::{sum_segment, update_address};

/// Bytes of a UDP header.
pub const UDP_BYTES: usize = 8;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
const NAME: &str = "a UDP header";

#[inline]
fn check(bytes: &[u8]) -> Result<usize, HeaderError> {
    let (fixed, _) = split::<UDP_BYTES>(bytes, NAME)?;
    let claimed_bytes = usize::from(get_u16(fixed, 4));
    if !(UDP_BYTES..=bytes.len()).contains(&claimed_bytes) {
        let max_bytes = bytes.len();
        return Err(HeaderError::Length { header: NAME, claimed_bytes, min_bytes: UDP_BYTES, max_bytes });
    }
    Ok(claimed_bytes)
}

/// A UDP datagram, to read.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'p> {
    datagram: &'p [u8],
    fixed: &'p [u8; UDP_BYTES],
    payload: &'p [u8],
}

impl<'p> Udp<'p> {
    /// Looks at a datagram; bytes behind its own length are left out.
    ///
    /// # Errors
    /// If it is shorter than its header, or its length is not possible.
    #[inline]
    pub fn parse(bytes: &'p [u8]) -> Result<Self, HeaderError> {
        let datagram = &bytes[..check(bytes)?];
        let (fixed, payload) = split(datagram, NAME)?;
        Ok(Self { datagram, fixed, payload })
    }

    /// Port of the sender.
    #[inline]
    #[must_use]
    pub fn source_port(&self) -> u16 {
        get_u16(self.fixed, 0)
    }

    /// Port of the receiver.
    #[inline]
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        get_u16(self.fixed, 2)
    }

    /// The checksum as it stands; 0 over IPv4 means that there is none.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        get_u16(self.fixed, 6)
    }

    /// Whether the checksum is right between these addresses, or absent where it may be.
    #[must_use]
    pub fn is_checksum_right(&self, source: IpAddr, destination: IpAddr) -> bool {
        if self.checksum() == 0 {
            return source.is_ipv4();
        }
        sum_segment(source, destination, PROTOCOL_UDP, self.datagram).checksum() == 0
    }

    /// The data.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'p [u8] {
        self.payload
    }
}

/// A UDP datagram, to rewrite. Setters keep the checksum right by RFC 1624, and leave an absent one absent.
#[derive(Debug)]
pub struct UdpMut<'p> {
    datagram: &'p mut [u8],
}

impl<'p> UdpMut<'p> {
    /// Looks at a datagram.
    ///
    /// # Errors
    /// As [`Udp::parse`].
    #[inline]
    pub fn parse(bytes: &'p mut [u8]) -> Result<Self, HeaderError> {
        let length_bytes = check(bytes)?;
        Ok(Self { datagram: &mut bytes[..length_bytes] })
    }

    /// Sets the port of the sender.
    pub fn set_source_port(&mut self, port: u16) {
        self.set_word(0, port);
    }

    /// Sets the port of the receiver.
    pub fn set_destination_port(&mut self, port: u16) {
        self.set_word(2, port);
    }

    fn set_word(&mut self, offset: usize, new: u16) {
        if let Some(fixed) = self.datagram.first_chunk_mut::<UDP_BYTES>() {
            let old = get_u16(fixed, offset);
            put_u16(fixed, offset, new);
            self.patch_checksum(|checksum| update(checksum, old, new));
        }
    }

    /// Brings the checksum up to date after an address of the IP header has changed.
    pub fn address_changed(&mut self, old: IpAddr, new: IpAddr) {
        self.patch_checksum(|checksum| update_address(checksum, old, new));
    }

    fn patch_checksum(&mut self, updated: impl FnOnce(u16) -> u16) {
        if let Some(fixed) = self.datagram.first_chunk_mut::<UDP_BYTES>() {
            let checksum = get_u16(fixed, 6);
            if checksum != 0 {
                put_u16(fixed, 6, never_zero(updated(checksum)));
            }
        }
    }

    /// Computes the checksum from scratch.
    pub fn fill_checksum(&mut self, source: IpAddr, destination: IpAddr) {
        self.put_checksum(0);
        let checksum = sum_segment(source, destination, PROTOCOL_UDP, self.datagram).checksum();
        self.put_checksum(never_zero(checksum));
    }

    fn put_checksum(&mut self, checksum: u16) {
        if let Some(fixed) = self.datagram.first_chunk_mut::<UDP_BYTES>() {
            put_u16(fixed, 6, checksum);
        }
    }

    /// The data.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.datagram[UDP_BYTES..]
    }
}

/// A computed 0 is sent as its other representation, because 0 says "no checksum".
const fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { u16::MAX } else { checksum }
}

/// The fields of a UDP header, to write one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpHeader {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
}

impl UdpHeader {
    /// Writes the header in front of data that is already in place: `datagram` is the whole datagram.
    ///
    /// # Errors
    /// If there is no room for the header, or the datagram is longer than 65535 bytes.
    pub fn write(&self, datagram: &mut [u8], source: IpAddr, destination: IpAddr) -> Result<(), HeaderError> {
        let claimed_bytes = datagram.len();
        let length = u16::try_from(claimed_bytes).map_err(|_| HeaderError::Length {
            header: NAME,
            claimed_bytes,
            min_bytes: UDP_BYTES,
            max_bytes: usize::from(u16::MAX),
        })?;
        let (fixed, _) = split_mut::<UDP_BYTES>(datagram, NAME)?;
        put_u16(fixed, 0, self.source_port);
        put_u16(fixed, 2, self.destination_port);
        put_u16(fixed, 4, length);
        UdpMut::parse(datagram)?.fill_checksum(source, destination);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V6(core::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    const TO: IpAddr = IpAddr::V6(core::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
    const HEADER: UdpHeader = UdpHeader { source_port: 53, destination_port: 4000 };

    fn datagram() -> [u8; 11] {
        let mut bytes = [0; 11];
        bytes[8..].copy_from_slice(b"abc");
        HEADER.write(&mut bytes, FROM, TO).unwrap();
        bytes
    }

    #[test]
    fn a_datagram_that_was_written_reads_back_the_same_with_a_right_checksum() {
        let bytes = datagram();
        let view = Udp::parse(&bytes).unwrap();
        assert_eq!((view.source_port(), view.destination_port(), view.payload()), (53, 4000, &b"abc"[..]));
        assert!(view.is_checksum_right(FROM, TO) && !view.is_checksum_right(FROM, FROM));
    }

    #[test]
    fn rewriting_ports_and_addresses_keeps_the_checksum_right() {
        let mut bytes = datagram();
        let mut view = UdpMut::parse(&mut bytes).unwrap();
        view.set_source_port(5353);
        view.set_destination_port(0);
        let elsewhere = IpAddr::V6(core::net::Ipv6Addr::LOCALHOST);
        view.address_changed(FROM, elsewhere);
        assert_eq!(view.payload_mut(), b"abc");
        assert!(Udp::parse(&bytes).unwrap().is_checksum_right(elsewhere, TO));
    }

    #[test]
    fn an_absent_checksum_stays_absent_and_is_right_over_ipv4_only() {
        let mut bytes = datagram();
        bytes[6..8].fill(0);
        UdpMut::parse(&mut bytes).unwrap().set_source_port(9);
        let view = Udp::parse(&bytes).unwrap();
        assert_eq!(view.checksum(), 0);
        let v4 = IpAddr::from([1, 2, 3, 4]);
        assert!(view.is_checksum_right(v4, v4) && !view.is_checksum_right(FROM, TO));
    }

    #[test]
    fn a_checksum_that_computes_to_zero_is_sent_as_ffff() {
        let unspecified = IpAddr::from([0, 0, 0, 0]);
        let mut bytes = [0; 10];
        HEADER.write(&mut bytes, unspecified, unspecified).unwrap();
        // What is missing to 0xffff becomes data, so the complement is 0.
        let missing = Udp::parse(&bytes).unwrap().checksum();
        bytes[8..].copy_from_slice(&missing.to_be_bytes());
        UdpMut::parse(&mut bytes).unwrap().fill_checksum(unspecified, unspecified);
        let view = Udp::parse(&bytes).unwrap();
        assert_eq!(view.checksum(), 0xffff);
        assert!(view.is_checksum_right(unspecified, unspecified));
    }

    #[test]
    fn refuses_a_length_beyond_the_bytes_and_one_below_the_header() {
        let mut bytes = datagram();
        assert!(matches!(Udp::parse(&bytes[..10]), Err(HeaderError::Length { .. })));
        assert!(matches!(Udp::parse(&bytes[..7]), Err(HeaderError::Truncated { .. })));
        bytes[5] = 7;
        assert!(Udp::parse(&bytes).is_err() && UdpMut::parse(&mut bytes).is_err());
        bytes[5] = 8;
        assert_eq!(Udp::parse(&bytes).unwrap().payload(), b"");
    }
}
