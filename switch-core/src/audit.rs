//! Counts the buffers of a shard, every state by a walk of its own and none by subtraction.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::ids::{ENDPOINTS_MAX, EndpointId};
use crate::shard::Shard;
use crate::transition::HolderState;

/// What one shard holds, as of a burst boundary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardAudit {
    /// First index of the shard.
    pub first: u32,
    /// Buffers of the shard.
    pub size: u32,
    /// Distinct indices of this shard on the free list.
    pub pool: u32,
    /// Slots of the free list that name a buffer a second time, or one of another shard.
    pub pool_bad_slots: u32,
    /// Entries marked `Pool`.
    pub pool_marked: u32,
    /// Entries marked `Pmd`.
    pub pmd: u32,
    /// Entries marked `Lcore`.
    pub lcore: u32,
    /// Entries marked `Endpoint`, by holder.
    pub endpoints: Vec<(EndpointId, u32)>,
    /// Entries marked `Quarantined`, by holder.
    pub quarantined: Vec<(EndpointId, u32)>,
    /// Entries marked `Pinned`.
    pub pinned: u32,
    /// Entries marked `Pinned` that no observer looks at, or `Pool` that one does.
    pub misplaced: u32,
    /// Observer references of all entries.
    pub references: u64,
    /// Entries with a state that does not exist.
    pub unknown: u32,
    /// Endpoints whose running count of held buffers differs from the walk: running count, walked count.
    pub held_differs: Vec<(EndpointId, u32, u32)>,
}

/// What an audit objects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuditFinding {
    /// The terms do not add up.
    #[error("{sum} buffers found in a shard of {size}")]
    Sum {
        /// Of all terms.
        sum: u64,
        /// What it should be.
        size: u32,
    },
    /// The free list and the marks disagree: a buffer is in the pool and cannot be taken, or the reverse.
    #[error("{pool} buffers on the free list, {pool_marked} marked as in the pool")]
    Pool {
        /// On the free list.
        pool: u32,
        /// Marked.
        pool_marked: u32,
    },
    /// The free list names buffers twice or of other shards.
    #[error("{slots} slots of the free list name a buffer twice or one of another shard")]
    BadSlots {
        /// How many.
        slots: u32,
    },
    /// The lcore has fewer or more buffers in hand than are marked as its own: a leak in the datapath.
    #[error("{marked} buffers marked as the lcore's, it has {in_hand} in hand")]
    Lcore {
        /// Marked.
        marked: u32,
        /// Counted by the lcore itself.
        in_hand: u32,
    },
    /// The mempool's users have fewer or more buffers than are marked as given out.
    #[error("{marked} buffers marked as given to a PMD, PMDs account for {in_hand}")]
    Pmd {
        /// Marked.
        marked: u32,
        /// Counted by the caller.
        in_hand: u32,
    },
    /// Buffers that wait for no observer, or that an observer looks at and anybody may be given next.
    #[error("{entries} buffers pinned without an observer, or in the pool with one")]
    Misplaced {
        /// How many.
        entries: u32,
    },
    /// Observers have more or fewer references than are counted.
    #[error("{counted} observer references in the ledger, observers have {in_hand}")]
    References {
        /// In the ledger.
        counted: u64,
        /// Counted by the caller.
        in_hand: u64,
    },
    /// States that do not exist.
    #[error("{entries} entries with an unknown state")]
    Unknown {
        /// How many.
        entries: u32,
    },
    /// The count that quotas are checked against is wrong.
    #[error("endpoint {endpoint} is charged {charged} buffers and holds {walked}")]
    Held {
        /// Whose.
        endpoint: EndpointId,
        /// The running count.
        charged: u32,
        /// By the walk.
        walked: u32,
    },
}

/// What the datapath counts outside the ledger, to hold against the marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InHand {
    /// Buffers of this shard in the lcore's own hands; 0 at a burst boundary.
    pub lcore: u32,
    /// Buffers that PMDs account for; `None` where a PMD does not say.
    pub pmd: Option<u32>,
    /// References that observers have; `None` where the caller does not count them.
    pub references: Option<u64>,
}

impl ShardAudit {
    /// All terms together: pool (by the free list), PMD, lcore, endpoints, quarantined, pinned.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let lent = self.endpoints.iter().chain(&self.quarantined).map(|(_, count)| u64::from(*count));
        u64::from(self.pool)
            + u64::from(self.pmd)
            + u64::from(self.lcore)
            + u64::from(self.pinned)
            + lent.sum::<u64>()
    }

    /// Everything that is wrong, against what the datapath itself counts.
    #[must_use]
    pub fn findings(&self, in_hand: InHand) -> Vec<AuditFinding> {
        let mut findings = Vec::new();
        if self.sum() != u64::from(self.size) {
            findings.push(AuditFinding::Sum { sum: self.sum(), size: self.size });
        }
        if self.pool != self.pool_marked {
            findings.push(AuditFinding::Pool { pool: self.pool, pool_marked: self.pool_marked });
        }
        if self.pool_bad_slots > 0 {
            findings.push(AuditFinding::BadSlots { slots: self.pool_bad_slots });
        }
        if self.lcore != in_hand.lcore {
            findings.push(AuditFinding::Lcore { marked: self.lcore, in_hand: in_hand.lcore });
        }
        if let Some(pmd) = in_hand.pmd.filter(|pmd| *pmd != self.pmd) {
            findings.push(AuditFinding::Pmd { marked: self.pmd, in_hand: pmd });
        }
        if self.misplaced > 0 {
            findings.push(AuditFinding::Misplaced { entries: self.misplaced });
        }
        if let Some(in_hand) = in_hand.references.filter(|references| *references != self.references) {
            findings.push(AuditFinding::References { counted: self.references, in_hand });
        }
        if self.unknown > 0 {
            findings.push(AuditFinding::Unknown { entries: self.unknown });
        }
        findings.extend(self.held_differs.iter().map(|&(endpoint, charged, walked)| AuditFinding::Held {
            endpoint,
            charged,
            walked,
        }));
        findings
    }
}

impl Shard<'_> {
    /// Counts every state by itself. Control path: walks the whole shard and allocates.
    #[must_use]
    pub fn audit(&self) -> ShardAudit {
        let (pool, pool_bad_slots) = self.walk_stack();
        let endpoints = self.walk_holders(HolderState::Endpoint);
        let quarantined = self.walk_holders(HolderState::Quarantined);
        ShardAudit {
            first: self.first,
            size: self.size,
            pool,
            pool_bad_slots,
            pool_marked: self.walk_state(HolderState::Pool),
            pmd: self.walk_state(HolderState::Pmd),
            lcore: self.walk_state(HolderState::Lcore),
            pinned: self.walk_state(HolderState::Pinned),
            misplaced: self.walk_misplaced(),
            references: self.entries.iter().map(|entry| u64::from(entry.observer_count)).sum(),
            unknown: count(self.entries.iter().filter(|entry| entry.holder_state().is_none())),
            held_differs: self.compare_held(&endpoints, &quarantined),
            endpoints,
            quarantined,
        }
    }

    fn walk_state(&self, state: HolderState) -> u32 {
        count(self.entries.iter().filter(|entry| entry.holder_state() == Some(state)))
    }

    fn walk_misplaced(&self) -> u32 {
        count(self.entries.iter().filter(|entry| match entry.holder_state() {
            Some(HolderState::Pinned) => entry.observer_count == 0,
            Some(HolderState::Pool) => entry.observer_count > 0,
            _ => false,
        }))
    }

    fn walk_holders(&self, state: HolderState) -> Vec<(EndpointId, u32)> {
        let mut holders = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.holder_state() == Some(state)) {
            *holders.entry(EndpointId(entry.endpoint)).or_insert(0) += 1;
        }
        holders.into_iter().collect()
    }

    /// Distinct own indices on the free list, and slots that are neither.
    fn walk_stack(&self) -> (u32, u32) {
        let mut is_named = vec![false; self.entries.len()];
        let mut bad_slots = 0;
        for index in &self.stack[..self.depth.min(self.stack.len())] {
            match is_named.get_mut(index.wrapping_sub(self.first) as usize) {
                Some(named) if !*named => *named = true,
                _ => bad_slots += 1,
            }
        }
        (count(is_named.iter().filter(|named| **named)), bad_slots)
    }

    fn compare_held(
        &self,
        endpoints: &[(EndpointId, u32)],
        quarantined: &[(EndpointId, u32)],
    ) -> Vec<(EndpointId, u32, u32)> {
        let mut walked = vec![0u32; ENDPOINTS_MAX];
        for (endpoint, count) in endpoints.iter().chain(quarantined) {
            if let Some(sum) = walked.get_mut(endpoint.index()) {
                *sum += count;
            }
        }
        (0..)
            .map(EndpointId)
            .zip(self.held.iter().copied().zip(walked))
            .filter(|(_, (charged, walked))| charged != walked)
            .map(|(endpoint, (charged, walked))| (endpoint, charged, walked))
            .collect()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a shard has fewer than 2^31 buffers")]
fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    items.count() as u32
}
