//! A whole datapath in one process: a region, a ledger, ports, and guests that are threads.
//!
//! The EAL starts without hugepages. A guest is a thread with the guest's ends of the rings and its own
//! behaviour; it reaches the region through the same mapping as the switch, as a real one would through its own.
#![allow(dead_code, reason = "each test binary uses its own part of the lab")]
#![allow(clippy::unwrap_used, reason = "a lab that does not come up is a failed test")]

pub mod capture;
pub mod guest;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dpdk::{Eal, EalOptions, LogLevel};
use host_switch::datapath::{
    CountersSnapshot, Datapath, DatapathSpec, DomainSpec, EndpointDatapathSpec, Idle, LcoreSpec, PortPool,
    PortSpec, QueuePairHandle, ShardReport,
};
use host_switch::region::{LedgerFile, Mapping, Pages, Region, ShardSize, SharedMemory};
use shm_ring::area::{AreaLayout, AreaSpec, EndpointSpec, GuestArea, HostArea};
use shm_ring::ring::{Consumer, Producer};
use switch_core::forwarding::Forwarding;
use switch_core::ids::{ChainId, DomainId, EndpointId, LcoreId, PortId, ServiceId};
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
        }
    }
}

/// The running switch and what the test may touch of it.
pub struct Lab {
    pub datapath: Option<Datapath>,
    pub region: Region,
    pub host: HostArea<'static>,
    area: &'static Mapping,
    ledger: LedgerFile,
    lcores: u16,
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
        let region = Region::create("blue", spec.region_bytes, 2368, Pages::Plain).unwrap();
        let lcores: Vec<u16> = (0..spec.lcores).collect();
        let (host, area) = control_area(spec, &region, &lcores);
        let sizes = ShardSize::split(0, region.geometry().buffer_count, &lcores);
        let rings = spec.endpoints * lcores.len();
        let mut ledger = LedgerFile::create(&folder.join("ledger"), &sizes, rings).unwrap();
        let domain = DomainSpec {
            id: DomainId(0),
            name: "blue".to_owned(),
            region: region.mapping(),
            geometry: *region.geometry(),
            shards: std::mem::take(&mut ledger.shards),
        };
        let endpoints = (0..spec.endpoints).map(|number| EndpointDatapathSpec {
            id: endpoint(number),
            domain: DomainId(0),
            quota_buffers: spec.quota_buffers,
            credit_buffers: spec.credit_buffers,
        });
        let datapath = Datapath::start(
            &eal,
            DatapathSpec {
                lcores: lcores
                    .iter()
                    .map(|&id| LcoreSpec { id: LcoreId(id), cpu: None, idle: spec.idle })
                    .collect(),
                domains: vec![domain],
                ports: spec.devices.iter().enumerate().map(|(id, device)| port(spec, id, device)).collect(),
                endpoints: endpoints.collect(),
                forwarding: Arc::new(forwarding(spec)),
            },
        );
        let datapath = Some(datapath.unwrap());
        Self { datapath, region, host, area, ledger, lcores: spec.lcores, folder }
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

    /// Waits until the counters say so.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&CountersSnapshot) -> bool) -> CountersSnapshot {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let counters = self.counters();
            if is_so(&counters) {
                return counters;
            }
            assert!(Instant::now() < deadline, "waited 20 s until {what}: {counters:#?}");
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
        devargs: device.to_owned(),
        domain: DomainId(0),
        mtu_bytes: 1500,
        rx_slots: 64,
        tx_slots: 64,
        paced: paced.then(|| spec.path.iter().map(|&service| EndpointId(service)).collect()),
        pool: spec.pool,
    }
}

fn control_area(spec: &LabSpec, region: &Region, lcores: &[u16]) -> (HostArea<'static>, &'static Mapping) {
    let endpoints = (0..spec.endpoints).map(|number| EndpointSpec {
        endpoint_id: endpoint(number).0,
        service_id: endpoint(number).0,
        service_name: format!("service{number}"),
        quota_buffers: spec.quota_buffers,
        credit_buffers: spec.credit_buffers,
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

fn forwarding(spec: &LabSpec) -> Forwarding {
    let ports = (0..spec.devices.len())
        .map(|port| PortForwarding { domains: vec![DomainId(0)], chain: (port == 0).then_some(ChainId(0)) });
    let services = (0..spec.endpoints)
        .map(|_| ServiceSpec { may_target: vec![Target::Port(PortId(0))], ..ServiceSpec::default() });
    let endpoints = (0..spec.endpoints)
        .map(|number| EndpointForwarding { domain: DomainId(0), service: ServiceId(endpoint(number).0) });
    let egress = PortId(u16::from(spec.devices.len() > 1));
    let path = spec.path.iter().map(|&service| ServiceId(service)).collect();
    ForwardingSpec {
        ports: ports.collect(),
        services: services.collect(),
        endpoints: endpoints.collect(),
        chains: vec![ChainSpec { path, egress }],
        flow_seed: 7,
        ..ForwardingSpec::default()
    }
    .build()
    .unwrap()
}
