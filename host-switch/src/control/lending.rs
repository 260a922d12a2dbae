//! What control wants of the datapath.
//!
//! A trait, so that everything about endpoints is tested without DPDK.

use std::sync::Arc;

use switch_core::ids::EndpointId;

use super::stop::Stop;
use crate::datapath::{Datapath, DatapathError, Event, QueuePairHandle, Released};

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
    /// Lets go of its rings; what it holds is quarantined.
    fn release(&self, endpoint: EndpointId) -> Released;
    /// Takes home what is quarantined; returns how many buffers.
    fn reclaim(&self, endpoint: EndpointId) -> u32;
    /// What happened since the last call.
    fn events(&self) -> Vec<Event>;
}

/// The running datapath. An lcore that has ended is the end of the switch: nobody could say any more who
/// holds its buffers.
#[derive(Debug)]
pub struct RunningDatapath {
    datapath: Arc<Datapath>,
    stop: Stop,
}

impl RunningDatapath {
    /// Lends through this datapath, and wishes the end of the switch when it fails.
    #[must_use]
    pub fn new(datapath: Arc<Datapath>, stop: Stop) -> Self {
        Self { datapath, stop }
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

    fn release(&self, endpoint: EndpointId) -> Released {
        self.or_stop(self.datapath.release(endpoint))
    }

    fn reclaim(&self, endpoint: EndpointId) -> u32 {
        self.or_stop(self.datapath.reclaim(endpoint))
    }

    fn events(&self) -> Vec<Event> {
        self.datapath.events()
    }
}
