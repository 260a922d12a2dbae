//! Which stage runs when: as many at once as there are cores, and each folder of builds used by one at a time.
//!
//! Most stages keep one core busy: they compile one crate, link, and run one test. Their lines come as they end, each
//! with its place in the list.

use std::io::Write;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lab::error::LabError;
use lab::journal::Journal;

use crate::stage::{Stage, Tally, Turn};

/// What all stages came to.
#[derive(Debug, Default)]
pub struct Totals {
    /// All tests.
    pub tally: Tally,
    /// Names of the stages that failed.
    pub failed: Vec<String>,
}

/// Runs all stages and prints a line about each.
///
/// # Errors
/// If one cannot be started at all; what has not begun by then is not run.
pub fn run(stages: Vec<Stage>, log_dir: &Path, journal: &Journal) -> Result<Totals, LabError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let schedule = Schedule {
        count: stages.len(),
        state: Mutex::new(State { waiting: (1..).zip(stages).collect(), ..State::default() }),
        ended: Condvar::new(),
    };
    // The kernel ends a child with the thread that started it: these wait for theirs.
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| schedule.work(log_dir, journal));
        }
    });
    let State { totals, error, .. } = schedule.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(totals), Err)
}

struct Schedule {
    count: usize,
    state: Mutex<State>,
    /// A stage has ended, so another may begin.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Stages that have not begun, with their places in the list.
    waiting: Vec<(usize, Stage)>,
    running: Vec<Turn>,
    totals: Totals,
    error: Option<LabError>,
}

impl State {
    /// The stage to begin now, if one may.
    fn begin_next(&mut self) -> Option<(usize, Stage)> {
        let turns = self.waiting.iter().map(|(_, stage)| stage.turn).enumerate();
        let (position, turn) =
            turns.filter(|(_, turn)| may_begin(*turn, &self.running)).min_by_key(|(_, turn)| *turn)?;
        self.running.push(turn);
        Some(self.waiting.remove(position))
    }
}

fn may_begin(turn: Turn, running: &[Turn]) -> bool {
    match turn {
        Turn::Alone => running.is_empty(),
        Turn::In(_) => !running.contains(&Turn::Alone) && !running.contains(&turn),
    }
}

impl Schedule {
    /// Runs one stage after the other until none is left.
    fn work(&self, log_dir: &Path, journal: &Journal) {
        while let Some((place, stage)) = self.wait_for_one() {
            let turn = stage.turn;
            if turn == Turn::Alone {
                self.say(place, format_args!("{} ...", stage.name));
            }
            let ended = stage.run(log_dir, journal);
            let mut state = self.lock();
            match ended {
                Ok(report) => {
                    self.say(place, format_args!("{report}"));
                    state.totals.tally.add(report.tally);
                    state.totals.failed.extend((report.tally.failed > 0).then_some(report.name));
                }
                Err(error) => {
                    state.waiting.clear();
                    state.error = Some(error);
                }
            }
            state.running.retain(|other| *other != turn);
            self.ended.notify_all();
        }
    }

    fn wait_for_one(&self) -> Option<(usize, Stage)> {
        let mut state = self.lock();
        while !state.waiting.is_empty() {
            if let Some(next) = state.begin_next() {
                return Some(next);
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn say(&self, place: usize, what: std::fmt::Arguments<'_>) {
        // Where nobody listens any more, the stages still run to their end.
        _ = writeln!(std::io::stderr(), "[{place:>3}/{}] {what}", self.count);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of one worker reaches everybody at the end of the scope.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::stage::{Expect, Folder};

    fn stage(name: &str, turn: Turn) -> Stage {
        Stage {
            name: name.to_owned(),
            turn,
            before: None,
            command: Command::new("true"),
            limit: Duration::from_secs(60),
            expect: Expect::Pass,
        }
    }

    #[test]
    fn stages_of_one_folder_follow_each_other_and_what_needs_the_machine_comes_last() {
        let turns = [Turn::Alone, Turn::In(Folder::Loom), Turn::In(Folder::Main), Turn::In(Folder::Main)];
        let waiting = (1..).zip(turns.map(|turn| stage("any", turn))).collect();
        let mut state = State { waiting, ..State::default() };
        let mut begin = |ended: &[Turn]| {
            state.running.retain(|turn| !ended.contains(turn));
            state.begin_next().map(|(place, _)| place)
        };
        assert_eq!(begin(&[]), Some(3));
        assert_eq!(begin(&[]), Some(2));
        assert_eq!(begin(&[]), None);
        assert_eq!(begin(&[Turn::In(Folder::Main)]), Some(4));
        assert_eq!(begin(&[Turn::In(Folder::Main)]), None, "one still runs");
        assert_eq!(begin(&[Turn::In(Folder::Loom)]), Some(1));
    }

    #[test]
    fn nothing_begins_beside_a_stage_that_runs_alone() {
        let waiting = vec![(2, stage("any", Turn::In(Folder::Loom)))];
        let mut state = State { waiting, running: vec![Turn::Alone], ..State::default() };
        assert!(state.begin_next().is_none());
    }
}
