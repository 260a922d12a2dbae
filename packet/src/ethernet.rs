//! The Ethernet header.

use crate::error::HeaderError;
use crate::field::{get, get_u16, put, put_u16, split, split_mut};

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
const NAME: &str = "an Ethernet header";

/// A MAC address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group, broadcast included.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl core::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, last] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{last:02x}")
    }
}

/// Text that is no MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddressError;

impl core::fmt::Display for MacAddressError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a MAC address is six two-digit hexadecimal numbers with colons between them")
    }
}

impl core::error::Error for MacAddressError {}

impl core::str::FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(MacAddressError)?;
            // `from_str_radix` would also take a sign.
            let is_hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| is_hex).ok_or(MacAddressError)?;
        }
        if parts.next().is_some() { Err(MacAddressError) } else { Ok(Self(bytes)) }
    }
}

/// An Ethernet frame, to read.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'p> {
    fixed: &'p [u8; ETHERNET_BYTES],
    payload: &'p [u8],
}

impl<'p> Ethernet<'p> {
    /// Looks at a frame.
    ///
    /// # Errors
    /// If it is shorter than the header.
    #[inline]
    pub fn parse(frame: &'p [u8]) -> Result<Self, HeaderError> {
        let (fixed, payload) = split(frame, NAME)?;
        Ok(Self { fixed, payload })
    }

    /// To whom.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> MacAddress {
        MacAddress(get(self.fixed, 0))
    }

    /// From whom.
    #[inline]
    #[must_use]
    pub fn source(&self) -> MacAddress {
        MacAddress(get(self.fixed, 6))
    }

    /// What the payload is; of a tagged frame, the tag's type.
    #[inline]
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        get_u16(self.fixed, 12)
    }

    /// What is behind the header: of a tagged frame, the tag first.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'p [u8] {
        self.payload
    }
}

/// An Ethernet frame, to rewrite.
#[derive(Debug)]
pub struct EthernetMut<'p> {
    fixed: &'p mut [u8; ETHERNET_BYTES],
    payload: &'p mut [u8],
}

impl<'p> EthernetMut<'p> {
    /// Looks at a frame.
    ///
    /// # Errors
    /// If it is shorter than the header.
    #[inline]
    pub fn parse(frame: &'p mut [u8]) -> Result<Self, HeaderError> {
        let (fixed, payload) = split_mut(frame, NAME)?;
        Ok(Self { fixed, payload })
    }

    /// The same frame, to read.
    #[inline]
    #[must_use]
    pub const fn as_view(&self) -> Ethernet<'_> {
        Ethernet { fixed: self.fixed, payload: self.payload }
    }

    /// Sets to whom.
    #[inline]
    pub fn set_destination(&mut self, address: MacAddress) {
        put(self.fixed, 0, address.0);
    }

    /// Sets from whom.
    #[inline]
    pub fn set_source(&mut self, address: MacAddress) {
        put(self.fixed, 6, address.0);
    }

    /// Sends it back where it came from.
    #[inline]
    pub fn swap_addresses(&mut self) {
        // In two words: addresses of six bytes would cost four loads and four stores.
        let from_destination = u64::from_le_bytes(get(self.fixed, 0));
        let from_source = u64::from_le_bytes(get(self.fixed, 6));
        let start = from_source & 0xffff_ffff_ffff | from_destination << 48;
        put(self.fixed, 0, start.to_le_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "bytes 2..6 of the destination")]
        put(self.fixed, 8, ((from_destination >> 16) as u32).to_le_bytes());
    }

    /// What is behind the header.
    #[inline]
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// What is behind the header, for as long as the frame is borrowed.
    #[inline]
    #[must_use]
    pub fn into_payload(self) -> &'p mut [u8] {
        self.payload
    }
}

/// The fields of an Ethernet header, to write one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// To whom.
    pub destination: MacAddress,
    /// From whom.
    pub source: MacAddress,
    /// What follows.
    pub ethertype: u16,
}

impl EthernetHeader {
    /// Writes the header; returns the bytes behind it.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn write<'p>(&self, frame: &'p mut [u8]) -> Result<&'p mut [u8], HeaderError> {
        let (fixed, rest) = split_mut::<ETHERNET_BYTES>(frame, NAME)?;
        put(fixed, 0, self.destination.0);
        put(fixed, 6, self.source.0);
        put_u16(fixed, 12, self.ethertype);
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: EthernetHeader = EthernetHeader {
        destination: MacAddress([1, 2, 3, 4, 5, 6]),
        source: MacAddress([7, 8, 9, 10, 11, 12]),
        ethertype: 0x0800,
    };

    #[test]
    fn a_header_that_was_written_reads_back_the_same() {
        let mut frame = [0xaa; 16];
        assert_eq!(HEADER.write(&mut frame).unwrap(), [0xaa, 0xaa]);
        assert_eq!(frame[..14], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0]);
        let view = Ethernet::parse(&frame).unwrap();
        let read = EthernetHeader {
            destination: view.destination(),
            source: view.source(),
            ethertype: view.ethertype(),
        };
        assert_eq!((read, view.payload()), (HEADER, &[0xaa, 0xaa][..]));
    }

    #[test]
    fn swapping_addresses_twice_changes_nothing() {
        let mut frame = [0; 14];
        HEADER.write(&mut frame).unwrap();
        let before = frame;
        EthernetMut::parse(&mut frame).unwrap().swap_addresses();
        assert_eq!(frame[..12], [7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6]);
        EthernetMut::parse(&mut frame).unwrap().swap_addresses();
        assert_eq!(frame, before);
    }

    #[test]
    fn accepts_a_frame_of_a_bare_header_and_refuses_one_byte_less() {
        assert!(Ethernet::parse(&[0; 14]).is_ok());
        let error = Ethernet::parse(&[0; 13]).unwrap_err();
        assert_eq!(error.to_string(), "13 bytes where an Ethernet header needs 14");
        assert!(EthernetMut::parse(&mut [0; 13]).is_err());
        assert!(HEADER.write(&mut [0; 13]).is_err());
    }

    #[test]
    fn mac_addresses_read_what_they_write() {
        let address = MacAddress([0, 0x1b, 0x21, 0xab, 0xcd, 0xef]);
        assert_eq!(address.to_string(), "00:1b:21:ab:cd:ef");
        assert_eq!("00:1B:21:ab:cd:ef".parse(), Ok(address));
        for text in ["", "00:1b:21:ab:cd", "00:1b:21:ab:cd:ef:00", "0:1b:21:ab:cd:ef", "+0:1b:21:ab:cd:ef"] {
            assert_eq!(text.parse::<MacAddress>(), Err(MacAddressError), "{text}");
        }
        assert!(MacAddress::BROADCAST.is_multicast() && !address.is_multicast());
    }
}
