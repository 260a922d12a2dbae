//! What control says to an lcore, and what an lcore says to control.
//!
//! An lcore takes messages between two bursts and never waits: answers go into channels whose other end waits.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use shm_ring::reference::ReferenceTable;
use shm_ring::ring::{Consumer, PeerCounterError, Producer};
use switch_core::fault::DescFault;
use switch_core::forwarding::Forwarding;
use switch_core::ids::{ChainId, DomainId, EndpointId, LcoreId};

use super::audit::ShardReport;
use super::change::{Changed, DatapathChange};
use super::counters::LcoreReport;

/// The host's ends of the two rings between one lcore and one endpoint, counters at zero.
#[derive(Debug)]
pub struct QueuePairHandle {
    /// The lcore that serves it.
    pub lcore: LcoreId,
    /// Towards the endpoint.
    pub host_to_guest: Producer<'static>,
    /// Back from it.
    pub guest_to_host: Consumer<'static>,
    /// The words of its references, if it observes by them.
    pub references: ReferenceTable<'static>,
}

/// What became of an endpoint's buffers when its rings were taken from the lcores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Descriptors that it had given back already and that were still served.
    pub drained: u32,
    /// Buffers that it still held; quarantined until it is proven to have stopped.
    pub quarantined: u32,
}

/// Something that control should know about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first refused descriptor of an attach; the rest are counted only.
    Descriptor {
        /// Who gave it.
        endpoint: EndpointId,
        /// What was wrong.
        fault: DescFault,
    },
    /// A peer counter broke its invariant. The lcore does not serve that endpoint any more.
    Counter {
        /// Whose.
        endpoint: EndpointId,
        /// Where it was noticed.
        lcore: LcoreId,
        /// What it claimed.
        error: PeerCounterError,
    },
    /// The region of a domain lost a page. The lcore does not serve that domain any more.
    RegionLost {
        /// Which.
        domain: DomainId,
        /// Where it was noticed.
        lcore: LcoreId,
    },
}

/// What control wants of an lcore.
#[derive(Debug)]
pub(super) enum Message {
    /// Take up a queue pair and feed the endpoint. Refused (false) if it has one already.
    Attach { endpoint: EndpointId, pair: Box<QueuePairHandle>, done: Sender<bool> },
    /// Give it packets, or no more; what it gives back is served either way.
    Feed { endpoint: EndpointId, feed: bool, done: Sender<()> },
    /// Take nothing from it for so long.
    Throttle { endpoint: EndpointId, duration: Duration, done: Sender<()> },
    /// Serve what it has given back, then let go of its rings.
    Release { endpoint: EndpointId, done: Sender<Released> },
    /// It is proven to have stopped: take its buffers home.
    Reclaim { endpoint: EndpointId, done: Sender<u32> },
    /// Count every buffer.
    Audit { done: Sender<Vec<ShardReport>> },
    /// Say what was counted.
    Counters { done: Sender<LcoreReport> },
    /// Decide by other tables and limits from now on; the old tables come back, so that control frees them.
    Change { change: Arc<DatapathChange>, done: Sender<(Arc<Forwarding>, Changed)> },
    /// Say which of these chains carry a packet.
    Carried { chains: Arc<[ChainId]>, done: Sender<Vec<ChainId>> },
    /// Lose a buffer of a domain, so that a test sees the audit find it.
    #[cfg(feature = "sabotage-leak")]
    Leak { domain: DomainId, done: Sender<bool> },
    /// End.
    Stop,
}
