//! Descriptor chains of one burst, checked and translated before a byte is copied.
//!
//! Whatever the driver links together, a chain ends: it may be as long as its ring and no longer, an indirect
//! table may hold no other, and each descriptor counts, those of no length too. A burst takes no new chain once
//! its budget of descriptors is spent.

use std::ptr::NonNull;

use crate::guest_bytes::{LINE_BYTES, ends_its_line, prefetch, prefetch_to_write};
use crate::indirect::IndirectTable;
use crate::memory::{GuestMemory, Window};
use crate::ring_fault::RingFault;
use crate::vring::{Descriptor, INDIRECT, NEXT, Vring, WRITE};

/// Chains in one burst at most.
pub(crate) const BURST_CHAINS_MAX: usize = 64;
/// How many chains to look for at a time, of so many that are wanted.
#[inline(always)]
pub(crate) fn at_a_time(wanted: usize) -> u16 {
    #[allow(clippy::cast_possible_truncation, reason = "at most 64")]
    let count = wanted.min(BURST_CHAINS_MAX) as u16;
    count
}

/// Descriptors of one burst: no chain begins behind this many.
pub(crate) const BURST_DESCRIPTORS: usize = 1024;

/// Which way a queue's buffers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// We read: the driver's transmit queue.
    FromGuest,
    /// We write: the driver's receive queue.
    ToGuest,
}

impl Direction {
    /// The flag that each buffer of the queue carries.
    #[inline(always)]
    pub(crate) const fn flag(self) -> u16 {
        match self {
            Self::FromGuest => 0,
            Self::ToGuest => WRITE,
        }
    }

    /// Starts to fetch the first two lines of a buffer.
    #[inline(always)]
    fn prefetch(self, at: NonNull<u8>) {
        let (at, next) = (at.as_ptr(), at.as_ptr().wrapping_add(LINE_BYTES));
        match self {
            Self::FromGuest => prefetch(at),
            // A line of its own for the header is read first, and often left as it is: see `store_header_if_new`.
            Self::ToGuest if ends_its_line(at) => prefetch(at),
            Self::ToGuest => prefetch_to_write(at),
        }
        match self {
            Self::FromGuest => prefetch(next),
            Self::ToGuest => prefetch_to_write(next),
        }
    }
}

/// A piece of guest memory that one descriptor names, translated in full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestSegment {
    pub at: NonNull<u8>,
    /// Not 0.
    pub len_bytes: u32,
}

/// One checked chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// The segment of a chain that has one.
    first: GuestSegment,
    /// Length of all segments; a longer one than 32 bits can say counts as the longest.
    pub len_bytes: u32,
    /// Where its segments begin in [`Chains::segments`]; not used by a chain of one.
    segments_at: u32,
    /// At most the entries of the ring.
    pub segment_count: u16,
    /// Its first descriptor: by this number the driver knows it.
    pub head: u16,
}

impl Chain {
    const NONE: Self = Self {
        first: GuestSegment { at: NonNull::dangling(), len_bytes: 0 },
        len_bytes: 0,
        segments_at: 0,
        segment_count: 0,
        head: 0,
    };

    /// The segment of a chain that has one.
    #[inline(always)]
    pub(crate) fn only(&self) -> Option<&GuestSegment> {
        (self.segment_count == 1).then_some(&self.first)
    }
}

/// The chains of one burst.
#[derive(Debug)]
pub(crate) struct Chains {
    list: [Chain; BURST_CHAINS_MAX],
    count: usize,
    /// Segments of chains with several, one chain after the other.
    segments: Vec<GuestSegment>,
    /// What may still be taken.
    descriptors_left: usize,
}

/// What a chain is looked up in.
#[derive(Debug)]
pub(crate) struct Lookup<'m> {
    pub memory: &'m GuestMemory,
    /// The region that served last time.
    pub hint: &'m mut usize,
    pub direction: Direction,
    /// Whether the driver may use indirect tables.
    pub indirect: bool,
}

// SAFETY: addresses of guest memory that a `GuestMemory` keeps mapped, which may be used in any thread; they are
// forgotten before the next burst.
unsafe impl Send for Chains {}

impl Chains {
    /// None, with room for the segments of the longest burst of rings of `size_max`.
    pub(crate) fn new(size_max: u16) -> Self {
        Self {
            list: [Chain::NONE; BURST_CHAINS_MAX],
            count: 0,
            // The last chain of a burst begins within the budget, and has as many segments as the ring entries.
            segments: Vec::with_capacity(BURST_DESCRIPTORS + usize::from(size_max)),
            descriptors_left: 0,
        }
    }

    /// Begins a new burst.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.forget();
        self.descriptors_left = BURST_DESCRIPTORS;
    }

    /// Forgets the chains so far, and goes on with what is left of the budget.
    #[inline(always)]
    pub(crate) fn forget(&mut self) {
        self.count = 0;
        self.segments.clear();
    }

    /// Forgets the chains from this one on.
    #[cold]
    pub(crate) fn cut(&mut self, at: usize) {
        self.count = self.count.min(at);
    }

    /// All of them.
    #[inline(always)]
    pub(crate) fn all(&self) -> &[Chain] {
        &self.list[..self.count]
    }

    /// The segments of one.
    #[inline(always)]
    pub(crate) fn segments<'c>(&'c self, chain: &'c Chain) -> &'c [GuestSegment] {
        if let Some(only) = chain.only() {
            return std::slice::from_ref(only);
        }
        let from = (chain.segments_at as usize).min(self.segments.len());
        let rest = &self.segments[from..];
        &rest[..usize::from(chain.segment_count).min(rest.len())]
    }

    /// Takes the next `count` chains that wait in `ring` behind those already here: first all heads, so that
    /// their descriptors arrive while the others are looked up, then each descriptor, so that the buffers arrive.
    ///
    /// Takes fewer when there is no more room, or the budget of descriptors is spent.
    ///
    /// # Errors
    /// With what is wrong with the first chain that is not here.
    #[inline(always)]
    pub(crate) fn take(
        &mut self,
        count: u16,
        ring: &Vring,
        lookup: &mut Lookup<'_>,
    ) -> Result<(), RingFault> {
        let (from, to) = (self.count, (self.count + usize::from(count)).min(BURST_CHAINS_MAX));
        for (ahead, chain) in (0..).zip(&mut self.list[..to]).skip(from) {
            chain.head = ring.head(ahead);
        }
        // What the loop works with is private and copied, so that it can stay in registers.
        let (table, direction) = (ring.table(), lookup.direction);
        let (mut window, mut left) = (lookup.window(), self.descriptors_left);
        for at in from..to {
            if left == 0 && !cfg!(feature = "sabotage-descriptor-budget") {
                break;
            }
            let head = self.list[at].head;
            let words = table.words(head);
            let desc = Descriptor::from_words(words.0, words.1);
            let is_plain = table.has(head) && desc.flags == direction.flag() && desc.len_bytes > 0;
            if is_plain && let Some(place) = window.find(desc.address, desc.len_bytes) {
                direction.prefetch(place);
                let chain = &mut self.list[at];
                chain.first = GuestSegment { at: place, len_bytes: desc.len_bytes };
                chain.len_bytes = desc.len_bytes;
                chain.segment_count = 1;
                left = left.saturating_sub(1);
            } else {
                self.descriptors_left = left;
                self.take_unusual(at, words, ring, lookup)?;
                (window, left) = (lookup.window(), self.descriptors_left);
            }
            self.count = at + 1;
        }
        self.descriptors_left = left;
        Ok(())
    }

    /// Takes a chain whose first descriptor, read already, is outside the table, or in another region than that of
    /// the last, or not the only one.
    #[inline(never)]
    fn take_unusual(
        &mut self,
        at: usize,
        words: (u64, u64),
        ring: &Vring,
        lookup: &mut Lookup<'_>,
    ) -> Result<(), RingFault> {
        ring.check_head(self.list[at].head)?;
        let desc = Descriptor::from_words(words.0, words.1);
        if desc.flags != lookup.direction.flag() || desc.len_bytes == 0 {
            return self.walk(at, desc, ring, lookup);
        }
        let chain = &mut self.list[at];
        chain.first = lookup.segment(desc)?;
        chain.len_bytes = desc.len_bytes;
        chain.segment_count = 1;
        self.descriptors_left = self.descriptors_left.saturating_sub(1);
        Ok(())
    }

    /// Follows a chain of more than one descriptor, or of an unusual one.
    fn walk(
        &mut self,
        at: usize,
        first: Descriptor,
        ring: &Vring,
        lookup: &mut Lookup<'_>,
    ) -> Result<(), RingFault> {
        let segments_at = self.segments.len();
        let (mut desc, mut len_bytes, mut table) = (first, 0_u32, None::<IndirectTable>);
        let (mut taken, mut limit) = (1, ring.size());
        loop {
            if desc.flags & INDIRECT != 0 {
                if table.is_some() && !cfg!(feature = "sabotage-indirect-nested") {
                    return Err(RingFault::IndirectNested);
                }
                let found = lookup.table(desc, ring.size())?;
                if table.replace(found).is_none() {
                    // The descriptor of the table is no buffer.
                    limit = limit.saturating_add(1);
                }
                desc = found.descriptor(0)?;
            } else {
                if desc.len_bytes > 0 {
                    self.segments.push(lookup.segment(desc)?);
                    len_bytes = len_bytes.saturating_add(desc.len_bytes);
                } else if desc.flags & WRITE != lookup.direction.flag() {
                    return Err(RingFault::Direction);
                }
                if desc.flags & NEXT == 0 {
                    break;
                }
                desc = match &table {
                    Some(table) => table.descriptor(desc.next)?,
                    None => ring.next_descriptor(desc.next)?,
                };
            }
            if taken >= limit && !cfg!(feature = "sabotage-chain-length") {
                return Err(RingFault::ChainTooLong { limit: ring.size() });
            }
            taken = taken.saturating_add(1);
        }
        self.descriptors_left = self.descriptors_left.saturating_sub(usize::from(taken));
        let chain = &mut self.list[at];
        let segment_count = self.segments.len() - segments_at;
        #[allow(clippy::cast_possible_truncation, reason = "the segments of a burst: see `Chains::new`")]
        {
            chain.segments_at = segments_at as u32;
        }
        // No more than descriptors, of which there are as many as the ring has entries.
        chain.segment_count = u16::try_from(segment_count).unwrap_or(u16::MAX);
        chain.len_bytes = len_bytes;
        if let Some(only) = self.segments.get(segments_at) {
            // `segments` looks here for a chain of one.
            chain.first = *only;
        }
        Ok(())
    }
}

impl Lookup<'_> {
    /// The region that served last time.
    #[inline(always)]
    fn window(&self) -> Window {
        self.memory.window(*self.hint)
    }

    /// What a descriptor names, on its way to the cache.
    #[inline(always)]
    fn segment(&mut self, desc: Descriptor) -> Result<GuestSegment, RingFault> {
        let Descriptor { address, len_bytes, flags, .. } = desc;
        if flags & WRITE != self.direction.flag() && !cfg!(feature = "sabotage-direction") {
            return Err(RingFault::Direction);
        }
        let at = self
            .memory
            .translate(self.hint, address, len_bytes)
            .ok_or(RingFault::Outside { address, len_bytes })?;
        self.direction.prefetch(at);
        Ok(GuestSegment { at, len_bytes })
    }

    fn table(&mut self, desc: Descriptor, limit: u16) -> Result<IndirectTable, RingFault> {
        if !self.indirect {
            return Err(RingFault::IndirectUnasked);
        }
        IndirectTable::find(desc, limit, self.memory, self.hint)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
