//! The TCP header (RFC 9293).

use core::net::IpAddr;

use crate::checksum::update;
use crate::error::HeaderError;
use crate::field::{get_u16, get_u32, put, put_u16, split, split_mut};
use crate::transport::{sum_segment, update_address};

/// Bytes of a TCP header without options.
pub const TCP_BYTES_MIN: usize = 20;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
const NAME: &str = "a TCP header";

/// The control bits of a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Start of a connection.
    pub const SYN: Self = Self(0x02);
    /// End of a connection, at once.
    pub const RST: Self = Self(0x04);
    /// Hand the data to the application now.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// Whether all bits of `other` are set.
    #[inline]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A TCP segment, to read.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'p> {
    segment: &'p [u8],
    fixed: &'p [u8; TCP_BYTES_MIN],
    options: &'p [u8],
    payload: &'p [u8],
}

#[inline]
fn check(segment: &[u8]) -> Result<usize, HeaderError> {
    let (fixed, _) = split::<TCP_BYTES_MIN>(segment, NAME)?;
    let header_bytes = usize::from(fixed[12] >> 4) * 4;
    if header_bytes < TCP_BYTES_MIN || header_bytes > segment.len() {
        let (claimed_bytes, max_bytes) = (header_bytes, segment.len());
        return Err(HeaderError::Length { header: NAME, claimed_bytes, min_bytes: TCP_BYTES_MIN, max_bytes });
    }
    Ok(header_bytes)
}

impl<'p> Tcp<'p> {
    /// Looks at a segment: exactly the payload of its IP packet.
    ///
    /// # Errors
    /// If it is shorter than its header.
    #[inline]
    pub fn parse(segment: &'p [u8]) -> Result<Self, HeaderError> {
        let header_bytes = check(segment)?;
        let (header, payload) = segment.split_at(header_bytes);
        let (fixed, options) = split(header, NAME)?;
        Ok(Self { segment, fixed, options, payload })
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

    /// Number of the first byte of data.
    #[inline]
    #[must_use]
    pub fn sequence(&self) -> u32 {
        get_u32(self.fixed, 4)
    }

    /// Number of the next byte that the sender expects.
    #[inline]
    #[must_use]
    pub fn acknowledgement(&self) -> u32 {
        get_u32(self.fixed, 8)
    }

    /// Control bits.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(self.fixed[13])
    }

    /// Window that the sender offers, unscaled.
    #[inline]
    #[must_use]
    pub fn window(&self) -> u16 {
        get_u16(self.fixed, 14)
    }

    /// The checksum as it stands.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        get_u16(self.fixed, 16)
    }

    /// Whether the checksum is right between these addresses.
    #[must_use]
    pub fn is_checksum_right(&self, source: IpAddr, destination: IpAddr) -> bool {
        sum_segment(source, destination, PROTOCOL_TCP, self.segment).checksum() == 0
    }

    /// Options, 0 to 40 bytes.
    #[inline]
    #[must_use]
    pub const fn options(&self) -> &'p [u8] {
        self.options
    }

    /// The data.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'p [u8] {
        self.payload
    }
}

/// A TCP segment, to rewrite. Setters of ports keep the checksum right by RFC 1624.
#[derive(Debug)]
pub struct TcpMut<'p> {
    segment: &'p mut [u8],
    header_bytes: usize,
}

impl<'p> TcpMut<'p> {
    /// Looks at a segment.
    ///
    /// # Errors
    /// As [`Tcp::parse`].
    #[inline]
    pub fn parse(segment: &'p mut [u8]) -> Result<Self, HeaderError> {
        let header_bytes = check(segment)?;
        Ok(Self { segment, header_bytes })
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
        if let Some(fixed) = self.segment.first_chunk_mut::<TCP_BYTES_MIN>() {
            let checksum = update(get_u16(fixed, 16), get_u16(fixed, offset), new);
            put_u16(fixed, offset, new);
            put_u16(fixed, 16, checksum);
        }
    }

    /// Brings the checksum up to date after an address of the IP header has changed.
    pub fn address_changed(&mut self, old: IpAddr, new: IpAddr) {
        if let Some(fixed) = self.segment.first_chunk_mut::<TCP_BYTES_MIN>() {
            let checksum = update_address(get_u16(fixed, 16), old, new);
            put_u16(fixed, 16, checksum);
        }
    }

    /// Computes the checksum from scratch.
    pub fn fill_checksum(&mut self, source: IpAddr, destination: IpAddr) {
        self.put_checksum(0);
        let checksum = sum_segment(source, destination, PROTOCOL_TCP, self.segment).checksum();
        self.put_checksum(checksum);
    }

    fn put_checksum(&mut self, checksum: u16) {
        if let Some(fixed) = self.segment.first_chunk_mut::<TCP_BYTES_MIN>() {
            put_u16(fixed, 16, checksum);
        }
    }

    /// The data.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.segment[self.header_bytes..]
    }
}

/// The fields of a TCP header without options, to write one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHeader {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// Number of the first byte of data.
    pub sequence: u32,
    /// Number of the next byte expected.
    pub acknowledgement: u32,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window offered.
    pub window: u16,
}

impl TcpHeader {
    /// Writes the header in front of data that is already in place: `segment` is the whole segment.
    ///
    /// # Errors
    /// If there is no room for the header.
    pub fn write(&self, segment: &mut [u8], source: IpAddr, destination: IpAddr) -> Result<(), HeaderError> {
        let (fixed, _) = split_mut::<TCP_BYTES_MIN>(segment, NAME)?;
        *fixed = [0; TCP_BYTES_MIN];
        put_u16(fixed, 0, self.source_port);
        put_u16(fixed, 2, self.destination_port);
        put(fixed, 4, self.sequence.to_be_bytes());
        put(fixed, 8, self.acknowledgement.to_be_bytes());
        fixed[12] = 5 << 4;
        fixed[13] = self.flags.0;
        put_u16(fixed, 14, self.window);
        TcpMut::parse(segment)?.fill_checksum(source, destination);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1));
    const TO: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 2));
    const HEADER: TcpHeader = TcpHeader {
        source_port: 4321,
        destination_port: 80,
        sequence: 0x0102_0304,
        acknowledgement: 0x0506_0708,
        flags: TcpFlags(0x18),
        window: 512,
    };

    fn segment() -> [u8; 25] {
        let mut bytes = [0; 25];
        bytes[20..].copy_from_slice(b"hello");
        HEADER.write(&mut bytes, FROM, TO).unwrap();
        bytes
    }

    #[test]
    fn a_segment_that_was_written_reads_back_the_same_with_a_right_checksum() {
        let bytes = segment();
        let view = Tcp::parse(&bytes).unwrap();
        let read = TcpHeader {
            source_port: view.source_port(),
            destination_port: view.destination_port(),
            sequence: view.sequence(),
            acknowledgement: view.acknowledgement(),
            flags: view.flags(),
            window: view.window(),
        };
        assert_eq!((read, view.payload()), (HEADER, &b"hello"[..]));
        assert!(view.is_checksum_right(FROM, TO));
        assert!(!view.is_checksum_right(FROM, FROM));
        assert!(view.flags().has(TcpFlags::ACK.with(TcpFlags::PSH)) && !view.flags().has(TcpFlags::SYN));
    }

    #[test]
    fn rewriting_ports_and_addresses_keeps_the_checksum_right() {
        let mut bytes = segment();
        let mut view = TcpMut::parse(&mut bytes).unwrap();
        view.set_source_port(1);
        view.set_destination_port(65_535);
        let elsewhere = IpAddr::from([192, 168, 7, 9]);
        view.address_changed(TO, elsewhere);
        assert_eq!(view.payload_mut(), b"hello");
        assert!(Tcp::parse(&bytes).unwrap().is_checksum_right(FROM, elsewhere));
    }

    #[test]
    fn refuses_a_header_beyond_the_segment_and_one_below_the_minimum() {
        let mut bytes = segment();
        assert!(matches!(Tcp::parse(&bytes[..19]), Err(HeaderError::Truncated { .. })));
        bytes[12] = 0x40;
        assert!(matches!(Tcp::parse(&bytes), Err(HeaderError::Length { claimed_bytes: 16, .. })));
        bytes[12] = 0x70;
        assert!(matches!(Tcp::parse(&bytes), Err(HeaderError::Length { claimed_bytes: 28, .. })));
        bytes[12] = 0x60;
        assert_eq!(Tcp::parse(&bytes).unwrap().options(), b"hell");
    }
}
