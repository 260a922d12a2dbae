//! `cargo xtask fuzz`: builds the fuzz targets with the flags that cargo-fuzz sets, and runs each for a bounded time.
//!
//! The folder `fuzz/` is cargo-fuzz's; that program itself is not needed, nor is a nightly compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::child::{Child, tail};
use lab::error::LabError;
use lab::journal::Journal;
use serde::Serialize;

use crate::error::XtaskError;
use crate::packages;
use crate::product;
use crate::stage::{Expect, Folder, Stage, Turn};
use crate::workspace::Workspace;

/// Where the product is built for the fuzzer: not on this machine's own account, but as for another one, so that
/// build scripts and macros stay free of the fuzzer's flags.
const BUILD_TARGET: &str = "x86_64-unknown-linux-gnu";

/// How long each target runs as a stage of the tests. All together stay within two minutes.
const STAGE_SECONDS: u64 = 6;

/// How long a run may take beyond its time: the build of what has changed, and the first look at the corpus.
const GRACE: Duration = Duration::from_secs(300);

/// One fuzz target.
struct Target {
    /// Name of its program and of the folder of its corpus.
    name: &'static str,
    /// Folders of the product whose files are seeds, too.
    seeds: &'static [&'static str],
}

const fn target(name: &'static str) -> Target {
    Target { name, seeds: &[] }
}

const CONFIGS: &[&str] = &["security-domains/examples", "security-domains/refused"];

const TARGETS: &[Target] = &[
    Target { name: "config", seeds: CONFIGS },
    target("control_area"),
    target("counters"),
    target("descriptors"),
    Target { name: "firewall_packets", seeds: &["fuzz/corpus/headers"] },
    Target { name: "firewall_rules", seeds: CONFIGS },
    target("guest_words"),
    target("headers"),
    target("http_api"),
    target("messages"),
    target("qmp"),
    target("router_packets"),
    Target { name: "router_routes", seeds: CONFIGS },
    target("virtio_chains"),
    target("vhost_messages"),
];

/// A check turned off, and the target that must find it out within the time of a stage, starting from nothing.
struct Sabotage {
    /// `package/feature`.
    feature: &'static str,
    target: &'static str,
    /// What the target says then.
    says: &'static str,
}

const SABOTAGES: &[Sabotage] = &[
    Sabotage { feature: "switch-core/sabotage-bound", target: "descriptors", says: "assertion" },
    Sabotage { feature: "switch-core/sabotage-length", target: "descriptors", says: "took Desc" },
    Sabotage { feature: "switch-core/sabotage-pin", target: "descriptors", says: "assertion" },
    Sabotage { feature: "shm-ring/sabotage-peer-counter", target: "counters", says: "assertion" },
    Sabotage { feature: "vhost-port/sabotage-region-overlap", target: "vhost_messages", says: "overlap" },
];

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask fuzz\n  cargo xtask fuzz descriptors --seconds 3600\n  \
    cargo xtask fuzz --asan --json | tail -n 1\n\n\
    New inputs are kept in target/fuzz/corpus, inputs that fail in target/fuzz/artifacts; fuzz/README.md says\n\
    what to do with those. Installs missing Debian packages (see `cargo xtask setup --check`); they stay.")]
pub struct Options {
    /// Only the targets whose name contains this
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// With the address sanitizer: slower; unlocked by RUSTC_BOOTSTRAP=1 for this build alone
    #[arg(long)]
    asan: bool,
    /// Print the results as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// What one target did. Keys are stable.
#[derive(Debug, Serialize)]
struct Outcome {
    target: &'static str,
    /// Inputs tried.
    runs: u64,
    /// Edges of the program that they reached.
    edges: u64,
    seconds: f64,
    /// Whether no input failed.
    passed: bool,
}

/// What all targets did. Keys are stable.
#[derive(Debug, Serialize)]
struct Report {
    address_sanitizer: bool,
    targets: Vec<Outcome>,
    failed: usize,
}

/// `cargo xtask fuzz`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<(), XtaskError> {
    packages::ensure()?;
    let build = Build { workspace, asan: options.asan };
    let chosen = select(options.target.as_deref())?;
    product::logged(workspace, "building the fuzz targets", build.command("build", &["--bins"]))?;
    let journal = Journal::open("fuzz")?;
    journal.undo_on_signal()?;
    let mut report = Report { address_sanitizer: options.asan, targets: Vec::new(), failed: 0 };
    for target in chosen {
        let outcome = build.fuzz(target, options.seconds, &journal)?;
        report.failed += usize::from(!outcome.passed);
        report.targets.push(outcome);
    }
    for problem in journal.undo_all() {
        eprintln!("warning: {problem}");
    }
    if options.json {
        let line = serde_json::to_string(&report)
            .map_err(|err| LabError::Status { what: format!("the report has no JSON form: {err}") })?;
        println!("{line}");
    }
    if report.failed > 0 { Err(XtaskError::Fuzz { failed: report.failed }) } else { Ok(()) }
}

fn select(filter: Option<&str>) -> Result<Vec<&'static Target>, XtaskError> {
    let filter = filter.unwrap_or_default();
    let chosen: Vec<&Target> = TARGETS.iter().filter(|target| target.name.contains(filter)).collect();
    if chosen.is_empty() {
        let known = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        return Err(XtaskError::NoStage { filter: filter.to_owned(), known });
    }
    Ok(chosen)
}

/// Format and lints of the folder, which the main workspace's do not see.
pub fn checks(workspace: &Workspace) -> [Stage; 2] {
    let manifest = |command: &mut Command| {
        command.arg("--manifest-path").arg(workspace.root().join("fuzz/Cargo.toml"));
    };
    let mut format = workspace.cargo();
    format.arg("fmt");
    manifest(&mut format);
    format.arg("--check");
    let mut lints = workspace.cargo();
    lints.arg("clippy");
    manifest(&mut lints);
    lints
        .args(["--lib", "--bins", "--", "-D", "warnings"])
        .env("CARGO_TARGET_DIR", workspace.target().join("fuzz"));
    [
        stage("format of the fuzz targets", format, Expect::Pass),
        stage("lints of the fuzz targets", lints, Expect::Pass),
    ]
}

/// A short run of each target, and the proof that targets can fail.
pub fn stages(workspace: &Workspace) -> Result<Vec<Stage>, XtaskError> {
    let build = Build { workspace, asan: false };
    let mut all = vec![stage("build of the fuzz targets", build.command("build", &["--bins"]), Expect::Pass)];
    for target in TARGETS {
        let command = build.run_command(target, STAGE_SECONDS)?;
        all.push(stage(&format!("fuzz {}", target.name), command, Expect::Pass));
    }
    for Sabotage { feature, target, says } in SABOTAGES {
        let mut command = build.command("run", &["--bin", target, "--features", feature, "--"]);
        command.args(["-seed=1", &format!("-max_total_time={STAGE_SECONDS}")]);
        command.arg(build.artifact_prefix(target)?);
        all.push(stage(&format!("fuzz {target} {feature}"), command, Expect::Found { says }));
    }
    Ok(all)
}

fn stage(name: &str, command: Command, expect: Expect) -> Stage {
    let turn = Turn::In(Folder::Fuzz);
    Stage { name: name.to_owned(), turn, before: None, command, limit: Duration::from_secs(900), expect }
}

/// One way to build the targets.
struct Build<'w> {
    workspace: &'w Workspace,
    asan: bool,
}

impl Build<'_> {
    fn folder(&self) -> PathBuf {
        self.workspace.target().join(if self.asan { "fuzz-asan" } else { "fuzz" })
    }

    /// A cargo command that builds as `cargo fuzz --sanitizer none` or `address` does.
    fn command(&self, what: &str, args: &[&str]) -> Command {
        let mut command = self.workspace.cargo();
        command.arg(what).arg("--manifest-path").arg(self.workspace.root().join("fuzz/Cargo.toml"));
        command.args(["--release", "--target", BUILD_TARGET]).args(args);
        command.env("CARGO_TARGET_DIR", self.folder());
        let mut flags = vec![
            "-Cpasses=sancov-module",
            "-Cllvm-args=-sanitizer-coverage-level=4",
            "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
            "-Cllvm-args=-sanitizer-coverage-pc-table",
            "-Cllvm-args=-sanitizer-coverage-trace-compares",
            "-Cllvm-args=-sanitizer-coverage-stack-depth",
            "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
            "-Cdebug-assertions",
            "-Ccodegen-units=1",
            "--cfg=fuzzing",
        ];
        if self.asan {
            flags.push("-Zsanitizer=address");
            command.env("RUSTC_BOOTSTRAP", "1").env("ASAN_OPTIONS", "detect_odr_violation=0");
        }
        command.env("RUSTFLAGS", flags.join(" "));
        command
    }

    fn made(&self, folder: &str, target: &str) -> Result<PathBuf, XtaskError> {
        // The same for every build: an input is an input.
        let path = self.workspace.target().join("fuzz").join(folder).join(target);
        std::fs::create_dir_all(&path).map_err(LabError::file("make", &path))?;
        Ok(path)
    }

    fn artifact_prefix(&self, target: &str) -> Result<String, XtaskError> {
        Ok(format!("-artifact_prefix={}/", self.made("artifacts", target)?.display()))
    }

    fn run_command(&self, target: &Target, seconds: u64) -> Result<Command, XtaskError> {
        let root = self.workspace.root();
        let mut command = self.command("run", &["--bin", target.name, "--"]);
        command.arg(format!("-max_total_time={seconds}")).args(["-timeout=10", "-rss_limit_mb=1024"]);
        command.arg(self.artifact_prefix(target.name)?);
        let dictionary = root.join("fuzz/dictionaries").join(format!("{}.dict", target.name));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        // New inputs go into the first folder.
        command.arg(self.made("corpus", target.name)?);
        let kept = root.join("fuzz/corpus").join(target.name);
        command.args(kept.exists().then_some(kept));
        command.args(target.seeds.iter().map(|folder| root.join(folder)));
        Ok(command)
    }

    /// Runs one target and prints a line about it; the log's end too if an input failed.
    fn fuzz(&self, target: &'static Target, seconds: u64, journal: &Journal) -> Result<Outcome, XtaskError> {
        eprint!("{:<18} ", target.name);
        let started = Instant::now();
        let log_dir = self.workspace.target().join("xtask-logs");
        let name = format!("fuzz-{}", target.name);
        remove_old(&log_dir.join(format!("{name}.log")))?;
        let mut child = Child::spawn(&name, self.run_command(target, seconds)?, &log_dir, journal)?;
        let status = child.wait(Duration::from_secs(seconds).saturating_add(GRACE))?;
        let log = child.log().to_owned();
        let text = std::fs::read(&log).map_err(LabError::file("read", &log))?;
        let (runs, edges) = count(&String::from_utf8_lossy(&text));
        let seconds = started.elapsed().as_secs_f64();
        let passed = status.success();
        let verdict = if passed { "ok" } else { "FAILED" };
        eprintln!("{verdict}: {runs} runs, {edges} edges ({seconds:.0} s)");
        if !passed {
            eprintln!("--- the end of {}:\n{}\n---", log.display(), tail(&log, 60));
        }
        Ok(Outcome { target: target.name, runs, edges, seconds, passed })
    }
}

fn remove_old(log: &Path) -> Result<(), LabError> {
    match std::fs::remove_file(log) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(LabError::file("remove", log)(err)),
        _ => Ok(()),
    }
}

/// Inputs tried and edges reached, by libFuzzer's last status line: `#1234 DONE cov: 56 ft: 78 ...`.
fn count(log: &str) -> (u64, u64) {
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
    let read = |line: &str| -> Option<(u64, u64)> {
        let mut words = line.strip_prefix('#')?.split_whitespace();
        let runs = number(words.next())?;
        words.find(|word| *word == "cov:")?;
        Some((runs, number(words.next())?))
    };
    log.lines().rev().find_map(read).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn folder(below: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(below)
    }

    #[test]
    fn every_target_of_the_folder_is_run() {
        let run: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
        let declared = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
        let declared: BTreeSet<String> = declared.map(|rest| rest.replace(".rs\"", "")).collect();
        assert_eq!(run, declared);
        let files = std::fs::read_dir(folder("fuzz_targets")).unwrap();
        let files = files.map(|file| file.unwrap().file_name().to_string_lossy().replace(".rs", ""));
        assert_eq!(run, files.collect());
    }

    #[test]
    fn every_kept_corpus_is_of_a_target() {
        for kept in std::fs::read_dir(folder("corpus")).unwrap() {
            let name = kept.unwrap().file_name().to_string_lossy().into_owned();
            assert!(TARGETS.iter().any(|target| target.name == name), "{name}");
        }
    }

    #[test]
    fn the_last_status_line_of_the_fuzzer_counts() {
        let log = "#2\tINITED cov: 10 ft: 11\n#300\tDONE   cov: 56 ft: 78 corp: 9/9b\nDone 300 runs\n";
        assert_eq!(count(log), (300, 56));
        assert_eq!(count("error: could not compile"), (0, 0));
    }
}
