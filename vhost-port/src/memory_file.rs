//! A file that a frontend passes as guest memory: checked before anything of it is mapped.
//!
//! An access to mapped memory must neither block nor fail for long, so the file has to be one of memory (tmpfs,
//! which is what a memfd is on, or hugetlbfs): a file of FUSE or NFS would let its server decide how long an lcore
//! stands still. And it must not shrink: its size is read once, here.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstatfs};

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: i64 = 0x0102_1994;
/// `HUGETLBFS_MAGIC` of linux/magic.h.
const HUGETLBFS: i64 = 0x9584_58f6;
/// Smallest page there is.
const PAGE_BYTES: u64 = 4096;

/// Why a file descriptor is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryFileError {
    /// A socket, an event counter, a device.
    #[error("guest memory must be a file, got {what}")]
    NotAFile {
        /// What it is.
        what: String,
    },
    /// Not in memory.
    #[error("guest memory must be on tmpfs or hugetlbfs, got a filesystem of type {kind:#x}")]
    Filesystem {
        /// As `fstatfs` says.
        kind: i64,
    },
    /// It can be truncated under our feet.
    #[error("guest memory must be sealed against shrinking (F_SEAL_SHRINK), and this file is not")]
    Unsealed,
    /// Not open for reading and writing.
    #[error("guest memory must be open for reading and writing")]
    Access,
    /// The system tells nothing about it.
    #[error("cannot examine guest memory: {0}")]
    Examine(#[source] std::io::Error),
}

/// A file descriptor of guest memory that has passed the checks.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    len_bytes: u64,
    page_bytes: u64,
    identity: (u64, u64),
}

impl MemoryFile {
    /// Checks a file descriptor that a frontend passed.
    ///
    /// # Errors
    /// If it is not a file of memory, can shrink (unless `accept_unsealed`), or cannot be written to.
    pub fn check(file: File, accept_unsealed: bool) -> Result<Self, MemoryFileError> {
        let about = file.metadata().map_err(MemoryFileError::Examine)?;
        if !about.is_file() {
            return Err(MemoryFileError::NotAFile { what: name_of(about.file_type()).to_owned() });
        }
        let filesystem = fstatfs(&file).map_err(examine)?;
        #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between C libraries")]
        let kind = filesystem.f_type as i64;
        let page_bytes = match kind {
            TMPFS => PAGE_BYTES,
            // The size of its pages, a power of two.
            HUGETLBFS => u64::try_from(filesystem.f_bsize).unwrap_or(PAGE_BYTES).max(PAGE_BYTES),
            _ => return Err(MemoryFileError::Filesystem { kind }),
        };
        if fcntl_getfl(&file).map_err(examine)? & OFlags::ACCMODE != OFlags::RDWR {
            return Err(MemoryFileError::Access);
        }
        // A file that cannot have seals (on hugetlbfs by path) has none.
        let seals = fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
        if !accept_unsealed && !seals.contains(SealFlags::SHRINK) {
            return Err(MemoryFileError::Unsealed);
        }
        let identity = (about.dev(), about.ino());
        // After the seals: a file that is sealed now is at least this long for ever.
        let len_bytes = file.metadata().map_err(MemoryFileError::Examine)?.len();
        Ok(Self { file, len_bytes, page_bytes, identity })
    }

    /// Its length when it was checked.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Size of its pages, a power of two.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// Device and inode: the same for every descriptor of the same file.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

fn examine(errno: rustix::io::Errno) -> MemoryFileError {
    MemoryFileError::Examine(errno.into())
}

fn name_of(kind: std::fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something without a name",
    }
}
