//! The rounds: each kind of attack once, in an order that follows from the seed, until the time is over.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shm_ring::attach::Refusal;

use super::canary::{Canary, Finding, Search};
use super::device::Device;
use super::edges::Edge;
use super::kind::{Attempts, KINDS, Kind};
use super::session::Session;
use crate::random::Random;

/// How long one bout may take.
const BOUT: Duration = Duration::from_millis(120);
/// The switch looks at the words of a guest every other millisecond: after this long it has.
pub(super) const SEEN: Duration = Duration::from_millis(5);
/// Epochs that are said to be over in one go when it is not known which one the switch waits for.
const GUESSES: u32 = 64;
/// How far before the last known epoch and how far behind it guesses go.
const GUESSED: std::ops::Range<u32> = 8..8192;
/// How long it waits to be let in again before it dies for it.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a round waits to be let in again after what earlier ones did. Longer than the switch keeps out whoever
/// breaks a counter.
const RETURN: Duration = Duration::from_secs(3);
/// How long one attach may take.
const ATTACH_LIMIT: Duration = Duration::from_millis(250);

/// What an attacker has done and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What its numbers followed from.
    pub seed: u64,
    /// Attempts by kind.
    pub attempts: std::collections::BTreeMap<String, u64>,
    /// How often it was attached.
    pub attaches: u64,
    /// How often it was refused an attach that a bout needed.
    pub refused: u64,
    /// How often sealed memory let itself be resized or sealed anew.
    #[serde(default)]
    pub resized: u64,
    /// What it was searched for and found.
    pub found: Vec<Finding>,
    /// Bytes of each mapping that was searched to its end.
    pub searched: std::collections::BTreeMap<String, u64>,
}

/// An attacker at work.
#[derive(Debug)]
pub struct Siege<'s> {
    pub(super) device: Device,
    pub(super) random: Random,
    pub(super) session: Option<Session>,
    pub(super) attempts: Attempts,
    pub(super) search: Search<'s>,
    /// The way to another domain that it tries.
    pub(super) edge: Option<Edge>,
    /// The first page of the region as the host wrote it.
    pub(super) region_header: Vec<u8>,
    /// See [`Report::resized`].
    pub(super) resized: u64,
    /// Epochs that the switch may not know to be over.
    pub(super) ended: Vec<u32>,
    /// What it does.
    kinds: Vec<Kind>,
    rounds: u64,
    attaches: u64,
    refused: u64,
    /// The last epoch that it knows of.
    pub(super) last_epoch: u32,
    /// The next epoch to say of that it is over, for want of knowledge.
    next_guess: u32,
    /// Since when no attach is answered but with a no.
    kept_out: Option<Instant>,
    /// Whether only a new process will be let in again.
    must_die: bool,
    bout_ends: Instant,
    ends: Instant,
}

impl Report {
    /// Adds what a later life of the same attacker has done.
    pub fn add(&mut self, later: Self) {
        for (kind, attempts) in later.attempts {
            *self.attempts.entry(kind).or_default() += attempts;
        }
        for (mapping, bytes) in later.searched {
            let searched = self.searched.entry(mapping).or_default();
            *searched = bytes.max(*searched);
        }
        self.attaches += later.attaches;
        self.refused += later.refused;
        self.resized += later.resized;
        self.found.extend(later.found);
        self.found.sort();
        self.found.dedup();
    }
}

impl<'s> Siege<'s> {
    /// An attacker on this memory that does these kinds of attack; none: all that it can.
    #[must_use]
    pub fn new(
        device: Device,
        seed: u64,
        length: Duration,
        canaries: &'s [Canary],
        edge: Option<Edge>,
        kinds: &[Kind],
    ) -> Self {
        let now = Instant::now();
        let mut random = Random::seeded(seed);
        let wanted = |kind: &Kind| kinds.is_empty() || kinds.contains(kind);
        let possible = |kind: &Kind| device.has_socket() || !kind.needs_socket();
        Self {
            region_header: device.region.copy(0..64),
            search: Search::of(canaries, &device, &mut random),
            random,
            edge,
            session: None,
            attempts: Attempts::default(),
            resized: 0,
            ended: Vec::new(),
            kinds: KINDS.into_iter().filter(|kind| wanted(kind) && possible(kind)).collect(),
            rounds: 0,
            attaches: 0,
            refused: 0,
            last_epoch: 0,
            next_guess: 0,
            kept_out: None,
            must_die: false,
            bout_ends: now,
            ends: now + length,
            device,
        }
    }

    /// Goes on until the time is over or, in a process, until only a new one will be let in.
    #[must_use]
    pub fn run(mut self, seed: u64) -> Report {
        let mut kinds = std::mem::take(&mut self.kinds);
        while !self.is_over() && !self.must_die {
            for last in (1..kinds.len()).rev() {
                kinds.swap(last, self.random.index(last + 1));
            }
            let round = self.round(&kinds);
            if round.iter().any(|kind| kind.needs_attach()) {
                self.come_back();
            }
            for kind in &round {
                self.bout_ends = Instant::now() + BOUT;
                self.bout(*kind);
            }
        }
        if !self.must_die && kinds.contains(&Kind::CanarySearch) {
            // Whatever was missed for want of time.
            self.search.sweep(&self.device);
            self.attempts.add(Kind::CanarySearch, self.search.take_pages());
        }
        Report {
            seed,
            attempts: self.attempts.named(),
            attaches: self.attaches,
            refused: self.refused,
            resized: self.resized,
            found: self.search.found(),
            searched: self.search.searched(&self.device),
        }
    }

    /// The bouts of one round. Every other round is for the half of the kinds that had the fewest attempts so
    /// far. Those after which the switch keeps an attacker out come last, so that the others find it attached.
    fn round(&mut self, kinds: &[Kind]) -> Vec<Kind> {
        let mut round = kinds.to_vec();
        self.rounds += 1;
        if self.rounds.is_multiple_of(2) {
            round.sort_by_key(|kind| self.attempts.of(*kind));
            round.truncate(kinds.len().div_ceil(2));
        }
        round.sort_by_key(|kind| kind.ends_the_attach());
        round
    }

    fn bout(&mut self, kind: Kind) {
        match kind {
            Kind::ScribbleControl => self.scribble_control(),
            Kind::ScribbleRegion => self.scribble_region(),
            Kind::AbsurdCounters => self.absurd_counters(),
            Kind::ForgedDescriptors => self.forge_descriptors(),
            Kind::DoubleReturn => self.return_twice(),
            Kind::UnheldBuffers => self.give_unheld(),
            Kind::ReturnAfterDetach => self.return_after_detach(),
            Kind::EpochFlips => self.flip_epochs(),
            Kind::DescriptorRaces => self.race_descriptors(),
            Kind::PacketRaces => self.race_packets(),
            Kind::PunchedHoles => self.punch_holes(),
            Kind::AttachStorm => self.storm(),
            Kind::ControlFlood => self.flood_control(),
            Kind::DeniedTargets => self.name_denied_targets(),
            Kind::DeniedEdges => self.flood_edges(),
            Kind::CanarySearch => {
                self.search.go_on(&self.device, self.bout_ends);
                self.attempts.add(Kind::CanarySearch, self.search.take_pages());
            }
        }
    }

    /// Whether the whole time is over.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.ends
    }

    /// Whether this bout's time is over.
    pub(super) fn is_bout_over(&self) -> bool {
        Instant::now() >= self.bout_ends
    }

    /// Attaches if it is not attached, within the limits that the switch sets; false if that fails.
    pub(super) fn attach(&mut self) -> bool {
        if self.session.as_ref().is_some_and(|session| session.is_served(&self.device)) {
            return true;
        }
        self.ended.extend(self.session.take().map(|session| session.epoch));
        for _ in 0..4 {
            self.admit_ends();
            match Session::begin(&self.device, &mut self.random, ATTACH_LIMIT) {
                Ok(session) => {
                    let epoch = session.epoch;
                    self.session = Some(session);
                    self.kept_out = None;
                    self.last_epoch = epoch;
                    self.next_guess = 0;
                    self.attaches += 1;
                    return true;
                }
                Err(Some(Refusal::TooOften)) => std::thread::sleep(Duration::from_millis(130)),
                // In the end a process can begin anew; a guest has to wait until it is let in again.
                Err(Some(Refusal::Quarantined)) => {
                    let since = *self.kept_out.get_or_insert_with(Instant::now);
                    self.must_die = self.device.has_socket() && since.elapsed() > PATIENCE;
                    break;
                }
                // Epochs that came and went in a storm: their ends have to be said as well.
                Err(Some(Refusal::Unproven)) => {
                    let since = *self.kept_out.get_or_insert_with(Instant::now);
                    self.must_die = self.device.has_socket() && since.elapsed() > PATIENCE;
                    self.guess_ends();
                }
                Err(_) => {}
            }
        }
        self.refused += 1;
        false
    }

    /// Waits until it is attached: what needs that comes first in a round, and would come to nothing.
    fn come_back(&mut self) {
        let ends = Instant::now() + RETURN;
        while !self.attach() && !self.must_die && !self.is_over() && Instant::now() < ends {
            std::thread::sleep(SEEN);
        }
    }

    /// The next epochs that may be the one which the switch waits for.
    fn guess_ends(&mut self) {
        let first = self.last_epoch.saturating_sub(GUESSED.start);
        if self.next_guess < first || self.next_guess > first.saturating_add(GUESSED.end) {
            self.next_guess = first;
        }
        let last = self.next_guess.saturating_add(GUESSES);
        self.ended.extend(self.next_guess..last);
        self.next_guess = last;
    }

    /// Says of each earlier epoch that it has ended, so that the buffers of it come home.
    fn admit_ends(&mut self) {
        for epoch in std::mem::take(&mut self.ended) {
            self.device.control.store32(self.device.seat.words.detached_epoch, epoch);
            std::thread::sleep(SEEN);
        }
    }
}
