//! What a table has seen, by name.

/// Counts since the table was made; they do not wrap within centuries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Packets whose flow was there.
    pub hits: u64,
    /// Packets whose flow was not.
    pub misses: u64,
    /// Flows entered.
    pub inserted: u64,
    /// Flows that became answered.
    pub answered: u64,
    /// Flows refused: as many are there as may be, and all are answered.
    pub refused_full: u64,
    /// Flows refused: both of their buckets are full.
    pub refused_buckets_full: u64,
    /// Unanswered flows that made room for a new one.
    pub evicted_unanswered: u64,
    /// Flows that ended because no packet came.
    pub expired_idle: u64,
    /// Flows that ended because they had been there for as long as any may.
    pub expired_hard: u64,
    /// Flows taken out by [`crate::FlowTable::remove`].
    pub removed: u64,
}
