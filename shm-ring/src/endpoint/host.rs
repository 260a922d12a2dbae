//! One endpoint as its host sees it: it writes its own words and reads each of the guest's once.

use alloc::vec::Vec;

use super::QueuePair;
use crate::attach::{Ask, AttachAction, GuestEvent, GuestWatch, HostPhase, Refusal};
use crate::layout::{GuestWords, HostWords};
use crate::sync::{Ordering, ordering};

/// What a guest says of one endpoint, each word read once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestReport {
    /// See [`GuestWords::attach_nonce`], with the words that belong to it.
    pub ask: Ask,
    /// See [`GuestWords::confirmed_epoch`].
    pub confirmed_epoch: u32,
    /// See [`GuestWords::draining_epoch`].
    pub draining_epoch: u32,
    /// See [`GuestWords::detached_epoch`].
    pub detached_epoch: u32,
    /// See [`GuestWords::reaped_epoch`].
    pub reaped_epoch: u32,
    /// See [`GuestWords::heartbeat`].
    pub heartbeat: u64,
}

/// One endpoint as its host sees it.
#[derive(Clone, Debug)]
pub struct HostEndpoint<'m> {
    own: &'m HostWords,
    guest: &'m GuestWords,
    pairs: Vec<QueuePair<'m>>,
}

impl<'m> HostEndpoint<'m> {
    /// Joins the words of both sides and the rings.
    #[must_use]
    pub fn new(own: &'m HostWords, guest: &'m GuestWords, pairs: Vec<QueuePair<'m>>) -> Self {
        Self { own, guest, pairs }
    }

    /// One queue pair for each lcore.
    #[must_use]
    pub fn queue_pairs(&self) -> &[QueuePair<'m>] {
        &self.pairs
    }

    /// The queue pair with this lcore.
    #[must_use]
    pub fn pair(&self, lcore: u16) -> Option<&QueuePair<'m>> {
        self.pairs.iter().find(|pair| pair.lcore == lcore)
    }

    /// Reads each word of the guest's handshake once. The guest may change them at any moment.
    #[must_use]
    pub fn report(&self) -> GuestReport {
        let guest = self.guest;
        // Acquire: version and features of this ask, and the death notice of whoever asked before, are
        // visible once the nonce is. Pairs with the Release in `GuestEndpoint::ask`.
        let nonce = guest.attach_nonce.load(ordering!(Acquire, "sabotage-report-nonce-relaxed"));
        let ask = Ask {
            nonce,
            version: guest.version.load(Ordering::Relaxed),
            features: guest.features_accepted.load(Ordering::Relaxed),
        };
        GuestReport {
            ask,
            // Acquire: the guest's zeroed counters are visible once the confirmation is. Pairs with the
            // Release in `GuestEndpoint::confirm`.
            confirmed_epoch: guest
                .confirmed_epoch
                .load(ordering!(Acquire, "sabotage-report-confirmed-relaxed")),
            // Acquire: the guest's last descriptors are visible once it says that it left or was reaped.
            // Pairs with the Release in `GuestEndpoint::leave` and `GuestEndpoint::reaped`.
            detached_epoch: guest.detached_epoch.load(ordering!(Acquire, "sabotage-report-ended-relaxed")),
            reaped_epoch: guest.reaped_epoch.load(ordering!(Acquire, "sabotage-report-ended-relaxed")),
            // Relaxed: it counts only together with the confirmation of the same epoch.
            draining_epoch: guest.draining_epoch.load(Ordering::Relaxed),
            // Relaxed: nothing hangs on it.
            heartbeat: guest.heartbeat.load(Ordering::Relaxed),
        }
    }

    /// Reads the guest's words once and says what is new since the last call with this `watch`.
    pub fn poll(&self, watch: &mut GuestWatch) -> Vec<GuestEvent> {
        watch.compare(&self.report())
    }

    /// The NF's own counters, for display only; believe none. Index by [`crate::layout::GuestCounter`].
    #[must_use]
    pub fn counters(&self) -> [u64; 16] {
        // Relaxed: nothing hangs on them.
        core::array::from_fn(|counter| self.guest.counters[counter].load(Ordering::Relaxed))
    }

    /// Sets the host's own words of this endpoint's rings to zero. Only while no lcore holds the rings.
    pub fn reset_rings(&self) {
        for pair in &self.pairs {
            for line in [pair.host_to_guest.produced_line(), pair.guest_to_host.consumed_line()] {
                // Relaxed: the Release of the nonce in `publish` makes them visible.
                line.value.store(0, Ordering::Relaxed);
                line.want_wakeup.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Answers an ask: rings are reset, this is the epoch. The guest may take them up from here on.
    pub fn publish(&self, nonce: u64, epoch: u32) {
        // Relaxed: the Release in `answer` makes it visible.
        self.own.epoch.store(epoch, Ordering::Relaxed);
        self.answer(nonce, HostPhase::Published, 0);
    }

    /// Answers an ask: no. The epoch in force, if there is one, stays.
    pub fn refuse(&self, nonce: u64, refusal: Refusal) {
        self.answer(nonce, HostPhase::Refused, refusal as u32);
    }

    fn answer(&self, nonce: u64, phase: HostPhase, refusal: u32) {
        // Relaxed: the Release of the nonce makes both visible.
        self.own.phase.store(phase as u32, Ordering::Relaxed);
        self.own.refusal.store(refusal, Ordering::Relaxed);
        // Release: the whole answer and the reset rings are visible once the nonce is.
        // Pairs with the Acquire in `GuestEndpoint::answered`.
        self.own.answered_nonce.store(nonce, ordering!(Release, "sabotage-answer-relaxed"));
    }

    /// No epoch is in force any more: an NF that sees this stops and attaches anew.
    pub fn withdraw(&self, phase: HostPhase) {
        // Relaxed: a hint to the guest. The host has let go, or is about to, whatever the guest sees.
        self.own.epoch.store(0, Ordering::Relaxed);
        self.set_phase(phase);
    }

    /// Does the part of an action that the guest sees. The rest is between control and lcores; before
    /// [`AttachAction::Publish`] no lcore may hold the rings.
    pub fn show(&self, action: &AttachAction) {
        match *action {
            AttachAction::Publish { nonce, epoch } => {
                self.reset_rings();
                self.publish(nonce, epoch);
            }
            AttachAction::Refuse { nonce, refusal, phase } => {
                self.refuse(nonce, refusal);
                self.set_phase(phase);
            }
            AttachAction::Feed { .. } => self.set_phase(HostPhase::Attached),
            AttachAction::Withdraw { phase } => self.withdraw(phase),
            AttachAction::ShowDraining => self.show_draining(),
            AttachAction::StopFeeding
            | AttachAction::ResumeFeeding
            | AttachAction::ReleaseRings
            | AttachAction::Reclaim => {}
        }
    }

    /// Shows the guest that what is in its rings now is the last.
    fn show_draining(&self) {
        // Release: what the lcores published before they stopped is visible to whoever sees the phase.
        // Pairs with the Acquire in `GuestEndpoint::feeding_has_stopped`.
        self.own
            .phase
            .store(HostPhase::Draining as u32, ordering!(Release, "sabotage-show-draining-relaxed"));
    }

    /// Shows the guest the host's view.
    pub fn set_phase(&self, phase: HostPhase) {
        // Relaxed: for display; the handshake rests on nonce and epoch.
        self.own.phase.store(phase as u32, Ordering::Relaxed);
    }
}
