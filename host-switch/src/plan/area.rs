//! What the control area of each VM and process holds.

use std::path::{Path, PathBuf};

use security_domains::{Access, Config, EndpointListing, HiddenDomain, Owner, ProcessId, Target, VmId};
use shm_ring::area::{AreaSpec, EndpointSpec, RegionGeometry, TargetKind, TargetSpec};
use shm_ring::layout::FEATURES_KNOWN;
use switch_core::ids::{DomainId, EndpointId, PortId};

use crate::control::protocol::ClientKind;

/// One VM or process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerPlan {
    /// Its name.
    pub name: String,
    /// Which of the two it is.
    pub kind: ClientKind,
    /// Its domain.
    pub domain: DomainId,
    /// Whether it gets the region read-only.
    pub read_only: bool,
    /// The file of its control area, if others are to find it.
    pub path: Option<PathBuf>,
    /// The ports that are its NICs; an untrusted VM has these and no endpoints.
    pub nics: Vec<PortId>,
    endpoints: Vec<EndpointSpec>,
    targets: Vec<TargetSpec>,
}

impl OwnerPlan {
    /// Its control area, once the region of its domain is known.
    #[must_use]
    pub fn area(&self, region: RegionGeometry) -> AreaSpec {
        AreaSpec {
            region,
            access: u16::from(self.read_only),
            features_offered: FEATURES_KNOWN,
            endpoints: self.endpoints.clone(),
            targets: self.targets.clone(),
        }
    }

    /// Whether it maps nothing of the switch.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Its endpoints, in the order of its control area.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> {
        self.endpoints.iter().map(|endpoint| EndpointId(endpoint.endpoint_id))
    }
}

/// All owners: VMs, then processes, in file order.
pub(super) fn owners(config: &Config) -> Vec<OwnerPlan> {
    let listings = config.endpoints();
    let vms = (0..).map(VmId).zip(&config.vms);
    let vms = vms.map(|(id, vm)| (Owner::Vm(id), &vm.name, vm.access, vm.domain, &vm.nics[..]));
    let processes = (0..).map(ProcessId).zip(&config.processes);
    let processes = processes
        .map(|(id, process)| (Owner::Process(id), &process.name, process.access, process.domain, &[][..]));
    let plan = |(owner, name, access, domain, nics): (
        _,
        &String,
        _,
        security_domains::DomainId,
        &[security_domains::PortId],
    )| {
        let own: Vec<_> = listings.iter().filter(|listing| listing.owner == owner).collect();
        // All of its endpoints are in one domain; an untrusted VM has none, and no region of its own.
        let region = own.first().map_or(domain, |first| first.region);
        let path = config.domains[domain.index()].path.as_deref().filter(|_| !own.is_empty());
        OwnerPlan {
            name: name.clone(),
            kind: super::client_kind(owner),
            domain: DomainId(region.0),
            read_only: access == Access::Observer,
            path: path.map(|path| beside(path, name)),
            nics: nics.iter().map(|port| PortId(port.0)).collect(),
            endpoints: own.iter().map(|listing| endpoint(config, listing)).collect(),
            targets: targets(config, &own),
        }
    };
    vms.chain(processes).map(plan).collect()
}

/// Where a hidden region lies when that of its declared domain has a name: beside the control area of its owner.
pub(super) fn private_region_path(config: &Config, hidden: &HiddenDomain) -> Option<PathBuf> {
    let owner = match hidden.owner {
        Owner::Vm(id) => &config.vms[id.index()].name,
        Owner::Process(id) => &config.processes[id.index()].name,
    };
    let region = config.domains[hidden.parent.index()].path.as_deref();
    region.map(|region| beside(region, &format!("{owner}.region")))
}

/// Where what belongs to an owner lies when the region has a name.
fn beside(region: &Path, owner: &str) -> PathBuf {
    let mut path = region.as_os_str().to_owned();
    path.push(".");
    path.push(owner);
    path.into()
}

/// Every endpoint has a queue pair with every lcore: a flow meets whichever lcore its hash says.
fn endpoint(config: &Config, listing: &EndpointListing<'_>) -> EndpointSpec {
    let endpoint = listing.endpoint;
    EndpointSpec {
        endpoint_id: endpoint.id.0,
        service_id: endpoint.service.0,
        service_name: config.services[endpoint.service.index()].name.clone(),
        quota_buffers: endpoint.quota_buffers,
        credit_buffers: endpoint.credit_buffers,
        references: super::references(config, listing).map_or(0, |references| references.count.into()),
        ring_slots: endpoint.ring_slots,
        lcores: (0..).zip(&config.switch.lcores).map(|(lcore, _)| lcore).collect(),
    }
}

/// What the services of an owner may name, each once. The rights themselves are checked in forwarding: this
/// table only tells names.
fn targets(config: &Config, own: &[&EndpointListing<'_>]) -> Vec<TargetSpec> {
    let mut targets: Vec<TargetSpec> = Vec::new();
    for target in own.iter().flat_map(|listing| &config.services[listing.endpoint.service.index()].may_target)
    {
        let (kind, id, name) = match *target {
            Target::Service(id) => (TargetKind::Service, id.0, &config.services[id.index()].name),
            Target::Port(id) => (TargetKind::Port, id.0, &config.ports[id.index()].name),
        };
        let spec = TargetSpec { kind, id, name: name.clone() };
        if !targets.contains(&spec) {
            targets.push(spec);
        }
    }
    targets
}
