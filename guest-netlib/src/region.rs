//! The packet memory of the domain, as one network function sees it.
//!
//! The region holds nothing but packet bytes and a header page that ties it to its control area. Netlib takes
//! one decision from its bytes, at attach: whether the header is the one that the control area names.

use std::ptr::NonNull;

use shm_ring::area::{AreaError, RegionGeometry, read_region_header};

use crate::mapping::Mapping;

/// The mapped packet memory.
#[derive(Debug)]
pub(crate) struct Region {
    buffers: Buffers,
    /// Keeps the pointers in `buffers` valid.
    _mapping: Mapping,
}

/// Where the buffers of a region lie. Whoever keeps a copy keeps the [`Region`] alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    first: NonNull<u8>,
    stride_bytes: u32,
    count: u32,
}

// SAFETY: an address and two numbers, constant after the region is mapped; the mapping belongs to the whole
// process. Who may touch the bytes behind it is the holder rule of a buffer, kept by `Packet`.
unsafe impl Send for Buffers {}
// SAFETY: as above.
unsafe impl Sync for Buffers {}

impl Region {
    /// Checks that `mapping` is the region that `expected` describes, which `GuestArea::open` has checked.
    pub(crate) fn open(mapping: Mapping, expected: &RegionGeometry) -> Result<Self, AreaError> {
        // SAFETY:
        // - `mapping` is mapped readable for its whole length, and stays so during the call.
        // - The header page is written by nobody but the host, before it lends the region; a neighbour that
        //   writes it from another VM does so through another mapping and only changes what is read here.
        unsafe { read_region_header(mapping.base(), mapping.mapped_bytes(), expected) }?;
        let too_short = AreaError::Mapping {
            mapped_bytes: mapping.mapped_bytes() as u64,
            needed_bytes: expected.buffer_offset(expected.buffer_count),
        };
        // The checked geometry ends inside `region_bytes`, and those are mapped; so this never fails.
        let offset = usize::try_from(expected.buffers_offset).map_err(|_| too_short)?;
        // SAFETY: `offset` is inside the region by the checked geometry, and the region is mapped in full.
        let first = unsafe { mapping.base().add(offset) };
        let (stride_bytes, count) = (expected.buffer_stride_bytes, expected.buffer_count);
        Ok(Self { buffers: Buffers { first, stride_bytes, count }, _mapping: mapping })
    }

    pub(crate) fn buffers(&self) -> Buffers {
        self.buffers
    }
}

impl Buffers {
    /// None of these: nothing of the region may be held.
    pub(crate) fn none(self) -> Self {
        Self { count: 0, ..self }
    }

    /// Copies bytes of a buffer out; each is read once, and may be written by others meanwhile.
    ///
    /// # Safety
    /// `index` is below [`Buffers::count`], and `offset_bytes` plus the length of `copy` are within the stride.
    pub(crate) unsafe fn copy_out(&self, index: u32, offset_bytes: usize, copy: &mut [u8]) {
        // SAFETY: `index` is below `count`, by the caller.
        let start = unsafe { self.start_unchecked(index) };
        // SAFETY: the offset is within the buffer, by the caller.
        let from = unsafe { start.add(offset_bytes) };
        let (words, rest) = copy.as_chunks_mut::<8>();
        let words_bytes = words.len() * 8;
        for (position, word) in words.iter_mut().enumerate() {
            // SAFETY: the words end where `copy` does, and so within the buffer.
            let at = unsafe { from.add(position * 8) }.cast::<[u8; 8]>();
            // SAFETY: eight bytes of the mapping, which whoever keeps a `Buffers` keeps alive; an array of bytes
            // needs no alignment and has no invalid values. Volatile, since others write these bytes: what arrives
            // torn is told from the rest by its reference, or is the chain's own doing.
            *word = unsafe { at.read_volatile() };
        }
        for (position, byte) in rest.iter_mut().enumerate() {
            // SAFETY: as above, byte by byte.
            let at = unsafe { from.add(words_bytes + position) };
            // SAFETY: as above.
            *byte = unsafe { at.read_volatile() };
        }
    }

    /// Where buffer `index` starts.
    ///
    /// # Safety
    /// `index` is below [`Buffers::count`].
    #[inline(always)]
    pub(crate) unsafe fn start_unchecked(&self, index: u32) -> NonNull<u8> {
        let offset = index as usize * self.stride_bytes as usize;
        // SAFETY: `index` is below `count`, by the caller, and the geometry was checked so that `count` strides
        // from `first` lie inside the mapping.
        unsafe { self.first.add(offset) }
    }

    #[inline(always)]
    pub(crate) fn stride_bytes(&self) -> u32 {
        self.stride_bytes
    }

    #[inline(always)]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}
