//! Shared memory, every byte of it writable at any time. All unsafe code of the attacker is here.
//!
//! Laws: a mapping stays until its [`Memory`] is dropped; every access is an atomic one, inside the mapping, so
//! whatever the switch and other guests do meanwhile is no undefined behaviour of this program.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};

/// A page, the unit of searching.
pub const PAGE_BYTES: usize = 4096;

/// One shared mapping.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    writable: bool,
}

// SAFETY: an address and a length; the mapping belongs to the process, and every access is atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the first `bytes` of a file, read-only where writing is not allowed.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn map(file: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let both = ProtFlags::READ | ProtFlags::WRITE;
        match Self::map_with(file, bytes, both) {
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
                Self::map_with(file, bytes, ProtFlags::READ)
            }
            mapped => mapped,
        }
    }

    fn map_with(file: BorrowedFd<'_>, bytes: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a null hint lets the kernel choose free addresses, so no memory in use is replaced.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, bytes, writable: protection.contains(ProtFlags::WRITE) })
    }

    /// Whether it was mapped to be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Where it is mapped.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base.addr().get() as u64
    }

    /// Asks the kernel for the right to write it after all.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn allow_writes(&self) -> io::Result<()> {
        let both = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: exactly the mapping made in `map_with`; more rights invalidate no reference into it.
        Ok(unsafe { mprotect(self.base.as_ptr().cast(), self.bytes, both) }?)
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of a word of `width` bytes.
    fn word(&self, at: usize, width: usize) -> NonNull<u8> {
        let inside = at.is_multiple_of(width) && at.checked_add(width).is_some_and(|end| end <= self.bytes);
        assert!(inside, "no word of {width} bytes at {at} of {}", self.bytes);
        // SAFETY: the word ends inside the mapping, by the assertion.
        unsafe { self.base.add(at) }
    }

    fn word64(&self, at: usize) -> &AtomicU64 {
        // SAFETY: inside the mapping and aligned by `word`, mapped as long as `self` lives, and accessed by
        // atomics alone.
        unsafe { self.word(at, 8).cast::<AtomicU64>().as_ref() }
    }

    fn word32(&self, at: usize) -> &AtomicU32 {
        // SAFETY: as in `word64`.
        unsafe { self.word(at, 4).cast::<AtomicU32>().as_ref() }
    }

    /// Reads eight bytes. What the switch wrote before it shows afterwards.
    #[must_use]
    pub fn load64(&self, at: usize) -> u64 {
        self.word64(at).load(Ordering::Acquire)
    }

    /// Reads four bytes.
    #[must_use]
    pub fn load32(&self, at: usize) -> u32 {
        self.word32(at).load(Ordering::Acquire)
    }

    /// Reads two bytes.
    #[must_use]
    pub fn load16(&self, at: usize) -> u16 {
        let [low, high, ..] = (self.load64(at / 8 * 8) >> (at % 8 * 8)).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Writes eight bytes. What this thread wrote before shows before.
    pub fn store64(&self, at: usize, value: u64) {
        if self.writable {
            self.word64(at).store(value, Ordering::Release);
        }
    }

    /// Writes four bytes.
    pub fn store32(&self, at: usize, value: u32) {
        if self.writable {
            self.word32(at).store(value, Ordering::Release);
        }
    }

    /// Copies a range whose ends are multiples of eight.
    #[must_use]
    pub fn copy(&self, range: Range<usize>) -> Vec<u8> {
        range.step_by(8).flat_map(|at| self.load64(at).to_le_bytes()).collect()
    }

    /// Writes bytes, a multiple of eight, at a multiple of eight.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        for (position, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            self.store64(at + position * 8, u64::from_le_bytes(*word));
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `map_with`, unmapped once, here; no
        // reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    fn page() -> Memory {
        let fd = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = std::fs::File::from(fd);
        file.write_all(&[0; PAGE_BYTES]).unwrap();
        Memory::map(file.as_fd(), PAGE_BYTES).unwrap()
    }

    #[test]
    fn reads_two_four_and_eight_bytes_where_they_were_written() {
        let memory = page();
        memory.store64(8, 0x0807_0605_0403_0201);
        assert_eq!((memory.load16(14), memory.load32(12)), (0x0807, 0x0807_0605));
        assert_eq!(memory.copy(8..16), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    #[should_panic(expected = "no word of 8 bytes")]
    fn refuses_a_word_past_the_end() {
        let _past = page().load64(PAGE_BYTES);
    }
}
