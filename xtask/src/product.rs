//! Builds the programs and the guest image, with a line of progress each.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use lab::artifacts::Artifacts;
use lab::child::tail;
use lab::error::LabError;

use crate::error::XtaskError;
use crate::workspace::Workspace;

/// The target of programs for the guest.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// How programs for the guest are linked.
const STATIC: &str = "-C target-feature=+crt-static";

/// The guest image's two files.
pub struct Image {
    /// A bzImage.
    pub kernel: PathBuf,
    /// A gzipped cpio archive.
    pub initramfs: PathBuf,
}

/// Builds `netvm` and the NFs for this machine.
pub fn programs(workspace: &Workspace) -> Result<Artifacts, XtaskError> {
    let mut command = workspace.cargo();
    command.args(["build", "--release", "-p", "host-switch", "-p", "nfs", "-p", "guest-netlib", "--bins"]);
    logged(workspace, "building netvm and the network functions", command)?;
    Ok(Artifacts::new(workspace.target().join("release"), workspace.root().join("images/out")))
}

/// Builds the hostile guest as a static program, for this machine and for guests: no part of the product.
pub fn attacker(workspace: &Workspace) -> Result<(), XtaskError> {
    let mut command = workspace.cargo();
    command.args(["rustc", "--release", "-p", "vm-tests", "--bin", "attacker", "--target", GUEST_TARGET]);
    command.args(["--", "-C", "strip=symbols"]);
    command.env("CARGO_TARGET_DIR", workspace.target().join("guest")).env("RUSTFLAGS", STATIC);
    logged(workspace, "building the attacker as a static program", command)
}

/// Builds the guest image, with the NFs as static programs.
pub fn image(workspace: &Workspace) -> Result<Image, XtaskError> {
    let guest_target = workspace.target().join("guest");
    let mut nfs = workspace.cargo();
    nfs.args(["build", "--release", "-p", "nfs", "-p", "guest-netlib", "--bins", "--target", GUEST_TARGET]);
    nfs.env("CARGO_TARGET_DIR", &guest_target).env("RUSTFLAGS", STATIC);
    logged(workspace, "building the network functions as static programs", nfs)?;

    let mut builder = workspace.cargo();
    builder.args(["run", "--release", "-p", "images", "--bin", "build-image", "--"]);
    builder.arg("--programs").arg(guest_target.join(GUEST_TARGET).join("release"));
    builder.arg("--out").arg(workspace.root().join("images/out"));
    logged(workspace, "building the guest image", builder)?;

    let artifacts = Artifacts::new(workspace.target().join("release"), workspace.root().join("images/out"));
    let image = Image { kernel: artifacts.kernel(), initramfs: artifacts.initramfs() };
    for path in [&image.kernel, &image.initramfs] {
        if !path.exists() {
            return Err(XtaskError::Missing {
                path: path.clone(),
                why: "the image builder ended well and did not make it",
            });
        }
    }
    Ok(image)
}

/// Builds the disk of a small Debian, unless it is there.
pub fn debian(workspace: &Workspace) -> Result<(), XtaskError> {
    let mut builder = workspace.cargo();
    builder.args(["run", "--release", "-p", "images", "--bin", "build-image", "--", "--debian"]);
    builder.arg("--out").arg(workspace.root().join(DEBIAN));
    logged(workspace, "building a small Debian", builder)
}

/// Where that is.
pub const DEBIAN: &str = "images/out/debian";

/// Runs a build with its output in a log file, and says how long it took.
pub fn logged(workspace: &Workspace, what: &str, mut command: Command) -> Result<(), XtaskError> {
    eprint!("{what} ... ");
    let started = Instant::now();
    let folder = workspace.target().join("xtask-logs");
    std::fs::create_dir_all(&folder).map_err(LabError::file("make", &folder))?;
    let log = folder.join(format!("{}.log", what.replace(' ', "-")));
    let file = File::create(&log).map_err(LabError::file("write", &log))?;
    let errors = file.try_clone().map_err(LabError::file("write", &log))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .status()
        .map_err(|source| LabError::Start { command: format!("{command:?}"), source })?;
    if !status.success() {
        eprintln!("failed");
        return Err(XtaskError::Build { what: what.to_owned(), tail: tail(&log, 40) });
    }
    eprintln!("{:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
