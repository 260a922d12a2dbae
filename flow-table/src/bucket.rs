//! One line of tags: who may be in 31 slots.

use bytemuck::{Pod, Zeroable};

use crate::level::{Baseline, Tags};

/// Slots of a bucket.
pub(crate) const LANES: u32 = 31;
/// A bit for each.
pub(crate) const WAYS: u32 = (1 << LANES) - 1;

/// The tags of a bucket's slots.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Bucket {
    /// 0: the slot is free.
    pub tags: [u16; LANES as usize],
    /// How many flows whose first bucket this is are in their second one.
    pub spilled: u16,
}

impl Bucket {
    /// A bit for each slot in use.
    #[inline]
    pub fn occupied(&self) -> u32 {
        !self.free() & WAYS
    }

    /// A bit for each free slot, the lowest of which is the first.
    #[inline]
    pub fn free(&self) -> u32 {
        Baseline.ways_with(self, 0)
    }

    /// How many slots are in use.
    #[inline]
    pub fn len(&self) -> u32 {
        self.occupied().count_ones()
    }
}
