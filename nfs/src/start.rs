//! How a network function starts and what its exit code says.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use guest_netlib::{AttachError, DeviceError, RunError, TargetError};

/// Why a network function ended early.
#[derive(Debug, thiserror::Error)]
pub enum NfError {
    /// No memory of a switch.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Not attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The loop broke.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A target that the config does not allow.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Not on that CPU.
    #[error("running on CPU {cpu} only: {source}; `nproc --all` says how many there are")]
    Cpu {
        /// The CPU that was asked for.
        cpu: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// No signal handler.
    #[error("catching SIGINT and SIGTERM: {0}")]
    Signals(io::Error),
    /// No JSON form.
    #[error("writing statistics as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Parses the command line, starts the log (RUST_LOG, "info" without it) and runs `nf`.
pub fn main_with<P: Parser, E: Error>(nf: impl FnOnce(P) -> Result<(), E>) -> ExitCode {
    let args = P::parse();
    // A guest's terminal is its serial console, which a log file follows. RUST_LOG_STYLE has the last word.
    env_logger::Builder::new()
        .write_style(env_logger::WriteStyle::Never)
        .parse_env(env_logger::Env::default().default_filter_or("info"))
        .init();
    match nf(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}
