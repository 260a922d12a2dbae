use std::collections::{BTreeMap, BTreeSet};

use super::super::transitions::{LEGAL, PROHIBITED};
use super::*;

const OFFERED: u64 = 0b100;

fn limits() -> AttachLimits {
    AttachLimits { asks: 3, faults: 1, unproven_epochs: 2, ..AttachLimits::default() }
}

fn ask(nonce: u64) -> Ask {
    Ask { nonce, version: Ask::pack_version(VERSION_MAJOR, 0), features: 0 }
}

fn fresh() -> AttachMachine {
    AttachMachine::new(OFFERED, limits(), 0)
}

fn attached() -> AttachMachine {
    let mut machine = fresh();
    machine.apply(AttachEvent::Asked(ask(1)), 0).unwrap();
    machine.apply(AttachEvent::Confirmed(1), 0).unwrap();
    machine
}

fn refusal_of(actions: &[AttachAction]) -> Option<Refusal> {
    match actions {
        [AttachAction::Refuse { refusal, .. }, ..] => Some(*refusal),
        _ => None,
    }
}

#[test]
fn a_handshake_publishes_then_feeds() {
    let mut machine = fresh();
    let published = machine.apply(AttachEvent::Asked(ask(77)), 0).unwrap();
    assert_eq!(published, [AttachAction::Publish { nonce: 77, epoch: 1 }]);
    let fed = machine.apply(AttachEvent::Confirmed(1), 0).unwrap();
    assert_eq!(fed, [AttachAction::Feed { epoch: 1 }]);
    assert_eq!(machine.state(), AttachState::Attached);
}

#[test]
fn a_new_ask_waits_until_the_lcores_have_let_go() {
    let mut machine = attached();
    let asked = machine.apply(AttachEvent::Asked(ask(2)), 0).unwrap();
    assert_eq!(asked, [AttachAction::Withdraw { phase: HostPhase::Detached }, AttachAction::ReleaseRings]);
    let released = machine.apply(AttachEvent::RingsReleased, 0).unwrap();
    assert_eq!(released, [AttachAction::Publish { nonce: 2, epoch: 2 }]);
    assert_eq!(machine.unproven_epochs(), [1]);
}

#[test]
fn a_new_ask_brings_nothing_home_and_a_reaped_nf_does() {
    let mut machine = attached();
    machine.apply(AttachEvent::Asked(ask(2)), 0).unwrap();
    machine.apply(AttachEvent::RingsReleased, 0).unwrap();
    assert_eq!(machine.apply(AttachEvent::Reaped(7), 0).unwrap(), []);
    assert_eq!(machine.apply(AttachEvent::Reaped(1), 0).unwrap(), [AttachAction::Reclaim]);
    assert_eq!(machine.unproven_epochs(), []);
}

#[test]
fn an_nf_that_leaves_gets_its_buffers_home_after_the_lcores_let_go() {
    let mut machine = attached();
    let left = machine.apply(AttachEvent::Left(1), 0).unwrap();
    assert_eq!(left, [AttachAction::Withdraw { phase: HostPhase::Detached }, AttachAction::ReleaseRings]);
    assert_eq!(machine.apply(AttachEvent::RingsReleased, 0).unwrap(), [AttachAction::Reclaim]);
    assert_eq!(machine.state(), AttachState::Detached);
}

#[test]
fn a_missed_heartbeat_stops_the_feeding_and_proves_nothing() {
    let mut machine = attached();
    assert!(!machine.is_beat_overdue(1000));
    assert!(machine.is_beat_overdue(1001));
    assert_eq!(machine.apply(AttachEvent::BeatMissed, 1001).unwrap(), [AttachAction::StopFeeding]);
    assert!(!machine.is_beat_overdue(5000));
    assert_eq!(machine.apply(AttachEvent::Beat, 5000).unwrap(), [AttachAction::ResumeFeeding]);
    assert!(!machine.is_beat_overdue(6000));
}

#[test]
fn who_drains_is_told_when_nothing_more_comes_and_is_not_fed_again() {
    let mut machine = attached();
    assert_eq!(machine.apply(AttachEvent::Draining(2), 0).unwrap(), [], "not the epoch in force");
    let draining = machine.apply(AttachEvent::Draining(1), 0).unwrap();
    assert_eq!(draining, [AttachAction::StopFeeding, AttachAction::ShowDraining]);
    assert_eq!(machine.apply(AttachEvent::Beat, 10).unwrap(), []);
    assert!(!machine.is_beat_overdue(9000));
    let left = machine.apply(AttachEvent::Left(1), 9000).unwrap();
    assert_eq!(left, [AttachAction::Withdraw { phase: HostPhase::Detached }, AttachAction::ReleaseRings]);
}

#[test]
fn who_was_silent_and_drains_is_not_stopped_twice() {
    let mut machine = attached();
    machine.apply(AttachEvent::BeatMissed, 1001).unwrap();
    assert_eq!(machine.apply(AttachEvent::Draining(1), 1001).unwrap(), [AttachAction::ShowDraining]);
    assert_eq!(machine.apply(AttachEvent::Beat, 1002).unwrap(), []);
}

#[test]
fn accepts_asks_up_to_the_limit_and_refuses_one_more_until_time_has_passed() {
    let mut machine = fresh();
    for nonce in 1..=3 {
        let actions = machine.apply(AttachEvent::Asked(ask(nonce)), 0).unwrap();
        assert_eq!(refusal_of(&actions), None);
    }
    let refused = machine.apply(AttachEvent::Asked(ask(4)), 999).unwrap();
    assert_eq!(refusal_of(&refused), Some(Refusal::TooOften));
    let accepted = machine.apply(AttachEvent::Asked(ask(5)), 1000).unwrap();
    assert_eq!(accepted, [AttachAction::Publish { nonce: 5, epoch: 4 }]);
}

#[test]
fn refuses_another_major_version_and_features_not_offered() {
    for (ask, refusal) in [
        (Ask { version: Ask::pack_version(2, 0), ..ask(1) }, Some(Refusal::Version)),
        (Ask { version: 0, ..ask(1) }, Some(Refusal::Version)),
        (Ask { version: Ask::pack_version(1, 9), ..ask(1) }, None),
        (Ask { features: 0b101, ..ask(1) }, Some(Refusal::Features)),
        (Ask { features: 0b100, ..ask(1) }, None),
    ] {
        let actions = fresh().apply(AttachEvent::Asked(ask), 0).unwrap();
        assert_eq!(refusal_of(&actions), refusal, "{ask:?}");
    }
}

#[test]
fn a_refused_ask_leaves_an_attached_epoch_in_force() {
    let mut machine = attached();
    let refused = machine.apply(AttachEvent::Asked(Ask { version: 0, ..ask(2) }), 0).unwrap();
    let (refusal, phase) = (Refusal::Version, HostPhase::Attached);
    assert_eq!(refused, [AttachAction::Refuse { nonce: 2, refusal, phase }]);
    assert_eq!(machine.state(), AttachState::Attached);
}

#[test]
fn accepts_unproven_epochs_up_to_the_limit_and_refuses_one_more() {
    let mut machine =
        AttachMachine::new(0, AttachLimits { unproven_epochs: 1, ..AttachLimits::default() }, 0);
    let mut attach = |nonce: u64| {
        let actions = machine.apply(AttachEvent::Asked(ask(nonce)), 0).unwrap();
        let _ = machine.apply(AttachEvent::RingsReleased, 0);
        let _ = machine.apply(AttachEvent::Confirmed(machine.last_epoch()), 0);
        refusal_of(&actions)
    };
    assert_eq!(attach(1), None);
    assert_eq!(attach(2), None);
    assert_eq!(attach(3), Some(Refusal::Unproven));
}

#[test]
fn too_many_faults_quarantine_until_a_pardon() {
    let mut machine = attached();
    machine.apply(AttachEvent::Fault, 0).unwrap();
    machine.apply(AttachEvent::RingsReleased, 0).unwrap();
    assert_eq!(machine.state(), AttachState::Detached);
    machine.apply(AttachEvent::Asked(ask(2)), 0).unwrap();
    machine.apply(AttachEvent::Confirmed(2), 0).unwrap();
    machine.apply(AttachEvent::Fault, 0).unwrap();
    let released = machine.apply(AttachEvent::RingsReleased, 0).unwrap();
    assert_eq!(released, [AttachAction::Withdraw { phase: HostPhase::Quarantined }]);
    let refused = machine.apply(AttachEvent::Asked(ask(3)), 0).unwrap();
    assert_eq!(refusal_of(&refused), Some(Refusal::Quarantined));
    assert_eq!(machine.apply(AttachEvent::WritersGone, 0).unwrap(), [AttachAction::Reclaim]);
    machine.apply(AttachEvent::Pardoned, 0).unwrap();
    let accepted = machine.apply(AttachEvent::Asked(ask(4)), 0).unwrap();
    assert_eq!(accepted, [AttachAction::Publish { nonce: 4, epoch: 3 }]);
}

#[test]
fn neither_an_ask_nor_a_proof_escapes_a_quarantine_that_waits_for_the_rings() {
    for event in [AttachEvent::Asked(ask(2)), AttachEvent::WritersGone, AttachEvent::Reaped(1)] {
        let mut machine = attached();
        machine.apply(AttachEvent::Expelled, 0).unwrap();
        machine.apply(event, 0).unwrap();
        machine.apply(AttachEvent::RingsReleased, 0).unwrap();
        assert_eq!(machine.state(), AttachState::Quarantined, "{event:?}");
    }
}

#[test]
fn who_asked_and_is_gone_gets_no_epoch() {
    let mut machine = attached();
    machine.apply(AttachEvent::Asked(ask(2)), 0).unwrap();
    machine.apply(AttachEvent::WritersGone, 0).unwrap();
    assert_eq!(machine.apply(AttachEvent::RingsReleased, 0).unwrap(), [AttachAction::Reclaim]);
    assert_eq!(machine.state(), AttachState::Detached);
}

#[test]
fn the_last_epoch_is_used_and_never_followed_by_zero() {
    let record = AttachRecord { last_epoch: u32::MAX - 1, ..AttachRecord::default() };
    let mut machine = AttachMachine::resume(0, limits(), record, 0);
    let accepted = machine.apply(AttachEvent::Asked(ask(1)), 0).unwrap();
    assert_eq!(accepted, [AttachAction::Publish { nonce: 1, epoch: u32::MAX }]);
    let refused = machine.apply(AttachEvent::Asked(ask(2)), 0).unwrap();
    assert_eq!(refusal_of(&refused), Some(Refusal::Quarantined));
    assert_eq!(machine.state(), AttachState::Quarantined);
}

#[test]
fn a_successor_knows_what_was_served_and_what_is_unproven() {
    let mut machine = attached();
    machine.apply(AttachEvent::Asked(ask(2)), 0).unwrap();
    machine.apply(AttachEvent::RingsReleased, 0).unwrap();
    machine.apply(AttachEvent::Confirmed(2), 0).unwrap();
    let record = machine.record();
    assert_eq!(record, AttachRecord { last_epoch: 2, serving: true, answered_nonce: 2, unproven: vec![1] });
    let successor = AttachMachine::resume(OFFERED, limits(), record, 9);
    assert_eq!(successor.state(), AttachState::Attached);
    assert_eq!(successor.unproven_epochs(), [1]);
}

/// What is true outside of the machine, told by its actions and events only.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    lcores_hold_rings: bool,
    is_fed: bool,
    /// Epochs that were fed and whose writers nobody has proved gone.
    may_write: BTreeSet<u32>,
    published: u32,
}

impl World {
    fn happens(&mut self, event: AttachEvent) {
        match event {
            AttachEvent::Left(epoch) | AttachEvent::Reaped(epoch) => {
                self.may_write.remove(&epoch);
            }
            AttachEvent::WritersGone => self.may_write.clear(),
            AttachEvent::RingsReleased => self.lcores_hold_rings = false,
            _ => {}
        }
    }

    fn check(&mut self, action: AttachAction, state: AttachState, fed: Option<u32>) {
        match action {
            AttachAction::Publish { epoch, .. } => {
                assert!(epoch > self.published, "epochs rise and are never 0");
                assert!(!self.lcores_hold_rings, "no rings are reset in an lcore's hands");
                self.published = epoch;
            }
            AttachAction::Feed { epoch } => {
                assert_eq!(epoch, self.published);
                assert!(!self.lcores_hold_rings, "rings are handed out once");
                self.lcores_hold_rings = true;
                self.is_fed = true;
                self.may_write.insert(epoch);
            }
            AttachAction::ReleaseRings => {
                assert!(self.lcores_hold_rings);
                self.is_fed = false;
            }
            AttachAction::StopFeeding | AttachAction::ResumeFeeding => {
                assert!(self.lcores_hold_rings);
                self.is_fed = action == AttachAction::ResumeFeeding;
            }
            AttachAction::ShowDraining => {
                assert!(!self.is_fed, "who is told that nothing comes gets nothing")
            }
            AttachAction::Reclaim => {
                let writers = self.may_write.iter().filter(|&&epoch| Some(epoch) != fed).count();
                assert_eq!(writers, 0, "buffers come home on proof only");
                assert_ne!(state, AttachState::Releasing, "what lcores may still take back is no orphan");
            }
            AttachAction::Refuse { .. } | AttachAction::Withdraw { .. } => {}
        }
    }
}

fn events(epoch: u32) -> Vec<AttachEvent> {
    let mut events = vec![
        AttachEvent::Asked(ask(1)),
        AttachEvent::Asked(Ask { version: 0, ..ask(1) }),
        AttachEvent::Confirmed(epoch),
        AttachEvent::Confirmed(epoch.wrapping_add(1)),
        AttachEvent::Beat,
        AttachEvent::BeatMissed,
        AttachEvent::Fault,
        AttachEvent::WritersGone,
        AttachEvent::RingsReleased,
        AttachEvent::Expelled,
        AttachEvent::Pardoned,
    ];
    for recent in epoch.saturating_sub(2)..=epoch.saturating_add(1) {
        let of = [AttachEvent::Draining(recent), AttachEvent::Left(recent), AttachEvent::Reaped(recent)];
        events.extend(of);
    }
    events
}

/// Walks every machine that any sequence of events can reach, time standing still.
fn explore(
    start: AttachMachine,
    seen_transitions: &mut BTreeSet<(AttachState, AttachEventKind, AttachState)>,
) {
    let world = World { published: start.last_epoch(), ..World::default() };
    let mut seen = std::collections::HashSet::new();
    let mut open = vec![(start, world)];
    while let Some((before, world)) = open.pop() {
        if !seen.insert((before.clone(), world.lcores_hold_rings, world.is_fed, world.may_write.clone())) {
            continue;
        }
        for event in events(before.last_epoch()) {
            let (mut machine, mut world) = (before.clone(), world.clone());
            match machine.apply(event, 0) {
                Err(prohibited) => {
                    assert!(machine == before, "a prohibited event changes nothing");
                    assert_eq!((prohibited.state, prohibited.event), (before.state(), event.kind()));
                }
                Ok(actions) => {
                    world.happens(event);
                    let fed = machine.holds_rings().then_some(machine.last_epoch());
                    for action in actions {
                        world.check(action, machine.state(), fed);
                    }
                    seen_transitions.insert((before.state(), event.kind(), machine.state()));
                    open.push((machine, world));
                }
            }
        }
    }
}

#[test]
fn every_reachable_machine_keeps_its_promises_and_the_tables_tell_all_of_it() {
    let mut seen = BTreeSet::new();
    explore(fresh(), &mut seen);
    let record = AttachRecord { last_epoch: u32::MAX - 2, ..AttachRecord::default() };
    explore(AttachMachine::resume(OFFERED, limits(), record, 0), &mut seen);
    let mut told = BTreeMap::new();
    for legal in LEGAL {
        told.insert((legal.from, legal.event), legal.to.iter().copied().collect::<BTreeSet<_>>());
    }
    let mut happened: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (from, event, to) in seen {
        happened.entry((from, event)).or_default().insert(to);
    }
    assert_eq!(happened, told);
    assert!(PROHIBITED.iter().all(|entry| !happened.contains_key(&(entry.state, entry.event))));
}
