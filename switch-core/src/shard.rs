//! The buffers of one domain on one lcore: who holds each, and every change of holder.
//!
//! A shard has one owner, an lcore, and no atomics. Its entries and its free list lie in the host-private
//! ledger file; nothing in it is a guest's to write. [`crate::transition`] lists which changes there are.
//!
//! An operation that the ledger refuses changes nothing. What the host asks wrongly is counted under
//! [`LedgerFault`]; what an endpoint gives wrongly is a [`DescFault`].

use std::sync::atomic::{Ordering, compiler_fence};

use shm_ring::desc::{Kind, RawDesc};
use thiserror::Error;

use crate::counters::LedgerFaultCounters;
use crate::descriptor;
use crate::fault::{DescFault, LedgerFault};
use crate::frame::FrameLimits;
pub use crate::handover::{Ingress, Loan, Reclaimed, Returned};
use crate::ids::{BufferIndex, ENDPOINTS_MAX, EndpointId};
use crate::ledger::LedgerEntry;
use crate::passage::Passage;
use crate::transition::HolderState;

/// A ledger that cannot be a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShardError {
    /// Entries and free list differ in length.
    #[error("a ledger of {entries} entries with a free list of {slots} slots, they must be equal")]
    Lengths {
        /// Entries given.
        entries: usize,
        /// Slots of the free list given.
        slots: usize,
    },
    /// Indices beyond what a descriptor can name.
    #[error("{entries} buffers from index {first}, the last index must be below 2^31")]
    TooMany {
        /// Entries given.
        entries: usize,
        /// First index.
        first: u32,
    },
}

/// The buffers of one domain on one lcore.
#[derive(Debug)]
pub struct Shard<'f> {
    pub(crate) entries: &'f mut [LedgerEntry],
    /// Free list: the first `depth` slots name the buffers in the pool.
    pub(crate) stack: &'f mut [u32],
    pub(crate) depth: usize,
    pub(crate) first: u32,
    /// The number of entries; below 2³¹, which the index mask relies on.
    pub(crate) size: u32,
    /// Buffers that each endpoint holds here, quarantined ones too.
    pub(crate) held: Box<[u32; ENDPOINTS_MAX]>,
    faults: LedgerFaultCounters,
}

impl<'f> Shard<'f> {
    /// Starts a shard with every buffer in the pool. `first` is the region's index of the first entry.
    ///
    /// # Errors
    /// If the two slices differ in length or the indices reach 2³¹.
    pub fn fresh(
        first: u32,
        entries: &'f mut [LedgerEntry],
        stack: &'f mut [u32],
    ) -> Result<Self, ShardError> {
        entries.fill(LedgerEntry::default());
        let mut shard = Self::over(first, entries, stack)?;
        shard.rebuild_stack();
        Ok(shard)
    }

    /// Lays a shard over a ledger as it is; the free list is still to be built.
    pub(crate) fn over(
        first: u32,
        entries: &'f mut [LedgerEntry],
        stack: &'f mut [u32],
    ) -> Result<Self, ShardError> {
        if entries.len() != stack.len() {
            return Err(ShardError::Lengths { entries: entries.len(), slots: stack.len() });
        }
        let too_many = ShardError::TooMany { entries: entries.len(), first };
        let size = u32::try_from(entries.len()).map_err(|_| too_many)?;
        if u64::from(first) + u64::from(size) > 1 << 31 {
            return Err(too_many);
        }
        let held = Box::new([0; ENDPOINTS_MAX]);
        Ok(Self { entries, stack, depth: 0, first, size, held, faults: LedgerFaultCounters::default() })
    }

    /// Puts every buffer that is marked `Pool` on the free list, the lowest index on top.
    pub(crate) fn rebuild_stack(&mut self) {
        self.depth = 0;
        for (index, entry) in (self.first..self.first + self.size).zip(self.entries.iter()).rev() {
            if entry.holder_state() == Some(HolderState::Pool) {
                self.stack[self.depth] = index;
                self.depth += 1;
            }
        }
    }

    /// Where an index of the region lies in this shard; `None` for another shard's.
    #[inline(always)]
    fn local(&self, index: u32) -> Option<usize> {
        local_index(index, self.first, self.size)
    }

    #[inline(always)]
    fn entry_mut(&mut self, index: u32) -> Option<&mut LedgerEntry> {
        let local = self.local(index)?;
        self.entries.get_mut(local)
    }

    #[cold]
    #[inline(never)]
    fn fault(&mut self, fault: LedgerFault) -> bool {
        self.faults.add(fault, 1);
        false
    }

    /// Gives buffers out of the pool, all of `out` or none. Pool → Pmd; for the mempool's dequeue.
    #[inline]
    #[must_use]
    pub fn take(&mut self, out: &mut [u32]) -> bool {
        let Some(rest) = self.depth.checked_sub(out.len()) else { return false };
        let Some(top) = self.stack.get(rest..self.depth) else { return false };
        let mut not_pool = 0;
        for (wanted, index) in out.iter_mut().zip(top.iter().rev()) {
            *wanted = *index;
            let local = index.wrapping_sub(self.first) as usize;
            match self.entries.get_mut(local) {
                Some(entry) if entry.state == HolderState::Pool as u8 => entry.state = HolderState::Pmd as u8,
                _ => not_pool += 1,
            }
        }
        self.depth = rest;
        if not_pool > 0 {
            self.faults.add(LedgerFault::StackNotPool, not_pool);
        }
        true
    }

    /// Takes buffers into the pool. Pmd or Lcore → Pool; for the mempool's enqueue. A buffer that observers still
    /// look at goes there when the last of them is done: → Pinned.
    ///
    /// A buffer in any other state stays where it is and counts as a fault.
    #[inline]
    pub fn give(&mut self, indices: &[u32]) {
        for &index in indices {
            self.give_one(index);
        }
    }

    #[inline(always)]
    fn give_one(&mut self, index: u32) {
        let Some(entry) = self.entry_mut(index) else {
            self.fault(LedgerFault::GiveForeign);
            return;
        };
        if !matches!(entry.holder_state(), Some(HolderState::Pmd | HolderState::Lcore)) {
            self.fault(LedgerFault::GiveNotOut);
            return;
        }
        if entry.observer_count > 0 && !cfg!(feature = "sabotage-pin") {
            entry.state = HolderState::Pinned as u8;
            return;
        }
        entry.state = HolderState::Pool as u8;
        self.push(index);
    }

    /// Puts an index of this shard on the free list that was not on it: there is a slot for each entry.
    #[inline(always)]
    fn push(&mut self, index: u32) {
        if let Some(slot) = self.stack.get_mut(self.depth) {
            *slot = index;
            self.depth += 1;
        }
    }

    /// Counts one more observer of a packet that the lcore has in its hands.
    ///
    /// False: the lcore did not have it, or it has as many observers as can be counted; nobody must be shown it.
    #[inline]
    #[must_use]
    pub fn observe(&mut self, index: BufferIndex) -> bool {
        match self.entry_mut(index.0) {
            Some(entry) if entry.state == HolderState::Lcore as u8 && entry.observer_count < u16::MAX => {
                entry.observer_count += 1;
                true
            }
            _ => self.fault(LedgerFault::ObserveNotLcore),
        }
    }

    /// Counts one observer less, whoever holds the buffer. With the last one of a pinned buffer, Pinned → Pool.
    ///
    /// False: it had no observer.
    #[inline]
    pub fn unobserve(&mut self, index: BufferIndex) -> bool {
        let Some(entry) = self.entry_mut(index.0).filter(|entry| entry.observer_count > 0) else {
            return self.fault(LedgerFault::UnobserveNone);
        };
        entry.observer_count -= 1;
        if entry.observer_count == 0 && entry.state == HolderState::Pinned as u8 {
            entry.state = HolderState::Pool as u8;
            self.push(index.0);
        }
        true
    }

    /// Notes an arrived packet, or a buffer that the lcore has just allocated. Pmd → Lcore.
    ///
    /// False: the PMD did not have it; the caller must not use the buffer.
    #[inline]
    #[must_use]
    pub fn received(&mut self, index: BufferIndex, ingress: &Ingress) -> bool {
        let Some(entry) = self.entry_mut(index.0) else { return self.fault(LedgerFault::ReceivedNotPmd) };
        if entry.state != HolderState::Pmd as u8 {
            return self.fault(LedgerFault::ReceivedNotPmd);
        }
        entry.state = HolderState::Lcore as u8;
        entry.set_path(ingress.path);
        entry.vlan = ingress.vlan;
        entry.class = ingress.class;
        entry.offload_flags = ingress.offload_flags;
        entry.host_time_ms = ingress.host_time_ms;
        true
    }

    /// Lends a buffer to an endpoint. Lcore → Endpoint. Returns the generation for the descriptor.
    ///
    /// Crash order: holder and ring sequence first, the state last, the descriptor only after this returns.
    /// A process that takes over after a crash in between finds the buffer the lcore's, or lent with a
    /// sequence that was never published, which is the host's too: see [`Shard::recover`].
    ///
    /// `None`: the lcore did not have it, or the endpoint is beyond the limit; nothing must be published.
    #[inline]
    #[must_use]
    pub fn lend(&mut self, index: BufferIndex, loan: &Loan) -> Option<u16> {
        let Some(local) = self.local(index.0) else { return self.refuse_loan() };
        let Some(entry) = self.entries.get_mut(local) else { return self.refuse_loan() };
        let Some(held) = self.held.get_mut(loan.endpoint.index()) else { return self.refuse_loan() };
        if entry.state != HolderState::Lcore as u8 {
            return self.refuse_loan();
        }
        entry.set_path(loan.path);
        entry.endpoint = loan.endpoint.0;
        entry.ring_sequence = loan.sequence;
        entry.kind = loan.kind as u8;
        // AcqRel: the compiler moves no store across, neither down nor up. That is enough: a thread that is
        // killed has executed a prefix of its instructions, and all stores of that prefix reach the file.
        compiler_fence(Ordering::AcqRel);
        entry.state = HolderState::Endpoint as u8;
        *held += 1;
        Some(entry.generation)
    }

    #[cold]
    #[inline(never)]
    fn refuse_loan(&mut self) -> Option<u16> {
        self.fault(LedgerFault::LendNotLcore);
        None
    }

    /// Checks a descriptor that `endpoint` gave and takes its buffer back. Endpoint → Lcore.
    ///
    /// `endpoint` is who owns the ring that `raw` was read from; `raw` is the one copy that was read.
    /// The generation rises, so the same descriptor again is refused.
    ///
    /// # Errors
    /// The first check that fails, in this order: index, held at all, holder, generation, code, flags, kind,
    /// bounds, frame length. The ledger is unchanged then: the endpoint holds what it held.
    #[inline]
    pub fn take_back(
        &mut self,
        endpoint: EndpointId,
        raw: RawDesc,
        limits: &FrameLimits,
    ) -> Result<Returned, DescFault> {
        let desc = raw.unpack();
        let index = desc.buffer_index;
        let (first, size) = (self.first, self.size);
        let Some(entry) = self.entry_mut(index) else {
            return Err(DescFault::ForeignIndex { index, first, size });
        };
        let (kind, verdict) = descriptor::check(entry, endpoint, &desc, limits)?;
        let returned = Returned {
            index: BufferIndex(index),
            data_offset_bytes: desc.data_offset_bytes,
            data_len_bytes: desc.data_len_bytes,
            kind,
            verdict,
            aux: desc.aux,
            path: entry.path(),
        };
        entry.come_home();
        self.count_home(endpoint);
        Ok(returned)
    }

    /// Begins to take packets of `passage` back and to lend them on; the first of them goes to `sequence` of the
    /// next holder's ring. Endpoint → Endpoint, in one store: see [`Passage`].
    ///
    /// The caller has seen that ring and quota of the next holder have room for all that it will pass on:
    /// [`Shard::quota_left`].
    #[inline(always)]
    #[must_use]
    pub fn passing<'s>(&'s mut self, passage: &Passage, limits: &FrameLimits, sequence: u32) -> Passing<'s> {
        let [from, to] = [passage.from, passage.to].map(EndpointId::index);
        let (first, size) = (self.first, self.size);
        // Who is nobody's number is lent nothing.
        let is_known = from < ENDPOINTS_MAX && to < ENDPOINTS_MAX;
        let entries = if is_known { &mut *self.entries } else { &mut [] };
        let (passage, limits) = (*passage, *limits);
        Passing { entries, held: &mut self.held, first, size, passage, limits, sequence, started: sequence }
    }

    /// How many more buffers `endpoint` may be lent by its quota, when those come from `giver`.
    #[inline]
    #[must_use]
    pub fn quota_left(&self, endpoint: EndpointId, giver: EndpointId, quota_buffers: u32) -> u32 {
        let held = self.held_by(endpoint);
        if endpoint == giver {
            // It gives each one before it gets it again.
            return if held <= quota_buffers { u32::MAX } else { 0 };
        }
        quota_buffers.saturating_sub(held)
    }

    #[inline(always)]
    fn count_home(&mut self, endpoint: EndpointId) {
        if let Some(held) = self.held.get_mut(endpoint.index()) {
            *held = held.saturating_sub(1);
        }
    }

    /// Hands a buffer to a port for transmission. Lcore → Pmd; before the PMD sees it, since some free it at once.
    ///
    /// False: the lcore did not have it; it must not be sent.
    #[inline]
    #[must_use]
    pub fn send(&mut self, index: BufferIndex) -> bool {
        match self.entry_mut(index.0) {
            Some(entry) if entry.state == HolderState::Lcore as u8 => {
                entry.state = HolderState::Pmd as u8;
                true
            }
            _ => self.fault(LedgerFault::SendNotLcore),
        }
    }

    /// Whether `endpoint` may be lent one more buffer. The quota is per lcore: it bounds one guest_to_host ring.
    #[inline]
    #[must_use]
    pub fn is_under_quota(&self, endpoint: EndpointId, quota_buffers: u32) -> bool {
        self.held_by(endpoint) < quota_buffers
    }

    /// Buffers of this shard that `endpoint` holds, quarantined ones too.
    #[inline]
    #[must_use]
    pub fn held_by(&self, endpoint: EndpointId) -> u32 {
        self.held.get(endpoint.index()).copied().unwrap_or(0)
    }

    /// Marks what `endpoint` holds as waiting for proof that its writers stopped; returns how many.
    /// Endpoint → Quarantined, by a walk over the shard that ends at the last one. Its descriptors are refused
    /// from here on.
    pub fn quarantine(&mut self, endpoint: EndpointId) -> u32 {
        let held = self.held_by(endpoint);
        let mut count = 0;
        for entry in self.entries.iter_mut() {
            if count == held {
                break;
            }
            if entry.state == HolderState::Endpoint as u8 && entry.endpoint == endpoint.0 {
                entry.state = HolderState::Quarantined as u8;
                count += 1;
            }
        }
        count
    }

    /// Takes back what is quarantined of `endpoint`, on proof that its old writers stopped.
    /// Quarantined → Lcore, by a walk over the shard that ends at the last one. The caller counts the packets as
    /// lost (those lent as [`Kind::Packet`]) and gives each buffer to the pool.
    ///
    /// What is lent under the attach in force stays lent: the proof may speak of an earlier one.
    #[must_use]
    pub fn reclaim(&mut self, endpoint: EndpointId) -> Vec<Reclaimed> {
        let held = self.held_by(endpoint) as usize;
        let mut home = Vec::new();
        for (index, entry) in (self.first..).zip(self.entries.iter_mut()) {
            if home.len() == held {
                break;
            }
            if entry.state == HolderState::Quarantined as u8 && entry.endpoint == endpoint.0 {
                let had_packet = entry.kind != Kind::Empty as u8;
                entry.come_home();
                home.push(Reclaimed { index: BufferIndex(index), had_packet });
            }
        }
        home.iter().for_each(|_| self.count_home(endpoint));
        home
    }

    /// What the ledger says about a buffer.
    #[must_use]
    pub fn entry(&self, index: BufferIndex) -> Option<&LedgerEntry> {
        self.entries.get(self.local(index.0)?)
    }

    /// Number of buffers in the shard.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// First index of the shard in its region.
    #[must_use]
    pub const fn first(&self) -> u32 {
        self.first
    }

    /// How many buffers [`Shard::take`] could give out now.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "at most `size`, a u32")]
    pub const fn available(&self) -> u32 {
        self.depth as u32
    }

    /// What the host asked wrongly of this shard. All zero unless the switch has a bug.
    #[must_use]
    pub const fn faults(&self) -> &LedgerFaultCounters {
        &self.faults
    }
}

/// Packets of one passage under way, see [`Shard::passing`]. Who holds how many is settled when it is dropped.
#[derive(Debug)]
pub struct Passing<'s> {
    entries: &'s mut [LedgerEntry],
    held: &'s mut [u32; ENDPOINTS_MAX],
    first: u32,
    size: u32,
    passage: Passage,
    limits: FrameLimits,
    /// Where the next one goes in the ring of its next holder.
    sequence: u32,
    started: u32,
}

impl Passing<'_> {
    /// Takes a buffer back and lends it on, if `raw` names a packet of the passage; the descriptor for the next
    /// holder. None: nothing has changed, and [`Shard::take_back`] names what is wrong, if anything is.
    ///
    /// The checks are those of [`Shard::take_back`], on the same one copy of the descriptor.
    #[inline(always)]
    pub fn carry(&mut self, raw: RawDesc) -> Option<RawDesc> {
        let local = index_or_none(raw.unpack().buffer_index, self.first, self.size);
        let entry = self.entries.get_mut(local)?;
        if !self.passage.carries(entry, raw, &self.limits) {
            return None;
        }
        let word1 = self.passage.carry(entry, raw, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        Some(RawDesc { word1, ..raw })
    }
}

impl Drop for Passing<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let passed = self.sequence.wrapping_sub(self.started);
        let [from, to] = [self.passage.from, self.passage.to].map(EndpointId::index);
        if let Some(held) = self.held.get_mut(from) {
            *held = held.saturating_sub(passed);
        }
        if let Some(held) = self.held.get_mut(to) {
            *held += passed;
        }
    }
}

/// Where an index of the region lies in the shard of `size` entries from `first`; `None` for another shard's. Its
/// callers take the index from a guest.
#[inline(always)]
pub(crate) fn local_index(index: u32, first: u32, size: u32) -> Option<usize> {
    let local = index_or_none(index, first, size);
    (local != NO_INDEX).then_some(local)
}

/// No slice is that long, so that a lookup with it finds nothing.
const NO_INDEX: usize = u32::MAX as usize;

/// As [`local_index`], but [`NO_INDEX`] for another shard's: the lookup is the only branch.
///
/// There is no comparison here, not for the program's flow but for the processor's guesses: while the lookup's
/// own check is mispredicted, a foreign index reads at [`NO_INDEX`], and never at an address of a guest's choosing.
#[inline(always)]
fn index_or_none(index: u32, first: u32, size: u32) -> usize {
    let local = index.wrapping_sub(first);
    if cfg!(feature = "sabotage-bound") {
        return (local % size.max(1)) as usize;
    }
    (local | outside_mask(local, size)) as usize
}

/// 0 for `local < size`, else all ones, without a branch; for a `size` of at most 2³¹.
///
/// Below 2³¹ the sign of the difference says it, above the sign of `local` does. The compiler cannot fold this
/// behind a comparison of the two, because it does not know the bound of `size`.
#[inline(always)]
const fn outside_mask(local: u32, size: u32) -> u32 {
    ((size.wrapping_sub(1).wrapping_sub(local) | local).cast_signed() >> 31).cast_unsigned()
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
