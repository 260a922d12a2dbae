//! `netvm config`: the config that runs now.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, WhichSwitch};
use crate::control::request::RunningConfig;

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    which: WhichSwitch,
    /// Print one JSON object, with the generation and the file that relative paths count from.
    #[arg(long)]
    json: bool,
}

pub(super) fn config(run_dir: &Path, args: &ConfigArgs) -> Result<ExitCode, Failure> {
    let running: RunningConfig = args.which.find(run_dir)?.get("/v1/config/text")?;
    if args.json {
        println!("{}", serde_json::to_string(&running)?);
    } else {
        print!("{}", running.text);
    }
    Ok(ExitCode::SUCCESS)
}
