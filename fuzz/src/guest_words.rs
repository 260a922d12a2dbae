//! The handshake words of a hostile guest, and the host's side of the handshake that hears them.
//!
//! Whatever the guest writes: epochs rise and none comes twice, rings change hands only when the lcores have let
//! go of them, and buffers come home only when no doubt about an old writer is left.

use std::sync::atomic::Ordering::Relaxed;

use shm_ring::attach::{
    AttachAction, AttachEvent, AttachLimits, AttachMachine, AttachState, GuestWatch, HostPhase,
};
use shm_ring::endpoint::HostEndpoint;
use shm_ring::layout::{GuestWords, HostWords};

use crate::Input;

/// Steps of one run at most.
const STEPS_MAX: usize = 128;

/// What a second reader of the handshake keeps.
#[derive(Debug, Default)]
struct Seen {
    /// The highest epoch that was published.
    epoch: u32,
    /// Nonces that the guest showed and that have no answer yet.
    asked: Vec<u64>,
    /// The epoch whose rings the lcores have.
    fed: Option<u32>,
    /// The lcores were told to let go of them.
    is_releasing: bool,
}

/// Runs guest and host by turns.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (own, guest) = (HostWords::zeroed(), GuestWords::zeroed());
    let endpoint = HostEndpoint::new(&own, &guest, Vec::new());
    let limits = AttachLimits::default();
    let unproven_max = limits.unproven_epochs + 1;
    let mut machine = AttachMachine::new(input.u64(), limits, 0);
    let (mut watch, mut seen, mut now_ms) = (GuestWatch::default(), Seen::default(), 0u64);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match input.below(12) {
            0..=4 => write_guest(&guest, &machine, &mut input),
            5..=7 => {
                for event in endpoint.poll(&mut watch) {
                    apply(&mut machine, &mut seen, event.into(), now_ms, &endpoint);
                }
            }
            8 => now_ms = now_ms.saturating_add(u64::from(input.u16())),
            9 if seen.is_releasing => {
                apply(&mut machine, &mut seen, AttachEvent::RingsReleased, now_ms, &endpoint);
            }
            _ => {
                let event = match input.below(6) {
                    0 if machine.is_beat_overdue(now_ms) => AttachEvent::BeatMissed,
                    1 => AttachEvent::Fault,
                    2 => AttachEvent::WritersGone,
                    3 => AttachEvent::Expelled,
                    4 => AttachEvent::Pardoned,
                    _ => continue,
                };
                apply(&mut machine, &mut seen, event, now_ms, &endpoint);
            }
        }
        assert!(machine.unproven_epochs().len() <= unproven_max, "{:?}", machine.unproven_epochs());
        assert!(HostPhase::from_code(own.phase.load(Relaxed)).is_some(), "the guest is shown a known phase");
        let shown = own.epoch.load(Relaxed);
        assert!(shown == 0 || shown == seen.epoch, "epoch {shown} is shown, {} is the last", seen.epoch);
        assert_eq!(endpoint.counters()[0], guest.counters[0].load(Relaxed), "counters are shown as they are");
    }
}

/// One word of the guest: near the truth, of the past, or anything.
fn write_guest(guest: &GuestWords, machine: &AttachMachine, input: &mut Input<'_>) {
    let epoch = match input.below(4) {
        0 => input.u32(),
        1 => machine.last_epoch().wrapping_sub(u32::from(input.below(4))),
        2 => machine.unproven_epochs().first().copied().unwrap_or_default(),
        _ => machine.last_epoch(),
    };
    match input.below(8) {
        0 | 1 => guest.attach_nonce.store(u64::from(input.u8()), Relaxed),
        2 => guest.version.store(u32::from(input.below(3)) << 16, Relaxed),
        3 => guest.features_accepted.store(u64::from(input.u8()), Relaxed),
        4 => guest.confirmed_epoch.store(epoch, Relaxed),
        5 => guest.detached_epoch.store(epoch, Relaxed),
        6 => guest.reaped_epoch.store(epoch, Relaxed),
        _ => {
            guest.heartbeat.store(input.u64(), Relaxed);
            guest.counters[0].store(input.u64(), Relaxed);
        }
    }
}

fn apply(
    machine: &mut AttachMachine,
    seen: &mut Seen,
    event: AttachEvent,
    now_ms: u64,
    endpoint: &HostEndpoint<'_>,
) {
    let before = machine.clone();
    if let AttachEvent::Asked(ask) = event {
        assert_ne!(ask.nonce, 0, "zero asks nothing");
        seen.asked.push(ask.nonce);
    }
    let Ok(actions) = machine.apply(event, now_ms) else {
        assert_eq!(*machine, before, "what is prohibited changes nothing");
        return;
    };
    if event == AttachEvent::RingsReleased {
        (seen.fed, seen.is_releasing) = (None, false);
    }
    for action in actions {
        check(machine, seen, &action);
        endpoint.show(&action);
    }
    let has_rings = matches!(machine.state(), AttachState::Attached | AttachState::Stalled);
    assert_eq!(has_rings, seen.fed.is_some() && !seen.is_releasing, "{:?} {seen:?}", machine.state());
    assert_eq!(machine.state() == AttachState::Releasing, seen.is_releasing);
    assert_eq!(machine.record().last_epoch, seen.epoch);
}

fn check(machine: &AttachMachine, seen: &mut Seen, action: &AttachAction) {
    match *action {
        AttachAction::Publish { nonce, epoch } => {
            assert_eq!(seen.fed, None, "rings are reset only when no lcore has them");
            assert!(epoch > seen.epoch, "epoch {epoch} after {}", seen.epoch);
            answer(seen, nonce);
            seen.epoch = epoch;
        }
        AttachAction::Refuse { nonce, .. } => answer(seen, nonce),
        AttachAction::Feed { epoch } => {
            assert_eq!((seen.fed, epoch), (None, seen.epoch), "feeds the last epoch, once");
            seen.fed = Some(epoch);
        }
        AttachAction::ReleaseRings => {
            assert!(seen.fed.is_some() && !seen.is_releasing, "releases what is fed: {seen:?}");
            seen.is_releasing = true;
        }
        AttachAction::Reclaim => {
            assert_eq!(machine.unproven_epochs(), [0; 0], "nothing comes home while a writer may run");
            assert!(!seen.is_releasing, "nothing comes home while lcores have the rings");
        }
        AttachAction::StopFeeding | AttachAction::ResumeFeeding | AttachAction::ShowDraining => {
            assert!(seen.fed.is_some() && !seen.is_releasing, "{action:?} {seen:?}");
        }
        AttachAction::Withdraw { .. } => {}
    }
}

/// Each answer is to an ask, and no ask gets two.
fn answer(seen: &mut Seen, nonce: u64) {
    let Some(at) = seen.asked.iter().position(|asked| *asked == nonce) else { panic!("nobody asks {nonce}") };
    seen.asked.swap_remove(at);
}
