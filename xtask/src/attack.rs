//! `cargo xtask attack`: builds the product and an attacker, then lets the attacker at it.

use lab::artifacts::{BIN_DIR_VAR, IMAGE_DIR_VAR};
use lab::error::LabError;

use crate::error::XtaskError;
use crate::packages;
use crate::product;
use crate::workspace::Workspace;

/// Options of `cargo xtask attack`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask attack --seconds 60 --seed 7 --json | tail -n 1\n  \
    cargo xtask attack --seconds 60 --only denied_edges\n\n\
    A process, a VM and frontends of untrusted NICs attack one domain of a switch while another domain\n\
    moves bytes; what the other domain keeps, and what the switch counts, is printed. Needs root, as the demo does; what is changed is undone.")]
pub struct Options {
    /// How long to attack
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,
    /// What all choices of the attackers follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Attack without a VM
    #[arg(long)]
    no_vm: bool,
    /// Attack in this way alone, as the JSON names it: denied_edges, ...; may be given several times
    #[arg(long, value_name = "KIND")]
    only: Vec<String>,
    /// Print the summary as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// `cargo xtask attack`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<(), XtaskError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::NotRoot.into());
    }
    packages::ensure()?;
    let artifacts = product::programs(workspace)?;
    product::attacker(workspace)?;
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--release", "-p", "vm-tests", "--bin", "attack", "--"]);
    command.args(["--seconds", &options.seconds.to_string(), "--seed", &options.seed.to_string()]);
    if options.no_vm {
        command.arg("--no-vm");
    } else {
        product::image(workspace)?;
    }
    command.args(options.only.iter().flat_map(|kind| ["--only", kind]));
    if options.json {
        command.arg("--json");
    }
    command.env(BIN_DIR_VAR, artifacts.bin_dir());
    command.env(IMAGE_DIR_VAR, workspace.root().join("images/out"));
    let status = command
        .status()
        .map_err(|source| LabError::Start { command: "cargo run -p vm-tests".to_owned(), source })?;
    if status.success() { Ok(()) } else { Err(XtaskError::Attack) }
}
