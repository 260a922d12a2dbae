//! What an observer must not be able to do: write its region. Every way that a program has is tried.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::process::Uid;
use serde::{Deserialize, Serialize};

use super::device::{Device, hello};
use super::memory::{Memory, PAGE_BYTES};

/// Whoever is neither root nor the switch's user.
const NOBODY: u32 = 65_534;
/// Words of each page that are written.
const WORDS: [usize; 4] = [64, 136, 2048, 4088];

/// What was tried, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defacement {
    /// Words that were written, one by one, through whatever mapping there is.
    pub words_written: u64,
    /// Of those, words that held what was written afterwards.
    pub words_changed: u64,
    /// The other ways, and how each was refused; "done" is one that was not.
    pub ways: BTreeMap<String, String>,
}

impl Defacement {
    /// Whether nothing of all this came to anything.
    #[must_use]
    pub fn is_in_vain(&self) -> bool {
        self.words_changed == 0 && self.ways.values().all(|said| said != "done")
    }

    fn try_to<T>(&mut self, way: &str, tried: Result<T, impl std::fmt::Display>) {
        let said = tried.map_or_else(|refused| refused.to_string(), |_| "done".to_owned());
        self.ways.insert(way.to_owned(), said);
    }

    /// Inverts words all over the region, if the mapping lets us store at all, and looks what became of them. What
    /// others write there meanwhile is not what was written here.
    fn scribble(&mut self, region: &Memory) {
        for page in (0..region.bytes()).step_by(PAGE_BYTES) {
            for at in WORDS.map(|word| page + word) {
                let inverted = !region.load64(at);
                region.store64(at, inverted);
                self.words_written += u64::from(region.is_writable());
                self.words_changed += u64::from(region.load64(at) == inverted);
            }
        }
    }
}

/// As the guest of a VM: the kernel here is ours, and maps the BAR to be written. What is behind it is the host's.
///
/// # Errors
/// If there is no such device.
pub fn in_guest() -> io::Result<Defacement> {
    let device = Device::guest()?;
    let mut report = Defacement::default();
    report.scribble(&device.region);
    Ok(report)
}

/// As a process: with the files that the switch gives, and without the rights of the switch's own user.
///
/// # Errors
/// If the switch gives nothing.
pub fn in_process(socket: &Path, name: &str) -> io::Result<Defacement> {
    let (_connection, [_, region]) = hello(socket, name)?;
    let nobody = Uid::from_raw(NOBODY);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody)?;
    let mut report = Defacement::default();
    let bytes = usize::try_from(rustix::fs::fstat(&region)?.st_size).map_err(io::Error::other)?;
    // Read-only, where the kernel allows no more.
    let mapped = Memory::map(region.as_fd(), bytes)?;
    report.scribble(&mapped);
    report.try_to("mprotect", mapped.allow_writes());
    report.scribble(&mapped);
    report.try_to("pwrite", rustix::io::pwrite(&region, &[0xee; 8], 64));
    report.try_to("truncate", rustix::fs::ftruncate(&region, 0));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    report.try_to("punch a hole", rustix::fs::fallocate(&region, punch, 0, PAGE_BYTES as u64));
    let path = format!("/proc/self/fd/{}", region.as_raw_fd());
    report.try_to("open anew", rustix::fs::open(path, OFlags::RDWR, Mode::empty()));
    report.try_to("write through /proc/self/mem", write_own_memory(&mapped));
    report.scribble(&mapped);
    Ok(report)
}

/// The kernel writes there past the rights of a mapping, where the file allows it.
fn write_own_memory(mapped: &Memory) -> io::Result<()> {
    let own = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    own.write_all_at(&[0xee; 8], mapped.address() + 64)
}
