//! Where the built programs lie.

use std::path::{Path, PathBuf};

use crate::error::LabError;

/// Names the folder with `netvm` and the NFs as host programs; set by `cargo xtask`.
pub const BIN_DIR_VAR: &str = "NETVM_BIN_DIR";
/// Names the folder with the guest image's kernel and initramfs; set by `cargo xtask`.
pub const IMAGE_DIR_VAR: &str = "NETVM_IMAGE_DIR";
/// Names the folder with the disk, kernel and initramfs of a small Debian; set by `cargo xtask test --long`.
pub const DEBIAN_DIR_VAR: &str = "NETVM_DEBIAN_DIR";
/// Where the static programs lie, seen from cargo's target folder.
pub const STATIC_PROGRAMS: &str = "guest/x86_64-unknown-linux-gnu/release";

/// The built programs.
#[derive(Clone, Debug)]
pub struct Artifacts {
    bin_dir: PathBuf,
    image_dir: PathBuf,
}

impl Artifacts {
    /// Programs in the given folders.
    #[must_use]
    pub fn new(bin_dir: impl Into<PathBuf>, image_dir: impl Into<PathBuf>) -> Self {
        Self { bin_dir: bin_dir.into(), image_dir: image_dir.into() }
    }

    /// Programs where the environment says.
    ///
    /// # Errors
    /// If the environment does not say; run the tests by `cargo xtask test`, which builds and says.
    pub fn from_env() -> Result<Self, LabError> {
        let folder = |var: &str| {
            std::env::var_os(var).map(PathBuf::from).ok_or_else(|| LabError::Status {
                what: format!("{var} is not set; `cargo xtask test` builds what is needed and sets it"),
            })
        };
        Ok(Self { bin_dir: folder(BIN_DIR_VAR)?, image_dir: folder(IMAGE_DIR_VAR)? })
    }

    /// A program by name: `netvm`, `forwarder`, ...
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// A program by name, linked statically: it runs on this machine and in a guest.
    #[must_use]
    pub fn static_program(&self, name: &str) -> PathBuf {
        let target = self.bin_dir.parent().unwrap_or(&self.bin_dir);
        target.join(STATIC_PROGRAMS).join(name)
    }

    /// The guest image's kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.image_dir.join("vmlinuz")
    }

    /// The guest image's initramfs.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.image_dir.join("initramfs.cpio.gz")
    }

    /// The folder with the programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }
}
