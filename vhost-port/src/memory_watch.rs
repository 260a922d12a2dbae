//! Who notices that a page of guest memory is gone.
//!
//! A guest can punch holes into its memory whatever its seals say, and an unsealed file can be truncated: the next
//! access is a SIGBUS. The process that opens ports has a handler for that, which puts a page of zeroes in the
//! place of the lost one; this is how it learns where guest memory lies, and how a port learns what was lost.

use std::fmt::Debug;
use std::ptr::NonNull;

/// A mapping under watch; dropping it ends the watch.
pub trait MemoryWatch: Debug + Send + Sync {
    /// Whether a page of the mapping was lost and replaced by zeroes.
    fn is_lost(&self) -> bool;
}

/// Keeps this process alive when pages of guest memory are lost.
pub trait MemoryWatcher: Send + Sync {
    /// Watches `bytes` bytes from `base`, made of pages of `page_bytes`.
    ///
    /// # Safety
    /// - The range is one shared mapping of this process and stays mapped until the watch is dropped.
    /// - `page_bytes` is the page size of that mapping, and `base` is aligned to it.
    /// - Nothing relies on bytes of that mapping keeping what was written to them: a lost page turns into zeroes.
    ///
    /// # Errors
    /// If it cannot be watched; the memory is refused then.
    unsafe fn watch(
        &self,
        base: NonNull<u8>,
        bytes: usize,
        page_bytes: usize,
    ) -> Result<Box<dyn MemoryWatch>, Box<dyn std::error::Error + Send + Sync>>;
}
