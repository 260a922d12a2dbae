//! Moves packets between ports and endpoints; never blocks.
//!
//! [`Datapath`] is control's handle: it starts polling threads, gives them endpoints to serve, and asks them to
//! count. Each lcore owns its shard of every domain's buffers, its queues and its end of the rings; nothing on
//! the way of a packet is shared with another thread.
//!
//! | module | noun |
//! |---|---|
//! | `spec` | what the datapath is started with |
//! | `start`, `port` | from the spec to running threads and queues |
//! | `lcore` | one polling thread and its turn |
//! | `arrivals`, `returns`, `credit` | what a turn does with ports, with endpoints, with makers of packets |
//! | `adopt` | what an lcore does with a message |
//! | `change` | other tables and limits while packets flow |
//! | `route` | one frame's next step |
//! | `crossing` | a frame on its way into another domain |
//! | `turn`, `limit`, `throttle` | who gets how much of an lcore |
//! | `violations` | what control watches |
//! | `domain`, `endpoint`, `ingress`, `egress` | what an lcore has of each |
//! | `shared_ports`, `shared_ingress`, `shared_egress` | ports of several domains |
//! | `nic` | the network card of an untrusted VM |
//! | `observe`, `references` | copies and references for those who watch |
//! | `handoff` | frames for a port whose queue another lcore owns |
//! | `shard_cell` | the ledger shared between an lcore and its mempool |
//! | `sample` | the proof that nothing was copied |
//! | `counters`, `audit`, `message` | what control sees and says |

#[cfg(all(
    any(feature = "sabotage", feature = "sabotage-leak", feature = "test-hooks"),
    not(debug_assertions)
))]
compile_error!(
    "these features break the datapath on purpose, so that tests can be seen to notice; never ship them"
);

mod adopt;
mod arrivals;
mod audit;
mod change;
mod counters;
mod credit;
mod crossing;
mod domain;
mod egress;
mod endpoint;
mod error;
mod flows;
mod handoff;
#[cfg(feature = "test-hooks")]
pub mod hook;
mod idle;
mod ingress;
mod judged_frame;
mod lcore;
mod limit;
mod message;
mod nic;
mod observe;
mod port;
mod references;
mod replicate;
mod returns;
mod route;
mod sample;
mod shard_cell;
mod shared_egress;
mod shared_ingress;
mod shared_ports;
mod spec;
mod start;
mod throttle;
mod turn;
mod violations;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dpdk::Port;
use switch_core::ids::{ChainId, EndpointId, LcoreId};
use vhost_port::lane_counters::LaneCounters;

pub use audit::ShardReport;
pub use change::{Changed, DatapathChange};
pub use counters::{
    CountersSnapshot, DomainSnapshot, EdgeCounters, EndpointSnapshot, FlowsSnapshot, IdentityCounters,
    LcoreSnapshot, NicCounters, PortCounters, PortSnapshot,
};
pub use error::DatapathError;
pub use idle::Idle;
pub use message::{Event, QueuePairHandle, Released};
pub use spec::{
    DatapathSpec, DomainSpec, EndpointDatapathSpec, FlowsSpec, LcoreSpec, NicLanes, NicSpec, PortDevice,
    PortPool, PortSpec, ReferenceSpec,
};
pub use violations::ViolationCounts;

use lcore::Lcore;
use message::Message;
use violations::Violations;

/// The running datapath. Dropping it stops it.
#[derive(Debug)]
pub struct Datapath {
    lcores: Vec<LcoreThread>,
    ports: Mutex<Vec<RunningPort>>,
    events: Mutex<Receiver<Event>>,
    violations: Violations,
}

/// A polling thread, from the outside.
#[derive(Debug)]
struct LcoreThread {
    id: LcoreId,
    messages: Sender<Message>,
    thread: JoinHandle<Lcore>,
}

/// A started port.
#[derive(Debug)]
enum RunningPort {
    /// A device of DPDK.
    Device { port: Port, zero_copy: bool },
    /// A NIC of an untrusted VM: what each lane counts.
    Nic { counters: Vec<Arc<LaneCounters>> },
}

impl RunningPort {
    fn snapshot(&self) -> PortSnapshot {
        match self {
            Self::Device { port, zero_copy } => PortSnapshot {
                driver: port.info().driver.clone(),
                zero_copy: *zero_copy,
                // A driver that does not count or know shows zeroes.
                device: port.stats().unwrap_or_default(),
                link_up: port.link().is_ok_and(|link| link.up),
                ..PortSnapshot::default()
            },
            Self::Nic { counters } => PortSnapshot {
                driver: NIC_DRIVER.to_owned(),
                nic: Some(NicCounters::of(counters)),
                ..PortSnapshot::default()
            },
        }
    }
}

/// What the NICs of untrusted VMs show where other ports show the driver of DPDK.
const NIC_DRIVER: &str = "vhost-user";

/// The value inside, also after a panic elsewhere: each use leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Datapath {
    /// Asks each lcore and waits for the answers, in the order of lcores.
    fn ask<T>(&self, message: impl Fn(Sender<T>) -> Message) -> Result<Vec<T>, DatapathError> {
        let asked: Vec<_> = self.lcores.iter().map(|lcore| lcore.ask(&message)).collect();
        asked.into_iter().zip(&self.lcores).map(|(answer, lcore)| lcore.answer(&answer)).collect()
    }

    /// Gives an endpoint's queue pairs to the lcores, one each, and feeds it from here on. Their counters stand
    /// at zero, and the endpoint has confirmed its epoch.
    ///
    /// # Errors
    /// [`DatapathError::AttachRefused`] while the endpoint is attached, or its domain lost memory; lcores that
    /// had taken it up let it go again.
    pub fn attach(&self, endpoint: EndpointId, pairs: Vec<QueuePairHandle>) -> Result<(), DatapathError> {
        if pairs.len() != self.lcores.len() {
            let (count, expected) = (pairs.len(), self.lcores.len());
            return Err(DatapathError::Plan { what: "queue pairs", count, expected });
        }
        let mut asked = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let position = self.lcores.iter().position(|lcore| lcore.id == pair.lcore);
            let lcore = position.ok_or(DatapathError::LcoreGone { lcore: pair.lcore })?;
            let lcore = &self.lcores[lcore];
            let (done, answer) = channel();
            // A message that finds no thread is noticed when its answer does not come.
            let _ = lcore.messages.send(Message::Attach { endpoint, pair: Box::new(pair), done });
            asked.push((lcore, answer));
        }
        let mut refused = None;
        let mut accepted = Vec::new();
        for (lcore, answer) in asked {
            if lcore.answer(&answer)? {
                accepted.push(lcore);
            } else {
                refused = Some(lcore.id);
            }
        }
        let Some(refused) = refused else { return Ok(()) };
        for lcore in accepted {
            lcore.answer(&lcore.ask(|done| Message::Release { endpoint, done }))?;
        }
        Err(DatapathError::AttachRefused { endpoint, lcore: refused })
    }

    /// Gives an endpoint no more packets: its heartbeat stands still. What it gives back is still served, and
    /// what it holds stays its own.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn stop_feeding(&self, endpoint: EndpointId) -> Result<(), DatapathError> {
        self.ask(|done| Message::Feed { endpoint, feed: false, done }).map(drop)
    }

    /// Feeds an attached endpoint again: its heartbeat moves.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn resume_feeding(&self, endpoint: EndpointId) -> Result<(), DatapathError> {
        self.ask(|done| Message::Feed { endpoint, feed: true, done }).map(drop)
    }

    /// Takes nothing from an endpoint for so long; what it is lent meanwhile is bounded by its quota. A release
    /// takes what it has given back all the same.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn throttle(&self, endpoint: EndpointId, duration: Duration) -> Result<(), DatapathError> {
        self.ask(|done| Message::Throttle { endpoint, duration, done }).map(drop)
    }

    /// What an endpoint did that no honest one does, since the start; asks no lcore.
    #[must_use]
    pub fn violations(&self, endpoint: EndpointId) -> ViolationCounts {
        self.violations.of(endpoint)
    }

    /// Takes an endpoint's rings from the lcores. What it had given back is served first; what it still holds
    /// is quarantined. When this returns, no lcore touches those rings.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn release(&self, endpoint: EndpointId) -> Result<Released, DatapathError> {
        let parts = self.ask(|done| Message::Release { endpoint, done })?;
        Ok(parts.iter().fold(Released::default(), |sum, part| Released {
            drained: sum.drained + part.drained,
            quarantined: sum.quarantined + part.quarantined,
        }))
    }

    /// Takes home what an endpoint held when it was released, on proof that those writers have stopped: end of
    /// file on a socket that only it or its QEMU holds, QMP `RESET`, or its supervisor's word.
    /// What it holds under a later attach stays with it. Returns how many buffers came home; their packets
    /// count as `lost_with_endpoint`.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn reclaim(&self, endpoint: EndpointId) -> Result<u32, DatapathError> {
        Ok(self.ask(|done| Message::Reclaim { endpoint, done })?.iter().sum())
    }

    /// Has each lcore count every buffer of its shards.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn audit(&self) -> Result<Vec<ShardReport>, DatapathError> {
        Ok(self.ask(|done| Message::Audit { done })?.into_iter().flatten().collect())
    }

    /// What was counted so far, by lcores and devices.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn counters(&self) -> Result<CountersSnapshot, DatapathError> {
        let reports = self.ask(|done| Message::Counters { done })?;
        let ports = lock(&self.ports);
        let ports = ports.iter().map(RunningPort::snapshot).collect();
        let mut snapshot = CountersSnapshot { ports, ..CountersSnapshot::default() };
        reports.iter().for_each(|report| snapshot.add(report));
        Ok(snapshot)
    }

    /// What happened since the last call.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).try_iter().collect()
    }

    /// Decides by other tables and limits from here on. When this returns, no lcore uses the old tables, and every
    /// port is polled.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn change(&self, change: DatapathChange) -> Result<Changed, DatapathError> {
        let change = Arc::new(change);
        let changed = self.ask(|done| Message::Change { change: Arc::clone(&change), done })?;
        // The old tables are freed here, not on an lcore.
        Ok(changed.into_iter().fold(Changed::default(), |sum, (_old, changed)| sum.and(changed)))
    }

    /// Which of these chains carry a packet now.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    pub fn carried(&self, chains: &[ChainId]) -> Result<Vec<ChainId>, DatapathError> {
        let chains: Arc<[ChainId]> = chains.into();
        let carried = self.ask(|done| Message::Carried { chains: Arc::clone(&chains), done })?;
        Ok(carried.into_iter().flatten().collect())
    }

    /// Loses a buffer of a domain on the first lcore, so that a test sees the audit find it.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`].
    #[cfg(feature = "sabotage-leak")]
    pub fn leak(&self, domain: switch_core::ids::DomainId) -> Result<bool, DatapathError> {
        let lcore = &self.lcores[0];
        lcore.answer(&lcore.ask(|done| Message::Leak { domain, done }))
    }

    /// Stops polling, lets go of all endpoints, sends what waits, stops the ports and counts every buffer: all
    /// of them are in the pool then, since nobody writes the regions any more.
    ///
    /// # Errors
    /// [`DatapathError::LcoreGone`] if a polling thread had ended before.
    pub fn stop(mut self) -> Result<Vec<ShardReport>, DatapathError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<Vec<ShardReport>, DatapathError> {
        let threads = std::mem::take(&mut self.lcores);
        for lcore in &threads {
            // A thread that is gone already is noticed by the join.
            let _ = lcore.messages.send(Message::Stop);
        }
        let (mut lcores, mut gone) = (Vec::new(), None);
        for LcoreThread { id, thread, .. } in threads {
            match thread.join() {
                Ok(lcore) => lcores.push(lcore),
                Err(_panic) => gone = Some(id),
            }
        }
        for lcore in &mut lcores {
            // Of an lcore that ended later; nobody puts more in.
            while lcore.deliver_handoffs() > 0 {}
            lcore.give_up_lines();
        }
        for lcore in &mut lcores {
            lcore.ingresses.clear();
            lcore.egresses.clear();
        }
        // Closing a port gives the buffers of its rings back.
        lock(&self.ports).clear();
        let reports = lcores.iter_mut().flat_map(Lcore::bring_home).collect();
        gone.map_or(Ok(reports), |lcore| Err(DatapathError::LcoreGone { lcore }))
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        if !self.lcores.is_empty() {
            // Nobody is left to hear of a thread that was gone.
            let _ = self.shut_down();
        }
    }
}

impl LcoreThread {
    fn ask<T>(&self, message: impl Fn(Sender<T>) -> Message) -> Receiver<T> {
        let (done, answer) = channel();
        // A message that finds no thread is noticed when its answer does not come.
        let _ = self.messages.send(message(done));
        answer
    }

    fn answer<T>(&self, answer: &Receiver<T>) -> Result<T, DatapathError> {
        answer.recv().map_err(|_| DatapathError::LcoreGone { lcore: self.id })
    }
}
