//! A buffer with nothing in it, lent to a network function that makes packets of its own.

use std::fmt;
use std::mem::ManuallyDrop;

use shm_ring::desc::Verdict;

use crate::packet::{Held, Packet};

/// A frame that does not fit its buffer; the buffer comes back with it.
#[derive(Debug, thiserror::Error)]
#[error("a frame of {wanted_bytes} bytes in a buffer with room for {room_bytes}")]
pub struct FillError<'q> {
    /// Bytes of the frame.
    pub wanted_bytes: usize,
    /// Bytes that fit.
    pub room_bytes: usize,
    /// The buffer, still empty.
    pub buffer: EmptyBuffer<'q>,
}

/// A lent buffer that awaits a frame. Dropped unused, it goes home.
///
/// An endpoint is lent as many at once as its credit (`credit_buffers` in the config, 0 by default).
#[must_use = "an empty buffer that is only dropped goes back to the switch unused"]
pub struct EmptyBuffer<'q> {
    held: Held<'q>,
}

impl<'q> EmptyBuffer<'q> {
    pub(crate) fn new(held: Held<'q>) -> Self {
        Self { held }
    }

    /// Most bytes of a frame here.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        usize::from(self.held.len_bytes()) + usize::from(self.held.tailroom_bytes())
    }

    /// Copies `frame` into the buffer, which makes it a packet.
    ///
    /// # Errors
    /// If the frame is longer than [`EmptyBuffer::room_bytes`].
    pub fn fill(self, frame: &[u8]) -> Result<Packet<'q>, FillError<'q>> {
        let mut packet = self.of_length(frame.len())?;
        packet.data_mut().copy_from_slice(frame);
        Ok(packet)
    }

    /// Makes a packet of `len_bytes` zero bytes and lets `write` fill them in place.
    ///
    /// # Errors
    /// If the frame would be longer than [`EmptyBuffer::room_bytes`].
    pub fn fill_with(
        self,
        len_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<Packet<'q>, FillError<'q>> {
        let mut packet = self.of_length(len_bytes)?;
        // An older packet may lie here; zeros keep a careless writer from leaking it.
        packet.data_mut().fill(0);
        write(packet.data_mut());
        Ok(packet)
    }

    fn of_length(self, len_bytes: usize) -> Result<Packet<'q>, FillError<'q>> {
        let room_bytes = self.room_bytes();
        let fitting = u16::try_from(len_bytes).ok().filter(|_| len_bytes <= room_bytes);
        let Some(fitting) = fitting else {
            return Err(FillError { wanted_bytes: len_bytes, room_bytes, buffer: self });
        };
        // The buffer leaves as a packet, so dropping `self` must not give it back.
        let held = ManuallyDrop::new(self).held.made(fitting);
        held.queue.count_made();
        Ok(Packet::new(held))
    }
}

impl Drop for EmptyBuffer<'_> {
    fn drop(&mut self) {
        if cfg!(feature = "sabotage-drop-returns") {
            return;
        }
        self.held.give_back(Verdict::ReturnEmpty, 0);
    }
}

impl fmt::Debug for EmptyBuffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmptyBuffer")
            .field("buffer_index", &self.held.index())
            .field("room_bytes", &self.room_bytes())
            .finish()
    }
}
