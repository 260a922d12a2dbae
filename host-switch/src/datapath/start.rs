//! From the spec to running threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dpdk::{
    DpdkError, Eal, ExternalMemory, Pool, PoolGeometry, PoolOwner, Port, PortSettings, PrivatePool, Queues,
    RegisteredThread, RxPool,
};
use shm_ring::desc::RawDesc;
use switch_core::counters::DomainCounters;
use switch_core::frame::{EgressLimits, FrameLimits};
use switch_core::header::HeaderCopy;
use switch_core::liveness::Liveness;
use switch_core::shard::Shard;
use switch_core::share::Shares;

use super::counters::PortCounters;
use super::crossing::{Crossings, EdgeLane};
use super::domain::{DomainLane, DomainState};
use super::egress::{Egress, Way};
use super::endpoint::EndpointLane;
use super::handoff::{self, FromLcore};
use super::idle::Backoff;
use super::ingress::{Ingress, Source};
use super::lcore::{Lcore, RETURN_BURST};
use super::limit::Limit;
use super::message::{Event, Message};
use super::route::EventSink;
use super::sample::Sampler;
use super::shard_cell::{LedgerFreeList, ShardCell};
use super::spec::{DatapathSpec, DomainSpec, LcoreSpec, PortPool, PortSpec};
use super::turn::shares;
use super::violations::Violations;
use super::{Datapath, DatapathError, LcoreThread, RunningPort};

/// Events that wait for control before more are counted as lost.
const EVENTS_WAITING: usize = 256;
/// Shortest frame on a wire, without its checksum.
const WIRE_FRAME_BYTES_MIN: u16 = 60;
/// Buffers of a host-private pool beyond what the receive queues hold.
const PRIVATE_POOL_EXTRA: u32 = 128;
const PRIVATE_ROOM_BYTES_MIN: u16 = 2048;

/// Makes the names of pools unique in the process.
static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Datapath {
    /// Makes shards and pools, starts ports and polling threads. When this returns, all of them poll.
    ///
    /// # Errors
    /// Naming the part of the spec that does not work; everything that had started has stopped again.
    pub fn start(eal: &Eal, spec: DatapathSpec) -> Result<Self, DatapathError> {
        check(&spec)?;
        let DatapathSpec { lcores, domains, ports, endpoints, forwarding } = spec;
        let (event_sender, events) = sync_channel(EVENTS_WAITING);
        let lcore_count = u16::try_from(lcores.len()).unwrap_or(u16::MAX);
        let violations = Violations::new(lcores.len(), endpoints.len());
        let mut parts: Vec<Parts> = lcores.iter().map(|_| Parts::default()).collect();
        for (parts, violations) in parts.iter_mut().zip(violations.by_lcore()) {
            let lane = |(spec, violations): (_, &Arc<_>)| {
                EndpointLane::new(spec, lcore_count, Arc::clone(violations))
            };
            parts.endpoints = endpoints.iter().zip(violations).map(lane).collect();
            parts.shares = shares(&domains);
        }
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut memories = Vec::with_capacity(domains.len());
        for domain in domains {
            memories.push(register(eal, &domain)?);
            add_domain(eal, serial, domain, &mut parts)?;
        }
        let mut running = Vec::with_capacity(ports.len());
        for port in ports {
            let name = port.name.clone();
            let memory = &memories[port.domain.index()];
            let added = add_port(eal, serial, port, memory, &mut parts);
            running.push(added.map_err(|source| DatapathError::Port { port: name, source })?);
        }
        // Ports first: should a thread fail to start, the threads that run are stopped before them.
        let mut datapath =
            Self { lcores: Vec::new(), ports: Mutex::new(running), events: Mutex::new(events), violations };
        for (parts, lcore) in parts.into_iter().zip(lcores) {
            let events = event_sender.clone();
            let thread = spawn(*eal, lcore, |messages| {
                parts.into_lcore(lcore, lcore_count, &forwarding, messages, events)
            })?;
            datapath.lcores.push(thread);
        }
        Ok(datapath)
    }
}

/// What one lcore will own.
#[derive(Debug, Default)]
struct Parts {
    domains: Vec<DomainLane>,
    endpoints: Vec<EndpointLane>,
    ingresses: Vec<Ingress>,
    egresses: Vec<Egress>,
    handoffs: Vec<FromLcore>,
    shares: Option<Shares>,
}

impl Parts {
    fn into_lcore(
        self,
        spec: LcoreSpec,
        lcores: u16,
        forwarding: &Arc<switch_core::forwarding::Forwarding>,
        messages: Receiver<Message>,
        events: std::sync::mpsc::SyncSender<Event>,
    ) -> Lcore {
        let Self { mut domains, endpoints, ingresses, egresses, handoffs, shares } = self;
        for (position, ingress) in ingresses.iter().enumerate() {
            domains[ingress.domain.index()].ingresses.push(position);
        }
        Lcore {
            id: spec.id,
            lcores,
            cpu: spec.cpu,
            attached: Vec::with_capacity(endpoints.len()),
            throttled: Vec::new(),
            shares,
            edges: EdgeLane::all(forwarding, lcores),
            domains,
            endpoints,
            ingresses,
            egresses,
            handoffs,
            crossings: Crossings::new(),
            forwarding: Arc::clone(forwarding),
            live: Liveness::default(),
            messages,
            events: EventSink::new(events),
            backoff: Backoff::new(spec.idle),
            started: Instant::now(),
            now_ms: 0,
            polls: 0,
            idle_polls: 0,
            returns: Box::new([RawDesc::default(); RETURN_BURST]),
            header: Box::new(HeaderCopy::default()),
        }
    }
}

fn check(spec: &DatapathSpec) -> Result<(), DatapathError> {
    let expect = |what, count, expected| {
        if count == expected { Ok(()) } else { Err(DatapathError::Plan { what, count, expected }) }
    };
    expect("lcores", spec.lcores.len(), spec.lcores.len().max(1))?;
    for domain in &spec.domains {
        expect("ledger shards of a domain", domain.shards.len(), spec.lcores.len())?;
    }
    let at_its_place = |position: usize, id: usize| expect("as id, must be its position", id, position);
    for (position, domain) in spec.domains.iter().enumerate() {
        at_its_place(position, domain.id.index())?;
    }
    for (position, port) in spec.ports.iter().enumerate() {
        at_its_place(position, port.id.index())?;
        expect("domains known to a port", usize::from(port.domain.index() < spec.domains.len()), 1)?;
    }
    for (position, endpoint) in spec.endpoints.iter().enumerate() {
        at_its_place(position, endpoint.id.index())?;
        expect("domains known to an endpoint", usize::from(endpoint.domain.index() < spec.domains.len()), 1)?;
    }
    Ok(())
}

/// Lets DPDK know a region, so that drivers find its addresses.
fn register(eal: &Eal, domain: &DomainSpec) -> Result<Arc<ExternalMemory>, DpdkError> {
    let region = domain.region;
    // SAFETY: a `&'static Mapping` stays mapped for the rest of the process.
    let memory = unsafe { ExternalMemory::register(eal, region.base(), region.bytes(), region.page_bytes()) };
    memory.map(Arc::new)
}

/// One shard and one pool for each lcore.
fn add_domain(eal: &Eal, serial: u32, spec: DomainSpec, parts: &mut [Parts]) -> Result<(), DatapathError> {
    let DomainSpec { id, name, region, geometry, shards, limit, .. } = spec;
    let lcores = u16::try_from(parts.len()).unwrap_or(u16::MAX);
    for (position, (parts, memory)) in parts.iter_mut().zip(shards).enumerate() {
        let entries_at = memory.entries.as_ptr();
        let shard = Shard::fresh(memory.size.first, memory.entries, memory.stack)
            .map_err(|source| DatapathError::Shard { domain: name.clone(), source })?;
        let pool_geometry = PoolGeometry {
            first_index: shard.first(),
            count: shard.size(),
            offset_first_bytes: usize::try_from(geometry.buffer_offset(shard.first())).unwrap_or(usize::MAX),
            stride_bytes: geometry.buffer_stride_bytes,
            headroom_bytes: geometry.headroom_bytes,
        };
        let end = geometry.buffer_offset(shard.first().saturating_add(shard.size()));
        if end > region.bytes() as u64 || shard.first() + shard.size() > geometry.buffer_count {
            let (count, expected) = (shard.size() as usize, geometry.buffer_count as usize);
            return Err(DatapathError::Plan { what: "buffers of a shard in its region", count, expected });
        }
        let cell = ShardCell::new(shard, entries_at);
        let free_list = Box::new(LedgerFreeList(Arc::clone(&cell)));
        let pool_name = format!("nv{serial}d{id}l{position}");
        // SAFETY:
        // - Every buffer of the shard ends inside the region (checked above), whose mapping is `'static` and
        //   writable.
        // - `Mapping` hands out no references to its bytes.
        // - Shards of a domain are disjoint slices of one ledger file, so no two pools share a buffer.
        let pool = unsafe { Pool::over_region(eal, &pool_name, region.base(), pool_geometry, free_list) }?;
        let state = DomainState {
            id,
            region,
            geometry,
            limits: FrameLimits::of_stride(geometry.buffer_stride_bytes),
            counters: DomainCounters::default(),
            sampler: Sampler::new(),
            limit: Limit::part_of(limit, lcores),
            is_lost: false,
        };
        parts.domains.push(DomainLane { cell, pool, state, ingresses: Vec::new(), served: Vec::new() });
    }
    Ok(())
}

/// Starts a port and gives its queues to the lcores.
fn add_port(
    eal: &Eal,
    serial: u32,
    spec: PortSpec,
    memory: &Arc<ExternalMemory>,
    parts: &mut [Parts],
) -> Result<RunningPort, DpdkError> {
    let mut port = Port::probe(eal, &spec.devargs)?;
    let is_virtual = port.info().may_use_region();
    let zero_copy = is_virtual && spec.pool == PortPool::ByDriver;
    port.dma_map(memory)?;
    let queues = |max: u16| if usize::from(max) >= parts.len() { parts.len() } else { 1 };
    let (rx_queues, tx_queues) = (queues(port.info().rx_queues_max), queues(port.info().tx_queues_max));
    let mut rx_pools = Vec::with_capacity(rx_queues);
    for (position, parts) in parts.iter().take(rx_queues).enumerate() {
        let pool = if zero_copy {
            RxPool::from(&parts.domains[spec.domain.index()].pool)
        } else {
            let name = format!("nv{serial}p{}q{position}", spec.id);
            let room_bytes = spec.mtu_bytes.saturating_add(64).max(PRIVATE_ROOM_BYTES_MIN);
            let count = u32::from(spec.rx_slots) + PRIVATE_POOL_EXTRA;
            RxPool::from(&PrivatePool::create(eal, &name, count, room_bytes)?)
        };
        rx_pools.push(pool);
    }
    port.configure(&PortSettings {
        rx_pools,
        tx_queues: u16::try_from(tx_queues).unwrap_or(u16::MAX),
        rx_slots: spec.rx_slots,
        tx_slots: spec.tx_slots,
        mtu_bytes: spec.mtu_bytes,
        tx_segments: false,
        // All queues of a port are of one domain, so a slow one harms nobody else.
        rx_drop_when_full: false,
    })?;
    if let Err(error) = port.enable_promiscuous() {
        log::debug!("port {} stays as it is: {error}", spec.name);
    }
    let Queues { rx, tx } = port.start()?;
    // Virtual devices pass frames on as they are, and a replayed capture leaves as it came; a wire wants
    // frames of its least length, and not every NIC pads.
    let pad_to_bytes = if is_virtual { 0 } else { WIRE_FRAME_BYTES_MIN };
    let limits = EgressLimits::of_mtu(spec.mtu_bytes, pad_to_bytes);
    let mut paced = spec.paced;
    if let Some(chain) = &mut paced {
        // A chain may pass an endpoint more than once; it holds a packet once.
        chain.sort_unstable();
        chain.dedup();
    }
    for (parts, queue) in parts.iter_mut().zip(rx) {
        parts.ingresses.push(Ingress {
            port: spec.id,
            domain: spec.domain,
            queue,
            burst: dpdk::MbufBurst::new(),
            source: if zero_copy { Source::Region } else { Source::private() },
            paced: paced.clone(),
            counters: PortCounters::default(),
        });
    }
    let mut tx = tx.into_iter();
    let mut from_lcores = Vec::new();
    for parts in parts.iter_mut() {
        // The first lcore owns the only queue of a port that has no more.
        let way = tx.next().map(Way::Queue).unwrap_or_else(|| {
            let pool = parts.domains[spec.domain.index()].pool.clone();
            let (to_owner, from_lcore) = handoff::ring(spec.id, pool);
            from_lcores.push(from_lcore);
            Way::Owner(to_owner)
        });
        parts.egresses.push(Egress::new(spec.domain, limits, way));
    }
    parts[0].handoffs.append(&mut from_lcores);
    Ok(RunningPort { port, zero_copy })
}

/// Starts a polling thread and waits until it polls.
fn spawn(
    eal: Eal,
    spec: LcoreSpec,
    lcore: impl FnOnce(Receiver<Message>) -> Lcore,
) -> Result<LcoreThread, DatapathError> {
    let (messages, inbox) = channel();
    let mut lcore = lcore(inbox);
    let (ready, is_ready) = channel();
    let thread = std::thread::Builder::new().name(format!("netvm-lcore{}", spec.id)).spawn(move || {
        match settle(&eal, &lcore, &ready) {
            // The guards end with this thread: a pool has no owner while nobody polls.
            Some(_guards) => lcore.run(),
            None => lcore.let_go(),
        }
        lcore
    });
    let thread = thread.map_err(|source| DatapathError::Thread { lcore: spec.id, source })?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(LcoreThread { id: spec.id, messages, thread }),
        Ok(Err(error)) => {
            // Its queues are dropped before the ports are.
            drop(thread.join());
            Err(error.into())
        }
        Err(_) => Err(DatapathError::LcoreGone { lcore: spec.id }),
    }
}

/// What a polling thread is while it polls: pinned, known to DPDK, the owner of its pools.
#[expect(dead_code, reason = "guards: their drops are what they are for")]
struct Settled {
    owners: Vec<PoolOwner>,
    registered: RegisteredThread,
}

fn settle(eal: &Eal, lcore: &Lcore, ready: &Sender<Result<(), DpdkError>>) -> Option<Settled> {
    let settled = (|| {
        if let Some(cpu) = lcore.cpu {
            dpdk::pin_current_thread(cpu)?;
        }
        let registered = eal.register_thread()?;
        let owners = lcore.domains.iter().map(|domain| domain.pool.set_owner_current_thread());
        Ok(Settled { owners: owners.collect::<Result<_, _>>()?, registered })
    })();
    let (settled, result) = match settled {
        Ok(settled) => (Some(settled), Ok(())),
        Err(error) => (None, Err(error)),
    };
    // The starter waits for exactly this.
    let _ = ready.send(result);
    settled
}
