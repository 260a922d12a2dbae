//! `cargo xtask bench`: builds the product and the bench program, then hands over to it.

use lab::artifacts::{BIN_DIR_VAR, IMAGE_DIR_VAR};
use lab::error::LabError;

use crate::error::XtaskError;
use crate::packages;
use crate::product;
use crate::workspace::Workspace;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench hop\n  cargo xtask bench untrusted --json | tail -n 1\n  cargo xtask bench flows\n  cargo xtask bench hop --help"
)]
pub struct Options {
    /// The scenario and its own options
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    scenario: Vec<String>,
}

/// `cargo xtask bench SCENARIO`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<(), XtaskError> {
    packages::ensure()?;
    let artifacts = product::programs(workspace)?;
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--release", "-p", "bench", "--"]).args(&options.scenario);
    command.env(BIN_DIR_VAR, artifacts.bin_dir());
    command.env(IMAGE_DIR_VAR, workspace.root().join("images/out"));
    let status = command
        .status()
        .map_err(|source| LabError::Start { command: "cargo run -p bench".to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(XtaskError::Build { what: format!("bench {}", options.scenario.join(" ")), tail: String::new() })
}
