//! Splits fixed headers off byte slices, and reads and writes big-endian fields in them.

use crate::error::HeaderError;

/// The fixed part of a header and the bytes behind it.
#[inline]
pub(crate) fn split<'p, const N: usize>(
    bytes: &'p [u8],
    header: &'static str,
) -> Result<(&'p [u8; N], &'p [u8]), HeaderError> {
    let present_bytes = bytes.len();
    bytes.split_first_chunk().ok_or(HeaderError::Truncated { header, needed_bytes: N, present_bytes })
}

/// As [`split`], to write.
#[inline]
pub(crate) fn split_mut<'p, const N: usize>(
    bytes: &'p mut [u8],
    header: &'static str,
) -> Result<(&'p mut [u8; N], &'p mut [u8]), HeaderError> {
    let present_bytes = bytes.len();
    bytes.split_first_chunk_mut().ok_or(HeaderError::Truncated { header, needed_bytes: N, present_bytes })
}

/// Reads a field at a constant offset.
#[inline(always)]
pub(crate) fn get<const N: usize, const BYTES: usize>(bytes: &[u8; BYTES], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

/// Reads a 16-bit field at a constant offset.
#[inline(always)]
pub(crate) fn get_u16<const BYTES: usize>(bytes: &[u8; BYTES], offset: usize) -> u16 {
    u16::from_be_bytes(get(bytes, offset))
}

/// Reads a 32-bit field at a constant offset.
#[inline(always)]
pub(crate) fn get_u32<const BYTES: usize>(bytes: &[u8; BYTES], offset: usize) -> u32 {
    u32::from_be_bytes(get(bytes, offset))
}

/// Writes a field at a constant offset.
#[inline(always)]
pub(crate) fn put<const N: usize, const BYTES: usize>(
    bytes: &mut [u8; BYTES],
    offset: usize,
    field: [u8; N],
) {
    bytes[offset..offset + N].copy_from_slice(&field);
}

/// Writes a 16-bit field at a constant offset.
#[inline(always)]
pub(crate) fn put_u16<const BYTES: usize>(bytes: &mut [u8; BYTES], offset: usize, value: u16) {
    put(bytes, offset, value.to_be_bytes());
}
