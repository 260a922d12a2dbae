//! A small Debian as a guest: a disk with its root, its own kernel and initramfs.
//!
//! Nothing in it is ours but what an administrator would set: every Ethernet card gets its address by DHCP from
//! `systemd-networkd`, and an `iperf3` server runs. It is for tests and trials of untrusted VMs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::package::sha256;

/// File name of the disk in the output folder.
pub const DISK_FILE: &str = "root.ext4";
/// File name of Debian's kernel in the output folder.
pub const KERNEL_FILE: &str = "vmlinuz";
/// File name of Debian's initramfs in the output folder.
pub const INITRAMFS_FILE: &str = "initrd.img";
/// What the files were made by; another recipe makes them anew.
const RECIPE_FILE: &str = "recipe.sha256";

const SUITE: &str = "bookworm";
/// Beyond `minbase`.
const PACKAGES: &str =
    "systemd-sysv,udev,iproute2,iputils-ping,iperf3,linux-image-cloud-amd64,initramfs-tools,zstd";
const NETWORK: &str = "[Match]\\nType=ether\\n[Network]\\nDHCP=ipv4\\n";
/// Most of it stays empty, and takes no room on the host.
const DISK_SIZE: &str = "2G";

/// Why there is no Debian.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A tool could not be started.
    #[error("cannot start {tool}: {source}; `apt install mmdebstrap e2fsprogs` brings both that are needed")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A tool failed.
    #[error("{tool} failed: {why}")]
    Failed {
        /// Its name.
        tool: &'static str,
        /// The end of what it said.
        why: String,
    },
    /// A file could not be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The root has no kernel, or no initramfs.
    #[error("the root has no file boot/{prefix}*")]
    Missing {
        /// How its name begins.
        prefix: &'static str,
    },
    /// The root has more than one kernel, or initramfs.
    #[error("the root has more than one file boot/{prefix}*, expected one")]
    Ambiguous {
        /// How their names begin.
        prefix: &'static str,
    },
}

/// Where the three files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debian {
    /// The disk: an ext4 file system without a partition table.
    pub disk: PathBuf,
    /// A bzImage.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
}

/// Builds a Debian in `out`, unless the one that is there was made by the same recipe. Fetches packages, and needs
/// root: packages are installed under their own owners.
///
/// # Errors
/// If a tool or a file cannot be had; what was in `out` stays until everything is made.
pub fn build_debian(out: &Path) -> Result<Debian, DebianError> {
    let debian = Debian {
        disk: out.join(DISK_FILE),
        kernel: out.join(KERNEL_FILE),
        initramfs: out.join(INITRAMFS_FILE),
    };
    let (recipe, recipe_file) = (recipe(), out.join(RECIPE_FILE));
    if std::fs::read_to_string(&recipe_file).is_ok_and(|made_by| made_by == recipe) {
        return Ok(debian);
    }
    std::fs::create_dir_all(out).map_err(file(out))?;
    let folder = tempfile::tempdir_in(out).map_err(file(out))?;
    let root = folder.path().join("root");
    run("mmdebstrap", bootstrap(&root))?;
    let boot = root.join("boot");
    let (kernel, initramfs) = (only(&boot, "vmlinuz-")?, only(&boot, "initrd.img-")?);
    let disk = folder.path().join(DISK_FILE);
    run("mkfs.ext4", mkfs(&root, &disk))?;
    // From here on the old files go: without their recipe, nobody takes a mixture for whole.
    match std::fs::remove_file(&recipe_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(&recipe_file)(error)),
        _ => {}
    }
    for (from, to) in [(&disk, &debian.disk), (&kernel, &debian.kernel), (&initramfs, &debian.initramfs)] {
        std::fs::rename(from, to).map_err(file(to))?;
    }
    std::fs::write(&recipe_file, recipe).map_err(file(&recipe_file))?;
    Ok(debian)
}

/// What the kernel has to be told to boot from the disk.
pub const KERNEL_ARGS: &str = "root=/dev/vda rw";

fn bootstrap(root: &Path) -> Command {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--format=directory"]);
    command.arg(format!("--include={PACKAGES}"));
    command.args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=path-exclude=/usr/share/doc/*"]);
    command.args(["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]);
    command.args(hooks().map(|hook| format!("--customize-hook={hook}")));
    // No mirror: the tool knows Debian's own, and how the host's apt gets there.
    command.arg(SUITE).arg(root);
    command
}

fn mkfs(root: &Path, disk: &Path) -> Command {
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-L", "debian", "-d"]).arg(root).arg(disk).arg(DISK_SIZE);
    command
}

/// What is set in the root after its packages were installed; `$1` is its path.
fn hooks() -> [String; 3] {
    [
        format!("printf '{NETWORK}' > \"$1/etc/systemd/network/80-ether.network\""),
        "chroot \"$1\" systemctl enable systemd-networkd iperf3".to_owned(),
        "echo debian > \"$1/etc/hostname\"".to_owned(),
    ]
}

/// A hash of everything that the files depend on, but for what the suite holds today.
fn recipe() -> String {
    let (bootstrap, mkfs) = (bootstrap(Path::new("root")), mkfs(Path::new("root"), Path::new("disk")));
    let words = [&bootstrap, &mkfs].into_iter().flat_map(Command::get_args);
    let words: Vec<_> = words.map(OsStr::as_encoded_bytes).collect();
    sha256(&words.join(&0))
}

/// The file whose name begins with `prefix`: an installation of one kernel has one of each kind.
fn only(folder: &Path, prefix: &'static str) -> Result<PathBuf, DebianError> {
    let entries = std::fs::read_dir(folder).map_err(file(folder))?.flatten();
    let mut meant =
        entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
    match (meant.next(), meant.next()) {
        (Some(entry), None) => Ok(entry.path()),
        (None, _) => Err(DebianError::Missing { prefix }),
        (Some(_), Some(_)) => Err(DebianError::Ambiguous { prefix }),
    }
}

fn run(tool: &'static str, mut command: Command) -> Result<(), DebianError> {
    let output = command.output().map_err(|source| DebianError::Tool { tool, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.trim().lines().collect();
    let why = lines[lines.len().saturating_sub(10)..].join("\n");
    Err(DebianError::Failed { tool, why })
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> DebianError {
    let path = path.to_owned();
    move |source| DebianError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_by_this_recipe_is_taken_as_it_is() {
        let out = tempfile::tempdir().unwrap();
        std::fs::write(out.path().join(RECIPE_FILE), recipe()).unwrap();
        assert_eq!(build_debian(out.path()).unwrap().disk, out.path().join(DISK_FILE));
    }

    #[test]
    fn the_one_kernel_is_found_and_a_missing_or_a_second_one_named() {
        let boot = tempfile::tempdir().unwrap();
        for name in ["vmlinuz-6.1.0-9", "initrd.img-6.1.0-9", "initrd.img-6.1.0-10"] {
            std::fs::write(boot.path().join(name), "").unwrap();
        }
        assert_eq!(only(boot.path(), "vmlinuz-").unwrap(), boot.path().join("vmlinuz-6.1.0-9"));
        let missing = only(boot.path(), "config-").unwrap_err();
        assert_eq!(missing.to_string(), "the root has no file boot/config-*");
        let second = only(boot.path(), "initrd.img-").unwrap_err();
        assert_eq!(second.to_string(), "the root has more than one file boot/initrd.img-*, expected one");
    }
}
