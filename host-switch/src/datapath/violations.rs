//! What endpoints did that no honest one does, for control to read at any time without asking an lcore.
//!
//! Each word has one writer, an lcore, and only rises. Events wake control; these words are what it judges by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use switch_core::ids::EndpointId;

/// What one endpoint did, on all lcores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViolationCounts {
    /// Refused descriptors.
    pub descriptors: u64,
    /// Ring counters that broke their invariant.
    pub counters: u64,
}

/// What one endpoint did, as one lcore saw it.
#[derive(Debug, Default)]
pub(super) struct EndpointViolations {
    descriptors: AtomicU64,
    counters: AtomicU64,
}

impl EndpointViolations {
    pub(super) fn count_descriptor(&self) {
        count(&self.descriptors);
    }

    pub(super) fn count_counter(&self) {
        count(&self.counters);
    }
}

/// Relaxed, and no read-modify-write: one thread writes the word, and nothing else is read by its value.
fn count(word: &AtomicU64) {
    word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// By lcore, then by endpoint.
#[derive(Debug)]
pub(super) struct Violations(Vec<Vec<Arc<EndpointViolations>>>);

impl Violations {
    pub(super) fn new(lcores: usize, endpoints: usize) -> Self {
        let lcore = || (0..endpoints).map(|_| Arc::default()).collect();
        Self((0..lcores).map(|_| lcore()).collect())
    }

    pub(super) fn by_lcore(&self) -> &[Vec<Arc<EndpointViolations>>] {
        &self.0
    }

    pub(super) fn of(&self, endpoint: EndpointId) -> ViolationCounts {
        let parts = self.0.iter().filter_map(|lcore| lcore.get(endpoint.index()));
        parts.fold(ViolationCounts::default(), |sum, part| ViolationCounts {
            descriptors: sum.descriptors + part.descriptors.load(Ordering::Relaxed),
            counters: sum.counters + part.counters.load(Ordering::Relaxed),
        })
    }
}
