//! A file that a frontend passes as guest memory: checked before anything of it is mapped.
//!
//! An access to mapped memory must not wait for anybody, so the file has to be one of memory (tmpfs, which is what
//! a memfd is on, or hugetlbfs): a file of FUSE or NFS would let its server decide how long an lcore stands still.
//! And it must not shrink: its size is read once, here.
//!
//! The first question is the one that only the kernel answers: `F_GET_SEALS` fails for every file that is not of
//! memory. `fstat` and `fstatfs` would ask the server of a FUSE file, which need not answer.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

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
    /// A socket, an event counter, a device, or a file on a disk or of a server.
    #[error("guest memory must be a file on tmpfs or hugetlbfs")]
    NotMemory,
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
        let seals = fcntl_get_seals(&file).map_err(|_| MemoryFileError::NotMemory)?;
        let has_seal = seals.contains(SealFlags::SHRINK) || cfg!(feature = "sabotage-seal");
        if !accept_unsealed && !has_seal {
            return Err(MemoryFileError::Unsealed);
        }
        if fcntl_getfl(&file).map_err(examine)? & OFlags::ACCMODE != OFlags::RDWR {
            return Err(MemoryFileError::Access);
        }
        // After the seals: a file that is sealed now is at least this long for ever.
        let about = file.metadata().map_err(MemoryFileError::Examine)?;
        let filesystem = fstatfs(&file).map_err(examine)?;
        #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between C libraries")]
        let kind = filesystem.f_type as i64;
        let page_bytes = match kind {
            TMPFS => PAGE_BYTES,
            // The size of its pages, a power of two.
            HUGETLBFS => u64::try_from(filesystem.f_bsize).unwrap_or(PAGE_BYTES).max(PAGE_BYTES),
            _ => return Err(MemoryFileError::NotMemory),
        };
        let identity = (about.dev(), about.ino());
        Ok(Self { len_bytes: about.len(), file, page_bytes, identity })
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

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

    use super::*;

    fn memfd(seals: SealFlags) -> File {
        let file =
            File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
        file.set_len(8192).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    #[test]
    fn takes_a_file_of_memory_that_cannot_shrink() {
        let file = MemoryFile::check(memfd(SealFlags::SHRINK), false).unwrap();
        assert_eq!((file.len_bytes(), file.page_bytes()), (8192, 4096));
    }

    #[test]
    fn refuses_a_file_that_can_shrink_unless_told_to_take_it() {
        for seals in [SealFlags::empty(), SealFlags::GROW | SealFlags::SEAL] {
            let refused = MemoryFile::check(memfd(seals), false);
            assert!(matches!(refused, Err(MemoryFileError::Unsealed)), "{refused:?}");
            MemoryFile::check(memfd(seals), true).unwrap();
        }
    }

    #[test]
    fn refuses_what_is_no_file_of_memory() {
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        let counter = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let on_disk = File::open(std::env::current_exe().unwrap()).unwrap();
        let zeroes = File::options().read(true).write(true).open("/dev/zero").unwrap();
        for file in [pipe.into(), counter.into(), std::os::fd::OwnedFd::from(socket).into(), on_disk, zeroes]
        {
            let refused = MemoryFile::check(file, true);
            assert!(matches!(refused, Err(MemoryFileError::NotMemory)), "{refused:?}");
        }
    }

    #[test]
    fn refuses_a_file_that_is_open_for_reading_only() {
        use std::os::fd::AsRawFd;
        let file = memfd(SealFlags::SHRINK);
        let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert!(matches!(MemoryFile::check(readable, false), Err(MemoryFileError::Access)));
    }
}
