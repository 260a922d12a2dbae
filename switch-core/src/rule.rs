//! One ingress rule: what happens to the packets of a port that its criteria are for.

use crate::criteria::Criteria;
use crate::ids::{ChainId, PortId, ServiceId};

/// What happens to a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// It takes this chain.
    Chain(ChainId),
    /// It is dropped under [`crate::drop_reason::DropReason::RuleDrop`].
    Drop,
}

/// One ingress rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The port whose packets it looks at.
    pub port: PortId,
    /// Which of them it is for.
    pub criteria: Criteria,
    /// What happens to those.
    pub action: RuleAction,
    /// A service that is shown them besides, as they enter their chain.
    pub observe: Option<ServiceId>,
    /// What is made of them besides.
    pub replication: Option<Replication>,
}

/// Copies of a packet, which enter chains of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// A copy enters each; at most [`COPIES_MAX`].
    pub chains: Vec<ChainId>,
    /// Most copies in a second, on all lcores together.
    pub copies_per_s: u64,
}

/// Most copies of one packet.
pub const COPIES_MAX: usize = 8;

impl Rule {
    /// A rule for every packet of a port.
    #[must_use]
    pub fn for_all_of(port: PortId, action: RuleAction) -> Self {
        Self { port, criteria: Criteria::default(), action, observe: None, replication: None }
    }
}
