//! Copies that rules make of the packets of a port: each enters a chain of its own, as if it had come in besides.
//!
//! A copy is one host copy into the domain that the packet entered, or of a shared port into the domain that the copy
//! belongs to; from there it goes like any other packet, over edges where its chain leads elsewhere. How many there
//! are is bounded twice: a rule names a few chains, and makes so many copies in a second and no more, whatever comes.
//! What is above is counted as `replicate_limit`; the packet itself goes on. A copy is copied by no rule again.

use switch_core::drop_reason::DropReason;
use switch_core::forwarding::{Arrival, Decision, Forwarding, Step};
use switch_core::header::HeaderCopy;
use switch_core::ids::{DomainId, ReplicationId};
use switch_core::ledger::PacketPath;
use switch_core::rate::RateSpec;
use switch_core::rule::COPIES_MAX;

use super::crossing::duplicate;
use super::domain::Frame;
use super::egress::FLUSH_FRAMES;
use super::lcore::Lcore;
use super::limit::Limit;

/// How many more copies each replication makes on one lcore.
#[derive(Debug)]
pub(super) struct Replications(Vec<Option<Box<Limit>>>);

impl Replications {
    /// Those of a snapshot, on one of `lcores`.
    pub(super) fn all(forwarding: &Forwarding, lcores: u16) -> Self {
        let limit = |copies_per_s| {
            let rate = RateSpec { packets_per_s: Some(copies_per_s), bits_per_s: None };
            Limit::part_of(Some(rate), lcores)
        };
        Self(forwarding.copies_per_s().map(limit).collect())
    }

    /// Whether one more copy may be made.
    pub(super) fn admit(&mut self, replication: ReplicationId, bytes: u16) -> Result<(), DropReason> {
        let limit = self.0.get_mut(replication.index()).and_then(Option::as_mut);
        let may = limit.is_some_and(|limit| limit.admit(bytes));
        if may || cfg!(feature = "sabotage-replicate-limit") {
            Ok(())
        } else {
            Err(DropReason::ReplicateLimit)
        }
    }
}

impl Lcore {
    /// Makes the copies of a frame that the lcore has in its hands, and sends each on its way.
    #[cold]
    #[inline(never)]
    pub(super) fn replicate(
        &mut self,
        domain: DomainId,
        frame: Frame,
        path: PacketPath,
        replication: ReplicationId,
        header: &HeaderCopy,
    ) {
        for at in 0..COPIES_MAX {
            let replica = self.forwarding.replica(replication, at, path, &self.live);
            let Some(Arrival { decision, observers, .. }) = replica else { return };
            let copy = self.copy_besides(domain, frame, decision, replication, header);
            let counters = &mut self.domains[domain.index()].state.counters;
            counters.entered += 1;
            match copy {
                Ok(copy) => {
                    counters.replicated += 1;
                    self.show(domain, copy, decision, observers, header);
                    self.at(domain, |route| {
                        route.forward(copy, decision, None);
                        route.crossings.bind(copy, header);
                    });
                    // At once: there is room for the frames of a burst, not for all their copies.
                    if !self.crossings.is_empty() {
                        self.cross(domain);
                    }
                    self.flush(FLUSH_FRAMES);
                }
                Err(reason) => counters.drops.add(reason, 1),
            }
        }
    }

    fn copy_besides(
        &mut self,
        domain: DomainId,
        frame: Frame,
        decision: Decision,
        replication: ReplicationId,
        header: &HeaderCopy,
    ) -> Result<Frame, DropReason> {
        if let Step::Drop(reason) = decision.step {
            return Err(reason);
        }
        self.replications.admit(replication, frame.len_bytes)?;
        let lane = &mut self.domains[domain.index()];
        self.limits.admit(&lane.state, frame.len_bytes)?;
        duplicate(lane, frame, decision.path, header)
    }
}
