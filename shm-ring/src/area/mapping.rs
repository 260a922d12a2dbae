//! The shared memory itself. All unsafe code of the area is here, under these laws:
//!
//! - References are made only to structs of nothing but atomics ([`CounterLine`], [`Slot`], [`HostWords`],
//!   [`GuestWords`]) and to atomic words; a peer that writes meanwhile breaks no aliasing rule, and every bit pattern is valid.
//! - Header and tables are written and copied by atomic words, never through a reference.
//! - Every access is checked against the mapped length and for alignment right here, whoever asks.

use alloc::vec;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{AreaError, RegionGeometry};
use crate::layout::{
    ControlHeader, CounterLine, EndpointFacts, GuestWords, HostWords, PAGE_BYTES, REGION_MAGIC, RegionHeader,
    RingEntry, Slot, TargetEntry, VERSION_MAJOR, VERSION_MINOR,
};
use crate::sync::AtomicU32;

/// Structs that are plain bytes.
///
/// # Safety
/// `repr(C)`, no padding, every bit pattern valid, a multiple of eight bytes.
pub(super) unsafe trait Plain: Copy {}
// SAFETY: integers and arrays of them, `repr(C)`; `layout` asserts the sizes, which leave no gap.
unsafe impl Plain for ControlHeader {}
// SAFETY: as for `ControlHeader`.
unsafe impl Plain for EndpointFacts {}
// SAFETY: as for `ControlHeader`.
unsafe impl Plain for RingEntry {}
// SAFETY: as for `ControlHeader`.
unsafe impl Plain for TargetEntry {}
// SAFETY: as for `ControlHeader`.
unsafe impl Plain for RegionHeader {}

/// Structs of nothing but atomics.
///
/// # Safety
/// Every byte is part of an atomic; every bit pattern is valid.
unsafe trait Shared {}
// SAFETY: all fields are atomics, the reserved ones included.
unsafe impl Shared for CounterLine {}
// SAFETY: as for `CounterLine`.
unsafe impl Shared for Slot {}
// SAFETY: as for `CounterLine`.
unsafe impl Shared for HostWords {}
// SAFETY: as for `CounterLine`.
unsafe impl Shared for GuestWords {}
// SAFETY: is one.
unsafe impl Shared for AtomicU64 {}
// SAFETY: is one.
unsafe impl Shared for AtomicU32 {}

/// One mapping of a control area or region, by its own length.
pub(super) struct Mapping<'m> {
    base: NonNull<u8>,
    bytes: u64,
    memory: PhantomData<&'m AtomicU64>,
}

impl<'m> Mapping<'m> {
    /// # Safety
    /// - `bytes` from `base` on are mapped readable and, for the methods that write, writable, and stay in
    ///   place for `'m`.
    /// - Everyone on this machine who writes these bytes does so atomically.
    ///
    /// # Errors
    /// If `base` is not aligned to a page.
    pub(super) unsafe fn new(base: NonNull<u8>, bytes: usize) -> Result<Self, AreaError> {
        let address = base.addr().get();
        if !address.is_multiple_of(PAGE_BYTES) {
            let (offset, align) = (address as u64, PAGE_BYTES as u64);
            return Err(AreaError::Alignment { what: "mapping", offset, align });
        }
        Ok(Self { base, bytes: bytes as u64, memory: PhantomData })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `count` structs at `offset`, if they lie inside and aligned.
    fn shared<T: Shared>(&self, offset: u64, count: u64) -> Result<&'m [T], AreaError> {
        let needed_bytes = (size_of::<T>() as u64).saturating_mul(count).saturating_add(offset);
        if needed_bytes > self.bytes {
            return Err(AreaError::Mapping { mapped_bytes: self.bytes, needed_bytes });
        }
        let align = align_of::<T>() as u64;
        if !offset.is_multiple_of(align) {
            return Err(AreaError::Alignment { what: "shared words", offset, align });
        }
        // `needed_bytes` is within a mapping, so both fit a usize.
        #[allow(clippy::cast_possible_truncation, reason = "bounded by the mapped length just above")]
        let (offset, count) = (offset as usize, count as usize);
        // SAFETY: offset is within the mapping, which the maker of `self` promised is one allocation.
        let first = unsafe { self.base.add(offset) }.cast::<T>();
        // SAFETY:
        // - inside the mapping: checked above; in place for `'m`: the promise to `new`.
        // - aligned: the base is aligned to a page, which no `T` exceeds, and the offset to `T`.
        // - valid and free of aliasing rules: `T: Shared` is nothing but atomics.
        Ok(unsafe { core::slice::from_raw_parts(first.as_ptr(), count) })
    }

    fn one<T: Shared>(&self, offset: u64) -> Result<&'m T, AreaError> {
        Ok(&self.shared(offset, 1)?[0])
    }

    pub(super) fn counter_line(&self, offset: u64) -> Result<&'m CounterLine, AreaError> {
        self.one(offset)
    }

    pub(super) fn slots(&self, offset: u64, count: u32) -> Result<&'m [Slot], AreaError> {
        self.shared(offset, u64::from(count))
    }

    pub(super) fn references(&self, offset: u64, count: u32) -> Result<&'m [AtomicU32], AreaError> {
        self.shared(offset, u64::from(count))
    }

    pub(super) fn host_words(&self, offset: u64) -> Result<&'m HostWords, AreaError> {
        self.one(offset)
    }

    pub(super) fn guest_words(&self, offset: u64) -> Result<&'m GuestWords, AreaError> {
        self.one(offset)
    }

    pub(super) fn word(&self, offset: u64) -> Result<&'m AtomicU64, AreaError> {
        self.one(offset)
    }

    /// Sets `bytes` from `offset` on to zero.
    pub(super) fn zero(&self, offset: u64, bytes: u64) -> Result<(), AreaError> {
        for word in self.shared::<AtomicU64>(offset, bytes / 8)? {
            // Relaxed: whoever learns of this memory does so by a later Release or by a system call.
            word.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes a struct word by word.
    pub(super) fn write<T: Plain>(&self, offset: u64, value: &T) -> Result<(), AreaError> {
        // SAFETY: `T: Plain` has no padding, so each of its bytes is initialised; the slice lives no longer
        // than `value`, which is private memory.
        let bytes = unsafe { core::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) };
        let words = self.shared::<AtomicU64>(offset, bytes.len() as u64 / 8)?;
        for (word, chunk) in words.iter().zip(bytes.as_chunks::<8>().0) {
            // Relaxed: the Release store of the magic comes last and orders them all.
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Copies a struct out, each word read once.
    pub(super) fn copy<T: Plain>(&self, offset: u64) -> Result<T, AreaError> {
        let words = self.shared::<AtomicU64>(offset, size_of::<T>() as u64 / 8)?;
        let mut copy: Vec<u64> = vec![0; words.len()];
        for (private, shared) in copy.iter_mut().zip(words) {
            // Relaxed: the Acquire load of the magic came first.
            *private = shared.load(Ordering::Relaxed);
        }
        // SAFETY:
        // - `copy` is private memory of exactly `size_of::<T>()` bytes, since `T: Plain` is whole words;
        // - every bit pattern is a valid `T`; unaligned, so the alignment of the vector does not matter.
        Ok(unsafe { copy.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// The first word of a mapping: [`crate::layout::CONTROL_MAGIC`], [`REGION_MAGIC`], or something else.
///
/// # Safety
/// A page at `base` is mapped readable and aligned to a page.
#[must_use]
pub unsafe fn magic_at(base: NonNull<u8>) -> u64 {
    // SAFETY: the caller promises mapping and alignment; the reference to an atomic ends with this call.
    let word = unsafe { base.cast::<AtomicU64>().as_ref() };
    // Acquire: what its writer put down before the magic is visible. Pairs with the Release of the writer.
    word.load(Ordering::Acquire)
}

/// Writes the first page of a region, before anybody else maps it. The host never reads it back.
///
/// # Safety
/// - The first page at `base` is mapped writable and aligned to a page.
/// - Everyone on this machine who writes these bytes does so atomically.
///
/// # Panics
/// If `base` is not aligned to a page.
pub unsafe fn write_region_header(base: NonNull<u8>, geometry: &RegionGeometry) {
    let header = RegionHeader {
        magic: 0,
        version_major: VERSION_MAJOR,
        version_minor: VERSION_MINOR,
        reserved0: 0,
        cookie: geometry.cookie,
        region_bytes: geometry.region_bytes,
        reserved1: [0; 32],
    };
    // SAFETY: the caller promises a mapped page that all write atomically.
    let page = unsafe { Mapping::new(base, PAGE_BYTES) };
    let written = page.and_then(|page| {
        page.write(0, &header)?;
        // Release: the rest of the header is visible to whoever sees the magic. Pairs with `magic_at`.
        page.word(0)?.store(REGION_MAGIC, Ordering::Release);
        Ok(())
    });
    assert!(written.is_ok(), "a region starts at a page");
}

/// A guest's copy of a region's header, checked for magic, major version, length and the expected cookie.
///
/// # Safety
/// `mapped_bytes` at `base` are mapped readable, and everyone on this machine who writes them does so
/// atomically.
///
/// # Errors
/// Naming what was found and what was expected.
pub unsafe fn read_region_header(
    base: NonNull<u8>,
    mapped_bytes: usize,
    expected: &RegionGeometry,
) -> Result<RegionHeader, AreaError> {
    // SAFETY: the caller's promise is the same.
    let mapping = unsafe { Mapping::new(base, mapped_bytes) }?;
    let needed_bytes = expected.region_bytes;
    if mapping.bytes() < needed_bytes {
        return Err(AreaError::Mapping { mapped_bytes: mapping.bytes(), needed_bytes });
    }
    // Acquire: pairs with the Release of the magic in `write_region_header`.
    let found = mapping.word(0)?.load(Ordering::Acquire);
    if found != REGION_MAGIC {
        return Err(AreaError::Magic { found, expected: REGION_MAGIC });
    }
    let header: RegionHeader = mapping.copy(0)?;
    if header.version_major != VERSION_MAJOR {
        return Err(AreaError::Version { host_major: header.version_major });
    }
    if header.cookie != expected.cookie {
        return Err(AreaError::Cookie { found: header.cookie, expected: expected.cookie });
    }
    if header.region_bytes != needed_bytes {
        return Err(AreaError::Mapping { mapped_bytes: header.region_bytes, needed_bytes });
    }
    Ok(header)
}
