//! Frames moved in one call.

use std::ptr::{NonNull, null_mut};

use dpdk_sys::rte_mbuf;

use crate::mbuf::Mbuf;

/// Up to `N` frames, owned: what is still in it when it is dropped goes back to the pools.
///
/// Frames leave it from the front ([`take_first`](Self::take_first), sending) and enter at the back
/// ([`push`](Self::push), receiving).
///
/// Invariant: `first <= end <= N`, and `frames[first..end]` are mbufs that only this burst holds.
#[derive(Debug)]
pub struct MbufBurst<const N: usize = 64> {
    frames: [*mut rte_mbuf; N],
    first: usize,
    end: usize,
}

// SAFETY: a burst is `N` values of `Mbuf`, and those are `Send`.
unsafe impl<const N: usize> Send for MbufBurst<N> {}

impl<const N: usize> MbufBurst<N> {
    // DPDK counts a burst in 16 bits.
    const FITS_16_BITS: () = assert!(N > 0 && N <= 65535);

    /// A burst without frames.
    pub const fn new() -> Self {
        const { Self::FITS_16_BITS };
        Self { frames: [null_mut(); N], first: 0, end: 0 }
    }

    /// Number of frames in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.first
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// Whether no other frame fits.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len() == N
    }

    /// Takes the frame at the front out.
    #[inline]
    pub fn take_first(&mut self) -> Option<Mbuf> {
        if self.is_empty() {
            return None;
        }
        let header = NonNull::new(self.frames[self.first])?;
        self.first += 1;
        // SAFETY: it was a live mbuf held by the burst only (invariant), and `first` has just
        // moved past it.
        Some(unsafe { Mbuf::from_header(header) })
    }

    /// Puts a frame at the back.
    ///
    /// # Errors
    /// Gives the frame back when the burst is full.
    #[inline]
    pub fn push(&mut self, frame: Mbuf) -> Result<(), Mbuf> {
        if self.end == N {
            if self.first == 0 {
                return Err(frame);
            }
            self.move_to_front();
        }
        self.frames[self.end] = frame.into_header().as_ptr();
        self.end += 1;
        Ok(())
    }

    /// Gives every frame back to its pool.
    pub fn clear(&mut self) {
        let frames = self.held_mut();
        let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
        // SAFETY: `count` live mbufs that only this burst holds (invariant); they are forgotten
        // in the next lines, before anybody can reach them.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(frames.as_mut_ptr(), count) };
        self.first = 0;
        self.end = 0;
    }

    /// The held frames, for a driver to take from the front.
    #[inline]
    pub(crate) fn held_mut(&mut self) -> &mut [*mut rte_mbuf] {
        &mut self.frames[self.first..self.end]
    }

    /// Forgets the first `count` frames: somebody else has them now.
    #[inline]
    pub(crate) fn forget_first(&mut self, count: usize) {
        self.first = self.end.min(self.first + count);
        if self.first == self.end {
            self.first = 0;
            self.end = 0;
        }
    }

    /// Room behind the held frames, as much as there can be, for a driver to fill.
    #[inline]
    pub(crate) fn room_mut(&mut self) -> &mut [*mut rte_mbuf] {
        if self.first != 0 {
            self.move_to_front();
        }
        &mut self.frames[self.end..]
    }

    /// Takes the first `count` pointers in the room for frames of this burst.
    ///
    /// # Safety
    /// They are live mbufs that nobody else holds, written to `room_mut` since the last other call.
    #[inline]
    pub(crate) unsafe fn accept(&mut self, count: usize) {
        self.end = N.min(self.end + count);
    }

    #[cold]
    fn move_to_front(&mut self) {
        self.frames.copy_within(self.first..self.end, 0);
        self.end -= self.first;
        self.first = 0;
    }
}

impl<const N: usize> Default for MbufBurst<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Drop for MbufBurst<N> {
    fn drop(&mut self) {
        if cfg!(feature = "sabotage-burst-leak") {
            return;
        }
        if !self.is_empty() {
            self.clear();
        }
    }
}
