//! An IP prefix: an address whose host bits are zero, and how many bits of it count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use toml_edit::Value;

use super::table::Refusal;

/// An IP prefix, kept as network and mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// An IPv4 prefix.
    V4 {
        /// Host bits are zero.
        network: u32,
        /// One bits, then zero bits.
        mask: u32,
    },
    /// An IPv6 prefix.
    V6 {
        /// Host bits are zero.
        network: u128,
        /// One bits, then zero bits.
        mask: u128,
    },
}

impl Prefix {
    /// The prefix around an address; `None` for more bits than the address has.
    #[must_use]
    pub fn around(address: IpAddr, length_bits: u32) -> Option<Self> {
        Some(match address {
            IpAddr::V4(v4) => {
                let host_bits = 32_u32.checked_sub(length_bits)?;
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                Self::V4 { network: v4.to_bits() & mask, mask }
            }
            IpAddr::V6(v6) => {
                let host_bits = 128_u32.checked_sub(length_bits)?;
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Self::V6 { network: v6.to_bits() & mask, mask }
            }
        })
    }

    /// Whether an address lies within.
    #[inline]
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4 { network, mask }, IpAddr::V4(v4)) => v4.to_bits() & mask == *network,
            (Self::V6 { network, mask }, IpAddr::V6(v6)) => v6.to_bits() & mask == *network,
            _ => false,
        }
    }

    /// Whether this is an IPv4 prefix.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        matches!(self, Self::V4 { .. })
    }

    /// How many leading bits count.
    #[must_use]
    pub const fn length_bits(&self) -> u32 {
        match self {
            Self::V4 { mask, .. } => mask.count_ones(),
            Self::V6 { mask, .. } => mask.count_ones(),
        }
    }

    /// The address with zero host bits.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        match self {
            Self::V4 { network, .. } => IpAddr::V4(Ipv4Addr::from_bits(*network)),
            Self::V6 { network, .. } => IpAddr::V6(Ipv6Addr::from_bits(*network)),
        }
    }

    /// Reads "10.0.0.0/8"; a bare address is a prefix of its full length.
    ///
    /// # Errors
    /// With the rule, and the prefix that was most likely meant.
    pub fn read(value: &Value) -> Result<Self, Refusal> {
        let (address, prefix) = address_and_prefix(value.as_str().unwrap_or_default())?;
        if prefix.network() != address {
            let rule = "must be a prefix whose host bits are zero".to_owned();
            return Err(Refusal { rule, nearest: vec![format!("\"{prefix}\"")] });
        }
        Ok(prefix)
    }
}

/// Splits "10.1.0.1/24" into the address and the prefix around it.
pub(crate) fn address_and_prefix(text: &str) -> Result<(IpAddr, Prefix), Refusal> {
    const RULE: &str = "must be an IPv4 or IPv6 prefix like \"10.0.0.0/8\" or \"2001:db8::/32\"";
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().map_err(|_| Refusal::new(RULE))?;
    let full_bits = if address.is_ipv4() { 32 } else { 128 };
    let length_bits = match length {
        "" if !text.contains('/') => Some(full_bits),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        _ => None,
    };
    let prefix = length_bits.and_then(|bits| Prefix::around(address, bits)).ok_or_else(|| Refusal {
        rule: RULE.to_owned(),
        nearest: vec![format!("\"{address}/{full_bits}\"")],
    })?;
    Ok((address, prefix))
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.length_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, Refusal> {
        Prefix::read(&Value::from(text)).map(|prefix| prefix.to_string())
    }

    #[test]
    fn reads_prefixes_of_every_length_and_bare_addresses() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
        assert_eq!(read("10.1.2.3").as_deref(), Ok("10.1.2.3/32"));
    }

    #[test]
    fn refuses_host_bits_and_names_the_masked_prefix() {
        assert_eq!(read("10.0.0.1/8").unwrap_err().nearest, ["\"10.0.0.0/8\""]);
        assert_eq!(read("2001:db8::1/64").unwrap_err().nearest, ["\"2001:db8::/64\""]);
    }

    #[test]
    fn refuses_a_length_one_beyond_the_address() {
        assert_eq!(read("10.0.0.0/33").unwrap_err().nearest, ["\"10.0.0.0/32\""]);
        assert_eq!(read("::/129").unwrap_err().nearest, ["\"::/128\""]);
        assert!(read("10.0.0.0/").is_err());
        assert!(read("10.0.0.0/+8").is_err());
        assert!(read("ten/8").is_err());
    }

    #[test]
    fn contains_its_own_addresses_of_its_own_family() {
        let within = |prefix: &str, address: &str| {
            Prefix::read(&Value::from(prefix)).unwrap().contains(address.parse().unwrap())
        };
        assert!(within("10.0.0.0/8", "10.255.255.255"));
        assert!(!within("10.0.0.0/8", "11.0.0.0"));
        assert!(within("0.0.0.0/0", "255.255.255.255"));
        assert!(!within("::/0", "0.0.0.0"));
        assert!(within("2001:db8::/32", "2001:db8:ffff::"));
    }
}
