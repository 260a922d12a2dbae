//! A region pool in the making: headers placed, checked and pinned to their buffers; and its end.

use std::ffi::{CString, c_uint, c_void};
use std::mem::size_of;
use std::ptr::NonNull;

use dpdk_sys::{rte_mbuf, rte_mempool};

use crate::eal::c_text;
use crate::error::{DpdkError, Errno, GeometryFault};
use crate::freelist::FreeList;
use crate::ops;
use crate::pool::PoolGeometry;
use crate::stock::{HEADER_STRIDE_BYTES, Placement, Stock};

/// Least data room: with less, some NICs fall back to segments of 1 KiB.
const DATA_ROOM_BYTES_MIN: u32 = 2048;
/// DPDK counts a buffer's length in 16 bits.
const STRIDE_BYTES_MAX: u32 = 65_472;

/// A complete pool; frees it when dropped, if it can.
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) room_bytes: u32,
    pub(crate) mempool: NonNull<rte_mempool>,
    headers: NonNull<c_void>,
    /// From `Box::into_raw`; C has this address too.
    stock: NonNull<Stock>,
}

// SAFETY: `stock` is `Sync`; the mempool and the headers belong to the pool, and DPDK allows any
// thread to use a mempool whose handler allows it, which `Stock` does.
unsafe impl Send for Made {}
// SAFETY: as above.
unsafe impl Sync for Made {}

fn check_geometry(geometry: &PoolGeometry, buffers_at: usize) -> Result<(), GeometryFault> {
    let PoolGeometry { first_index, count, stride_bytes, headroom_bytes, .. } = *geometry;
    let needed = dpdk_sys::NETVM_PKTMBUF_HEADROOM;
    if headroom_bytes != needed {
        return Err(GeometryFault::Headroom { found: headroom_bytes, needed });
    }
    let min = u32::from(needed) + DATA_ROOM_BYTES_MIN;
    if !(min..=STRIDE_BYTES_MAX).contains(&stride_bytes) || !stride_bytes.is_multiple_of(64) {
        return Err(GeometryFault::Stride { found: stride_bytes, min, max: STRIDE_BYTES_MAX });
    }
    if count == 0 {
        return Err(GeometryFault::Empty);
    }
    if first_index.checked_add(count).is_none() {
        return Err(GeometryFault::Indices { first_index, count });
    }
    if !buffers_at.is_multiple_of(64) {
        return Err(GeometryFault::Alignment { address: buffers_at });
    }
    Ok(())
}

fn allocate_headers(pool: &str, count: u32) -> Result<NonNull<c_void>, DpdkError> {
    let bytes = count as usize * HEADER_STRIDE_BYTES;
    // SAFETY: the EAL is up (the caller has an `Eal`); the name is static; any size is allowed.
    let headers = unsafe {
        dpdk_sys::rte_zmalloc_socket(c"netvm_headers".as_ptr(), bytes, 64, dpdk_sys::NETVM_SOCKET_ID_ANY)
    };
    NonNull::new(headers).ok_or_else(|| DpdkError::Call {
        call: "rte_zmalloc_socket",
        asked: format!("{bytes} bytes of mbuf headers for the {count} buffers of pool {pool}"),
        errno: Errno(libc::ENOMEM),
        hint: "start the EAL with more memory_mib",
    })
}

fn create_mempool(c_name: &CString, name: &str, count: u32) -> Result<NonNull<rte_mempool>, DpdkError> {
    let private_bytes = size_of::<dpdk_sys::rte_pktmbuf_pool_private>();
    // SAFETY: the EAL is up; the name is terminated and copied.
    let mempool = unsafe {
        dpdk_sys::rte_mempool_create_empty(
            c_name.as_ptr(),
            count,
            c_uint::try_from(size_of::<rte_mbuf>()).unwrap_or(c_uint::MAX),
            0,
            c_uint::try_from(private_bytes).unwrap_or(c_uint::MAX),
            dpdk_sys::NETVM_SOCKET_ID_ANY,
            dpdk_sys::NETVM_MEMPOOL_F_NO_SPREAD,
        )
    };
    NonNull::new(mempool).ok_or_else(|| DpdkError::Call {
        call: "rte_mempool_create_empty",
        asked: format!("pool {name} of {count} buffers"),
        errno: Errno::last(),
        hint: "pool names are unique and at most 25 bytes; memory_mib of the EAL may be too small",
    })
}

/// What `init_header` needs, and what it found.
struct Init<'s> {
    stock: &'s Stock,
    buffer_bytes: u16,
    seen: u32,
    misplaced: Option<GeometryFault>,
}

impl Made {
    /// Makes the pool; `base` and `geometry` are as `Pool::over_region` wants them.
    pub(crate) fn over(
        name: &str,
        base: usize,
        geometry: &PoolGeometry,
        free_list: Box<dyn FreeList>,
    ) -> Result<Self, DpdkError> {
        let fail = |fault| DpdkError::Geometry { pool: name.to_owned(), fault };
        let buffers_at = base + geometry.offset_first_bytes;
        check_geometry(geometry, buffers_at).map_err(fail)?;
        let c_name = c_text("pool name", name.to_owned())?;
        let headers = allocate_headers(name, geometry.count)?;
        let placement = Placement {
            first_index: geometry.first_index,
            count: geometry.count,
            stride_bytes: geometry.stride_bytes as usize,
            buffers_at,
            headers_at: headers.as_ptr().cast::<u8>().wrapping_add(ops::OBJECT_HEADER_BYTES),
        };
        let stock = Box::new(Stock::new(&placement, free_list));
        let made = Self {
            name: name.to_owned(),
            room_bytes: geometry.stride_bytes - u32::from(geometry.headroom_bytes),
            mempool: match create_mempool(&c_name, name, geometry.count) {
                Ok(mempool) => mempool,
                Err(err) => {
                    // SAFETY: from `rte_zmalloc_socket`, and no mempool knows of it yet.
                    unsafe { dpdk_sys::rte_free(headers.as_ptr()) };
                    return Err(err);
                }
            },
            headers,
            stock: NonNull::from(Box::leak(stock)),
        };
        made.populate(geometry)?;
        Ok(made)
    }

    #[inline]
    pub(crate) fn stock(&self) -> &Stock {
        // SAFETY: from a leaked box that only `drop` takes back; never borrowed mutably.
        unsafe { self.stock.as_ref() }
    }

    fn populate(&self, geometry: &PoolGeometry) -> Result<(), DpdkError> {
        let fail = |fault| DpdkError::Geometry { pool: self.name.clone(), fault };
        let buffer_bytes = u16::try_from(geometry.stride_bytes).unwrap_or(u16::MAX);
        self.check_header_bytes().map_err(fail)?;
        self.set_handler(buffer_bytes)?;
        let len = geometry.count as usize * HEADER_STRIDE_BYTES;
        let iova = self.headers.addr().get() as u64;
        // SAFETY: `len` bytes at `headers` are ours, stay until the mempool is freed, and are
        // aligned to 64, so DPDK skips none. I/O addresses are virtual ones (checked by `Eal::init`).
        let placed = unsafe {
            dpdk_sys::rte_mempool_populate_iova(
                self.mempool.as_ptr(),
                self.headers.as_ptr().cast(),
                iova,
                len,
                None,
                std::ptr::null_mut(),
            )
        };
        if placed < 0 {
            return Err(DpdkError::Call {
                call: "rte_mempool_populate_iova",
                asked: format!("pool {} of {} buffers", self.name, geometry.count),
                errno: Errno::from_result(placed),
                hint: "memory_mib of the EAL may be too small",
            });
        }
        self.init_headers(buffer_bytes).map_err(fail)
    }

    fn check_header_bytes(&self) -> Result<(), GeometryFault> {
        // SAFETY: a live mempool that nobody else has yet.
        let mempool = unsafe { self.mempool.as_ref() };
        let found = mempool.header_size + mempool.elt_size + mempool.trailer_size;
        let expected = u32::try_from(HEADER_STRIDE_BYTES).unwrap_or(u32::MAX);
        let in_front = u32::try_from(ops::OBJECT_HEADER_BYTES).unwrap_or(u32::MAX);
        if found != expected || mempool.header_size != in_front {
            return Err(GeometryFault::HeaderBytes { found, expected });
        }
        Ok(())
    }

    fn set_handler(&self, buffer_bytes: u16) -> Result<(), DpdkError> {
        let config = self.stock.as_ptr().cast();
        // SAFETY: an unpopulated mempool, a terminated name, and a pointer that the handler's
        // `alloc` expects: a `Stock` that outlives the mempool.
        let result = unsafe {
            dpdk_sys::rte_mempool_set_ops_byname(self.mempool.as_ptr(), ops::NAME.as_ptr(), config)
        };
        if result != 0 {
            return Err(DpdkError::Call {
                call: "rte_mempool_set_ops_byname",
                asked: format!("pool {} with handler {:?}", self.name, ops::NAME),
                errno: Errno::from_result(result),
                hint: "the handler is registered when the EAL starts",
            });
        }
        let mut private = dpdk_sys::rte_pktmbuf_pool_private {
            mbuf_data_room_size: buffer_bytes,
            mbuf_priv_size: 0,
            flags: dpdk_sys::NETVM_PKTMBUF_POOL_F_PINNED_EXT_BUF,
        };
        // SAFETY: the mempool was made with room for this structure, which is copied. (With pinned
        // buffers DPDK's debug build wants room for shared info behind each mbuf; ours is in `Stock`.)
        unsafe { dpdk_sys::rte_pktmbuf_pool_init(self.mempool.as_ptr(), (&raw mut private).cast()) };
        Ok(())
    }

    fn init_headers(&self, buffer_bytes: u16) -> Result<(), GeometryFault> {
        let mut init = Init { stock: self.stock(), buffer_bytes, seen: 0, misplaced: None };
        // SAFETY: `init_header` is called with the mempool, `init`, and each object with its place
        // in the list; `init` outlives the call.
        let walked = unsafe {
            dpdk_sys::rte_mempool_obj_iter(self.mempool.as_ptr(), Some(init_header), (&raw mut init).cast())
        };
        if let Some(fault) = init.misplaced {
            return Err(fault);
        }
        if walked != self.stock().count() || init.seen != walked {
            return Err(GeometryFault::HeaderCount { found: walked, expected: self.stock().count() });
        }
        Ok(())
    }
}

/// Initialises one header as `rte_pktmbuf_init` does, then pins its buffer as
/// `rte_pktmbuf_pool_create_extbuf` does, except that all headers share one count.
///
/// What makes that right (rte_mbuf.h of 22.11): freeing a pinned mbuf reads `shinfo->refcnt`, and "if
/// reference counter in shinfo is one [...] mbuf can be returned to the pool" without a write; only
/// attaching raises it, and this crate attaches nothing.
unsafe extern "C" fn init_header(
    mempool: *mut rte_mempool,
    context: *mut c_void,
    object: *mut c_void,
    slot: c_uint,
) {
    // SAFETY: `init_headers` passes its `Init`, and nothing else uses it meanwhile.
    let init = unsafe { &mut *context.cast::<Init<'_>>() };
    init.seen += 1;
    let expected = init.stock.header_at(slot).addr();
    if object.addr() != expected {
        let fault = GeometryFault::HeaderPlacement { index: slot, found: object.addr(), expected };
        init.misplaced.get_or_insert(fault);
        return;
    }
    // SAFETY: an object of this mempool, whose private data is initialised; the second argument is unused.
    unsafe { dpdk_sys::rte_pktmbuf_init(mempool, std::ptr::null_mut(), object, slot) };
    // SAFETY: `rte_pktmbuf_init` made it an mbuf; no driver has the mempool yet.
    let header = unsafe { &mut *object.cast::<rte_mbuf>() };
    let buffer = init.stock.buffer_at(slot);
    header.buf_addr = std::ptr::with_exposed_provenance_mut(buffer);
    header.buf_iova = buffer as u64;
    header.buf_len = init.buffer_bytes;
    header.shinfo = init.stock.shared_info();
    header.ol_flags = dpdk_sys::NETVM_MBUF_F_EXTERNAL;
}

impl Drop for Made {
    fn drop(&mut self) {
        let all_home = self.stock().available() == Some(self.stock().count());
        if !all_home {
            // A frame, a driver's ring or an index somewhere still names these headers.
            return;
        }
        // SAFETY: every buffer is in the free list, so no mbuf of it is anywhere else, and the last
        // handle is going. Its memory chunk has no callback; the handler has none for freeing.
        unsafe { dpdk_sys::rte_mempool_free(self.mempool.as_ptr()) };
        // SAFETY: from `rte_zmalloc_socket`; the mempool that used it is gone.
        unsafe { dpdk_sys::rte_free(self.headers.as_ptr()) };
        // SAFETY: from `Box::leak`; the mempool that pointed at it is gone.
        drop(unsafe { Box::from_raw(self.stock.as_ptr()) });
    }
}
