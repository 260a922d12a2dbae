//! The table: flows enter, are looked at, and leave.

mod lookup;
mod sweep;
mod unanswered;
mod view;

use core::num::NonZeroU32;

use bytemuck::Zeroable;
use thiserror::Error;

use crate::bucket::{Bucket, LANES};
use crate::counters::Counters;
use crate::hash::{Hash, Seed};
use crate::id::FlowId;
use crate::key::{Direction, Key};
use crate::level::Level;
use crate::limits::{Limits, SetupError};
pub use crate::line::PINS;
use crate::line::{Account, FlowLine, Line, NOBODY, UNPINNED};
pub use lookup::BURST;
pub use sweep::End;
pub use view::{Flow, Stage};

/// A packet, as far as its flow is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Of its flow.
    pub key: Key,
    /// From which end it comes.
    pub direction: Direction,
    /// How long it is.
    pub bytes: u16,
}

/// Why a flow was not entered. Its packets are handled without: nothing is lost but what the table would have
/// remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// As many flows are there as may be, and all are answered.
    #[error("all {flows} flows are taken by answered ones")]
    Full {
        /// Most flows.
        flows: u32,
    },
    /// Neither of the two buckets that the flow could be in has room.
    #[error("both buckets of the flow are full")]
    BucketsFull,
}

/// The flows of one lcore, in memory of the caller.
#[derive(Debug)]
pub struct FlowTable<'memory> {
    buckets: &'memory mut [Bucket],
    lines: &'memory mut [FlowLine],
    accounts: &'memory mut [Account],
    seed: Seed,
    limits: Limits,
    level: Level,
    /// Of decisions; those of another one are void.
    epoch: u16,
    flows: u32,
    unanswered: u32,
    /// Slots of the unanswered flow that entered last, and of the one that entered first.
    youngest: u32,
    oldest: u32,
    /// The bucket at which the sweep goes on.
    hand: u32,
    counters: Counters,
}

/// Flows of a bucket on average, when the table is full: four fifths.
const FLOWS_PER_BUCKET: u32 = LANES * 4 / 5;
/// A flow goes to its first bucket while that has no more flows than this; the lookup of a first bucket from which
/// nobody was sent on ends there. Above, it goes to the emptier one, so that hardly any bucket ever is full.
const FIRST_CHOICE_FLOWS: u32 = 24;
/// Slots of a bucket.
const SLOTS: usize = LANES as usize;
/// Most flows of a table: slots are numbered with 32 bits.
const FLOWS_MAX: u32 = 1 << 30;

impl<'memory> FlowTable<'memory> {
    /// How many lines of memory a table for so many flows takes: some 170 bytes a flow.
    #[must_use]
    pub const fn lines_for(flows: u32) -> usize {
        buckets_for(flows) as usize * (1 + 2 * SLOTS)
    }

    /// A table without flows in the given memory, all of which it uses.
    ///
    /// More memory than [`FlowTable::lines_for`] makes buckets emptier. What was in it before is gone; every page
    /// of it is touched.
    ///
    /// # Errors
    /// If the limits contradict each other, or the memory is too small for them.
    pub fn new(memory: &'memory mut [Line], seed: Seed, limits: Limits) -> Result<Self, SetupError> {
        limits.check()?;
        let flows = limits.flows;
        if flows > FLOWS_MAX {
            return Err(SetupError::TooMany { flows, max: FLOWS_MAX });
        }
        let needed = Self::lines_for(flows);
        if memory.len() < needed {
            return Err(SetupError::Memory { flows, needed, lines: memory.len() });
        }
        memory.fill(Line::zeroed());
        let bucket_count = (memory.len() / (1 + 2 * SLOTS)).min(buckets_for(FLOWS_MAX) as usize);
        let (buckets, rest) = memory.split_at_mut(bucket_count);
        let (lines, rest) = rest.split_at_mut(bucket_count * SLOTS);
        let accounts = &mut rest[..bucket_count * SLOTS];
        Ok(Self {
            buckets: bytemuck::must_cast_slice_mut(buckets),
            lines: bytemuck::must_cast_slice_mut(lines),
            accounts: bytemuck::must_cast_slice_mut(accounts),
            seed,
            limits,
            level: Level::best(),
            epoch: 1,
            flows: 0,
            unanswered: 0,
            youngest: NOBODY,
            oldest: NOBODY,
            hand: 0,
            counters: Counters::default(),
        })
    }

    /// How many flows are there.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.flows
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.flows == 0
    }

    /// How many of them are unanswered.
    #[must_use]
    pub const fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// What it was made for.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Enters the flow of a packet that [`FlowTable::lookup_bulk`] did not find, and counts the packet.
    ///
    /// A flow that is there already, because an earlier packet of the same burst entered it, is that flow.
    /// Bounded: two lines of tags, and the end of at most one unanswered flow.
    ///
    /// # Errors
    /// By name and counted, why there is no room; nothing has changed then.
    pub fn insert(&mut self, packet: &Packet, now_ms: u64) -> Result<FlowId, Refused> {
        let hash = self.seed.hash(&packet.key);
        if let Some(slot) = self.find(&packet.key, hash) {
            self.touch(slot, packet, low_half(now_ms));
            return Ok(self.id_of(slot));
        }
        if self.flows >= self.limits.flows && self.unanswered == 0 {
            self.counters.refused_full += 1;
            return Err(Refused::Full { flows: self.limits.flows });
        }
        let Some((slot, is_spilled)) = self.free_slot(hash) else {
            self.counters.refused_buckets_full += 1;
            return Err(Refused::BucketsFull);
        };
        let is_over = self.unanswered >= self.limits.unanswered;
        if self.flows >= self.limits.flows || (is_over && !cfg!(feature = "sabotage-unanswered-limit")) {
            self.evict();
        }
        self.occupy(slot, is_spilled, hash, packet, now_ms);
        Ok(self.id_of(slot))
    }

    /// A free slot in one of the two buckets, and whether it is in the second.
    fn free_slot(&self, hash: Hash) -> Option<(u32, bool)> {
        let (first, second) = (hash.first(self.bucket_count()), hash.second(self.bucket_count()));
        let here = &self.buckets[first as usize];
        let count = here.len();
        let is_spilled = count > FIRST_CHOICE_FLOWS && {
            let there = self.buckets[second as usize].len();
            there < count && here.spilled < u16::MAX
        };
        let bucket = if is_spilled { second } else { first };
        let free = self.buckets[bucket as usize].free();
        (free != 0).then(|| (slot_of(bucket, free.trailing_zeros()), is_spilled))
    }

    fn occupy(&mut self, slot: u32, is_spilled: bool, hash: Hash, packet: &Packet, now_ms: u64) {
        let (bucket, way) = place_of(slot);
        self.buckets[bucket].tags[way] = hash.tag();
        if is_spilled {
            self.buckets[hash.first(self.bucket_count()) as usize].spilled += 1;
        }
        let line = &mut self.lines[slot as usize];
        line.renew();
        line.open(packet.direction, is_spilled);
        line.key = packet.key;
        line.last_seen_ms = low_half(now_ms);
        (line.packets, line.bytes) = (1, packet.bytes.into());
        (line.decisions, line.epoch) = ([0; 2], 0);
        let account = &mut self.accounts[slot as usize];
        *account = Account { first_seen_ms: now_ms, pins: [UNPINNED; PINS], ..Account::zeroed() };
        self.enlist(slot);
        self.flows += 1;
        self.counters.inserted += 1;
    }

    /// Ends a flow; whether it was there.
    pub fn remove(&mut self, id: FlowId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        self.vacate(slot);
        self.counters.removed += 1;
        true
    }

    /// Frees a slot that is in use.
    fn vacate(&mut self, slot: u32) {
        let line = &mut self.lines[slot as usize];
        let (is_answered, is_spilled) = (line.is_answered(), line.is_spilled());
        line.renew();
        if !is_answered {
            self.delist(slot);
        }
        if is_spilled {
            let first = self.seed.hash(&self.lines[slot as usize].key).first(self.bucket_count());
            self.buckets[first as usize].spilled -= 1;
        }
        let (bucket, way) = place_of(slot);
        self.buckets[bucket].tags[way] = 0;
        self.flows -= 1;
    }

    /// Makes room for a new flow, if there is an unanswered one.
    fn evict(&mut self) {
        let victim = if cfg!(feature = "sabotage-unanswered-order") { self.youngest } else { self.oldest };
        if victim == NOBODY {
            return;
        }
        self.vacate(if cfg!(feature = "sabotage-answered") { self.any_slot() } else { victim });
        self.counters.evicted_unanswered += 1;
    }

    /// Of any flow, answered or not.
    fn any_slot(&self) -> u32 {
        self.flows_of(0, self.bucket_count()).next().map_or(self.oldest, |flow| flow.id.slot)
    }

    /// What the table decided for packets of a flow in one direction, if that was decided in this epoch.
    #[inline]
    #[must_use]
    pub fn decision(&self, id: FlowId, direction: Direction) -> Option<NonZeroU32> {
        let line = &self.lines[self.slot(id)? as usize];
        let is_valid = line.epoch == self.epoch || cfg!(feature = "sabotage-epoch");
        NonZeroU32::new(line.decisions[direction.index()]).filter(|_| is_valid)
    }

    /// Remembers what is decided for packets of a flow in one direction; whether the flow was there.
    pub fn decide(&mut self, id: FlowId, direction: Direction, decision: NonZeroU32) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let line = &mut self.lines[slot as usize];
        if line.epoch != self.epoch {
            (line.epoch, line.decisions) = (self.epoch, [0; 2]);
        }
        line.decisions[direction.index()] = decision.get();
        true
    }

    /// Makes all decisions void: what they were taken by has changed. Pins stay.
    ///
    /// Takes no time but for one call in 65,535, which goes through the whole table.
    pub fn begin_epoch(&mut self) {
        if self.epoch == u16::MAX {
            self.lines.iter_mut().for_each(|line| line.epoch = 0);
            self.epoch = 0;
        }
        self.epoch += 1;
    }

    /// The instance that serves a flow at a hop.
    #[must_use]
    pub fn pinned(&self, id: FlowId, hop: u8) -> Option<u16> {
        let pins = &self.accounts[self.slot(id)? as usize].pins;
        pins.get(usize::from(hop)).copied().filter(|instance| *instance != UNPINNED)
    }

    /// Pins a flow at a hop to an instance, or lets it go; whether the flow was there and the hop is below [`PINS`].
    pub fn pin(&mut self, id: FlowId, hop: u8, instance: Option<u16>) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let place = self.accounts[slot as usize].pins.get_mut(usize::from(hop));
        place.map(|pin| *pin = instance.unwrap_or(UNPINNED)).is_some()
    }

    /// The slot that an id names, if it still does.
    #[inline]
    fn slot(&self, id: FlowId) -> Option<u32> {
        let line = self.lines.get(id.slot as usize)?;
        let is_same = line.generation() == id.generation.get() || cfg!(feature = "sabotage-generation");
        is_same.then_some(id.slot)
    }

    /// The id of a slot that is in use.
    #[inline(always)]
    fn id_of(&self, slot: u32) -> FlowId {
        let generation = self.lines[slot as usize].generation();
        // A slot in use has been renewed at least once.
        FlowId { slot, generation: NonZeroU32::new(generation).unwrap_or(NonZeroU32::MIN) }
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "`new` made no more than fit")]
    const fn bucket_count(&self) -> u32 {
        self.buckets.len() as u32
    }
}

/// At least two, so that each flow has a choice.
const fn buckets_for(flows: u32) -> u32 {
    let buckets = flows.div_ceil(FLOWS_PER_BUCKET);
    if buckets < 2 { 2 } else { buckets }
}

#[inline(always)]
const fn slot_of(bucket: u32, way: u32) -> u32 {
    bucket * LANES + way
}

const fn place_of(slot: u32) -> (usize, usize) {
    (slot as usize / SLOTS, slot as usize % SLOTS)
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the low half of the clock")]
const fn low_half(now_ms: u64) -> u32 {
    now_ms as u32
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
