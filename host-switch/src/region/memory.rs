//! Shared memory that is handed out as a file descriptor: anonymous and sealed, or a file with a name for
//! launchers that cannot take a descriptor; private to its owner either way.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use super::named_file::{FileIdentity, FilePages, NamedFile};

/// Size of a huge page that regions use.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;
/// Size of a plain page.
pub const PLAIN_PAGE_BYTES: u64 = 4096;

/// Which pages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages, or an error.
    Hugetlb,
    /// Plain pages.
    Plain,
    /// Huge pages if enough are free, else plain ones.
    HugetlbOrPlain,
}

/// Which pages were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// 2 MiB pages from the reserved pool.
    Hugetlb,
    /// Plain pages.
    Plain,
}

impl PageKind {
    /// Bytes of one page.
    #[must_use]
    pub fn page_bytes(self) -> u64 {
        match self {
            Self::Hugetlb => HUGE_PAGE_BYTES,
            Self::Plain => PLAIN_PAGE_BYTES,
        }
    }
}

/// Why there is no such memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// QEMU aborts on such a size.
    #[error("shared memory {name} must be a power of two of at least {min} bytes, got {bytes}")]
    Size {
        /// Which memory.
        name: String,
        /// What was asked.
        bytes: u64,
        /// What is allowed.
        min: u64,
    },
    /// Not enough huge pages, and plain ones are not allowed.
    #[error(
        "shared memory {name} needs {needed} huge pages of 2 MiB, {free} are free ({source}); \
         reserve them in /proc/sys/vm/nr_hugepages or set pages = \"hugetlb-or-plain\""
    )]
    HugePages {
        /// Which memory.
        name: String,
        /// Pages it needs.
        needed: u64,
        /// Pages that are free.
        free: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action} shared memory {name} of {bytes} bytes: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Which memory.
        name: String,
        /// How much.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The place of its file is taken.
    #[error(
        "{path} exists already: another switch has it, or somebody left it; stop that switch, give the domain \
         another `path`, or, if nobody uses the file, `rm {path}`"
    )]
    Taken {
        /// Where.
        path: PathBuf,
    },
    /// There cannot be a file.
    #[error(
        "cannot make {path}: {source}; its folder must be there and writable, or correct `path` of the domain"
    )]
    Place {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system has other pages than the config asks for.
    #[error("{path} would have {found}; {fix}")]
    FilePages {
        /// Where.
        path: PathBuf,
        /// What pages there are.
        found: String,
        /// What to do.
        fix: &'static str,
    },
    /// The mapping cannot be watched.
    #[error(transparent)]
    Watch(#[from] super::fault::WatchError),
}

/// A region or a control area. Only its owner may open it. A memfd cannot be shrunk, grown or unsealed by
/// anybody; a file can.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    name: String,
    bytes: u64,
    kind: PageKind,
    why_plain: Option<String>,
    file: Option<NamedFile>,
}

impl SharedMemory {
    /// Makes `bytes` bytes of memory, all of it present from the start.
    ///
    /// # Errors
    /// If the size is no power of two, or there is not enough memory of the kind that `pages` allows.
    pub fn create(name: &str, bytes: u64, pages: Pages) -> Result<Self, MemoryError> {
        let min = if pages == Pages::Hugetlb { HUGE_PAGE_BYTES } else { PLAIN_PAGE_BYTES };
        if !bytes.is_power_of_two() || bytes < min {
            return Err(MemoryError::Size { name: name.to_owned(), bytes, min });
        }
        if pages == Pages::Plain || bytes < HUGE_PAGE_BYTES {
            return Self::create_kind(name, bytes, PageKind::Plain)
                .map_err(|failed| failed.error(name, bytes));
        }
        match Self::create_kind(name, bytes, PageKind::Hugetlb) {
            Ok(memory) => Ok(memory),
            Err(failed) if pages == Pages::HugetlbOrPlain => {
                let mut plain = Self::create_kind(name, bytes, PageKind::Plain)
                    .map_err(|failed_too| failed_too.error(name, bytes))?;
                let (needed, free) = (bytes / HUGE_PAGE_BYTES, free_huge_pages());
                plain.why_plain =
                    Some(format!("{needed} huge pages of 2 MiB needed, {free} free ({})", failed.source));
                Ok(plain)
            }
            Err(failed) => Err(MemoryError::HugePages {
                name: name.to_owned(),
                needed: bytes / HUGE_PAGE_BYTES,
                free: free_huge_pages(),
                source: failed.source.into(),
            }),
        }
    }

    /// Makes a file of `bytes` bytes at `path`, in whole pages of its file system, all of them present from the
    /// start. Which pages these are is for the path to say; `pages` is what is allowed.
    ///
    /// # Errors
    /// If the size is no power of two, the file exists, or there is not enough memory or the wrong kind of it.
    pub fn create_file(path: &Path, bytes: u64, pages: Pages) -> Result<Self, MemoryError> {
        let name = path.display().to_string();
        if !bytes.is_power_of_two() || bytes < PLAIN_PAGE_BYTES {
            return Err(MemoryError::Size { name, bytes, min: PLAIN_PAGE_BYTES });
        }
        let (file, fd) = NamedFile::create(path).map_err(|error| match error {
            Errno::EXIST => MemoryError::Taken { path: path.to_owned() },
            error => MemoryError::Place { path: path.to_owned(), source: error.into() },
        })?;
        let found = FilePages::of(fd.as_fd());
        let found = found.map_err(|source| Failed { action: "look at", source }.error(&name, bytes))?;
        let kind = allowed_kind(found, pages, path)?;
        let bytes = bytes.max(kind.page_bytes());
        let sized = rustix::fs::ftruncate(&fd, bytes)
            .and_then(|()| rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes));
        sized.map_err(|source| match kind {
            PageKind::Hugetlb => MemoryError::HugePages {
                name: name.clone(),
                needed: bytes / HUGE_PAGE_BYTES,
                free: free_huge_pages(),
                source: source.into(),
            },
            PageKind::Plain => Failed { action: "allocate", source }.error(&name, bytes),
        })?;
        let why_plain = (kind == PageKind::Plain && pages == Pages::HugetlbOrPlain)
            .then(|| format!("{name} is not on hugetlbfs"));
        Ok(Self { fd, name, bytes, kind, why_plain, file: Some(file) })
    }

    fn create_kind(name: &str, bytes: u64, kind: PageKind) -> Result<Self, Failed> {
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if kind == PageKind::Hugetlb {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let failed = |action| move |source| Failed { action, source };
        // Asked first, so that a request that cannot succeed does not take the last pages for a moment.
        if kind == PageKind::Hugetlb && free_huge_pages() < bytes / HUGE_PAGE_BYTES {
            return Err(Failed { action: "reserve", source: Errno::NOMEM });
        }
        // Kernels before 6.3 do not know NOEXEC_SEAL, and some newer ones ask for it.
        let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| rustix::fs::memfd_create(name, flags))
            .map_err(failed("create"))?;
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(failed("set the mode of"))?;
        rustix::fs::ftruncate(&fd, bytes).map_err(failed("size"))?;
        // All pages now: a page that is missing later would be a SIGBUS in the middle of a burst.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes).map_err(failed("allocate"))?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(failed("seal"))?;
        Ok(Self { fd, name: name.to_owned(), bytes, kind, why_plain: None, file: None })
    }

    /// The descriptor to hand out: by inheritance to QEMU, by `SCM_RIGHTS` to a process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its file, if it has a name for others.
    #[must_use]
    pub fn file(&self) -> Option<&FileIdentity> {
        self.file.as_ref().map(NamedFile::identity)
    }

    /// A descriptor through which nobody can write or map for writing. Whoever is neither root nor the file's
    /// owner cannot open it anew for that either: its mode is 0600.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Its name, as `/proc/self/maps` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Which pages it has.
    #[must_use]
    pub fn page_kind(&self) -> PageKind {
        self.kind
    }

    /// Why it has plain pages where huge ones were wished for; to be said once to the operator.
    #[must_use]
    pub fn why_plain(&self) -> Option<&str> {
        self.why_plain.as_deref()
    }
}

/// The kind of pages that a file has, if that is one of those allowed.
fn allowed_kind(found: FilePages, pages: Pages, path: &Path) -> Result<PageKind, MemoryError> {
    let wrong = |found: String, fix| Err(MemoryError::FilePages { path: path.to_owned(), found, fix });
    match (found, pages) {
        (FilePages::Plain, Pages::Plain | Pages::HugetlbOrPlain) => Ok(PageKind::Plain),
        (FilePages::Huge(HUGE_PAGE_BYTES), Pages::Hugetlb | Pages::HugetlbOrPlain) => Ok(PageKind::Hugetlb),
        (FilePages::Plain, Pages::Hugetlb) => wrong(
            "ordinary pages".to_owned(),
            "choose a `path` on hugetlbfs (`mount -t hugetlbfs none /dev/hugepages`), or set pages = \"plain\"",
        ),
        (FilePages::Huge(HUGE_PAGE_BYTES), Pages::Plain) => {
            wrong("huge pages".to_owned(), "choose a `path` elsewhere, or set pages = \"hugetlb\"")
        }
        (FilePages::Huge(bytes), _) => wrong(
            format!("pages of {} MiB", bytes >> 20),
            "choose a `path` on a hugetlbfs of 2 MiB pages (`mount -t hugetlbfs -o pagesize=2M none FOLDER`)",
        ),
    }
}

/// A step that the kernel refused.
#[derive(Debug)]
struct Failed {
    action: &'static str,
    source: Errno,
}

impl Failed {
    fn error(self, name: &str, bytes: u64) -> MemoryError {
        let Self { action, source } = self;
        MemoryError::System { action, name: name.to_owned(), bytes, source: source.into() }
    }
}

/// Free 2 MiB pages by the kernel's count; 0 if it has no such pages.
fn free_huge_pages() -> u64 {
    let count = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    count.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_memory_is_sealed_and_readable_by_its_owner_only() {
        let memory = SharedMemory::create("netvm-test", 1 << 20, Pages::Plain).unwrap();
        let seals = rustix::fs::fcntl_get_seals(memory.fd()).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
        assert!(!seals.contains(SealFlags::WRITE));
        let stat = rustix::fs::fstat(memory.fd()).unwrap();
        assert_eq!(stat.st_mode & 0o777, 0o600);
        assert!(rustix::fs::ftruncate(memory.fd(), 4096).is_err());
        assert!(rustix::fs::ftruncate(memory.fd(), 2 << 20).is_err());
    }

    #[test]
    fn a_reader_can_neither_write_nor_map_for_writing() {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let memory = SharedMemory::create("netvm-test", 1 << 16, Pages::Plain).unwrap();
        let reader = memory.reader().unwrap();
        assert_eq!(rustix::io::pread(&reader, &mut [0; 8], 0), Ok(8));
        assert_eq!(rustix::io::pwrite(&reader, &[1; 8], 0), Err(Errno::BADF));
        let map = |protection| {
            // SAFETY: a new mapping at an address of the kernel's choice replaces nothing; the test leaks it.
            unsafe { mmap(std::ptr::null_mut(), 1 << 16, protection, MapFlags::SHARED, &reader, 0) }.map(drop)
        };
        assert_eq!(map(ProtFlags::READ | ProtFlags::WRITE), Err(Errno::ACCESS));
        assert_eq!(map(ProtFlags::READ), Ok(()));
    }

    #[test]
    fn refuses_a_size_that_is_no_power_of_two() {
        let error = SharedMemory::create("region-red", 3 << 20, Pages::Plain).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shared memory region-red must be a power of two of at least 4096 bytes, got 3145728"
        );
    }

    #[test]
    fn huge_pages_are_taken_and_sealed_or_their_absence_is_named() {
        // 2^46 bytes: no machine has these huge pages free, and none has this much plain memory.
        let error = SharedMemory::create("region-red", 1 << 46, Pages::Hugetlb).unwrap_err();
        assert!(error.to_string().starts_with("shared memory region-red needs 33554432 huge pages of 2 MiB"));

        let memory = SharedMemory::create("region-red", 2 << 20, Pages::HugetlbOrPlain).unwrap();
        match memory.page_kind() {
            PageKind::Hugetlb => {
                assert_eq!(memory.why_plain(), None);
                let seals = rustix::fs::fcntl_get_seals(memory.fd()).unwrap();
                assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
            }
            PageKind::Plain => {
                assert!(memory.why_plain().unwrap().starts_with("1 huge pages of 2 MiB needed, "));
            }
        }
    }

    #[test]
    fn a_file_is_made_where_it_is_asked_for_and_goes_with_its_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region");
        let memory = SharedMemory::create_file(&path, 1 << 16, Pages::HugetlbOrPlain).unwrap();
        assert_eq!(memory.bytes(), 1 << 16);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 16);
        assert!(memory.why_plain().unwrap().ends_with("region is not on hugetlbfs"));
        let second = SharedMemory::create_file(&path, 1 << 16, Pages::Plain).unwrap_err();
        assert!(matches!(second, MemoryError::Taken { .. }), "{second}");
        drop(memory);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_the_wrong_pages_is_refused_with_the_fix_and_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region");
        let text = SharedMemory::create_file(&path, 2 << 20, Pages::Hugetlb).unwrap_err().to_string();
        assert!(text.contains("region would have ordinary pages; choose a `path` on hugetlbfs"), "{text}");
        assert!(!path.exists());
        for (found, pages) in
            [(FilePages::Huge(HUGE_PAGE_BYTES), Pages::Plain), (FilePages::Huge(1 << 30), Pages::Hugetlb)]
        {
            assert!(matches!(allowed_kind(found, pages, &path), Err(MemoryError::FilePages { .. })));
        }
        let huge = allowed_kind(FilePages::Huge(HUGE_PAGE_BYTES), Pages::Hugetlb, &path);
        assert_eq!(huge.unwrap(), PageKind::Hugetlb);
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_with_the_key_to_correct() {
        let text = SharedMemory::create_file(Path::new("/nonexistent/region"), 4096, Pages::Plain)
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("cannot make /nonexistent/region: ") && text.contains("`path`"), "{text}");
    }
}
