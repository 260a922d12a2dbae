//! One stage of the tests: a command, a time limit, and how its end is read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::child::{Child, tail};
use lab::error::LabError;
use lab::journal::Journal;

/// What a stage has to end like.
#[derive(Clone, Debug)]
pub enum Expect {
    /// All of its tests pass.
    Pass,
    /// A check was sabotaged: this test must be among the failed ones.
    Failure {
        /// Name of the test, as the harness prints it.
        test: &'static str,
    },
    /// A check was sabotaged: a fuzz target must find an input for which it panics with these words.
    Found {
        /// Part of the panic's message.
        says: &'static str,
    },
}

/// A folder that builds go to. Two of one folder would wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Folder {
    /// The workspace's own.
    Main,
    /// That of crates without DPDK that are built with one check turned off.
    Sabotage,
    /// That of the fuzz targets.
    Fuzz,
    /// That of the models of orderings.
    Loom,
}

/// Beside what a stage may run. What comes first in this order is begun first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Beside stages of other folders.
    In(Folder),
    /// Beside none: it needs the machine for a switch and VMs, or for shares of a core.
    Alone,
}

/// A command with its expectation.
pub struct Stage {
    /// What people call it; also what a filter is matched against.
    pub name: String,
    /// Beside what it may run.
    pub turn: Turn,
    /// A build that must end well first.
    pub before: Option<Command>,
    /// The command.
    pub command: Command,
    /// After this long it is ended and has failed.
    pub limit: Duration,
    /// How it must end.
    pub expect: Expect,
}

/// How a stage ended.
#[derive(Debug)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// What it counts as.
    pub tally: Tally,
    /// In words.
    pub verdict: String,
    /// How long it took.
    pub took: Duration,
    /// Its log and how that ends, if it failed.
    pub end: Option<(PathBuf, String)>,
}

/// One line, and the end of the log behind it if the stage failed.
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<44} {} ({:.0} s)", self.name, self.verdict, self.took.as_secs_f64())?;
        match &self.end {
            Some((log, end)) => write!(f, "\n--- the end of {}:\n{end}\n---", log.display()),
            None => Ok(()),
        }
    }
}

/// How many tests a stage counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed; a sabotaged check that was noticed is one.
    pub passed: u64,
    /// Tests that failed; a stage that fails without a failed test is one.
    pub failed: u64,
    /// Tests that were not run.
    pub skipped: u64,
}

impl Tally {
    /// A stage that failed as a whole.
    const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };

    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Stage {
    /// Runs the stage to its end, or to the end of its time.
    ///
    /// # Errors
    /// If it cannot be started at all.
    pub fn run(self, log_dir: &Path, journal: &Journal) -> Result<Report, LabError> {
        let started = Instant::now();
        let log_name: String =
            self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let log = log_dir.join(format!("{log_name}.log"));
        match std::fs::remove_file(&log) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(LabError::file("remove", &log)(err));
            }
            _ => {}
        }
        let report = |tally: Tally, verdict: String| {
            let end = (tally.failed > 0).then(|| (log.clone(), tail(&log, 60)));
            Report { name: self.name, tally, verdict, took: started.elapsed(), end }
        };
        if let Some(before) = self.before
            && !Child::spawn(&log_name, before, log_dir, journal)?
                .wait(self.limit)
                .is_ok_and(|end| end.success())
        {
            // Whatever was built earlier is not what is to be tested.
            return Ok(report(Tally::FAILED, "FAILED: it does not build".to_owned()));
        }
        let ended = Child::spawn(&log_name, self.command, log_dir, journal)?.wait(self.limit);
        let text = std::fs::read(&log).map_err(LabError::file("read", &log))?;
        let text = String::from_utf8_lossy(&text);
        match ended {
            Ok(status) => {
                let (tally, verdict) = judge(&self.expect, status.success(), &text);
                Ok(report(tally, verdict))
            }
            // Whatever it said until then.
            Err(LabError::TimedOut { seconds, .. }) => {
                Ok(report(Tally::FAILED, format!("FAILED: not done within {seconds} s")))
            }
            Err(error) => Err(error),
        }
    }
}

fn judge(expect: &Expect, success: bool, text: &str) -> (Tally, String) {
    match expect {
        Expect::Pass => {
            let mut tally = count(text);
            if !success && tally.failed == 0 {
                tally.failed = 1;
            }
            if success && tally == Tally::default() {
                tally.passed = 1;
            }
            let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
            (tally, format!("{verdict}: {} passed, {} failed", tally.passed, tally.failed))
        }
        Expect::Failure { test } => {
            let noticed = !success && text.lines().any(|line| failed_line(line, test));
            if noticed {
                (Tally { passed: 1, ..Tally::default() }, "ok: noticed".to_owned())
            } else {
                (Tally { failed: 1, ..Tally::default() }, format!("FAILED: {test} did not notice"))
            }
        }
        Expect::Found { says } => {
            let mut lines = text.lines().skip_while(|line| !line.contains("panicked at"));
            let panicked_so = lines.any(|line| line.contains(says));
            if !success && panicked_so && text.contains("ERROR: libFuzzer: deadly signal") {
                (Tally { passed: 1, ..Tally::default() }, "ok: found".to_owned())
            } else {
                (Tally { failed: 1, ..Tally::default() }, "FAILED: the fuzzer did not find it".to_owned())
            }
        }
    }
}

/// Whether the harness says in this line that `test` failed: "test path::NAME ... FAILED".
fn failed_line(line: &str, test: &str) -> bool {
    let Some(rest) = line.strip_prefix("test ") else { return false };
    let Some(name) = rest.strip_suffix(" ... FAILED") else { return false };
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    name == test || name.ends_with(&format!("::{test}"))
}

/// Adds up the harness's closing lines.
fn count(text: &str) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines() {
        let Some(rest) = line.trim_start().strip_prefix("test result: ") else { continue };
        for part in rest.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => tally.passed += number,
                "failed" => tally.failed += number,
                "ignored" => tally.skipped += number,
                _ => {}
            }
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "test ring::refuses_too_much ... FAILED\n\
        test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 9 filtered out; finished in 0.01s\n";

    #[test]
    fn counts_what_the_harness_says() {
        assert_eq!(count(TEXT), Tally { passed: 3, failed: 1, skipped: 2 });
    }

    #[test]
    fn a_sabotaged_check_is_noticed_only_by_the_test_that_is_named() {
        let judge_for = |test| judge(&Expect::Failure { test }, false, TEXT).0;
        assert_eq!(judge_for("refuses_too_much"), Tally { passed: 1, ..Tally::default() });
        assert_eq!(judge_for("refuses_too_mucho"), Tally { failed: 1, ..Tally::default() });
    }

    #[test]
    fn a_build_that_breaks_is_no_noticed_sabotage() {
        let (tally, _) = judge(&Expect::Failure { test: "x" }, false, "error: could not compile `x`");
        assert_eq!(tally.failed, 1);
    }

    #[test]
    fn a_stage_that_fails_without_a_failed_test_counts_as_one() {
        assert_eq!(judge(&Expect::Pass, false, "").0, Tally { failed: 1, ..Tally::default() });
    }

    #[test]
    fn a_find_of_the_fuzzer_counts_by_its_words_alone() {
        let found =
            "thread panicked at src/descriptors.rs:1:2:\ntook Desc\n==1== ERROR: libFuzzer: deadly signal\n";
        let judge_for = |text, says| judge(&Expect::Found { says }, false, text).0.passed;
        assert_eq!(judge_for(found, "took Desc"), 1);
        assert_eq!(judge_for(found, "took nothing"), 0);
        assert_eq!(judge_for("took Desc\nerror: could not compile `x`", "took Desc"), 0);
    }
}
