//! What an lcore counts; each set is written by that lcore alone and summed by whoever shows it.

use core::marker::PhantomData;

use crate::drop_reason::DropReason;
use crate::fault::{DescFaultKind, LedgerFault};
use crate::named::Named;

/// One counter for each variant of a [`Named`] enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterSet<K, const N: usize> {
    counts: [u64; N],
    kind: PhantomData<K>,
}

/// Packets by the reason for which they were dropped.
pub type DropCounters = CounterSet<DropReason, { DropReason::COUNT }>;
/// Refused descriptors by what was wrong with them.
pub type DescFaultCounters = CounterSet<DescFaultKind, { DescFaultKind::COUNT }>;
/// Faults of the host against its own ledger.
pub type LedgerFaultCounters = CounterSet<LedgerFault, { LedgerFault::COUNT }>;

impl<K: Named, const N: usize> Default for CounterSet<K, N> {
    fn default() -> Self {
        Self { counts: [0; N], kind: PhantomData }
    }
}

impl<K: Named, const N: usize> CounterSet<K, N> {
    /// Adds `count` to one counter.
    #[inline]
    pub fn add(&mut self, kind: K, count: u64) {
        self.counts[kind.index()] += count;
    }

    /// The value of one counter.
    #[must_use]
    pub fn get(&self, kind: K) -> u64 {
        self.counts[kind.index()]
    }

    /// All counters together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every counter with its variant.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> + '_ {
        K::ALL.iter().copied().zip(self.counts)
    }

    /// Adds the counters of another lcore.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
    }
}

/// Packets of one domain on one lcore.
///
/// At rest `entered == delivered + crossed + observed + drops.total()`; while packets are in flight, the difference is theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainCounters {
    /// Packets received by a port, made by an NF, or copied in.
    pub entered: u64,
    /// Of these, copies that a rule made of packets of a port.
    pub replicated: u64,
    /// Packets that a port has taken for transmission.
    pub delivered: u64,
    /// Packets that an edge has let into another domain; they have entered that one as copies.
    pub crossed: u64,
    /// Copies that observers have given back, or have references to instead.
    pub observed: u64,
    /// Packets that went no further, by reason.
    pub drops: DropCounters,
}

impl DomainCounters {
    /// Adds the counters of another lcore.
    pub fn merge(&mut self, other: &Self) {
        self.entered += other.entered;
        self.replicated += other.replicated;
        self.delivered += other.delivered;
        self.crossed += other.crossed;
        self.observed += other.observed;
        self.drops.merge(&other.drops);
    }
}

/// Buffers and packets of one endpoint on one lcore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounters {
    /// Packets lent.
    pub lent: u64,
    /// Empty buffers lent.
    pub lent_empty: u64,
    /// References brought to an observer.
    pub referred: u64,
    /// References that ended because their time was up.
    pub expired: u64,
    /// Descriptors accepted, whatever their verdict.
    pub returned: u64,
    /// Drops that this endpoint is the cause of (its verdict, its full ring, its quota, its death).
    pub drops: DropCounters,
    /// Descriptors refused.
    pub faults: DescFaultCounters,
}

impl EndpointCounters {
    /// Adds the counters of another lcore.
    pub fn merge(&mut self, other: &Self) {
        self.lent += other.lent;
        self.lent_empty += other.lent_empty;
        self.referred += other.referred;
        self.expired += other.expired;
        self.returned += other.returned;
        self.drops.merge(&other.drops);
        self.faults.merge(&other.faults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_drop_moves_its_own_counter_and_no_other() {
        let mut drops = DropCounters::default();
        drops.add(DropReason::RingFull, 3);
        assert_eq!(drops.get(DropReason::RingFull), 3);
        assert_eq!(drops.total(), 3);
        assert!(drops.iter().all(|(reason, n)| n == 0 || reason == DropReason::RingFull));
    }

    #[test]
    fn merged_counters_are_sums() {
        let mut one = EndpointCounters { lent: 1, ..Default::default() };
        one.faults.add(DescFaultKind::NotHeld, 2);
        let mut sum = one.clone();
        sum.merge(&one);
        assert_eq!((sum.lent, sum.faults.get(DescFaultKind::NotHeld)), (2, 4));
    }
}
