//! What is around every scenario: a folder, a journal, C programs of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::child::{run as run_program, run_command};
use lab::error::LabError;
use lab::journal::{Change, Journal};

use crate::error::BenchError;
use crate::report::Report;

/// Lets a scenario measure in a folder of its own, undoes what it changed, and prints its report.
///
/// # Errors
/// What the scenario fails with, or if there is no folder for it.
pub fn run(
    json: bool,
    measure: impl FnOnce(&Path, &Journal) -> Result<Report, BenchError>,
) -> Result<(), BenchError> {
    let journal = Journal::open("bench")?;
    journal.undo_on_signal()?;
    let report = folder(&journal).map_err(BenchError::from).and_then(|folder| measure(&folder, &journal));
    for problem in journal.undo_all() {
        eprintln!("warning: {problem}");
    }
    report?.print(json);
    Ok(())
}

fn folder(journal: &Journal) -> Result<PathBuf, LabError> {
    let folder = PathBuf::from(format!("/run/netvm-lab/bench-{}", std::process::id()));
    journal.note(Change::Directory(folder.clone()))?;
    std::fs::create_dir_all(&folder).map_err(LabError::file("make", &folder))?;
    Ok(folder)
}

/// An error on a machine of one core.
///
/// # Errors
/// If there is no second one to pin to.
pub fn need_two_cores() -> Result<(), BenchError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 { Err(BenchError::Cores(cores)) } else { Ok(()) }
}

/// Compiles a C program, whose source is named relative to the checkout, for this machine.
///
/// # Errors
/// If the compiler refuses.
pub fn compile(source: &str, program: PathBuf, flags: &[&str]) -> Result<PathBuf, BenchError> {
    let mut command = Command::new("cc");
    command.args(["-O3", "-march=native", "-o"]).arg(&program).arg(source).args(flags);
    run_command(command)?;
    Ok(program)
}

/// The same with DPDK.
///
/// # Errors
/// If it is not installed, or the compiler refuses.
pub fn compile_with_dpdk(source: &str, program: PathBuf, flags: &[&str]) -> Result<PathBuf, BenchError> {
    let of_dpdk = run_program("pkg-config", &["--cflags", "--libs", "libdpdk"])?;
    let of_dpdk = String::from_utf8_lossy(&of_dpdk.stdout).into_owned();
    let all: Vec<&str> = flags.iter().copied().chain(of_dpdk.split_whitespace()).collect();
    compile(source, program, &all)
}
