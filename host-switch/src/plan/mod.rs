//! Turns a checked config into everything concrete that the switch starts with.
//!
//! Pure: nothing here opens a file or reserves memory, so that each decision is a test.

mod area;
mod difference;
mod edge;
mod effect;
mod forward;
mod next;
mod numbers;
mod objects;
mod policy;
mod port;

use std::path::PathBuf;
use std::sync::Arc;

use flow_table::Limits;
use security_domains::{
    Config, EndpointListing, HiddenDomain, Idle as IdleWord, Owner, Pages as PagesWord, Switch,
};
use shm_ring::area::{AreaError, AreaLayout};
use switch_core::forwarding::Forwarding;
use switch_core::ids::{DomainId, EndpointId, LcoreId};
use switch_core::rate::RateSpec;
use switch_core::snapshot::SnapshotError;

use crate::control::policy::Policy;
use crate::control::protocol::ClientKind;
use crate::datapath::{EndpointDatapathSpec, Idle, LcoreSpec, PortSpec, ReferenceSpec};
use crate::region::{Pages, ShardSize};

pub use area::OwnerPlan;
pub use difference::{Change, Difference, KeyChange, Line};
pub use effect::Effect;
pub use numbers::{Numbered, Numbers};
pub use objects::{Kind, Object, objects};

/// Why a config that is legal by itself cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The rings of an owner do not fit the layout.
    #[error(
        "control area of {owner}: {source}; lower ring_slots, quota_buffers or the number of its endpoints"
    )]
    Area {
        /// VM or process.
        owner: String,
        /// Which rule.
        source: AreaError,
    },
    /// The config has other things than the one that runs.
    #[error(
        "it has other domains, ports, VMs or processes than the config that runs, or more chains than have numbers"
    )]
    Numbers,
    /// The datapath could not follow the config.
    #[error("forwarding: {0}")]
    Forwarding(#[from] SnapshotError),
}

/// Everything that the switch starts with, but for memory and devices.
#[derive(Debug)]
pub struct Plan {
    /// Polling threads.
    pub lcores: Vec<LcoreSpec>,
    /// Domains.
    pub domains: Vec<DomainPlan>,
    /// Ports.
    pub ports: Vec<PortSpec>,
    /// Endpoints.
    pub endpoints: Vec<EndpointPlan>,
    /// VMs, then processes.
    pub owners: Vec<OwnerPlan>,
    /// What violations lead to.
    pub policies: Vec<Policy>,
    /// How many flows each lcore remembers, and for how long; none: it remembers none.
    pub flows: Option<Limits>,
    /// Where packets go.
    pub forwarding: Arc<Forwarding>,
    /// The config with the numbers that all of the above is said in.
    pub numbered: Numbered,
    flow_seed: u64,
}

/// One domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainPlan {
    /// Its name.
    pub name: String,
    /// Size of its region.
    pub region_bytes: u64,
    /// Distance between its buffers.
    pub buffer_stride_bytes: u32,
    /// Buffers in its region.
    pub buffer_count: u32,
    /// Pages of its region.
    pub pages: Pages,
    /// The file of its region, if others are to find it.
    pub path: Option<PathBuf>,
    /// Its weight where domains compete.
    pub share: u16,
    /// How much may enter it.
    pub limit: Option<RateSpec>,
    /// The domain whose limit that is: its own id, or that of the one that it is hidden in.
    pub limited_with: DomainId,
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct EndpointPlan {
    /// What the datapath knows of it.
    pub datapath: EndpointDatapathSpec,
    /// `owner/service`.
    pub name: String,
    /// The VM or process it lives in.
    pub owner: String,
    /// Which of the two that is.
    pub kind: ClientKind,
    /// Name of its service.
    pub service: String,
}

impl Plan {
    /// Plans for a config. `flow_seed` is a secret number that keys the flow hash.
    ///
    /// # Errors
    /// If the config asks for more than the layout or the forwarding can express.
    pub fn new(config: &Config, flow_seed: u64) -> Result<Self, PlanError> {
        Self::of(Numbered::first(config), flow_seed)
    }

    fn of(numbered: Numbered, flow_seed: u64) -> Result<Self, PlanError> {
        let config = &numbered.config;
        let forwarding = Arc::new(forward::forwarding(&numbered, flow_seed)?);
        let plan = Self {
            lcores: lcores(config),
            domains: domains(config),
            ports: port::ports(config, &forwarding),
            endpoints: endpoints(config),
            owners: area::owners(config),
            policies: policy::policies(config),
            flows: flows(&config.switch),
            forwarding,
            flow_seed,
            numbered,
        };
        plan.check_areas()?;
        Ok(plan)
    }

    /// The shards of a domain, one for each lcore in their order.
    #[must_use]
    pub fn shards(&self, domain: DomainId) -> Vec<ShardSize> {
        let lcores: Vec<u16> = self.lcores.iter().map(|lcore| lcore.id.0).collect();
        ShardSize::split(domain.0, self.domains[domain.index()].buffer_count, &lcores)
    }

    /// How many journal words the ledger file needs: one for each ring from an lcore to an endpoint.
    #[must_use]
    pub fn journal_count(&self) -> usize {
        self.endpoints.len() * self.lcores.len()
    }

    /// Which journal word belongs to the ring from an lcore to an endpoint.
    #[must_use]
    pub fn journal_word(&self, endpoint: EndpointId, lcore: u16) -> usize {
        endpoint.index() * self.lcores.len() + usize::from(lcore)
    }

    /// Lays every control area out once with a stand-in cookie, so that a refusal comes before memory is taken.
    fn check_areas(&self) -> Result<(), PlanError> {
        for owner in self.owners.iter().filter(|owner| !owner.is_untrusted()) {
            let domain = &self.domains[owner.domain.index()];
            let fit = shm_ring::area::RegionGeometry::fit(domain.region_bytes, domain.buffer_stride_bytes, 0);
            fit.and_then(|geometry| AreaLayout::plan(&owner.area(geometry)))
                .map_err(|source| PlanError::Area { owner: owner.name.clone(), source })?;
        }
        Ok(())
    }
}

fn lcores(config: &Config) -> Vec<LcoreSpec> {
    let idle = match config.switch.idle {
        IdleWord::Spin => Idle::Spin,
        IdleWord::Yield => Idle::Yield,
        IdleWord::Sleep => Idle::Sleep,
    };
    (0..)
        .zip(&config.switch.lcores)
        .map(|(id, &cpu)| LcoreSpec { id: LcoreId(id), cpu: Some(usize::from(cpu)), idle })
        .collect()
}

fn flows(switch: &Switch) -> Option<Limits> {
    let limits = Limits {
        idle_ms: switch.flow_idle_s.saturating_mul(1000),
        unanswered_idle_ms: switch.flow_unanswered_s.saturating_mul(1000),
        ..Limits::for_flows(switch.flows)
    };
    (switch.flows > 0).then_some(limits)
}

/// The declared domains, then the hidden ones.
fn domains(config: &Config) -> Vec<DomainPlan> {
    let hidden = config.hidden_domains();
    let share = |parent: usize| share(config.domains[parent].share, parent, &hidden);
    let declared = (0_u16..).zip(&config.domains).map(|(id, domain)| DomainPlan {
        name: domain.name.clone(),
        region_bytes: domain.region_bytes(),
        buffer_stride_bytes: domain.buffer_stride_bytes,
        buffer_count: count(domain.buffer_count()),
        pages: pages(domain.pages),
        path: domain.path.clone(),
        share: share(usize::from(id)),
        limit: edge::rate(domain.limit),
        limited_with: DomainId(id),
    });
    let private = hidden.iter().map(|hidden| DomainPlan {
        name: hidden.name.clone(),
        region_bytes: hidden.region_bytes(),
        buffer_stride_bytes: hidden.buffer_stride_bytes,
        buffer_count: count(hidden.buffer_count()),
        pages: pages(hidden.pages),
        path: area::private_region_path(config, hidden),
        share: share(hidden.parent.index()),
        limit: None,
        limited_with: DomainId(hidden.parent.0),
    });
    declared.chain(private).collect()
}

/// The weight of a declared domain and of each one hidden in it: together they have the share of the declared
/// one, so that nobody gets more of an lcore by copying.
fn share(share: u16, parent: usize, hidden: &[HiddenDomain]) -> u16 {
    if hidden.is_empty() {
        return share;
    }
    let regions = 1 + hidden.iter().filter(|hidden| hidden.parent.index() == parent).count();
    // 60 is divided evenly by most small numbers, and 1000 × 60 is a u16.
    let part = usize::from(share) * 60 / regions;
    u16::try_from(part).unwrap_or(u16::MAX).max(1)
}

/// A region of at most 2⁴⁰ bytes holds fewer than 2³² buffers.
fn count(buffers: u64) -> u32 {
    u32::try_from(buffers).unwrap_or(u32::MAX)
}

fn pages(word: PagesWord) -> Pages {
    match word {
        PagesWord::Hugetlb => Pages::Hugetlb,
        PagesWord::Plain => Pages::Plain,
        PagesWord::HugetlbOrPlain => Pages::HugetlbOrPlain,
    }
}

fn endpoints(config: &Config) -> Vec<EndpointPlan> {
    let plan = |listing: EndpointListing<'_>| EndpointPlan {
        datapath: EndpointDatapathSpec {
            id: EndpointId(listing.endpoint.id.0),
            domain: DomainId(listing.region.0),
            quota_buffers: listing.endpoint.quota_buffers,
            credit_buffers: listing.endpoint.credit_buffers,
            observes: config.services[listing.endpoint.service.index()].observes,
            references: references(config, &listing),
            limit: edge::rate(listing.endpoint.limit),
        },
        service: config.services[listing.endpoint.service.index()].name.clone(),
        owner: listing.owner_name.to_owned(),
        kind: client_kind(listing.owner),
        name: listing.name,
    };
    config.endpoints().into_iter().map(plan).collect()
}

/// What an observer of its domain's region may have references to: its lcores share them, and each brings at least
/// one.
fn references(config: &Config, listing: &EndpointListing<'_>) -> Option<ReferenceSpec> {
    let pins = config.pins(listing.owner)?;
    let count = pins.buffers_of_lcore(config.switch.lcores.len());
    Some(ReferenceSpec { count, lifetime_ms: pins.ms_max })
}

fn client_kind(owner: Owner) -> ClientKind {
    match owner {
        Owner::Vm(_) => ClientKind::Vm,
        Owner::Process(_) => ClientKind::Process,
    }
}

#[cfg(test)]
mod tests;
