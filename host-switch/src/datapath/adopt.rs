//! What an lcore does with each message, between two bursts.

use std::sync::mpsc::TryRecvError;

use shm_ring::layout::RING_SLOTS_MAX;
use switch_core::drop_reason::DropReason;
use switch_core::ids::EndpointId;

use super::audit::ShardReport;
use super::counters::{EndpointSnapshot, LcoreReport, LcoreSnapshot, PortCounters};
use super::domain::DomainLane;
use super::egress::FLUSH_FRAMES;
use super::endpoint::Pair;
use super::lcore::{Lcore, Next};
use super::message::{Message, QueuePairHandle, Released};

impl Lcore {
    /// Does what control wants. An answer whose asker has gone away is nobody's loss.
    pub(super) fn adopt_messages(&mut self) -> Next {
        loop {
            match self.messages.try_recv() {
                Ok(Message::Stop) | Err(TryRecvError::Disconnected) => return Next::Stop,
                Ok(message) => self.adopt(message),
                Err(TryRecvError::Empty) => return Next::Poll,
            }
        }
    }

    fn adopt(&mut self, message: Message) {
        match message {
            Message::Attach { endpoint, pair, done } => _ = done.send(self.attach(endpoint, *pair)),
            Message::Feed { endpoint, feed, done } => {
                let has_pair = self.endpoints.get(endpoint.index()).is_some_and(|lane| lane.pair.is_some());
                self.live.set(endpoint, feed && has_pair);
                _ = done.send(());
            }
            Message::Throttle { endpoint, duration, done } => {
                self.throttle(endpoint, duration);
                _ = done.send(());
            }
            Message::Release { endpoint, done } => _ = done.send(self.release(endpoint)),
            Message::Reclaim { endpoint, done } => _ = done.send(self.reclaim(endpoint)),
            Message::Audit { done } => _ = done.send(self.audit()),
            Message::Counters { done } => _ = done.send(self.report()),
            Message::Change { change, done } => self.change(change, done),
            Message::Carried { chains, done } => _ = done.send(self.carried(&chains)),
            #[cfg(feature = "sabotage-leak")]
            Message::Leak { domain, done } => _ = done.send(self.leak(domain)),
            Message::Stop => {}
        }
    }

    /// Takes up a queue pair; refused while the endpoint has one. Buffers of an earlier attach stay quarantined
    /// and charged to its quota.
    fn attach(&mut self, endpoint: EndpointId, pair: QueuePairHandle) -> bool {
        let Some(lane) = self.endpoints.get_mut(endpoint.index()) else { return false };
        let domain = &self.domains[lane.domain.index()];
        if lane.pair.is_some() || domain.state.is_lost {
            return false;
        }
        // An endpoint that was cut off still has loans of its last attach.
        lane.quarantine(&mut domain.cell.borrow());
        lane.end_references(&mut domain.cell.borrow());
        let QueuePairHandle { host_to_guest, guest_to_host, references: table, .. } = pair;
        if let Some(references) = &mut lane.references {
            references.take_up(table);
        }
        lane.take_up(Pair { to_guest: host_to_guest, from_guest: guest_to_host });
        self.live.set(endpoint, true);
        if !self.attached.contains(&endpoint.index()) {
            self.attached.push(endpoint.index());
        }
        self.serve_again(endpoint.index());
        true
    }

    /// Lets go of an endpoint's rings. What it gave back before that is served; the rest is quarantined. References
    /// end.
    fn release(&mut self, endpoint: EndpointId) -> Released {
        let position = endpoint.index();
        if position >= self.endpoints.len() {
            return Released::default();
        }
        self.live.set(endpoint, false);
        let mut drained = 0;
        // A hostile endpoint can go on giving for ever; an honest one has given at most a ring full.
        while drained < RING_SLOTS_MAX {
            match u32::try_from(self.serve(position)) {
                Ok(served) if served > 0 => drained += served,
                _ => break,
            }
            self.flush(FLUSH_FRAMES);
        }
        self.attached.retain(|&attached| attached != position);
        self.serve_no_more(position);
        let lane = &mut self.endpoints[position];
        lane.let_go();
        let mut shard = self.domains[lane.domain.index()].cell.borrow();
        lane.end_references(&mut shard);
        let quarantined = lane.quarantine(&mut shard);
        Released { drained, quarantined }
    }

    /// Takes home what was quarantined; how many. What the endpoint holds under a later attach stays with it, also
    /// when this lcore has cut it off: the proof may be older than that, and control not know of it yet.
    fn reclaim(&mut self, endpoint: EndpointId) -> u32 {
        let Some(lane) = self.endpoints.get_mut(endpoint.index()) else { return 0 };
        let DomainLane { cell, state, .. } = &mut self.domains[lane.domain.index()];
        let mut shard = cell.borrow();
        let home = shard.reclaim(endpoint);
        let lost = home.iter().filter(|buffer| buffer.had_packet).count() as u64;
        state.counters.drops.add(DropReason::LostWithEndpoint, lost);
        lane.counters.drops.add(DropReason::LostWithEndpoint, lost);
        for buffer in &home {
            shard.give(&[buffer.index.0]);
        }
        lane.quarantined = 0;
        u32::try_from(home.len()).unwrap_or(u32::MAX)
    }

    /// Counts every buffer of each shard.
    pub(super) fn audit(&self) -> Vec<ShardReport> {
        let references_of = |domain| {
            let observers = self.observing.iter().map(|&position| &self.endpoints[position]);
            let own =
                observers.filter(|lane| lane.domain == domain).filter_map(|lane| lane.references.as_ref());
            own.map(|references| u64::from(references.live())).sum()
        };
        let reports = self.domains.iter().map(|domain| {
            let id = domain.state.id;
            let in_hand: usize = self.egresses.iter().map(|egress| egress.waiting_of(id)).sum();
            ShardReport {
                domain: id,
                lcore: self.id,
                audit: domain.audit(),
                lcore_in_hand: u32::try_from(in_hand).unwrap_or(u32::MAX),
                references: references_of(id),
            }
        });
        reports.collect()
    }

    fn report(&self) -> LcoreReport {
        let mut ports = vec![PortCounters::default(); self.egresses.len()];
        for (sum, egress) in ports.iter_mut().zip(&self.egresses) {
            sum.merge(&egress.counters);
        }
        for ingress in &self.ingresses {
            ports[ingress.port.index()].merge(&ingress.counters);
        }
        let endpoints = self.endpoints.iter().map(|lane| {
            let charged = self.domains[lane.domain.index()].cell.borrow().held_by(lane.id);
            EndpointSnapshot {
                packets: lane.counters.clone(),
                held: charged.saturating_sub(lane.quarantined),
                empties: lane.empties,
                references: lane.references.as_ref().map_or(0, |references| references.live()),
                quarantined: lane.quarantined,
                counter_errors: lane.counter_errors,
                attached: lane.pair.is_some(),
                fed: lane.pair.is_some() && self.live.is_live(lane.id),
            }
        });
        LcoreReport {
            lcore: LcoreSnapshot {
                id: self.id,
                cpu: self.cpu,
                polls: self.polls,
                idle_polls: self.idle_polls,
                events_lost: self.events.lost,
                flows: self.flows.as_ref().map(|flows| flows.snapshot()),
            },
            endpoints: endpoints.collect(),
            domains: self.domains.iter().map(DomainLane::snapshot).collect(),
            ports,
            edges: self.edges.iter().map(|edge| edge.counters.clone()).collect(),
        }
    }

    /// Before the thread ends: lets go of every endpoint and sends what waits.
    pub(super) fn let_go(&mut self) {
        self.end_hold();
        for position in 0..self.endpoints.len() {
            self.release(self.endpoints[position].id);
        }
        self.flush(1);
        self.send_lines();
        for egress in &mut self.egresses {
            egress.give_up(&mut self.domains);
        }
    }

    /// After the thread has ended and the ports are stopped, nobody writes the regions any more.
    pub(super) fn bring_home(&mut self) -> Vec<ShardReport> {
        for position in 0..self.endpoints.len() {
            let endpoint = self.endpoints[position].id;
            self.release(endpoint);
            self.reclaim(endpoint);
        }
        for domain in &self.domains {
            domain.pool.collect_foreign();
        }
        self.audit()
    }

    /// Takes a buffer out of the pool and forgets it.
    #[cfg(feature = "sabotage-leak")]
    fn leak(&mut self, domain: switch_core::ids::DomainId) -> bool {
        use switch_core::ids::{BufferIndex, ChainId, PortId};
        use switch_core::ledger::PacketPath;
        let Some(lane) = self.domains.get(domain.index()) else { return false };
        let mut shard = lane.cell.borrow();
        let mut index = [0];
        let (chain, ingress_port) = (ChainId::NONE, PortId::NONE);
        let path = PacketPath { chain, hop: 0, visited: 0, ingress_port, flow_hash: 0 };
        let arrival =
            switch_core::shard::Ingress { path, vlan: 0, class: 0, offload_flags: 0, host_time_ms: 0 };
        shard.take(&mut index) && shard.received(BufferIndex(index[0]), &arrival)
    }
}
