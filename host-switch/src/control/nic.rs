//! The NICs of untrusted VMs as control has them: their sockets, and what was agreed over them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use security_domains::Withheld;
use vhost_port::features::{Features, Offer};
use vhost_port::lane_counters::LaneCounters;
use vhost_port::memory::{MemoryLimits, REGIONS_MAX};
use vhost_port::notifier::Notifier;
use vhost_port::refusal::Fault;
use vhost_port::ring_fault::RingFault;
use vhost_port::server::{self, Server};
use vhost_port::terms::Terms;

use super::conduct::Conduct;
use super::runtime_dir::{NicSockets, RuntimeDirError};
use super::violation::Violation;
use crate::datapath::{NicLanes, NicSpec, PortSpec};
use crate::region::fault::GuestMemoryWatcher;

/// Bytes of guest memory beyond what the config says: QEMU rounds some of its areas up to whole huge pages.
const MEMORY_SLACK_BYTES: u64 = 16 << 20;

/// The features of a driver that are worth a word.
const FEATURES: [(Features, &str); 9] = [
    (Features::VERSION_1, "version_1"),
    (Features::MERGEABLE, "mrg_rxbuf"),
    (Features::INDIRECT, "indirect"),
    (Features::EVENT_INDEX, "event_idx"),
    (Features::IN_ORDER, "in_order"),
    (Features::MULTIQUEUE, "mq"),
    (Features::MTU, "mtu"),
    (Features::CHECKSUM, "csum"),
    (Features::GUEST_CHECKSUM, "guest_csum"),
];

/// Why a NIC has no port.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// No socket.
    #[error(transparent)]
    Socket(#[from] RuntimeDirError),
    /// No thread, or settings that cannot be.
    #[error("port {port}: {source}")]
    Server {
        /// Its name.
        port: String,
        /// Why.
        source: io::Error,
    },
}

/// The NIC of an untrusted VM.
#[derive(Debug)]
pub struct Nic {
    name: String,
    sockets: NicSockets,
    server: Server,
    lanes: Vec<Arc<LaneCounters>>,
    /// Queues broken, and messages refused, when that was last looked at.
    broken_seen: u64,
    refused_seen: u64,
}

/// How control sees a NIC, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicView {
    /// Whether a QEMU is connected.
    pub connected: bool,
    /// Queue pairs that the guest uses.
    pub queue_pairs: u16,
    /// What was agreed with the guest's driver, by name.
    pub features: Vec<String>,
    /// What was refused of its messages, by name; zeroes too.
    pub faults: BTreeMap<String, u64>,
    /// Connections so far.
    pub sessions: u64,
}

impl Nic {
    /// Opens the port of a NIC, whose QEMU runs as `uid`; and what the lcores need of it.
    ///
    /// # Errors
    /// If there is no socket or no thread.
    pub fn open(
        port: &PortSpec,
        nic: &NicSpec,
        (sockets, uid): (&NicSockets, Option<u32>),
        lcores: usize,
        notifier: &Arc<Notifier>,
    ) -> Result<(Self, NicLanes), NicError> {
        let listener = sockets.listen(&port.name, uid)?;
        let failed = |source| NicError::Server { port: port.name.clone(), source };
        let (server, lanes) = server::open(terms(port, nic, notifier), listener, lcores).map_err(failed)?;
        let counters = lanes.iter().map(|lane| Arc::clone(lane.counters())).collect();
        let (name, sockets) = (port.name.clone(), sockets.clone());
        let opened = Self { name, sockets, server, lanes: counters, broken_seen: 0, refused_seen: 0 };
        Ok((opened, NicLanes { port: port.id, lanes }))
    }

    /// The name of its port.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets a QEMU connect that runs as this user.
    ///
    /// # Errors
    /// If its socket cannot be given away.
    pub fn admit(&self, uid: u32) -> Result<(), RuntimeDirError> {
        self.sockets.give(&self.name, uid)
    }

    /// Whether a QEMU is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.server.status().is_connected
    }

    /// Ends the connection, and takes no other until [`Nic::reopen`].
    pub fn close(&self) {
        self.server.close();
    }

    /// Takes connections again.
    pub fn reopen(&self) {
        self.server.reopen();
    }

    /// Takes note of what its guest and its QEMU did wrong since the last look.
    pub fn survey(&mut self, conduct: &mut Conduct) {
        let of_lane =
            |lane: &Arc<LaneCounters>| (0..RingFault::NAMES.len()).map(|kind| lane.faults(kind)).sum::<u64>();
        let broken = self.lanes.iter().map(of_lane).sum();
        let refused = self.refusals().map(|(_, count)| count).sum();
        conduct.note(Violation::NicQueue, broken - self.broken_seen);
        conduct.note(Violation::NicMessage, refused - self.refused_seen);
        (self.broken_seen, self.refused_seen) = (broken, refused);
    }

    /// How it stands.
    #[must_use]
    pub fn view(&self) -> NicView {
        let status = self.server.status();
        let features = status.features.unwrap_or_default();
        let names = FEATURES.iter().filter(|(feature, _)| features.contains(*feature));
        let pairs = status
            .queues
            .chunks(2)
            .filter(|pair| pair.iter().all(|queue| queue.is_running && queue.is_enabled));
        NicView {
            connected: status.is_connected,
            queue_pairs: u16::try_from(pairs.count()).unwrap_or(u16::MAX),
            features: names.map(|(_, name)| (*name).to_owned()).collect(),
            faults: self.refusals().map(|(name, count)| (name.to_owned(), count)).collect(),
            sessions: status.sessions,
        }
    }

    /// What was refused of messages, by name. A broken queue is the lanes' to count.
    fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.server.faults().all().filter(|(name, _)| *name != Fault::QueueBroken.name())
    }
}

/// What whoever connects as this NIC is granted.
fn terms(port: &PortSpec, nic: &NicSpec, notifier: &Arc<Notifier>) -> Terms {
    let withheld = nic.withhold.iter().fold(Features::NONE, |all, withheld| {
        all | match withheld {
            Withheld::MrgRxbuf => Features::MERGEABLE,
            Withheld::EventIdx => Features::EVENT_INDEX,
            Withheld::Indirect => Features::INDIRECT,
        }
    });
    Terms {
        name: port.name.clone(),
        queue_pairs: nic.queue_pairs,
        ring_entries: port.rx_slots.max(port.tx_slots),
        mtu_bytes: port.mtu_bytes,
        // Packets longer than the MTU fit no buffer of the region.
        offer: Offer {
            checksums: nic.offloads,
            segmentation: false,
            multiqueue: nic.queue_pairs > 1,
            withheld,
        },
        memory: MemoryLimits {
            regions: REGIONS_MAX,
            bytes: nic.memory_bytes + MEMORY_SLACK_BYTES,
            accept_unsealed: nic.accept_unsealed,
        },
        notifier: Arc::clone(notifier),
        watcher: Arc::new(GuestMemoryWatcher),
    }
}
