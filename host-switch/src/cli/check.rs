//! `netvm check`: all findings of a config, or what it needs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, code};
use crate::control::eal;
use crate::plan::Plan;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The config.
    file: PathBuf,
    /// Print one JSON object: `findings`, or `config` with `needs`.
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let loaded = security_domains::load(&args.file);
    if args.json {
        let told = match &loaded {
            Ok(config) => serde_json::json!({ "config": config, "needs": config.needs() }),
            Err(findings) => serde_json::json!({ "findings": findings }),
        };
        println!("{told}");
        return Ok(code(loaded.is_ok()));
    }
    match loaded {
        Ok(config) => {
            // What the layout of control areas cannot express shows only when it is planned.
            let plan = Plan::new(&config, 0)?;
            for need in config.needs() {
                println!("{need}");
            }
            let own_pages = eal::memory_mib(&plan).div_ceil(eal::MIB_PER_HUGEPAGE);
            println!(
                "DPDK itself: {own_pages} hugepages of 2 MiB more, or ordinary memory where they are not free"
            );
            println!("{}: no findings", args.file.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(findings) => {
            eprintln!("{findings}");
            let count = findings.len();
            eprintln!("{}: {count} finding{}", args.file.display(), if count == 1 { "" } else { "s" });
            Ok(ExitCode::FAILURE)
        }
    }
}
