//! What one observer has references to on one lcore: at most so many buffers, each for at most so long.
//!
//! A reference holds nothing: the ledger counts it ([`crate::shard::Shard::observe`]), and the host ends it without
//! asking. Its slot is free again only when the observer has given it back, ended or not: whoever gives nothing back
//! is brought nothing more, and is never taken for hostile because it was late.
//!
//! ```text
//!          bring             expire
//!   Free ────────▶ Live ───────────────▶ Expired
//!    ▲              │                       │
//!    └──────────────┴───────────────────────┘
//!          give_back, or `end` of all
//! ```

use shm_ring::desc::{Desc, FLAGS_KNOWN, RELEASE, reference_slot};

use crate::fault::DescFault;
use crate::ids::BufferIndex;
use crate::shard::local_index;

/// No slot: the end of the list of live references.
const NONE: u16 = u16::MAX;

/// What a slot of references has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// Nothing; the observer has nothing of it.
    Free,
    /// A reference whose generation is the good one.
    Live,
    /// A reference that has ended and was not given back yet.
    Expired,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    state: SlotState,
    /// Of the reference here, or of the next one.
    generation: u16,
    /// The live reference that was brought before, and after, this one.
    older: u16,
    newer: u16,
    buffer: u32,
    since_ms: u32,
}

/// A reference that was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Its slot.
    pub slot: u16,
    /// Its generation, which the word of the slot shows already.
    pub generation: u16,
}

/// A live reference that has ended. The caller shows its end first, and only then lets go of the buffer
/// ([`crate::shard::Shard::unobserve`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Ended {
    /// Its slot.
    pub slot: u16,
    /// The generation that is the good one there from now on.
    pub generation: u16,
    /// Its buffer.
    pub buffer: BufferIndex,
}

/// The references of one observer on one lcore.
#[derive(Debug)]
pub struct References {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    oldest: u16,
    newest: u16,
    live: u32,
    lifetime_ms: u32,
}

impl References {
    /// No references yet; at most `count`, below 65535, and each for at most `lifetime_ms`.
    #[must_use]
    pub fn new(count: u16, lifetime_ms: u32) -> Self {
        let count = count.min(NONE - 1);
        let slot =
            Slot { state: SlotState::Free, generation: 0, older: NONE, newer: NONE, buffer: 0, since_ms: 0 };
        let slots = vec![slot; usize::from(count)].into_boxed_slice();
        Self { slots, free: (0..count).rev().collect(), oldest: NONE, newest: NONE, live: 0, lifetime_ms }
    }

    /// Whether one more can be brought now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// References that hold now.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live
    }

    /// Brings a reference to a buffer, if a slot is free.
    #[must_use]
    pub fn bring(&mut self, buffer: BufferIndex, now_ms: u32) -> Option<Reference> {
        let number = self.free.pop()?;
        let older = std::mem::replace(&mut self.newest, number);
        match self.slots.get_mut(usize::from(older)) {
            Some(before) => before.newer = number,
            None => self.oldest = number,
        }
        let slot = self.slots.get_mut(usize::from(number))?;
        let generation = slot.generation;
        let (state, buffer, since_ms) = (SlotState::Live, buffer.0, now_ms);
        *slot = Slot { state, generation, older, newer: NONE, buffer, since_ms };
        self.live += 1;
        Some(Reference { slot: number, generation })
    }

    /// Checks a descriptor that the observer gave, and frees its slot. What comes back says what has ended with
    /// this; nothing of a reference that had ended before.
    ///
    /// # Errors
    /// The first check that fails, in this order: code, flags, slot, held at all, generation. Nothing has changed
    /// then.
    pub fn give_back(&mut self, desc: &Desc) -> Result<Option<Ended>, DescFault> {
        let number = reference_slot(desc.aux);
        if desc.code != RELEASE {
            return Err(DescFault::UnknownCode { code: desc.code });
        }
        if desc.flags & !FLAGS_KNOWN != 0 {
            return Err(DescFault::UnknownFlags { flags: desc.flags });
        }
        #[allow(clippy::cast_possible_truncation, reason = "`new` takes a u16")]
        let count = self.slots.len() as u32;
        let slot = local_index(number.into(), 0, count).and_then(|local| self.slots.get(local));
        let Some(&slot) = slot else { return Err(DescFault::ForeignReference { slot: number, count }) };
        let is_held = slot.state != SlotState::Free && slot.buffer == desc.buffer_index;
        if !is_held && !cfg!(feature = "sabotage-reference-held") {
            return Err(DescFault::ReferenceNotHeld { slot: number, index: desc.buffer_index });
        }
        if slot.generation != desc.generation && !cfg!(feature = "sabotage-reference-generation") {
            let (given, current) = (desc.generation, slot.generation);
            return Err(DescFault::ReferenceGeneration { slot: number, given, current });
        }
        let ended = (slot.state != SlotState::Expired).then(|| self.end_live(number)).flatten();
        self.make_free(number);
        Ok(ended)
    }

    /// Ends the oldest live reference if its time is up; to be called until there is none.
    pub fn expire(&mut self, now_ms: u32) -> Option<Ended> {
        let slot = self.slots.get(usize::from(self.oldest))?;
        // Coarse time wraps; a reference is never older than half of it.
        let is_due = now_ms.wrapping_sub(slot.since_ms) >= self.lifetime_ms;
        is_due.then(|| self.end_live(self.oldest)).flatten()
    }

    /// Ends the oldest live reference, whatever its age; to be called until there is none, which makes every slot
    /// free: for an observer that is gone, or starts anew.
    pub fn end(&mut self) -> Option<Ended> {
        if let Some(ended) = self.end_live(self.oldest) {
            return Some(ended);
        }
        for number in (0..NONE).take(self.slots.len()) {
            self.make_free(number);
        }
        None
    }

    /// The good generation of each slot.
    pub fn good(&self) -> impl Iterator<Item = (u16, u16)> {
        (0..).zip(&self.slots).map(|(number, slot)| match slot.state {
            SlotState::Free | SlotState::Live => (number, slot.generation),
            SlotState::Expired => (number, slot.generation.wrapping_add(1)),
        })
    }

    /// Takes a live reference out of the list. Live → Expired.
    fn end_live(&mut self, number: u16) -> Option<Ended> {
        let slot = self.slots.get_mut(usize::from(number))?;
        let Slot { generation, older, newer, buffer, .. } = *slot;
        slot.state = SlotState::Expired;
        match self.slots.get_mut(usize::from(older)) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(usize::from(newer)) {
            Some(behind) => behind.older = older,
            None => self.newest = older,
        }
        self.live -= 1;
        let next = if cfg!(feature = "sabotage-reference-end") { 0 } else { 1 };
        Some(Ended { slot: number, generation: generation.wrapping_add(next), buffer: BufferIndex(buffer) })
    }

    /// Expired → Free: the next reference here has another generation.
    fn make_free(&mut self, number: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(number))
            && slot.state == SlotState::Expired
        {
            slot.state = SlotState::Free;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests;
