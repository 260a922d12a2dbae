//! One stage of the tests: a command, a time limit, and how its end is read.

use std::path::PathBuf;
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

/// A command with its expectation.
pub struct Stage {
    /// What people call it; also what a filter is matched against.
    pub name: String,
    /// A build that must end well first.
    pub before: Option<Command>,
    /// The command.
    pub command: Command,
    /// After this long it is ended and has failed.
    pub limit: Duration,
    /// How it must end.
    pub expect: Expect,
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
    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Stage {
    /// Runs the stage and prints one line about it; the log's end too if it failed.
    ///
    /// # Errors
    /// If it cannot be started at all.
    pub fn run(self, log_dir: &std::path::Path, journal: &Journal) -> Result<Tally, LabError> {
        eprint!("{:<44} ", self.name);
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
        if let Some(before) = self.before
            && !Child::spawn(&log_name, before, log_dir, journal)?
                .wait(self.limit)
                .is_ok_and(|end| end.success())
        {
            // Whatever was built earlier is not what is to be tested.
            eprintln!(
                "FAILED: it does not build\n--- the end of {}:\n{}\n---",
                log.display(),
                tail(&log, 60)
            );
            return Ok(Tally { failed: 1, ..Tally::default() });
        }
        let mut child = Child::spawn(&log_name, self.command, log_dir, journal)?;
        let ended = child.wait(self.limit);
        let log: PathBuf = child.log().to_owned();
        drop(child);
        let text = std::fs::read(&log).map_err(LabError::file("read", &log))?;
        let text = String::from_utf8_lossy(&text);
        let success = match &ended {
            Ok(status) => status.success(),
            Err(LabError::TimedOut { .. }) => false,
            Err(_) => return ended.map(|_| Tally::default()),
        };
        let (tally, verdict) = judge(&self.expect, success, &text);
        let late = if matches!(ended, Err(LabError::TimedOut { .. })) { ", over its time limit" } else { "" };
        eprintln!("{verdict}{late} ({:.0} s)", started.elapsed().as_secs_f64());
        if tally.failed > 0 {
            eprintln!("--- the end of {}:\n{}\n---", log.display(), tail(&log, 60));
        }
        Ok(tally)
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
