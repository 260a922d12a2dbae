//! Page-aligned memory of the test's own, standing in for a mapping.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// Zeroed memory, aligned to a page, reachable only through atomics.
pub struct Memory {
    base: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    pub fn new(bytes: u64) -> Self {
        let layout = Layout::from_size_align(usize::try_from(bytes).unwrap(), 4096).unwrap();
        assert_ne!(layout.size(), 0);
        // SAFETY: the size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Self { base, layout }
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn bytes(&self) -> usize {
        self.layout.size()
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.bytes());
        // SAFETY: the offset is inside the allocation.
        let at = unsafe { self.base.add(offset) };
        // SAFETY: inside the allocation, which lives as long as `self`; everyone accesses it atomically.
        unsafe { AtomicU8::from_ptr(at.as_ptr()) }
    }

    /// Writes as an evil peer would: anything, anywhere.
    pub fn poke(&self, offset: usize, bytes: &[u8]) {
        for (position, &byte) in bytes.iter().enumerate() {
            self.byte(offset + position).store(byte, Ordering::Relaxed);
        }
    }

    pub fn peek<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|position| self.byte(offset + position).load(Ordering::Relaxed))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and dropped once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
