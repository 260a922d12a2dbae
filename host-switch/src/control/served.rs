//! One endpoint as control serves it: carries out what its [`AttachMachine`] decides, and says so.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use shm_ring::attach::{
    Ask, AttachAction, AttachEvent, AttachLimits, AttachMachine, AttachState, GuestWatch, HostPhase, Refusal,
};
use shm_ring::endpoint::HostEndpoint;
use shm_ring::layout::{FEATURES_KNOWN, VERSION_MAJOR, VERSION_MINOR};
use shm_ring::ring::{Consumer, Producer};
use switch_core::ids::{EndpointId, LcoreId};

use super::lending::Lending;
use crate::datapath::{QueuePairHandle, Released};

/// How much an endpoint may trouble the host. Attaches are bounded well above what a supervisor that restarts
/// a dying NF asks for, and well below what would keep an lcore from its packets.
const LIMITS: AttachLimits = AttachLimits {
    asks: 32,
    ask_refill_ms: 125,
    faults: 3,
    fault_refill_ms: 60_000,
    heartbeat_ms: 2000,
    unproven_epochs: 8,
};

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
            released: None,
            reclaimed: None,
        }
    }

    /// Which it is.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
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
            AttachState::Quarantined => HostPhase::Quarantined,
        };
        EndpointView { phase, epoch: self.machine.last_epoch(), fed: state == AttachState::Attached }
    }

    /// A new owner comes: takes what an earlier one left in the words as read, before the new one gets the
    /// memory. Whoever starts an NF anew lets it in again.
    pub fn prepare(&mut self, lending: &dyn Lending) {
        self.words.poll(&mut self.watch);
        if self.machine.state() == AttachState::Quarantined {
            self.apply(AttachEvent::Pardoned, "started anew, let in again", lending);
        }
    }

    /// The owner is proved: listens to the guest from here on.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// Reads the guest's words and the clock, and does what follows.
    pub fn poll(&mut self, lending: &dyn Lending) {
        if !self.open {
            return;
        }
        for event in self.words.poll(&mut self.watch).into_iter().map(AttachEvent::from) {
            let cause = match event {
                AttachEvent::Left(_) => "left",
                AttachEvent::Reaped(_) => "its NF has died in the guest",
                AttachEvent::Asked(ask) => {
                    self.last_ask = ask;
                    "attaches again without having left"
                }
                _ => "",
            };
            self.apply(event, cause, lending);
        }
        if self.machine.is_beat_overdue(self.now_ms()) {
            self.apply(AttachEvent::BeatMissed, "", lending);
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

    /// Its memory is lost: it is not served again by this process.
    pub fn expel(&mut self, cause: &str, lending: &dyn Lending) {
        self.open = false;
        self.apply(AttachEvent::Expelled, cause, lending);
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
            AttachAction::Publish { .. } | AttachAction::Withdraw { .. } => {}
        }
    }

    fn feed(&mut self, lending: &dyn Lending) {
        let pairs = self.words.queue_pairs().iter().zip(&self.journal);
        let handles = pairs.map(|(pair, journal)| QueuePairHandle {
            lcore: LcoreId(pair.lcore),
            host_to_guest: Producer::new(pair.host_to_guest, Some(*journal)),
            guest_to_host: Consumer::new(pair.guest_to_host),
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
            (None, AttachEvent::BeatMissed) => log::warn!(
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
            (None, AttachEvent::Pardoned) => log::info!("{name}: {cause}"),
            (None, _) => {}
        }
        if after == AttachState::Quarantined && before != AttachState::Quarantined {
            log::error!("{name} is quarantined: {cause}; no attach is answered until it is started anew");
        }
    }

    fn say_refused(&self, refusal: Refusal) {
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
                log::warn!("{name} refused: it is quarantined; restart its VM or process")
            }
        }
    }
}
