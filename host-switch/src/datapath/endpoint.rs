//! One endpoint on one lcore: its queue pair, what it may hold, and what is counted of it.

use std::sync::Arc;

use shm_ring::desc::{Desc, Kind, RawDesc, mark};
use shm_ring::layout::Slot;
use shm_ring::ring::{Batch, Consumer, Passed, PeerCounterError, Producer};
use switch_core::counters::EndpointCounters;
use switch_core::drop_reason::DropReason;
use switch_core::frame::FrameLimits;
use switch_core::ids::{DomainId, EndpointId};
use switch_core::ledger::PacketPath;
use switch_core::passage::Passage;
use switch_core::shard::{Loan, Shard};

use super::domain::Frame;
use super::limit::Limit;
use super::references::ReferenceLane;
use super::spec::EndpointDatapathSpec;
use super::violations::EndpointViolations;

/// The host's ends of the two rings.
#[derive(Debug)]
pub(super) struct Pair {
    pub to_guest: Producer<'static>,
    pub from_guest: Consumer<'static>,
}

/// One endpoint on one lcore.
#[derive(Debug)]
pub(super) struct EndpointLane {
    pub id: EndpointId,
    pub domain: DomainId,
    /// Most buffers of this shard that it may hold.
    pub quota_buffers: u32,
    /// Most empty ones among them.
    pub credit_buffers: u32,
    /// Slots of its ring towards the guest; 0 before the first attach.
    pub ring_slots: u32,
    /// None: detached, or cut off.
    pub pair: Option<Pair>,
    /// Descriptors wait to be published.
    pub is_staged: bool,
    /// Empty buffers it holds.
    pub empties: u32,
    /// Buffers of earlier attaches that wait for proof; charged to its quota.
    pub quarantined: u32,
    /// Control has been told of a refused descriptor of this attach.
    pub fault_told: bool,
    pub counters: EndpointCounters,
    pub counter_errors: u64,
    /// Of what it gives back to be sent on.
    pub limit: Option<Box<Limit>>,
    /// What it gives back goes home.
    pub observes: bool,
    /// What it is shown, if that is by reference.
    pub references: Option<Box<ReferenceLane>>,
    pub violations: Arc<EndpointViolations>,
}

impl EndpointLane {
    /// The lane of one of `lcores`. The quota is for all of them together; each may lend its share.
    pub(super) fn new(spec: &EndpointDatapathSpec, lcores: u16, violations: Arc<EndpointViolations>) -> Self {
        let share = |whole: u32| whole / u32::from(lcores.max(1));
        Self {
            id: spec.id,
            domain: spec.domain,
            quota_buffers: share(spec.quota_buffers).max(1),
            credit_buffers: share(spec.credit_buffers),
            limit: Limit::part_of(spec.limit, lcores),
            observes: spec.observes,
            references: spec.references.map(|spec| Box::new(ReferenceLane::new(spec))),
            violations,
            ring_slots: 0,
            pair: None,
            is_staged: false,
            empties: 0,
            quarantined: 0,
            fault_told: false,
            counters: EndpointCounters::default(),
            counter_errors: 0,
        }
    }

    /// Takes up a queue pair whose counters stand at zero.
    pub(super) fn take_up(&mut self, pair: Pair) {
        // Nothing is staged yet, so the room of the ring is its size, whatever the peer has written.
        self.ring_slots = pair.to_guest.room(0).unwrap_or(0);
        self.pair = Some(pair);
        self.is_staged = false;
        self.fault_told = false;
        self.empties = 0;
    }

    /// Lets go of the queue pair. Descriptors that were staged and not published are never seen.
    pub(super) fn let_go(&mut self) {
        self.pair = None;
        self.is_staged = false;
    }

    /// Marks what it holds as waiting for proof that its writers have stopped; how many that are.
    pub(super) fn quarantine(&mut self, shard: &mut Shard<'static>) -> u32 {
        let count = shard.quarantine(self.id);
        self.quarantined += count;
        self.empties = 0;
        count
    }

    /// Packets that it holds under this attach.
    pub(super) fn packets_held(&self, shard: &Shard<'static>) -> u32 {
        shard.held_by(self.id).saturating_sub(self.quarantined + self.empties)
    }

    /// Most packets that it can hold without a drop, besides the empty buffers of its credit.
    pub(super) fn packets_max(&self) -> u32 {
        let quota = self.quota_buffers.saturating_sub(self.quarantined);
        quota.min(self.ring_slots).saturating_sub(self.credit_buffers)
    }

    /// Whether it could be lent, or have a reference to, one more buffer now.
    pub(super) fn has_room(&mut self, shard: &Shard<'static>) -> bool {
        let room = self.pair.as_mut().map_or(Ok(0), |pair| pair.to_guest.room(1));
        // A broken counter is told when something is lent.
        room != Ok(0)
            && match &self.references {
                Some(references) => references.has_room(),
                None => shard.is_under_quota(self.id, self.quota_buffers),
            }
    }

    /// Whether what it gives back is to be looked at one by one.
    #[inline]
    pub(super) fn is_served_singly(&self) -> bool {
        self.limit.is_some() || self.observes
    }

    /// Lends it a frame, unless ring or quota have no room. Nothing has changed hands when this fails; a
    /// [`PeerCounterError`] in `broken` besides means that the endpoint is to be cut off.
    #[inline(always)]
    pub(super) fn lend(
        &mut self,
        shard: &mut Shard<'static>,
        frame: Frame,
        kind: Kind,
        path: PacketPath,
        broken: &mut Option<PeerCounterError>,
    ) -> Result<(), DropReason> {
        let Some(pair) = &mut self.pair else { return Err(DropReason::ServiceDead) };
        match pair.to_guest.room(1) {
            Ok(0) => return Err(DropReason::RingFull),
            Ok(_) => {}
            Err(error) => {
                *broken = Some(error);
                return Err(DropReason::ServiceDead);
            }
        }
        if !shard.is_under_quota(self.id, self.quota_buffers) {
            return Err(DropReason::QuotaFull);
        }
        // Crash order: ledger, then descriptor, then (in `publish`) journal and `produced`.
        let loan = Loan { endpoint: self.id, sequence: pair.to_guest.next_sequence(), kind, path };
        let Some(generation) = shard.lend(frame.index, &loan) else { return Err(DropReason::LedgerRefused) };
        let staged = pair.to_guest.stage(describe(frame, kind, generation, path));
        // `room` said that there is a slot, and nobody else stages.
        debug_assert!(staged);
        self.is_staged = true;
        match kind {
            Kind::Packet => self.counters.lent += 1,
            Kind::Empty => {
                self.counters.lent_empty += 1;
                self.empties += 1;
            }
        }
        Ok(())
    }

    /// Lends it the packets of a passage to it that are in front of `batch`, as far as ring and quota have room.
    /// What is left is to be lent one by one, and is named there if it cannot be.
    #[inline(always)]
    pub(super) fn pass_on(
        &mut self,
        shard: &mut Shard<'static>,
        passage: &Passage,
        limits: &FrameLimits,
        batch: &mut Batch<'static>,
        read: impl Fn(&Slot) -> RawDesc,
    ) -> Passed {
        let nothing = Passed { count: 0, refused: None };
        let Some(pair) = &mut self.pair else { return nothing };
        let wanted = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        // A broken counter is told by the packet that is lent next.
        let room = pair.to_guest.room(wanted).unwrap_or(0);
        let fitting = wanted.min(room).min(shard.quota_left(self.id, passage.giver(), self.quota_buffers));
        // Crash order as in `lend`.
        let mut passing = shard.passing(passage, limits, pair.to_guest.next_sequence());
        let passed = pair.to_guest.pass(batch, fitting, read, |raw| passing.carry(raw));
        self.is_staged |= passed.count > 0;
        self.counters.lent += u64::from(passed.count);
        passed
    }

    /// Shows the endpoint what was staged since the last time.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.is_staged {
            self.is_staged = false;
            if let Some(pair) = &mut self.pair {
                pair.to_guest.publish();
            }
        }
    }

    /// How many empty buffers its credit still allows.
    pub(super) fn credit_left(&self) -> u32 {
        if self.pair.is_none() { 0 } else { self.credit_buffers.saturating_sub(self.empties) }
    }
}

#[inline(always)]
fn describe(frame: Frame, kind: Kind, generation: u16, path: PacketPath) -> RawDesc {
    Desc {
        buffer_index: frame.index.0,
        data_offset_bytes: frame.offset_bytes,
        data_len_bytes: frame.len_bytes,
        generation,
        code: kind as u8,
        flags: 0,
        aux: aux_of(path),
    }
    .pack()
}

/// The mark that a packet carries to an endpoint.
#[inline(always)]
pub(super) fn aux_of(path: PacketPath) -> u32 {
    mark(path.ingress_port.0, 0)
}
