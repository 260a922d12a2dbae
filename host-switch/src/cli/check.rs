//! `netvm check`: all findings of a config, or what it needs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use crate::control::eal;
use crate::plan::{Plan, PlanError};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The config.
    file: PathBuf,
    /// Print one JSON object: `findings`, or `config` with `needs`.
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let file = args.file.display();
    let config = match security_domains::load(&args.file) {
        Ok(config) => config,
        Err(findings) => {
            if args.json {
                println!("{}", serde_json::json!({ "findings": findings }));
            } else {
                eprintln!("{findings}");
                let count = findings.len();
                eprintln!("{file}: {count} finding{}", if count == 1 { "" } else { "s" });
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    // What this version cannot carry out, or the layout of control areas cannot express, shows only when it is
    // planned; `netvm run` would refuse it, so it is no good config in either form of the answer.
    let plan = match Plan::new(&config, 0) {
        Ok(plan) => plan,
        Err(error) => {
            if args.json {
                println!("{}", serde_json::json!({ "findings": [unplanned(&args.file, &error)] }));
            } else {
                eprintln!("{file}: {error}");
                eprintln!("{file}: 1 finding");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    if args.json {
        println!("{}", serde_json::json!({ "config": config, "needs": config.needs() }));
        return Ok(ExitCode::SUCCESS);
    }
    for need in config.needs() {
        println!("{need}");
    }
    let own_pages = eal::memory_mib(&plan).div_ceil(eal::MIB_PER_HUGEPAGE);
    println!("DPDK itself: {own_pages} hugepages of 2 MiB more, or ordinary memory where they are not free");
    println!("{file}: no findings");
    Ok(ExitCode::SUCCESS)
}

/// A refusal of the plan with the keys of a finding; it has no place in the file.
fn unplanned(file: &Path, error: &PlanError) -> serde_json::Value {
    serde_json::json!({
        "file": file.display().to_string(), "line": 0, "column": 0, "key": "", "rule": error.to_string(),
        "got": "", "nearest": [], "kind": "unplanned",
    })
}
