//! What violations lead to, as the config says.

use security_domains::{Config, Owner, PolicyAction, Violation};

use crate::control::policy::{Action, Policy};
use crate::control::violation::ViolationKind;

pub(super) fn policies(config: &Config) -> Vec<Policy> {
    let policy = |policy: &security_domains::Policy| Policy {
        violation: kind(policy.violation),
        owner: policy.owner.map(|owner| match owner {
            Owner::Vm(id) => config.vms[id.index()].name.clone(),
            Owner::Process(id) => config.processes[id.index()].name.clone(),
        }),
        action: match policy.action {
            PolicyAction::Count => Action::Count,
            PolicyAction::Throttle => Action::Throttle { for_ms: policy.throttle_ms.into() },
            PolicyAction::Detach => Action::Detach { for_s: policy.detach_s },
            PolicyAction::Kill => Action::Kill { for_s: policy.detach_s },
        },
        threshold: policy.threshold.into(),
        window_s: policy.window_s.into(),
    };
    config.policies.iter().map(policy).collect()
}

fn kind(violation: Violation) -> Option<ViolationKind> {
    match violation {
        Violation::Descriptor => Some(ViolationKind::Descriptor),
        Violation::Counter => Some(ViolationKind::Counter),
        Violation::Epoch => Some(ViolationKind::Epoch),
        Violation::Control => Some(ViolationKind::Control),
        Violation::Any => None,
    }
}
