//! Decides what happens to one endpoint when its guest, its owner or the clock says something.
//!
//! Pure: events in, actions out; [`super::keeper`] carries them out in the order given.
//!
//! | phase | ends by | what it held |
//! |---|---|---|
//! | published | a new ask, leave, proof | nothing: no lcore has fed it yet |
//! | attached | leave of this epoch, death notice of this epoch, proof | comes home |
//! | attached | a fault, a new ask without an ending | stays quarantined until there is proof |
//!
//! Never happens, and why:
//!
//! - *Attached by a confirmation of an epoch that is not the published one*: a late word of an earlier NF.
//! - *Buffers come home because of a missed heartbeat or a new ask*: the old writer may still run.
//! - *A publication while an lcore holds the rings*: `Release` always precedes `Publish`.
//! - *Anything at all before the owner has proved itself*: a closed attachment ignores its guest.

use std::time::{Duration, Instant};

use shm_ring::attach::{Ask, GuestEvent, HostPhase, Refusal};
use shm_ring::layout::{FEATURES_KNOWN, VERSION_MAJOR};

/// Silence after which an endpoint is fed no more.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(2);
/// Attaches that an endpoint may ask for in quick succession.
pub const ATTACH_BURST: u32 = 32;
/// Time after which it may ask once more.
pub const ATTACH_REFILL: Duration = Duration::from_millis(125);

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make every lcore let go of the rings; what the endpoint holds becomes quarantined.
    Release(Ending),
    /// Take the quarantined buffers home.
    Reclaim,
    /// Reset the rings and answer this nonce with this epoch.
    Publish {
        /// The guest's nonce.
        nonce: u64,
        /// The new epoch.
        epoch: u32,
    },
    /// Answer this ask with no.
    Refuse {
        /// What the guest asked.
        ask: Ask,
        /// Why not.
        refusal: Refusal,
    },
    /// Hand the rings to the lcores.
    TakeUp {
        /// The epoch that the guest confirmed.
        epoch: u32,
    },
    /// Lend it nothing more for now.
    StopFeeding,
    /// Lend to it again.
    ResumeFeeding,
}

/// Why an attachment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The NF said that it leaves.
    Left,
    /// The supervisor in the guest has reaped the NF.
    Reaped,
    /// Its process or VM is gone, or its guest has started over.
    Proof,
    /// It broke the rules.
    Fault,
    /// It asked again without having ended.
    AskedAgain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Detached,
    Published { epoch: u32 },
    Attached { epoch: u32, fed: bool },
    Refused,
}

/// The state of one endpoint.
#[derive(Clone, Debug)]
pub struct Attachment {
    phase: Phase,
    /// Whether the owner is connected and proved; the guest is not listened to otherwise.
    open: bool,
    last_epoch: u32,
    last_beat: Instant,
    /// Epochs whose buffers stay quarantined because nothing proves that their NF has stopped.
    unproven: Vec<u32>,
    attaches_left: u32,
    refilled_at: Instant,
}

impl Attachment {
    /// An endpoint whose owner has not come yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Detached,
            open: false,
            last_epoch: 0,
            last_beat: now,
            unproven: Vec::new(),
            attaches_left: ATTACH_BURST,
            refilled_at: now,
        }
    }

    /// The owner is connected and proved: the guest is listened to from here on.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// Whether the guest is listened to.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The phase as the guest and the operator see it.
    #[must_use]
    pub fn phase(&self) -> HostPhase {
        match self.phase {
            Phase::Detached => HostPhase::Detached,
            Phase::Published { .. } => HostPhase::Published,
            Phase::Attached { .. } => HostPhase::Attached,
            Phase::Refused => HostPhase::Refused,
        }
    }

    /// The epoch of the last publication; 0 = none yet.
    #[must_use]
    pub fn last_epoch(&self) -> u32 {
        self.last_epoch
    }

    /// Whether packets are lent to it.
    #[must_use]
    pub fn is_fed(&self) -> bool {
        matches!(self.phase, Phase::Attached { fed: true, .. })
    }

    /// The guest's words say something new.
    pub fn on_guest(&mut self, event: GuestEvent, now: Instant) -> Vec<Action> {
        if !self.open {
            return Vec::new();
        }
        match event {
            GuestEvent::Left(epoch) => self.on_ended(epoch, Ending::Left),
            GuestEvent::Reaped(epoch) => self.on_ended(epoch, Ending::Reaped),
            GuestEvent::NonceSeen(ask) => self.on_ask(ask, now),
            GuestEvent::Confirmed(epoch) => self.on_confirmed(epoch, now),
            GuestEvent::Beat(_) => self.on_beat(now),
        }
    }

    /// Proof that nothing of this endpoint runs any more. With `closed`, its owner is gone too.
    pub fn on_proof(&mut self, closed: bool) -> Vec<Action> {
        self.open &= !closed;
        let mut actions = self.end(Ending::Proof);
        let had_unproven = !std::mem::take(&mut self.unproven).is_empty();
        if had_unproven || !actions.is_empty() {
            actions.push(Action::Reclaim);
        }
        actions
    }

    /// The datapath has met a violation: it may ask again, but what it holds waits for proof.
    pub fn on_fault(&mut self) -> Vec<Action> {
        self.end(Ending::Fault)
    }

    /// Time has passed.
    pub fn on_tick(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.phase {
            Phase::Attached { fed, .. } if *fed && now - self.last_beat > HEARTBEAT_LIMIT => {
                *fed = false;
                vec![Action::StopFeeding]
            }
            _ => Vec::new(),
        }
    }

    fn on_ask(&mut self, ask: Ask, now: Instant) -> Vec<Action> {
        let mut actions = self.end(Ending::AskedAgain);
        match self.judge(&ask, now) {
            Err(refusal) => {
                self.phase = Phase::Refused;
                actions.push(Action::Refuse { ask, refusal });
            }
            Ok(()) => {
                // Epochs rise and are never 0.
                self.last_epoch = self.last_epoch.checked_add(1).unwrap_or(1);
                let epoch = self.last_epoch;
                self.phase = Phase::Published { epoch };
                actions.push(Action::Publish { nonce: ask.nonce, epoch });
            }
        }
        actions
    }

    fn judge(&mut self, ask: &Ask, now: Instant) -> Result<(), Refusal> {
        if !self.take_attach(now) {
            return Err(Refusal::TooOften);
        }
        if ask.version_major() != VERSION_MAJOR {
            return Err(Refusal::Version);
        }
        if ask.features & !FEATURES_KNOWN != 0 {
            return Err(Refusal::Features);
        }
        Ok(())
    }

    fn take_attach(&mut self, now: Instant) -> bool {
        while self.attaches_left < ATTACH_BURST && now - self.refilled_at >= ATTACH_REFILL {
            self.attaches_left += 1;
            self.refilled_at += ATTACH_REFILL;
        }
        if self.attaches_left == ATTACH_BURST {
            self.refilled_at = now;
        }
        let allowed = self.attaches_left > 0;
        self.attaches_left = self.attaches_left.saturating_sub(1);
        allowed
    }

    fn on_confirmed(&mut self, confirmed: u32, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Published { epoch } if epoch == confirmed => {
                self.phase = Phase::Attached { epoch, fed: true };
                self.last_beat = now;
                vec![Action::TakeUp { epoch }]
            }
            _ => Vec::new(),
        }
    }

    fn on_beat(&mut self, now: Instant) -> Vec<Action> {
        self.last_beat = now;
        match &mut self.phase {
            Phase::Attached { fed, .. } if !*fed => {
                *fed = true;
                vec![Action::ResumeFeeding]
            }
            _ => Vec::new(),
        }
    }

    /// An epoch has ended by the word of its NF or of the supervisor in the guest.
    fn on_ended(&mut self, ended: u32, ending: Ending) -> Vec<Action> {
        let current = match self.phase {
            Phase::Published { epoch } | Phase::Attached { epoch, .. } => epoch == ended,
            Phase::Detached | Phase::Refused => false,
        };
        let mut actions = if current { self.end(ending) } else { Vec::new() };
        let unproven_before = self.unproven.len();
        // A supervisor starts an NF only after it has reaped the one before, so its word ends all earlier
        // epochs too. An NF speaks for its own epoch alone.
        self.unproven.retain(|&epoch| match ending {
            Ending::Reaped => epoch > ended,
            _ => epoch != ended,
        });
        let proved = current || self.unproven.len() < unproven_before;
        if proved && self.unproven.is_empty() {
            actions.push(Action::Reclaim);
        }
        actions
    }

    /// Leaves the current epoch, if there is one; what it held is unproven unless the caller knows better.
    fn end(&mut self, ending: Ending) -> Vec<Action> {
        match std::mem::replace(&mut self.phase, Phase::Detached) {
            Phase::Attached { epoch, .. } => {
                if matches!(ending, Ending::Fault | Ending::AskedAgain) {
                    self.unproven.push(epoch);
                }
                vec![Action::Release(ending)]
            }
            Phase::Published { .. } | Phase::Detached | Phase::Refused => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: u32 = Ask::pack_version(VERSION_MAJOR, 0);

    fn ask(nonce: u64) -> GuestEvent {
        GuestEvent::NonceSeen(Ask { nonce, version: VERSION, features: 0 })
    }

    fn opened(now: Instant) -> Attachment {
        let mut attachment = Attachment::new(now);
        attachment.open();
        attachment
    }

    fn attached(now: Instant) -> Attachment {
        let mut attachment = opened(now);
        attachment.on_guest(ask(7), now);
        assert_eq!(attachment.on_guest(GuestEvent::Confirmed(1), now), [Action::TakeUp { epoch: 1 }]);
        attachment
    }

    #[test]
    fn an_ask_is_answered_with_an_epoch_and_served_once_confirmed() {
        let now = Instant::now();
        let mut attachment = opened(now);
        assert_eq!(attachment.on_guest(ask(7), now), [Action::Publish { nonce: 7, epoch: 1 }]);
        assert_eq!(attachment.phase(), HostPhase::Published);
        assert_eq!(attachment.on_guest(GuestEvent::Confirmed(1), now), [Action::TakeUp { epoch: 1 }]);
        assert_eq!(attachment.phase(), HostPhase::Attached);
    }

    #[test]
    fn nobody_is_served_before_its_owner_is_proved() {
        let now = Instant::now();
        let mut attachment = Attachment::new(now);
        assert_eq!(attachment.on_guest(ask(7), now), []);
        attachment.open();
        assert_eq!(attachment.on_guest(GuestEvent::Confirmed(1), now), []);
        assert_eq!(attachment.phase(), HostPhase::Detached);
    }

    #[test]
    fn a_confirmation_of_another_epoch_attaches_nobody() {
        let now = Instant::now();
        let mut attachment = opened(now);
        attachment.on_guest(ask(7), now);
        assert_eq!(attachment.on_guest(GuestEvent::Confirmed(2), now), []);
        assert_eq!(attachment.phase(), HostPhase::Published);
    }

    #[test]
    fn another_major_version_is_refused() {
        let now = Instant::now();
        let mut attachment = opened(now);
        let strange = Ask { nonce: 7, version: Ask::pack_version(VERSION_MAJOR + 1, 0), features: 0 };
        let actions = attachment.on_guest(GuestEvent::NonceSeen(strange), now);
        assert_eq!(actions, [Action::Refuse { ask: strange, refusal: Refusal::Version }]);
        assert_eq!(attachment.phase(), HostPhase::Refused);
    }

    #[test]
    fn a_feature_that_was_not_offered_is_refused() {
        let now = Instant::now();
        let mut attachment = opened(now);
        let strange = Ask { nonce: 7, version: VERSION, features: 1 << 63 };
        let actions = attachment.on_guest(GuestEvent::NonceSeen(strange), now);
        assert_eq!(actions, [Action::Refuse { ask: strange, refusal: Refusal::Features }]);
    }

    #[test]
    fn the_last_attach_of_a_burst_is_served_and_the_next_refused_until_time_has_passed() {
        let now = Instant::now();
        let mut attachment = opened(now);
        for nonce in 1..=u64::from(ATTACH_BURST) {
            assert!(matches!(attachment.on_guest(ask(nonce), now)[..], [Action::Publish { .. }]));
        }
        let too_often = attachment.on_guest(ask(1000), now);
        assert!(matches!(too_often[..], [Action::Refuse { refusal: Refusal::TooOften, .. }]), "{too_often:?}");
        let later = now + ATTACH_REFILL;
        assert!(matches!(attachment.on_guest(ask(1001), later)[..], [Action::Publish { .. }]));
        assert!(matches!(attachment.on_guest(ask(1002), later)[..], [Action::Refuse { .. }]));
    }

    #[test]
    fn leaving_brings_the_buffers_home() {
        let now = Instant::now();
        let mut attachment = attached(now);
        assert_eq!(
            attachment.on_guest(GuestEvent::Left(1), now),
            [Action::Release(Ending::Left), Action::Reclaim]
        );
        assert_eq!(attachment.phase(), HostPhase::Detached);
    }

    #[test]
    fn a_death_notice_of_another_epoch_ends_nothing() {
        let now = Instant::now();
        let mut attachment = attached(now);
        assert_eq!(attachment.on_guest(GuestEvent::Reaped(9), now), []);
        assert_eq!(attachment.phase(), HostPhase::Attached);
    }

    #[test]
    fn a_new_ask_without_an_ending_leaves_the_buffers_quarantined_until_the_death_notice() {
        let now = Instant::now();
        let mut attachment = attached(now);
        assert_eq!(
            attachment.on_guest(ask(8), now),
            [Action::Release(Ending::AskedAgain), Action::Publish { nonce: 8, epoch: 2 }]
        );
        attachment.on_guest(GuestEvent::Confirmed(2), now);
        assert_eq!(attachment.on_guest(GuestEvent::Reaped(1), now), [Action::Reclaim]);
        assert_eq!(attachment.phase(), HostPhase::Attached);
    }

    #[test]
    fn leaving_a_later_epoch_proves_nothing_about_a_faulty_one() {
        let now = Instant::now();
        let mut attachment = attached(now);
        assert_eq!(attachment.on_fault(), [Action::Release(Ending::Fault)]);
        attachment.on_guest(ask(8), now);
        attachment.on_guest(GuestEvent::Confirmed(2), now);
        assert_eq!(attachment.on_guest(GuestEvent::Left(2), now), [Action::Release(Ending::Left)]);
        assert_eq!(attachment.on_proof(true), [Action::Reclaim]);
    }

    #[test]
    fn a_death_notice_covers_every_earlier_epoch() {
        let now = Instant::now();
        let mut attachment = attached(now);
        attachment.on_fault();
        attachment.on_guest(ask(8), now);
        attachment.on_guest(GuestEvent::Confirmed(2), now);
        assert_eq!(
            attachment.on_guest(GuestEvent::Reaped(2), now),
            [Action::Release(Ending::Reaped), Action::Reclaim]
        );
    }

    #[test]
    fn proof_brings_everything_home_and_closes_when_the_owner_is_gone() {
        let now = Instant::now();
        let mut rebooted = attached(now);
        assert_eq!(rebooted.on_proof(false), [Action::Release(Ending::Proof), Action::Reclaim]);
        assert!(rebooted.is_open());
        let mut gone = attached(now);
        assert_eq!(gone.on_proof(true), [Action::Release(Ending::Proof), Action::Reclaim]);
        assert_eq!(gone.on_guest(ask(9), now), []);
    }

    #[test]
    fn silence_at_the_limit_is_borne_and_beyond_it_stops_the_feeding_only() {
        let now = Instant::now();
        let mut attachment = attached(now);
        assert_eq!(attachment.on_tick(now + HEARTBEAT_LIMIT), []);
        let late = now + HEARTBEAT_LIMIT + Duration::from_millis(1);
        assert_eq!(attachment.on_tick(late), [Action::StopFeeding]);
        assert_eq!(attachment.on_tick(late), []);
        assert_eq!(attachment.phase(), HostPhase::Attached);
        assert_eq!(attachment.on_guest(GuestEvent::Beat(5), late), [Action::ResumeFeeding]);
        assert!(attachment.is_fed());
    }
}
