//! From the spec to running threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dpdk::{DpdkError, Eal, ExternalMemory, Pool, PoolGeometry, PoolOwner, RegisteredThread};
use switch_core::counters::DomainCounters;
use switch_core::frame::FrameLimits;
use switch_core::header::HeaderCopy;
use switch_core::liveness::Liveness;
use switch_core::shard::Shard;
use switch_core::share::Shares;

use super::crossing::{Crossings, EdgeLane};
use super::domain::{DomainLane, DomainState};
use super::egress::Egress;
use super::endpoint::EndpointLane;
use super::flows::Flows;
use super::handoff::FromLcore;
use super::idle::Backoff;
use super::ingress::{Ingress, RX_BURST};
use super::lcore::Lcore;
use super::limit::{EntryLimits, Limit};
use super::message::{Event, Message};
use super::port::{Opening, give_nic};
use super::replicate::Replications;
use super::route::EventSink;
use super::sample::Sampler;
use super::shard_cell::{LedgerFreeList, ShardCell};
use super::shared_ports::SharedPorts;
use super::spec::{DatapathSpec, DomainSpec, LcoreSpec};
use super::turn::shares;
use super::violations::Violations;
use super::{Datapath, DatapathError, LcoreThread};

/// Events that wait for control before more are counted as lost.
const EVENTS_WAITING: usize = 256;

/// Makes the names of pools unique in the process.
static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Datapath {
    /// Makes shards and pools, starts ports and polling threads. When this returns, all of them poll.
    ///
    /// # Errors
    /// Naming the part of the spec that does not work; everything that had started has stopped again.
    pub fn start(eal: &Eal, spec: DatapathSpec) -> Result<Self, DatapathError> {
        check(&spec)?;
        let DatapathSpec { lcores, domains, ports, nics, endpoints, forwarding, flows } = spec;
        let mut nics = nics.into_iter();
        let (event_sender, events) = sync_channel(EVENTS_WAITING);
        let lcore_count = u16::try_from(lcores.len()).unwrap_or(u16::MAX);
        let weights: Vec<u16> = domains.iter().map(|domain| domain.share.max(1)).collect();
        let violations = Violations::new(lcores.len(), endpoints.len());
        let mut parts: Vec<Parts> = lcores.iter().map(|_| Parts::default()).collect();
        for (parts, violations) in parts.iter_mut().zip(violations.by_lcore()) {
            let lane = |(spec, violations): (_, &Arc<_>)| {
                EndpointLane::new(spec, lcore_count, Arc::clone(violations))
            };
            parts.endpoints = endpoints.iter().zip(violations).map(lane).collect();
            parts.shares = shares(&weights);
            parts.flows = flows.as_ref().map(Flows::new).transpose()?.map(Box::new);
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
            let named = |source| DatapathError::Port { port: name.clone(), source };
            let Some(devargs) = port.devargs().map(str::to_owned) else {
                // As many as ports that are NICs, in their order (checked above).
                let lanes = nics.next().map_or_else(Vec::new, |nic| nic.lanes);
                running.push(give_nic(&port, lanes, &mut parts));
                continue;
            };
            let opening = Opening::probe(eal, serial, port, &devargs, &memories, &weights).map_err(named)?;
            running.push(opening.start(&mut parts).map_err(named)?);
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
pub(super) struct Parts {
    pub domains: Vec<DomainLane>,
    limits: EntryLimits,
    endpoints: Vec<EndpointLane>,
    pub ingresses: Vec<Ingress>,
    pub egresses: Vec<Egress>,
    pub handoffs: Vec<FromLcore>,
    pub shared: SharedPorts,
    shares: Option<Shares>,
    flows: Option<Box<Flows>>,
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
        let Self { mut domains, limits, endpoints, ingresses, egresses, handoffs, shared, shares, flows } =
            self;
        let own = ingresses.iter().enumerate().filter(|(position, _)| !shared.ingresses.contains(position));
        for (position, ingress) in own {
            domains[ingress.domain.index()].ingresses.push(position);
        }
        let observing = (0..endpoints.len()).filter(|&position| endpoints[position].references.is_some());
        let observing: Vec<usize> = observing.collect();
        Lcore {
            id: spec.id,
            lcores,
            cpu: spec.cpu,
            attached: Vec::with_capacity(endpoints.len()),
            observing,
            throttled: Vec::new(),
            hold: None,
            shared,
            shares,
            edges: EdgeLane::all(forwarding, lcores),
            replications: Replications::all(forwarding, lcores),
            domains,
            limits,
            endpoints,
            ingresses,
            egresses,
            handoffs,
            crossings: Crossings::new(),
            observed: Vec::with_capacity(RX_BURST),
            viewers: Vec::new(),
            forwarding: Arc::clone(forwarding),
            flows,
            live: Liveness::default(),
            messages,
            events: EventSink::new(events),
            backoff: Backoff::new(spec.idle),
            started: Instant::now(),
            now_ms: 0,
            polls: 0,
            idle_polls: 0,
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
        let limited_with = usize::from(domain.limited_with.index() <= position);
        expect("limits known to a domain", limited_with, 1)?;
    }
    for (position, port) in spec.ports.iter().enumerate() {
        at_its_place(position, port.id.index())?;
        expect("domains of a port", port.domains.len(), port.domains.len().max(1))?;
        let known = port.domains.iter().filter(|domain| domain.index() < spec.domains.len()).count();
        expect("domains known to a port", known, port.domains.len())?;
    }
    let nics: Vec<_> = spec.ports.iter().filter(|port| port.nic().is_some()).map(|port| port.id).collect();
    expect("NICs with lanes", spec.nics.iter().filter(|nic| nics.contains(&nic.port)).count(), nics.len())?;
    for (nic, port) in spec.nics.iter().zip(&nics) {
        expect("as port of lanes, must be that NIC's", nic.port.index(), port.index())?;
        expect("lanes of a NIC", nic.lanes.len(), spec.lcores.len())?;
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
    let DomainSpec { id, name, region, geometry, shards, limit, limited_with, .. } = spec;
    let lcores = u16::try_from(parts.len()).unwrap_or(u16::MAX);
    for (position, (parts, memory)) in parts.iter_mut().zip(shards).enumerate() {
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
        let cell = ShardCell::new(shard);
        let free_list = Box::new(LedgerFreeList(Arc::clone(&cell)));
        let pool_name = format!("nv{serial}d{id}l{position}");
        // SAFETY:
        // - Every buffer of the shard ends inside the region (checked above), whose mapping is `'static` and
        //   writable.
        // - `Mapping` hands out no references to its bytes.
        // - Shards of a domain are disjoint slices of one ledger file, so no two pools share a buffer.
        let pool = unsafe { Pool::over_region(eal, &pool_name, region.base(), pool_geometry, free_list) }?;
        parts.limits.push(Limit::part_of(limit, lcores));
        let state = DomainState {
            id,
            region,
            geometry,
            limits: FrameLimits::of_stride(geometry.buffer_stride_bytes),
            counters: DomainCounters::default(),
            sampler: Sampler::new(),
            limited_with: if cfg!(feature = "sabotage-shared-limit") { id } else { limited_with },
            is_lost: false,
        };
        parts.domains.push(DomainLane {
            cell,
            pool,
            state,
            ingresses: Vec::new(),
            nics: Vec::new(),
            served: Vec::new(),
        });
    }
    Ok(())
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
