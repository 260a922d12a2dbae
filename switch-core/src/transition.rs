//! What may become of a buffer, and what may not.
//!
//! ```text
//!            take            received           lend              quarantine
//!    Pool ─────────▶ Pmd ─────────────▶ Lcore ─────────▶ Endpoint ───────────▶ Quarantined
//!     ▲ ▲            │ ▲                │ │ ▲ ▲              │                      │
//!     │ └────────────┘ └────────────────┘ │ │ └──────────────┘                      │
//!     │      give             send        │ │    take_back                          │
//!     └───────────────────────────────────┘ └───────────────────────────────────────┘
//!                     give                                   reclaim
//! ```
//!
//! `Pmd` means "given out by the mempool": posted to a NIC, in transmission, or just allocated by the lcore.
//!
//! Observers hold nothing: their references are counted beside the state (`observe`, `unobserve`). A buffer that
//! nobody needs any more but them is `Pinned` instead of `Pool`: `give` takes it there, and the `unobserve` of the
//! last reference takes it to the pool.

use HolderState::{Endpoint, Lcore, Pinned, Pmd, Pool, Quarantined};

/// Who holds a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HolderState {
    /// On the free list.
    Pool = 0,
    /// Given out by the mempool.
    Pmd = 1,
    /// In the hands of the shard's lcore, within one burst.
    Lcore = 2,
    /// Lent to an endpoint.
    Endpoint = 3,
    /// Lent to an endpoint that is gone or silent, and not yet proven to be stopped.
    Quarantined = 4,
    /// Done with, but for observers that still look at it.
    Pinned = 5,
}

impl HolderState {
    /// Every state.
    pub const ALL: [Self; 6] = [Pool, Pmd, Lcore, Endpoint, Quarantined, Pinned];

    /// The state with this code, if there is one.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Pool),
            1 => Some(Pmd),
            2 => Some(Lcore),
            3 => Some(Endpoint),
            4 => Some(Quarantined),
            5 => Some(Pinned),
            _ => None,
        }
    }
}

/// A change of holder and the operation of [`crate::shard::Shard`] that makes it.
#[derive(Clone, Copy, Debug)]
pub struct LegalTransition {
    /// Before.
    pub from: HolderState,
    /// After.
    pub to: HolderState,
    /// The operation that does it.
    pub by: &'static str,
}

/// A change of holder that no operation makes, and why.
#[derive(Clone, Copy, Debug)]
pub struct ProhibitedTransition {
    /// Before.
    pub from: HolderState,
    /// After.
    pub to: HolderState,
    /// What would go wrong.
    pub why: &'static str,
}

const fn legal(from: HolderState, to: HolderState, by: &'static str) -> LegalTransition {
    LegalTransition { from, to, by }
}

const fn no(from: HolderState, to: HolderState, why: &'static str) -> ProhibitedTransition {
    ProhibitedTransition { from, to, why }
}

/// Every change of holder that there is while the switch runs. (`recover` rebuilds after a crash, when lcore
/// and PMD of the old process are gone: it may also bring an unpublished loan home.) A passage does `take_back` and
/// `lend` in one store ([`crate::shard::Passing::carry`]), after the checks of the first.
pub const LEGAL: [LegalTransition; 12] = [
    legal(Pool, Pmd, "take"),
    legal(Pmd, Pool, "give"),
    legal(Pmd, Lcore, "received"),
    legal(Lcore, Pmd, "send"),
    legal(Lcore, Pool, "give"),
    legal(Lcore, Endpoint, "lend"),
    legal(Endpoint, Lcore, "take_back"),
    legal(Endpoint, Quarantined, "quarantine"),
    legal(Quarantined, Lcore, "reclaim"),
    legal(Pmd, Pinned, "give"),
    legal(Lcore, Pinned, "give"),
    legal(Pinned, Pool, "unobserve"),
];

/// Every other pair of states.
pub const PROHIBITED: [ProhibitedTransition; 24] = [
    no(Pool, Pool, "freed twice: the index would stand on the free list twice and get two holders"),
    no(Pool, Lcore, "the mempool did not give it out: the free list still names it"),
    no(Pool, Endpoint, "lent without having been received: its bytes are an old packet of somebody else"),
    no(Pool, Quarantined, "nobody holds it, so there is nobody to wait for"),
    no(Pmd, Pmd, "given out twice: two NIC descriptors would write one buffer"),
    no(Pmd, Endpoint, "a NIC may be writing it, and nobody has classified the packet"),
    no(Pmd, Quarantined, "no endpoint holds it, so no proof of an endpoint's end would release it"),
    no(Lcore, Lcore, "received twice: the metadata of a packet in flight would be overwritten"),
    no(Lcore, Quarantined, "no endpoint could have written it since it came home"),
    no(Endpoint, Pool, "the endpoint may still write it; it comes home through a check or a proof"),
    no(Endpoint, Pmd, "sent on the word of a descriptor that nobody has checked"),
    no(Endpoint, Endpoint, "handed on without the host: two endpoints could name it"),
    no(Quarantined, Pool, "no proof yet that the old writer stopped"),
    no(Quarantined, Pmd, "no proof yet that the old writer stopped"),
    no(Quarantined, Endpoint, "the next holder would share it with the old writer"),
    no(Quarantined, Quarantined, "its holder is on record already; a second one would never be waited for"),
    no(Pool, Pinned, "an observer would look at a buffer that anybody may be given next"),
    no(Endpoint, Pinned, "the endpoint may still write it; it comes home through a check or a proof"),
    no(Quarantined, Pinned, "no proof yet that the old writer stopped"),
    no(Pinned, Pmd, "a NIC would write what observers still read as the old packet"),
    no(Pinned, Lcore, "the packet has gone where it went; it would go there twice"),
    no(
        Pinned,
        Endpoint,
        "the packet has gone where it went; its next holder would change what observers read",
    ),
    no(Pinned, Quarantined, "observers cannot write it, so there is nobody to wait for"),
    no(Pinned, Pinned, "freed twice: the second would wait for observers that the first has"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_states_is_either_legal_or_prohibited_with_a_reason() {
        for from in HolderState::ALL {
            for to in HolderState::ALL {
                let legal = LEGAL.iter().filter(|t| t.from == from && t.to == to).count();
                let prohibited = PROHIBITED.iter().filter(|t| t.from == from && t.to == to).count();
                assert_eq!(legal + prohibited, 1, "{from:?} to {to:?}");
            }
        }
        assert!(PROHIBITED.iter().all(|t| !t.why.is_empty()));
        assert!(LEGAL.iter().all(|t| !t.by.is_empty()));
    }

    #[test]
    fn codes_and_states_agree() {
        for state in HolderState::ALL {
            assert_eq!(HolderState::from_code(state as u8), Some(state));
        }
        assert_eq!(HolderState::from_code(6), None);
    }
}
