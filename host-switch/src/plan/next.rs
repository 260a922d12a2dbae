//! The plan that follows another one while the switch runs, and what the lcores have to do for it.

use std::time::Duration;

use security_domains::Config;
use switch_core::ids::{ChainId, DomainId, EndpointId, PortId};
use switch_core::snapshot::SnapshotError;

use super::{Plan, PlanError};
use crate::datapath::DatapathChange;

/// How long a port whose packets go other ways waits for those that are on their way, at most.
pub const HOLD_MAX: Duration = Duration::from_millis(250);

impl Plan {
    /// Chains that nothing enters; of these, [`Plan::next`] wants to know which ones packets are on.
    #[must_use]
    pub fn unentered(&self) -> Vec<ChainId> {
        self.numbered.unentered().into_iter().map(|id| ChainId(id.0)).collect()
    }

    /// The plan for a config that differs from this one in nothing that needs a restart. What stays keeps its
    /// numbers. `carried` are the chains, among [`Plan::unentered`], that packets are on.
    ///
    /// # Errors
    /// If the config asks for more than the layout or the forwarding can express, or has other things than this
    /// one where that needs a restart.
    pub fn next(&self, config: &Config, carried: &[ChainId]) -> Result<Self, PlanError> {
        let carried: Vec<_> = carried.iter().map(|id| security_domains::ChainId(id.0)).collect();
        let plan = |lingering| {
            let numbered = self.numbered.then(config, &carried, lingering).ok_or(PlanError::Numbers)?;
            Self::of(numbered, self.flow_seed)
        };
        match plan(true) {
            // A chain that packets are still on may lead where nothing leads any more. They end there.
            Err(PlanError::Forwarding(SnapshotError::CrossesDomains { .. })) => plan(false),
            planned => planned,
        }
    }

    /// What the lcores have to do, so that it goes on as `next` says.
    #[must_use]
    pub fn change_to(&self, next: &Self) -> DatapathChange {
        let tables = DatapathChange::of_tables(
            &self.forwarding,
            next.forwarding.clone(),
            self.rerouted(next),
            HOLD_MAX,
        );
        let ports = next.ports.iter().zip(&self.ports).filter(|(next, port)| next.paced != port.paced);
        let shares = |plan: &Self| plan.domains.iter().map(|domain| domain.share.max(1)).collect::<Vec<_>>();
        let domains = (0..).map(DomainId).zip(next.domains.iter().zip(&self.domains));
        let domain_limits = domains.filter(|(_, (next, domain))| next.limit != domain.limit);
        let endpoints = (0..).map(EndpointId).zip(next.endpoints.iter().zip(&self.endpoints));
        let endpoint_limits =
            endpoints.filter(|(_, (next, endpoint))| next.datapath.limit != endpoint.datapath.limit);
        let idle = |plan: &Self| plan.lcores.first().map(|lcore| lcore.idle);
        DatapathChange {
            paced: ports.map(|(next, _)| (next.id, next.paced.clone())).collect(),
            shares: Some(shares(next)).filter(|next| *next != shares(self)),
            domain_limits: domain_limits.map(|(id, (next, _))| (id, next.limit)).collect(),
            endpoint_limits: endpoint_limits.map(|(id, (next, _))| (id, next.datapath.limit)).collect(),
            idle: idle(next).filter(|_| idle(next) != idle(self)),
            ..tables
        }
    }

    /// Ports some of whose packets go other ways in `next`: a chain that is another one has another number.
    fn rerouted(&self, next: &Self) -> Vec<PortId> {
        let (old, new) = (&self.numbered.config, &next.numbered.config);
        let ways = |config: &Config, port: u16| {
            let rules = config.rules.iter().filter(|rule| rule.port.0 == port);
            let rules: Vec<_> = rules.map(|rule| (rule.flows, rule.action)).collect();
            (config.ports[usize::from(port)].chain, rules)
        };
        let ports = (0..).take(new.ports.len()).filter(|&port| ways(old, port) != ways(new, port));
        ports.map(PortId).collect()
    }
}
