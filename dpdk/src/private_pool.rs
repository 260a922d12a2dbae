//! Ordinary pools in private memory, for ports whose driver is not trusted with a region.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys::rte_mempool;

use crate::burst::MbufBurst;
use crate::eal::{Eal, c_text};
use crate::error::{DpdkError, Errno};
use crate::mbuf::Mbuf;
use crate::pool::take_into;

/// Buffers that no guest can see. Any thread may take and give back. Clones are handles of one pool.
#[derive(Clone)]
pub struct PrivatePool(Arc<Made>);

struct Made {
    name: String,
    count: u32,
    room_bytes: u16,
    mempool: NonNull<rte_mempool>,
}

// SAFETY: DPDK's `ring_mp_mc` mempools may be used by any number of threads at a time.
unsafe impl Send for Made {}
// SAFETY: as above.
unsafe impl Sync for Made {}

impl PrivatePool {
    /// Makes a pool of `count` buffers with `room_bytes` for a frame each.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when DPDK refuses the name or has no memory.
    pub fn create(_eal: &Eal, name: &str, count: u32, room_bytes: u16) -> Result<Self, DpdkError> {
        let c_name = c_text("pool name", name.to_owned())?;
        let buffer_bytes = room_bytes.saturating_add(dpdk_sys::NETVM_PKTMBUF_HEADROOM);
        // SAFETY: the EAL is up (`_eal`); the name is terminated and copied.
        let mempool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(
                c_name.as_ptr(),
                count,
                // No cache: its contents would be free buffers that no count shows.
                0,
                0,
                buffer_bytes,
                dpdk_sys::NETVM_SOCKET_ID_ANY,
            )
        };
        let mempool = NonNull::new(mempool).ok_or_else(|| DpdkError::Call {
            call: "rte_pktmbuf_pool_create",
            asked: format!("private pool {name} of {count} buffers of {room_bytes} bytes"),
            errno: Errno::last(),
            hint: "pool names are unique and at most 25 bytes; memory_mib of the EAL may be too small",
        })?;
        Ok(Self(Arc::new(Made { name: name.to_owned(), count, room_bytes, mempool })))
    }

    /// Name of the pool.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Number of buffers.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Data room of a buffer, behind its headroom.
    pub fn room_bytes(&self) -> u32 {
        u32::from(self.0.room_bytes)
    }

    /// Free buffers.
    pub fn available(&self) -> u32 {
        self.0.available()
    }

    /// Adds `count` empty frames to a burst, all or none.
    pub fn take_into<const N: usize>(&self, burst: &mut MbufBurst<N>, count: usize) -> bool {
        // SAFETY: the mempool lives as long as `self`, and its objects are mbufs.
        unsafe { take_into(self.mempool(), burst, count) }
    }

    /// Takes one empty frame, if there is one.
    pub fn take(&self) -> Option<Mbuf> {
        let mut one = MbufBurst::<1>::new();
        if self.take_into(&mut one, 1) { one.take_first() } else { None }
    }

    pub(crate) fn mempool(&self) -> *mut rte_mempool {
        self.0.mempool.as_ptr()
    }
}

impl Made {
    fn available(&self) -> u32 {
        // SAFETY: a live mempool.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.mempool.as_ptr()) }
    }
}

impl fmt::Debug for PrivatePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivatePool").field("name", &self.name()).field("count", &self.count()).finish()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.available() != self.count {
            // A frame is still out; the pool stays in memory for it.
            return;
        }
        // SAFETY: every mbuf is home, and the last handle is going.
        unsafe { dpdk_sys::rte_mempool_free(self.mempool.as_ptr()) };
    }
}
