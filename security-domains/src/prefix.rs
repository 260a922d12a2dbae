//! An IP prefix: an address whose host bits are zero, and how many bits of it count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

/// An IP prefix; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The network address.
    pub address: IpAddr,
    /// How many leading bits count: up to 32 (IPv4) or 128 (IPv6).
    pub length_bits: u8,
}

/// Why a text is no prefix, with what it may have meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PrefixError {
    pub(crate) rule: &'static str,
    pub(crate) nearest: Option<Prefix>,
}

impl Prefix {
    /// Whether an address lies within.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::masked(address, self.length_bits) == *self && self.is_ipv4() == address.is_ipv4()
    }

    /// Whether this is an IPv4 prefix.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The prefix around an address. `length_bits` is at most the width of the address.
    fn masked(address: IpAddr, length_bits: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length_bits.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length_bits.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, length_bits }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, PrefixError> {
        const RULE: &str = "must be an IPv4 or IPv6 prefix like 10.0.0.0/8 or 2001:db8::/32";
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err(PrefixError { rule: RULE, nearest: None });
        };
        let width_bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length_bits = length.parse::<u8>().ok().filter(|&length| digits && length <= width_bits);
        let Some(length_bits) = length_bits else {
            return Err(PrefixError { rule: RULE, nearest: Some(Self::masked(address, width_bits)) });
        };
        let prefix = Self::masked(address, length_bits);
        if prefix.address != address {
            let rule = "must be a prefix whose host bits are zero";
            return Err(PrefixError { rule, nearest: Some(prefix) });
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length_bits)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(text: &str) -> Option<String> {
        Prefix::parse(text).unwrap_err().nearest.map(|prefix| prefix.to_string())
    }

    #[test]
    fn accepts_prefixes_of_every_length() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(Prefix::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_host_bits_and_names_the_masked_prefix() {
        assert_eq!(near("10.0.0.1/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(near("10.0.0.1/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(near("2001:db8::1/64").as_deref(), Some("2001:db8::/64"));
    }

    #[test]
    fn refuses_a_length_beyond_the_address() {
        assert_eq!(near("10.0.0.0/33").as_deref(), Some("10.0.0.0/32"));
        assert_eq!(near("::/129").as_deref(), Some("::/128"));
        assert_eq!(near("10.0.0.0/+8").as_deref(), Some("10.0.0.0/32"));
        assert_eq!(near("10.0.0.1").as_deref(), Some("10.0.0.1/32"));
        assert_eq!(near("ten/8"), None);
    }

    #[test]
    fn contains_its_own_addresses_only() {
        let prefix = Prefix::parse("10.0.0.0/8").unwrap();
        assert!(prefix.contains("10.255.255.255".parse().unwrap()));
        assert!(!prefix.contains("11.0.0.0".parse().unwrap()));
        assert!(!prefix.contains("::a00:0".parse().unwrap()));
        assert!(Prefix::parse("0.0.0.0/0").unwrap().contains("255.255.255.255".parse().unwrap()));
        assert!(!Prefix::parse("::/0").unwrap().contains("0.0.0.0".parse().unwrap()));
    }
}
