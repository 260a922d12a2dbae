//! The header of ICMP (RFC 792) and `ICMPv6` (RFC 4443), which differ in numbers and in what the checksum covers.

use core::net::IpAddr;

use crate::checksum::{Sum, update};
use crate::error::HeaderError;
use crate::field::{get, get_u16, put, put_u16, split, split_mut};
use crate::transport::sum_segment;

/// Bytes of the header: type, code, checksum and four bytes that depend on the type.
pub const ICMP_BYTES: usize = 8;
/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of `ICMPv6`.
pub const PROTOCOL_ICMPV6: u8 = 58;
const NAME: &str = "an ICMP header";

/// ICMP type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// ICMP type of a destination that cannot be reached.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// ICMP type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// ICMP type of a packet whose hops ran out.
pub const TIME_EXCEEDED: u8 = 11;
/// `ICMPv6` type of a destination that cannot be reached.
pub const V6_DESTINATION_UNREACHABLE: u8 = 1;
/// `ICMPv6` type of a packet that is longer than a link's MTU.
pub const V6_PACKET_TOO_BIG: u8 = 2;
/// `ICMPv6` type of a packet whose hops ran out.
pub const V6_TIME_EXCEEDED: u8 = 3;
/// `ICMPv6` type of an echo request.
pub const V6_ECHO_REQUEST: u8 = 128;
/// `ICMPv6` type of an echo reply.
pub const V6_ECHO_REPLY: u8 = 129;
/// `ICMPv6` type of the question who has an address (RFC 4861).
pub const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
/// `ICMPv6` type of the answer to it.
pub const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// What a checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpFamily {
    /// ICMP: the message.
    V4,
    /// `ICMPv6`: a pseudo-header with these addresses, and the message.
    V6 {
        /// Source address of the packet.
        source: core::net::Ipv6Addr,
        /// Destination address of the packet.
        destination: core::net::Ipv6Addr,
    },
}

impl IcmpFamily {
    fn sum(self, message: &[u8]) -> Sum {
        match self {
            Self::V4 => Sum::new().add_bytes(message),
            Self::V6 { source, destination } => {
                sum_segment(IpAddr::V6(source), IpAddr::V6(destination), PROTOCOL_ICMPV6, message)
            }
        }
    }
}

/// An ICMP or `ICMPv6` message, to read.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'p> {
    message: &'p [u8],
    fixed: &'p [u8; ICMP_BYTES],
    payload: &'p [u8],
}

impl<'p> Icmp<'p> {
    /// Looks at a message: exactly the payload of its IP packet.
    ///
    /// # Errors
    /// If it is shorter than the header.
    #[inline]
    pub fn parse(message: &'p [u8]) -> Result<Self, HeaderError> {
        let (fixed, payload) = split(message, NAME)?;
        Ok(Self { message, fixed, payload })
    }

    /// What kind of message it is.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.fixed[0]
    }

    /// What it says in particular.
    #[inline]
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.fixed[1]
    }

    /// The four bytes that depend on the type.
    #[inline]
    #[must_use]
    pub fn argument(&self) -> [u8; 4] {
        get(self.fixed, 4)
    }

    /// Of an echo: whose.
    #[inline]
    #[must_use]
    pub fn echo_identifier(&self) -> u16 {
        get_u16(self.fixed, 4)
    }

    /// Of an echo: which.
    #[inline]
    #[must_use]
    pub fn echo_sequence(&self) -> u16 {
        get_u16(self.fixed, 6)
    }

    /// The checksum as it stands.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        get_u16(self.fixed, 2)
    }

    /// Whether the checksum is right.
    #[must_use]
    pub fn is_checksum_right(&self, family: IcmpFamily) -> bool {
        family.sum(self.message).checksum() == 0
    }

    /// What is behind the header.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'p [u8] {
        self.payload
    }
}

/// The fields of an ICMP or `ICMPv6` header, to write one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpHeader {
    /// What kind of message it is.
    pub kind: u8,
    /// What it says in particular.
    pub code: u8,
    /// Four bytes that depend on the type.
    pub argument: [u8; 4],
}

impl IcmpHeader {
    /// Writes the header in front of a payload that is already in place: `message` is the whole message.
    ///
    /// # Errors
    /// If there is no room for the header.
    pub fn write(&self, message: &mut [u8], family: IcmpFamily) -> Result<(), HeaderError> {
        let (fixed, _) = split_mut::<ICMP_BYTES>(message, NAME)?;
        fixed[0] = self.kind;
        fixed[1] = self.code;
        put_u16(fixed, 2, 0);
        put(fixed, 4, self.argument);
        let checksum = family.sum(message).checksum();
        let (fixed, _) = split_mut::<ICMP_BYTES>(message, NAME)?;
        put_u16(fixed, 2, checksum);
        Ok(())
    }
}

/// Turns an echo request into its reply, in place. Addresses are the caller's to swap, which no checksum
/// notices: the pseudo-header of `ICMPv6` sums the same both ways.
///
/// # Errors
/// If the message is shorter than the header or no echo request.
pub fn reply_to_echo(message: &mut [u8], family: IcmpFamily) -> Result<(), HeaderError> {
    let (request, reply) = match family {
        IcmpFamily::V4 => (ECHO_REQUEST, ECHO_REPLY),
        IcmpFamily::V6 { .. } => (V6_ECHO_REQUEST, V6_ECHO_REPLY),
    };
    let (fixed, _) = split_mut::<ICMP_BYTES>(message, NAME)?;
    if fixed[0] != request {
        return Err(HeaderError::Kind {
            header: NAME,
            found: u16::from(fixed[0]),
            wanted: u16::from(request),
        });
    }
    let old = get_u16(fixed, 0);
    fixed[0] = reply;
    let checksum = update(get_u16(fixed, 2), old, get_u16(fixed, 0));
    put_u16(fixed, 2, checksum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;

    const V6: IcmpFamily = IcmpFamily::V6 {
        source: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        destination: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
    };

    fn echo(kind: u8, family: IcmpFamily) -> [u8; 11] {
        let mut message = [0; 11];
        message[8..].copy_from_slice(b"xyz");
        IcmpHeader { kind, code: 0, argument: [0x12, 0x34, 0, 7] }.write(&mut message, family).unwrap();
        message
    }

    #[test]
    fn a_message_that_was_written_reads_back_the_same_with_a_right_checksum() {
        for (kind, family) in [(ECHO_REQUEST, IcmpFamily::V4), (V6_ECHO_REQUEST, V6)] {
            let message = echo(kind, family);
            let view = Icmp::parse(&message).unwrap();
            assert_eq!((view.kind(), view.code(), view.payload()), (kind, 0, &b"xyz"[..]));
            assert_eq!((view.echo_identifier(), view.echo_sequence()), (0x1234, 7));
            assert!(view.is_checksum_right(family));
        }
        assert!(!Icmp::parse(&echo(V6_ECHO_REQUEST, V6)).unwrap().is_checksum_right(IcmpFamily::V4));
    }

    #[test]
    fn an_echo_request_becomes_the_reply_that_would_have_been_written() {
        for (request, reply, family) in
            [(ECHO_REQUEST, ECHO_REPLY, IcmpFamily::V4), (V6_ECHO_REQUEST, V6_ECHO_REPLY, V6)]
        {
            let mut message = echo(request, family);
            reply_to_echo(&mut message, family).unwrap();
            assert_eq!(message, echo(reply, family));
        }
    }

    #[test]
    fn refuses_to_reply_to_anything_else() {
        let mut message = echo(ECHO_REPLY, IcmpFamily::V4);
        assert!(matches!(reply_to_echo(&mut message, IcmpFamily::V4), Err(HeaderError::Kind { .. })));
        assert!(matches!(
            reply_to_echo(&mut message[..7], IcmpFamily::V4),
            Err(HeaderError::Truncated { .. })
        ));
        assert!(Icmp::parse(&message[..7]).is_err());
    }
}
