//! A file by whose path others find shared memory: made here, and removed by the process that made it.
//!
//! A file has no seals: whoever may write it can also truncate it. The switch then loses that mapping and goes
//! on, see [`super::fault`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, fchmod, open, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// As `statfs` names hugetlbfs: see magic.h of Linux.
const HUGETLBFS_MAGIC: rustix::fs::FsWord = 0x9584_58f6;

/// Which file it is, so that it is told from another one of the same name: a name comes back, an inode number
/// may, both with the same time of birth do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    path: PathBuf,
    device: (u32, u32),
    inode: u64,
    /// Seconds and nanoseconds; `None` where the file system does not keep it.
    born: Option<(i64, u32)>,
}

impl FileIdentity {
    fn of(fd: BorrowedFd<'_>, path: &Path) -> Result<Self, Errno> {
        Self::read(fd, Path::new(""), AtFlags::EMPTY_PATH, path)
    }

    fn at(path: &Path) -> Result<Self, Errno> {
        Self::read(CWD, path, AtFlags::SYMLINK_NOFOLLOW, path)
    }

    fn read(folder: BorrowedFd<'_>, from: &Path, how: AtFlags, path: &Path) -> Result<Self, Errno> {
        let about = statx(folder, from, how, StatxFlags::INO | StatxFlags::BTIME)?;
        let has_birth = StatxFlags::from_bits_retain(about.stx_mask).contains(StatxFlags::BTIME);
        Ok(Self {
            path: path.to_owned(),
            device: (about.stx_dev_major, about.stx_dev_minor),
            inode: about.stx_ino,
            born: has_birth.then_some((about.stx_btime.tv_sec, about.stx_btime.tv_nsec)),
        })
    }

    /// Where it was made.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file if it still is this one; false if nothing or another file is there.
    ///
    /// # Errors
    /// If it cannot be looked at or removed.
    pub fn remove(&self) -> Result<bool, Errno> {
        match Self::at(&self.path) {
            Ok(found) if found == *self => rustix::fs::unlink(&self.path).map(|()| true),
            Ok(_) | Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What pages a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilePages {
    /// Those of any memory.
    Plain,
    /// Those of hugetlbfs, of so many bytes.
    Huge(u64),
}

impl FilePages {
    /// Those of an open file, or of a file in an open folder.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let about = rustix::fs::fstatfs(fd)?;
        Ok(match u64::try_from(about.f_bsize) {
            Ok(page_bytes) if about.f_type == HUGETLBFS_MAGIC => Self::Huge(page_bytes),
            _ => Self::Plain,
        })
    }

    /// Those of a file that is not there yet.
    ///
    /// # Errors
    /// If its folder cannot be opened.
    pub fn beside(path: &Path) -> Result<Self, Errno> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        Self::of(open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?.as_fd())
    }

    /// How long a file is that shall hold `bytes`, a power of two.
    #[must_use]
    pub fn whole(self, bytes: u64) -> u64 {
        match self {
            Self::Plain => bytes,
            Self::Huge(page_bytes) => bytes.max(page_bytes),
        }
    }
}

/// A file made by this process; dropping it removes it.
#[derive(Debug)]
pub struct NamedFile {
    identity: FileIdentity,
}

impl NamedFile {
    /// Makes an empty file that only this user may open. One that is there already stays as it is.
    ///
    /// # Errors
    /// If there is one (`EXIST`), or its folder does not take it.
    pub fn create(path: &Path) -> Result<(Self, OwnedFd), Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = open(path, flags, mode)?;
        let identity = FileIdentity::of(fd.as_fd(), path).inspect_err(|_| _ = rustix::fs::unlink(path))?;
        let file = Self { identity };
        fchmod(&fd, mode)?;
        Ok((file, fd))
    }

    /// Which file it is.
    #[must_use]
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }
}

impl Drop for NamedFile {
    fn drop(&mut self) {
        let path = self.identity.path.display();
        match self.identity.remove() {
            Ok(true) => {}
            Ok(false) => log::warn!("{path} is not the file of this switch any more, and stays"),
            Err(error) => log::warn!("{path} stays behind: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_with_its_maker_and_is_nobody_elses_to_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let (file, fd) = NamedFile::create(&path).unwrap();
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_mode & 0o777, 0o600);
        assert_eq!(NamedFile::create(&path).unwrap_err(), Errno::EXIST);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_took_the_place_of_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        // Its descriptor stays open, so that its inode number cannot come back.
        let (file, _fd) = NamedFile::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "thesis").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "thesis");
    }

    #[test]
    fn a_link_to_a_file_is_no_place_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert_eq!(NamedFile::create(&path).unwrap_err(), Errno::EXIST);
        assert!(!folder.path().join("elsewhere").exists());
    }

    #[test]
    fn what_is_written_down_of_a_file_finds_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let (file, _fd) = NamedFile::create(&path).unwrap();
        let text = serde_json::to_string(file.identity()).unwrap();
        std::mem::forget(file);
        let found: FileIdentity = serde_json::from_str(&text).unwrap();
        assert_eq!(found.remove(), Ok(true));
        assert_eq!(found.remove(), Ok(false));
    }
}
