//! Tables of descriptors outside the ring (virtio 1.2, section 2.7.5.3).

use std::ptr::NonNull;

use crate::guest_bytes;
use crate::memory::{GuestMemory, bounded};
use crate::ring_fault::RingFault;
use crate::vring::{DESCRIPTOR_BYTES, Descriptor, NEXT};

/// One table, whole in one region of the guest's memory. It needs no alignment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndirectTable {
    first: NonNull<u8>,
    count: u16,
}

impl IndirectTable {
    /// The table that `desc` describes, of at most `limit` descriptors.
    ///
    /// # Errors
    /// If it has another length, is outside the guest's memory, or something is to follow it.
    pub(crate) fn find(
        desc: Descriptor,
        limit: u16,
        memory: &GuestMemory,
        hint: &mut usize,
    ) -> Result<Self, RingFault> {
        let Descriptor { address, len_bytes, flags, .. } = desc;
        if flags & NEXT != 0 {
            return Err(RingFault::IndirectWithNext);
        }
        let whole = (len_bytes as usize).is_multiple_of(DESCRIPTOR_BYTES);
        let count = u16::try_from(len_bytes as usize / DESCRIPTOR_BYTES).unwrap_or(u16::MAX);
        let is_bounded = count <= limit || cfg!(feature = "sabotage-indirect-length");
        if !whole || count == 0 || !is_bounded {
            return Err(RingFault::IndirectLength { len_bytes, limit });
        }
        let first =
            memory.translate(hint, address, len_bytes).ok_or(RingFault::Outside { address, len_bytes })?;
        Ok(Self { first, count })
    }

    /// A copy of one descriptor.
    ///
    /// # Errors
    /// If there is none of this number.
    #[inline]
    pub(crate) fn descriptor(&self, number: u16) -> Result<Descriptor, RingFault> {
        if number >= self.count {
            return Err(RingFault::NextOutside { next: number, count: self.count });
        }
        let number = bounded(number.into(), self.count.into());
        #[allow(clippy::cast_possible_truncation, reason = "less than 2^16")]
        let number = number as usize;
        let mut words = [0_u64; 2];
        // SAFETY: the number is below the count, and the table's full length was translated.
        let at = unsafe { self.first.add(number * DESCRIPTOR_BYTES) };
        // SAFETY: one descriptor of the table; the target is private and as long.
        unsafe { guest_bytes::copy(at, NonNull::from(&mut words).cast(), DESCRIPTOR_BYTES) };
        Ok(Descriptor::from_words(words[0], words[1]))
    }
}
