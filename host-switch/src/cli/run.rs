//! `netvm run`: the switch itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The config.
    file: PathBuf,
}

pub(super) fn run(run_dir: &Path, args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = super::load(&args.file)?;
    crate::control::switch::run(&config, run_dir)?;
    Ok(ExitCode::SUCCESS)
}
