//! A whole datapath in one process: a region, a ledger, ports, and guests that are threads.
//!
//! The EAL starts without hugepages. A guest is a thread with the guest's ends of the rings and its own
//! behaviour; it reaches the region through the same mapping as the switch, as a real one would through its own.
#![allow(dead_code, reason = "each test binary uses its own part of the lab")]
#![allow(clippy::unwrap_used, reason = "a lab that does not come up is a failed test")]

pub mod capture;
pub mod frames;
pub mod guest;
pub mod guest_nic;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dpdk::{Eal, EalOptions, LogLevel};
use guest_nic::GuestNic;
use host_switch::datapath::{
    CountersSnapshot, Datapath, DatapathSpec, DomainSpec, EndpointDatapathSpec, FlowsSpec, Idle, LcoreSpec,
    NicSpec, PortDevice, PortPool, PortSpec, QueuePairHandle, ReferenceSpec, ShardReport,
};
use host_switch::region::{LedgerFile, Mapping, Pages, Region, ShardSize, SharedMemory};
use shm_ring::area::{AreaLayout, AreaSpec, EndpointSpec, GuestArea, HostArea};
use shm_ring::ring::{Consumer, Producer};
use switch_core::criteria::Criteria;
use switch_core::edge::EdgeSpec;
use switch_core::forwarding::Forwarding;
use switch_core::ids::{ChainId, DomainId, EndpointId, LcoreId, PortId, ServiceId};
use switch_core::rate::RateSpec;
use switch_core::rule::Rule;
use switch_core::snapshot::{
    ChainSpec, EndpointSpec as EndpointForwarding, ForwardingSpec, PortSpec as PortForwarding, ServiceSpec,
    Target,
};

/// What a test wants; everything else is as small as it can be.
pub struct LabSpec {
    /// Device arguments of each port, in order. Port 0 receives, port 1 sends, unless `chains` says otherwise.
    pub devices: Vec<String>,
    /// Endpoints; each is the only instance of a service of the same number.
    pub endpoints: usize,
    /// The services that port 0's packets pass, before they leave by port 1.
    pub path: Vec<u16>,
    pub lcores: u16,
    pub region_bytes: u64,
    pub quota_buffers: u32,
    pub credit_buffers: u32,
    pub ring_slots: u32,
    pub paced: bool,
    pub pool: PortPool,
    pub idle: Idle,
    pub domains: u16,
    /// The domain of each endpoint and of each port; where the list is too short, the first one.
    pub endpoint_domains: Vec<u16>,
    pub port_domains: Vec<u16>,
    /// Ports of all domains.
    pub shared_ports: Vec<usize>,
    pub rules: Vec<Rule>,
    /// Endpoints that are shown the packets of the first chain.
    pub observers: Vec<usize>,
    /// The observers see by reference.
    pub references: Option<ReferenceSpec>,
    pub edges: Vec<EdgeSpec>,
    /// By domain; where the list is too short, 1.
    pub shares: Vec<u16>,
    /// Of each domain and of each endpoint.
    pub domain_limit: Option<RateSpec>,
    /// All domains count against the limit of the first.
    pub one_domain_limit: bool,
    pub endpoint_limit: Option<RateSpec>,
    /// Besides that of port 0: the port that receives, the services, the port that sends.
    pub more_chains: Vec<(u16, Vec<u16>, u16)>,
    /// What lcores remember of flows.
    pub flows: Option<FlowsSpec>,
}

/// An edge for packets of one protocol, or all.
pub fn edge(from: u16, to: u16, protocol: Option<u8>) -> EdgeSpec {
    EdgeSpec {
        from: DomainId(from),
        to: DomainId(to),
        flows: Criteria { protocol, ..Criteria::default() },
        broadcast: false,
        limit: None,
        limited_with: None,
    }
}

impl LabSpec {
    /// A chain of `endpoints` services between two devices.
    pub fn chain(endpoints: usize, devices: [&str; 2]) -> Self {
        Self {
            devices: devices.map(str::to_owned).into(),
            endpoints,
            path: (0..u16::try_from(endpoints).unwrap()).collect(),
            lcores: 1,
            region_bytes: 2 << 20,
            quota_buffers: 256,
            credit_buffers: 0,
            ring_slots: 256,
            paced: false,
            pool: PortPool::ByDriver,
            idle: Idle::Sleep,
            domains: 1,
            endpoint_domains: Vec::new(),
            port_domains: Vec::new(),
            shared_ports: Vec::new(),
            rules: Vec::new(),
            observers: Vec::new(),
            references: None,
            edges: Vec::new(),
            shares: Vec::new(),
            domain_limit: None,
            one_domain_limit: false,
            endpoint_limit: None,
            more_chains: Vec::new(),
            flows: None,
        }
    }

    fn endpoint_domain(&self, endpoint: usize) -> DomainId {
        DomainId(self.endpoint_domains.get(endpoint).copied().unwrap_or(0))
    }

    fn domains_of_port(&self, port: usize) -> Vec<DomainId> {
        if self.shared_ports.contains(&port) {
            return (0..self.domains).map(DomainId).collect();
        }
        vec![DomainId(self.port_domains.get(port).copied().unwrap_or(0))]
    }

    /// Port 0, if that is in reach of every service.
    fn service_targets(&self) -> Vec<Target> {
        if self.domains == 1 { vec![Target::Port(PortId(0))] } else { Vec::new() }
    }

    fn chains(&self) -> Vec<(u16, Vec<u16>, u16)> {
        let first = (0, self.path.clone(), u16::from(self.devices.len() > 1));
        [first].into_iter().chain(self.more_chains.clone()).collect()
    }
}

/// The running switch and what the test may touch of it.
pub struct Lab {
    pub datapath: Option<Datapath>,
    pub regions: Vec<Region>,
    pub host: HostArea<'static>,
    /// The guests behind the ports whose device is [`NIC`].
    pub nics: Vec<GuestNic>,
    area: &'static Mapping,
    ledger: LedgerFile,
    lcores: u16,
    /// By endpoint.
    domain_of: Vec<DomainId>,
    folder: PathBuf,
}

pub fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    let options = EalOptions { memory_mib: 128, log_level: LogLevel::Error, ..EalOptions::default() };
    *EAL.get_or_init(|| Eal::init(&options).unwrap())
}

/// A folder of this test's own, with a number that is also good for device names.
pub fn folder() -> (PathBuf, u32) {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("netvm-datapath-{}-{serial}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    (folder, serial)
}

/// Name of a virtual device that no other test uses: DPDK wants a number behind the driver's name.
pub fn device(driver: &str, arguments: &str) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    format!("{driver}{}{arguments}", SERIAL.fetch_add(1, Ordering::Relaxed))
}

pub fn endpoint(number: usize) -> EndpointId {
    EndpointId(u16::try_from(number).unwrap())
}

impl Lab {
    pub fn start(spec: &LabSpec) -> Self {
        let eal = eal();
        let (folder, _) = self::folder();
        let region =
            |id| Region::create(&format!("domain{id}"), spec.region_bytes, 2368, Pages::Plain).unwrap();
        let regions: Vec<Region> = (0..spec.domains).map(region).collect();
        let lcores: Vec<u16> = (0..spec.lcores).collect();
        let (host, area) = control_area(spec, &regions[0], &lcores);
        let split =
            |(id, region): (u16, &Region)| ShardSize::split(id, region.geometry().buffer_count, &lcores);
        let sizes: Vec<ShardSize> = (0..).zip(&regions).flat_map(split).collect();
        let rings = spec.endpoints * lcores.len();
        let mut ledger = LedgerFile::create(&folder.join("ledger"), &sizes, rings).unwrap();
        let mut shards = std::mem::take(&mut ledger.shards).into_iter();
        let domains = (0..).zip(&regions).map(|(id, region)| DomainSpec {
            id: DomainId(id),
            name: format!("domain{id}"),
            region: region.mapping(),
            geometry: *region.geometry(),
            shards: shards.by_ref().take(lcores.len()).collect(),
            share: spec.shares.get(usize::from(id)).copied().unwrap_or(1),
            limit: spec.domain_limit,
            limited_with: DomainId(if spec.one_domain_limit { 0 } else { id }),
        });
        let endpoints = (0..spec.endpoints).map(|number| EndpointDatapathSpec {
            id: endpoint(number),
            domain: spec.endpoint_domain(number),
            quota_buffers: spec.quota_buffers,
            credit_buffers: spec.credit_buffers,
            observes: spec.observers.contains(&number),
            references: spec.references.filter(|_| spec.observers.contains(&number)),
            limit: spec.endpoint_limit,
        });
        let ports: Vec<_> =
            spec.devices.iter().enumerate().map(|(id, device)| port(spec, id, device)).collect();
        let of_guests = ports.iter().filter(|port| port.nic().is_some());
        let (nics, lanes) = of_guests.map(|port| GuestNic::new(port.id, lcores.len())).unzip();
        let datapath = Datapath::start(
            &eal,
            DatapathSpec {
                lcores: lcores
                    .iter()
                    .map(|&id| LcoreSpec { id: LcoreId(id), cpu: None, idle: spec.idle })
                    .collect(),
                domains: domains.collect(),
                ports,
                nics: lanes,
                endpoints: endpoints.collect(),
                forwarding: Arc::new(forwarding(spec)),
                flows: spec.flows.clone(),
            },
        );
        let datapath = Some(datapath.unwrap());
        let domain_of = (0..spec.endpoints).map(|number| spec.endpoint_domain(number)).collect();
        Self { datapath, regions, host, nics, area, ledger, lcores: spec.lcores, domain_of, folder }
    }

    pub fn datapath(&self) -> &Datapath {
        self.datapath.as_ref().unwrap()
    }

    /// What the guest would map.
    pub fn guest_area(&self) -> GuestArea<'static> {
        // SAFETY: the mapping is leaked, and everybody writes it by atomics.
        unsafe { GuestArea::open(self.area.base(), self.area.bytes()) }.unwrap()
    }

    /// Resets an endpoint's rings on both sides, as the handshake does, and lets the switch serve it.
    pub fn attach(&self, number: usize) {
        self.try_attach(number).unwrap();
    }

    pub fn try_attach(&self, number: usize) -> Result<(), host_switch::datapath::DatapathError> {
        let host = self.host.endpoint(number);
        host.reset_rings();
        self.guest_area().endpoint(number).confirm(1);
        let pairs = host.queue_pairs().iter().map(|pair| {
            let ring = number * usize::from(self.lcores) + usize::from(pair.lcore);
            QueuePairHandle {
                lcore: LcoreId(pair.lcore),
                host_to_guest: Producer::new(pair.host_to_guest, Some(self.ledger.journal(ring))),
                guest_to_host: Consumer::new(pair.guest_to_host),
                references: pair.references,
            }
        });
        self.datapath().attach(endpoint(number), pairs.collect())
    }

    pub fn counters(&self) -> CountersSnapshot {
        self.datapath().counters().unwrap()
    }

    /// Every shard accounts for every buffer, and the ledger was never asked wrongly.
    pub fn assert_conserved(&self) -> Vec<ShardReport> {
        let reports = self.datapath().audit().unwrap();
        for report in &reports {
            assert_eq!(report.findings(), [], "{report:?}");
            assert_eq!(report.sum(), u64::from(report.audit.size));
        }
        for domain in self.counters().domains {
            assert_eq!(domain.ledger_faults.total(), 0, "{:?}", domain.ledger_faults);
        }
        reports
    }

    /// Everything that entered a domain was delivered, crossed, was dropped by name, or is in somebody's hands.
    pub fn assert_nothing_vanished(&self) {
        let counters = self.counters();
        for (domain, report) in (0..).map(DomainId).zip(&counters.domains) {
            let packets = &report.packets;
            let of_domain = self.domain_of.iter().zip(&counters.endpoints).filter(|(of, _)| **of == domain);
            let held: u32 = of_domain.map(|(_, endpoint)| endpoint.held + endpoint.quarantined).sum();
            let accounted = packets.delivered
                + packets.crossed
                + packets.observed
                + packets.drops.total()
                + u64::from(held);
            assert_eq!(packets.entered, accounted, "domain {domain}: {counters:#?}");
        }
    }

    /// Waits until the counters say so.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&CountersSnapshot) -> bool) -> CountersSnapshot {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counters = self.counters();
            if is_so(&counters) {
                return counters;
            }
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}: {counters:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops the switch; every buffer is in the pool then.
    pub fn stop(mut self) {
        let reports = self.datapath.take().unwrap().stop().unwrap();
        for report in reports {
            assert!(report.is_all_home(), "{report:?}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.datapath.take());
        // A folder that stays behind harms nobody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn port(spec: &LabSpec, id: usize, device: &str) -> PortSpec {
    let paced = spec.paced && id == 0;
    PortSpec {
        id: PortId(u16::try_from(id).unwrap()),
        name: format!("port{id}"),
        device: if device == NIC { PortDevice::Nic(nic()) } else { PortDevice::Dpdk(device.to_owned()) },
        domains: spec.domains_of_port(id),
        mtu_bytes: 1500,
        rx_slots: 64,
        tx_slots: 64,
        paced: paced.then(|| {
            (0..spec.endpoints).filter(|number| !spec.observers.contains(number)).map(endpoint).collect()
        }),
        pool: spec.pool,
    }
}

/// How long a machine that is busy may take for what must come; where a check is turned off, it does not come.
const PATIENCE: Duration = Duration::from_secs(if cfg!(feature = "sabotage") { 10 } else { 60 });

/// A device that is the NIC of an untrusted guest.
pub const NIC: &str = "nic";

fn nic() -> NicSpec {
    NicSpec {
        queue_pairs: 1,
        offloads: false,
        withhold: Vec::new(),
        memory_bytes: 2 << 20,
        accept_unsealed: false,
    }
}

fn control_area(spec: &LabSpec, region: &Region, lcores: &[u16]) -> (HostArea<'static>, &'static Mapping) {
    let endpoints = (0..spec.endpoints).map(|number| EndpointSpec {
        endpoint_id: endpoint(number).0,
        service_id: endpoint(number).0,
        service_name: format!("service{number}"),
        quota_buffers: spec.quota_buffers,
        credit_buffers: spec.credit_buffers,
        references: spec.references.map_or(0, |references| references.count.into()),
        ring_slots: spec.ring_slots,
        lcores: lcores.to_vec(),
    });
    let layout = AreaLayout::plan(&AreaSpec {
        region: *region.geometry(),
        access: 0,
        features_offered: 0,
        endpoints: endpoints.collect(),
        targets: Vec::new(),
    })
    .unwrap();
    let memory = SharedMemory::create("netvm-area", layout.bytes(), Pages::Plain).unwrap();
    let area = Mapping::shared(&memory).unwrap().leak();
    // SAFETY: leaked, writable, and written by atomics only.
    let host = unsafe { HostArea::create(area.base(), area.bytes(), &layout) }.unwrap();
    (host, area)
}

pub fn forwarding(spec: &LabSpec) -> Forwarding {
    let chains = spec.chains();
    let chain_of = |port: usize| (0..).zip(&chains).find(|(_, chain)| usize::from(chain.0) == port);
    let ports = (0..spec.devices.len()).map(|port| PortForwarding {
        domains: spec.domains_of_port(port),
        chain: chain_of(port).map(|(id, _)| ChainId(id)),
    });
    let services = (0..spec.endpoints)
        .map(|_| ServiceSpec { may_target: spec.service_targets(), ..ServiceSpec::default() });
    let endpoints = (0..spec.endpoints).map(|number| EndpointForwarding {
        domain: spec.endpoint_domain(number),
        service: ServiceId(endpoint(number).0),
    });
    let path = |services: &[u16]| services.iter().map(|&service| ServiceId(service)).collect();
    let observers = spec.observers.iter().map(|&number| ServiceId(endpoint(number).0)).collect::<Vec<_>>();
    let chain = |(ingress, services, egress): &(u16, Vec<u16>, u16)| ChainSpec {
        path: path(services),
        egress: PortId(*egress),
        observers: if *ingress == 0 { observers.clone() } else { Vec::new() },
    };
    ForwardingSpec {
        ports: ports.collect(),
        services: services.collect(),
        endpoints: endpoints.collect(),
        chains: chains.iter().map(chain).collect(),
        made_in: None,
        rules: spec.rules.clone(),
        edges: spec.edges.clone(),
        flow_seed: 7,
    }
    .build()
    .unwrap()
}
