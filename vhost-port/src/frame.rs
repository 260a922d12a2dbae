//! Frames on the host's side: rooms to copy into, and pieces of memory to copy from.

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::header::OffloadHeader;

/// Host memory that takes one frame.
#[derive(Debug)]
pub struct Room<'m> {
    pub(crate) at: NonNull<u8>,
    pub(crate) room_bytes: u32,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> Room<'m> {
    /// Any memory of ours, shared with trusted guests or not.
    ///
    /// # Safety
    /// - `room_bytes` bytes from `at` are mapped for `'m`, and may be written by us until then.
    /// - Nobody in this process has a reference to them meanwhile.
    #[inline]
    #[must_use]
    pub unsafe fn new(at: NonNull<u8>, room_bytes: u32) -> Self {
        Self { at, room_bytes, memory: PhantomData }
    }

    /// Private memory; what is longer than 32 bits can say stays unused.
    #[inline]
    #[must_use]
    pub fn of(bytes: &'m mut [u8]) -> Self {
        let room_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { at: NonNull::from(bytes).cast(), room_bytes, memory: PhantomData }
    }
}

/// A frame that a guest sent, now in its room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Length.
    pub len_bytes: u32,
    /// What is still to be done to it: nothing, unless packets longer than the MTU are in the agreement.
    pub offload: OffloadHeader,
}

/// A piece of a frame in host memory.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'m> {
    pub(crate) at: NonNull<u8>,
    pub(crate) len_bytes: u32,
    memory: PhantomData<&'m [u8]>,
}

impl<'m> Segment<'m> {
    /// No bytes.
    pub const EMPTY: Self = Self { at: NonNull::dangling(), len_bytes: 0, memory: PhantomData };

    /// Any memory of ours, shared with trusted guests or not.
    ///
    /// # Safety
    /// - `len_bytes` bytes from `at` are mapped for `'m`.
    /// - Nobody in this process has a mutable reference to them meanwhile.
    #[inline]
    #[must_use]
    pub unsafe fn new(at: NonNull<u8>, len_bytes: u32) -> Self {
        Self { at, len_bytes, memory: PhantomData }
    }

    /// Private memory; what is longer than 32 bits can say is left out.
    #[inline]
    #[must_use]
    pub fn of(bytes: &'m [u8]) -> Self {
        let len_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { at: NonNull::from(bytes).cast(), len_bytes, memory: PhantomData }
    }
}

/// A frame for a guest.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'m> {
    /// The headers as they were judged, and the rest behind them; either may be empty.
    pub segments: [Segment<'m>; 2],
    /// What the guest is told of it, as far as it takes that.
    pub offload: OffloadHeader,
    /// Frames of one flow have the same number here, and stay in order.
    pub flow: u32,
}

impl<'m> Frame<'m> {
    /// A frame in one piece.
    #[inline]
    #[must_use]
    pub fn whole(frame: Segment<'m>, flow: u32) -> Self {
        Self::judged(frame, Segment::EMPTY, flow)
    }

    /// A frame whose headers were copied and judged: the copy is what the guest gets.
    #[inline]
    #[must_use]
    pub fn judged(headers: Segment<'m>, body: Segment<'m>, flow: u32) -> Self {
        Self { segments: [headers, body], offload: OffloadHeader::NONE, flow }
    }

    /// Length of both pieces.
    #[inline]
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        self.segments[0].len_bytes.saturating_add(self.segments[1].len_bytes)
    }
}
