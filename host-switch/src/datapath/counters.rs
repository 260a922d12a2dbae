//! What the datapath counts, as control sees it: a copy that each lcore makes between two bursts.

use std::collections::BTreeMap;
use std::sync::Arc;

use switch_core::counters::{DomainCounters, DropCounters, EndpointCounters, LedgerFaultCounters};
use switch_core::ids::LcoreId;
use vhost_port::lane_counters::{LaneCounters, PortDrop};
use vhost_port::ring_fault::RingFault;

/// Packets of one port on one lcore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that the driver took for transmission.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames copied from the host-private pool into the region, because the port does not receive there.
    pub copies: u64,
    /// Polls that a paced port was not given.
    pub held_back: u64,
}

impl PortCounters {
    pub(super) fn merge(&mut self, other: &Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.copies += other.copies;
        self.held_back += other.held_back;
    }
}

/// One edge: packets that were copied from one domain into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeCounters {
    /// Packets copied over.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that the edge lets through and that were dropped all the same, by reason. They count as drops of
    /// the domain that they come from, too.
    pub drops: DropCounters,
}

impl EdgeCounters {
    fn merge(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.drops.merge(&other.drops);
    }
}

/// Whether packets left from where they came in, proven on samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityCounters {
    /// Packets noted at ingress.
    pub sampled: u64,
    /// Of those, sent from the buffer and the address at which they were received.
    pub same: u64,
    /// Of those, sent from elsewhere: somebody copied.
    pub moved: u64,
}

impl IdentityCounters {
    fn merge(&mut self, other: &Self) {
        self.sampled += other.sampled;
        self.same += other.same;
        self.moved += other.moved;
    }
}

/// One domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainSnapshot {
    /// Packets that entered, left and were dropped.
    pub packets: DomainCounters,
    /// The proof that nothing was copied on the way.
    pub identity: IdentityCounters,
    /// Faults of the switch against its own ledger; each is a bug.
    pub ledger_faults: LedgerFaultCounters,
    /// The region lost a page; the domain is not served any more.
    pub region_lost: bool,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSnapshot {
    /// Buffers and packets.
    pub packets: EndpointCounters,
    /// Buffers it holds under the attach in force, quarantined ones not among them.
    pub held: u32,
    /// Empty ones among them.
    pub empties: u32,
    /// References of an observer that hold now.
    pub references: u32,
    /// Buffers it held when it was released, not yet reclaimed; charged to its quota.
    pub quarantined: u32,
    /// Peer counters that broke their invariant.
    pub counter_errors: u64,
    /// Whether it is attached on every lcore.
    pub attached: bool,
    /// Whether packets are given to it.
    pub fed: bool,
}

/// One lcore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LcoreSnapshot {
    /// Its id.
    pub id: LcoreId,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Turns of its loop.
    pub polls: u64,
    /// Turns in which nothing moved.
    pub idle_polls: u64,
    /// Events for control that found no room.
    pub events_lost: u64,
    /// What it remembers of flows, if anything.
    pub flows: Option<FlowsSnapshot>,
}

/// What an lcore remembers of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowsSnapshot {
    /// Most flows.
    pub limit: u32,
    /// Flows that are there.
    pub flows: u32,
    /// Unanswered ones among them.
    pub unanswered: u32,
    /// What has happened so far.
    pub counters: flow_table::Counters,
}

/// What one lcore has counted.
#[derive(Clone, Debug, Default)]
pub struct LcoreReport {
    /// Itself.
    pub lcore: LcoreSnapshot,
    /// By domain.
    pub domains: Vec<DomainSnapshot>,
    /// By port.
    pub ports: Vec<PortCounters>,
    /// By endpoint.
    pub endpoints: Vec<EndpointSnapshot>,
    /// By edge.
    pub edges: Vec<EdgeCounters>,
}

/// All lcores together.
#[derive(Clone, Debug, Default)]
pub struct CountersSnapshot {
    /// One for each lcore.
    pub lcores: Vec<LcoreSnapshot>,
    /// By domain.
    pub domains: Vec<DomainSnapshot>,
    /// By port: what the lcores counted, and the device.
    pub ports: Vec<PortSnapshot>,
    /// By endpoint.
    pub endpoints: Vec<EndpointSnapshot>,
    /// By edge.
    pub edges: Vec<EdgeCounters>,
}

/// One port.
#[derive(Clone, Debug, Default)]
pub struct PortSnapshot {
    /// Its driver.
    pub driver: String,
    /// Whether its frames land in the region.
    pub zero_copy: bool,
    /// What the lcores counted.
    pub packets: PortCounters,
    /// What the device counted.
    pub device: dpdk::PortStats,
    /// Whether the link is up.
    pub link_up: bool,
    /// What is counted of a NIC besides.
    pub nic: Option<NicCounters>,
}

/// What the lanes of an untrusted VM's NIC count besides packets, by name; zeroes too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// Frames that were not copied, either way.
    pub drops: BTreeMap<&'static str, u64>,
    /// Queues that were broken by what the guest wrote into them.
    pub faults: BTreeMap<&'static str, u64>,
    /// Interrupts that were asked for.
    pub interrupts: u64,
}

impl NicCounters {
    pub(super) fn of(lanes: &[Arc<LaneCounters>]) -> Self {
        let drops =
            PortDrop::ALL.map(|reason| (reason.name(), lanes.iter().map(|lane| lane.drops(reason)).sum()));
        let faults = RingFault::NAMES
            .iter()
            .enumerate()
            .map(|(kind, name)| (*name, lanes.iter().map(|lane| lane.faults(kind)).sum()));
        Self {
            drops: drops.into(),
            faults: faults.collect(),
            interrupts: lanes.iter().map(|lane| lane.notifications()).sum(),
        }
    }
}

impl CountersSnapshot {
    /// Adds what one lcore counted.
    pub(super) fn add(&mut self, report: &LcoreReport) {
        self.lcores.push(report.lcore);
        self.domains.resize(report.domains.len(), DomainSnapshot::default());
        for (sum, one) in self.domains.iter_mut().zip(&report.domains) {
            sum.packets.merge(&one.packets);
            sum.identity.merge(&one.identity);
            sum.ledger_faults.merge(&one.ledger_faults);
            sum.region_lost |= one.region_lost;
        }
        for (sum, one) in self.ports.iter_mut().zip(&report.ports) {
            sum.packets.merge(one);
        }
        self.edges.resize(self.edges.len().max(report.edges.len()), EdgeCounters::default());
        for (sum, one) in self.edges.iter_mut().zip(&report.edges) {
            sum.merge(one);
        }
        let first = self.endpoints.is_empty();
        self.endpoints.resize(report.endpoints.len(), EndpointSnapshot::default());
        for (sum, one) in self.endpoints.iter_mut().zip(&report.endpoints) {
            sum.packets.merge(&one.packets);
            sum.held += one.held;
            sum.empties += one.empties;
            sum.references += one.references;
            sum.quarantined += one.quarantined;
            sum.counter_errors += one.counter_errors;
            sum.attached = one.attached && (first || sum.attached);
            sum.fed = one.fed && (first || sum.fed);
        }
    }

    /// Copies that the identity samples found between ingress and egress, in all domains.
    #[must_use]
    pub fn copies_in_trusted_chain(&self) -> u64 {
        self.domains.iter().map(|domain| domain.identity.moved).sum()
    }
}
