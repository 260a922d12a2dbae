//! A frame that this thread owns: the mbuf header in private memory that points at its bytes.

use std::ptr::NonNull;

use dpdk_sys::rte_mbuf;

/// One frame. Whoever has the value has the buffer; dropping it gives all segments back to their pools.
///
/// The header is private to the host. The bytes it points at may lie in a region that guests write
/// at any time: there is no slice over them here, only copies.
///
/// Invariant: the pointer is an mbuf header of a live pool, out of its pool, and nobody else has it.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: an mbuf belongs to no thread. Dropping it calls its pool's handler, which knows the
// owner's thread from others (region pools, see `ops`) or locks for itself (`ring_mp_mc`).
unsafe impl Send for Mbuf {}

/// The asked part of a buffer is not inside it, or the frame has more than one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{len_bytes} bytes at offset {offset_bytes} asked of a buffer of {buffer_bytes} bytes in a frame of {segments} segments"
)]
pub struct FrameBounds {
    /// Offset from the start of the buffer (headroom included).
    pub offset_bytes: u16,
    /// Length.
    pub len_bytes: u16,
    /// What a buffer holds.
    pub buffer_bytes: u16,
    /// 1 for every frame that the switch handles.
    pub segments: u16,
}

impl Mbuf {
    /// # Safety
    /// - `header` is an mbuf of a pool of this crate that has not been freed to its pool.
    /// - No other `Mbuf`, burst or driver holds it, now or later.
    #[inline]
    pub(crate) unsafe fn from_header(header: NonNull<rte_mbuf>) -> Self {
        Self(header)
    }

    /// Gives up the value without giving the buffer back.
    #[inline]
    pub(crate) fn into_header(self) -> NonNull<rte_mbuf> {
        let header = self.0;
        std::mem::forget(self);
        header
    }

    /// Address of the header: an identity of the frame, and never inside a region.
    #[inline]
    pub fn header_address(&self) -> usize {
        self.0.addr().get()
    }

    #[inline]
    fn header(&self) -> &rte_mbuf {
        // SAFETY: points at a live header (invariant); headers are private memory, and drivers
        // leave a header alone while it is ours.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn header_mut(&mut self) -> &mut rte_mbuf {
        // SAFETY: as in `header`, and `&mut self` makes it the only reference.
        unsafe { self.0.as_mut() }
    }

    /// Where the frame starts in its buffer, headroom included.
    #[inline]
    pub fn data_off(&self) -> u16 {
        self.header().data_off
    }

    /// Length of the first segment: the frame's, unless it has several.
    #[inline]
    pub fn data_len(&self) -> u16 {
        self.header().data_len
    }

    /// Length of the whole frame.
    #[inline]
    pub fn pkt_len(&self) -> u32 {
        self.header().pkt_len
    }

    /// Number of buffers the frame is spread over. The switch handles 1; others are dropped by name.
    #[inline]
    pub fn segments(&self) -> u16 {
        self.header().nb_segs
    }

    /// Length of the buffer, headroom included.
    #[inline]
    pub fn buffer_bytes(&self) -> u16 {
        self.header().buf_len
    }

    /// DPDK's number of the port the frame came from.
    #[inline]
    pub fn port(&self) -> u16 {
        self.header().port
    }

    /// DPDK's offload flags.
    #[inline]
    pub fn ol_flags(&self) -> u64 {
        self.header().ol_flags
    }

    /// The device's hash of the frame, if it made one.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        let header = self.header();
        if header.ol_flags & dpdk_sys::NETVM_MBUF_F_RX_RSS_HASH == 0 {
            return None;
        }
        // SAFETY: `rss` is a plain integer over initialised bytes (the pool zeroes headers);
        // the flag says that the device wrote it.
        let hash = unsafe { header.__bindgen_anon_2.hash };
        // SAFETY: as above.
        Some(unsafe { hash.rss })
    }

    /// VLAN tag control information that the device took out of the frame, if it did.
    #[inline]
    pub fn stripped_vlan_tci(&self) -> Option<u16> {
        let header = self.header();
        (header.ol_flags & dpdk_sys::NETVM_MBUF_F_RX_VLAN_STRIPPED != 0).then_some(header.vlan_tci)
    }

    /// Says where the frame lies in its buffer, and takes every offload request off it.
    ///
    /// # Errors
    /// [`FrameBounds`] when that is not inside the buffer, or the frame has several; nothing changes.
    #[inline]
    pub fn set_data(&mut self, offset_bytes: u16, len_bytes: u16) -> Result<(), FrameBounds> {
        let header = self.header_mut();
        let (buffer_bytes, segments) = (header.buf_len, header.nb_segs);
        // u32, because u16 + u16 can wrap to a small, "valid" end.
        let end_bytes = u32::from(offset_bytes) + u32::from(len_bytes);
        if end_bytes > u32::from(buffer_bytes) || segments != 1 {
            return Err(FrameBounds { offset_bytes, len_bytes, buffer_bytes, segments });
        }
        header.data_off = offset_bytes;
        header.data_len = len_bytes;
        header.pkt_len = u32::from(len_bytes);
        header.ol_flags &= dpdk_sys::NETVM_MBUF_F_EXTERNAL;
        header.__bindgen_anon_3.tx_offload = 0;
        Ok(())
    }

    /// Puts `rest` behind this frame: one frame of two segments, sent and freed together.
    ///
    /// # Errors
    /// Gives `rest` back when one of the two has several segments already, or both together are longer than
    /// frames get; nothing changes.
    #[inline]
    pub fn append(&mut self, rest: Self) -> Result<(), Self> {
        let len_bytes = u32::from(self.data_len()) + u32::from(rest.data_len());
        if self.segments() != 1 || rest.segments() != 1 || len_bytes > u32::from(u16::MAX) {
            return Err(rest);
        }
        let header = self.header_mut();
        header.pkt_len = len_bytes;
        header.nb_segs = 2;
        // From here on the chain holds it: whoever frees this frame frees its segments.
        header.next = rest.into_header().as_ptr();
        Ok(())
    }

    /// Address of the frame's first byte. Guests may write what is there at any time.
    #[inline]
    pub fn data_address(&self) -> NonNull<u8> {
        let header = self.header();
        let start = header.buf_addr.cast::<u8>().wrapping_add(usize::from(header.data_off));
        // SAFETY: the buffer's address is not null (set by the pool), and adding at most 65535 to
        // the address of a mapped buffer does not wrap to null.
        unsafe { NonNull::new_unchecked(start) }
    }

    /// Copies bytes of the first segment, from `offset_bytes` into the frame, and says how many.
    #[inline]
    pub fn copy_out(&self, offset_bytes: u16, to: &mut [u8]) -> usize {
        let have = usize::from(self.data_len().saturating_sub(offset_bytes));
        let len = have.min(to.len());
        let from = self.data_address().as_ptr().wrapping_add(usize::from(offset_bytes));
        // SAFETY: - `len` bytes from `from` are inside the segment, which is inside the mapped
        //   buffer: drivers and `set_data` keep data_off + data_len <= buf_len.
        // - `to` has room for `len`, and a `&mut` slice overlaps no buffer that has no slices.
        // - the copy is made by C, so a guest that writes meanwhile gives us torn bytes and no
        //   more: any bytes are valid, and they are checked on the copy.
        unsafe { dpdk_sys::netvm_copy(to.as_mut_ptr().cast(), from.cast(), len) };
        len
    }

    /// Makes `frame` the content of this buffer, behind the headroom.
    ///
    /// # Errors
    /// [`FrameBounds`] when it does not fit; nothing changes.
    #[inline]
    pub fn copy_in(&mut self, frame: &[u8]) -> Result<(), FrameBounds> {
        let len_bytes = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        let headroom = dpdk_sys::NETVM_PKTMBUF_HEADROOM;
        self.set_data(headroom, len_bytes)?;
        let to = self.data_address().as_ptr();
        // SAFETY: `set_data` has just checked that `len_bytes` bytes at the headroom are inside the
        // buffer; a frame longer than `u16::MAX` cannot have passed, because no buffer is that long
        // behind its headroom. The frame is private memory and overlaps no buffer.
        unsafe { dpdk_sys::netvm_copy(to.cast(), frame.as_ptr().cast(), usize::from(len_bytes)) };
        Ok(())
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a live mbuf that only we hold (invariant); all its segments are in the same state.
        unsafe { dpdk_sys::netvm_rte_pktmbuf_free(self.0.as_ptr()) };
    }
}
