//! The ledger's file: host-private, in the runtime directory, mapped for as long as the process lives.
//!
//! ```text
//! 0                 FileHeader
//! shard table       ShardRow × shard_count
//! per shard         LedgerEntry × count, then u32 × count (the free stack)
//! journal           one JournalLine per host-to-guest ring: what has been published there
//! ```
//!
//! Every array starts on a cache line. No guest ever gets this file; slices over it are ordinary memory. It is
//! a file, not heap, so that a switch process that takes over after a crash finds out who holds what.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use switch_core::ledger::LedgerEntry;

/// First eight bytes of the file.
const MAGIC: [u8; 8] = *b"NETVMLDG";
/// Version of what the module doc shows; a process that takes over refuses another one.
const VERSION: u32 = 2;
const CACHE_LINE_BYTES: usize = 64;
const FILE_HEADER_BYTES: usize = 64;
const SHARD_ROW_BYTES: usize = 32;

/// Why there is no ledger file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the ledger file {}: {source}", path.display())]
pub struct LedgerError {
    /// What was tried.
    action: &'static str,
    /// Where.
    path: PathBuf,
    /// What the kernel said.
    source: io::Error,
}

/// One shard: the buffers `first .. first + count` of a domain, served by one lcore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSize {
    /// The domain.
    pub domain: u16,
    /// The lcore.
    pub lcore: u16,
    /// Its first buffer.
    pub first: u32,
    /// How many buffers it has.
    pub count: u32,
}

impl ShardSize {
    /// Splits the `buffer_count` buffers of a domain among lcores, as evenly as it goes.
    #[must_use]
    pub fn split(domain: u16, buffer_count: u32, lcores: &[u16]) -> Vec<Self> {
        let shares = u32::try_from(lcores.len()).unwrap_or(u32::MAX);
        let bound = |share: u32| {
            let end = u64::from(buffer_count) * u64::from(share) / u64::from(shares);
            u32::try_from(end).unwrap_or(buffer_count)
        };
        (0..shares)
            .zip(lcores)
            .map(|(share, &lcore)| {
                let first = bound(share);
                Self { domain, lcore, first, count: bound(share + 1) - first }
            })
            .collect()
    }
}

/// The memory of one shard, handed out once.
#[derive(Debug)]
pub struct ShardMemory {
    /// Which shard it is.
    pub size: ShardSize,
    /// One entry per buffer.
    pub entries: &'static mut [LedgerEntry],
    /// Room for the free stack.
    pub stack: &'static mut [u32],
}

/// A journal word, alone on its line: lcores write their own without disturbing each other.
#[derive(Debug)]
#[repr(C, align(64))]
struct JournalLine {
    published: AtomicU32,
}

/// The mapped file. The mapping stays for the rest of the process.
#[derive(Debug)]
pub struct LedgerFile {
    /// The memory of each shard, in the order asked for. Take it from here.
    pub shards: Vec<ShardMemory>,
    journal: &'static [JournalLine],
}

impl LedgerFile {
    /// Makes a new ledger at `path`, in place of one that an earlier process left there: the caller holds the
    /// lock of the runtime directory and has decided not to take over.
    ///
    /// # Errors
    /// If the file cannot be made, sized or mapped.
    pub fn create(path: &Path, shards: &[ShardSize], ring_count: usize) -> Result<Self, LedgerError> {
        let failed = |action| move |source| LedgerError { action, path: path.to_owned(), source };
        let plan = Plan::new(shards, ring_count);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
            Ok(()) | Err(_) => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(failed("create"))?;
        let bytes = plan.file_bytes as u64;
        // All blocks now: a full disk later would be a SIGBUS.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)
            .map_err(|errno| failed("size")(errno.into()))?;
        file.write_all_at(&plan.head(shards), 0).map_err(failed("write"))?;
        let base = map_private_to_host(&file, plan.file_bytes).map_err(failed("map"))?;
        // SAFETY: `base` points to `plan.file_bytes` mapped, zeroed bytes (behind the head) of which nothing
        // else in this process has a reference, and which are never unmapped.
        Ok(unsafe { Self::over(base, &plan, shards) })
    }

    /// The journal word of ring number `ring`.
    ///
    /// # Panics
    /// If there are fewer rings.
    #[must_use]
    pub fn journal(&self, ring: usize) -> &'static AtomicU32 {
        &self.journal[ring].published
    }

    /// Lays the arrays over the mapped file.
    ///
    /// # Safety
    /// - `base` is aligned to a page and points to `plan.file_bytes` bytes, zero where the arrays lie.
    /// - Those bytes stay mapped for the rest of the process, and nobody else here refers to them.
    unsafe fn over(base: NonNull<u8>, plan: &Plan, shards: &[ShardSize]) -> Self {
        let shards = shards.iter().zip(&plan.shards).map(|(&size, offsets)| {
            let count = size.count as usize;
            // SAFETY: the plan keeps every array inside the file, on a cache line, and apart from the others.
            let entries = unsafe { array_at::<LedgerEntry>(base, offsets.entries, count) };
            // SAFETY: as above.
            let stack = unsafe { array_at::<u32>(base, offsets.stack, count) };
            ShardMemory { size, entries, stack }
        });
        let shards = shards.collect();
        // SAFETY: as above.
        let journal = unsafe { array_at::<JournalLine>(base, plan.journal, plan.ring_count) };
        Self { shards, journal }
    }
}

/// Types that are valid with all bytes zero and hold no pointers.
///
/// # Safety
/// The implementer is `repr(C)` or a plain integer, and zero is a valid value of every field.
unsafe trait ZeroIsValid {}
// SAFETY: `repr(C)`, integers only (see the assertion of its size in switch-core).
unsafe impl ZeroIsValid for LedgerEntry {}
// SAFETY: an integer.
unsafe impl ZeroIsValid for u32 {}
// SAFETY: `repr(C)`, one atomic integer.
unsafe impl ZeroIsValid for JournalLine {}

/// # Safety
/// - `base + offset` is aligned for `T`, and `count` zeroed `T` fit from there into the mapping.
/// - Nobody else refers to those bytes, now or later; they stay mapped for the rest of the process.
unsafe fn array_at<T: ZeroIsValid>(base: NonNull<u8>, offset: usize, count: usize) -> &'static mut [T] {
    // SAFETY: the caller promises that the offset is inside the mapping.
    let first = unsafe { base.add(offset) }.cast::<T>();
    // SAFETY: the caller promises alignment, room, exclusivity and lifetime; zeroed bytes are valid `T`.
    unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), count) }
}

/// Where everything lies.
struct Plan {
    shards: Vec<ShardOffsets>,
    journal: usize,
    ring_count: usize,
    file_bytes: usize,
}

struct ShardOffsets {
    entries: usize,
    stack: usize,
}

impl Plan {
    fn new(shards: &[ShardSize], ring_count: usize) -> Self {
        let mut end = FILE_HEADER_BYTES + shards.len() * SHARD_ROW_BYTES;
        let mut place = |bytes: usize| {
            let start = end.next_multiple_of(CACHE_LINE_BYTES);
            end = start + bytes;
            start
        };
        let shards = shards
            .iter()
            .map(|size| ShardOffsets {
                entries: place(size.count as usize * size_of::<LedgerEntry>()),
                stack: place(size.count as usize * size_of::<u32>()),
            })
            .collect();
        let journal = place(ring_count * size_of::<JournalLine>());
        Self { shards, journal, ring_count, file_bytes: end.next_multiple_of(4096) }
    }

    /// The file header and the shard table, little-endian.
    fn head(&self, sizes: &[ShardSize]) -> Vec<u8> {
        let mut head = Vec::with_capacity(FILE_HEADER_BYTES + sizes.len() * SHARD_ROW_BYTES);
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        for count in [size_of::<LedgerEntry>(), sizes.len(), self.ring_count, self.journal, self.file_bytes] {
            head.extend((count as u64).to_le_bytes());
        }
        head.resize(FILE_HEADER_BYTES, 0);
        for (size, offsets) in sizes.iter().zip(&self.shards) {
            head.extend(size.domain.to_le_bytes());
            head.extend(size.lcore.to_le_bytes());
            head.extend(size.first.to_le_bytes());
            head.extend(size.count.to_le_bytes());
            head.extend(0_u32.to_le_bytes());
            head.extend((offsets.entries as u64).to_le_bytes());
            head.extend((offsets.stack as u64).to_le_bytes());
        }
        head
    }
}

fn map_private_to_host(file: &File, bytes: usize) -> io::Result<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing that exists.
    let base = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) }?;
    NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn splits_all_buffers_among_the_lcores() {
        let shards = ShardSize::split(3, 10, &[0, 2, 5]);
        let ranges: Vec<_> = shards.iter().map(|shard| (shard.lcore, shard.first, shard.count)).collect();
        assert_eq!(ranges, [(0, 0, 3), (2, 3, 3), (5, 6, 4)]);
    }

    #[test]
    fn hands_out_arrays_that_do_not_overlap_and_lie_in_the_file() {
        let path = std::env::temp_dir().join(format!("netvm-ledger-{}", std::process::id()));
        std::fs::write(&path, "left by an earlier process").unwrap();
        let mut sizes = ShardSize::split(0, 101, &[0, 1]);
        sizes.extend(ShardSize::split(1, 7, &[0, 1]));
        let mut ledger = LedgerFile::create(&path, &sizes, 3).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        for (number, shard) in (1..).zip(&mut ledger.shards) {
            assert_eq!(
                (shard.entries.len(), shard.stack.len()),
                (shard.size.count as usize, shard.size.count as usize)
            );
            shard.stack.fill(number);
        }
        ledger.journal(2).store(77, Ordering::Relaxed);
        for (number, shard) in (1..).zip(&ledger.shards) {
            assert!(shard.stack.iter().all(|&value| value == number));
        }
        let file = std::fs::read(&path).unwrap();
        assert_eq!(file[..8], MAGIC);
        assert_eq!(file[ledger_offset(&file)..][128..132], 77_u32.to_le_bytes());
        std::fs::remove_file(&path).unwrap();
    }

    /// The journal's offset, as the header of the file says it.
    fn ledger_offset(file: &[u8]) -> usize {
        usize::try_from(u64::from_le_bytes(file[36..44].try_into().unwrap())).unwrap()
    }
}
