//! The guest's RAM as mapped here: a table of regions that never changes once it is made.
//!
//! # Laws
//! - The guest, and who runs it, may write every byte of this memory at any time. No reference into it is ever
//!   made: only pointers leave this module, and whoever uses one reads each word once, as a copy.
//! - A region is mapped for exactly as long as some [`GuestMemory`] that holds it lives.
//! - Nothing here blocks: what can (mapping, populating, unmapping) is done by who makes and drops a table.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory_file::{MemoryFile, MemoryFileError};
use crate::memory_watch::{MemoryWatch, MemoryWatcher};

use vm_memory::FileOffset;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};

/// Most regions of one guest, however its limits are set: each is a mapping and a file descriptor of ours.
pub const REGIONS_MAX: usize = 32;

/// A range of guest memory, as a frontend describes it. Nothing of it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionClaim {
    /// Where the guest sees it.
    pub guest_start: u64,
    /// How long it is.
    pub len_bytes: u64,
    /// Where the frontend has it mapped; ring addresses are told in these.
    pub user_start: u64,
    /// Where in its file it begins.
    pub file_offset_bytes: u64,
}

/// What one guest's memory may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Most regions, at most [`REGIONS_MAX`].
    pub regions: usize,
    /// Most bytes that are mapped for all regions together, in whole pages of their files: all of them are
    /// populated on behalf of this process.
    pub bytes: u64,
    /// Whether a file may be truncated while it is mapped: no seal is asked for then.
    pub accept_unsealed: bool,
}

/// By what memory is judged and kept.
#[derive(Clone, Copy)]
pub struct MemoryRules<'a> {
    /// What it may be.
    pub limits: &'a MemoryLimits,
    /// Who notices when pages of it are lost.
    pub watcher: &'a dyn MemoryWatcher,
}

/// Why a table of guest memory is refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// No bytes.
    #[error("region at guest address {guest_start:#x} has no bytes")]
    Empty {
        /// Where it would be.
        guest_start: u64,
    },
    /// Its end is beyond what 64 bits can say.
    #[error(
        "region of {len_bytes} bytes wraps: guest {guest_start:#x}, frontend {user_start:#x}, file {file_offset_bytes:#x}"
    )]
    Wraps {
        /// Where the guest would see it.
        guest_start: u64,
        /// Where the frontend says it is.
        user_start: u64,
        /// Where in its file it would begin.
        file_offset_bytes: u64,
        /// How long it claims to be.
        len_bytes: u64,
    },
    /// Longer than its file.
    #[error("region ends at byte {end_bytes} of a file of {file_bytes} bytes")]
    PastFile {
        /// Where it would end in the file.
        end_bytes: u64,
        /// How long the file is.
        file_bytes: u64,
    },
    /// Shares addresses with another.
    #[error("regions at guest addresses {first:#x} and {second:#x} overlap")]
    Overlap {
        /// Guest address of one.
        first: u64,
        /// Guest address of the other.
        second: u64,
    },
    /// Too many.
    #[error("{regions} regions, at most {allowed} are taken")]
    TooMany {
        /// How many there would be.
        regions: usize,
        /// How many may be.
        allowed: usize,
    },
    /// Too large.
    #[error("{bytes} bytes of guest memory, in whole pages; at most {allowed} are taken")]
    TooLarge {
        /// How many there would be.
        bytes: u64,
        /// How many may be.
        allowed: u64,
    },
    /// The file is not one that may be mapped.
    #[error(transparent)]
    File(#[from] MemoryFileError),
    /// The system does not map it.
    #[error("cannot map {len_bytes} bytes of guest memory: {source}")]
    Map {
        /// How long the mapping would be.
        len_bytes: u64,
        /// What the system says.
        source: MmapRegionError,
    },
    /// The system has no pages for it.
    #[error("cannot populate {len_bytes} bytes of guest memory: {source}")]
    Populate {
        /// How long the mapping is.
        len_bytes: u64,
        /// What the system says.
        source: rustix::io::Errno,
    },
    /// Nobody would notice the loss of its pages.
    #[error("cannot watch guest memory for lost pages: {0}")]
    Watch(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// One mapped region. Fields are dropped in order: the watch ends before the mapping does.
#[derive(Debug)]
struct Region {
    claim: RegionClaim,
    identity: (u64, u64),
    /// Host address of the first byte of the region; the mapping may begin before it.
    host_start: NonNull<u8>,
    watch: Box<dyn MemoryWatch>,
    mapping: vm_memory::MmapRegion<()>,
}

/// What a translation looks at, 24 bytes a region. Good for as long as the table it is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    guest_start: u64,
    len_bytes: u64,
    host_start: NonNull<u8>,
}

/// All memory of a guest. Cloning shares the mappings; the last clone unmaps them.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    windows: Vec<Window>,
    regions: Vec<Arc<Region>>,
}

// SAFETY: the pointers in it are addresses of shared mappings that live as long as the regions beside them, are
// valid in every thread, and are handed out as pointers only: who dereferences one answers for it.
unsafe impl Send for GuestMemory {}
// SAFETY: as for Send; nothing in it changes through a shared reference.
unsafe impl Sync for GuestMemory {}
// SAFETY: as for `GuestMemory`. The watch and the mapping are Send and Sync themselves.
unsafe impl Send for Region {}
// SAFETY: as for `GuestMemory`.
unsafe impl Sync for Region {}

impl GuestMemory {
    /// The table with one more region; the mappings of the others are shared, and so is that of the region itself
    /// if `earlier` has the same one. A region that is there already changes nothing.
    ///
    /// Blocks while the memory is populated.
    ///
    /// # Errors
    /// If any check refuses it; this table stays as it is.
    pub fn with_region(
        &self,
        claim: RegionClaim,
        file: MemoryFile,
        earlier: &Self,
        rules: &MemoryRules<'_>,
    ) -> Result<Self, MemoryError> {
        if self.region_like(&claim, &file).is_some() {
            return Ok(self.clone());
        }
        check_range(&claim)?;
        check_inside_file(&claim, &file)?;
        let extent = Extent::of(&claim, &file);
        self.check_limits(extent, rules.limits)?;
        self.check_overlap(&claim)?;
        let region = match earlier.region_like(&claim, &file) {
            Some(known) => known,
            None => Arc::new(Region::map(claim, extent, file, rules.watcher)?),
        };
        let mut next = self.clone();
        next.push(region);
        Ok(next)
    }

    /// The table without the region of this guest address, user address and length, if there is one.
    #[must_use]
    pub fn without_region(&self, claim: &RegionClaim) -> Self {
        let mut next = Self::default();
        let is_meant = |known: &RegionClaim| {
            (known.guest_start, known.user_start, known.len_bytes)
                == (claim.guest_start, claim.user_start, claim.len_bytes)
        };
        self.regions
            .iter()
            .filter(|region| !is_meant(&region.claim))
            .for_each(|region| next.push(region.clone()));
        next
    }

    fn region_like(&self, claim: &RegionClaim, file: &MemoryFile) -> Option<Arc<Region>> {
        let is_same = |region: &&Arc<Region>| region.claim == *claim && region.identity == file.identity();
        self.regions.iter().find(is_same).cloned()
    }

    fn push(&mut self, region: Arc<Region>) {
        let RegionClaim { guest_start, len_bytes, .. } = region.claim;
        self.windows.push(Window { guest_start, len_bytes, host_start: region.host_start });
        self.regions.push(region);
    }

    fn check_limits(&self, extent: Extent, limits: &MemoryLimits) -> Result<(), MemoryError> {
        let (regions, allowed) = (self.regions.len() + 1, limits.regions.min(REGIONS_MAX));
        if regions > allowed {
            return Err(MemoryError::TooMany { regions, allowed });
        }
        let bytes = self.bytes().saturating_add(extent.len_bytes);
        if bytes > limits.bytes {
            return Err(MemoryError::TooLarge { bytes, allowed: limits.bytes });
        }
        Ok(())
    }

    fn check_overlap(&self, claim: &RegionClaim) -> Result<(), MemoryError> {
        let overlaps = |a: u64, b: u64, b_len: u64| {
            // Neither end wraps: `check_range`.
            a < b + b_len && b < a + claim.len_bytes
        };
        let other = self.regions.iter().map(|region| &region.claim).find(|other| {
            overlaps(claim.guest_start, other.guest_start, other.len_bytes)
                || overlaps(claim.user_start, other.user_start, other.len_bytes)
        });
        other.filter(|_| !cfg!(feature = "sabotage-region-overlap")).map_or(Ok(()), |other| {
            Err(MemoryError::Overlap { first: other.guest_start, second: claim.guest_start })
        })
    }

    /// Number of regions.
    #[must_use]
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// Bytes that are mapped, in whole pages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.mapping.size() as u64).sum()
    }

    /// Whether a page of it was lost (holes punched, file truncated): what is read there now is not the guest's.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.watch.is_lost())
    }

    /// Where `len_bytes` bytes at a guest address lie here, if they all lie in one region.
    ///
    /// Both values are the guest's, taken by copy. `hint` is the caller's: the region that served last time. The
    /// pointer has no particular alignment and is good for as long as this table lives.
    #[inline]
    #[must_use]
    pub fn translate(&self, hint: &mut usize, guest_address: u64, len_bytes: u32) -> Option<NonNull<u8>> {
        if let Some(found) = self.windows.get(*hint).and_then(|window| window.find(guest_address, len_bytes))
        {
            return Some(found);
        }
        self.search(hint, guest_address, len_bytes)
    }

    /// The region with this number, or one in which nothing is found.
    #[inline(always)]
    pub(crate) fn window(&self, number: usize) -> Window {
        self.windows.get(number).copied().unwrap_or(Window::EMPTY)
    }

    #[cold]
    fn search(&self, hint: &mut usize, guest_address: u64, len_bytes: u32) -> Option<NonNull<u8>> {
        let found = |(at, window): (usize, &Window)| Some((at, window.find(guest_address, len_bytes)?));
        let (at, host) = self.windows.iter().enumerate().find_map(found)?;
        *hint = at;
        Some(host)
    }

    /// Where `len_bytes` bytes at one of the frontend's own addresses lie here: ring addresses are told so.
    #[must_use]
    pub fn translate_user(&self, user_address: u64, len_bytes: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| {
            let RegionClaim { user_start, len_bytes: region_bytes, .. } = region.claim;
            Window { guest_start: user_start, len_bytes: region_bytes, host_start: region.host_start }
                .find_long(user_address, len_bytes)
        })
    }
}

impl Window {
    const EMPTY: Self = Self { guest_start: 0, len_bytes: 0, host_start: NonNull::dangling() };

    /// The host address of `len_bytes` bytes, at least 1, at `address`, if all of them are in the window.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64, len_bytes: u32) -> Option<NonNull<u8>> {
        self.find_long(address, u64::from(len_bytes))
    }

    /// The same of any length.
    #[inline(always)]
    fn find_long(&self, address: u64, len_bytes: u64) -> Option<NonNull<u8>> {
        let offset = address.wrapping_sub(self.guest_start);
        // At least 1: the place behind the last byte is inside if nothing is read there.
        let len_bytes = if cfg!(feature = "sabotage-translation-bound") { 0 } else { len_bytes };
        let places = self.len_bytes.checked_sub(len_bytes)? + 1;
        if offset >= places {
            return None;
        }
        let offset = bounded(offset, places);
        #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide: checked in lib.rs")]
        let offset = offset as usize;
        // SAFETY: offset + len_bytes <= the window's length, all of which lies in one live mapping of ours
        // (`Region::map`), so the sum stays inside it or right behind its end.
        Some(unsafe { self.host_start.add(offset) })
    }
}

/// `offset` if it is less than `places`, else 0, without a branch: after a mispredicted bound check, speculation
/// reads at the region's start and not where the guest likes (Spectre, variant 1).
#[inline]
pub(crate) fn bounded(offset: u64, places: u64) -> u64 {
    // The sign of either term is set exactly if offset >= places, as both are far below 2^63 where it matters.
    let outside = opaque(offset | (places - 1).wrapping_sub(offset));
    // Opaque again: from a mask made of a sign, the compiler makes a branch on that sign, to be guessed past as well.
    offset & opaque(!((outside.cast_signed() >> 63).cast_unsigned()))
}

/// The value, about which the compiler knows nothing any more: it must not fold the mask into the branch.
#[inline]
fn opaque(mut value: u64) -> u64 {
    // SAFETY: an empty instruction that claims to change one register; it touches no memory, stack or flags.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

fn check_range(claim: &RegionClaim) -> Result<(), MemoryError> {
    let RegionClaim { guest_start, len_bytes, user_start, file_offset_bytes } = *claim;
    if len_bytes == 0 {
        return Err(MemoryError::Empty { guest_start });
    }
    // 2^62 and not 2^64: sums of two such lengths and the mask of `bounded` stay free of wrapping too. Linux
    // gives no process more address space, and no guest has more memory.
    let is_sane = |start: u64| start.checked_add(len_bytes).is_some();
    let fits = is_sane(guest_start) && is_sane(user_start) && is_sane(file_offset_bytes);
    if !fits || len_bytes >= 1 << 62 || file_offset_bytes >= 1 << 62 {
        return Err(MemoryError::Wraps { guest_start, user_start, file_offset_bytes, len_bytes });
    }
    Ok(())
}

fn check_inside_file(claim: &RegionClaim, file: &MemoryFile) -> Result<(), MemoryError> {
    let end_bytes = claim.file_offset_bytes + claim.len_bytes;
    if end_bytes > file.len_bytes() && !cfg!(feature = "sabotage-region-size") {
        return Err(MemoryError::PastFile { end_bytes, file_bytes: file.len_bytes() });
    }
    Ok(())
}

/// What of a file is mapped for a region: whole pages of it, be they huge.
#[derive(Clone, Copy, Debug)]
struct Extent {
    start_bytes: u64,
    /// Bytes of it before the region begins.
    lead_bytes: u64,
    len_bytes: u64,
}

impl Extent {
    /// Of a claim that `check_range` has passed, so that no sum wraps.
    fn of(claim: &RegionClaim, file: &MemoryFile) -> Self {
        let page_bytes = file.page_bytes();
        let start_bytes = claim.file_offset_bytes & !(page_bytes - 1);
        let lead_bytes = claim.file_offset_bytes - start_bytes;
        let len_bytes = (lead_bytes + claim.len_bytes).next_multiple_of(page_bytes);
        Self { start_bytes, lead_bytes, len_bytes }
    }
}

impl Region {
    fn map(
        claim: RegionClaim,
        Extent { start_bytes, lead_bytes, len_bytes }: Extent,
        file: MemoryFile,
        watcher: &dyn MemoryWatcher,
    ) -> Result<Self, MemoryError> {
        let (identity, page_bytes) = (file.identity(), file.page_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide: checked in lib.rs")]
        let (map_len, lead, page) = (len_bytes as usize, lead_bytes as usize, page_bytes as usize);
        let mapping = MmapRegionBuilder::new(map_len)
            .with_file_offset(FileOffset::new(file.into_file(), start_bytes))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED)
            .build()
            .map_err(|source| MemoryError::Map { len_bytes, source })?;
        let base = NonNull::new(mapping.as_ptr()).expect("a mapping that the kernel placed is not at 0");
        // SAFETY: the range is the mapping just made, and the watch is dropped before it (order of fields).
        let watch = unsafe { watcher.watch(base, map_len, page) }.map_err(MemoryError::Watch)?;
        populate(base, map_len).map_err(|source| MemoryError::Populate { len_bytes, source })?;
        // SAFETY: `lead` is less than a page, and the mapping is at least one page long.
        let host_start = unsafe { base.add(lead) };
        Ok(Self { claim, identity, host_start, watch, mapping })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        log::debug!("{} bytes of guest memory unmapped", self.mapping.size());
    }
}

/// Gives every page of the mapping its memory now, where waiting hurts nobody, and keeps it out of core dumps.
fn populate(base: NonNull<u8>, len_bytes: usize) -> Result<(), rustix::io::Errno> {
    use rustix::mm::{Advice, madvise};
    // SAFETY: the range is a mapping of ours, and the advice changes no byte of it.
    unsafe { madvise(base.as_ptr().cast(), len_bytes, Advice::LinuxDontDump) }?;
    // SAFETY: the range is a shared mapping of ours; populating changes no byte of it.
    unsafe { madvise(base.as_ptr().cast(), len_bytes, Advice::LinuxPopulateWrite) }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
