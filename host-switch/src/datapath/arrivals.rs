//! What ports receive: classified, entered in the ledger, and sent on its way.

use dpdk::MbufBurst;
use switch_core::drop_reason::DropReason;
use switch_core::forwarding::{Arrival as Entering, Forwarding};
use switch_core::header::HeaderCopy;
use switch_core::ids::PortId;
use switch_core::shard::Ingress as Arrival;

use super::domain::{DomainLane, Frame};
use super::endpoint::EndpointLane;
use super::flows::Waiting;
use super::ingress::{Arrived, RX_BURST, Refused};
use super::lcore::Lcore;
use super::observe::Observed;
use super::route::Route;
use super::sample::Place;

/// The way in for frames of one port that lie in the region of its domain.
pub(super) struct Entrance<'l> {
    pub port: PortId,
    /// Whether what is decided about its frames depends on their headers.
    pub needs_header: bool,
    pub now_ms: u32,
    pub forwarding: &'l Forwarding,
    /// Headers of the frame under way, if they are needed.
    pub header: &'l mut HeaderCopy,
    /// Takes the frames that somebody observes, or that are copied: they go on behind the burst.
    pub observed: &'l mut Vec<Observed>,
}

impl Entrance<'_> {
    /// Copies the headers of a frame, if they are needed.
    #[inline(always)]
    pub(super) fn look(&mut self, route: &Route<'_>, frame: Frame) {
        if self.needs_header {
            route.domain.copy_header(frame, self.header);
        }
    }

    /// Classifies a frame that was looked at, enters it in the ledger and sends it on its way. `sampled`: where the
    /// driver had put it, if that is to be remembered.
    #[inline(always)]
    pub(super) fn pass(&mut self, route: &mut Route<'_>, frame: Frame, vlan: u16, sampled: Option<Place>) {
        let entering = self.forwarding.arrival(self.port, self.header, route.live);
        self.enter(route, frame, entering, vlan, sampled);
    }

    /// Enters a frame in the ledger and sends it on its way.
    #[inline(always)]
    pub(super) fn enter(
        &mut self,
        route: &mut Route<'_>,
        frame: Frame,
        entering: Entering,
        vlan: u16,
        sampled: Option<Place>,
    ) {
        let Entering { decision, observers, replication } = entering;
        let path = decision.path;
        let arrival = Arrival { path, vlan, class: 0, offload_flags: 0, host_time_ms: self.now_ms };
        if !route.shard.received(frame.index, &arrival) {
            route.domain.counters.drops.add(DropReason::LedgerRefused, 1);
            return;
        }
        route.domain.sampler.forget(frame.index.0);
        if let Some(place) = sampled {
            route.domain.sampler.note(frame.index.0, place);
        }
        if !entering.is_all() {
            let header = self.needs_header.then_some(*self.header);
            self.observed.push(Observed { frame, decision, observers, replication, header });
            return;
        }
        route.forward(frame, decision, None);
        if self.needs_header {
            route.crossings.bind(frame, self.header);
        }
    }
}

impl Lcore {
    /// Receives a burst from one queue and sends each frame on its way.
    pub(super) fn receive(&mut self, position: usize) -> usize {
        if self.remembers_flows_of(self.ingresses[position].port) {
            return self.receive_flows(position);
        }
        self.receive_burst::<false>(position)
    }

    /// As [`Lcore::receive`] where what rules say of a flow is remembered.
    #[inline(never)]
    fn receive_flows(&mut self, position: usize) -> usize {
        self.receive_burst::<true>(position)
    }

    #[inline(always)]
    fn receive_burst<const BY_FLOW: bool>(&mut self, position: usize) -> usize {
        let domain = self.ingresses[position].domain;
        if self.domains[domain.index()].state.is_lost || !self.may_receive(position) {
            return 0;
        }
        let ingress = &mut self.ingresses[position];
        let received = ingress.queue.burst(&mut ingress.burst);
        if received == 0 {
            return 0;
        }
        let DomainLane { cell, pool, state, .. } = &mut self.domains[domain.index()];
        // Frames to be freed by DPDK, which takes the shard: dropped behind the borrow.
        let mut freed = MbufBurst::<RX_BURST>::new();
        if let Some(limit) = self.limits.of(state) {
            // Before the borrow: what is refused is freed there.
            state.counters.drops.add(DropReason::DomainRate, limit.cut(&mut ingress.burst));
        }
        let mut shard = cell.borrow();
        state.counters.entered += received as u64;
        ingress.counters.rx_packets += received as u64;
        #[allow(clippy::cast_possible_truncation, reason = "at most a burst")]
        let mut is_sample_due = state.sampler.is_due(received as u32);
        let mut route = Route {
            lcore: self.id,
            domain: state,
            limits: &mut self.limits,
            shard: &mut shard,
            endpoints: &mut self.endpoints,
            egresses: &mut self.egresses,
            live: &mut self.live,
            events: &mut self.events,
            crossings: &mut self.crossings,
        };
        let mut entrance = Entrance {
            port: ingress.port,
            needs_header: self.forwarding.needs_header(ingress.port),
            now_ms: self.now_ms,
            forwarding: &self.forwarding,
            header: &mut self.header,
            observed: &mut self.observed,
        };
        while let Some(mbuf) = ingress.burst.take_first() {
            ingress.counters.rx_bytes += u64::from(mbuf.pkt_len());
            let vlan = mbuf.stripped_vlan_tci().unwrap_or(0);
            let arrived =
                match ingress.source.bring_in(pool, route.domain, route.shard, entrance.header, mbuf) {
                    Ok(arrived) => arrived,
                    Err(Refused { mbuf, reason }) => {
                        route.domain.counters.drops.add(reason, 1);
                        // As many places as frames of a burst; each frame is freed at most once.
                        let _ = freed.push(mbuf);
                        continue;
                    }
                };
            let Arrived { frame, place, copied_from } = arrived;
            if let Some(mbuf) = copied_from {
                ingress.counters.copies += 1;
                let _ = freed.push(mbuf);
            } else {
                entrance.look(&route, frame);
            }
            let sampled = std::mem::take(&mut is_sample_due).then_some(place);
            match &mut self.flows {
                Some(flows) if BY_FLOW => {
                    flows.set_aside(Waiting { frame, header: *entrance.header, vlan, sampled });
                }
                _ => entrance.pass(&mut route, frame, vlan, sampled),
            }
        }
        if let Some(flows) = self.flows.as_mut().filter(|_| BY_FLOW) {
            flows.send_on(&mut entrance, &mut route);
        }
        drop(shard);
        drop(freed);
        if !self.observed.is_empty() {
            self.show_burst(domain);
        }
        if !self.crossings.is_empty() {
            self.cross(domain);
        }
        received
    }

    /// Whether a queue may be polled: a paced port finds room all along its chain.
    pub(super) fn may_receive(&mut self, position: usize) -> bool {
        let Self { ingresses, domains, endpoints, live, .. } = self;
        let ingress = &mut ingresses[position];
        let Some(chain) = &ingress.paced else { return true };
        let lanes = || chain.iter().filter_map(|endpoint| endpoints.get(endpoint.index()));
        let is_fed = lanes().all(|lane| lane.pair.is_some() && live.is_live(lane.id));
        let held = |lane: &EndpointLane| lane.packets_held(&domains[lane.domain.index()].cell.borrow());
        let on_the_way: u32 = lanes().map(held).sum();
        // All of them could pile up at one endpoint; a burst more must still fit there.
        #[allow(clippy::cast_possible_truncation, reason = "32")]
        let fits = |lane: &EndpointLane| on_the_way + RX_BURST as u32 <= lane.packets_max();
        let may = is_fed && lanes().all(fits);
        ingress.counters.held_back += u64::from(!may);
        may
    }
}
