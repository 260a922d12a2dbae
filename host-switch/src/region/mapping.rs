//! A shared mapping, and the few ways in which the switch touches its bytes.
//!
//! All unsafe access to regions is in this file. The range check of every method is the one that keeps a
//! guest's numbers inside; the callers' checks come on top.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::fault::Watch;
use super::memory::{MemoryError, SharedMemory};

const WORD_BYTES: usize = size_of::<u64>();

/// Most bytes of a packet that are copied to decide on.
pub const HEADER_BYTES_MAX: usize = 128;

/// One mapped region or control area. Other parties write its bytes at any moment.
#[derive(Debug)]
pub struct Mapping {
    // Dropped first: once the range is unmapped, something else may be mapped there.
    watch: Watch,
    range: MappedRange,
    page_bytes: usize,
}

/// A range of addresses that is unmapped with its owner.
#[derive(Debug)]
struct MappedRange {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` allows only volatile and atomic access to bytes that other processes write anyway.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all of `memory`, present and watched for lost pages.
    ///
    /// # Errors
    /// If the kernel refuses, or too many mappings are watched already.
    pub fn shared(memory: &SharedMemory) -> Result<Self, MemoryError> {
        let page_bytes = memory.page_kind().page_bytes();
        Self::of_fd(memory.fd(), memory.bytes(), page_bytes).map_err(|error| match error {
            MappingError::Kernel(source) => MemoryError::System {
                action: "map",
                name: memory.name().to_owned(),
                bytes: memory.bytes(),
                source,
            },
            MappingError::Watch(error) => error.into(),
        })
    }

    fn of_fd(fd: BorrowedFd<'_>, bytes: u64, page_bytes: u64) -> Result<Self, MappingError> {
        let too_large = |_| MappingError::Kernel(io::ErrorKind::OutOfMemory.into());
        let bytes = usize::try_from(bytes).map_err(too_large)?;
        let page_bytes = usize::try_from(page_bytes).map_err(too_large)?;
        let range = map_shared(fd, bytes)?;
        // SAFETY: the range was mapped shared just now with pages of this size, so it is aligned to them. It
        // stays mapped until `range` is dropped, after the watch. The laws of this room treat every byte as
        // written by others at any moment, so nothing relies on them.
        let watch = unsafe { Watch::start(range.base, bytes, page_bytes) }.map_err(MappingError::Watch)?;
        Ok(Self { watch, range, page_bytes })
    }

    /// Keeps the mapping for the rest of the process: PMDs and lcores hold addresses into it.
    #[must_use]
    pub fn leak(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    /// Where it starts. What is built over it must stay within [`Mapping::bytes`] and keep this room's laws.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.range.base
    }

    /// How long it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.range.bytes
    }

    /// How long a page of it is.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Whether it lost a page: its guests are not to be served any more.
    #[inline]
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.watch.is_dead()
    }

    /// As if a page had been lost.
    #[cfg(test)]
    pub fn mark_dead(&self) {
        self.watch.mark_dead();
    }

    /// The address of `len_bytes` bytes at `offset_bytes`, also for copies that others make: no reference to them
    /// may be made, since other processes write them at any moment.
    ///
    /// # Panics
    /// If they are not inside the mapping.
    #[inline]
    #[must_use]
    pub fn place(&self, offset_bytes: usize, len_bytes: usize) -> NonNull<u8> {
        let bytes = self.range.bytes;
        let fits = offset_bytes <= bytes && len_bytes <= bytes - offset_bytes;
        assert!(fits, "{len_bytes} bytes at {offset_bytes} of a mapping of {bytes} bytes");
        // SAFETY: the offset is at most the length of the one mapping that `base` points to.
        unsafe { self.range.base.add(offset_bytes) }
    }

    /// Asks the CPU to bring the line of `offset_bytes` near.
    #[inline(always)]
    pub fn prefetch(&self, offset_bytes: usize) {
        prefetch(self.range.base.as_ptr().wrapping_add(offset_bytes));
    }

    /// Copies `len_bytes` bytes, at most [`HEADER_BYTES_MAX`], into private memory: each shared byte is read
    /// once. Bytes of `copy` behind the length keep what they were.
    #[inline]
    pub fn copy_header(&self, offset_bytes: usize, len_bytes: usize, copy: &mut [u8; HEADER_BYTES_MAX]) {
        self.copy_out(offset_bytes, &mut copy[..len_bytes.min(HEADER_BYTES_MAX)]);
    }

    /// Fills private memory: each shared byte is read once. For what is judged, [`Mapping::copy_header`] reads
    /// as little as is needed.
    #[inline]
    pub fn copy_out(&self, offset_bytes: usize, copy: &mut [u8]) {
        let from = self.place(offset_bytes, copy.len());
        if !from.cast::<u64>().is_aligned() {
            return copy_bytes(from, copy);
        }
        let (words, rest) = copy.as_chunks_mut::<WORD_BYTES>();
        let rest_at = words.len() * WORD_BYTES;
        for (position, word) in words.iter_mut().enumerate() {
            // SAFETY: `place` has checked that the whole length is inside the mapping, and words end before it.
            let at = unsafe { from.add(position * WORD_BYTES) }.cast::<AtomicU64>();
            // SAFETY: inside the mapping (above) and aligned: the start is, and words follow each other.
            // An atomic has no invalid values, and other processes write through mappings of their own.
            let shared = unsafe { at.as_ref() };
            // Relaxed: one read of whatever is there; a torn header is the sender's problem, not a race of ours.
            *word = shared.load(Ordering::Relaxed).to_ne_bytes();
        }
        // SAFETY: `rest_at` is at most the length that `place` has checked.
        copy_bytes(unsafe { from.add(rest_at) }, rest);
    }

    /// Writes `data`; each byte is stored once.
    pub fn copy_in(&self, offset_bytes: usize, data: &[u8]) {
        let to = self.place(offset_bytes, data.len());
        let (words, rest) = data.as_chunks::<WORD_BYTES>();
        for (position, word) in words.iter().enumerate() {
            // SAFETY: `place` has checked that the whole length is inside the mapping, and words end before it.
            let word_at = unsafe { to.add(position * WORD_BYTES) }.cast::<[u8; WORD_BYTES]>();
            // SAFETY: eight bytes inside the mapping; an array of bytes needs no alignment. Volatile, since
            // others read and write these bytes.
            unsafe { word_at.write_volatile(*word) };
        }
        // SAFETY: the words before the rest are inside the length that `place` has checked.
        let rest_at = unsafe { to.add(words.len() * WORD_BYTES) };
        for (position, &byte) in rest.iter().enumerate() {
            // SAFETY: the rest ends where the checked length ends.
            let byte_at = unsafe { rest_at.add(position) };
            // SAFETY: inside the mapping, as above. Volatile, since others read and write these bytes.
            unsafe { byte_at.write_volatile(byte) };
        }
    }

    /// Copies `len_bytes` bytes from `from_bytes` of another mapping to `offset_bytes` of this one. Each shared
    /// byte is read once and stored once; what others write meanwhile arrives torn, and that is all.
    pub fn copy_from(&self, offset_bytes: usize, from: &Self, from_bytes: usize, len_bytes: usize) {
        let (to, from) = (self.place(offset_bytes, len_bytes), from.place(from_bytes, len_bytes));
        let words_bytes = len_bytes - len_bytes % WORD_BYTES;
        for done in (0..words_bytes).step_by(WORD_BYTES) {
            // SAFETY: `place` has checked the whole length in the source, and this word ends before it.
            let word_at = unsafe { from.add(done) }.cast::<[u8; WORD_BYTES]>();
            // SAFETY: eight bytes inside the mapping; an array of bytes needs no alignment and has no invalid
            // values. Volatile, since others write these bytes.
            let word = unsafe { word_at.read_volatile() };
            // SAFETY: `place` has checked the whole length here too.
            let word_at = unsafe { to.add(done) }.cast::<[u8; WORD_BYTES]>();
            // SAFETY: eight bytes inside this mapping, as above. Volatile, since others read and write them.
            unsafe { word_at.write_volatile(word) };
        }
        for done in words_bytes..len_bytes {
            // SAFETY: inside the checked length of the source.
            let byte_at = unsafe { from.add(done) };
            // SAFETY: inside the mapping, as above. Volatile, since others write these bytes.
            let byte = unsafe { byte_at.read_volatile() };
            // SAFETY: inside the checked length here.
            let byte_at = unsafe { to.add(done) };
            // SAFETY: inside this mapping, as above. Volatile, since others read and write these bytes.
            unsafe { byte_at.write_volatile(byte) };
        }
    }

    /// Writes zeroes.
    pub fn zero(&self, offset_bytes: usize, len_bytes: usize) {
        const ZEROES: [u8; 64] = [0; 64];
        for done in (0..len_bytes).step_by(ZEROES.len()) {
            self.copy_in(offset_bytes + done, &ZEROES[..ZEROES.len().min(len_bytes - done)]);
        }
    }
}

/// Asks the CPU to bring the line of `address` near; never faults, never waits, reads nothing.
#[inline(always)]
fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of every x86-64, and a prefetch of any address, mapped or not, has no effect but on
    // caches.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Copies byte by byte.
fn copy_bytes(from: NonNull<u8>, copy: &mut [u8]) {
    for (position, byte) in copy.iter_mut().enumerate() {
        // SAFETY: both callers pass an address that `place` has checked for `copy.len()` bytes.
        let at = unsafe { from.add(position) }.cast::<AtomicU8>();
        // SAFETY: inside the mapping; an atomic byte has no alignment and no invalid values.
        let shared = unsafe { at.as_ref() };
        *byte = shared.load(Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum MappingError {
    Kernel(io::Error),
    Watch(super::fault::WatchError),
}

fn map_shared(fd: BorrowedFd<'_>, bytes: usize) -> Result<MappedRange, MappingError> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing that exists.
    let base = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
    let base = base.map_err(|errno| MappingError::Kernel(errno.into()))?;
    let base = NonNull::new(base.cast()).ok_or(MappingError::Kernel(io::ErrorKind::OutOfMemory.into()))?;
    Ok(MappedRange { base, bytes })
}

impl Drop for MappedRange {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping that `map_shared` made, and its only owner goes away.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::region::Pages;

    fn mapping() -> Mapping {
        Mapping::shared(&SharedMemory::create("netvm-test", 1 << 16, Pages::Plain).unwrap()).unwrap()
    }

    #[test]
    fn copies_a_header_from_any_offset_and_of_any_length() {
        let mapping = mapping();
        let frame: Vec<u8> = (0..200).collect();
        for offset in [128, 129, 135] {
            mapping.copy_in(offset, &frame);
            for len in [0, 1, 7, 8, 14, 60, 127, 128] {
                let mut copy = [0xee; HEADER_BYTES_MAX];
                mapping.copy_header(offset, len, &mut copy);
                assert_eq!(copy[..len], frame[..len]);
                assert!(copy[len..].iter().all(|&byte| byte == 0xee));
            }
        }
    }

    #[test]
    fn copies_a_header_that_ends_exactly_at_the_end() {
        let mapping = mapping();
        mapping.copy_in((1 << 16) - 60, &[7; 60]);
        let mut copy = [0; HEADER_BYTES_MAX];
        mapping.copy_header((1 << 16) - 60, 60, &mut copy);
        assert_eq!(copy[..60], [7; 60]);
    }

    #[test]
    #[should_panic(expected = "60 bytes at 65477 of a mapping of 65536 bytes")]
    fn refuses_a_header_one_byte_past_the_end() {
        mapping().copy_header((1 << 16) - 59, 60, &mut [0; HEADER_BYTES_MAX]);
    }

    #[test]
    #[should_panic(expected = "of a mapping of 65536 bytes")]
    fn refuses_an_offset_that_would_wrap() {
        mapping().copy_header(usize::MAX - 8, 60, &mut [0; HEADER_BYTES_MAX]);
    }

    #[test]
    fn zeroes_exactly_what_is_asked() {
        let mapping = mapping();
        mapping.copy_in(1000, &[9; 110]);
        mapping.zero(1005, 100);
        let mut copy = [1; HEADER_BYTES_MAX];
        mapping.copy_header(1000, 110, &mut copy);
        assert_eq!(copy[..5], [9; 5]);
        assert_eq!(copy[5..105], [0; 100]);
        assert_eq!(copy[105..110], [9; 5]);
    }

    #[test]
    fn copies_between_mappings_at_any_offsets_and_no_byte_more() {
        let (one, other) = (mapping(), mapping());
        let frame: Vec<u8> = (0..100).collect();
        for (from, to) in [(128, 128), (129, 256), (1000, 131)] {
            one.copy_in(from, &frame);
            for len in [0, 1, 7, 8, 9, 64, 99] {
                other.copy_in(to, &[0xee; 100]);
                other.copy_from(to, &one, from, len);
                let mut copy = [0; HEADER_BYTES_MAX];
                other.copy_header(to, 100, &mut copy);
                assert_eq!(copy[..len], frame[..len]);
                assert!(copy[len..100].iter().all(|&byte| byte == 0xee));
            }
        }
        other.copy_from((1 << 16) - 8, &one, (1 << 16) - 8, 8);
    }

    #[test]
    #[should_panic(expected = "9 bytes at 65528 of a mapping of 65536 bytes")]
    fn refuses_to_copy_one_byte_past_the_end_of_the_source() {
        mapping().copy_from(0, &mapping(), (1 << 16) - 8, 9);
    }

    #[test]
    #[should_panic(expected = "9 bytes at 65528 of a mapping of 65536 bytes")]
    fn refuses_to_copy_one_byte_past_its_own_end() {
        mapping().copy_from((1 << 16) - 8, &mapping(), 0, 9);
    }

    #[test]
    fn survives_a_file_that_is_cut_under_it_and_says_so() {
        // A guest cannot do this to a sealed region; unsealed, it stands for every way to lose a page.
        let file = rustix::fs::memfd_create("netvm-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 1 << 16).unwrap();
        let mapping = Mapping::of_fd(file.as_fd(), 1 << 16, 4096).unwrap();
        let other = self::mapping();
        mapping.copy_in(0x8000, &[5; 64]);
        rustix::fs::ftruncate(&file, 0x8000).unwrap();

        let mut copy = [1; HEADER_BYTES_MAX];
        mapping.copy_header(0x8000, 64, &mut copy);
        assert_eq!(copy[..64], [0; 64]);
        mapping.copy_in(0x9000, &[5; 64]);
        assert!(mapping.is_dead());
        assert!(!other.is_dead());
    }

    #[test]
    fn a_punched_hole_in_sealed_memory_reads_as_zeroes() {
        let memory = SharedMemory::create("netvm-test", 1 << 16, Pages::Plain).unwrap();
        let mapping = Mapping::shared(&memory).unwrap();
        mapping.copy_in(0x8000, &[5; 64]);
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(memory.fd(), punch, 0x8000, 0x1000).unwrap();
        let mut copy = [1; HEADER_BYTES_MAX];
        mapping.copy_header(0x8000, 64, &mut copy);
        assert_eq!(copy[..64], [0; 64]);
    }

    #[test]
    fn a_bus_error_that_somebody_sent_loses_nothing_and_the_next_loss_is_survived() {
        let file = rustix::fs::memfd_create("netvm-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 1 << 16).unwrap();
        let mapping = Mapping::of_fd(file.as_fd(), 1 << 16, 4096).unwrap();
        let us = rustix::process::getpid();
        rustix::process::kill_process(us, rustix::process::Signal::BUS).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!mapping.is_dead());
        rustix::fs::ftruncate(&file, 0).unwrap();
        mapping.copy_header(0, 64, &mut [1; HEADER_BYTES_MAX]);
        assert!(mapping.is_dead());
    }

    #[test]
    fn a_bus_error_outside_every_watched_mapping_still_kills() {
        let file = rustix::fs::memfd_create("netvm-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 1 << 16).unwrap();
        let watched = self::mapping();
        let range = map_shared(file.as_fd(), 1 << 16).unwrap();
        rustix::fs::ftruncate(&file, 0).unwrap();
        // SAFETY: the child only touches memory and dies or exits at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: still mapped; the read is the fault that this test is about.
            unsafe { range.base.as_ptr().read_volatile() };
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "status {status:#x}");
        assert!(!watched.is_dead());
    }
}
