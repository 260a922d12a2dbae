//! One endpoint as its guest sees it: the handshake, the heartbeat, the counters.

use alloc::vec::Vec;

use super::QueuePair;
use crate::attach::{Ask, HostPhase, Refusal};
use crate::layout::{
    EndpointFacts, GuestCounter, GuestWords, HostWords, VERSION_MAJOR, VERSION_MINOR, unpad_name,
};
use crate::sync::{AtomicU64, Ordering, ordering};

/// What the host answers to an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Take up the rings, then confirm this epoch.
    Epoch(u32),
    /// No. `None`: the epoch was withdrawn again meanwhile, or a reason that this library does not know.
    Refused(Option<Refusal>),
}

/// One endpoint as its guest sees it.
#[derive(Clone, Debug)]
pub struct GuestEndpoint<'m> {
    facts: EndpointFacts,
    features: u64,
    host: &'m HostWords,
    own: &'m GuestWords,
    pairs: Vec<QueuePair<'m>>,
}

impl<'m> GuestEndpoint<'m> {
    /// Joins the words of both sides and the rings. `features` are those offered and known.
    #[must_use]
    pub fn new(
        facts: EndpointFacts,
        features: u64,
        host: &'m HostWords,
        own: &'m GuestWords,
        pairs: Vec<QueuePair<'m>>,
    ) -> Self {
        Self { facts, features, host, own, pairs }
    }

    /// What never changes about it.
    #[must_use]
    pub fn facts(&self) -> &EndpointFacts {
        &self.facts
    }

    /// The service it is an instance of.
    #[must_use]
    pub fn service_name(&self) -> &str {
        unpad_name(&self.facts.service_name).unwrap_or_default()
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

    /// The ask of this library with a given nonce: fresh, not zero, never used before on this endpoint.
    #[must_use]
    pub fn ask_with(&self, nonce: u64) -> Ask {
        Ask { nonce, version: Ask::pack_version(VERSION_MAJOR, VERSION_MINOR), features: self.features }
    }

    /// Asks the host for an attach.
    pub fn ask(&self, ask: Ask) {
        // Relaxed: the Release of the nonce makes both visible.
        self.own.version.store(ask.version, Ordering::Relaxed);
        self.own.features_accepted.store(ask.features, Ordering::Relaxed);
        // Release: version and features are visible once the nonce is. Pairs with the Acquire in
        // `HostEndpoint::report`.
        self.own.attach_nonce.store(ask.nonce, ordering!(Release, "sabotage-ask-relaxed"));
    }

    /// The host's answer to the ask with this nonce, once it is there. One NF asks at a time: whoever starts
    /// two for one endpoint lets them read each other's answers.
    #[must_use]
    pub fn answered(&self, nonce: u64) -> Option<Answer> {
        // Acquire: the rest of the answer and the reset rings are visible once the nonce is.
        // Pairs with the Release in `HostEndpoint::publish`.
        if self.host.answered_nonce.load(ordering!(Acquire, "sabotage-answered-relaxed")) != nonce {
            return None;
        }
        // Relaxed: the Acquire of the nonce ordered these after it.
        let epoch = self.host.epoch.load(Ordering::Relaxed);
        let refusal = self.host.refusal.load(Ordering::Relaxed);
        // A refusal leaves the epoch in force alone, so it is looked at first. No epoch without a reason: the
        // host has withdrawn the epoch meanwhile.
        Some(if refusal == 0 && epoch != 0 {
            Answer::Epoch(epoch)
        } else {
            Answer::Refused(Refusal::from_code(refusal))
        })
    }

    /// The host's view, for display; `None` if this library does not know the code.
    #[must_use]
    pub fn phase(&self) -> Option<HostPhase> {
        // Relaxed: nothing hangs on it.
        HostPhase::from_code(self.host.phase.load(Ordering::Relaxed))
    }

    /// The epoch that the host serves now; 0 = none. Another one than the confirmed: attach anew.
    #[must_use]
    pub fn host_epoch(&self) -> u32 {
        // Relaxed: a hint; the answer to an ask is what counts.
        self.host.epoch.load(Ordering::Relaxed)
    }

    /// Sets the guest's own words of the rings to zero and takes up the epoch. The caller's producers and
    /// consumers start anew; packets flow from here on.
    pub fn confirm(&self, epoch: u32) {
        for pair in &self.pairs {
            for line in [pair.host_to_guest.consumed_line(), pair.guest_to_host.produced_line()] {
                // Relaxed: the Release below makes them visible.
                line.value.store(0, Ordering::Relaxed);
                line.want_wakeup.store(0, Ordering::Relaxed);
            }
        }
        // Release: the zeroed counters are visible once the confirmation is. Pairs with the Acquire in
        // `HostEndpoint::report`.
        self.own.confirmed_epoch.store(epoch, ordering!(Release, "sabotage-confirm-relaxed"));
    }

    /// Says that the NF is about to end the epoch: the host feeds it nothing more and takes what comes back.
    pub fn drain(&self, epoch: u32) {
        // Relaxed: a wish; nothing that the guest wrote before hangs on it.
        self.own.draining_epoch.store(epoch, Ordering::Relaxed);
    }

    /// Whether the host has answered [`GuestEndpoint::drain`]: what the rings hold after this is all there is.
    #[must_use]
    pub fn feeding_has_stopped(&self) -> bool {
        // Acquire: the last descriptors are visible once the phase is. Pairs with the Release in
        // `HostEndpoint::show`.
        let phase = self.host.phase.load(ordering!(Acquire, "sabotage-feeding-stopped-relaxed"));
        phase == HostPhase::Draining as u32
    }

    /// Says that the NF itself has ended the epoch: it touches no buffer of it any more.
    pub fn leave(&self, epoch: u32) {
        // Release: what the NF gave back before is visible. Pairs with the Acquire in `HostEndpoint::report`.
        self.own.detached_epoch.store(epoch, ordering!(Release, "sabotage-leave-relaxed"));
    }

    /// Says, as supervisor, that the NF process of this epoch was reaped: it runs no more.
    pub fn reaped(&self, epoch: u32) {
        // Release: as in `leave`.
        self.own.reaped_epoch.store(epoch, ordering!(Release, "sabotage-leave-relaxed"));
    }

    /// The epoch that this endpoint's NF confirmed last: what its supervisor reports when the NF has died.
    #[must_use]
    pub fn confirmed_epoch(&self) -> u32 {
        // Relaxed: the supervisor reads it after it has reaped the process that wrote it.
        self.own.confirmed_epoch.load(Ordering::Relaxed)
    }

    /// Moves the heartbeat on. Only the NF's polling thread calls this.
    #[inline]
    pub fn beat(&self) {
        Counter { word: &self.own.heartbeat }.add(1);
    }

    /// One of the NF's counters.
    #[inline]
    #[must_use]
    pub fn counter(&self, counter: GuestCounter) -> Counter<'m> {
        Counter { word: &self.own.counters[counter as usize] }
    }

    /// One of the eight counters that belong to the app, if `number` is below 8.
    #[must_use]
    pub fn app_counter(&self, number: usize) -> Option<Counter<'m>> {
        let word = self.own.counters.get(number.checked_add(GuestCounter::App as usize)?)?;
        Some(Counter { word })
    }
}

/// A counter with one writer, for display only.
#[derive(Clone, Copy, Debug)]
pub struct Counter<'m> {
    word: &'m AtomicU64,
}

impl Counter<'_> {
    /// Counts on, without a locked instruction: there is one writer.
    #[inline]
    pub fn add(self, count: u64) {
        // Relaxed, and no read-modify-write: one writer, nothing hangs on it.
        self.word.store(self.word.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }
}
