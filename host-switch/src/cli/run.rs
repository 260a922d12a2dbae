//! `netvm run`: the switch itself.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use super::Failure;
use crate::control::switch::{self, SwitchError};

const NO_HUGE: &str = "--no-huge";

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The config.
    file: PathBuf,
    /// Give DPDK itself ordinary memory even if huge pages are free. Regions follow the config.
    #[arg(long)]
    no_huge: bool,
}

pub(super) fn run(run_dir: &Path, args: &RunArgs) -> Result<ExitCode, Failure> {
    let (config, text) = super::load_text(&args.file)?;
    match switch::run(&config, text, run_dir, args.no_huge) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure @ SwitchError::DpdkOnHugepages(_)) => {
            // Somebody else took the pages between our look and DPDK's grasp. DPDK starts once a process, so
            // this one begins anew; everything it held was closed or goes with the old program.
            log::warn!("{failure}; starting once more with ordinary memory for DPDK");
            let mut again = Command::new(std::env::current_exe()?);
            Err(again.args(std::env::args_os().skip(1)).arg(NO_HUGE).exec().into())
        }
        Err(failure) => Err(failure.into()),
    }
}
