//! How much a table may hold, and for how long.

use thiserror::Error;

/// Bounds of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most flows.
    pub flows: u32,
    /// Most of them that are unanswered.
    pub unanswered: u32,
    /// An answered flow without a packet for so long ends.
    pub idle_ms: u32,
    /// An unanswered one does after this.
    pub unanswered_idle_ms: u32,
    /// Any flow ends when its first packet is so long ago.
    pub hard_ms: Option<u32>,
}

impl Limits {
    /// A quarter for unanswered flows, five minutes, half a minute, no hard end.
    #[must_use]
    pub const fn for_flows(flows: u32) -> Self {
        let unanswered = if flows < 4 { 1 } else { flows / 4 };
        Self { flows, unanswered, idle_ms: 300_000, unanswered_idle_ms: 30_000, hard_ms: None }
    }

    /// Refuses what no table could keep to.
    pub(crate) fn check(&self) -> Result<(), SetupError> {
        if self.flows == 0 || self.unanswered == 0 || self.unanswered > self.flows {
            return Err(SetupError::Flows { flows: self.flows, unanswered: self.unanswered });
        }
        let times = [Some(self.idle_ms), Some(self.unanswered_idle_ms), self.hard_ms];
        match times.into_iter().flatten().find(|ms| !(1..=MILLISECONDS_MAX).contains(ms)) {
            Some(ms) => Err(SetupError::Time { ms }),
            None => Ok(()),
        }
    }
}

/// Times are compared as 32-bit differences: half of the range.
const MILLISECONDS_MAX: u32 = i32::MAX as u32;

/// Why a table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SetupError {
    /// Counts of flows that contradict each other.
    #[error("limits must be 1 <= unanswered <= flows, got {unanswered} unanswered of {flows} flows")]
    Flows {
        /// Of all flows.
        flows: u32,
        /// Of unanswered ones.
        unanswered: u32,
    },
    /// A time that is none.
    #[error("times must be from 1 to {MILLISECONDS_MAX} ms, got {ms}")]
    Time {
        /// The one.
        ms: u32,
    },
    /// Too little memory.
    #[error("{flows} flows need {needed} lines of 64 bytes, got {lines}")]
    Memory {
        /// Most flows.
        flows: u32,
        /// Lines for those.
        needed: usize,
        /// Lines that are there.
        lines: usize,
    },
    /// More than slots can be numbered.
    #[error("a table has at most {max} flows, got {flows}")]
    TooMany {
        /// How many were asked for.
        flows: u32,
        /// How many there may be.
        max: u32,
    },
}
