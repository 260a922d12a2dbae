//! Pools whose buffers lie in a region, and whose headers do not.

use std::ffi::c_uint;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys::{rte_mbuf, rte_mempool};

use crate::burst::MbufBurst;
use crate::eal::Eal;
use crate::error::DpdkError;
use crate::freelist::FreeList;
use crate::making::Made;
use crate::mbuf::Mbuf;
use crate::stock::{PoolFaults, Stock};

/// Number of a buffer in its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferIndex(pub u32);

impl fmt::Display for BufferIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which buffers of a region a pool has: `count` of them, from `first_index` on.
///
/// Buffer `first_index + i` starts at `base + offset_first_bytes + i * stride_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Index of the pool's first buffer; the free list speaks of indices from here on.
    pub first_index: u32,
    /// How many.
    pub count: u32,
    /// From the base of the region to the pool's first buffer.
    pub offset_first_bytes: usize,
    /// From one buffer to the next; a buffer is this long.
    pub stride_bytes: u32,
    /// Bytes in front of a received frame; 128 in every DPDK.
    pub headroom_bytes: u16,
}

/// Buffers of a region that drivers receive into. Clones are handles of the same pool.
///
/// When the last handle goes while frames of the pool are still out, the pool stays in memory for
/// good: a frame outlives nothing that it points at.
#[derive(Clone)]
pub struct Pool(Arc<Made>);

impl Pool {
    /// Makes a pool over part of a region.
    ///
    /// `name` is at most 25 bytes and unique in the process. Headers go to DPDK's private memory; every
    /// header's and every buffer's address is checked against the index arithmetic.
    ///
    /// # Errors
    /// [`DpdkError::Geometry`] for buffers that DPDK cannot use, [`DpdkError::Call`] when it refuses.
    ///
    /// # Safety
    /// - From `base` on, everything the geometry describes is mapped readable and writable, and
    ///   stays so for the life of the process.
    /// - Nobody on the host keeps a Rust reference to those bytes.
    /// - No other pool has any of these buffers.
    pub unsafe fn over_region(
        _eal: &Eal,
        name: &str,
        base: NonNull<u8>,
        geometry: PoolGeometry,
        free_list: Box<dyn FreeList>,
    ) -> Result<Self, DpdkError> {
        Ok(Self(Arc::new(Made::over(name, base.expose_provenance().get(), &geometry, free_list)?)))
    }

    /// Name of the pool.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Number of buffers.
    pub fn count(&self) -> u32 {
        self.stock().count()
    }

    /// Data room of a buffer, behind its headroom.
    pub fn room_bytes(&self) -> u32 {
        self.0.room_bytes
    }

    /// Makes the calling thread the one whose calls reach the free list directly; calls of others go
    /// to the return stack. Ends when the result is dropped.
    ///
    /// # Errors
    /// [`DpdkError::PoolOwned`] when another thread, or this one, owns it already.
    pub fn set_owner_current_thread(&self) -> Result<PoolOwner, DpdkError> {
        if self.stock().own() {
            return Ok(PoolOwner { pool: self.clone(), _stays_on_its_thread: PhantomData });
        }
        Err(DpdkError::PoolOwned { pool: self.0.name.clone() })
    }

    /// Gives the free list what foreign threads gave back, and says how many. For the owner, once every
    /// few bursts; on another thread it does nothing.
    #[inline]
    pub fn collect_foreign(&self) -> u32 {
        self.stock().collect_returns()
    }

    /// Free buffers; none when another thread owns the pool, for only the owner can know.
    pub fn available(&self) -> Option<u32> {
        self.stock().available()
    }

    /// What went wrong since the pool was made.
    pub fn faults(&self) -> PoolFaults {
        self.stock().faults()
    }

    /// Which buffer a frame lies in; none if it is of another pool.
    #[inline]
    pub fn index_of(&self, frame: &Mbuf) -> Option<BufferIndex> {
        let stock = self.stock();
        let slot = stock.slot_of(frame.header_address())?;
        Some(BufferIndex(stock.first_index() + slot))
    }

    /// Turns a frame into its index: from here on the caller answers for the buffer, not the value.
    ///
    /// # Errors
    /// Gives the frame back if it is of another pool.
    #[inline]
    pub fn into_index(&self, frame: Mbuf) -> Result<BufferIndex, Mbuf> {
        match self.index_of(&frame) {
            Some(index) => {
                frame.into_header();
                Ok(index)
            }
            None => Err(frame),
        }
    }

    /// Turns an index into its frame again. Its header says what it said when it was given up.
    ///
    /// # Safety
    /// - The index is one of this pool's geometry.
    /// - The caller holds that buffer: it came out of [`into_index`](Self::into_index) or the free
    ///   list's `take`, and was neither given back nor turned into a frame since.
    #[inline]
    pub unsafe fn mbuf_at(&self, index: BufferIndex) -> Mbuf {
        let stock = self.stock();
        let slot = index.0.wrapping_sub(stock.first_index());
        debug_assert!(slot < stock.count(), "index {index} is not of pool {}", self.0.name);
        let header = stock.header_at(slot).cast::<rte_mbuf>();
        // SAFETY: an address inside an allocation (the index is of this pool) is not null.
        let mut header = unsafe { NonNull::new_unchecked(header) };
        // SAFETY: a header of this pool, initialised when it was made, held by the caller only.
        unsafe { header.as_mut() }.ol_flags |= dpdk_sys::NETVM_MBUF_F_EXTERNAL;
        // SAFETY: the caller holds the buffer, and hands it over to the value.
        unsafe { Mbuf::from_header(header) }
    }

    /// Adds `count` empty frames to a burst, all or none. For the owner; false when there are too few
    /// or they do not fit.
    pub fn take_into<const N: usize>(&self, burst: &mut MbufBurst<N>, count: usize) -> bool {
        // SAFETY: the mempool lives as long as `self`, and its objects are mbufs.
        let taken = unsafe { take_into(self.mempool(), burst, count) };
        if taken {
            let held = burst.held_mut();
            let new = held.len() - count;
            for &frame in &held[new..] {
                // SAFETY: the burst holds it, so it is live and nobody else's.
                let frame = unsafe { &mut *frame };
                // Receiving with some drivers drops the flag, and taking does not set it again.
                frame.ol_flags |= dpdk_sys::NETVM_MBUF_F_EXTERNAL;
            }
        }
        taken
    }

    #[inline]
    pub(crate) fn mempool(&self) -> *mut rte_mempool {
        self.0.mempool.as_ptr()
    }

    #[inline]
    pub(crate) fn stock(&self) -> &Stock {
        self.0.stock()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).field("count", &self.count()).finish()
    }
}

/// The calling thread owns the pool until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the ownership"]
pub struct PoolOwner {
    pool: Pool,
    _stays_on_its_thread: PhantomData<*const ()>,
}

impl Drop for PoolOwner {
    fn drop(&mut self) {
        self.pool.stock().disown();
    }
}

/// Appends `count` frames from a mempool to a burst, all or none.
///
/// # Safety
/// `mempool` is a live mempool of mbufs.
pub(crate) unsafe fn take_into<const N: usize>(
    mempool: *mut rte_mempool,
    burst: &mut MbufBurst<N>,
    count: usize,
) -> bool {
    let room = burst.room_mut();
    let Ok(asked) = c_uint::try_from(count) else { return false };
    if count > room.len() {
        return false;
    }
    // SAFETY: a mempool of mbufs (caller); `room` takes `count` pointers.
    if unsafe { dpdk_sys::netvm_rte_pktmbuf_alloc_bulk(mempool, room.as_mut_ptr(), asked) } != 0 {
        return false;
    }
    // SAFETY: DPDK has just written `count` mbufs there that are ours now.
    unsafe { burst.accept(count) };
    true
}
