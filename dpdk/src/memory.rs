//! Memory of ours that devices may reach.

use std::ffi::c_void;
use std::ptr::NonNull;

use crate::eal::Eal;
use crate::error::{DpdkError, Errno};

/// A region that DPDK knows of, so that drivers find its addresses. Unregistered when dropped.
///
/// A PCI device needs [`crate::Port::dma_map`] besides; most virtual devices need neither.
#[derive(Debug)]
pub struct ExternalMemory {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: an address and a length; DPDK locks its table of memory itself.
unsafe impl Send for ExternalMemory {}
// SAFETY: as above.
unsafe impl Sync for ExternalMemory {}

impl ExternalMemory {
    /// Registers `len_bytes` at `base`, made of pages of `page_bytes`.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when base or length are no multiples of the page, or the memory is known already.
    ///
    /// # Safety
    /// The memory is mapped and stays so until this is dropped and no device uses it.
    pub unsafe fn register(
        _eal: &Eal,
        base: NonNull<u8>,
        len_bytes: usize,
        page_bytes: usize,
    ) -> Result<Self, DpdkError> {
        let pages = u32::try_from(len_bytes.checked_div(page_bytes).unwrap_or(0)).unwrap_or(u32::MAX);
        let at = base.as_ptr().cast::<c_void>();
        // SAFETY: the memory is mapped (caller). No I/O addresses: they are virtual ones. DPDK checks
        // alignment, length and page size.
        let result =
            unsafe { dpdk_sys::rte_extmem_register(at, len_bytes, std::ptr::null_mut(), pages, page_bytes) };
        if result == 0 {
            return Ok(Self { base, len_bytes });
        }
        Err(DpdkError::Call {
            call: "rte_extmem_register",
            asked: format!("{len_bytes} bytes in pages of {page_bytes}"),
            errno: Errno::last(),
            hint: "base and length are multiples of the page size, and memory is registered once",
        })
    }

    pub(crate) fn address(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

impl Drop for ExternalMemory {
    fn drop(&mut self) {
        // SAFETY: registered by us with this address and length. A refusal leaves an entry in DPDK's
        // table of memory, and nothing else.
        unsafe { dpdk_sys::rte_extmem_unregister(self.address(), self.len_bytes) };
    }
}
