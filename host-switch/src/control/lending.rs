//! What control wants of the datapath.
//!
//! A trait, so that everything about endpoints is tested without DPDK.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use switch_core::counters::DescFaultCounters;
use switch_core::ids::EndpointId;

use super::stop::Stop;
use crate::datapath::{
    Datapath, DatapathError, EndpointSnapshot, Event, QueuePairHandle, Released, ViolationCounts,
};

/// What the lcores have counted of one endpoint's faults since the switch started, and whether they serve it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointFaults {
    /// Descriptors refused.
    pub descriptors: DescFaultCounters,
    /// Peer counters that broke their invariant.
    pub counter_errors: u64,
    /// Whether every lcore has its rings; one that met a broken counter has let go of them.
    pub served: bool,
}

impl From<EndpointSnapshot> for EndpointFaults {
    fn from(snapshot: EndpointSnapshot) -> Self {
        let EndpointSnapshot { packets, counter_errors, attached, .. } = snapshot;
        Self { descriptors: packets.faults, counter_errors, served: attached }
    }
}

/// Lends packets to endpoints. Calls return when every lcore has done its part.
pub trait Lending: Send + Sync {
    /// Takes up the rings of an endpoint and feeds it.
    ///
    /// # Errors
    /// Why no lcore serves it now.
    fn attach(&self, endpoint: EndpointId, pairs: Vec<QueuePairHandle>) -> Result<(), String>;
    /// Lends it nothing more; what it gives back is still served.
    fn stop_feeding(&self, endpoint: EndpointId);
    /// Lends to it again.
    fn resume_feeding(&self, endpoint: EndpointId);
    /// Leaves its rings alone for so long.
    fn throttle(&self, endpoint: EndpointId, for_ms: u32);
    /// Lets go of its rings; what it holds is quarantined.
    fn release(&self, endpoint: EndpointId) -> Released;
    /// Takes home what is quarantined; returns how many buffers.
    fn reclaim(&self, endpoint: EndpointId) -> u32;
    /// What happened since the last call. Some of it may be lost: what follows from a fault is decided by
    /// [`Lending::faults`].
    fn events(&self) -> Vec<Event>;
    /// What each endpoint did wrong so far, by id; nothing if that is what the last call said, too.
    fn faults(&self) -> Vec<EndpointFaults>;
}

/// The running datapath. An lcore that has ended is the end of the switch: nobody could say any more who
/// holds its buffers.
#[derive(Debug)]
pub struct RunningDatapath {
    datapath: Arc<Datapath>,
    stop: Stop,
    endpoints: usize,
    /// Faults of all endpoints together when they were last looked at.
    faults_seen: AtomicU64,
}

impl RunningDatapath {
    /// Lends through this datapath to so many endpoints, and wishes the end of the switch when it fails.
    #[must_use]
    pub fn new(datapath: Arc<Datapath>, endpoints: usize, stop: Stop) -> Self {
        Self { datapath, stop, endpoints, faults_seen: AtomicU64::new(0) }
    }

    fn or_stop<T: Default>(&self, result: Result<T, DatapathError>) -> T {
        result.unwrap_or_else(|error| {
            log::error!("{error}; the switch stops");
            self.stop.request(&error.to_string());
            T::default()
        })
    }
}

impl Lending for RunningDatapath {
    fn attach(&self, endpoint: EndpointId, pairs: Vec<QueuePairHandle>) -> Result<(), String> {
        self.datapath.attach(endpoint, pairs).map_err(|error| error.to_string())
    }

    fn stop_feeding(&self, endpoint: EndpointId) {
        self.or_stop(self.datapath.stop_feeding(endpoint));
    }

    fn resume_feeding(&self, endpoint: EndpointId) {
        self.or_stop(self.datapath.resume_feeding(endpoint));
    }

    fn throttle(&self, endpoint: EndpointId, for_ms: u32) {
        self.or_stop(self.datapath.throttle(endpoint, Duration::from_millis(for_ms.into())));
    }

    fn release(&self, endpoint: EndpointId) -> Released {
        self.or_stop(self.datapath.release(endpoint))
    }

    fn reclaim(&self, endpoint: EndpointId) -> u32 {
        self.or_stop(self.datapath.reclaim(endpoint))
    }

    fn events(&self) -> Vec<Event> {
        self.datapath.events()
    }

    /// The lcores are asked only when words that they keep for this have moved.
    fn faults(&self) -> Vec<EndpointFaults> {
        let total = (0..).take(self.endpoints).map(|id| {
            let ViolationCounts { descriptors, counters } = self.datapath.violations(EndpointId(id));
            descriptors + counters
        });
        let total = total.sum();
        // Relaxed: one thread calls this.
        if self.faults_seen.swap(total, Ordering::Relaxed) == total {
            return Vec::new();
        }
        let counters = self.or_stop(self.datapath.counters());
        counters.endpoints.into_iter().map(EndpointFaults::from).collect()
    }
}
