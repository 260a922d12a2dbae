//! One split ring, from the device's side (virtio 1.2, section 2.7).
//!
//! Our own counters are private and the truth; the ring's words only tell the driver. What the driver writes is
//! read once and checked on the copy. Chains are used in the order in which they were made available, so the
//! used index alone says how far we are: after a crash, it is where to go on.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use crate::guest_bytes::{self, LINE_BYTES};
use crate::interrupt::show_and_look;
use crate::ring_fault::RingFault;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_BYTES: usize = 16;
/// Bytes of an entry of the used ring.
const USED_BYTES: usize = 8;
/// Both rings start with flags and index.
const RING_HEAD_BYTES: usize = 4;

/// The driver wants no interrupt (flag of the avail ring).
const NO_INTERRUPT: u16 = 1;
/// We want no notification (flag of the used ring).
const NO_NOTIFY: u16 = 1;

/// The chain goes on in `next`.
pub(crate) const NEXT: u16 = 1;
/// The device writes here.
pub(crate) const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub(crate) const INDIRECT: u16 = 4;

/// A descriptor as the driver wrote it, in private memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub address: u64,
    pub len_bytes: u32,
    /// [`NEXT`], [`WRITE`] and [`INDIRECT`]; other bits mean nothing and are taken off.
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    /// From its two words.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "takes a word apart into its fields")]
    pub(crate) const fn from_words(address: u64, rest: u64) -> Self {
        Self {
            address,
            len_bytes: rest as u32,
            flags: (rest >> 32) as u16 & (NEXT | WRITE | INDIRECT),
            next: (rest >> 48) as u16,
        }
    }
}

/// Where a ring lies and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingParts {
    /// Entries: a power of two.
    pub size: u16,
    /// The descriptor table, aligned to 16 bytes.
    pub descriptors: NonNull<u8>,
    /// The avail ring, aligned to 2 bytes.
    pub avail: NonNull<u8>,
    /// The used ring, aligned to 4 bytes.
    pub used: NonNull<u8>,
    /// Position of the next chain to take.
    pub next_avail: u16,
    /// Whether notifications are asked for by index.
    pub event_index: bool,
    /// An avail ring of our own that comes before the driver's, and the position behind its last chain.
    pub first_avail: Option<(NonNull<u8>, u16)>,
}

/// One split ring.
#[derive(Debug)]
pub(crate) struct Vring {
    parts: RingParts,
    /// Entries minus one.
    mask: u16,
    /// The last checked value of the driver's index: `avail_seen - next_avail <= size` always.
    avail_seen: u16,
    /// The used index, as published.
    next_used: u16,
    /// The driver's avail ring, while one of our own comes before it.
    later_avail: Option<NonNull<u8>>,
}

// SAFETY: addresses of shared mappings, valid in every thread; nothing else in it is tied to one.
unsafe impl Send for Vring {}

impl Vring {
    /// Takes up a ring and asks for no notifications. It stands where we left it if we say so (`next_used`), and
    /// otherwise where its used index says: the driver looks there.
    ///
    /// # Safety
    /// - All three rings lie in mappings with their full length (2.7.10 to 2.7.12), aligned as the parts say,
    ///   and stay there as long as the value is used.
    /// - Our process has no reference to these bytes.
    /// - The size is a power of two.
    /// - A first avail ring is as long and lives as long; it names no more chains than the ring has entries.
    pub(crate) unsafe fn take_up(parts: RingParts, next_used: Option<u16>) -> Self {
        let mask = parts.size - 1;
        let mut ring = Self { parts, mask, avail_seen: parts.next_avail, next_used: 0, later_avail: None };
        if let Some((first, end)) = parts.first_avail {
            ring.later_avail = Some(std::mem::replace(&mut ring.parts.avail, first));
            ring.avail_seen = end;
        }
        // SAFETY: flags and index are within the used ring (caller), which is aligned to 4 bytes.
        let used_index = unsafe { guest_bytes::shared_u16(ring.used_word(1)) }.load(Ordering::Relaxed);
        ring.next_used = next_used.unwrap_or(used_index);
        if !parts.event_index {
            // SAFETY: as above.
            unsafe { guest_bytes::shared_u16(ring.used_word(0)) }.store(NO_NOTIFY, Ordering::Relaxed);
        }
        ring
    }

    /// Entries of the ring.
    #[inline(always)]
    pub(crate) fn size(&self) -> u16 {
        self.parts.size
    }

    /// Position of the next chain to take: what a successor goes on with.
    #[inline(always)]
    pub(crate) fn next_avail(&self) -> u16 {
        self.parts.next_avail
    }

    /// Whether chains come from an avail ring of our own still.
    pub(crate) fn is_before_drivers(&self) -> bool {
        self.later_avail.is_some()
    }

    /// The used index, as published.
    #[inline(always)]
    pub(crate) fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Whether the driver's index is not where we stand: chains wait, or it is wrong. To look costs no more than this;
    /// what is there is for [`Vring::pending`] to say.
    #[inline(always)]
    pub(crate) fn has_moved(&self) -> bool {
        // SAFETY: the index is the avail ring's second word, aligned as all of it (`take_up`).
        let index = unsafe { guest_bytes::shared_u16(self.avail_word(1)) }.load(Ordering::Relaxed);
        index != self.parts.next_avail || self.is_before_drivers()
    }

    /// How many chains wait, looked up anew when fewer than `wanted` are known.
    ///
    /// # Errors
    /// If the driver's index claims more than the ring holds.
    #[inline(always)]
    pub(crate) fn pending(&mut self, wanted: u16) -> Result<u16, RingFault> {
        let known = self.avail_seen.wrapping_sub(self.parts.next_avail);
        if known >= wanted {
            return Ok(known);
        }
        if let Some(drivers) = self.later_avail {
            if known > 0 {
                return Ok(known);
            }
            self.parts.avail = drivers;
            self.later_avail = None;
        }
        // Acquire: the ring entries and descriptors behind this index are visible once the index is.
        // Pairs with the driver's write barrier (2.7.13.3.1).
        // SAFETY: the index is the avail ring's second word, aligned as all of it (`take_up`).
        let index = unsafe { guest_bytes::shared_u16(self.avail_word(1)) }.load(Ordering::Acquire);
        let claimed = index.wrapping_sub(self.parts.next_avail);
        if claimed > self.parts.size && !cfg!(feature = "sabotage-avail-jump") {
            return Err(RingFault::AvailJump { claimed, size: self.parts.size });
        }
        self.avail_seen = index;
        Ok(claimed)
    }

    /// Starts to fetch the used entries of the next `count` chains, to be written.
    #[inline(always)]
    pub(crate) fn prefetch_used(&self, count: u16) {
        let first = usize::from(self.next_used & self.mask) * USED_BYTES;
        for line in 0..=(usize::from(count) * USED_BYTES / LINE_BYTES) {
            // Beyond the ring's end this is a wasted hint, no more.
            let at = first + line * LINE_BYTES + RING_HEAD_BYTES;
            guest_bytes::prefetch_to_write(self.parts.used.as_ptr().wrapping_add(at));
        }
    }

    /// First descriptor of the chain that waits `ahead` behind the next, unchecked; its line is on the way then.
    #[inline(always)]
    pub(crate) fn head(&self, ahead: u16) -> u16 {
        let entry = self.parts.next_avail.wrapping_add(ahead) & self.mask;
        // SAFETY: a masked position is within the avail ring's entries.
        let head = unsafe { guest_bytes::shared_u16(self.avail_word(2 + usize::from(entry))) }
            .load(Ordering::Relaxed);
        let line = usize::from(head & self.mask) * DESCRIPTOR_BYTES;
        guest_bytes::prefetch(self.parts.descriptors.as_ptr().wrapping_add(line));
        head
    }

    /// The descriptor table, to be kept in registers.
    #[inline(always)]
    pub(crate) fn table(&self) -> Table {
        Table { descriptors: self.parts.descriptors, mask: self.mask }
    }

    /// Whether a chain may begin at this descriptor.
    ///
    /// # Errors
    /// If there is none of this number.
    pub(crate) fn check_head(&self, head: u16) -> Result<(), RingFault> {
        if !self.table().has(head) {
            return Err(RingFault::HeadOutside { head, size: self.parts.size });
        }
        Ok(())
    }

    /// A copy of the descriptor that another one of the table calls its next.
    ///
    /// # Errors
    /// If there is none of this number.
    #[inline]
    pub(crate) fn next_descriptor(&self, next: u16) -> Result<Descriptor, RingFault> {
        if next >= self.parts.size && !cfg!(feature = "sabotage-next-bound") {
            return Err(RingFault::NextOutside { next, count: self.parts.size });
        }
        Ok(self.descriptor(next))
    }

    #[inline(always)]
    fn descriptor(&self, number: u16) -> Descriptor {
        let (address, rest) = self.table().words(number);
        Descriptor::from_words(address, rest)
    }

    /// The entries of the used ring behind those that are published, to be kept in registers.
    #[inline(always)]
    pub(crate) fn used_entries(&self) -> UsedEntries {
        UsedEntries { used: self.parts.used, next: self.next_used, mask: self.mask }
    }

    /// Shows `count` more used chains to the driver; whether it wants to be notified of them.
    #[inline(always)]
    pub(crate) fn publish(&mut self, count: u16) -> bool {
        let before = self.next_used;
        self.parts.next_avail = self.parts.next_avail.wrapping_add(count);
        self.next_used = before.wrapping_add(count);
        // What the driver wants to hear of: behind the entries, or in the flags (2.7.7).
        let wanted_at = if self.parts.event_index { 2 + usize::from(self.size()) } else { 0 };
        // SAFETY: the index is the used ring's second word.
        let index = unsafe { guest_bytes::shared_u16(self.used_word(1)) };
        // SAFETY: both are words of the avail ring's full length.
        let wanted = unsafe { guest_bytes::shared_u16(self.avail_word(wanted_at)) };
        let wanted = show_and_look(index, self.next_used, wanted);
        if self.parts.event_index {
            // Whether the index behind which the driver wants to hear lies between before and now (2.7.7.2).
            self.next_used.wrapping_sub(wanted).wrapping_sub(1) < count
        } else {
            wanted & NO_INTERRUPT == 0
        }
    }

    /// A word of the avail ring: flags, index, entries, and the event behind them.
    #[inline(always)]
    fn avail_word(&self, word: usize) -> NonNull<u16> {
        let at = self.parts.avail.as_ptr().wrapping_add(2 * word);
        // SAFETY: callers name words of the ring, which is mapped, so no address in it is null.
        unsafe { NonNull::new_unchecked(at.cast()) }
    }

    /// A word of the used ring: flags or index.
    #[inline(always)]
    fn used_word(&self, word: usize) -> NonNull<u16> {
        let at = self.parts.used.as_ptr().wrapping_add(2 * word);
        // SAFETY: as in `avail_word`.
        unsafe { NonNull::new_unchecked(at.cast()) }
    }
}

/// A table of descriptors in a mapping of full length, and a power of two of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    descriptors: NonNull<u8>,
    mask: u16,
}

impl Table {
    /// Whether there is a descriptor of this number.
    #[inline(always)]
    pub(crate) fn has(self, number: u16) -> bool {
        number <= self.mask || cfg!(feature = "sabotage-head-bound")
    }

    /// A copy of one descriptor. Of a number that is not in the table, another one.
    #[inline(always)]
    pub(crate) fn words(self, number: u16) -> (u64, u64) {
        // Masked whatever was checked: a processor that guesses past the check stays inside the table.
        let at = usize::from(number & self.mask) * DESCRIPTOR_BYTES;
        // SAFETY: a masked number is within the table, which is mapped in full length.
        let at = unsafe { self.descriptors.add(at) };
        // SAFETY: the table is aligned to 16 bytes.
        let address = unsafe { guest_bytes::load_u64(at.cast()) };
        // SAFETY: the second half of the same descriptor.
        let rest_at = unsafe { at.add(8) };
        // SAFETY: as above.
        let rest = unsafe { guest_bytes::load_u64(rest_at.cast()) };
        (address, rest)
    }
}

/// What is written of a used ring before it is published. Its mapping has full length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsedEntries {
    used: NonNull<u8>,
    /// The used index, as published.
    next: u16,
    mask: u16,
}

impl UsedEntries {
    /// Notes that the chain `ahead` of the published ones is used, with `written_bytes` in it. The driver sees it
    /// once [`Vring::publish`] is called.
    #[inline(always)]
    pub(crate) fn put(self, ahead: u16, head: u16, written_bytes: u32) {
        let entry = self.next.wrapping_add(ahead) & self.mask;
        let at = RING_HEAD_BYTES + usize::from(entry) * USED_BYTES;
        // SAFETY: a masked entry is within the used ring.
        let at = unsafe { self.used.add(at) };
        // SAFETY: 8 bytes of that entry.
        unsafe { guest_bytes::store_pair(at, u64::from(head) | (u64::from(written_bytes) << 32)) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
