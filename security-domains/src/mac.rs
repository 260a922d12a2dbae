//! A MAC address as the configuration spells it.

use std::fmt;

use serde::{Serialize, Serializer};

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Six pairs of hexadecimal digits between colons.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            let is_hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = is_hex.then(|| u8::from_str_radix(part, 16).ok())??;
        }
        parts.next().is_none().then_some(Self(bytes))
    }

    /// The address that an illegal text was likely meant to be: the same digits, between colons.
    pub(crate) fn nearest(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|character| !matches!(character, ':' | '-' | '.')).collect();
        let is_hex = digits.len() == 12 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let value = is_hex.then(|| u64::from_str_radix(&digits, 16).ok())??;
        let [_, _, bytes @ ..] = value.to_be_bytes();
        Some(Self(bytes))
    }

    /// Whether one station can have it.
    pub(crate) fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The address with the bit of groups cleared, if that leaves one for a station.
    pub(crate) fn nearest_unicast(self) -> Option<Self> {
        let [first, rest @ ..] = self.0;
        let [b, c, d, e, f] = rest;
        Some(Self([first & !1, b, c, d, e, f])).filter(|mac| mac.is_unicast())
    }

    /// An address that hangs on a name alone, out of those that nobody administers.
    pub(crate) fn derived(name: &str) -> Self {
        // FNV-1a: spread evenly, and the same everywhere for ever; nothing is kept secret by it.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [_, _, _, b, c, d, e, f] = hash.to_be_bytes();
        Self([2, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_six_pairs_between_colons() {
        assert_eq!(Mac::parse("02:00:00:00:00:01"), Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!(Mac::parse("FF:ff:Ff:fF:00:aB").unwrap().to_string(), "ff:ff:ff:ff:00:ab");
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:01",
        ] {
            assert_eq!(Mac::parse(text), None, "{text}");
        }
    }

    #[test]
    fn completes_other_spellings() {
        let near = |text| Mac::nearest(text).map(|mac| mac.to_string());
        assert_eq!(near("02-00-00-00-00-01").as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(near("0200.0000.0001").as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(near("02:00:00"), None);
        assert_eq!(near("zz:zz:zz:zz:zz:zz"), None);
    }
}
