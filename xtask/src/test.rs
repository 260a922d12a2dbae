//! `cargo xtask test` and `cargo xtask ci`: stages in order, each bounded, one summary.

use std::process::Command;
use std::time::{Duration, Instant};

use lab::artifacts::{BIN_DIR_VAR, DEBIAN_DIR_VAR, IMAGE_DIR_VAR};
use lab::error::LabError;
use lab::journal::Journal;

use crate::error::XtaskError;
use crate::fuzz;
use crate::packages;
use crate::product;
use crate::sabotage::{self, ATTACK, Build, Sabotage};
use crate::schedule::{self, Totals};
use crate::stage::{Expect, Folder, Stage, Turn};
use crate::workspace::Workspace;

/// Options of `cargo xtask test`.
#[derive(clap::Args, Default)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test virtual\n\n\
    Installs missing Debian packages (see `cargo xtask setup --check`); they stay. The tests with namespaces\n\
    and VMs need root; what they change is undone. Logs: target/xtask-logs.")]
pub struct Options {
    /// Only the stages whose name contains this
    filter: Option<String>,
    /// Longer runs of the crash tests (50 VMs killed instead of 5), and a small Debian as a guest, whose
    /// packages are fetched once
    #[arg(long)]
    long: bool,
}

/// `cargo xtask test`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<(), XtaskError> {
    packages::ensure()?;
    let stages = select(stages(workspace, options)?, options.filter.as_deref())?;
    // What runs alone runs them.
    if stages.iter().any(|stage| stage.turn == Turn::Alone) {
        products(workspace)?;
        if options.long {
            product::debian(workspace)?;
        }
    }
    run_stages(workspace, stages)
}

/// `cargo xtask ci`: format, lints, then all tests.
pub fn ci(workspace: &Workspace) -> Result<(), XtaskError> {
    packages::ensure()?;
    products(workspace)?;
    let options = Options::default();
    let mut all = checks(workspace);
    all.extend(fuzz::checks(workspace));
    all.extend(stages(workspace, &options)?);
    run_stages(workspace, all)
}

fn products(workspace: &Workspace) -> Result<(), XtaskError> {
    product::programs(workspace)?;
    product::image(workspace)?;
    product::attacker(workspace)
}

fn run_stages(workspace: &Workspace, stages: Vec<Stage>) -> Result<(), XtaskError> {
    let journal = Journal::open("test")?;
    journal.undo_on_signal()?;
    let log_dir = workspace.target().join("xtask-logs");
    std::fs::create_dir_all(&log_dir).map_err(LabError::file("make", &log_dir))?;
    let started = Instant::now();
    let Totals { tally, failed } = schedule::run(stages, &log_dir, &journal)?;
    for problem in journal.undo_all() {
        eprintln!("warning: {problem}");
    }
    println!("all stages took {:.0} s", started.elapsed().as_secs_f64());
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed > 0 { Err(XtaskError::Tests { failed: tally.failed }) } else { Ok(()) }
}

fn select(stages: Vec<Stage>, filter: Option<&str>) -> Result<Vec<Stage>, XtaskError> {
    let Some(filter) = filter else { return Ok(stages) };
    let known: Vec<String> = stages.iter().map(|stage| stage.name.clone()).collect();
    let chosen: Vec<Stage> = stages.into_iter().filter(|stage| stage.name.contains(filter)).collect();
    if chosen.is_empty() {
        return Err(XtaskError::NoStage { filter: filter.to_owned(), known });
    }
    Ok(chosen)
}

/// Format and lints.
fn checks(workspace: &Workspace) -> Vec<Stage> {
    vec![
        stage("format", workspace.cargo(), &["fmt", "--all", "--check"], 2),
        stage(
            "lints",
            workspace.cargo(),
            &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
            20,
        ),
    ]
}

/// All tests.
fn stages(workspace: &Workspace, options: &Options) -> Result<Vec<Stage>, XtaskError> {
    let mut all = crates(workspace);
    all.extend(switch(workspace));
    all.extend(sabotage::TOOLS.iter().map(|tool| featured(workspace, tool)));
    all.extend(sabotage::ALL.iter().map(|sabotage| sabotaged(workspace, sabotage)));
    // Last of its kind, so that the switch that stays in the folder of debug builds is a good one.
    all.push(attacked(workspace, None));
    all.extend(fuzz::stages(workspace)?);
    all.push(built(workspace, "build of the tests with VMs", "vm-tests"));
    all.push(virtual_machines(workspace, options));
    Ok(all)
}

/// What needs no switch.
fn crates(workspace: &Workspace) -> Vec<Stage> {
    vec![
        stage("crates without DPDK", workspace.cargo(), &["test"], 15),
        models(workspace, "models of the rings", &["-p", "shm-ring", "--test", "loom"]),
        models(workspace, "models of the pools", &["-p", "dpdk", "--lib"]),
        models(workspace, "models of handover and interrupt", &["-p", "vhost-port", "--lib", "models"]),
        stage("DPDK wrapper", workspace.cargo(), &["test", "-p", "dpdk-sys", "-p", "dpdk"], 10),
        // Ignored by a plain `cargo test`, because they need apt and the built image.
        stage("image builder", workspace.cargo(), &["test", "-p", "images", "--", "--ignored"], 10),
    ]
}

/// The switch, and the VMs that it boots.
fn switch(workspace: &Workspace) -> [Stage; 3] {
    let cargo = || with_artifacts(workspace, workspace.cargo());
    let qemu = ["test", "-p", "host-switch", "--lib", "qemu::", "--", "--ignored", "--test-threads=1"];
    [
        built(workspace, "build of the switch's tests", "host-switch"),
        alone(stage("switch", cargo(), &["test", "-p", "host-switch"], 15)),
        alone(stage("QEMU", cargo(), &qemu, 10)),
    ]
}

/// Tests from outside, with guests.
fn virtual_machines(workspace: &Workspace, options: &Options) -> Stage {
    let mut vms = with_artifacts(workspace, workspace.cargo());
    // One test at a time: two cores are few for a switch and its VMs. Ignored are those that need more than a
    // default run fetches.
    let mut args = vec!["test", "-p", "vm-tests", "--", "--test-threads=1"];
    if options.long {
        vms.env("NETVM_LONG_TESTS", "1");
        vms.env(DEBIAN_DIR_VAR, workspace.root().join(product::DEBIAN));
        args.push("--include-ignored");
    }
    alone(stage("virtual machines", vms, &args, if options.long { 180 } else { 30 }))
}

/// The build of tests that run alone later.
fn built(workspace: &Workspace, name: &str, package: &str) -> Stage {
    stage(name, workspace.cargo(), &["test", "-p", package, "--no-run"], 15)
}

fn stage(name: &str, mut command: Command, args: &[&str], limit_minutes: u64) -> Stage {
    command.args(args);
    Stage {
        name: name.to_owned(),
        turn: Turn::In(Folder::Main),
        before: None,
        command,
        limit: Duration::from_secs(60 * limit_minutes),
        expect: Expect::Pass,
    }
}

fn alone(stage: Stage) -> Stage {
    Stage { turn: Turn::Alone, ..stage }
}

fn models(workspace: &Workspace, name: &str, args: &[&str]) -> Stage {
    let all_args: Vec<&str> = ["test"].iter().chain(args).copied().collect();
    Stage { turn: Turn::In(Folder::Loom), ..stage(name, loom_command(workspace), &all_args, 10) }
}

/// Tests that drive the built programs find them by these variables.
fn with_artifacts(workspace: &Workspace, mut command: Command) -> Command {
    command.env(BIN_DIR_VAR, workspace.target().join("release"));
    command.env(IMAGE_DIR_VAR, workspace.root().join("images/out"));
    command
}

/// A command in whose build every crate sees `--cfg loom`; a target folder of its own keeps it apart.
fn loom_command(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo();
    command.env("CARGO_TARGET_DIR", workspace.target().join("loom")).env("RUSTFLAGS", "--cfg loom");
    command
}

/// Tests built with one feature. The product is a release build, which refuses these features.
fn featured(workspace: &Workspace, sabotage: &Sabotage) -> Stage {
    let (mut command, target, folder) = match sabotage.build {
        Build::Loom(target) => (loom_command(workspace), target, Folder::Loom),
        Build::Test(target) if sabotage.needs_dpdk() => {
            (with_artifacts(workspace, workspace.cargo()), target, Folder::Main)
        }
        Build::Test(target) => {
            let mut command = workspace.cargo();
            command.env("CARGO_TARGET_DIR", workspace.target().join("sabotage"));
            (command, target, Folder::Sabotage)
        }
        Build::Switch => return attacked(workspace, Some(sabotage)),
    };
    // Each of these builds is made once, and what its tests find is no case to remember.
    command.env("CARGO_INCREMENTAL", "0").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    command.args(["test", "-p", sabotage.package, "--features", sabotage.feature]);
    command.args(target).args(["--", sabotage.test]);
    Stage {
        name: format!("{} {}", sabotage.package, sabotage.feature),
        turn: Turn::In(folder),
        before: None,
        command,
        limit: Duration::from_secs(600),
        expect: Expect::Pass,
    }
}

/// What the stages are called in which a process attacks a whole switch.
const UNDER_ATTACK: &str = "under attack";

/// An attack on a switch that was built with one feature or none, not optimised.
fn attacked(workspace: &Workspace, sabotage: Option<&Sabotage>) -> Stage {
    let mut build = workspace.cargo();
    build.args(["build", "-p", "host-switch", "-p", "nfs", "--bins"]);
    if let Some(Sabotage { package, feature, .. }) = sabotage {
        build.args(["--features", &format!("{package}/{feature}")]);
    }
    let mut command = with_artifacts(workspace, workspace.cargo());
    command.env(BIN_DIR_VAR, workspace.target().join("debug"));
    command.args(["test", "-p", "vm-tests", "--test", "attack", "--", ATTACK]);
    Stage {
        name: format!("{UNDER_ATTACK}: {}", sabotage.map_or("nothing sabotaged", |one| one.feature)),
        turn: Turn::Alone,
        before: Some(build),
        command,
        limit: Duration::from_secs(600),
        expect: Expect::Pass,
    }
}

fn sabotaged(workspace: &Workspace, sabotage: &Sabotage) -> Stage {
    Stage { expect: Expect::Failure { test: sabotage.test }, ..featured(workspace, sabotage) }
}
