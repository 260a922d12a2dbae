//! The single-producer single-consumer descriptor ring.
//!
//! One side owns `produced` and the descriptors, the other owns `consumed`. Each side keeps its own counter
//! in private memory, which is the truth; the shared word only tells the peer. What the peer writes is read
//! once and checked: a distance beyond the ring is a [`PeerCounterError`], and the caller detaches the peer.

use core::cell::Cell;

use crate::copy::Copier;
use crate::desc::RawDesc;
use crate::layout::{CounterLine, RING_SLOTS_MAX, RING_SLOTS_MIN, Slot};
use crate::sync::{AtomicU32, Ordering, ordering};

/// The peer's counter claims more than the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCounterError {
    /// Distance that the peer's counter implies.
    pub claimed: u32,
    /// What the ring holds at most.
    pub slot_count: u32,
}

impl core::fmt::Display for PeerCounterError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { claimed, slot_count } = self;
        write!(f, "peer claims {claimed} descriptors pending in a ring of {slot_count} slots")
    }
}

impl core::error::Error for PeerCounterError {}

/// The shared parts of one ring.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory<'area> {
    produced: &'area CounterLine,
    consumed: &'area CounterLine,
    slots: &'area [Slot],
    copier: Copier,
}

impl<'area> RingMemory<'area> {
    /// Joins the parts of a ring.
    ///
    /// # Panics
    /// If the number of slots is no power of two within the layout's bounds. Check a number that a peer
    /// gave before it comes here.
    #[must_use]
    pub fn new(produced: &'area CounterLine, consumed: &'area CounterLine, slots: &'area [Slot]) -> Self {
        let fits = u32::try_from(slots.len())
            .is_ok_and(|n| n.is_power_of_two() && (RING_SLOTS_MIN..=RING_SLOTS_MAX).contains(&n));
        assert!(fits, "a ring of {} slots", slots.len());
        Self { produced, consumed, slots, copier: Copier::of_this_processor() }
    }

    /// The line with `produced`.
    #[must_use]
    pub fn produced_line(&self) -> &'area CounterLine {
        self.produced
    }

    /// The line with `consumed`.
    #[must_use]
    pub fn consumed_line(&self) -> &'area CounterLine {
        self.consumed
    }

    /// The slots, by position: for who plays a peer that keeps to no order.
    #[must_use]
    pub fn slots(&self) -> &'area [Slot] {
        self.slots
    }

    /// How many slots there are.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "`new` bounds the length by RING_SLOTS_MAX")]
    pub fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The `count` slots from `position` on, at most the ring's, in two straight pieces: up to the end of the
    /// memory, and on from its start.
    #[inline(always)]
    fn slots_from(&self, position: u32, count: usize) -> (&'area [Slot], &'area [Slot]) {
        let (before, behind) = self.slots.split_at(position as usize & (self.slots.len() - 1));
        if count <= behind.len() {
            return (&behind[..count], &[]);
        }
        (behind, &before[..(count - behind.len()).min(before.len())])
    }
}

/// How far `ahead` is in front of `behind`, one of which the peer wrote. Freely running counters wrap, so
/// this difference is the only figure that means anything; beyond the ring it is a lie.
#[inline(always)]
fn distance(ahead: u32, behind: u32, slot_count: u32) -> Result<u32, PeerCounterError> {
    let claimed = ahead.wrapping_sub(behind);
    if claimed > slot_count && !cfg!(feature = "sabotage-peer-counter") {
        return Err(PeerCounterError { claimed, slot_count });
    }
    Ok(claimed)
}

/// Whether a descriptor with this sequence was published, by what the journal of its ring says: if not, its
/// buffer never left the host.
///
/// Only the `slot_count` positions from the journal on can have been staged and not published. A buffer that
/// was lent any time before that is the endpoint's, however often the counter has gone round since.
#[must_use]
pub const fn was_published(sequence: u32, journal: u32, slot_count: u32) -> bool {
    sequence.wrapping_sub(journal) >= slot_count
}

/// Slots of a cache line.
const SLOTS_PER_LINE: usize = 64 / size_of::<RawDesc>();
/// How many slots ahead lines are asked for: two bursts of a producer that gives whole ones.
const SLOTS_AHEAD: u32 = 64;

/// Asks for the cache lines of slots that will be written: the peer read them last, so on another core each costs
/// a round trip, and stores wait for one another.
#[inline(always)]
fn ask_to_write(slots: &[Slot]) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    for slot in slots.iter().step_by(SLOTS_PER_LINE) {
        // SAFETY: a prefetch has no effect but on caches. Every x86-64 processor decodes PREFETCHW, those without
        // the feature as a no-operation (AMD64 manual volume 3; Intel SDM volume 2, PREFETCHW).
        unsafe {
            core::arch::asm!("prefetchw [{}]", in(reg) core::ptr::from_ref(slot), options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = slots;
}

/// Asks for the cache lines of slots that will be read.
#[inline(always)]
fn ask_to_read(slots: &[Slot]) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    for slot in slots.iter().step_by(SLOTS_PER_LINE) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of every x86-64; a prefetch has no effect but on caches.
        unsafe { _mm_prefetch::<{ _MM_HINT_T0 }>(core::ptr::from_ref(slot).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = slots;
}

/// Most descriptors that are staged and not yet in their slots: what an lcore takes in one turn.
const STAGE_SLOTS: u32 = 64;

/// Descriptors on their way into slots, by position: see [`crate::copy`]. Lined up like the slots, so that pairs
/// here are pairs there.
#[derive(Debug)]
#[repr(align(64))]
struct Stage([Cell<RawDesc>; STAGE_SLOTS as usize]);

impl Stage {
    fn empty() -> Self {
        Self(core::array::from_fn(|_| Cell::default()))
    }

    #[inline(always)]
    fn put(&self, position: u32, desc: RawDesc) {
        self.0[(position % STAGE_SLOTS) as usize].set(desc);
    }

    /// From `position` on, at most `count`, as far as they lie in a row.
    #[inline(always)]
    fn row(&self, position: u32, count: u32) -> &[Cell<RawDesc>] {
        let behind = &self.0[(position % STAGE_SLOTS) as usize..];
        &behind[..(count as usize).min(behind.len())]
    }
}

/// The side that puts descriptors in.
#[derive(Debug)]
pub struct Producer<'area> {
    ring: RingMemory<'area>,
    stage: Stage,
    /// Descriptors staged so far; the truth about `produced` once published. A cell, so that several holders of
    /// packets of one thread can each give theirs back without a borrow flag to set and clear.
    staged: Cell<u32>,
    /// Descriptors in their slots so far: `staged - written <= STAGE_SLOTS`, and less between two calls.
    written: Cell<u32>,
    /// Where `staged` ends by the last checked value of the consumer's counter, `slots` behind that:
    /// `room_end - staged <= slots` always.
    room_end: Cell<u32>,
    /// A private word that says what has been published, for a process that takes over after a crash.
    journal: Option<&'area AtomicU32>,
}

impl<'area> Producer<'area> {
    /// Takes up the producing side of a ring whose counters both stand at zero.
    ///
    /// `journal`, if given, is private to the host and is written before each publication: see
    /// [`Producer::publish`].
    #[must_use]
    pub fn new(ring: RingMemory<'area>, journal: Option<&'area AtomicU32>) -> Self {
        let room_end = Cell::new(ring.slot_count());
        Self { ring, stage: Stage::empty(), staged: Cell::new(0), written: Cell::new(0), room_end, journal }
    }

    /// Takes up the producing side where another process left it: `produced` is what its journal says, never
    /// what the shared word says. [`Producer::publish`] once, since it may have died between the two.
    ///
    /// No room is assumed: the first [`Producer::room`] reads the peer's counter and checks it.
    #[must_use]
    pub fn resume(ring: RingMemory<'area>, journal: Option<&'area AtomicU32>, produced: u32) -> Self {
        let at = || Cell::new(produced);
        Self { ring, stage: Stage::empty(), staged: at(), written: at(), room_end: at(), journal }
    }

    /// How many descriptors can be staged now. Reads the peer's counter when the cached room is less than `wanted`.
    ///
    /// # Errors
    /// If the peer's counter is outside `produced - slots ..= produced`.
    #[inline]
    pub fn room(&self, wanted: u32) -> Result<u32, PeerCounterError> {
        let cached = self.room_end.get().wrapping_sub(self.staged.get());
        if cached >= wanted {
            return Ok(cached);
        }
        let slot_count = self.ring.slot_count();
        // Acquire: the peer has finished reading the slots it counts as consumed before we overwrite them.
        // Pairs with the Release in `Consumer::release`.
        let consumed = self.ring.consumed.value.load(ordering!(Acquire, "sabotage-room-relaxed"));
        let unread = distance(self.staged.get(), consumed, slot_count)?;
        self.room_end.set(consumed.wrapping_add(slot_count));
        Ok(slot_count.wrapping_sub(unread))
    }

    /// The position that the next staged descriptor gets: the ring sequence for the ledger.
    #[inline]
    #[must_use]
    pub fn next_sequence(&self) -> u32 {
        self.staged.get()
    }

    /// Stages one descriptor; the peer does not see it before [`Producer::publish`]. False when there is no
    /// room by the last [`Producer::room`]; nothing is staged then.
    #[inline]
    pub fn stage(&self, desc: RawDesc) -> bool {
        let staged = self.staged.get();
        if staged == self.room_end.get() {
            return false;
        }
        self.stage.put(staged, desc);
        self.count_staged(staged.wrapping_add(1));
        true
    }

    #[inline(always)]
    fn count_staged(&self, staged: u32) {
        self.staged.set(staged);
        if staged.wrapping_sub(self.written.get()) == STAGE_SLOTS {
            self.write_out();
        }
    }

    /// Writes what is staged into its slots. The Release store in `publish` makes it visible.
    #[inline]
    fn write_out(&self) {
        let staged = self.staged.get();
        let mut at = self.written.get();
        while at != staged {
            let row = self.stage.row(at, staged.wrapping_sub(at));
            let (slots, from_the_start) = self.ring.slots_from(at, row.len());
            let (row, rest) = row.split_at(slots.len().min(row.len()));
            // A peer that claims what was never shown to it gets more into a small ring than fits.
            let rest = &rest[..from_the_start.len().min(rest.len())];
            self.ring.copier.put(row, slots);
            self.ring.copier.put(rest, from_the_start);
            #[allow(clippy::cast_possible_truncation, reason = "at most the slots of the stage")]
            {
                at = at.wrapping_add((slots.len() + from_the_start.len()) as u32);
            }
        }
        self.written.set(staged);
    }

    /// Moves descriptors from a batch into this ring, at most `count_max` and as many as there is room for by the
    /// last [`Producer::room`]; the peer does not see them before [`Producer::publish`].
    ///
    /// `read` copies a slot, and `step` says what the copy becomes; the first one that it refuses ends the pass.
    #[inline(always)]
    pub fn pass(
        &self,
        batch: &mut Batch<'_>,
        count_max: u32,
        read: impl Fn(&Slot) -> RawDesc,
        mut step: impl FnMut(RawDesc) -> Option<RawDesc>,
    ) -> Passed {
        let first = self.staged.get();
        let mut left = count_max.min(self.room_end.get().wrapping_sub(first));
        let mut staged = first;
        let mut refused = None;
        while left > 0 && refused.is_none() {
            let free = STAGE_SLOTS - staged.wrapping_sub(self.written.get());
            let full = batch.straight(left.min(free) as usize);
            if full.is_empty() {
                break;
            }
            let from = staged;
            for slot in full {
                let raw = read(slot);
                let Some(next) = step(raw) else {
                    refused = Some(raw);
                    break;
                };
                self.stage.put(staged, next);
                staged = staged.wrapping_add(1);
            }
            let moved = staged.wrapping_sub(from);
            batch.skip(moved as usize + usize::from(refused.is_some()));
            left -= moved;
            self.count_staged(staged);
        }
        let passed = staged.wrapping_sub(first);
        Passed { count: passed, refused }
    }

    /// Shows all staged descriptors to the peer.
    ///
    /// The journal is written first: after a crash in between, the descriptors count as given away, and the
    /// process that takes over publishes them again. The other order could show the peer a buffer that its
    /// successor believes to be at home.
    #[inline]
    pub fn publish(&self) {
        self.write_out();
        let staged = self.staged.get();
        if cfg!(feature = "sabotage-journal-order") {
            self.ring.produced.value.store(staged, Ordering::Release);
        }
        if let Some(journal) = self.journal {
            // Release: whoever reads the journal after our death sees the ledger as of before.
            // Pairs with an Acquire load of the journal by the process that takes over.
            journal.store(staged, ordering!(Release, "sabotage-journal-relaxed"));
        }
        // Release: the descriptors staged above, and the journal, become visible before the count.
        // Pairs with the Acquire in `Consumer::pending`.
        self.ring.produced.value.store(staged, ordering!(Release, "sabotage-publish-relaxed"));
        // Only what is known to be free: the peer is about to read the others.
        let free = self.room_end.get().wrapping_sub(staged).min(SLOTS_AHEAD);
        let (to_the_end, from_the_start) = self.ring.slots_from(staged, free as usize);
        ask_to_write(to_the_end);
        ask_to_write(from_the_start);
    }
}

/// What [`Producer::pass`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Descriptors staged.
    pub count: u32,
    /// The one that was read and not passed on. It is out of the batch.
    pub refused: Option<RawDesc>,
}

/// Descriptors taken out of a ring that still lie in its slots, where the peer may rewrite them: each leaves the
/// batch with the one copy that is made of it.
#[derive(Debug)]
pub struct Batch<'area> {
    to_the_end: &'area [Slot],
    from_the_start: &'area [Slot],
    copier: Copier,
}

impl<'area> Batch<'area> {
    /// Descriptors that were not read yet.
    #[inline(always)]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.to_the_end.len() + self.from_the_start.len()
    }

    /// Whether all were read.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the next descriptor with `read`.
    #[inline(always)]
    pub fn next_with(&mut self, read: impl Fn(&Slot) -> RawDesc) -> Option<RawDesc> {
        let raw = read(self.straight(1).first()?);
        self.skip(1);
        Some(raw)
    }

    /// Copies as many descriptors as fit into `burst`, and shows `look` each copy; how many.
    #[inline(always)]
    pub fn copy_out(self, burst: &mut [RawDesc], mut look: impl FnMut(RawDesc)) -> usize {
        let count = self.len().min(burst.len());
        let burst = &mut burst[..count];
        let (first, rest) = burst.split_at_mut(self.to_the_end.len().min(count));
        self.copier.get(self.to_the_end, first);
        self.copier.get(self.from_the_start, rest);
        burst.iter().for_each(|raw| look(*raw));
        count
    }

    /// The next slots that lie in a row, at most `count_max`; none only at the end.
    #[inline(always)]
    fn straight(&mut self, count_max: usize) -> &'area [Slot] {
        if self.to_the_end.is_empty() {
            self.to_the_end = core::mem::take(&mut self.from_the_start);
        }
        &self.to_the_end[..count_max.min(self.to_the_end.len())]
    }

    /// Leaves out slots of the row in front.
    #[inline(always)]
    fn skip(&mut self, count: usize) {
        self.to_the_end = self.to_the_end.get(count..).unwrap_or_default();
    }
}

/// The side that takes descriptors out.
#[derive(Debug)]
pub struct Consumer<'area> {
    ring: RingMemory<'area>,
    /// Descriptors taken so far; the truth about `consumed` once released.
    taken: u32,
    /// The last checked value of the producer's counter: `produced_seen - taken <= slots` always.
    produced_seen: u32,
    /// A private word that says what has been taken, for a process that takes over after a crash.
    journal: Option<&'area AtomicU32>,
}

impl<'area> Consumer<'area> {
    /// Takes up the consuming side of a ring whose counters both stand at zero.
    #[must_use]
    pub fn new(ring: RingMemory<'area>) -> Self {
        Self::resume(ring, None, 0)
    }

    /// Takes up the consuming side where another process left it: `consumed` is what its journal says, never
    /// what the shared word says. [`Consumer::release`] once, since it may have died between the two.
    ///
    /// `journal`, if given, is private to the host and is written before each release.
    #[must_use]
    pub fn resume(ring: RingMemory<'area>, journal: Option<&'area AtomicU32>, consumed: u32) -> Self {
        Self { ring, taken: consumed, produced_seen: consumed, journal }
    }

    /// How many descriptors wait. Reads the peer's counter only when the last known ones are used up.
    ///
    /// # Errors
    /// If the peer's counter is outside `consumed ..= consumed + slots`.
    #[inline]
    pub fn pending(&mut self) -> Result<u32, PeerCounterError> {
        self.known_or_refreshed(1)
    }

    /// How many descriptors wait, read anew when fewer than `wanted` are known.
    #[inline]
    fn known_or_refreshed(&mut self, wanted: u32) -> Result<u32, PeerCounterError> {
        let known = self.produced_seen.wrapping_sub(self.taken);
        if known >= wanted {
            return Ok(known);
        }
        // Acquire: the descriptors behind this count are visible once the count is.
        // Pairs with the Release in `Producer::publish`.
        let produced = self.ring.produced.value.load(ordering!(Acquire, "sabotage-pending-relaxed"));
        let unread = distance(produced, self.taken, self.ring.slot_count())?;
        self.produced_seen = produced;
        Ok(unread)
    }

    /// Copies the next descriptors into `burst`, each word read once; returns how many. Looks for more when
    /// fewer are known than fit, so that bursts stay full under load.
    ///
    /// The slots stay the peer's to rewrite, which changes nothing in the copies.
    ///
    /// # Errors
    /// As [`Consumer::pending`]; nothing is taken then.
    #[inline]
    pub fn take(&mut self, burst: &mut [RawDesc]) -> Result<usize, PeerCounterError> {
        Ok(self.take_in_place(burst.len())?.copy_out(burst, |_| ()))
    }

    /// As [`Consumer::take`], but leaves the descriptors in their slots, to be read where they lie: at most
    /// `count_max`. Read each once, and [`Consumer::release`] only behind the last.
    ///
    /// # Errors
    /// As [`Consumer::pending`]; nothing is taken then.
    #[inline]
    pub fn take_in_place(&mut self, count_max: usize) -> Result<Batch<'area>, PeerCounterError> {
        let wanted = u32::try_from(count_max).unwrap_or(u32::MAX);
        let count = wanted.min(self.known_or_refreshed(wanted)?);
        let (to_the_end, from_the_start) = self.ring.slots_from(self.taken, count as usize);
        self.taken = self.taken.wrapping_add(count);
        let known = self.produced_seen.wrapping_sub(self.taken).min(SLOTS_AHEAD / 2);
        let (first, rest) = self.ring.slots_from(self.taken, known as usize);
        ask_to_read(first);
        ask_to_read(rest);
        Ok(Batch { to_the_end, from_the_start, copier: self.ring.copier })
    }

    /// Gives the taken slots back to the producer. With a journal: once everything taken is dealt with, since
    /// a process that takes over never looks at it again. What was dealt with and not released comes to it once
    /// more, and it is no fault of the peer's that the generation does not fit then.
    #[inline]
    pub fn release(&mut self) {
        if let Some(journal) = self.journal {
            // Release: whoever reads the journal after our death sees the ledger as of before.
            // Pairs with an Acquire load of the journal by the process that takes over.
            journal.store(self.taken, ordering!(Release, "sabotage-journal-relaxed"));
        }
        // Release: our reads of the slots are done before the producer may overwrite them.
        // Pairs with the Acquire in `Producer::room`.
        self.ring.consumed.value.store(self.taken, ordering!(Release, "sabotage-release-relaxed"));
    }
}
