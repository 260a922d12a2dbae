//! The host's side of the handshake of one endpoint: events in, actions out, no clock and no memory of others.

use alloc::vec::Vec;

use super::transitions::{AttachEventKind, AttachState, Prohibited, prohibition};
use super::{Ask, GuestEvent, HostPhase, Refusal, TokenBucket};
use crate::layout::VERSION_MAJOR;

/// What happened, with its figures. Guest words arrive as [`GuestEvent`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachEvent {
    /// See [`AttachEventKind::Asked`].
    Asked(Ask),
    /// See [`AttachEventKind::Confirmed`].
    Confirmed(u32),
    /// See [`AttachEventKind::Draining`].
    Draining(u32),
    /// See [`AttachEventKind::Left`].
    Left(u32),
    /// See [`AttachEventKind::Reaped`].
    Reaped(u32),
    /// See [`AttachEventKind::Beat`].
    Beat,
    /// See [`AttachEventKind::BeatMissed`].
    BeatMissed,
    /// See [`AttachEventKind::Fault`].
    Fault,
    /// See [`AttachEventKind::WritersGone`].
    WritersGone,
    /// See [`AttachEventKind::RingsReleased`].
    RingsReleased,
    /// See [`AttachEventKind::Expelled`].
    Expelled,
    /// See [`AttachEventKind::Pardoned`].
    Pardoned,
}

impl From<GuestEvent> for AttachEvent {
    fn from(event: GuestEvent) -> Self {
        match event {
            GuestEvent::Left(epoch) => Self::Left(epoch),
            GuestEvent::Reaped(epoch) => Self::Reaped(epoch),
            GuestEvent::NonceSeen(ask) => Self::Asked(ask),
            GuestEvent::Confirmed(epoch) => Self::Confirmed(epoch),
            GuestEvent::Draining(epoch) => Self::Draining(epoch),
            GuestEvent::Beat(_) => Self::Beat,
        }
    }
}

impl AttachEvent {
    /// The event without its figures.
    #[must_use]
    pub fn kind(&self) -> AttachEventKind {
        match self {
            Self::Asked(_) => AttachEventKind::Asked,
            Self::Confirmed(_) => AttachEventKind::Confirmed,
            Self::Draining(_) => AttachEventKind::Draining,
            Self::Left(_) => AttachEventKind::Left,
            Self::Reaped(_) => AttachEventKind::Reaped,
            Self::Beat => AttachEventKind::Beat,
            Self::BeatMissed => AttachEventKind::BeatMissed,
            Self::Fault => AttachEventKind::Fault,
            Self::WritersGone => AttachEventKind::WritersGone,
            Self::RingsReleased => AttachEventKind::RingsReleased,
            Self::Expelled => AttachEventKind::Expelled,
            Self::Pardoned => AttachEventKind::Pardoned,
        }
    }
}

/// What the host has to do now, in the order given. [`crate::endpoint::HostEndpoint::show`] does the part that
/// the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachAction {
    /// Reset the rings, then answer this nonce with this epoch.
    Publish {
        /// The nonce to answer.
        nonce: u64,
        /// The epoch that it gets.
        epoch: u32,
    },
    /// Answer this nonce: no. `phase` is what the guest sees afterwards.
    Refuse {
        /// The nonce to answer.
        nonce: u64,
        /// Why not.
        refusal: Refusal,
        /// What the guest sees afterwards.
        phase: HostPhase,
    },
    /// Hand fresh rings of this epoch to the lcores.
    Feed {
        /// The epoch that was confirmed.
        epoch: u32,
    },
    /// Let the lcores lend nothing more; they go on taking back.
    StopFeeding,
    /// Let the lcores lend again, in the same rings.
    ResumeFeeding,
    /// Show the guest that nothing more comes: every lcore has stopped, and its last descriptors are published.
    ShowDraining,
    /// Tell the lcores to let go of the rings; what the endpoint holds becomes quarantined. Report
    /// [`AttachEvent::RingsReleased`] when they have.
    ReleaseRings,
    /// Bring home what is quarantined: no writer of an earlier epoch runs. Never what is lent in this one.
    Reclaim,
    /// No epoch is in force any more; `phase` is what the guest sees.
    Withdraw {
        /// What the guest sees.
        phase: HostPhase,
    },
}

/// How much an endpoint may trouble the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttachLimits {
    /// Asks in a row.
    pub asks: u32,
    /// Time until one more ask is allowed.
    pub ask_refill_ms: u64,
    /// Faults in a row; one more quarantines.
    pub faults: u32,
    /// Time until one more fault is forgiven.
    pub fault_refill_ms: u64,
    /// A heartbeat that stands still for longer is missed.
    pub heartbeat_ms: u64,
    /// Earlier epochs whose writers may still run; with so many, an ask is refused.
    pub unproven_epochs: usize,
}

impl Default for AttachLimits {
    fn default() -> Self {
        Self {
            asks: 5,
            ask_refill_ms: 1000,
            faults: 3,
            fault_refill_ms: 60_000,
            heartbeat_ms: 1000,
            unproven_epochs: 8,
        }
    }
}

/// What follows when the rings are home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Then {
    Detach,
    Publish { nonce: u64 },
    Quarantine,
}

/// The host's side of the handshake of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttachMachine {
    state: AttachState,
    then: Then,
    /// The last epoch chosen; they rise and are never 0.
    epoch: u32,
    answered_nonce: u64,
    /// Epochs under which buffers were lent and whose writers may still run, without the one in force.
    unproven: Vec<u32>,
    features_offered: u64,
    limits: AttachLimits,
    asks: TokenBucket,
    faults: TokenBucket,
    last_beat_ms: u64,
}

/// What the host's own records keep of an endpoint, for a process that takes over after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachRecord {
    /// The highest epoch that this endpoint ever had, 0 if none. An epoch must not come twice in the life of a
    /// control area.
    pub last_epoch: u32,
    /// Whether that epoch was being served.
    pub serving: bool,
    /// The last nonce that was answered, 0 if none.
    pub answered_nonce: u64,
    /// Earlier epochs whose writers may still run. None, and not serving: what is quarantined may come home.
    pub unproven: Vec<u32>,
}

impl AttachMachine {
    /// Nobody attached, no epoch chosen yet.
    #[must_use]
    pub fn new(features_offered: u64, limits: AttachLimits, now_ms: u64) -> Self {
        Self::resume(features_offered, limits, AttachRecord::default(), now_ms)
    }

    /// Takes over an endpoint from a process of this host that died.
    #[must_use]
    pub fn resume(features_offered: u64, limits: AttachLimits, record: AttachRecord, now_ms: u64) -> Self {
        Self {
            state: if record.serving { AttachState::Attached } else { AttachState::Detached },
            then: Then::Detach,
            epoch: record.last_epoch,
            answered_nonce: record.answered_nonce,
            unproven: record.unproven,
            features_offered,
            asks: TokenBucket::full(limits.asks, limits.ask_refill_ms, now_ms),
            faults: TokenBucket::full(limits.faults, limits.fault_refill_ms, now_ms),
            limits,
            last_beat_ms: now_ms,
        }
    }

    /// What to keep in the host's own records: to be written before the actions that led here are taken.
    #[must_use]
    pub fn record(&self) -> AttachRecord {
        AttachRecord {
            last_epoch: self.epoch,
            serving: self.holds_rings(),
            answered_nonce: self.answered_nonce,
            unproven: self.unproven.clone(),
        }
    }

    /// Where the host stands.
    #[must_use]
    pub fn state(&self) -> AttachState {
        self.state
    }

    /// The last epoch chosen, 0 if none.
    #[must_use]
    pub fn last_epoch(&self) -> u32 {
        self.epoch
    }

    /// Epochs whose writers may still run, so that what was lent under them stays quarantined.
    #[must_use]
    pub fn unproven_epochs(&self) -> &[u32] {
        &self.unproven
    }

    /// Whether the heartbeat of a fed endpoint has stood still for too long: then [`AttachEvent::BeatMissed`].
    #[must_use]
    pub fn is_beat_overdue(&self, now_ms: u64) -> bool {
        self.state == AttachState::Attached
            && now_ms.saturating_sub(self.last_beat_ms) > self.limits.heartbeat_ms
    }

    /// Takes note of an event and says what to do, in order.
    ///
    /// # Errors
    /// If [`super::PROHIBITED`] has the pair; nothing changes then.
    pub fn apply(
        &mut self,
        event: AttachEvent,
        now_ms: u64,
    ) -> Result<Vec<AttachAction>, &'static Prohibited> {
        if let Some(prohibited) = prohibition(self.state, event.kind()) {
            return Err(prohibited);
        }
        let mut actions = Vec::new();
        match event {
            AttachEvent::Asked(ask) => self.asked(ask, now_ms, &mut actions),
            AttachEvent::Confirmed(epoch) => self.confirmed(epoch, now_ms, &mut actions),
            AttachEvent::Draining(epoch) => self.draining(epoch, &mut actions),
            AttachEvent::Left(epoch) | AttachEvent::Reaped(epoch) => self.ended(epoch, &mut actions),
            AttachEvent::Beat => self.beat(now_ms, &mut actions),
            AttachEvent::BeatMissed => {
                self.state = AttachState::Stalled;
                actions.push(AttachAction::StopFeeding);
            }
            AttachEvent::Fault => {
                let then = if self.faults.take(now_ms) { Then::Detach } else { Then::Quarantine };
                self.unproven.push(self.epoch);
                self.release(then, &mut actions);
            }
            AttachEvent::WritersGone => self.writers_gone(&mut actions),
            AttachEvent::RingsReleased => self.rings_released(&mut actions),
            AttachEvent::Expelled => self.expelled(&mut actions),
            AttachEvent::Pardoned => {
                self.faults.refill();
                self.withdraw(AttachState::Detached, &mut actions);
            }
        }
        Ok(actions)
    }

    /// Answers an ask with no, for a reason that lies outside this endpoint; nothing else changes.
    pub fn refuse(&mut self, nonce: u64, refusal: Refusal) -> AttachAction {
        self.answered_nonce = nonce;
        AttachAction::Refuse { nonce, refusal, phase: self.phase_after_refusal() }
    }

    fn holds_rings(&self) -> bool {
        matches!(self.state, AttachState::Attached | AttachState::Stalled | AttachState::Draining)
    }

    fn asked(&mut self, ask: Ask, now_ms: u64, actions: &mut Vec<AttachAction>) {
        let nonce = ask.nonce;
        if let Err(refusal) = self.examine(ask, now_ms) {
            actions.push(self.refuse(nonce, refusal));
            return;
        }
        match self.state {
            AttachState::Attached | AttachState::Stalled | AttachState::Draining => {
                // A new ask proves nothing about the old NF; what it holds stays quarantined until something does.
                self.unproven.push(self.epoch);
                self.release(Then::Publish { nonce }, actions);
            }
            AttachState::Releasing => {
                if self.then != Then::Quarantine {
                    self.then = Then::Publish { nonce };
                }
            }
            _ => self.publish(nonce, actions),
        }
    }

    fn examine(&mut self, ask: Ask, now_ms: u64) -> Result<(), Refusal> {
        if self.state == AttachState::Quarantined {
            return Err(Refusal::Quarantined);
        }
        if !self.asks.take(now_ms) {
            return Err(Refusal::TooOften);
        }
        if ask.version_major() != VERSION_MAJOR {
            return Err(Refusal::Version);
        }
        if ask.features & !self.features_offered != 0 {
            return Err(Refusal::Features);
        }
        if self.unproven.len() >= self.limits.unproven_epochs {
            return Err(Refusal::Unproven);
        }
        Ok(())
    }

    /// An epoch in force stays in force when somebody else's ask is refused.
    fn phase_after_refusal(&self) -> HostPhase {
        match self.state {
            AttachState::Attached | AttachState::Stalled => HostPhase::Attached,
            AttachState::Draining => HostPhase::Draining,
            AttachState::Published => HostPhase::Published,
            AttachState::Quarantined => HostPhase::Quarantined,
            AttachState::Detached | AttachState::Releasing => HostPhase::Refused,
        }
    }

    fn publish(&mut self, nonce: u64, actions: &mut Vec<AttachAction>) {
        self.answered_nonce = nonce;
        let Some(epoch) = self.epoch.checked_add(1) else {
            // Four thousand million attaches: the control area has to be made anew.
            let refusal = Refusal::Quarantined;
            actions.push(AttachAction::Refuse { nonce, refusal, phase: HostPhase::Quarantined });
            self.withdraw(AttachState::Quarantined, actions);
            return;
        };
        self.epoch = epoch;
        self.state = AttachState::Published;
        actions.push(AttachAction::Publish { nonce, epoch });
    }

    fn confirmed(&mut self, epoch: u32, now_ms: u64, actions: &mut Vec<AttachAction>) {
        if epoch == self.epoch {
            self.state = AttachState::Attached;
            self.last_beat_ms = now_ms;
            actions.push(AttachAction::Feed { epoch });
        }
    }

    /// The guest wants nothing more under this epoch.
    fn draining(&mut self, epoch: u32, actions: &mut Vec<AttachAction>) {
        if epoch != self.epoch || self.state == AttachState::Draining {
            return;
        }
        if self.state == AttachState::Attached {
            actions.push(AttachAction::StopFeeding);
        }
        self.state = AttachState::Draining;
        actions.push(AttachAction::ShowDraining);
    }

    /// No NF of this epoch runs any more.
    fn ended(&mut self, epoch: u32, actions: &mut Vec<AttachAction>) {
        let was_unproven = !self.unproven.is_empty();
        self.unproven.retain(|&unproven| unproven != epoch);
        if epoch == self.epoch && self.holds_rings() {
            self.release(Then::Detach, actions);
        } else if epoch == self.epoch && self.state == AttachState::Published {
            self.withdraw(AttachState::Detached, actions);
        }
        self.reclaim_if_proven(was_unproven, actions);
    }

    fn beat(&mut self, now_ms: u64, actions: &mut Vec<AttachAction>) {
        self.last_beat_ms = now_ms;
        if self.state == AttachState::Stalled {
            self.state = AttachState::Attached;
            actions.push(AttachAction::ResumeFeeding);
        }
    }

    fn writers_gone(&mut self, actions: &mut Vec<AttachAction>) {
        let was_unproven = !self.unproven.is_empty();
        self.unproven.clear();
        if self.holds_rings() {
            self.release(Then::Detach, actions);
        } else if self.state == AttachState::Published {
            self.withdraw(AttachState::Detached, actions);
        } else if let Then::Publish { .. } = self.then {
            // Who asked is gone, too.
            self.then = Then::Detach;
        }
        self.reclaim_if_proven(was_unproven, actions);
    }

    fn expelled(&mut self, actions: &mut Vec<AttachAction>) {
        if self.holds_rings() {
            self.unproven.push(self.epoch);
            self.release(Then::Quarantine, actions);
        } else if self.state == AttachState::Releasing {
            self.then = Then::Quarantine;
        } else {
            self.withdraw(AttachState::Quarantined, actions);
        }
    }

    fn release(&mut self, then: Then, actions: &mut Vec<AttachAction>) {
        self.state = AttachState::Releasing;
        self.then = then;
        actions.push(AttachAction::Withdraw { phase: HostPhase::Detached });
        actions.push(AttachAction::ReleaseRings);
    }

    fn rings_released(&mut self, actions: &mut Vec<AttachAction>) {
        let then = core::mem::replace(&mut self.then, Then::Detach);
        self.state = AttachState::Detached;
        self.reclaim_if_proven(true, actions);
        match then {
            Then::Detach => {}
            Then::Publish { nonce } => self.publish(nonce, actions),
            Then::Quarantine => self.withdraw(AttachState::Quarantined, actions),
        }
    }

    /// Buffers come home when the last doubt about a writer has gone; while the lcores still hold the rings
    /// of the epoch that ended, not yet.
    fn reclaim_if_proven(&self, something_held: bool, actions: &mut Vec<AttachAction>) {
        if something_held && self.unproven.is_empty() && self.state != AttachState::Releasing {
            actions.push(AttachAction::Reclaim);
        }
    }

    fn withdraw(&mut self, state: AttachState, actions: &mut Vec<AttachAction>) {
        self.state = state;
        let phase = match state {
            AttachState::Quarantined => HostPhase::Quarantined,
            _ => HostPhase::Detached,
        };
        actions.push(AttachAction::Withdraw { phase });
    }
}

#[cfg(test)]
mod tests;
