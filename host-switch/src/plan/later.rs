//! What the config language has and the datapath cannot do yet: refused by name, never accepted and ignored.

use security_domains::{Access, Config};

use super::PlanError;

/// Refuses the first thing that would be ignored.
pub(super) fn refuse(config: &Config) -> Result<(), PlanError> {
    let vms = config.vms.iter().map(|vm| ("vm", &vm.name, vm.access));
    let processes = config.processes.iter().map(|process| ("process", &process.name, process.access));
    let is_later = |access| access == Access::Observer;
    match vms.chain(processes).find(|&(.., access)| is_later(access)) {
        Some((kind, name, access)) => {
            not_built(format!("{kind}[{name}].access"), &format!("access \"{access}\""))
        }
        None => Ok(()),
    }
}

fn not_built(place: impl Into<String>, what: &str) -> Result<(), PlanError> {
    Err(PlanError::NotBuilt { place: place.into(), what: what.to_owned() })
}
