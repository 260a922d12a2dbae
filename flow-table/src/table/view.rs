//! A look at flows, for those who control the switch.

use crate::id::FlowId;
use crate::key::{Direction, Key};
use crate::table::{FlowTable, slot_of};

/// How far the two ends of a flow have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One end has spoken.
    Opened,
    /// The other one, too.
    Replied,
    /// And then the first one again.
    Answered,
}

/// What the table knows of a flow at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its name.
    pub id: FlowId,
    /// What it is told apart by.
    pub key: Key,
    /// From which end its first packet came.
    pub opener: Direction,
    /// How far its ends have come.
    pub stage: Stage,
    /// Packets of both directions.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// When its first packet came.
    pub first_seen_ms: u64,
    /// The low 32 bits of when its last one came.
    pub last_seen_ms: u32,
}

impl FlowTable<'_> {
    /// What is known of a flow.
    #[must_use]
    pub fn flow(&self, id: FlowId) -> Option<Flow> {
        self.slot(id).map(|slot| self.view(slot))
    }

    /// The flows of `buckets` buckets from `from` on, for a list that is made a few buckets a turn.
    pub fn flows_of(&self, from: u32, buckets: u32) -> impl Iterator<Item = Flow> + '_ {
        let end = from.saturating_add(buckets).min(self.bucket_count());
        (from..end).flat_map(move |bucket| {
            let mut ways = self.buckets[bucket as usize].occupied();
            core::iter::from_fn(move || {
                let way = (ways != 0).then(|| ways.trailing_zeros())?;
                ways &= ways - 1;
                Some(self.view(slot_of(bucket, way)))
            })
        })
    }

    /// Of a slot in use.
    pub(super) fn view(&self, slot: u32) -> Flow {
        let (line, account) = (&self.lines[slot as usize], &self.accounts[slot as usize]);
        let stage = match (line.is_answered(), line.has_reply()) {
            (true, _) => Stage::Answered,
            (false, true) => Stage::Replied,
            (false, false) => Stage::Opened,
        };
        Flow {
            id: self.id_of(slot),
            key: line.key,
            opener: line.opener(),
            stage,
            packets: account.packets + u64::from(line.packets),
            bytes: account.bytes + u64::from(line.bytes),
            first_seen_ms: account.first_seen_ms,
            last_seen_ms: line.last_seen_ms,
        }
    }
}
