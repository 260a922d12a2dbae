//! The free buffers of a region pool, and which thread may touch their free list.
//!
//! The free list is not made for two threads. A thread that may not use it now (see [`Holder`]) puts what
//! it gives back on the [`ReturnStack`], and gets nothing when it asks for buffers.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::freelist::FreeList;
use crate::holder::{Holder, ThreadNumber};
use crate::returns::ReturnStack;

/// Bytes from one mbuf header to the next: 64 of DPDK's mempool, 128 of the mbuf. Constant, so that
/// finding an index is a multiplication; checked against the mempool when a pool is made.
pub(crate) const HEADER_STRIDE_BYTES: usize = 192;

/// Buffers handled per call of the free list; a full burst of the usual size needs one call.
const CHUNK: usize = 32;

/// What went wrong in a region pool, counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFaults {
    /// Buffers asked for by a thread that does not own the pool. It got none.
    pub foreign_takes: u64,
    /// Indices from the free list, or headers given back, that are not of this pool. Left alone.
    pub alien_buffers: u64,
}

pub(crate) struct Stock {
    first_index: u32,
    count: u32,
    stride_bytes: usize,
    buffers_at: usize,
    headers_at: *mut u8,
    /// One for all buffers: it is only ever read, because buffers are never attached twice.
    shared_info: UnsafeCell<dpdk_sys::rte_mbuf_ext_shared_info>,
    free_list: Box<dyn FreeList>,
    holder: Holder,
    returns: ReturnStack,
    foreign_takes: AtomicU64,
    alien_buffers: AtomicU64,
}

// SAFETY: `free_list` is `Send` and used by the thread that `holder` names only; `shared_info` is
// written by nobody after `new`, by C through atomics at most; the rest is constant or atomic.
unsafe impl Sync for Stock {}
// SAFETY: as above; `headers_at` is an address that any thread may use.
unsafe impl Send for Stock {}

/// Where the buffers and their headers are; checked by the pool.
pub(crate) struct Placement {
    pub(crate) first_index: u32,
    pub(crate) count: u32,
    pub(crate) stride_bytes: usize,
    pub(crate) buffers_at: usize,
    pub(crate) headers_at: *mut u8,
}

impl Stock {
    pub(crate) fn new(placement: &Placement, free_list: Box<dyn FreeList>) -> Self {
        Self {
            first_index: placement.first_index,
            count: placement.count,
            stride_bytes: placement.stride_bytes,
            buffers_at: placement.buffers_at,
            headers_at: placement.headers_at,
            shared_info: UnsafeCell::new(dpdk_sys::rte_mbuf_ext_shared_info {
                refcnt: 1,
                ..Default::default()
            }),
            free_list,
            holder: Holder::nobody(),
            returns: ReturnStack::new(placement.count),
            foreign_takes: AtomicU64::new(0),
            alien_buffers: AtomicU64::new(0),
        }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn first_index(&self) -> u32 {
        self.first_index
    }

    pub(crate) fn shared_info(&self) -> *mut dpdk_sys::rte_mbuf_ext_shared_info {
        self.shared_info.get()
    }

    /// Address of the header of the `slot`-th buffer.
    #[inline]
    pub(crate) fn header_at(&self, slot: u32) -> *mut u8 {
        self.headers_at.wrapping_add(slot as usize * HEADER_STRIDE_BYTES)
    }

    /// Address of the `slot`-th buffer.
    #[inline]
    pub(crate) fn buffer_at(&self, slot: u32) -> usize {
        self.buffers_at + slot as usize * self.stride_bytes
    }

    /// Which buffer of this pool a header belongs to; none if it is no header of this pool.
    #[inline]
    pub(crate) fn slot_of(&self, header: usize) -> Option<u32> {
        let offset = header.wrapping_sub(self.headers_at.addr());
        let slot = u32::try_from(offset / HEADER_STRIDE_BYTES).ok()?;
        (slot < self.count && slot as usize * HEADER_STRIDE_BYTES == offset).then_some(slot)
    }

    /// Makes the calling thread the owner. False if somebody else is.
    pub(crate) fn own(&self) -> bool {
        self.holder.own(ThreadNumber::assigned())
    }

    /// Ends the ownership of the calling thread, which has it.
    pub(crate) fn disown(&self) {
        self.collect_returns();
        self.holder.disown();
    }

    /// Uses the free list, if this thread may now.
    #[inline]
    fn with_free_list<R>(&self, use_it: impl FnOnce(&dyn FreeList) -> R) -> Option<R> {
        if self.holder.is(ThreadNumber::current()) {
            return Some(use_it(&*self.free_list));
        }
        self.with_claimed_list(use_it)
    }

    #[cold]
    fn with_claimed_list<R>(&self, use_it: impl FnOnce(&dyn FreeList) -> R) -> Option<R> {
        let _claim = self.holder.claim()?;
        Some(use_it(&*self.free_list))
    }

    /// Free buffers now, those on the return stack among them; none if another thread owns the list.
    pub(crate) fn available(&self) -> Option<u32> {
        self.collect_returns();
        self.with_free_list(|list| list.available())
    }

    /// Moves what foreign threads gave back to the free list; how many. 0 if another thread owns it.
    #[inline]
    pub(crate) fn collect_returns(&self) -> u32 {
        if self.returns.is_empty() {
            return 0;
        }
        self.with_free_list(|list| self.give_returns(list)).unwrap_or(0)
    }

    fn give_returns(&self, list: &dyn FreeList) -> u32 {
        let mut returned = self.returns.take_all();
        let mut total = 0;
        loop {
            let mut indices = [0_u32; CHUNK];
            let mut len = 0;
            for (to, slot) in indices.iter_mut().zip(&mut returned) {
                *to = self.first_index + slot;
                len += 1;
            }
            if len == 0 {
                return total;
            }
            list.give(&indices[..len]);
            total += u32::try_from(len).unwrap_or(0);
        }
    }

    /// Fills `headers`, all or nothing.
    pub(crate) fn take(&self, headers: &mut [*mut c_void]) -> bool {
        let taken = self.with_free_list(|list| {
            self.take_from(list, headers) || (self.give_returns(list) > 0 && self.take_from(list, headers))
        });
        taken.unwrap_or_else(|| {
            self.foreign_takes.fetch_add(1, Ordering::Relaxed);
            false
        })
    }

    fn take_from(&self, list: &dyn FreeList, headers: &mut [*mut c_void]) -> bool {
        for at in (0..headers.len()).step_by(CHUNK) {
            let end = headers.len().min(at + CHUNK);
            let mut indices = [0_u32; CHUNK];
            let wanted = &mut indices[..end - at];
            if !list.take(wanted) {
                self.give_to(list, &headers[..at]);
                return false;
            }
            for (header, &index) in headers[at..end].iter_mut().zip(wanted.iter()) {
                let slot = index.wrapping_sub(self.first_index);
                if slot >= self.count {
                    self.alien_buffers.fetch_add(1, Ordering::Relaxed);
                    return false;
                }
                *header = self.header_at(slot).cast();
            }
        }
        true
    }

    /// Takes headers back.
    #[inline]
    pub(crate) fn give(&self, headers: &[*mut c_void]) {
        // Virtual devices free frame by frame what they have sent.
        match headers {
            [header] => self.give_one(header.addr()),
            _ => self.give_many(headers),
        }
    }

    #[inline]
    fn give_one(&self, header: usize) {
        let Some(slot) = self.slot_of(header) else {
            self.alien_buffers.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if self.with_free_list(|list| list.give(&[self.first_index + slot])).is_none() {
            self.returns.push(&[slot]);
        }
    }

    fn give_many(&self, headers: &[*mut c_void]) {
        if self.with_free_list(|list| self.give_to(list, headers)).is_none() {
            self.each_chunk(headers, 0, |slots| self.returns.push(slots));
        }
    }

    fn give_to(&self, list: &dyn FreeList, headers: &[*mut c_void]) {
        self.each_chunk(headers, self.first_index, |indices| list.give(indices));
    }

    #[inline]
    fn each_chunk(&self, headers: &[*mut c_void], first: u32, mut give: impl FnMut(&[u32])) {
        for chunk in headers.chunks(CHUNK) {
            let mut indices = [0_u32; CHUNK];
            let mut len = 0;
            for header in chunk {
                match self.slot_of(header.addr()) {
                    Some(slot) => {
                        indices[len] = first + slot;
                        len += 1;
                    }
                    None => _ = self.alien_buffers.fetch_add(1, Ordering::Relaxed),
                }
            }
            give(&indices[..len]);
        }
    }

    pub(crate) fn faults(&self) -> PoolFaults {
        PoolFaults {
            foreign_takes: self.foreign_takes.load(Ordering::Relaxed),
            alien_buffers: self.alien_buffers.load(Ordering::Relaxed),
        }
    }
}
