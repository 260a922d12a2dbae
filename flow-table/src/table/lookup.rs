//! Finding the flows of a burst.

use crate::hash::Hash;
use crate::id::FlowId;
use crate::key::Key;
use crate::level::{Baseline, Level, Tags, prefetch};
use crate::line::ACCOUNT_PACKETS;
use crate::table::{FlowTable, Packet, low_half, slot_of};

/// Packets that are looked up together.
pub const BURST: usize = 32;

/// A packet between two stages of its lookup.
#[derive(Clone, Copy, Default)]
struct Search {
    hash: Hash,
    /// The bucket that is looked at.
    bucket: u32,
    /// Its slots with the right tag.
    ways: u32,
}

impl FlowTable<'_> {
    /// Finds the flow of each packet, and counts the packet there.
    ///
    /// `found` gets an id or nothing for each packet, as far as it is long enough. In stages, so that lines come from
    /// memory while others are asked for: first buckets, then flow lines or second buckets, then keys.
    pub fn lookup_bulk(&mut self, packets: &[Packet], now_ms: u64, found: &mut [Option<FlowId>]) {
        let now_ms = low_half(now_ms);
        for (packets, found) in packets.chunks(BURST).zip(found.chunks_mut(BURST)) {
            let hits = match self.level {
                Level::Baseline => self.lookup_burst(Baseline, packets, now_ms, found),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the processor has the features, as the level proves.
                Level::Avx2(level) => unsafe { self.lookup_burst_avx2(level, packets, now_ms, found) },
            };
            let looked_up = packets.len().min(found.len()) as u64;
            self.counters.hits += hits;
            self.counters.misses += looked_up - hits;
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn lookup_burst_avx2(
        &mut self,
        level: crate::level::Avx2,
        packets: &[Packet],
        now_ms: u32,
        found: &mut [Option<FlowId>],
    ) -> u64 {
        self.lookup_burst(level, packets, now_ms, found)
    }

    /// Returns how many were found.
    #[inline(always)]
    fn lookup_burst<T: Tags>(
        &mut self,
        level: T,
        packets: &[Packet],
        now_ms: u32,
        found: &mut [Option<FlowId>],
    ) -> u64 {
        let mut searches = [Search::default(); BURST];
        let bucket_count = self.bucket_count();
        for (packet, search) in packets.iter().zip(&mut searches) {
            search.hash = self.seed.hash(&packet.key);
            search.bucket = search.hash.first(bucket_count);
            prefetch(&self.buckets[search.bucket as usize]);
        }
        let mut is_elsewhere = 0_u32;
        for (at, (_, search)) in packets.iter().zip(&mut searches).enumerate() {
            if self.look_into_bucket(level, search) {
                continue;
            }
            if self.buckets[search.bucket as usize].spilled != 0 && !cfg!(feature = "sabotage-spilled") {
                search.bucket = search.hash.second(bucket_count);
                prefetch(&self.buckets[search.bucket as usize]);
                is_elsewhere |= 1 << at;
            }
        }
        while is_elsewhere != 0 {
            self.look_into_bucket(level, &mut searches[is_elsewhere.trailing_zeros() as usize]);
            is_elsewhere &= is_elsewhere - 1;
        }
        let mut hits = 0;
        for ((packet, search), found) in packets.iter().zip(&searches).zip(found) {
            *found = self.look_at_line(packet, search, now_ms);
            hits += u64::from(found.is_some());
        }
        hits
    }

    /// Asks for the line of the first slot that may be it; whether there is one.
    #[inline(always)]
    fn look_into_bucket<T: Tags>(&self, level: T, search: &mut Search) -> bool {
        search.ways = level.ways_with(&self.buckets[search.bucket as usize], search.hash.tag());
        if search.ways == 0 {
            return false;
        }
        prefetch(&self.lines[slot_of(search.bucket, search.ways.trailing_zeros()) as usize]);
        true
    }

    #[inline(always)]
    fn look_at_line(&mut self, packet: &Packet, search: &Search, now_ms: u32) -> Option<FlowId> {
        if search.ways == 0 {
            return None;
        }
        let mut slot = slot_of(search.bucket, search.ways.trailing_zeros());
        if self.lines[slot as usize].key != packet.key && !cfg!(feature = "sabotage-full-key") {
            slot = self.find_among_lookalikes(&packet.key, search.hash)?;
        }
        self.touch(slot, packet, now_ms);
        Some(self.id_of(slot))
    }

    /// For a packet whose tag is that of another flow, once in some thousands.
    #[cold]
    #[inline(never)]
    fn find_among_lookalikes(&self, key: &Key, hash: Hash) -> Option<u32> {
        self.find(key, hash)
    }

    /// The slot of a flow, wherever it is.
    pub(super) fn find(&self, key: &Key, hash: Hash) -> Option<u32> {
        let first = hash.first(self.bucket_count());
        let in_first = self.find_in(first, key, hash);
        if in_first.is_some() || self.buckets[first as usize].spilled == 0 {
            return in_first;
        }
        self.find_in(hash.second(self.bucket_count()), key, hash)
    }

    fn find_in(&self, bucket: u32, key: &Key, hash: Hash) -> Option<u32> {
        let mut ways = Baseline.ways_with(&self.buckets[bucket as usize], hash.tag());
        while ways != 0 {
            let slot = slot_of(bucket, ways.trailing_zeros());
            if self.lines[slot as usize].key == *key {
                return Some(slot);
            }
            ways &= ways - 1;
        }
        None
    }

    /// Counts a packet of a flow.
    #[inline(always)]
    pub(super) fn touch(&mut self, slot: u32, packet: &Packet, now_ms: u32) {
        let line = &mut self.lines[slot as usize];
        line.last_seen_ms = now_ms;
        line.bytes = line.bytes.wrapping_add(packet.bytes.into());
        line.packets = line.packets.wrapping_add(1);
        if line.packets >= ACCOUNT_PACKETS || !line.is_answered() {
            self.advance(slot, packet);
        }
    }

    /// What is not to be done for each packet.
    #[inline(never)]
    fn advance(&mut self, slot: u32, packet: &Packet) {
        let line = &mut self.lines[slot as usize];
        if line.packets >= ACCOUNT_PACKETS {
            let account = &mut self.accounts[slot as usize];
            account.packets += u64::from(core::mem::take(&mut line.packets));
            account.bytes += u64::from(core::mem::take(&mut line.bytes));
        }
        if !line.is_answered() && line.advance(packet.direction) {
            self.delist(slot);
            self.counters.answered += 1;
        }
    }
}
