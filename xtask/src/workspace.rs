//! Where the sources lie and where builds go.

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::child::run_command;
use lab::error::LabError;

use crate::error::XtaskError;

/// Root and target folder of this checkout.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    /// If cargo does not answer.
    pub fn find() -> Result<Self, XtaskError> {
        let mut command = Command::new(cargo());
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = run_command(command)?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|err| LabError::Status { what: format!("cargo metadata: {err}") })?;
        let path = |key: &str| {
            answer[key]
                .as_str()
                .map(PathBuf::from)
                .ok_or_else(|| LabError::Status { what: format!("cargo metadata names no {key}") })
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// The checkout.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A cargo command that runs in the checkout.
    #[must_use]
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root).env("CARGO_TERM_COLOR", "never");
        // What cargo set for this very program must not leak into another build.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                command.env_remove(name);
            }
        }
        command
    }
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}
