//! Takes a shard over from a switch process that has died.

use crate::ids::EndpointId;
use crate::ledger::LedgerEntry;
use crate::shard::{Shard, ShardError};
use crate::transition::HolderState;
use shm_ring::ring::was_published;

/// What the dead process has published in the ring from this lcore to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingJournal {
    /// The journal of [`shm_ring::ring::Producer::publish`]: every descriptor before it counts as given away.
    pub published: u32,
    /// Slots of the ring: as many descriptors at most can be staged beyond the journal.
    pub slot_count: u32,
}

/// What a recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Buffers that were in the pool.
    pub pool: u32,
    /// Buffers of the dead process (lcore, PMD) that went to the pool; their packets are lost.
    pub lost: u32,
    /// Buffers that waited for observers only; to the pool, since references end with the process that counts
    /// them, and observers can write nothing.
    pub pinned: u32,
    /// Loans whose descriptors were never published: to the pool, packets lost.
    pub unpublished: u32,
    /// Loans that stand.
    pub lent: u32,
    /// Quarantined buffers, which stay so.
    pub quarantined: u32,
    /// Entries with a state that does not exist; quarantined under the endpoint they name.
    pub unknown: u32,
}

impl<'f> Shard<'f> {
    /// Lays a shard over the ledger of a process that has died.
    ///
    /// `journal` gives the journal of the ring from this lcore to an endpoint. The order of stores was ledger,
    /// descriptors, journal, `produced`; so a loan whose sequence the journal has not reached was never seen
    /// by the endpoint, and is the host's. At most a ring's worth can be staged and unpublished, and only such
    /// sequences are taken for unpublished: when in doubt a loan stands and waits for a proof. (A loan that is
    /// exactly 2³² hand-overs old, give or take a ring, would be mistaken for one.)
    ///
    /// The PMDs of the dead process must have stopped: their buffers go to the pool. Whatever comes home gets
    /// a new generation, so no descriptor from before the crash is good for a later loan. The free list is
    /// built anew from the entries; what the file says of it is not read.
    ///
    /// # Errors
    /// As [`Shard::fresh`].
    pub fn recover(
        first: u32,
        entries: &'f mut [LedgerEntry],
        stack: &'f mut [u32],
        journal: impl Fn(EndpointId) -> RingJournal,
    ) -> Result<(Self, Recovery), ShardError> {
        let mut shard = Self::over(first, entries, stack)?;
        let mut found = Recovery::default();
        for entry in shard.entries.iter_mut() {
            let holder = EndpointId(entry.endpoint);
            entry.observer_count = 0;
            let is_held = match entry.holder_state() {
                Some(HolderState::Pool) => {
                    found.pool += 1;
                    false
                }
                Some(HolderState::Pmd | HolderState::Lcore) => {
                    found.lost += 1;
                    entry.go_to_pool();
                    false
                }
                Some(HolderState::Pinned) => {
                    found.pinned += 1;
                    entry.go_to_pool();
                    false
                }
                Some(HolderState::Endpoint) if !journal(holder).covers(entry.ring_sequence) => {
                    found.unpublished += 1;
                    entry.go_to_pool();
                    false
                }
                Some(HolderState::Endpoint) => {
                    found.lent += 1;
                    true
                }
                Some(HolderState::Quarantined) => {
                    found.quarantined += 1;
                    true
                }
                None => {
                    found.unknown += 1;
                    entry.state = HolderState::Quarantined as u8;
                    true
                }
            };
            if let Some(held) = shard.held.get_mut(holder.index()).filter(|_| is_held) {
                *held += 1;
            }
        }
        shard.rebuild_stack();
        Ok((shard, found))
    }
}

impl LedgerEntry {
    const fn go_to_pool(&mut self) {
        self.state = HolderState::Pool as u8;
        self.generation = self.generation.wrapping_add(1);
    }
}

impl RingJournal {
    const fn covers(self, sequence: u32) -> bool {
        was_published(sequence, self.published, self.slot_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEVEN: EndpointId = EndpointId(7);

    fn entry(state: HolderState, sequence: u32) -> LedgerEntry {
        LedgerEntry {
            state: state as u8,
            endpoint: SEVEN.0,
            ring_sequence: sequence,
            generation: 40,
            ..LedgerEntry::default()
        }
    }

    fn journal(published: u32) -> RingJournal {
        RingJournal { published, slot_count: 64 }
    }

    fn recover(entries: &mut [LedgerEntry], published: u32) -> (crate::audit::ShardAudit, Recovery) {
        let mut stack = vec![u32::MAX; entries.len()];
        let (shard, found) = Shard::recover(100, entries, &mut stack, |_| journal(published)).unwrap();
        (shard.audit(), found)
    }

    #[test]
    fn a_loan_that_the_journal_covers_stands() {
        let mut entries = [entry(HolderState::Endpoint, 9)];
        let (audit, found) = recover(&mut entries, 10);
        assert_eq!((found.lent, audit.endpoints), (1, vec![(SEVEN, 1)]));
        assert_eq!(entries[0].generation, 40);
    }

    #[test]
    fn a_loan_at_the_journal_was_never_published_and_comes_home() {
        let mut entries = [entry(HolderState::Endpoint, 10)];
        let (audit, found) = recover(&mut entries, 10);
        assert_eq!((found.unpublished, audit.pool), (1, 1));
        assert_eq!(entries[0].generation, 41);
    }

    #[test]
    fn a_loan_one_ring_beyond_the_journal_cannot_have_been_staged_and_stands() {
        let mut entries = [entry(HolderState::Endpoint, 10 + 63), entry(HolderState::Endpoint, 10 + 64)];
        let (_, found) = recover(&mut entries, 10);
        assert_eq!((found.unpublished, found.lent), (1, 1));
    }

    #[test]
    fn the_journal_is_compared_across_the_wrap() {
        let mut entries = [entry(HolderState::Endpoint, u32::MAX), entry(HolderState::Endpoint, 1)];
        let (_, found) = recover(&mut entries, 1);
        assert_eq!((found.lent, found.unpublished), (1, 1));
    }

    #[test]
    fn a_loan_older_than_half_the_sequence_space_stands() {
        let mut entries = [entry(HolderState::Endpoint, 5)];
        let (_, found) = recover(&mut entries, 5u32.wrapping_add(1 << 31).wrapping_add(7));
        assert_eq!(found.lent, 1);
    }

    #[test]
    fn a_loan_that_crashed_before_its_state_was_written_is_the_hosts() {
        // `lend` writes holder and sequence, then the state; the process died in between.
        let mut entries = [entry(HolderState::Lcore, 3)];
        let (audit, found) = recover(&mut entries, 4);
        assert_eq!((found.lost, audit.pool, audit.endpoints.len()), (1, 1, 0));
    }

    #[test]
    fn buffers_of_the_dead_process_go_to_the_pool_with_a_new_generation() {
        let mut entries = [entry(HolderState::Pmd, 0), entry(HolderState::Lcore, 0)];
        let (audit, found) = recover(&mut entries, 0);
        assert_eq!((found.lost, audit.pool), (2, 2));
        assert!(entries.iter().all(|entry| entry.generation == 41));
    }

    #[test]
    fn references_end_with_the_process_that_counted_them() {
        let states = [HolderState::Pinned, HolderState::Endpoint, HolderState::Quarantined];
        let mut entries = states.map(|state| LedgerEntry { observer_count: 3, ..entry(state, 0) });
        let (audit, found) = recover(&mut entries, 1);
        assert_eq!((found.pinned, found.lent, found.quarantined), (1, 1, 1));
        assert_eq!((audit.pinned, audit.pool, audit.references), (0, 1, 0));
        assert!(audit.findings(crate::audit::InHand::default()).is_empty());
    }

    #[test]
    fn quarantined_buffers_and_unknown_states_wait_for_proof() {
        let mut entries = [entry(HolderState::Quarantined, 0), entry(HolderState::Pool, 0)];
        entries[1].state = 0xee;
        let (audit, found) = recover(&mut entries, 0);
        assert_eq!((found.quarantined, found.unknown), (1, 1));
        assert_eq!(audit.quarantined, [(SEVEN, 2)]);
        assert!(audit.findings(crate::audit::InHand::default()).is_empty());
    }

    #[test]
    fn what_the_file_says_of_the_free_list_is_not_believed() {
        let mut entries = [LedgerEntry::default(); 4];
        let mut stack = [0, 0, 0xffff_ffff, 7];
        let (shard, _) = Shard::recover(0, &mut entries, &mut stack, |_| journal(0)).unwrap();
        assert!(shard.audit().findings(crate::audit::InHand::default()).is_empty());
        assert_eq!(shard.available(), 4);
    }
}
