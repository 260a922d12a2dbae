//! What ports receive: classified, entered in the ledger, and sent on its way.

use dpdk::MbufBurst;
use switch_core::drop_reason::DropReason;
use switch_core::forwarding::Arrival as Entering;
use switch_core::ids::ObserversId;
use switch_core::shard::Ingress as Arrival;

use super::domain::DomainLane;
use super::endpoint::EndpointLane;
use super::ingress::{Arrived, RX_BURST, Refused};
use super::lcore::Lcore;
use super::observe::Observed;
use super::route::Route;

impl Lcore {
    /// Receives a burst from one queue and sends each frame on its way.
    pub(super) fn receive(&mut self, position: usize) -> usize {
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
        if let Some(limit) = &mut state.limit {
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
            shard: &mut shard,
            endpoints: &mut self.endpoints,
            egresses: &mut self.egresses,
            live: &mut self.live,
            events: &mut self.events,
            crossings: &mut self.crossings,
        };
        let header = &mut *self.header;
        let needs_header = self.forwarding.needs_header(ingress.port);
        while let Some(mbuf) = ingress.burst.take_first() {
            ingress.counters.rx_bytes += u64::from(mbuf.pkt_len());
            let vlan = mbuf.stripped_vlan_tci().unwrap_or(0);
            let arrived = match ingress.source.bring_in(pool, route.domain, route.shard, header, mbuf) {
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
            } else if needs_header {
                route.domain.copy_header(frame, header);
            }
            let Entering { decision, observers } = self.forwarding.arrival(ingress.port, header, route.live);
            let path = decision.path;
            let arrival = Arrival { path, vlan, class: 0, offload_flags: 0, host_time_ms: self.now_ms };
            if !route.shard.received(frame.index, &arrival) {
                route.domain.counters.drops.add(DropReason::LedgerRefused, 1);
                continue;
            }
            route.domain.sampler.forget(frame.index.0);
            if std::mem::take(&mut is_sample_due) {
                route.domain.sampler.note(frame.index.0, place);
            }
            if observers != ObserversId::NONE {
                let header = needs_header.then_some(*header);
                self.observed.push(Observed { frame, decision, observers, header });
                continue;
            }
            route.forward(frame, decision, None);
            if needs_header {
                route.crossings.bind(frame, header);
            }
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
