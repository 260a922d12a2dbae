//! The mempool handler `netvm_ledger`: what DPDK calls when it takes and gives back mbufs.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::slice;

use dpdk_sys::{rte_iova_t, rte_mempool, rte_mempool_populate_obj_cb_t};

use crate::error::{DpdkError, Errno};
use crate::stock::{HEADER_STRIDE_BYTES, Stock};

pub(crate) const NAME: &CStr = c"netvm_ledger";

/// What the mempool puts in front of each object, checked when a pool is made.
pub(crate) const OBJECT_HEADER_BYTES: usize = 64;

/// Makes the handler known to DPDK, which copies the table.
pub(crate) fn register() -> Result<(), DpdkError> {
    let mut table = dpdk_sys::rte_mempool_ops {
        alloc: Some(alloc),
        enqueue: Some(enqueue),
        dequeue: Some(dequeue),
        get_count: Some(get_count),
        populate: Some(populate),
        ..Default::default()
    };
    for (to, &byte) in table.name.iter_mut().zip(NAME.to_bytes_with_nul()) {
        *to = c_char::from_ne_bytes([byte]);
    }
    // SAFETY: a complete table with a terminated name; only read, and copied, during the call.
    let index = unsafe { dpdk_sys::rte_mempool_register_ops(&raw const table) };
    if index >= 0 {
        return Ok(());
    }
    Err(DpdkError::Call {
        call: "rte_mempool_register_ops",
        asked: format!("the mempool handler {NAME:?}"),
        errno: Errno::from_result(index),
        hint: "DPDK has 16 places for mempool handlers; load fewer drivers",
    })
}

/// # Safety
/// `pool` is a mempool of this handler, so `alloc` has run.
#[inline]
unsafe fn stock_of<'p>(pool: *const rte_mempool) -> &'p Stock {
    // SAFETY: a live mempool (caller).
    let data = unsafe { &raw const (*pool).__bindgen_anon_1.pool_data };
    // SAFETY: `alloc` made it the pointer variant of the union, and it is not written again.
    let stock = unsafe { data.read() }.cast::<Stock>();
    // SAFETY: `alloc` took it from the pool's maker, who keeps the `Stock` in place for as long as
    // the mempool exists and never makes a `&mut` of it.
    unsafe { &*stock }
}

/// `rte_mempool_alloc_t`: "Prototype for implementation specific data provisioning function". Ours
/// exists already: the maker passed it as `pool_config`.
unsafe extern "C" fn alloc(pool: *mut rte_mempool) -> c_int {
    // SAFETY: DPDK passes the mempool it is populating, and nobody else has it yet.
    let pool = unsafe { &mut *pool };
    pool.__bindgen_anon_1.pool_data = pool.pool_config;
    0
}

/// `rte_mempool_enqueue_t`. May be called on any thread.
unsafe extern "C" fn enqueue(pool: *mut rte_mempool, headers: *const *mut c_void, count: c_uint) -> c_int {
    // SAFETY: DPDK calls the handler of a mempool with that mempool.
    let stock = unsafe { stock_of(pool) };
    // SAFETY: DPDK passes an array of `count` object pointers.
    stock.give(unsafe { slice::from_raw_parts(headers, count as usize) });
    0
}

/// `rte_mempool_dequeue_t`: all or nothing, `-ENOBUFS` for nothing.
unsafe extern "C" fn dequeue(pool: *mut rte_mempool, headers: *mut *mut c_void, count: c_uint) -> c_int {
    // SAFETY: as in `enqueue`.
    let stock = unsafe { stock_of(pool) };
    // SAFETY: DPDK passes an array of `count` pointers to write; pointers have no invalid values,
    // and nothing reads them before they are written.
    let headers = unsafe { slice::from_raw_parts_mut(headers, count as usize) };
    if stock.take(headers) { 0 } else { -libc::ENOBUFS }
}

/// `rte_mempool_get_count`. Only the owner of the free list can know; others are told 0.
unsafe extern "C" fn get_count(pool: *const rte_mempool) -> c_uint {
    // SAFETY: as in `enqueue`.
    unsafe { stock_of(pool) }.available().unwrap_or(0)
}

/// `rte_mempool_populate_t`: one object behind the other, never a gap at a page border, which is what
/// index arithmetic needs. Objects are not enqueued: the free list says which are free.
unsafe extern "C" fn populate(
    pool: *mut rte_mempool,
    max_objects: c_uint,
    memory: *mut c_void,
    iova: rte_iova_t,
    len: usize,
    add: rte_mempool_populate_obj_cb_t,
    add_context: *mut c_void,
) -> c_int {
    let Some(add) = add else { return -libc::EINVAL };
    let objects = (len / HEADER_STRIDE_BYTES).min(max_objects as usize);
    for object in 0..objects {
        let offset = object * HEADER_STRIDE_BYTES + OBJECT_HEADER_BYTES;
        let at = memory.cast::<u8>().wrapping_add(offset).cast();
        // SAFETY: `add` and `pool` are DPDK's. The object with the mempool's 64 bytes in front of
        // it and 128 behind is inside the `len` bytes at `memory`.
        unsafe { add(pool, add_context, at, iova + offset as u64) };
    }
    c_int::try_from(objects).unwrap_or(-libc::EINVAL)
}
