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
}

impl Rule {
    /// A rule for every packet of a port.
    #[must_use]
    pub fn for_all_of(port: PortId, action: RuleAction) -> Self {
        Self { port, criteria: Criteria::default(), action, observe: None }
    }
}
