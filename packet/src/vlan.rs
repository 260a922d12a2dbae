//! One 802.1Q tag, behind the Ethernet header or another tag.

use crate::error::HeaderError;
use crate::field::{get_u16, put_u16, split, split_mut};

/// Bytes of a tag: control information, then the type of what follows.
pub const VLAN_TAG_BYTES: usize = 4;
const NAME: &str = "an 802.1Q tag";

/// A tag, by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// Priority, 0 to 7.
    pub priority: u8,
    /// Whether the frame may be dropped first under load.
    pub is_drop_eligible: bool,
    /// VLAN, 0 to 4095; 0 is a tag for its priority alone.
    pub vlan_id: u16,
    /// What follows.
    pub ethertype: u16,
}

impl VlanTag {
    /// Reads the tag at the start of `bytes`; returns it and what is behind.
    ///
    /// # Errors
    /// If there are fewer bytes than a tag has.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let (fixed, rest) = split::<VLAN_TAG_BYTES>(bytes, NAME)?;
        let control = get_u16(fixed, 0);
        let tag = Self {
            priority: fixed[0] >> 5,
            is_drop_eligible: control & 0x1000 != 0,
            vlan_id: control & 0x0fff,
            ethertype: get_u16(fixed, 2),
        };
        Ok((tag, rest))
    }

    /// Writes the tag at the start of `bytes`; returns what is behind. Bits beyond a field's width are cut.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn write<'p>(&self, bytes: &'p mut [u8]) -> Result<&'p mut [u8], HeaderError> {
        let (fixed, rest) = split_mut::<VLAN_TAG_BYTES>(bytes, NAME)?;
        put_u16(fixed, 0, self.control_information());
        put_u16(fixed, 2, self.ethertype);
        Ok(rest)
    }

    /// Priority, drop eligibility and VLAN as on the wire.
    #[must_use]
    pub const fn control_information(&self) -> u16 {
        (self.priority as u16 & 7) << 13 | (self.is_drop_eligible as u16) << 12 | self.vlan_id & 0x0fff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_was_written_reads_back_the_same() {
        let tag = VlanTag { priority: 5, is_drop_eligible: true, vlan_id: 0xabc, ethertype: 0x86dd };
        let mut bytes = [0; 5];
        assert_eq!(tag.write(&mut bytes).unwrap().len(), 1);
        assert_eq!(bytes, [0xba, 0xbc, 0x86, 0xdd, 0]);
        assert_eq!(VlanTag::read(&bytes).unwrap(), (tag, &[0][..]));
        assert!(VlanTag::read(&bytes[..3]).is_err());
    }
}
