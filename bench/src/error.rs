//! What can go wrong in a benchmark.

use lab::error::LabError;

/// A benchmark that gives no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Something in the laboratory failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Fewer cores than the scenario pins.
    #[error("this scenario pins two cores, and there is {0}")]
    Cores(usize),
    /// A program of the scenario printed something else than a number.
    #[error("{program} printed {output:?}, not a rate")]
    NoRate {
        /// Which.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// The yardstick is too short.
    #[error(
        "the result is invalid: the bare ring reached {ratio:.2} of rte_ring, and must reach at least 1.0"
    )]
    Yardstick {
        /// Bare ring over rte_ring.
        ratio: f64,
    },
    /// A program that is measured does not run.
    #[error("{what} failed: {why}")]
    Backend {
        /// Which part.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// The backends cannot be compared.
    #[error("the guest took features {ours} of ours and {peer} of librte_vhost: they must be the same")]
    Features {
        /// Bits, hexadecimal.
        ours: String,
        /// Bits, hexadecimal.
        peer: String,
    },
    /// The tables did not do the same work.
    #[error("{program} found {found:.3} of its packets, not {expected:.3}")]
    Found {
        /// Which.
        program: &'static str,
        /// Share of its packets.
        found: f64,
        /// Share of both programs' packets.
        expected: f64,
    },
}
