//! `netvm boot`: boots a VM of the config.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct BootArgs {
    /// The config.
    file: PathBuf,
    /// The VM, by its name in the config.
    vm: String,
}

pub(super) fn boot(_run_dir: &Path, args: &BootArgs) -> Result<ExitCode, Failure> {
    super::load(&args.file)?;
    Err(format!("vm {} cannot be booted", args.vm).into())
}
