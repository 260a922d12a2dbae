//! How long a frame may be, where it lies in a buffer and where it leaves.

use crate::drop_reason::DropReason;

/// What a descriptor from an endpoint may say about its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Bytes of a buffer; data lies within.
    pub stride_bytes: u32,
    /// Shortest frame that goes on.
    pub frame_bytes_min: u16,
    /// Longest frame that goes on.
    pub frame_bytes_max: u16,
}

/// Bytes of an Ethernet header: nothing shorter is a frame.
pub const ETHERNET_HEADER_BYTES: u16 = 14;
/// Bytes of two VLAN tags, which a frame may have beyond MTU and Ethernet header.
pub const VLAN_ALLOWANCE_BYTES: u16 = 8;

impl FrameLimits {
    /// The limits of a domain whose buffers are `stride_bytes` apart: any frame that fits into a buffer.
    #[must_use]
    pub const fn of_stride(stride_bytes: u32) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "the branch bounds it")]
        let frame_bytes_max = if stride_bytes > u16::MAX as u32 { u16::MAX } else { stride_bytes as u16 };
        Self { stride_bytes, frame_bytes_min: ETHERNET_HEADER_BYTES, frame_bytes_max }
    }
}

/// What a port sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressLimits {
    /// Shortest frame on the wire without its checksum; the host pads shorter ones with zeros.
    pub pad_to_bytes: u16,
    /// Longest frame without its checksum.
    pub frame_bytes_max: u16,
}

impl EgressLimits {
    /// The limits of an Ethernet port that pads frames to `pad_to_bytes` (60 for a wire, 0 for none).
    #[must_use]
    pub const fn of_mtu(mtu_bytes: u16, pad_to_bytes: u16) -> Self {
        let overhead_bytes = ETHERNET_HEADER_BYTES + VLAN_ALLOWANCE_BYTES;
        Self { pad_to_bytes, frame_bytes_max: mtu_bytes.saturating_add(overhead_bytes) }
    }

    /// How long the frame is after padding.
    ///
    /// # Errors
    /// [`DropReason::FrameTooShort`] below an Ethernet header, [`DropReason::FrameTooLong`] beyond the port's
    /// MTU with headers.
    #[inline]
    pub const fn admit(&self, frame_bytes: u16) -> Result<u16, DropReason> {
        if frame_bytes < ETHERNET_HEADER_BYTES {
            return Err(DropReason::FrameTooShort);
        }
        if frame_bytes > self.frame_bytes_max {
            return Err(DropReason::FrameTooLong);
        }
        Ok(if frame_bytes < self.pad_to_bytes { self.pad_to_bytes } else { frame_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: EgressLimits = EgressLimits::of_mtu(1500, 60);

    #[test]
    fn admits_the_longest_frame_with_two_tags() {
        assert_eq!(WIRE.admit(1522), Ok(1522));
    }

    #[test]
    fn refuses_a_frame_one_byte_longer() {
        assert_eq!(WIRE.admit(1523), Err(DropReason::FrameTooLong));
    }

    #[test]
    fn pads_a_frame_of_a_bare_header() {
        assert_eq!(WIRE.admit(14), Ok(60));
    }

    #[test]
    fn refuses_a_frame_below_an_ethernet_header() {
        assert_eq!(WIRE.admit(13), Err(DropReason::FrameTooShort));
    }

    #[test]
    fn an_mtu_near_the_16_bit_limit_does_not_wrap() {
        assert_eq!(EgressLimits::of_mtu(u16::MAX, 60).frame_bytes_max, u16::MAX);
    }

    #[test]
    fn a_stride_beyond_16_bits_caps_the_frame() {
        assert_eq!(FrameLimits::of_stride(70_000).frame_bytes_max, u16::MAX);
        assert_eq!(FrameLimits::of_stride(2368).frame_bytes_max, 2368);
    }
}
