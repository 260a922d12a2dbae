//! Who holds every buffer of a shard, as its own lcore counts it between two bursts.

use switch_core::audit::{AuditFinding, InHand, ShardAudit};
use switch_core::ids::{DomainId, LcoreId};

/// One shard. Each term is counted by itself: the pool by walking the free list, the PMDs' and the endpoints'
/// by walking the ledger, the lcore's by counting what it has in its hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardReport {
    /// The domain.
    pub domain: DomainId,
    /// The lcore.
    pub lcore: LcoreId,
    /// What the ledger says.
    pub audit: ShardAudit,
    /// Buffers in the lcore's own containers: packets on their way to a port.
    pub lcore_in_hand: u32,
    /// References that its observers have, as the lcore counts them.
    pub references: u64,
}

impl ShardReport {
    /// All terms together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        // The lcore's term is its own count, not the ledger's marks: a buffer that it lost is missing here.
        self.audit.sum() - u64::from(self.audit.lcore) + u64::from(self.lcore_in_hand)
    }

    /// Everything that is wrong; empty when each buffer is accounted for.
    #[must_use]
    pub fn findings(&self) -> Vec<AuditFinding> {
        let in_hand = InHand { lcore: self.lcore_in_hand, pmd: None, references: Some(self.references) };
        let mut findings = self.audit.findings(in_hand);
        if self.sum() != u64::from(self.audit.size) && self.audit.sum() == u64::from(self.audit.size) {
            findings.push(AuditFinding::Sum { sum: self.sum(), size: self.audit.size });
        }
        findings
    }

    /// Whether every buffer is in the pool.
    #[must_use]
    pub fn is_all_home(&self) -> bool {
        self.findings().is_empty() && self.audit.pool == self.audit.size
    }
}
