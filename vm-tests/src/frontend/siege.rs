//! The rounds: one thread for each NIC, each trick once a round, until the time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::SealFlags;

use super::guest::Guest;
use super::ram::Ram;
use super::trick::{TRICKS, Trick};
use crate::attacker::canary::{self, Canary, Finding};
use crate::attacker::siege::Report;
use crate::random::Random;

/// How long a bout goes on that its port does not end. Short: what an lcore spends on these rings its domain pays for,
/// and the other attackers of the domain have to get somewhere, too.
const BOUT: Duration = Duration::from_millis(40);

/// What a port takes from a guest that it does not trust.
pub(super) const SEALED: SealFlags = SealFlags::SHRINK;

/// How far a session is opened.
pub(super) type Open = fn(&Path, SealFlags) -> Option<Guest>;

/// The frontend of one NIC.
pub(super) struct Frontend<'s> {
    pub(super) socket: &'s Path,
    pub(super) random: Random,
    canaries: &'s [Canary],
    attempts: [u64; TRICKS.len()],
    found: BTreeSet<Finding>,
    sessions: u64,
    bout_ends: Instant,
}

/// Attacks NICs with these tricks, or with all, until the time is over.
///
/// # Panics
/// If a thread of it does.
#[must_use]
pub fn run(
    sockets: &[PathBuf],
    seed: u64,
    length: Duration,
    canaries: &[Canary],
    tricks: &[Trick],
) -> Report {
    let ends = Instant::now() + length;
    let tricks: Vec<Trick> =
        TRICKS.into_iter().filter(|trick| tricks.is_empty() || tricks.contains(trick)).collect();
    let tricks = &tricks;
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, socket) in sockets.iter().enumerate() {
            // So that each trick is tried early, whatever the number of NICs.
            let first = number * tricks.len() / sockets.len();
            let frontend = Frontend::new(socket, seed + number as u64, canaries);
            threads.push(scope.spawn(move || frontend.run(tricks, first, ends)));
        }
        threads.into_iter().map(|thread| thread.join().expect("a frontend")).collect()
    });
    let mut all = Report { seed, ..Report::default() };
    reports.into_iter().for_each(|report| all.add(report));
    all
}

impl<'s> Frontend<'s> {
    fn new(socket: &'s Path, seed: u64, canaries: &'s [Canary]) -> Self {
        Self {
            socket,
            random: Random::seeded(seed),
            canaries,
            attempts: [0; TRICKS.len()],
            found: BTreeSet::new(),
            sessions: 0,
            bout_ends: Instant::now(),
        }
    }

    fn run(mut self, tricks: &[Trick], first: usize, ends: Instant) -> Report {
        let mut order = tricks.to_vec();
        order.rotate_left(first);
        while Instant::now() < ends {
            for trick in &order {
                if Instant::now() >= ends {
                    break;
                }
                self.bout_ends = Instant::now() + BOUT;
                self.bout(*trick);
            }
            for last in (1..order.len()).rev() {
                order.swap(last, self.random.index(last + 1));
            }
        }
        let attempts = tricks.iter().map(|trick| (trick.name().to_owned(), self.attempts[*trick as usize]));
        Report {
            attempts: attempts.collect(),
            attaches: self.sessions,
            found: self.found.into_iter().collect(),
            searched: BTreeMap::new(),
            ..Report::default()
        }
    }

    fn bout(&mut self, trick: Trick) {
        match trick {
            Trick::MalformedMessages => self.malform(),
            Trick::MessagesInAnyOrder => self.shuffle(),
            Trick::PartialMessages => self.break_off(),
            Trick::ReconnectStorms => self.storm(),
            Trick::OverlappingRegions => self.overlap(),
            Trick::VanishingMemory => self.vanish(),
            Trick::LyingSizes => self.lie_about_sizes(),
            Trick::ManyRegions => self.add_regions(),
            Trick::WrongFiles => self.pass_wrong_files(),
            Trick::RingsOutside => self.lay_rings_outside(),
            Trick::Truncation => self.truncate(),
            Trick::PunchedHoles => self.punch(),
            Trick::FullEventfds => self.fill_eventfds(),
            Trick::DescriptorLoops
            | Trick::NestedIndirect
            | Trick::EndlessIndirect
            | Trick::AvailableJumps
            | Trick::HugeLengths => self.break_rings(trick),
            Trick::LyingHeaders => self.lie_in_headers(),
        }
    }

    /// Counts attempts.
    pub(super) fn tried(&mut self, trick: Trick, attempts: u64) {
        self.attempts[trick as usize] += attempts;
    }

    /// Whether this bout's time is over.
    pub(super) fn is_bout_over(&self) -> bool {
        Instant::now() >= self.bout_ends
    }

    /// A session as far as `open` takes it. The time of a bout begins when it is served.
    pub(super) fn session(&mut self, open: Open) -> Option<Guest> {
        let guest = open(self.socket, SEALED)?;
        self.sessions += 1;
        self.bout_ends = Instant::now() + BOUT;
        Some(guest)
    }

    /// Looks for others' secrets in what the switch has written here.
    pub(super) fn search(&mut self, ram: &Ram) {
        let bytes = ram.written();
        for canary in self.canaries.iter().filter(|canary| canary::holds(&bytes, &canary.bytes)) {
            self.found.insert(Finding { place: canary.place.clone(), mapping: "nic".to_owned() });
        }
    }
}
