//! How a region divides into buffers.

use super::AreaError;
use crate::layout::{
    CACHE_LINE_BYTES, ControlHeader, DATA_ROOM_BYTES_MIN, HEADROOM_BYTES, PAGE_BYTES, REGION_BYTES_MIN,
    STRIDE_BYTES_MAX,
};

/// Smallest odd number of cache lines that holds the headroom and the least data room.
pub(super) const STRIDE_BYTES_MIN: u32 = 35 * CACHE_LINE_BYTES;
const _: () = assert!(STRIDE_BYTES_MIN >= HEADROOM_BYTES as u32 + DATA_ROOM_BYTES_MIN);
const _: () = assert!(STRIDE_BYTES_MIN - 2 * CACHE_LINE_BYTES < HEADROOM_BYTES as u32 + DATA_ROOM_BYTES_MIN);

/// How a region divides into buffers. Buffers are named by index, never by byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionGeometry {
    /// Bytes of the region, a power of two.
    pub region_bytes: u64,
    /// Ties region and control area together.
    pub cookie: u64,
    /// Where buffer 0 starts: behind the first page.
    pub buffers_offset: u64,
    /// Distance between buffers, an odd number of cache lines.
    pub buffer_stride_bytes: u32,
    /// Number of buffers.
    pub buffer_count: u32,
    /// Bytes in front of the data of a received packet.
    pub headroom_bytes: u16,
}

impl RegionGeometry {
    /// As many buffers as fit behind the first page.
    ///
    /// # Errors
    /// If the region is no power of two, or the stride no odd number of cache lines within bounds.
    pub fn fit(region_bytes: u64, buffer_stride_bytes: u32, cookie: u64) -> Result<Self, AreaError> {
        check_region_bytes(region_bytes)?;
        check_stride(buffer_stride_bytes)?;
        let buffers_offset = PAGE_BYTES as u64;
        let fitting = (region_bytes - buffers_offset) / u64::from(buffer_stride_bytes);
        let buffer_count = u32::try_from(fitting).map_err(|_| AreaError::RegionBytes { region_bytes })?;
        Ok(Self {
            region_bytes,
            cookie,
            buffers_offset,
            buffer_stride_bytes,
            buffer_count,
            headroom_bytes: HEADROOM_BYTES,
        })
    }

    /// The geometry that a header claims, checked.
    ///
    /// # Errors
    /// If the claimed buffers leave the region, or sizes break the rules of [`RegionGeometry::fit`].
    pub fn from_header(header: &ControlHeader) -> Result<Self, AreaError> {
        let claimed = Self {
            region_bytes: header.region_bytes,
            cookie: header.region_cookie,
            buffers_offset: header.buffers_offset,
            buffer_stride_bytes: header.buffer_stride_bytes,
            buffer_count: header.buffer_count,
            headroom_bytes: header.headroom_bytes,
        };
        claimed.check()?;
        Ok(claimed)
    }

    pub(super) fn check(&self) -> Result<(), AreaError> {
        let Self { region_bytes, buffers_offset, buffer_stride_bytes: stride_bytes, headroom_bytes, .. } =
            *self;
        check_region_bytes(region_bytes)?;
        check_stride(stride_bytes)?;
        if u32::from(headroom_bytes) + DATA_ROOM_BYTES_MIN > stride_bytes {
            return Err(AreaError::Headroom { headroom_bytes, stride_bytes });
        }
        if buffers_offset < PAGE_BYTES as u64 || !buffers_offset.is_multiple_of(u64::from(CACHE_LINE_BYTES)) {
            let align = u64::from(CACHE_LINE_BYTES);
            return Err(AreaError::Alignment { what: "buffer 0", offset: buffers_offset, align });
        }
        // u32 × u32 fits u64; the sum saturates, so a wrapped, "valid" end cannot come out.
        let buffers_bytes = u64::from(self.buffer_count) * u64::from(stride_bytes);
        let end_offset = buffers_offset.saturating_add(buffers_bytes);
        if end_offset > region_bytes {
            return Err(AreaError::Buffers { end_offset, region_bytes });
        }
        Ok(())
    }

    /// Where a buffer starts in the region. For an index within `buffer_count` the whole buffer lies inside.
    #[inline]
    #[must_use]
    pub const fn buffer_offset(&self, index: u32) -> u64 {
        self.buffers_offset + index as u64 * self.buffer_stride_bytes as u64
    }
}

fn check_region_bytes(region_bytes: u64) -> Result<(), AreaError> {
    if !region_bytes.is_power_of_two() || region_bytes < REGION_BYTES_MIN {
        return Err(AreaError::RegionBytes { region_bytes });
    }
    Ok(())
}

fn check_stride(stride_bytes: u32) -> Result<(), AreaError> {
    let odd_lines =
        stride_bytes.is_multiple_of(CACHE_LINE_BYTES) && (stride_bytes / CACHE_LINE_BYTES) % 2 == 1;
    if !odd_lines || !(STRIDE_BYTES_MIN..=STRIDE_BYTES_MAX).contains(&stride_bytes) {
        return Err(AreaError::Stride { stride_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::STRIDE_BYTES_DEFAULT;

    const MIB: u64 = 1 << 20;

    #[test]
    fn fills_the_region_with_buffers() {
        let geometry = RegionGeometry::fit(32 * MIB, STRIDE_BYTES_DEFAULT, 7).unwrap();
        assert_eq!(geometry.buffer_count, 14_168);
        assert!(geometry.buffer_offset(geometry.buffer_count) <= 32 * MIB);
        assert!(geometry.buffer_offset(geometry.buffer_count + 1) > 32 * MIB);
        assert_eq!(geometry.buffer_offset(0), 4096);
        geometry.check().unwrap();
    }

    #[test]
    fn accepts_the_smallest_region_and_refuses_half_of_it() {
        assert!(RegionGeometry::fit(2 * MIB, STRIDE_BYTES_DEFAULT, 0).is_ok());
        assert_eq!(
            RegionGeometry::fit(MIB, STRIDE_BYTES_DEFAULT, 0),
            Err(AreaError::RegionBytes { region_bytes: MIB })
        );
    }

    #[test]
    fn refuses_a_region_that_is_no_power_of_two() {
        let err = RegionGeometry::fit(63 * MIB, STRIDE_BYTES_DEFAULT, 0).unwrap_err();
        assert_eq!(err.to_string(), "region of 66060288 bytes, must be a power of two of at least 2097152");
    }

    #[test]
    fn accepts_strides_at_both_bounds_and_refuses_those_beyond() {
        for stride in [2240, 65_472] {
            assert!(RegionGeometry::fit(2 * MIB, stride, 0).is_ok(), "{stride}");
        }
        for stride in [0, 2112, 2239, 2304, 65_536, 65_600, u32::MAX] {
            let err = RegionGeometry::fit(2 * MIB, stride, 0).unwrap_err();
            assert_eq!(err, AreaError::Stride { stride_bytes: stride });
        }
    }

    #[test]
    fn refuses_a_region_with_more_buffers_than_an_index_names() {
        assert!(RegionGeometry::fit(1 << 63, 2240, 0).is_err());
    }

    #[test]
    fn accepts_buffers_up_to_the_region_end_and_refuses_one_more() {
        let mut geometry = RegionGeometry::fit(2 * MIB, STRIDE_BYTES_DEFAULT, 0).unwrap();
        geometry.check().unwrap();
        geometry.buffer_count += 1;
        assert!(matches!(geometry.check(), Err(AreaError::Buffers { .. })));
    }

    #[test]
    fn refuses_a_buffer_offset_that_would_wrap() {
        let mut geometry = RegionGeometry::fit(2 * MIB, STRIDE_BYTES_DEFAULT, 0).unwrap();
        geometry.buffers_offset = u64::MAX - 63;
        assert!(matches!(geometry.check(), Err(AreaError::Buffers { end_offset: u64::MAX, .. })));
    }

    #[test]
    fn refuses_a_headroom_that_leaves_too_little_room() {
        let mut geometry = RegionGeometry::fit(2 * MIB, 2240, 0).unwrap();
        geometry.headroom_bytes = 192;
        geometry.check().unwrap();
        geometry.headroom_bytes = 193;
        assert!(matches!(geometry.check(), Err(AreaError::Headroom { headroom_bytes: 193, .. })));
    }
}
