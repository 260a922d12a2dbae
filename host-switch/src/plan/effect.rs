//! What a difference between two configs takes: a running switch can do it, or it has to be started anew, and why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::objects::Kind;

/// What it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "takes", content = "because", rename_all = "lowercase")]
pub enum Effect {
    /// The running switch does it.
    Live,
    /// The running switch does it, and there is something to know.
    Note(String),
    /// Only a switch that starts with it.
    Restart(String),
}

impl Effect {
    /// Of something that is new or gone.
    #[must_use]
    pub fn of_object(kind: Kind) -> Self {
        match kind {
            Kind::Chain | Kind::Rule | Kind::Edge | Kind::Policy => Self::Live,
            // Whether there is somebody for a service is the endpoints' affair.
            Kind::Service => Self::Live,
            Kind::Domain => restart("its region is laid out and handed to DPDK when the switch starts"),
            Kind::Port => restart("its device is opened and given to the lcores when the switch starts"),
            Kind::Vm | Kind::Process | Kind::Endpoint => {
                restart("its control area and rings are laid out when the switch starts")
            }
            Kind::Switch => restart("it is the switch itself"),
        }
    }

    /// Of a key with another value.
    #[must_use]
    pub fn of_key(kind: Kind, key: &str) -> Self {
        match (kind, key) {
            (Kind::Chain | Kind::Rule | Kind::Edge | Kind::Policy, _)
            | (Kind::Switch, "idle")
            | (Kind::Domain, "share" | "limit_pps" | "limit_mbit")
            | (Kind::Port, "chain" | "paced")
            | (Kind::Endpoint, "limit_pps" | "limit_mbit")
            | (Kind::Service, "when_dead") => Self::Live,
            (Kind::Service, "may_target") => Self::Note(
                "the right holds at once; its NFs learn the name of a new target when the switch starts anew"
                    .to_owned(),
            ),
            (
                Kind::Vm,
                "kernel" | "initramfs" | "disk" | "kernel_args" | "files" | "vcpus" | "qemu_extra",
            )
            | (Kind::Endpoint, "nf" | "args" | "files") => {
                Self::Note("when the VM is booted next".to_owned())
            }
            (Kind::Switch, "lcores") => {
                restart("threads are started and buffers divided among them when the switch starts")
            }
            (Kind::Switch, "flows" | "flow_idle_s" | "flow_unanswered_s") => {
                restart("the memory of flows is laid out when the switch starts")
            }
            (Kind::Switch, "name") => restart("its runtime directory is claimed when the switch starts"),
            (Kind::Domain, _) => restart("the region is laid out when the switch starts"),
            (Kind::Port, _) => restart("its device is opened with it when the switch starts"),
            (Kind::Vm | Kind::Process, _) => restart("its memory is laid out for it when the switch starts"),
            (Kind::Endpoint, _) => restart("its rings are laid out with it when the switch starts"),
            // A key that this version cannot have looked at.
            (Kind::Switch | Kind::Service, _) => restart("nothing but the start of the switch reads it"),
        }
    }

    /// Whether a running switch cannot do it.
    #[must_use]
    pub const fn needs_restart(&self) -> bool {
        matches!(self, Self::Restart(_))
    }
}

fn restart(because: &str) -> Effect {
    Effect::Restart(because.to_owned())
}
