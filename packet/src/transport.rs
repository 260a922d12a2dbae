//! The checksum that TCP, UDP and `ICMPv6` share: over a pseudo-header and the segment.

use core::net::IpAddr;

use crate::checksum::{Sum, update_bytes};

/// The sum over pseudo-header and segment, its checksum field included.
#[inline]
pub(crate) fn sum_segment(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> Sum {
    // A segment is part of a packet and far below 4 GiB; if it were not, no checksum would be right.
    let segment_bytes = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    Sum::new().add_pseudo_header(source, destination, protocol, segment_bytes).add_bytes(segment)
}

/// A transport checksum after an address of the pseudo-header has changed; both of one family.
#[inline]
pub(crate) fn update_address(checksum: u16, old: IpAddr, new: IpAddr) -> u16 {
    match (old, new) {
        (IpAddr::V4(old), IpAddr::V4(new)) => update_bytes(checksum, &old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V6(new)) => update_bytes(checksum, &old.octets(), &new.octets()),
        _ => checksum,
    }
}
