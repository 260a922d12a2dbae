//! What a port receives that several domains share.
//!
//! The driver puts frames into private memory. There, each is classified on its headers, and is copied once, into
//! the region of the domain that it belongs to: nothing of it is ever where another domain could read it.

use dpdk::Mbuf;
use switch_core::drop_reason::DropReason;
use switch_core::forwarding::{Arrival as Entering, Decision, Step};
use switch_core::header::HeaderCopy;
use switch_core::ids::{DomainId, ReplicationId};
use switch_core::rule::COPIES_MAX;
use switch_core::shard::Ingress as Arrival;

use super::domain::{DomainLane, Frame};
use super::egress::FLUSH_FRAMES;
use super::ingress::{Ingress, RX_BURST, check, write};
use super::lcore::Lcore;
use super::turn::cycles;

impl Lcore {
    /// Receives a burst from a queue of a shared port and sends each frame on its way in its own domain.
    pub(super) fn receive_shared(&mut self, position: usize) -> usize {
        if !self.may_receive(position) {
            return 0;
        }
        let ingress = &mut self.ingresses[position];
        let received = ingress.queue.burst(&mut ingress.burst);
        debug_assert!(received <= RX_BURST);
        ingress.counters.rx_packets += received as u64;
        while let Some(mbuf) = self.ingresses[position].burst.take_first() {
            let start = if self.shares.is_some() { cycles() } else { 0 };
            let domain = self.sort(position, &mbuf);
            if let Some(shares) = &mut self.shares {
                shares.charge(domain, cycles().wrapping_sub(start));
            }
        }
        received
    }

    /// Brings one frame into the domain that it belongs to, and says which that is.
    fn sort(&mut self, position: usize, mbuf: &Mbuf) -> DomainId {
        let ingress = &mut self.ingresses[position];
        let (port, first) = (ingress.port, ingress.domain);
        ingress.counters.rx_bytes += u64::from(mbuf.pkt_len());
        let frame = match check(mbuf) {
            Ok(()) => ingress.source.copy_out(mbuf),
            Err(reason) => return self.refuse_arrival(first, reason),
        };
        let header = HeaderCopy::of_frame(frame);
        let entering = match &mut self.flows {
            Some(flows) if self.forwarding.judges_flows(port) => {
                flows.arrival(&self.forwarding, port, &header, &self.live)
            }
            _ => self.forwarding.arrival(port, &header, &self.live),
        };
        if entering.replication != ReplicationId::NONE {
            self.sort_copies(position, entering, &header);
        }
        self.bring(position, &entering, &header)
    }

    /// Brings the copies that a rule makes of a frame into the domains that they belong to.
    #[cold]
    fn sort_copies(&mut self, position: usize, of: Entering, header: &HeaderCopy) {
        for at in 0..COPIES_MAX {
            let replica = self.forwarding.replica(of.replication, at, of.decision.path, &self.live);
            let Some(replica) = replica else { return };
            match self.replications.admit(of.replication, header.frame_bytes) {
                Ok(()) => {
                    let domain = self.bring(position, &replica, header);
                    self.domains[domain.index()].state.counters.replicated += 1;
                }
                Err(reason) => _ = self.refuse_arrival(self.ingresses[position].domain, reason),
            }
            self.flush(FLUSH_FRAMES);
        }
    }

    /// Brings the frame that was read last into the domain that its chain begins in.
    fn bring(&mut self, position: usize, entering: &Entering, header: &HeaderCopy) -> DomainId {
        let Ingress { port, domain: first, .. } = self.ingresses[position];
        let Entering { decision, observers, .. } = *entering;
        let domain = self.forwarding.entry_domain(port, decision.step).unwrap_or(first);
        match decision.step {
            Step::Drop(reason) => self.refuse_arrival(domain, reason),
            _ => match self.enter(position, domain, decision) {
                Ok(frame) => {
                    self.show(domain, frame, decision, observers, header);
                    self.set_off(domain, frame, decision, header)
                }
                Err(reason) => self.refuse_arrival(domain, reason),
            },
        }
    }

    fn refuse_arrival(&mut self, domain: DomainId, reason: DropReason) -> DomainId {
        let counters = &mut self.domains[domain.index()].state.counters;
        counters.entered += 1;
        counters.drops.add(reason, 1);
        domain
    }

    /// Copies the frame that was read last into a buffer of its domain.
    fn enter(&mut self, position: usize, domain: DomainId, decision: Decision) -> Result<Frame, DropReason> {
        let Self { ingresses, domains, limits, now_ms, .. } = self;
        let DomainLane { cell, state, .. } = &mut domains[domain.index()];
        let ingress = &mut ingresses[position];
        let bytes = ingress.source.copied();
        limits.admit(state, u16::try_from(bytes.len()).unwrap_or(u16::MAX))?;
        let mut shard = cell.borrow();
        let frame = write(state, &mut shard, bytes)?;
        ingress.counters.copies += 1;
        state.sampler.forget(frame.index.0);
        let path = decision.path;
        let arrival = Arrival { path, vlan: 0, class: 0, offload_flags: 0, host_time_ms: *now_ms };
        if shard.received(frame.index, &arrival) { Ok(frame) } else { Err(DropReason::LedgerRefused) }
    }

    fn set_off(
        &mut self,
        domain: DomainId,
        frame: Frame,
        decision: Decision,
        header: &HeaderCopy,
    ) -> DomainId {
        self.domains[domain.index()].state.counters.entered += 1;
        self.at(domain, |route| {
            route.forward(frame, decision, None);
            route.crossings.bind(frame, header);
        });
        if !self.crossings.is_empty() {
            self.cross(domain);
        }
        domain
    }
}
