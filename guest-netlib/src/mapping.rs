//! One shared mapping of a control area or a region: the room for `mmap`.
//!
//! Laws of this room:
//! - A mapping ends when its [`Mapping`] is dropped and not before; whoever keeps a pointer into it keeps
//!   the `Mapping` alive.
//! - It hands out a base pointer and a length, never a reference: the other side may write at any moment.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use shm_ring::layout::PAGE_BYTES;

/// A shared mapping of a whole file, from its first byte.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    mapped_bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it; `Mapping` itself is only an
// address and a length, and every access through it is atomic or guarded by the holder rule of a buffer.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out the address and the length, both constant.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `mapped_bytes` of `file` to read and write them.
    pub(crate) fn shared(file: BorrowedFd<'_>, mapped_bytes: usize) -> io::Result<Self> {
        Self::map(file, mapped_bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps the first `mapped_bytes` of `file` to read them; a write would end the process.
    pub(crate) fn read_only(file: BorrowedFd<'_>, mapped_bytes: usize) -> io::Result<Self> {
        Self::map(file, mapped_bytes, ProtFlags::READ)
    }

    fn map(file: BorrowedFd<'_>, mapped_bytes: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a null hint lets the kernel choose free addresses, so no memory in use is replaced.
        let base =
            unsafe { mmap(std::ptr::null_mut(), mapped_bytes, protection, MapFlags::SHARED, file, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, mapped_bytes })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// The first word, which says what the memory is; none if the mapping is shorter than a page.
    pub(crate) fn magic(&self) -> Option<u64> {
        if self.mapped_bytes < PAGE_BYTES {
            return None;
        }
        // SAFETY: a whole page is mapped readable, and the kernel aligns mappings to pages.
        Some(unsafe { shm_ring::area::magic_at(self.base) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `map`, unmapped once, here; by the law
        // above nobody keeps a pointer into it.
        let done = unsafe { munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
        if let Err(err) = done {
            log::warn!("unmapping {} bytes of shared memory: {err}", self.mapped_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_mapping_of_a_page_has_a_first_word_and_a_shorter_one_has_none() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&7u64.to_le_bytes()).unwrap();
        file.write_all(&[0u8; 4088]).unwrap();
        assert_eq!(Mapping::shared(file.as_fd(), 4096).unwrap().magic(), Some(7));
        assert_eq!(Mapping::shared(file.as_fd(), 4095).unwrap().magic(), None);
    }
}
