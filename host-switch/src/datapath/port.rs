//! From the spec of a port to queues that lcores poll.

use std::sync::Arc;

use dpdk::{
    DpdkError, Eal, ExternalMemory, Port, PortSettings, PrivatePool, Queues, RxPool, RxQueue, TxQueue,
};
use switch_core::frame::EgressLimits;
use switch_core::ids::DomainId;
use vhost_port::lane::Lane;

use super::RunningPort;
use super::counters::PortCounters;
use super::egress::{Egress, Way};
use super::handoff;
use super::ingress::{Ingress, Source};
use super::judged_frame::JudgedFrames;
use super::nic::NicLane;
use super::shared_egress::{self, LINE_PRIVATE_BUFFERS, Outlet, SharedEgress};
use super::spec::{PortPool, PortSpec};
use super::start::Parts;

/// Shortest frame on a wire, without its checksum.
const WIRE_FRAME_BYTES_MIN: u16 = 60;
/// Buffers of a host-private pool beyond what the queues hold.
const PRIVATE_POOL_EXTRA: u32 = 128;
const PRIVATE_ROOM_BYTES_MIN: u16 = 2048;
/// Room of a buffer that carries headers only.
const HEADER_ROOM_BYTES: u16 = 256;

/// A port on its way to its queues.
pub(super) struct Opening<'s> {
    eal: &'s Eal,
    /// Makes the names of pools unique in the process.
    serial: u32,
    spec: PortSpec,
    /// Its domains with their weights.
    members: Vec<(DomainId, u16)>,
    port: Port,
}

impl<'s> Opening<'s> {
    /// Finds or makes the device, and lets it reach the regions of its domains.
    pub(super) fn probe(
        eal: &'s Eal,
        serial: u32,
        spec: PortSpec,
        devargs: &str,
        memories: &[Arc<ExternalMemory>],
        weights: &[u16],
    ) -> Result<Self, DpdkError> {
        let mut port = Port::probe(eal, devargs)?;
        for domain in &spec.domains {
            port.dma_map(&memories[domain.index()])?;
        }
        let members = spec.domains.iter().map(|domain| (*domain, weights[domain.index()])).collect();
        Ok(Self { eal, serial, spec, members, port })
    }

    fn is_shared(&self) -> bool {
        self.members.len() > 1
    }

    fn is_zero_copy(&self) -> bool {
        self.port.info().may_use_region() && self.spec.pool == PortPool::ByDriver && !self.is_shared()
    }

    fn sends_segments(&self) -> bool {
        self.is_shared() && self.port.info().sends_segments
    }

    /// Starts it and gives its queues to the lcores.
    pub(super) fn start(mut self, parts: &mut [Parts]) -> Result<RunningPort, DpdkError> {
        let queues = |max: u16| if usize::from(max) >= parts.len() { parts.len() } else { 1 };
        let info = self.port.info();
        let (rx_queues, tx_queues) = (queues(info.rx_queues_max), queues(info.tx_queues_max));
        let rx_pools = parts.iter().take(rx_queues).enumerate().map(|(at, parts)| self.rx_pool(at, parts));
        let settings = PortSettings {
            rx_pools: rx_pools.collect::<Result<_, _>>()?,
            tx_queues: u16::try_from(tx_queues).unwrap_or(u16::MAX),
            rx_slots: self.spec.rx_slots,
            tx_slots: self.spec.tx_slots,
            mtu_bytes: self.spec.mtu_bytes,
            tx_segments: self.sends_segments(),
            // Where all queues of a port are of one domain, a slow one harms nobody else.
            rx_drop_when_full: self.is_shared(),
        };
        self.port.configure(&settings)?;
        if let Err(error) = self.port.enable_promiscuous() {
            log::debug!("port {} stays as it is: {error}", self.spec.name);
        }
        let Queues { rx, tx } = self.port.start()?;
        self.give_rx(rx, parts);
        self.give_tx(tx, parts)?;
        Ok(RunningPort::Device { zero_copy: self.is_zero_copy(), port: self.port })
    }

    fn rx_pool(&self, position: usize, parts: &Parts) -> Result<RxPool, DpdkError> {
        if self.is_zero_copy() {
            return Ok(RxPool::from(&parts.domains[self.spec.domains[0].index()].pool));
        }
        let name = format!("nv{}p{}q{position}", self.serial, self.spec.id);
        let count = u32::from(self.spec.rx_slots) + PRIVATE_POOL_EXTRA;
        Ok(RxPool::from(&PrivatePool::create(self.eal, &name, count, self.frame_room_bytes())?))
    }

    fn frame_room_bytes(&self) -> u16 {
        self.spec.mtu_bytes.saturating_add(64).max(PRIVATE_ROOM_BYTES_MIN)
    }

    fn give_rx(&self, rx: Vec<RxQueue>, parts: &mut [Parts]) {
        let mut paced = self.spec.paced.clone();
        if let Some(chain) = &mut paced {
            // A chain may pass an endpoint more than once; it holds a packet once.
            chain.sort_unstable();
            chain.dedup();
        }
        for (parts, queue) in parts.iter_mut().zip(rx) {
            if self.is_shared() {
                parts.shared.ingresses.push(parts.ingresses.len());
            }
            parts.ingresses.push(Ingress {
                port: self.spec.id,
                domain: self.spec.domains[0],
                queue,
                burst: dpdk::MbufBurst::new(),
                source: if self.is_zero_copy() { Source::Region } else { Source::private() },
                paced: paced.clone(),
                counters: PortCounters::default(),
            });
        }
    }

    fn give_tx(&self, tx: Vec<TxQueue>, parts: &mut [Parts]) -> Result<(), DpdkError> {
        // Virtual devices pass frames on as they are, and a replayed capture leaves as it came; a wire wants
        // frames of its least length, and not every NIC pads.
        let pad_to_bytes = if self.port.info().may_use_region() { 0 } else { WIRE_FRAME_BYTES_MIN };
        let limits = EgressLimits::of_mtu(self.spec.mtu_bytes, pad_to_bytes);
        if self.is_shared() {
            return self.give_lines(tx, limits, parts);
        }
        let mut tx = tx.into_iter();
        let domain = self.spec.domains[0];
        let mut from_lcores = Vec::new();
        for parts in parts.iter_mut() {
            let way = tx.next().map_or_else(
                // The first lcore owns the only queue of a port that has no more.
                || {
                    let pool = parts.domains[domain.index()].pool.clone();
                    let (to_owner, from_lcore) = handoff::ring(self.spec.id, pool);
                    from_lcores.push(from_lcore);
                    Way::Owner(Box::new(to_owner))
                },
                Way::Queue,
            );
            parts.egresses.push(Egress::new(domain, limits, way));
        }
        parts[0].handoffs.append(&mut from_lcores);
        Ok(())
    }

    /// The sending sides of a shared port. The last lcore comes first: the first one owns the only queue of a port
    /// that has no more, and takes what the others hand on.
    fn give_lines(
        &self,
        tx: Vec<TxQueue>,
        limits: EgressLimits,
        parts: &mut [Parts],
    ) -> Result<(), DpdkError> {
        let mut queues: Vec<Option<TxQueue>> = tx.into_iter().map(Some).collect();
        queues.resize_with(parts.len(), || None);
        let mut from_lcores = Vec::new();
        for (position, (parts, queue)) in parts.iter_mut().zip(queues).enumerate().rev() {
            let outlet = queue.map(Outlet::Queue).unwrap_or_else(|| {
                let (outlet, from_lcore) = shared_egress::handover(self.members.len());
                from_lcores.push(from_lcore);
                outlet
            });
            let frames = self.judged_frames(limits, position)?;
            let mut shared = SharedEgress::new(outlet, limits, frames, &self.members);
            if position == 0 {
                from_lcores.drain(..).for_each(|from_lcore| shared.take_from(from_lcore));
            }
            parts.shared.egresses.push(parts.egresses.len());
            parts.egresses.push(Egress::new(Egress::OF_SEVERAL, limits, Way::Shared(Box::new(shared))));
        }
        Ok(())
    }

    fn judged_frames(&self, limits: EgressLimits, position: usize) -> Result<JudgedFrames, DpdkError> {
        let name = format!("nv{}p{}t{position}", self.serial, self.spec.id);
        let lines = u32::try_from(self.members.len() * LINE_PRIVATE_BUFFERS).unwrap_or(u32::MAX);
        let count = (u32::from(self.spec.tx_slots) + PRIVATE_POOL_EXTRA).saturating_add(lines);
        let sends_segments = self.sends_segments();
        let room_bytes = if sends_segments { HEADER_ROOM_BYTES } else { self.frame_room_bytes() };
        let private = PrivatePool::create(self.eal, &name, count, room_bytes)?;
        Ok(JudgedFrames::new(private, sends_segments, limits.pad_to_bytes))
    }
}

/// Gives the lanes of a NIC to the lcores.
pub(super) fn give_nic(spec: &PortSpec, lanes: Vec<Lane>, parts: &mut [Parts]) -> RunningPort {
    let limits = EgressLimits::of_mtu(spec.mtu_bytes, 0);
    let domain = spec.domains[0];
    let counters = lanes.iter().map(|lane| Arc::clone(lane.counters())).collect();
    let mut from_lcores = Vec::new();
    for (position, (parts, lane)) in parts.iter_mut().zip(lanes).enumerate() {
        let owner = (position > 0).then(|| {
            let (to_owner, from_lcore) = handoff::ring(spec.id, parts.domains[domain.index()].pool.clone());
            from_lcores.push(from_lcore);
            to_owner
        });
        let way = Way::Nic(Box::new(NicLane::new(lane, limits, owner)));
        parts.domains[domain.index()].nics.push(parts.egresses.len());
        parts.egresses.push(Egress::new(domain, limits, way));
    }
    parts[0].handoffs.append(&mut from_lcores);
    RunningPort::Nic { counters }
}
