//! What the control area of each VM and process holds.

use std::path::{Path, PathBuf};

use security_domains::{Config, EndpointListing, Owner, Target};
use shm_ring::area::{AreaSpec, EndpointSpec, RegionGeometry, TargetKind, TargetSpec};
use shm_ring::layout::FEATURES_KNOWN;
use switch_core::ids::{DomainId, EndpointId};

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

    /// Its endpoints, in the order of its control area.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> {
        self.endpoints.iter().map(|endpoint| EndpointId(endpoint.endpoint_id))
    }
}

/// All owners: VMs, then processes, in file order.
pub(super) fn owners(config: &Config) -> Vec<OwnerPlan> {
    let listings = config.endpoints();
    let plan = |owner: Owner, name: &str, domain: security_domains::DomainId| {
        let own: Vec<_> = listings.iter().filter(|listing| listing.owner == owner).collect();
        OwnerPlan {
            name: name.to_owned(),
            kind: super::client_kind(owner),
            domain: DomainId(domain.0),
            read_only: false,
            path: config.domains[domain.index()].path.as_deref().map(|path| beside(path, name)),
            endpoints: own.iter().map(|listing| endpoint(config, listing)).collect(),
            targets: targets(config, &own),
        }
    };
    let vms = (0..)
        .zip(&config.vms)
        .map(|(id, vm)| plan(Owner::Vm(security_domains::VmId(id)), &vm.name, vm.domain));
    let processes = (0..).zip(&config.processes).map(|(id, process)| {
        plan(Owner::Process(security_domains::ProcessId(id)), &process.name, process.domain)
    });
    vms.chain(processes).collect()
}

/// Where the control area of an owner lies when the region has a name.
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
