//! The packets of one poll.

use shm_ring::desc::{Desc, RawDesc, Verdict};

use crate::packet::{Held, Packet};
use crate::queue::QueuePair;

/// Most packets of one poll.
pub const BURST_PACKETS_MAX: usize = 32;

/// Packets taken in one [`QueuePair::poll`], each to be taken out with `next` or a `for` loop.
///
/// A burst that is dropped half-used gives the rest back with the verdict drop.
#[derive(Debug)]
pub struct Burst<'q> {
    /// The queue pair and the packets taken from it; none before the first poll.
    queue: Option<&'q QueuePair>,
    /// Invariant: those from `taken` to `filled` name data inside the buffers of `queue`.
    descs: [RawDesc; BURST_PACKETS_MAX],
    /// Packets taken out already. Invariant: `taken <= filled <= BURST_PACKETS_MAX`.
    taken: usize,
    filled: usize,
}

impl<'q> Burst<'q> {
    /// A burst that holds nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { queue: None, descs: [RawDesc { word0: 0, word1: 0 }; BURST_PACKETS_MAX], taken: 0, filled: 0 }
    }

    /// Packets not taken out yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled - self.taken
    }

    /// Whether every packet has been taken out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a poll puts what it takes. What was not taken out is forgotten: see [`Burst::finish`].
    #[inline(always)]
    pub(crate) fn room(&mut self) -> &mut [RawDesc; BURST_PACKETS_MAX] {
        (self.taken, self.filled) = (0, 0);
        &mut self.descs
    }

    /// Takes up the first `filled` descriptors of the room: packets of `queue`, not given back yet.
    ///
    /// # Safety
    /// Each of them has passed [`crate::packet::is_inside`] for the buffers of `queue`.
    #[inline(always)]
    pub(crate) unsafe fn hold(&mut self, queue: &'q QueuePair, filled: usize) {
        self.queue = Some(queue);
        self.taken = 0;
        self.filled = filled.min(BURST_PACKETS_MAX);
    }

    /// Gives back what has not been taken out, and shows the switch every verdict of this burst.
    #[inline]
    pub(crate) fn finish(&mut self) {
        if self.taken != self.filled {
            self.give_back_rest();
        }
        if let Some(queue) = self.queue {
            queue.flush();
        }
    }

    /// Calls `handler` with each packet. As a `for` loop does, with less to store between two packets: how far it
    /// has come stays in a register, since nobody else can look.
    #[inline(always)]
    pub(crate) fn drain_into(&mut self, handler: &mut impl FnMut(Packet<'q>)) {
        let Some(queue) = self.queue else { return };
        let descs = self.descs.get(self.taken..self.filled).unwrap_or_default();
        self.taken = self.filled;
        let mut rest = Rest { queue, descs };
        while let Some((raw, behind)) = rest.descs.split_first() {
            rest.descs = behind;
            // SAFETY: by the invariant of `descs`; it was in front of `filled` and not taken out before.
            let held = unsafe { Held::new_unchecked(queue, *raw) };
            handler(Packet::new(held));
        }
    }

    #[cold]
    fn give_back_rest(&mut self) {
        if let Some(queue) = self.queue {
            drop_all(queue, &self.descs[self.taken..self.filled]);
        }
        self.taken = self.filled;
    }
}

/// What a handler has left, should it panic.
struct Rest<'b, 'q> {
    queue: &'q QueuePair,
    descs: &'b [RawDesc],
}

impl Drop for Rest<'_, '_> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.descs.is_empty() {
            drop_all(self.queue, self.descs);
        }
    }
}

/// Gives packets back with the verdict drop.
#[cold]
#[inline(never)]
fn drop_all(queue: &QueuePair, descs: &[RawDesc]) {
    if cfg!(feature = "sabotage-drop-returns") {
        return;
    }
    for raw in descs {
        let code = Verdict::Drop as u8;
        queue.give_back(Desc { code, aux: 0, ..raw.unpack() }.pack(), Verdict::Drop);
    }
}

impl Default for Burst<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'q> Iterator for Burst<'q> {
    type Item = Packet<'q>;

    #[inline(always)]
    fn next(&mut self) -> Option<Packet<'q>> {
        if self.taken == self.filled {
            return None;
        }
        let queue = self.queue?;
        let raw = *self.descs.get(self.taken)?;
        self.taken += 1;
        // SAFETY: by the invariant of `descs`; `taken` was below `filled`.
        let held = unsafe { Held::new_unchecked(queue, raw) };
        Some(Packet::new(held))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl ExactSizeIterator for Burst<'_> {}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}
