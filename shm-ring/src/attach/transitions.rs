//! Which events move the host's side of a handshake, and which are prohibited.
//!
//! Each pair of state and event is in exactly one of two tables; a test explores every reachable machine and
//! finds neither a transition that is missing here nor one that never happens.

use AttachEventKind as On;
use AttachState::{Attached, Detached, Draining, Published, Quarantined, Releasing, Stalled};

/// Where the host stands with one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttachState {
    /// Nobody is attached; no lcore holds the rings.
    Detached,
    /// An epoch is published, not confirmed; no lcore holds the rings.
    Published,
    /// The lcores hold the rings and feed the endpoint.
    Attached,
    /// The lcores hold the rings and take what comes back, but feed nothing: the heartbeat stands still.
    Stalled,
    /// The lcores hold the rings and take what comes back, but feed nothing: the guest is about to leave.
    Draining,
    /// The lcores have been told to let go of the rings.
    Releasing,
    /// Nobody is served until somebody pardons the endpoint; no lcore holds the rings.
    Quarantined,
}

impl AttachState {
    /// Every state.
    pub const ALL: [Self; 7] = [Detached, Published, Attached, Stalled, Draining, Releasing, Quarantined];
}

/// What can happen, without its figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttachEventKind {
    /// The guest shows a new nonce.
    Asked,
    /// The guest has taken up an epoch.
    Confirmed,
    /// The NF is about to end its epoch and wants nothing more.
    Draining,
    /// The NF ended its epoch.
    Left,
    /// The guest's supervisor reaped the NF of an epoch.
    Reaped,
    /// The heartbeat moved.
    Beat,
    /// The heartbeat has stood still for too long.
    BeatMissed,
    /// An lcore found a counter or descriptor that breaks a rule.
    Fault,
    /// Proof that no old writer runs: end of file on its socket or on QMP, or QMP `RESET`.
    WritersGone,
    /// Every lcore has let go of the rings.
    RingsReleased,
    /// The host stops serving: the operator says so, or its memory is gone.
    Expelled,
    /// The operator lets the endpoint in again.
    Pardoned,
}

impl AttachEventKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        On::Asked,
        On::Confirmed,
        On::Draining,
        On::Left,
        On::Reaped,
        On::Beat,
        On::BeatMissed,
        On::Fault,
        On::WritersGone,
        On::RingsReleased,
        On::Expelled,
        On::Pardoned,
    ];
}

/// An event that a state knows, and the states it can lead to.
#[derive(Debug)]
pub struct Legal {
    /// Where the host stands.
    pub from: AttachState,
    /// What happens.
    pub event: AttachEventKind,
    /// Where it may stand then.
    pub to: &'static [AttachState],
}

/// An event that changes nothing in a state, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Prohibited {
    /// Where the host stands, and goes on standing.
    pub state: AttachState,
    /// What somebody claims has happened.
    pub event: AttachEventKind,
    /// Why it is ignored.
    pub reason: &'static str,
}

impl core::fmt::Display for Prohibited {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { state, event, reason } = self;
        write!(f, "{event:?} while {state:?}: {reason}")
    }
}

impl core::error::Error for Prohibited {}

const fn legal(from: AttachState, event: On, to: &'static [AttachState]) -> Legal {
    Legal { from, event, to }
}

const fn prohibited(state: AttachState, event: On, reason: &'static str) -> Prohibited {
    Prohibited { state, event, reason }
}

/// Every legal transition. Where the own state is among the targets, an event may be refused or be about an
/// earlier epoch.
pub static LEGAL: &[Legal] = &[
    // A refused ask changes nothing; epochs that are used up quarantine.
    legal(Detached, On::Asked, &[Detached, Published, Quarantined]),
    // Proof about earlier epochs brings quarantined buffers home in any state.
    legal(Detached, On::Left, &[Detached]),
    legal(Detached, On::Reaped, &[Detached]),
    legal(Detached, On::WritersGone, &[Detached]),
    legal(Detached, On::Expelled, &[Quarantined]),
    // The asker gave up and asks again; nothing was lent under the epoch it did not confirm.
    legal(Published, On::Asked, &[Published, Quarantined]),
    legal(Published, On::Confirmed, &[Published, Attached]),
    legal(Published, On::Left, &[Published, Detached]),
    legal(Published, On::Reaped, &[Published, Detached]),
    legal(Published, On::WritersGone, &[Detached]),
    legal(Published, On::Expelled, &[Quarantined]),
    // Rings change hands only over Releasing: no lcore may see two epochs in one ring.
    legal(Attached, On::Asked, &[Attached, Releasing]),
    legal(Attached, On::Draining, &[Attached, Draining]),
    legal(Attached, On::Left, &[Attached, Releasing]),
    legal(Attached, On::Reaped, &[Attached, Releasing]),
    legal(Attached, On::Beat, &[Attached]),
    legal(Attached, On::BeatMissed, &[Stalled]),
    legal(Attached, On::Fault, &[Releasing]),
    legal(Attached, On::WritersGone, &[Releasing]),
    legal(Attached, On::Expelled, &[Releasing]),
    legal(Stalled, On::Asked, &[Stalled, Releasing]),
    legal(Stalled, On::Draining, &[Stalled, Draining]),
    legal(Stalled, On::Left, &[Stalled, Releasing]),
    legal(Stalled, On::Reaped, &[Stalled, Releasing]),
    legal(Stalled, On::Beat, &[Attached]),
    legal(Stalled, On::Fault, &[Releasing]),
    legal(Stalled, On::WritersGone, &[Releasing]),
    legal(Stalled, On::Expelled, &[Releasing]),
    // Who drains is not fed again in this epoch, whatever its heartbeat does.
    legal(Draining, On::Asked, &[Draining, Releasing]),
    legal(Draining, On::Draining, &[Draining]),
    legal(Draining, On::Left, &[Draining, Releasing]),
    legal(Draining, On::Reaped, &[Draining, Releasing]),
    legal(Draining, On::Beat, &[Draining]),
    legal(Draining, On::Fault, &[Releasing]),
    legal(Draining, On::WritersGone, &[Releasing]),
    legal(Draining, On::Expelled, &[Releasing]),
    // While the lcores let go, asks and proofs are noted; what follows is decided when the rings are home.
    legal(Releasing, On::Asked, &[Releasing]),
    legal(Releasing, On::Left, &[Releasing]),
    legal(Releasing, On::Reaped, &[Releasing]),
    legal(Releasing, On::WritersGone, &[Releasing]),
    legal(Releasing, On::RingsReleased, &[Detached, Published, Quarantined]),
    legal(Releasing, On::Expelled, &[Releasing]),
    // An ask is answered: no.
    legal(Quarantined, On::Asked, &[Quarantined]),
    legal(Quarantined, On::Left, &[Quarantined]),
    legal(Quarantined, On::Reaped, &[Quarantined]),
    legal(Quarantined, On::WritersGone, &[Quarantined]),
    legal(Quarantined, On::Pardoned, &[Detached]),
];

const NO_EPOCH: &str = "no epoch is published, so none can be taken up";
const CONFIRMED: &str = "the epoch is confirmed already; a second confirmation must not start the rings anew";
const NO_RINGS_TO_DRAIN: &str = "no lcore holds the rings, so nothing is fed";
const NOT_FED: &str = "nothing is fed, so a heartbeat says nothing";
const NO_RINGS: &str = "no lcore holds the rings, so none can have found a fault in them";
const NOT_ASKED: &str = "no lcore was told to let go of the rings";
const NOT_OUT: &str = "the endpoint is not quarantined";

/// Every prohibited pair, with the reason.
pub static PROHIBITED: &[Prohibited] = &[
    prohibited(Detached, On::Confirmed, NO_EPOCH),
    prohibited(Detached, On::Draining, NO_RINGS_TO_DRAIN),
    prohibited(Detached, On::Beat, NOT_FED),
    prohibited(Detached, On::BeatMissed, NOT_FED),
    prohibited(Detached, On::Fault, NO_RINGS),
    prohibited(Detached, On::RingsReleased, NOT_ASKED),
    prohibited(Detached, On::Pardoned, NOT_OUT),
    prohibited(Published, On::Draining, NO_RINGS_TO_DRAIN),
    prohibited(Published, On::Beat, NOT_FED),
    prohibited(Published, On::BeatMissed, NOT_FED),
    prohibited(Published, On::Fault, NO_RINGS),
    prohibited(Published, On::RingsReleased, NOT_ASKED),
    prohibited(Published, On::Pardoned, NOT_OUT),
    prohibited(Attached, On::Confirmed, CONFIRMED),
    prohibited(Attached, On::RingsReleased, NOT_ASKED),
    prohibited(Attached, On::Pardoned, NOT_OUT),
    prohibited(Stalled, On::Confirmed, CONFIRMED),
    prohibited(Stalled, On::BeatMissed, "the endpoint is not fed already"),
    prohibited(Stalled, On::RingsReleased, NOT_ASKED),
    prohibited(Stalled, On::Pardoned, NOT_OUT),
    prohibited(Draining, On::Confirmed, CONFIRMED),
    prohibited(Draining, On::BeatMissed, "the endpoint is not fed already"),
    prohibited(Draining, On::RingsReleased, NOT_ASKED),
    prohibited(Draining, On::Pardoned, NOT_OUT),
    prohibited(Releasing, On::Draining, "the epoch is over, and nothing is fed"),
    prohibited(Releasing, On::Confirmed, "the epoch is over; a new one comes with a new ask"),
    prohibited(Releasing, On::Beat, "the epoch is over; a heartbeat does not bring it back"),
    prohibited(Releasing, On::BeatMissed, NOT_FED),
    prohibited(Releasing, On::Fault, "the rings are on their way home; a late fault in them changes nothing"),
    prohibited(Releasing, On::Pardoned, "the verdict on the endpoint stands when its rings are home"),
    prohibited(Quarantined, On::Confirmed, NO_EPOCH),
    prohibited(Quarantined, On::Draining, NO_RINGS_TO_DRAIN),
    prohibited(Quarantined, On::Beat, NOT_FED),
    prohibited(Quarantined, On::BeatMissed, NOT_FED),
    prohibited(Quarantined, On::Fault, NO_RINGS),
    prohibited(Quarantined, On::RingsReleased, NOT_ASKED),
    prohibited(Quarantined, On::Expelled, "the endpoint is quarantined already"),
];

/// The entry that prohibits this pair, if one does.
pub(super) fn prohibition(state: AttachState, event: AttachEventKind) -> Option<&'static Prohibited> {
    PROHIBITED.iter().find(|entry| entry.state == state && entry.event == event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_state_and_event_is_in_exactly_one_table() {
        for state in AttachState::ALL {
            for event in AttachEventKind::ALL {
                let legal = LEGAL.iter().filter(|entry| entry.from == state && entry.event == event).count();
                let prohibited =
                    PROHIBITED.iter().filter(|entry| entry.state == state && entry.event == event).count();
                assert_eq!(legal + prohibited, 1, "{event:?} while {state:?}");
            }
        }
        assert_eq!(LEGAL.len() + PROHIBITED.len(), AttachState::ALL.len() * AttachEventKind::ALL.len());
    }

    #[test]
    fn a_prohibition_names_state_event_and_reason() {
        let entry = prohibition(Stalled, On::BeatMissed).unwrap();
        assert_eq!(entry.to_string(), "BeatMissed while Stalled: the endpoint is not fed already");
        assert!(PROHIBITED.iter().all(|entry| !entry.reason.is_empty()));
    }

    #[test]
    fn lcores_let_go_before_anything_else_can_happen_to_the_rings() {
        for entry in LEGAL.iter().filter(|entry| matches!(entry.from, Attached | Stalled | Draining)) {
            assert!(
                entry.to.iter().all(|to| matches!(to, Attached | Stalled | Draining | Releasing)),
                "{entry:?}"
            );
        }
    }
}
