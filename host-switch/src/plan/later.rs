//! What the config language has and the datapath cannot do yet: refused by name, never accepted and ignored.

use security_domains::{Access, Config, EndpointListing, Limit};

use super::PlanError;

/// Refuses the first thing that would be ignored.
pub(super) fn refuse(config: &Config) -> Result<(), PlanError> {
    domains(config)?;
    if let Some(port) = config.ports.iter().find(|port| port.is_shared()) {
        return not_built(format!("port[{}].domains", port.name), "ports shared by domains");
    }
    if let Some(chain) = config.chains.iter().find(|chain| !chain.observers.is_empty()) {
        return not_built(format!("chain[{}].observers", chain.name), "observers");
    }
    rules(config)?;
    if !config.edges.is_empty() {
        return not_built("edge[0]", "edges between domains");
    }
    owners(config)?;
    for EndpointListing { endpoint, name, .. } in config.endpoints() {
        limit(&format!("the endpoint {name}"), endpoint.limit)?;
    }
    if !config.policies.is_empty() {
        return not_built("policy[0]", "policies against violations");
    }
    Ok(())
}

fn domains(config: &Config) -> Result<(), PlanError> {
    for domain in &config.domains {
        if domain.share != 1 {
            return not_built(format!("domain[{}].share", domain.name), "shares of domains");
        }
        limit(&format!("domain[{}]", domain.name), domain.limit)?;
    }
    Ok(())
}

fn rules(config: &Config) -> Result<(), PlanError> {
    for (position, rule) in config.rules.iter().enumerate() {
        if rule.observe.is_some() {
            return not_built(format!("rule[{position}].observe"), "observers");
        }
    }
    Ok(())
}

fn owners(config: &Config) -> Result<(), PlanError> {
    let vms = config.vms.iter().map(|vm| ("vm", &vm.name, vm.access));
    let processes = config.processes.iter().map(|process| ("process", &process.name, process.access));
    match vms.chain(processes).find(|&(.., access)| access != Access::Trusted) {
        Some((kind, name, access)) => {
            not_built(format!("{kind}[{name}].access"), &format!("access \"{access}\""))
        }
        None => Ok(()),
    }
}

fn limit(place: &str, limit: Limit) -> Result<(), PlanError> {
    if limit.is_none() { Ok(()) } else { not_built(format!("{place}: limit_pps, limit_mbit"), "rate limits") }
}

fn not_built(place: impl Into<String>, what: &str) -> Result<(), PlanError> {
    Err(PlanError::NotBuilt { place: place.into(), what: what.to_owned() })
}
