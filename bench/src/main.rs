//! Benchmarks: the product beside its peers, in the same minutes on the same cores.

mod backend;
mod error;
mod hop;
mod machine;
mod raw;
mod report;
mod sample;
mod untrusted;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs one benchmark scenario and prints a table; `cargo xtask bench` builds everything it needs first.
#[derive(Parser)]
#[command(name = "bench", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// One checked hop: switch lcore on one core, a forwarding NF as a process on the other, 64 B frames.
    Hop(hop::Options),
    /// Packets of an untrusted VM: our vhost backend and DPDK's in C, by turns, with the same driver.
    Untrusted(untrusted::Options),
    /// One vhost backend, as the scenario `untrusted` runs it.
    #[command(hide = true)]
    Backend(backend::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.scenario {
        Scenario::Hop(options) => hop::run(&options),
        Scenario::Untrusted(options) => untrusted::run_scenario(&options),
        Scenario::Backend(options) => backend::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}
