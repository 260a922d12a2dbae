//! Benchmarks: the product beside its peers, in the same minutes on the same cores.

mod backend;
mod error;
mod flow_lane;
mod flows;
mod hop;
mod machine;
mod raw;
mod report;
mod sample;
mod scenario;
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
    /// Lookups in the flow table and in DPDK's rte_hash, by turns: 1 thousand, 100 thousand and 1 million flows.
    Flows(flows::Options),
    /// One flow table, as the scenario `flows` runs it.
    #[command(hide = true)]
    FlowLane(flow_lane::Options),
    /// One vhost backend, as the scenario `untrusted` runs it.
    #[command(hide = true)]
    Backend(backend::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.scenario {
        Scenario::Hop(options) => hop::run(&options),
        Scenario::Untrusted(options) => untrusted::run_scenario(&options),
        Scenario::Flows(options) => flows::run_scenario(&options),
        Scenario::FlowLane(options) => flow_lane::run(&options),
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
