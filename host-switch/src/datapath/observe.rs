//! Packets for those who watch, shown as a packet enters its chain: by a copy into the observer's own region, or by a
//! reference, to one that maps the region of its domain read-only.
//!
//! A chain never waits for its observers: what one has no room for is its own loss, counted at it as
//! `observer_full`. Each copy goes over an edge like any other packet that leaves its domain, and what an observer
//! gives back is freed, whatever it says of it. A packet that enters elsewhere than in the region that an observer
//! maps (in that of a function that works on copies) is copied there first, and the copy is what it refers to.

use switch_core::drop_reason::DropReason;
use switch_core::forwarding::Decision;
use switch_core::header::HeaderCopy;
use switch_core::ids::{DomainId, EndpointId, ObserversId, ReplicationId};

use shm_ring::desc::Kind;

use super::crossing::{EdgeLane, copy_over};
use super::domain::Frame;
use super::lcore::Lcore;
use super::route::cut_off;

/// A received frame that observers are shown, or that is copied, before it goes on.
#[derive(Debug)]
pub(super) struct Observed {
    pub frame: Frame,
    pub decision: Decision,
    pub observers: ObserversId,
    /// Copies that are made of it besides.
    pub replication: ReplicationId,
    /// The headers by which rules have chosen its way.
    pub header: Option<HeaderCopy>,
}

impl Lcore {
    /// Shows the frames of a burst that observers wait for, copies those that rules replicate, and sends each on its
    /// way.
    #[cold]
    #[inline(never)]
    pub(super) fn show_burst(&mut self, domain: DomainId) {
        let mut observed = std::mem::take(&mut self.observed);
        for Observed { frame, decision, observers, replication, header } in observed.drain(..) {
            let header = header.unwrap_or_else(|| self.header_of(domain, frame));
            self.show(domain, frame, decision, observers, &header);
            if replication != ReplicationId::NONE {
                self.replicate(domain, frame, decision.path, replication, &header);
            }
            self.at(domain, |route| {
                route.forward(frame, decision, None);
                route.crossings.bind(frame, &header);
            });
        }
        self.observed = observed;
    }

    fn header_of(&self, domain: DomainId, frame: Frame) -> HeaderCopy {
        let mut header = HeaderCopy::default();
        self.domains[domain.index()].state.copy_header(frame, &mut header);
        header
    }

    /// Shows one frame, which the lcore has in its hands, to the observers of its flow.
    pub(super) fn show(
        &mut self,
        domain: DomainId,
        frame: Frame,
        decision: Decision,
        observers: ObserversId,
        header: &HeaderCopy,
    ) {
        let mut viewers = std::mem::take(&mut self.viewers);
        viewers.extend(self.forwarding.observers_of_flow(observers, decision.path.flow_hash, &self.live));
        for viewer in viewers.drain(..) {
            if let Err(reason) = self.show_to(viewer, domain, frame, decision, header)
                && let Some(lane) = self.endpoints.get_mut(viewer.index())
            {
                lane.counters.drops.add(reason, 1);
            }
        }
        self.viewers = viewers;
    }

    /// On refusal the observer has lost its view, and nothing else has changed.
    fn show_to(
        &mut self,
        viewer: EndpointId,
        domain: DomainId,
        frame: Frame,
        decision: Decision,
        header: &HeaderCopy,
    ) -> Result<(), DropReason> {
        let lane = self.endpoints.get_mut(viewer.index()).ok_or(DropReason::ServiceDead)?;
        if lane.references.is_none() || lane.domain != domain {
            return self.copy_to(viewer, domain, frame, decision, header);
        }
        let mut broken = None;
        let mut shard = self.domains[domain.index()].cell.borrow();
        let shown = lane.refer(&mut shard, frame, decision.path, self.now_ms, &mut broken);
        if let Some(error) = broken {
            cut_off(lane, &mut self.live, &mut self.events, self.id, error);
        }
        shown
    }

    /// Lends an observer a copy of a frame, or brings it a reference to one.
    fn copy_to(
        &mut self,
        viewer: EndpointId,
        from: DomainId,
        frame: Frame,
        decision: Decision,
        header: &HeaderCopy,
    ) -> Result<(), DropReason> {
        let lane = self.endpoints.get_mut(viewer.index()).ok_or(DropReason::ServiceDead)?;
        let pair = self.domains.get_disjoint_mut([from.index(), lane.domain.index()]);
        let [source, target] = pair.map_err(|_| DropReason::ObserverFull)?;
        let edge = self.forwarding.edge(from, lane.domain, header)?;
        // Before the copy: a slow observer costs nothing.
        if !lane.has_room(&target.cell.borrow()) {
            return Err(DropReason::ObserverFull);
        }
        let copy = EdgeLane::admit(&mut self.edges, edge, frame.len_bytes)
            .and_then(|()| copy_over(source, target, frame, decision.path, header))
            .map_err(|_| DropReason::ObserverFull)?;
        let mut broken = None;
        let mut shard = target.cell.borrow();
        let refers = lane.references.is_some();
        let shown = if refers {
            lane.refer(&mut shard, copy, decision.path, self.now_ms, &mut broken)
        } else {
            lane.lend(&mut shard, copy, Kind::Packet, decision.path, &mut broken)
        };
        if let Some(error) = broken {
            cut_off(lane, &mut self.live, &mut self.events, self.id, error);
        }
        if refers || shown.is_err() {
            // Nobody holds what is only referred to: it goes home when the reference ends.
            shard.give(&[copy.index.0]);
        }
        shown.map_err(|_| DropReason::ObserverFull)?;
        if let Some(edge) = self.edges.get_mut(edge.index()) {
            edge.counters.packets += 1;
            edge.counters.bytes += u64::from(frame.len_bytes);
        }
        target.state.counters.entered += 1;
        target.state.counters.observed += u64::from(refers);
        Ok(())
    }
}
