//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use crate::error::HeaderError;
use crate::ethernet::MacAddress;
use crate::field::{get, get_u16, get_u32, put, put_u16, split, split_mut};

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub const ARP_BYTES: usize = 28;
const NAME: &str = "an ARP packet";

/// What an ARP packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
    /// Another operation code.
    Other(u16),
}

impl ArpOperation {
    const fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Request,
            2 => Self::Reply,
            other => Self::Other(other),
        }
    }
}

/// An ARP packet, by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: ArpOperation,
    /// Who says it.
    pub sender_mac: MacAddress,
    /// Of whom.
    pub sender_ip: Ipv4Addr,
    /// To whom; zero in a request.
    pub target_mac: MacAddress,
    /// About whom.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Reads an ARP packet, the payload of its frame.
    ///
    /// # Errors
    /// If it is cut short, or for other hardware or another protocol than Ethernet and IPv4.
    pub fn read(payload: &[u8]) -> Result<Self, HeaderError> {
        let (fixed, _) = split::<ARP_BYTES>(payload, NAME)?;
        // Hardware and protocol type, and the lengths of their addresses.
        for (offset, wanted) in [(0, 0x0001), (2, 0x0800), (4, 0x0604)] {
            let found = get_u16(fixed, offset);
            if found != wanted {
                return Err(HeaderError::Kind { header: NAME, found, wanted });
            }
        }
        Ok(Self {
            operation: ArpOperation::from_code(get_u16(fixed, 6)),
            sender_mac: MacAddress(get(fixed, 8)),
            sender_ip: Ipv4Addr::from_bits(get_u32(fixed, 14)),
            target_mac: MacAddress(get(fixed, 18)),
            target_ip: Ipv4Addr::from_bits(get_u32(fixed, 24)),
        })
    }

    /// Writes the packet; returns the bytes behind it.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn write<'p>(&self, payload: &'p mut [u8]) -> Result<&'p mut [u8], HeaderError> {
        let (fixed, rest) = split_mut::<ARP_BYTES>(payload, NAME)?;
        put(fixed, 0, [0x00, 0x01, 0x08, 0x00, 0x06, 0x04]);
        put_u16(fixed, 6, self.operation.code());
        put(fixed, 8, self.sender_mac.0);
        put(fixed, 14, self.sender_ip.octets());
        put(fixed, 18, self.target_mac.0);
        put(fixed, 24, self.target_ip.octets());
        Ok(rest)
    }

    /// The question who has `target_ip`.
    #[must_use]
    pub const fn request(sender_mac: MacAddress, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        let target_mac = MacAddress([0; 6]);
        Self { operation: ArpOperation::Request, sender_mac, sender_ip, target_mac, target_ip }
    }

    /// The answer that `mac` has the address this packet asks for.
    #[must_use]
    pub const fn reply(&self, mac: MacAddress) -> Self {
        Self {
            operation: ArpOperation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const OWNER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn request() -> Arp {
        Arp::request(ASKER, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2))
    }

    #[test]
    fn a_request_looks_on_the_wire_as_rfc_826_draws_it() {
        let mut bytes = [0; 28];
        request().write(&mut bytes).unwrap();
        let expected = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
        assert_eq!(bytes, expected);
        assert_eq!(Arp::read(&bytes), Ok(request()));
    }

    #[test]
    fn a_reply_goes_back_to_the_asker() {
        let reply = request().reply(OWNER);
        assert_eq!(reply.operation, ArpOperation::Reply);
        assert_eq!((reply.sender_mac, reply.sender_ip), (OWNER, Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!((reply.target_mac, reply.target_ip), (ASKER, Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn refuses_other_hardware_other_protocols_and_short_packets() {
        let mut bytes = [0; 28];
        request().write(&mut bytes).unwrap();
        for offset in [1, 3, 5] {
            let mut other = bytes;
            other[offset] ^= 0x10;
            assert!(matches!(Arp::read(&other), Err(HeaderError::Kind { .. })));
        }
        assert!(matches!(Arp::read(&bytes[..27]), Err(HeaderError::Truncated { .. })));
    }
}
