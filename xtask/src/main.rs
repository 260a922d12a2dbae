//! The project's own commands: demo, test, attack, fuzz, image, setup, clean.

mod attack;
mod bench;
mod demo;
mod error;
mod fuzz;
mod packages;
mod product;
mod sabotage;
mod schedule;
mod stage;
mod summary;
mod table;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::XtaskError;
use crate::workspace::Workspace;

/// Commands of the netvm project: set up, show, test, clean up.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds everything and shows it: two hosts, a switch, VMs between them, real TCP and ICMP.
    Demo(demo::Options),
    /// Runs every test, those with VMs included.
    Test(test::Options),
    /// Format and lint checks, then the tests: what a clean clone must pass.
    Ci,
    /// Builds the guest image: a kernel, an initramfs, the network functions as static programs.
    Image,
    /// Installs the packages that building and testing need, and says which.
    Setup(packages::Options),
    /// Measures a scenario beside its peers: builds everything, then runs it.
    Bench(bench::Options),
    /// Tries the parsers of untrusted bytes with inputs that a fuzzer makes up.
    Fuzz(fuzz::Options),
    /// Lets hostile guests at a switch, and says which promises held.
    Attack(attack::Options),
    /// Undoes what a killed demo or test left behind: namespaces, hugepages, processes.
    Clean,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<(), XtaskError> {
    let workspace = Workspace::find()?;
    match task {
        Task::Demo(options) => demo::run(&workspace, &options),
        Task::Test(options) => test::run(&workspace, &options),
        Task::Ci => test::ci(&workspace),
        Task::Image => {
            packages::ensure()?;
            let image = product::image(&workspace)?;
            println!("kernel    {}\ninitramfs {}", image.kernel.display(), image.initramfs.display());
            Ok(())
        }
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Fuzz(options) => fuzz::run(&workspace, &options),
        Task::Attack(options) => attack::run(&workspace, &options),
        Task::Setup(options) => packages::setup(&options),
        Task::Clean => {
            let undone = lab::journal::undo_stale()?;
            println!("{undone} leftover journal(s) undone");
            Ok(())
        }
    }
}
