//! Moves one frame on: to an endpoint, to a port, or home.

use std::sync::mpsc::{SyncSender, TrySendError};

use shm_ring::desc::{Kind, RawDesc};
use shm_ring::layout::Slot;
use shm_ring::ring::{Batch, Passed, PeerCounterError};
use switch_core::drop_reason::DropReason;
use switch_core::forwarding::{Decision, Step};
use switch_core::ids::{BufferIndex, EndpointId, LcoreId, PortId};
use switch_core::ledger::PacketPath;
use switch_core::liveness::Liveness;
use switch_core::passage::Passage;
use switch_core::shard::Shard;

use super::crossing::{Crossing, Crossings};
use super::domain::{DomainState, Frame};
use super::egress::{Egress, Way};
use super::endpoint::EndpointLane;
use super::limit::EntryLimits;
use super::message::Event;

/// Tells control, without ever waiting for it.
#[derive(Debug)]
pub(super) struct EventSink {
    sender: SyncSender<Event>,
    pub lost: u64,
}

impl EventSink {
    pub(super) fn new(sender: SyncSender<Event>) -> Self {
        Self { sender, lost: 0 }
    }

    pub(super) fn tell(&mut self, event: Event) {
        match self.sender.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lost += 1,
        }
    }
}

/// What it takes to move frames of one domain on, borrowed from the lcore for one burst.
pub(super) struct Route<'l> {
    pub lcore: LcoreId,
    pub domain: &'l mut DomainState,
    pub limits: &'l mut EntryLimits,
    pub shard: &'l mut Shard<'static>,
    pub endpoints: &'l mut [EndpointLane],
    pub egresses: &'l mut [Egress],
    pub live: &'l mut Liveness,
    pub events: &'l mut EventSink,
    /// Takes the frames that go on in another domain.
    pub crossings: &'l mut Crossings,
}

impl Route<'_> {
    /// Does what was decided. `cause` is the endpoint whose verdict it was.
    #[inline(always)]
    pub(super) fn forward(&mut self, frame: Frame, decision: Decision, cause: Option<EndpointId>) {
        match decision.step {
            Step::Endpoint(endpoint) => self.lend(frame, endpoint, decision.path, cause),
            Step::Port(port) => self.stage(frame, port, decision.path, cause),
            Step::Drop(reason) => self.drop(frame.index, reason, cause),
            Step::Home => self.shard.give(&[frame.index.0]),
        }
    }

    #[inline(always)]
    fn lend(&mut self, frame: Frame, endpoint: EndpointId, path: PacketPath, cause: Option<EndpointId>) {
        let Some(lane) = self.endpoints.get_mut(endpoint.index()) else {
            return self.drop(frame.index, DropReason::ServiceDead, None);
        };
        if lane.domain != self.domain.id {
            let (to, step) = (lane.domain, Step::Endpoint(endpoint));
            return self.crossings.push(Crossing { frame, to, step, path, cause, header: None });
        }
        let mut broken = None;
        if let Err(reason) = lane.lend(self.shard, frame, Kind::Packet, path, &mut broken) {
            if let Some(error) = broken {
                self.cut_off(endpoint, error);
            }
            self.drop(frame.index, reason, Some(endpoint));
        }
    }

    /// Sends on the packets of a passage that are in front of `batch`. The rest asks for itself.
    #[inline(always)]
    pub(super) fn pass_on(
        &mut self,
        passage: &Passage,
        batch: &mut Batch<'static>,
        read: impl Fn(&Slot) -> RawDesc,
    ) -> Passed {
        match self.endpoints.get_mut(passage.receiver().index()) {
            Some(lane) if lane.domain == self.domain.id => {
                lane.pass_on(self.shard, passage, &self.domain.limits, batch, read)
            }
            _ => Passed { count: 0, refused: None },
        }
    }

    #[inline]
    fn stage(&mut self, frame: Frame, port: PortId, path: PacketPath, cause: Option<EndpointId>) {
        let staged = match self.egresses.get_mut(port.index()) {
            Some(egress) if egress.domain != self.domain.id => self.stage_elsewhere(frame, port, path, cause),
            Some(egress) => egress.stage(self.domain, frame),
            None => Err(DropReason::PortDown),
        };
        if let Err(reason) = staged {
            self.drop(frame.index, reason, cause);
        }
    }

    /// To a port that is not of this domain alone.
    #[inline(never)]
    fn stage_elsewhere(
        &mut self,
        frame: Frame,
        port: PortId,
        path: PacketPath,
        cause: Option<EndpointId>,
    ) -> Result<(), DropReason> {
        let egress = &mut self.egresses[port.index()];
        let to = match &mut egress.way {
            Way::Shared(shared) if shared.is_of(self.domain.id) => return shared.stage(self.domain, frame),
            Way::Shared(shared) => shared.first_domain().ok_or(DropReason::PortDown)?,
            Way::Queue(_) | Way::Owner(_) | Way::Nic(_) => egress.domain,
        };
        self.crossings.push(Crossing { frame, to, step: Step::Port(port), path, cause, header: None });
        Ok(())
    }

    /// Counts a packet that goes no further, under its domain and under the endpoint that is the cause, and
    /// takes its buffer home.
    #[cold]
    pub(super) fn drop(&mut self, index: BufferIndex, reason: DropReason, cause: Option<EndpointId>) {
        self.domain.counters.drops.add(reason, 1);
        if let Some(lane) = cause.and_then(|endpoint| self.endpoints.get_mut(endpoint.index())) {
            lane.counters.drops.add(reason, 1);
        }
        self.shard.give(&[index.0]);
    }

    /// Serves an endpoint no more: its counter is broken, so nothing in its rings can be believed.
    #[cold]
    pub(super) fn cut_off(&mut self, endpoint: EndpointId, error: PeerCounterError) {
        if let Some(lane) = self.endpoints.get_mut(endpoint.index()) {
            cut_off(lane, self.live, self.events, self.lcore, error);
        }
    }
}

/// See [`Route::cut_off`].
#[cold]
pub(super) fn cut_off(
    lane: &mut EndpointLane,
    live: &mut Liveness,
    events: &mut EventSink,
    lcore: LcoreId,
    error: PeerCounterError,
) {
    lane.let_go();
    lane.counter_errors += 1;
    lane.violations.count_counter();
    live.set(lane.id, false);
    events.tell(Event::Counter { endpoint: lane.id, lcore, error });
}
