//! Frames whose way leads into another domain: judged on a private copy, and copied over.
//!
//! A frame never goes there itself. While a burst is under way, it waits in [`Crossings`]; right behind the
//! burst, its headers are copied into private memory, the edges are asked about that copy, a buffer of the other
//! domain is taken, and the judged bytes are what is written there, with the rest of the frame behind them. The
//! old buffer goes home. Both ledgers are those of this lcore, so no other thread takes part.

use switch_core::drop_reason::DropReason;
use switch_core::edge::EdgeSpec;
use switch_core::forwarding::{Decision, Forwarding, Step};
use switch_core::header::HeaderCopy;
use switch_core::ids::{BufferIndex, DomainId, EdgeId, EndpointId};
use switch_core::ledger::PacketPath;
use switch_core::shard::Ingress as Arrival;

use super::counters::EdgeCounters;
use super::domain::{DomainLane, Frame};
use super::lcore::{Lcore, RETURN_BURST};
use super::limit::Limit;
use super::route::Route;
use crate::region::Mapping;

/// A frame that waits to be copied into another domain.
#[derive(Debug)]
pub(super) struct Crossing {
    /// Where it is; the ledger of its domain says `Lcore`.
    pub frame: Frame,
    /// The domain that it goes to.
    pub to: DomainId,
    /// What happens to it there.
    pub step: Step,
    pub path: PacketPath,
    /// The endpoint whose verdict it was.
    pub cause: Option<EndpointId>,
    /// The headers by which rules have chosen its way; they bind what is written.
    pub header: Option<HeaderCopy>,
}

/// The frames of one burst that wait to be copied into other domains, in order.
#[derive(Debug)]
pub(super) struct Crossings(Vec<Crossing>);

impl Crossings {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(RETURN_BURST))
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a frame; there is room for all frames of a burst.
    #[cold]
    pub(super) fn push(&mut self, crossing: Crossing) {
        debug_assert!(self.0.len() < RETURN_BURST);
        self.0.push(crossing);
    }

    /// Notes the headers by which the way of `frame` was chosen, if it was the last one to be added.
    #[inline]
    pub(super) fn bind(&mut self, frame: Frame, header: &HeaderCopy) {
        if let Some(last) = self.0.last_mut().filter(|last| last.frame == frame) {
            last.header = Some(*header);
        }
    }
}

/// One edge on one lcore.
#[derive(Debug)]
pub(super) struct EdgeLane {
    pub counters: EdgeCounters,
    limit: Option<Box<Limit>>,
    /// The edge whose limit its packets count against.
    limited_with: EdgeId,
}

impl EdgeLane {
    /// The edges of a snapshot, on one of `lcores`.
    pub(super) fn all(forwarding: &Forwarding, lcores: u16) -> Vec<Self> {
        let lane = |(id, edge): (EdgeId, &EdgeSpec)| Self {
            counters: EdgeCounters::default(),
            limit: Limit::part_of(edge.limit, lcores),
            limited_with: edge
                .limited_with
                .filter(|_| !cfg!(feature = "sabotage-shared-limit"))
                .unwrap_or(id),
        };
        (0..).map(EdgeId).zip(forwarding.edges()).map(lane).collect()
    }

    /// Whether one more packet may cross on one of the edges.
    pub(super) fn admit(edges: &mut [Self], edge: EdgeId, bytes: u16) -> Result<(), DropReason> {
        let limiting = edges.get(edge.index()).map(|lane| lane.limited_with.index());
        let limit = limiting.and_then(|at| edges.get_mut(at)?.limit.as_mut());
        if limit.is_none_or(|limit| limit.admit(bytes)) { Ok(()) } else { Err(DropReason::EdgeRate) }
    }
}

impl Lcore {
    /// Keeps the counters of edges that stay, wherever they stand now, and what was spent of limits that stay.
    /// `were` says for each new edge which one it was.
    pub(super) fn adopt_edges(&mut self, forwarding: &Forwarding, were: &[Option<EdgeId>]) {
        let lanes = std::mem::replace(&mut self.edges, EdgeLane::all(forwarding, self.lcores));
        let mut old: Vec<_> = self.forwarding.edges().iter().zip(lanes).map(Some).collect();
        for ((spec, lane), was) in forwarding.edges().iter().zip(&mut self.edges).zip(were) {
            match was.and_then(|was| old.get_mut(was.index())?.take()) {
                Some((before, stays)) if before.limit == spec.limit => {
                    *lane = EdgeLane { limited_with: lane.limited_with, ..stays };
                }
                Some((_, stays)) => lane.counters = stays.counters,
                None => {}
            }
        }
    }

    /// Copies the frames that wait into their new domains, as far as edges let them, and sends them on there.
    #[cold]
    #[inline(never)]
    pub(super) fn cross(&mut self, from: DomainId) {
        // An empty list takes its place; it has no memory of its own, and nothing is added to it.
        let mut crossings = std::mem::replace(&mut self.crossings, Crossings(Vec::new()));
        for crossing in crossings.0.drain(..) {
            let Crossing { frame, cause, .. } = crossing;
            if let Err(reason) = self.cross_one(from, crossing) {
                self.at(from, |route| route.drop(frame.index, reason, cause));
            }
        }
        debug_assert!(self.crossings.is_empty());
        self.crossings = crossings;
    }

    /// On refusal nothing has changed: the frame is still the lcore's, in the domain that it came from.
    fn cross_one(&mut self, from: DomainId, crossing: Crossing) -> Result<(), DropReason> {
        let Crossing { frame, to, step, path, cause, header } = crossing;
        let pair = self.domains.get_disjoint_mut([from.index(), to.index()]);
        let Ok([source, target]) = pair else { return Err(DropReason::LedgerRefused) };
        let judged = header.unwrap_or_else(|| {
            let mut copy = HeaderCopy::default();
            source.state.copy_header(frame, &mut copy);
            copy
        });
        let edge = judge(self.forwarding.edge(from, to, &judged))?;
        #[cfg(feature = "test-hooks")]
        super::hook::reach(
            super::hook::Moment::HeadersJudged,
            source.state.region,
            source.state.position(frame.index, frame.offset_bytes),
        );
        let copy = EdgeLane::admit(&mut self.edges, edge, frame.len_bytes)
            .and_then(|()| self.limits.admit_from(&source.state, &target.state, frame.len_bytes))
            .and_then(|()| copy_over(source, target, frame, path, &judged));
        let Some(edge) = self.edges.get_mut(edge.index()) else { return Err(DropReason::LedgerRefused) };
        let copy = copy.inspect_err(|reason| edge.counters.drops.add(*reason, 1))?;
        edge.counters.packets += 1;
        edge.counters.bytes += u64::from(frame.len_bytes);
        source.state.counters.crossed += 1;
        source.cell.borrow().give(&[frame.index.0]);
        target.state.counters.entered += 1;
        self.at(to, |route| route.forward(copy, Decision { step, path }, cause));
        Ok(())
    }

    /// Moves frames of one domain on, outside of a burst.
    pub(super) fn at<R>(&mut self, domain: DomainId, act: impl FnOnce(&mut Route<'_>) -> R) -> R {
        let DomainLane { cell, state, .. } = &mut self.domains[domain.index()];
        act(&mut Route {
            lcore: self.id,
            domain: state,
            limits: &mut self.limits,
            shard: &mut cell.borrow(),
            endpoints: &mut self.endpoints,
            egresses: &mut self.egresses,
            live: &mut self.live,
            events: &mut self.events,
            crossings: &mut self.crossings,
        })
    }
}

/// What the edges say.
#[inline]
fn judge(answer: Result<EdgeId, DropReason>) -> Result<EdgeId, DropReason> {
    if cfg!(feature = "sabotage-edge-check") { answer.or(Ok(EdgeId(0))) } else { answer }
}

/// Copies a frame into a buffer of `target`, which is the lcore's then: the bytes that were judged, and behind
/// them what stands in the source now. Of the source, the new buffer gets the frame and nothing else.
pub(super) fn copy_over(
    source: &DomainLane,
    target: &mut DomainLane,
    frame: Frame,
    path: PacketPath,
    judged: &HeaderCopy,
) -> Result<Frame, DropReason> {
    let arrival = arrival_of(source, frame.index, path).ok_or(DropReason::LedgerRefused)?;
    let at = source.state.position(frame.index, frame.offset_bytes);
    copy_from((source.state.region, at), target, frame.len_bytes, &arrival, judged)
}

/// Copies a frame into another buffer of its own domain, likewise.
pub(super) fn duplicate(
    domain: &mut DomainLane,
    frame: Frame,
    path: PacketPath,
    judged: &HeaderCopy,
) -> Result<Frame, DropReason> {
    let arrival = arrival_of(domain, frame.index, path).ok_or(DropReason::LedgerRefused)?;
    let from = (domain.state.region, domain.state.position(frame.index, frame.offset_bytes));
    copy_from(from, domain, frame.len_bytes, &arrival, judged)
}

fn copy_from(
    (source, from): (&Mapping, usize),
    target: &mut DomainLane,
    len_bytes: u16,
    arrival: &Arrival,
    judged: &HeaderCopy,
) -> Result<Frame, DropReason> {
    let DomainLane { cell, state, .. } = target;
    let offset_bytes = state.geometry.headroom_bytes;
    if u32::from(offset_bytes) + u32::from(len_bytes) > state.limits.stride_bytes {
        return Err(DropReason::FrameTooLong);
    }
    let (mut shard, mut index) = (cell.borrow(), [0]);
    if state.is_lost || !shard.take(&mut index) {
        return Err(DropReason::NoBuffer);
    }
    let copy = Frame { index: BufferIndex(index[0]), offset_bytes, len_bytes };
    let to = state.position(copy.index, offset_bytes);
    let header = judged.as_bytes();
    let rest_bytes = usize::from(len_bytes).saturating_sub(header.len());
    state.region.copy_from(to + header.len(), source, from + header.len(), rest_bytes);
    state.region.copy_in(to, header);
    #[cfg(feature = "sabotage-crossing-reread")]
    state.region.copy_from(to, source, from, header.len());
    #[cfg(feature = "sabotage-crossing-tail")]
    state.region.copy_from(to, source, from, usize::from(state.limits.frame_bytes_max - offset_bytes));
    state.sampler.forget(copy.index.0);
    // It was taken a few lines above.
    let is_entered = shard.received(copy.index, arrival);
    debug_assert!(is_entered);
    if is_entered { Ok(copy) } else { Err(DropReason::LedgerRefused) }
}

/// What the ledger of the other domain notes: what this one knows.
fn arrival_of(source: &DomainLane, index: BufferIndex, path: PacketPath) -> Option<Arrival> {
    let shard = source.cell.borrow();
    let entry = shard.entry(index)?;
    let (vlan, class, offload_flags) = (entry.vlan, entry.class, entry.offload_flags);
    Some(Arrival { path, vlan, class, offload_flags, host_time_ms: entry.host_time_ms })
}
