//! Edges: the ways on which packets cross from one domain into another.
//!
//! What no edge carries does not cross. Every crossing asks anew, on a private copy of the packet's headers;
//! that the tables lead there is no permission.

use core::cell::LazyCell;

use crate::criteria::{Criteria, Match};
use crate::frame::ETHERNET_HEADER_BYTES;
use crate::header::HeaderCopy;
use crate::ids::{DomainId, EdgeId};
use crate::rate::RateSpec;

/// One edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSpec {
    /// The domain that packets leave.
    pub from: DomainId,
    /// The domain into which they are copied.
    pub to: DomainId,
    /// Which packets it carries. What cannot be said of a packet is not carried.
    pub flows: Criteria,
    /// Whether it carries frames for groups of stations, too.
    pub broadcast: bool,
    /// How much it carries.
    pub limit: Option<RateSpec>,
    /// An edge in front of this one whose limit its packets count against, instead of one of its own.
    pub limited_with: Option<EdgeId>,
}

/// The edges of a snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edges {
    pub(crate) specs: Box<[EdgeSpec]>,
    /// By the domain that they leave.
    leaving: Box<[Box<[EdgeId]>]>,
}

impl Edges {
    pub(crate) fn new(specs: &[EdgeSpec]) -> Self {
        let ids = |from: DomainId| {
            let leaves = |(_, edge): &(EdgeId, &EdgeSpec)| edge.from == from;
            (0..).map(EdgeId).zip(specs).filter(leaves).map(|(id, _)| id).collect()
        };
        let domains = specs.iter().map(|edge| edge.from.index() + 1).max().unwrap_or(0);
        Self { specs: specs.into(), leaving: (0..).map(DomainId).take(domains).map(ids).collect() }
    }

    /// The first edge that carries a packet with these headers.
    pub(crate) fn carrying(&self, from: DomainId, to: DomainId, header: &HeaderCopy) -> Option<EdgeId> {
        let frame = header.as_bytes();
        if frame.len() < usize::from(ETHERNET_HEADER_BYTES) {
            return None;
        }
        let is_for_group = !cfg!(feature = "sabotage-broadcast") && frame[0] & 1 == 1;
        // Most edges ask nothing of a packet.
        let parsed = LazyCell::new(|| header.parse());
        let carries = |edge: &EdgeSpec| {
            edge.to == to
                && (edge.broadcast || !is_for_group)
                && (edge.flows.are_for_all() || edge.flows.evaluate(&parsed) == Match::Yes)
        };
        let found = self.leaving.get(from.index())?.iter().find(|id| carries(&self.specs[id.index()]));
        if cfg!(feature = "sabotage-edge") {
            found.or(self.leaving[from.index()].first()).copied()
        } else {
            found.copied()
        }
    }
}

#[cfg(test)]
mod tests;
