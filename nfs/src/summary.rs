//! What a network function says at exit.

use std::fmt;

use guest_netlib::{End, RunReport};
use serde::Serialize;

/// Figures of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Which network function.
    pub nf: String,
    /// Why it ended: stopped, packets, time, switch_gone or detached.
    pub end: &'static str,
    /// How long it polled.
    pub seconds: f64,
    /// Packets taken.
    pub received: u64,
    /// Packets given back with a verdict other than drop.
    pub sent: u64,
    /// Packets given back with the verdict drop.
    pub dropped: u64,
    /// Views given back, by one that observes.
    pub released: u64,
    /// Packets made from empty buffers.
    pub made: u64,
    /// Polls that found nothing.
    pub empty_polls: u64,
    /// How often it attached.
    pub attaches: u32,
}

impl Summary {
    /// Of the run that `report` describes.
    #[must_use]
    pub fn new(nf: &str, report: &RunReport) -> Self {
        let counters = report.counters;
        Self {
            nf: nf.to_owned(),
            end: match report.end {
                End::Stopped => "stopped",
                End::Packets => "packets",
                End::Time => "time",
                End::SwitchGone => "switch_gone",
                End::Detached => "detached",
            },
            seconds: report.elapsed.as_secs_f64(),
            received: counters.received,
            sent: counters.sent,
            dropped: counters.dropped,
            released: counters.released,
            made: counters.made,
            empty_polls: counters.empty_polls,
            attaches: report.attaches,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nf, end, seconds, received, sent, dropped, released, made, .. } = self;
        if *released > 0 {
            return write!(f, "{nf} ends ({end}) after {seconds:.1} s: {received} packets looked at");
        }
        write!(
            f,
            "{nf} ends ({end}) after {seconds:.1} s: {received} packets received, {sent} sent, {dropped} dropped, {made} made"
        )
    }
}
