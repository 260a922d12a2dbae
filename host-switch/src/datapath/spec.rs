//! What the datapath is started with: every number decided, nothing left to look up.

use std::sync::Arc;

use flow_table::{Limits, Seed};
use security_domains::Withheld;
use shm_ring::area::RegionGeometry;
use switch_core::forwarding::Forwarding;
use switch_core::ids::{DomainId, EndpointId, LcoreId, PortId};
use switch_core::rate::RateSpec;
use vhost_port::lane::Lane;

use super::Idle;
use crate::region::{Mapping, ShardMemory};

/// Everything the datapath needs to start.
#[derive(Debug)]
pub struct DatapathSpec {
    /// Polling threads. Their ids are their positions.
    pub lcores: Vec<LcoreSpec>,
    /// Domains. Their ids are their positions.
    pub domains: Vec<DomainSpec>,
    /// Ports. Their ids are their positions.
    pub ports: Vec<PortSpec>,
    /// The lanes of those ports that are NICs, in the order of ports.
    pub nics: Vec<NicLanes>,
    /// Endpoints. Their ids are their positions.
    pub endpoints: Vec<EndpointDatapathSpec>,
    /// Where packets go.
    pub forwarding: Arc<Forwarding>,
    /// What each lcore remembers of flows; none: nothing.
    pub flows: Option<FlowsSpec>,
}

/// What an lcore remembers of flows.
#[derive(Clone, Debug)]
pub struct FlowsSpec {
    /// How many, and for how long.
    pub limits: Limits,
    /// The secret by which they are found.
    pub seed: Seed,
}

/// One polling thread.
#[derive(Clone, Copy, Debug)]
pub struct LcoreSpec {
    /// Its id.
    pub id: LcoreId,
    /// The CPU it is pinned to; none: wherever the kernel puts it.
    pub cpu: Option<usize>,
    /// What it does when nothing moves.
    pub idle: Idle,
}

/// One domain: its memory, and a ledger shard per lcore.
#[derive(Debug)]
pub struct DomainSpec {
    /// Its id.
    pub id: DomainId,
    /// Its name, for mempool names and reports.
    pub name: String,
    /// Its region.
    pub region: &'static Mapping,
    /// Where the buffers lie in it.
    pub geometry: RegionGeometry,
    /// Ledger memory, one shard per lcore in the order of [`DatapathSpec::lcores`].
    pub shards: Vec<ShardMemory>,
    /// Its weight where domains share an lcore or a port; at least 1.
    pub share: u16,
    /// How many packets may enter it, on all lcores together.
    pub limit: Option<RateSpec>,
    /// The domain whose limit its packets count against: its own id, or that of an earlier one. Between domains that
    /// share a limit, packets count against it once.
    pub limited_with: DomainId,
}

/// One port.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// Its id.
    pub id: PortId,
    /// Its name in the config.
    pub name: String,
    /// What is behind it.
    pub device: PortDevice,
    /// The domain whose region its frames land in. Several share it: then frames land in a host-private pool,
    /// are sorted there, and what belongs to none of them goes to the first.
    pub domains: Vec<DomainId>,
    /// Largest payload behind the Ethernet header.
    pub mtu_bytes: u16,
    /// Descriptors of its receive queues.
    pub rx_slots: u16,
    /// Descriptors of its transmit queues.
    pub tx_slots: u16,
    /// The endpoints of its chain, if it is paced: polled only while each of them is fed and they hold so few
    /// packets together that a burst more cannot overflow any of them. None: polled always.
    pub paced: Option<Vec<EndpointId>>,
    /// Where its frames land.
    pub pool: PortPool,
}

/// What is behind a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortDevice {
    /// A device of DPDK: a vdev with arguments, or a PCI address.
    Dpdk(String),
    /// The NIC of an untrusted VM.
    Nic(NicSpec),
}

/// The NIC of an untrusted VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicSpec {
    /// Queue pairs that it offers.
    pub queue_pairs: u16,
    /// Whether the guest may leave checksums to us.
    pub offloads: bool,
    /// Features that it does not offer.
    pub withhold: Vec<Withheld>,
    /// Memory of the VM.
    pub memory_bytes: u64,
    /// Whether the memory of the VM need not be sealed.
    pub accept_unsealed: bool,
}

/// What the lcores need of a NIC.
#[derive(Debug)]
pub struct NicLanes {
    /// The port.
    pub port: PortId,
    /// One for each lcore, in their order.
    pub lanes: Vec<Lane>,
}

impl PortSpec {
    /// The device of DPDK behind it.
    #[must_use]
    pub fn devargs(&self) -> Option<&str> {
        match &self.device {
            PortDevice::Dpdk(devargs) => Some(devargs),
            PortDevice::Nic(_) => None,
        }
    }

    /// The NIC behind it.
    #[must_use]
    pub fn nic(&self) -> Option<&NicSpec> {
        match &self.device {
            PortDevice::Dpdk(_) => None,
            PortDevice::Nic(nic) => Some(nic),
        }
    }
}

/// Where the frames of a port land.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortPool {
    /// In the region, if its driver is on the tested list; else as [`PortPool::Private`].
    #[default]
    ByDriver,
    /// In a host-private pool, and are copied from there into the region once; each copy is counted.
    Private,
}

/// References that an observer may have, on each lcore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferenceSpec {
    /// How many at once.
    pub count: u16,
    /// When each ends, at the latest.
    pub lifetime_ms: u16,
}

/// One endpoint, attached or not.
#[derive(Clone, Copy, Debug)]
pub struct EndpointDatapathSpec {
    /// Its id.
    pub id: EndpointId,
    /// The domain it belongs to.
    pub domain: DomainId,
    /// Most buffers it may hold, on all lcores together.
    pub quota_buffers: u32,
    /// Most empty buffers it may hold, on all lcores together.
    pub credit_buffers: u32,
    /// It is shown packets: what it gives back goes home, whatever it says.
    pub observes: bool,
    /// It is shown them by reference, in the region of its domain; none: by copy, in one of its own.
    pub references: Option<ReferenceSpec>,
    /// How many packets it may give back to be sent on, on all lcores together.
    pub limit: Option<RateSpec>,
}
