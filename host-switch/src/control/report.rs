//! Puts together what the switch says of itself: the datapath's counters, the audit, the keeper's view.

use std::collections::BTreeMap;

use shm_ring::attach::HostPhase;
use shm_ring::layout::GuestCounter;
use switch_core::Named;
use switch_core::counters::CounterSet;
use switch_core::edge::EdgeSpec;
use switch_core::ids::DomainId;

use super::keeper::View;
use super::status::{
    Audit, BufferStatus, EdgeStatus, EndpointStatus, FlowsStatus, LcoreStatus, NicStatus, PortStatus,
    ShardStatus, Status,
};
use crate::datapath::{
    CountersSnapshot, EdgeCounters, FlowsSnapshot, LcoreSnapshot, PortSnapshot, ShardReport,
};
use crate::plan::Plan;

/// The counters of an NF that are shown, by name.
const NF_COUNTERS: [(&str, GuestCounter); 5] = [
    ("received", GuestCounter::Received),
    ("sent", GuestCounter::Sent),
    ("dropped", GuestCounter::Dropped),
    ("made", GuestCounter::Made),
    ("empty_polls", GuestCounter::EmptyPolls),
];

/// Everything a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'s> {
    /// Names.
    pub plan: &'s Plan,
    /// What the lcores counted.
    pub counters: &'s CountersSnapshot,
    /// Who holds which buffer.
    pub shards: &'s [ShardReport],
    /// Phases and VMs.
    pub view: &'s View,
    /// The NFs' own counters, by endpoint id.
    pub nf_counters: &'s [[u64; 16]],
}

impl Sources<'_> {
    /// The status, but for name, process and age of the switch.
    #[must_use]
    pub fn status(&self) -> Status {
        let ports = self.plan.ports.iter().zip(&self.counters.ports);
        Status {
            lcores: self.counters.lcores.iter().map(lcore).collect(),
            ports: ports.map(|(plan, port)| self.port(&plan.name, port)).collect(),
            endpoints: (0..self.plan.endpoints.len()).map(|id| self.endpoint(id)).collect(),
            vms: self.view.vms.clone(),
            owners: self.view.owners.clone(),
            edges: self.edges(),
            drops: self.drops(),
            buffers: self.buffers(),
            copies_in_trusted_chain: self.counters.copies_in_trusted_chain(),
            ..Status::default()
        }
    }

    /// The audit, but for the name of the switch.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let shards = self.shards.iter().map(|shard| ShardStatus {
            domain: self.domain_name(shard.domain),
            lcore: shard.lcore.0,
            findings: shard.findings().iter().map(ToString::to_string).collect(),
            buffers: self.shard(shard),
        });
        let balances = self.shards.iter().all(|shard| shard.findings().is_empty());
        Audit { balances, shards: shards.collect(), ..Audit::default() }
    }

    fn domain_name(&self, domain: DomainId) -> String {
        self.plan.domains[domain.index()].name.clone()
    }

    fn port(&self, name: &str, port: &PortSnapshot) -> PortStatus {
        let view = self.view.nics.get(name).cloned().unwrap_or_default();
        let nic = port.nic.as_ref().map(|counted| {
            let owned = |counts: &BTreeMap<&'static str, u64>| -> BTreeMap<String, u64> {
                counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
            };
            let mut faults = owned(&counted.faults);
            faults.extend(view.faults.clone());
            NicStatus {
                connected: view.connected,
                queue_pairs: view.queue_pairs,
                features: view.features.clone(),
                drops: owned(&counted.drops),
                faults,
                interrupts: counted.interrupts,
                sessions: view.sessions,
            }
        });
        // A NIC has a cable as long as a QEMU is connected.
        let link_up = port.link_up || nic.as_ref().is_some_and(|nic| nic.connected);
        PortStatus { link_up, nic, ..self::port(name, port) }
    }

    fn endpoint(&self, id: usize) -> EndpointStatus {
        let plan = &self.plan.endpoints[id];
        let counted = self.counters.endpoints.get(id).cloned().unwrap_or_default();
        let view = self.view.endpoints.get(id).copied().flatten();
        let nf = self.nf_counters.get(id).copied().unwrap_or_default();
        let mut faults = named(&counted.packets.faults);
        faults.insert("peer_counter".to_owned(), counted.counter_errors);
        EndpointStatus {
            name: plan.name.clone(),
            owner: plan.owner.clone(),
            kind: plan.kind.name().to_owned(),
            service: plan.service.clone(),
            domain: self.domain_name(plan.datapath.domain),
            phase: phase_name(view.map_or(HostPhase::Detached, |view| view.phase)).to_owned(),
            epoch: view.map_or(0, |view| view.epoch),
            fed: view.is_some_and(|view| view.fed),
            held: counted.held.into(),
            references: counted.references.into(),
            references_expired: counted.packets.expired,
            quarantined: counted.quarantined.into(),
            quota: plan.datapath.quota_buffers.into(),
            received: counted.packets.lent + counted.packets.referred,
            returned: counted.packets.returned,
            drops: named(&counted.packets.drops),
            faults,
            nf: NF_COUNTERS.iter().map(|(name, which)| ((*name).to_owned(), nf[*which as usize])).collect(),
        }
    }

    fn edges(&self) -> Vec<EdgeStatus> {
        let status = |(edge, counted): (&EdgeSpec, &EdgeCounters)| EdgeStatus {
            from: self.domain_name(edge.from),
            to: self.domain_name(edge.to),
            packets: counted.packets,
            bytes: counted.bytes,
            drops: named(&counted.drops),
        };
        self.plan.forwarding.edges().iter().zip(&self.counters.edges).map(status).collect()
    }

    fn drops(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let domains = self.plan.domains.iter().zip(&self.counters.domains);
        domains.map(|(plan, domain)| (plan.name.clone(), named(&domain.packets.drops))).collect()
    }

    /// The shards of each domain together.
    fn buffers(&self) -> BTreeMap<String, BufferStatus> {
        let mut domains: BTreeMap<String, BufferStatus> = BTreeMap::new();
        for shard in self.shards {
            let all = domains.entry(self.domain_name(shard.domain)).or_default();
            let one = self.shard(shard);
            all.total += one.total;
            all.pool += one.pool;
            all.pmd += one.pmd;
            all.lcore += one.lcore;
            all.quarantined += one.quarantined;
            all.pinned += one.pinned;
            all.sum += one.sum;
            for (endpoint, held) in one.endpoints {
                *all.endpoints.entry(endpoint).or_default() += held;
            }
        }
        domains
    }

    fn shard(&self, shard: &ShardReport) -> BufferStatus {
        let audit = &shard.audit;
        let name = |id: switch_core::ids::EndpointId| self.plan.endpoints[id.index()].name.clone();
        BufferStatus {
            total: audit.size.into(),
            pool: audit.pool.into(),
            pmd: audit.pmd.into(),
            lcore: shard.lcore_in_hand.into(),
            endpoints: audit.endpoints.iter().map(|(id, held)| (name(*id), u64::from(*held))).collect(),
            quarantined: audit.quarantined.iter().map(|(_, held)| u64::from(*held)).sum(),
            pinned: audit.pinned.into(),
            sum: shard.sum(),
        }
    }
}

fn lcore(lcore: &LcoreSnapshot) -> LcoreStatus {
    let LcoreSnapshot { id, cpu, polls, idle_polls, flows, .. } = *lcore;
    #[allow(clippy::cast_precision_loss, reason = "a share for people to read")]
    let idle_share = if polls == 0 { 0.0 } else { idle_polls as f64 / polls as f64 };
    LcoreStatus { id: id.0, cpu, polls, idle_share, flows: flows.map(self::flows) }
}

fn flows(flows: FlowsSnapshot) -> FlowsStatus {
    let FlowsSnapshot { limit, flows, unanswered, counters } = flows;
    FlowsStatus {
        limit,
        flows,
        unanswered,
        hits: counters.hits,
        misses: counters.misses,
        entered: counters.inserted,
        answered: counters.answered,
        refused_full: counters.refused_full,
        refused_buckets_full: counters.refused_buckets_full,
        evicted_unanswered: counters.evicted_unanswered,
        expired: counters.expired_idle + counters.expired_hard,
    }
}

fn port(name: &str, port: &PortSnapshot) -> PortStatus {
    PortStatus {
        name: name.to_owned(),
        driver: port.driver.clone(),
        zero_copy: port.zero_copy,
        link_up: port.link_up,
        rx_packets: port.packets.rx_packets,
        tx_packets: port.packets.tx_packets,
        rx_bytes: port.packets.rx_bytes,
        tx_bytes: port.packets.tx_bytes,
        rx_nombuf: port.device.rx_nombuf,
        rx_missed: port.device.rx_missed,
        tx_errors: port.device.tx_errors,
        copies: port.packets.copies,
        held_back: port.packets.held_back,
        nic: None,
    }
}

/// Every counter by its name, zeroes too: a tool finds the same names at any time.
fn named<K: Named, const N: usize>(counters: &CounterSet<K, N>) -> BTreeMap<String, u64> {
    counters.iter().map(|(kind, count)| (kind.name().to_owned(), count)).collect()
}

fn phase_name(phase: HostPhase) -> &'static str {
    match phase {
        HostPhase::Detached => "detached",
        HostPhase::Published => "published",
        HostPhase::Attached => "attached",
        HostPhase::Refused => "refused",
        HostPhase::Quarantined => "quarantined",
        HostPhase::Draining => "draining",
    }
}
