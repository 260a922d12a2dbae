//! What a domain needs at least: buffers, hugepages, rings, each with the terms it is made of.

use std::fmt;

use serde::Serialize;

use crate::config::{Config, EndpointListing, Owner};
use crate::cursor::Cursor;
use crate::domain::{Pages, buffers_in};
use crate::finding::Kind;
use crate::ids::DomainId;
use crate::key::Key;

/// Buffers in flight through one lcore: four bursts of 64.
pub const BURST_BUFFERS: u64 = 4 * 64;
/// Buffers that one lcore copies into a domain at once: a burst.
pub const CROSSING_BUFFERS: u64 = 64;
/// Buffers that one lcore keeps ready for what the guest behind a NIC sends: a burst.
pub const NIC_BUFFERS: u64 = 32;
/// Frames of one domain that wait on one lcore for a shared port at most.
pub const LINE_BUFFERS: u64 = 256;

const HUGEPAGE_BYTES: u64 = 2 << 20;
/// Smallest control area: it becomes a PCI BAR.
const CONTROL_BYTES_MIN: u64 = 64 << 10;

/// The buffers that the queues of one port may hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortTerm {
    /// Name of the port.
    pub port: String,
    /// Receive descriptors of each lcore's queue.
    pub rx_slots: u64,
    /// Transmit descriptors of each lcore's queue.
    pub tx_slots: u64,
    /// Whether domains share it: then received frames wait in a pool of the host, not here.
    pub shared: bool,
    /// `lcores × (rx_slots + tx_slots)`; of a shared one `lcores × (tx_slots +` [`LINE_BUFFERS`]`)`.
    pub buffers: u64,
}

/// What a domain has and what it needs at least.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DomainNeed {
    /// The domain, declared or hidden.
    pub domain: DomainId,
    /// Its name.
    pub name: String,
    /// Its packet memory.
    pub region_mib: u32,
    /// Distance between its buffers.
    pub buffer_stride_bytes: u32,
    /// Buffers that fit into the region.
    pub buffers_available: u64,
    /// The sum of the terms below: with fewer, honest endpoints that use their quotas could starve a NIC queue.
    /// Buffers are sharded by lcore, and what each lcore needs counts once a lcore; of a quota it has a part.
    pub buffers_min: u64,
    /// Polling threads.
    pub lcores: u64,
    /// One term for each of its ports.
    pub ports: Vec<PortTerm>,
    /// Its endpoints.
    pub endpoints: u64,
    /// The sum of the quotas of its endpoints, and of what its observers may have references to.
    pub quota_buffers: u64,
    /// `lcores ×` [`BURST_BUFFERS`].
    pub burst_buffers: u64,
    /// `lcores ×` [`CROSSING_BUFFERS`] if packets are copied into it from another domain, else 0.
    pub crossing_buffers: u64,
    /// One ring each way between each endpoint and each lcore.
    pub rings: u64,
    /// Which pages back its memory.
    pub pages: Pages,
    /// 2 MiB pages for the region and the control areas; 0 with plain pages.
    pub hugepages_2mib: u64,
    /// Those of the region.
    pub region_hugepages: u64,
    /// Those of the control areas of its VMs and processes: none unless the domain has a `path`.
    pub control_hugepages: u64,
}

/// The memory of a domain, declared or hidden.
struct Memory {
    id: DomainId,
    name: String,
    region_mib: u32,
    buffer_stride_bytes: u32,
    pages: Pages,
    /// Whether it has a `path`.
    files: bool,
    crossed_into: bool,
    hidden_in: Option<DomainId>,
    observes: bool,
}

fn memories(config: &Config) -> Vec<Memory> {
    let hidden = config.hidden_domains();
    let declared = (0..).map(DomainId).zip(&config.domains).map(|(id, domain)| Memory {
        id,
        name: domain.name.clone(),
        region_mib: domain.region_mib,
        buffer_stride_bytes: domain.buffer_stride_bytes,
        pages: domain.pages,
        files: domain.path.is_some(),
        crossed_into: config.edges.iter().any(|edge| edge.to == id)
            || hidden.iter().any(|hidden| hidden.parent == id && !hidden.observes),
        hidden_in: None,
        observes: false,
    });
    let private = hidden.iter().map(|hidden| Memory {
        id: hidden.id,
        name: hidden.name.clone(),
        region_mib: hidden.region_mib,
        buffer_stride_bytes: hidden.buffer_stride_bytes,
        pages: hidden.pages,
        files: config.domains[hidden.parent.index()].path.is_some(),
        crossed_into: true,
        hidden_in: Some(hidden.parent),
        observes: hidden.observes,
    });
    declared.chain(private).collect()
}

impl DomainNeed {
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        memories(config).into_iter().map(|memory| Self::of(config, memory)).collect()
    }

    fn of(config: &Config, memory: Memory) -> Self {
        let lcores = config.switch.lcores.len() as u64;
        let ports = port_terms(config, &memory, lcores);
        let Memory { id, name, region_mib, buffer_stride_bytes, pages, files, crossed_into, .. } = memory;
        let endpoints: Vec<EndpointListing<'_>> =
            config.endpoints().into_iter().filter(|endpoint| endpoint.region == id).collect();
        // A quota is shared by the lcores, and each may lend at least one buffer.
        let quota = |listing: &EndpointListing<'_>| u64::from(listing.endpoint.quota_buffers).max(lcores);
        let quota_buffers = endpoints.iter().map(quota).sum();
        let burst_buffers = lcores * BURST_BUFFERS;
        let crossing_buffers = if crossed_into { lcores * CROSSING_BUFFERS } else { 0 };
        let queues: u64 = ports.iter().map(|term| term.buffers).sum();
        let huge = pages != Pages::Plain;
        let region_hugepages = if huge { (u64::from(region_mib) << 20) / HUGEPAGE_BYTES } else { 0 };
        // Control areas are memory of ordinary pages; as files on hugetlbfs each takes at least one huge page.
        let control_hugepages = if huge && files { control_hugepages(config, &endpoints, lcores) } else { 0 };
        Self {
            domain: id,
            name,
            region_mib,
            buffer_stride_bytes,
            buffers_available: buffers_in(region_mib, buffer_stride_bytes),
            buffers_min: queues + quota_buffers + burst_buffers + crossing_buffers,
            lcores,
            ports,
            endpoints: endpoints.len() as u64,
            quota_buffers,
            burst_buffers,
            crossing_buffers,
            rings: endpoints.len() as u64 * lcores * 2,
            pages,
            hugepages_2mib: region_hugepages + control_hugepages,
            region_hugepages,
            control_hugepages,
        }
    }

    /// The smallest legal region with enough buffers, if there is one.
    #[must_use]
    pub fn region_mib_min(&self) -> Option<u32> {
        (1..=20)
            .map(|exponent| 1 << exponent)
            .find(|&region_mib| buffers_in(region_mib, self.buffer_stride_bytes) >= self.buffers_min)
    }

    /// Refuses a region with fewer buffers than the minimum.
    pub(crate) fn check(&self, cursor: &Cursor<'_>, key: &Key) {
        if self.buffers_available >= self.buffers_min {
            return;
        }
        let rule = format!(
            "must hold at least {} buffers ({}), and holds {}",
            self.buffers_min,
            self.formula(),
            self.buffers_available,
        );
        let near = self.region_mib_min().map(|region_mib| region_mib.to_string());
        cursor.refuse(key, Kind::Conflict, rule, near.into_iter().collect());
    }

    fn formula(&self) -> String {
        let ports: u64 = self.ports.iter().map(|term| term.buffers).sum();
        let Self { quota_buffers, burst_buffers, crossing_buffers, .. } = self;
        let mut formula =
            format!("{ports} for port queues + {quota_buffers} for quotas + {burst_buffers} for bursts");
        if *crossing_buffers > 0 {
            formula.push_str(&format!(" + {crossing_buffers} for copies from other domains"));
        }
        formula
    }
}

/// Of its own ports; what is hidden in a domain has part in the shared ones only.
fn port_terms(config: &Config, memory: &Memory, lcores: u64) -> Vec<PortTerm> {
    let term = |port: &crate::port::Port| {
        // The rings of a NIC lie in its guest's memory and hold none of our buffers.
        let (rx_slots, tx_slots) = match port.nic() {
            Some(_) => (NIC_BUFFERS, 0),
            None => (u64::from(port.rx_slots), u64::from(port.tx_slots)),
        };
        let shared = port.is_shared();
        let slots = if shared { tx_slots + LINE_BUFFERS } else { rx_slots + tx_slots };
        PortTerm { port: port.name.clone(), rx_slots, tx_slots, shared, buffers: lcores * slots }
    };
    let is_of = |port: &&crate::port::Port| match memory.hidden_in {
        None => port.domains.contains(&memory.id),
        Some(parent) => port.is_shared() && port.domains.contains(&parent) && !memory.observes,
    };
    config.ports.iter().filter(is_of).map(term).collect()
}

/// Each VM and process has a control area of its own, in a file of its own.
fn control_hugepages(config: &Config, endpoints: &[EndpointListing<'_>], lcores: u64) -> u64 {
    let mut owners: Vec<Owner> = endpoints.iter().map(|endpoint| endpoint.owner).collect();
    owners.dedup();
    let area = |owner: &Owner| {
        let own = endpoints.iter().filter(|endpoint| endpoint.owner == *owner);
        control_bytes(config, own, lcores).div_ceil(HUGEPAGE_BYTES)
    };
    owners.iter().map(area).sum()
}

/// Size of a control area in layout version 1: header, tables, guest words, and for each endpoint and
/// lcore a ring each way, and of an observer a word for each reference; both sections in whole pages, the whole a power
/// of two.
fn control_bytes<'e>(
    config: &Config,
    endpoints: impl Iterator<Item = &'e EndpointListing<'e>>,
    lcores: u64,
) -> u64 {
    const COUNTER_LINES_BYTES: u64 = 2 * 128;
    let (mut host_bytes, mut guest_bytes) = (128, 0);
    for listing in endpoints {
        let endpoint = listing.endpoint;
        let slots_to_guest = u64::from(endpoint.ring_slots);
        let slots_to_host = u64::from(endpoint.ring_slots.max(endpoint.quota_buffers.next_power_of_two()));
        let targets = config.services[endpoint.service.index()].may_target.len() as u64;
        let references =
            config.pins(listing.owner).map_or(0, |pins| pins.buffers_of_lcore(config.switch.lcores.len()));
        let words_bytes = (u64::from(references) * 4).next_multiple_of(128);
        host_bytes += 128 + targets * 32;
        host_bytes += lcores * (2 * 64 + COUNTER_LINES_BYTES + slots_to_guest * 16 + words_bytes);
        guest_bytes += 512 + lcores * (COUNTER_LINES_BYTES + slots_to_host * 16);
    }
    let bytes = u64::next_multiple_of(host_bytes, 4096) + u64::next_multiple_of(guest_bytes, 4096);
    bytes.next_power_of_two().max(CONTROL_BYTES_MIN)
}

impl fmt::Display for DomainNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, region_mib, buffer_stride_bytes, buffers_available, buffers_min, lcores, .. } = self;
        let (threads, endpoints) = (counted(*lcores, "lcore"), counted(self.endpoints, "endpoint"));
        writeln!(
            f,
            "domain {name}: {buffers_available} buffers of {buffer_stride_bytes} B in {region_mib} MiB; needs at least {buffers_min}:"
        )?;
        for PortTerm { port, rx_slots, tx_slots, shared, buffers } in &self.ports {
            if *shared {
                writeln!(
                    f,
                    "  {buffers:>8}  shared port {port}: {threads} × ({tx_slots} tx slots + {LINE_BUFFERS} in line)"
                )?;
            } else {
                writeln!(
                    f,
                    "  {buffers:>8}  port {port}: {threads} × ({rx_slots} rx + {tx_slots} tx slots)"
                )?;
            }
        }
        writeln!(f, "  {:>8}  quotas of {endpoints}", self.quota_buffers)?;
        writeln!(f, "  {:>8}  bursts in flight: {threads} × {BURST_BUFFERS}", self.burst_buffers)?;
        if self.crossing_buffers > 0 {
            let Self { crossing_buffers, .. } = self;
            writeln!(
                f,
                "  {crossing_buffers:>8}  copies from other domains: {threads} × {CROSSING_BUFFERS}"
            )?;
        }
        writeln!(f, "  rings: {} = {endpoints} × {threads} × 2", self.rings)?;
        write!(
            f,
            "  hugepages of 2 MiB: {} = {} for the region + {} for control areas (pages = \"{}\")",
            self.hugepages_2mib, self.region_hugepages, self.control_hugepages, self.pages,
        )
    }
}

fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
