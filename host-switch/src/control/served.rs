//! One endpoint as control serves it: carries out what its [`AttachMachine`] decides, and says so.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use shm_ring::attach::{
    Ask, AttachAction, AttachEvent, AttachLimits, AttachMachine, AttachState, GuestWatch, HostPhase, Refusal,
    TokenBucket,
};
use shm_ring::endpoint::HostEndpoint;
use shm_ring::layout::{FEATURES_KNOWN, VERSION_MAJOR, VERSION_MINOR};
use shm_ring::ring::{Consumer, Producer};
use switch_core::counters::DescFaultCounters;
use switch_core::ids::{EndpointId, LcoreId};

use super::conduct::Conduct;
use super::lending::{EndpointFaults, Lending};
use super::violation::Violation;
use crate::datapath::{QueuePairHandle, Released};

/// Attaches in a row, and the time until one more is allowed: well above what a supervisor that restarts a dying
/// NF asks for, and well below what would keep an lcore from its packets.
pub const ASKS: u32 = 32;
/// See [`ASKS`].
pub const ASK_REFILL_MS: u64 = 125;

/// How much an endpoint may trouble the host.
const LIMITS: AttachLimits = AttachLimits {
    asks: ASKS,
    ask_refill_ms: ASK_REFILL_MS,
    // What faults lead to is the policy's to say.
    faults: u32::MAX,
    fault_refill_ms: 1,
    heartbeat_ms: 2000,
    unproven_epochs: 8,
};

/// Time between two lines of the log about refusals.
const REFUSALS_SAID: Duration = Duration::from_secs(1);

/// What an owner may ask of the host, all its endpoints together, and what it did wrong.
#[derive(Debug)]
pub struct Account {
    /// Attaches.
    pub asks: TokenBucket,
    /// Violations.
    pub conduct: Conduct,
}

/// One endpoint.
#[derive(Debug)]
pub struct ServedEndpoint {
    id: EndpointId,
    name: String,
    machine: AttachMachine,
    words: HostEndpoint<'static>,
    watch: GuestWatch,
    /// One for each queue pair, in their order.
    journal: Vec<&'static AtomicU32>,
    started: Instant,
    /// Whether the owner is connected and proved; the guest is not listened to otherwise.
    open: bool,
    last_ask: Ask,
    /// Whether the last ask was refused.
    refused: bool,
    /// Why, until that is noted.
    refusal: Option<Refusal>,
    /// When a refusal was last said in the log.
    refusal_said: Option<Instant>,
    /// What the lcores had counted of its faults when that was last looked at.
    descriptors_seen: DescFaultCounters,
    counter_errors_seen: u64,
    /// What the event at hand has done, until it is said.
    released: Option<Released>,
    reclaimed: Option<u32>,
}

/// How control sees an endpoint, for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Its phase.
    pub phase: HostPhase,
    /// The epoch of its last attach.
    pub epoch: u32,
    /// Whether packets are lent to it.
    pub fed: bool,
}

impl EndpointView {
    /// Whether it has an epoch in force that it confirmed.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.phase == HostPhase::Attached
    }
}

impl ServedEndpoint {
    /// An endpoint that nobody has attached to yet.
    #[must_use]
    pub fn new(
        id: EndpointId,
        name: String,
        words: HostEndpoint<'static>,
        journal: Vec<&'static AtomicU32>,
    ) -> Self {
        Self {
            id,
            name,
            machine: AttachMachine::new(FEATURES_KNOWN, LIMITS, 0),
            words,
            watch: GuestWatch::default(),
            journal,
            started: Instant::now(),
            open: false,
            last_ask: Ask::default(),
            refused: false,
            refusal: None,
            refusal_said: None,
            descriptors_seen: DescFaultCounters::default(),
            counter_errors_seen: 0,
            released: None,
            reclaimed: None,
        }
    }

    /// Which it is.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its words in the control area.
    #[must_use]
    pub fn words(&self) -> &HostEndpoint<'static> {
        &self.words
    }

    /// Whether its guest is listened to.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// How it stands.
    #[must_use]
    pub fn view(&self) -> EndpointView {
        let state = self.machine.state();
        let phase = match state {
            AttachState::Detached | AttachState::Releasing if self.refused => HostPhase::Refused,
            AttachState::Detached | AttachState::Releasing => HostPhase::Detached,
            AttachState::Published => HostPhase::Published,
            AttachState::Attached | AttachState::Stalled => HostPhase::Attached,
            AttachState::Draining => HostPhase::Draining,
            AttachState::Quarantined => HostPhase::Quarantined,
        };
        EndpointView { phase, epoch: self.machine.last_epoch(), fed: state == AttachState::Attached }
    }

    /// A new owner comes: takes what an earlier one left in the words as read, before the new one gets the
    /// memory.
    pub fn prepare(&mut self, lending: &dyn Lending) {
        self.words.poll(&mut self.watch);
        self.pardon("started anew, let in again", lending);
    }

    /// Its attaches are answered again.
    pub fn pardon(&mut self, cause: &str, lending: &dyn Lending) {
        if self.machine.state() == AttachState::Quarantined {
            self.apply(AttachEvent::Pardoned, cause, lending);
        }
    }

    /// The owner is proved: listens to the guest from here on.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// Reads the guest's words and the clock, and does what follows.
    pub fn poll(&mut self, account: &mut Account, lending: &dyn Lending) {
        if !self.open {
            return;
        }
        for event in self.words.poll(&mut self.watch).into_iter().map(AttachEvent::from) {
            let last = self.machine.last_epoch();
            let cause = match event {
                AttachEvent::Asked(ask) => {
                    self.asked(ask, account, lending);
                    continue;
                }
                AttachEvent::Left(_) => "left",
                AttachEvent::Reaped(_) => "its NF has died in the guest",
                _ => "",
            };
            // An end may be told late, a beginning not; an epoch that never was cannot be told at all.
            match event {
                AttachEvent::Confirmed(epoch) if epoch != last => {
                    account.conduct.note(Violation::WrongEpoch, 1);
                }
                AttachEvent::Left(epoch) | AttachEvent::Reaped(epoch) if epoch > last => {
                    account.conduct.note(Violation::WrongEpoch, 1);
                }
                _ => {}
            }
            self.apply(event, cause, lending);
        }
        if self.machine.is_beat_overdue(self.now_ms()) {
            self.apply(AttachEvent::BeatMissed, "", lending);
        }
    }

    /// The guest wishes to attach. Each attach costs its lcores a walk over what it held, so its owner has a
    /// budget of them, whatever number of endpoints it spreads them over.
    fn asked(&mut self, ask: Ask, account: &mut Account, lending: &dyn Lending) {
        self.last_ask = ask;
        let is_out = self.machine.state() == AttachState::Quarantined;
        let is_within =
            is_out || account.asks.take(self.now_ms()) || cfg!(feature = "sabotage-attach-budget");
        if !is_within {
            let refused = self.machine.refuse(ask.nonce, Refusal::TooOften);
            self.carry_out(refused, lending);
        } else {
            self.apply(AttachEvent::Asked(ask), "attaches again without having left", lending);
        }
        if let Some(refusal) = self.refusal.take() {
            let violation = match refusal {
                Refusal::Version => Violation::AttachVersion,
                Refusal::Features => Violation::AttachFeatures,
                Refusal::TooOften => Violation::AttachTooOften,
                Refusal::Unproven => Violation::AttachUnproven,
                // It has been punished for that already.
                Refusal::Quarantined => return,
            };
            account.conduct.note(violation, 1);
        }
    }

    /// Takes note of what the lcores have counted; lets go of rings that one of them does not serve any more.
    pub fn survey(&mut self, faults: &EndpointFaults, conduct: &mut Conduct, lending: &dyn Lending) {
        for (kind, count) in faults.descriptors.iter() {
            conduct.note(Violation::Descriptor(kind), count.saturating_sub(self.descriptors_seen.get(kind)));
        }
        let broken = faults.counter_errors.saturating_sub(self.counter_errors_seen);
        conduct.note(Violation::PeerCounter, broken);
        self.descriptors_seen = faults.descriptors.clone();
        self.counter_errors_seen = faults.counter_errors;
        let is_served = matches!(self.machine.state(), AttachState::Attached | AttachState::Stalled);
        if is_served && !faults.served {
            self.fault("a ring counter of its claimed what no ring can hold", lending);
        }
    }

    /// There is proof that nothing of it runs; with `closed`, its owner is gone.
    pub fn prove_stopped(&mut self, closed: bool, cause: &str, lending: &dyn Lending) {
        self.open &= !closed;
        self.apply(AttachEvent::WritersGone, cause, lending);
    }

    /// The datapath met a violation, or does not serve it.
    pub fn fault(&mut self, cause: &str, lending: &dyn Lending) {
        self.apply(AttachEvent::Fault, cause, lending);
    }

    /// It is not served again until it is pardoned.
    pub fn expel(&mut self, cause: &str, lending: &dyn Lending) {
        self.apply(AttachEvent::Expelled, cause, lending);
    }

    /// Its guest is not listened to any more, and gets nothing more; what it holds stays its own.
    pub fn close(&mut self, lending: &dyn Lending) {
        self.open = false;
        if self.machine.state() == AttachState::Attached {
            self.apply(AttachEvent::BeatMissed, "", lending);
        }
    }

    /// Tells the guest that the switch ends.
    pub fn say_goodbye(&self) {
        self.words.withdraw(HostPhase::Detached);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn apply(&mut self, event: AttachEvent, cause: &str, lending: &dyn Lending) {
        let before = self.machine.state();
        match self.machine.apply(event, self.now_ms()) {
            Ok(actions) => actions.into_iter().for_each(|action| self.carry_out(action, lending)),
            // A guest can ask for what is not possible at any time, and an lcore can report late.
            Err(prohibited) => return log::debug!("{}: {prohibited}", self.name),
        }
        // The end of a release is part of the event that began it.
        if event != AttachEvent::RingsReleased {
            self.say(event, cause, before);
        }
    }

    fn carry_out(&mut self, action: AttachAction, lending: &dyn Lending) {
        if let AttachAction::Publish { .. } = action {
            for published in &self.journal {
                // Relaxed: read only by a process that takes over after our death.
                published.store(0, Ordering::Relaxed);
            }
        }
        self.refused = matches!(action, AttachAction::Refuse { .. });
        if let AttachAction::Refuse { refusal, .. } = action {
            self.refusal = Some(refusal);
        }
        self.words.show(&action);
        match action {
            AttachAction::Refuse { refusal, .. } => self.say_refused(refusal),
            AttachAction::Feed { .. } => self.feed(lending),
            AttachAction::StopFeeding => lending.stop_feeding(self.id),
            AttachAction::ResumeFeeding => lending.resume_feeding(self.id),
            AttachAction::ReleaseRings => {
                self.released = Some(lending.release(self.id));
                self.apply(AttachEvent::RingsReleased, "", lending);
            }
            AttachAction::Reclaim => self.reclaimed = Some(lending.reclaim(self.id)),
            AttachAction::Publish { .. } | AttachAction::Withdraw { .. } | AttachAction::ShowDraining => {}
        }
    }

    fn feed(&mut self, lending: &dyn Lending) {
        let pairs = self.words.queue_pairs().iter().zip(&self.journal);
        let handles = pairs.map(|(pair, journal)| QueuePairHandle {
            lcore: LcoreId(pair.lcore),
            host_to_guest: Producer::new(pair.host_to_guest, Some(*journal)),
            guest_to_host: Consumer::new(pair.guest_to_host),
            references: pair.references,
        });
        if let Err(cause) = lending.attach(self.id, handles.collect()) {
            self.fault(&cause, lending);
        }
    }

    /// One line for each change: who, why, what follows.
    fn say(&mut self, event: AttachEvent, cause: &str, before: AttachState) {
        let (name, epoch, after) = (&self.name, self.machine.last_epoch(), self.machine.state());
        let released = self.released.take();
        let home = match (self.reclaimed.take(), released) {
            (Some(count), _) => Some(format!("{count} buffers came home")),
            (None, Some(Released { quarantined, .. })) => Some(format!(
                "{quarantined} buffers stay quarantined, charged to its quota, until there is proof that nothing \
                 of it runs"
            )),
            (None, None) => None,
        };
        match (home, event) {
            (Some(home), AttachEvent::Left(_)) => log::info!("{name} left: {home}"),
            (Some(home), _) if released.is_some() => {
                log::warn!("{name} detached: {cause}; {home}; its packets follow when_dead of the service");
            }
            (Some(home), _) => log::info!("{name}: {cause}; {home}"),
            (None, AttachEvent::BeatMissed) if self.open => log::warn!(
                "{name} is silent for more than {} ms: it gets no packets until it beats again, and keeps what it \
                 holds",
                LIMITS.heartbeat_ms
            ),
            (None, AttachEvent::Beat) if before == AttachState::Stalled => {
                log::info!("{name} beats again: packets flow");
            }
            (None, AttachEvent::Confirmed(_)) if after == AttachState::Attached => {
                log::info!("{name} attached with epoch {epoch}: packets flow");
            }
            (None, AttachEvent::Draining(_)) if after == AttachState::Draining && before != after => {
                log::info!("{name} is about to leave: it gets no packets, and gives back what it holds");
            }
            (None, AttachEvent::Pardoned) => log::info!("{name}: {cause}"),
            (None, _) => {}
        }
        if after == AttachState::Quarantined && before != after && event != AttachEvent::Expelled {
            log::error!(
                "{name} has used up its epochs: no attach is answered until the switch is started anew"
            );
        }
    }

    /// Says why not, not for each of a flood.
    fn say_refused(&mut self, refusal: Refusal) {
        let now = Instant::now();
        if self.refusal_said.is_some_and(|said| now - said < REFUSALS_SAID) {
            return;
        }
        self.refusal_said = Some(now);
        let name = &self.name;
        match refusal {
            Refusal::Version => log::warn!(
                "{name} refused: its layout version is {}.{}, this switch has {VERSION_MAJOR}.{VERSION_MINOR}; \
                 rebuild its NF (for a VM: the guest image, `cargo xtask image`)",
                self.last_ask.version >> 16,
                self.last_ask.version & 0xffff
            ),
            Refusal::Features => log::warn!(
                "{name} refused: it accepts features {:#x}, this switch offers {FEATURES_KNOWN:#x}",
                self.last_ask.features
            ),
            Refusal::TooOften => log::warn!(
                "{name} refused: more than {} attaches in a row; one more is allowed every {} ms",
                LIMITS.asks,
                LIMITS.ask_refill_ms
            ),
            Refusal::Unproven => log::warn!(
                "{name} refused: buffers of {} earlier epochs wait for proof that nothing of them runs; restart \
                 its VM or process",
                self.machine.unproven_epochs().len()
            ),
            Refusal::Quarantined => {
                let owner = name.split('/').next().unwrap_or(name);
                log::warn!("{name} refused: it is detached; `netvm vm attach {owner}` lets it in");
            }
        }
    }
}
