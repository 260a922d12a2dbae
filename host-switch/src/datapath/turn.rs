//! An lcore's cycles, shared among its domains.

use switch_core::ids::DomainId;
use switch_core::share::Shares;

use super::lcore::Lcore;

/// Cycles that a domain of the least weight gets in a round: about what a visit with full bursts costs.
const QUANTUM_CYCLES: u32 = 20_000;

/// Shares of domains of these weights; a lone domain has the lcore to itself, and nobody looks at the clock.
pub(super) fn shares(weights: &[u16]) -> Option<Shares> {
    (weights.len() > 1).then(|| Shares::new(weights, QUANTUM_CYCLES))
}

impl Lcore {
    /// Visits a domain, if it has credit left, and charges it what the visit has cost.
    pub(super) fn visit_in_share(&mut self, domain: usize) -> usize {
        let id = self.domains[domain].state.id;
        if !self.may_run(id) {
            return 0;
        }
        let start = cycles();
        let moved = self.visit(domain);
        let cost = cycles().wrapping_sub(start);
        if let Some(shares) = &mut self.shares {
            shares.charge(id, cost);
            if moved == 0 {
                shares.rest(id);
            }
        }
        moved
    }

    fn may_run(&self, domain: DomainId) -> bool {
        cfg!(feature = "sabotage-shares") || self.shares.as_ref().is_none_or(|shares| shares.may_run(domain))
    }
}

/// A count that rises with time at a steady rate.
#[inline]
pub(super) fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has a time stamp counter, and Linux lets programs read it; it touches no memory.
    let count = unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    let count = {
        use std::sync::LazyLock;
        use std::time::Instant;
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
    };
    count
}
