//! The image's initramfs with one VM's own files behind it, in memory that QEMU inherits.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use images::cpio::stacked;
use images::guest_files::{GuestFiles, GuestFilesError};
use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};

/// Why there is no initramfs for a VM.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The image is missing.
    #[error("cannot read {path}: {source}; `cargo xtask image` builds the guest image")]
    Image {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The VM's own files.
    #[error(transparent)]
    Files(#[from] GuestFilesError),
    /// No memory.
    #[error("cannot make memory of {bytes} bytes for an initramfs: {source}")]
    Memory {
        /// How much.
        bytes: usize,
        /// Why.
        source: std::io::Error,
    },
}

/// The initramfs at `base` with `files` on top.
///
/// # Errors
/// If `base` cannot be read, a file does not fit, or there is no memory.
pub fn with_guest_files(base: &Path, files: &GuestFiles) -> Result<OwnedFd, InitramfsError> {
    let image =
        std::fs::read(base).map_err(|source| InitramfsError::Image { path: base.to_owned(), source })?;
    let whole = stacked(&image, &files.to_archive()?);
    let failed = |source| InitramfsError::Memory { bytes: whole.len(), source };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("netvm-initramfs", flags).map_err(|error| failed(error.into()))?;
    // QEMU opens it before it gives up its privileges; afterwards it has no use for it.
    fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
    let mut file = File::from(fd);
    file.write_all(&whole).map_err(failed)?;
    // QEMU keeps it: whoever breaks out of it shall neither change it for the next boot nor let it grow.
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, all).map_err(|error| failed(error.into()))?;
    Ok(file.into())
}
