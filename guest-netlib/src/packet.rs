//! One packet, held exclusively, that leaves with a verdict.
//!
//! A [`Packet`] is moved into its verdict ([`Packet::next`], [`Packet::to_service`], [`Packet::to_port`],
//! [`Packet::drop_packet`]); one that is only dropped goes home with the verdict drop. So a buffer is given back
//! exactly once, and the compiler refuses the rest:
//!
//! ```compile_fail,E0382
//! fn verdict_then_touch(packet: guest_netlib::Packet<'_>) -> u8 {
//!     packet.next();
//!     packet.data()[0] // error: the packet has left
//! }
//! ```
//!
//! ```compile_fail,E0382
//! fn sent_twice(packet: guest_netlib::Packet<'_>, port: guest_netlib::PortTarget) {
//!     packet.next();
//!     packet.to_port(port); // error: the packet has left
//! }
//! ```
//!
//! ```compile_fail,E0515
//! fn touch_then_let_go(packet: guest_netlib::Packet<'_>) -> &[u8] {
//!     packet.data() // error: the bytes do not outlive the packet
//! }
//! ```
//!
//! # Why plain slices
//!
//! The bytes lie in memory that other VMs of the same domain map too, and Rust's rule for `&mut [u8]` is that
//! nobody else writes them meanwhile. The rings keep that rule: the host, which the guest has to trust with
//! everything anyway, lends a buffer to one holder at a time, and every holder that uses netlib touches only
//! what it holds. A domain is one trust unit, made of VMs that already trust each other with packet bytes, so we
//! take the rule as kept and give the app the access that needs no copy.
//!
//! **A compromised neighbour can break it.** It can change any byte of the domain's region at any time, also
//! between two reads of the same byte here. An app that checks a length in the packet and then reads it again
//! may see two different lengths. What an app decides about bytes that a neighbour must not sway, it decides on
//! a copy ([`Packet::copy_to`]); what must hold against such a neighbour belongs into another domain, where the
//! host copies. Netlib itself takes no decision that its memory safety depends on from these bytes: where a
//! buffer lies and how long it is comes from the descriptor, which is copied and checked before a `Packet`
//! exists.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use shm_ring::desc::{Desc, Kind, RawDesc, Verdict};

use crate::queue::QueuePair;
use crate::region::Buffers;
use crate::targets::{PortTarget, ServiceTarget};

/// A resize that the buffer has no room for; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    /// Not enough bytes in front of the data.
    #[error("growing the front by {wanted_bytes} bytes, {headroom_bytes} bytes of headroom left")]
    Headroom {
        /// Bytes asked for.
        wanted_bytes: u16,
        /// Bytes there are.
        headroom_bytes: u16,
    },
    /// Not enough bytes behind the data.
    #[error("growing the back by {wanted_bytes} bytes, {tailroom_bytes} bytes of tailroom left")]
    Tailroom {
        /// Bytes asked for.
        wanted_bytes: u16,
        /// Bytes there are.
        tailroom_bytes: u16,
    },
    /// Not enough data to cut.
    #[error("cutting {wanted_bytes} bytes off a packet of {len_bytes} bytes")]
    Length {
        /// Bytes asked for.
        wanted_bytes: u16,
        /// Bytes of data.
        len_bytes: u16,
    },
}

/// Where a held buffer lies and what of it is data, in the two words of its descriptor.
///
/// The words stay as they came, because a packet that is not changed goes back with the first of them as it is:
/// fields of their own would be stored one by one and loaded as one word right behind, which processors cannot
/// forward from their store buffers (a stall of about 15 cycles a packet, measured on Zen 4).
///
/// Invariants: `start` is the first byte of a buffer that the queue's endpoint holds, and
/// `offset_bytes + len_bytes <= stride` of its region.
#[derive(Debug)]
pub(crate) struct Held<'q> {
    pub(crate) queue: &'q QueuePair,
    start: NonNull<u8>,
    raw: RawDesc,
}

impl<'q> Held<'q> {
    /// A hold on what `raw` names; none if that is no part of the region.
    #[inline(always)]
    pub(crate) fn new(queue: &'q QueuePair, raw: RawDesc) -> Option<Self> {
        if !is_inside(queue.buffers(), raw) {
            return None;
        }
        // SAFETY: just checked.
        Some(unsafe { Self::new_unchecked(queue, raw) })
    }

    /// A hold on what `raw` names.
    ///
    /// # Safety
    /// `raw` has passed [`is_inside`] for the buffers of `queue`.
    #[inline(always)]
    pub(crate) unsafe fn new_unchecked(queue: &'q QueuePair, raw: RawDesc) -> Self {
        // SAFETY: the caller has seen that the index is one of the region's.
        let start = unsafe { queue.buffers().start_unchecked(raw.unpack().buffer_index) };
        Self { queue, start, raw }
    }

    #[inline(always)]
    pub(crate) fn index(&self) -> u32 {
        self.raw.unpack().buffer_index
    }

    #[inline(always)]
    fn offset_bytes(&self) -> u16 {
        self.raw.unpack().data_offset_bytes
    }

    #[inline(always)]
    pub(crate) fn len_bytes(&self) -> u16 {
        self.raw.unpack().data_len_bytes
    }

    /// Names other bytes of the buffer as its data. The caller keeps the invariant.
    #[inline(always)]
    fn set_data(&mut self, offset_bytes: u16, len_bytes: u16) {
        let index = u64::from(self.index());
        self.raw.word0 = index | u64::from(offset_bytes) << 32 | u64::from(len_bytes) << 48;
    }

    /// The same hold on a packet of `len_bytes` without a mark, for one that is made here: `self` is not used
    /// any more. `len_bytes` is no longer than the data and the tailroom: the caller has looked.
    pub(crate) fn made(&self, len_bytes: u16) -> Self {
        let Self { queue, start, mut raw } = *self;
        raw.word1 &= GENERATION;
        let mut held = Self { queue, start, raw };
        held.set_data(self.offset_bytes(), len_bytes);
        held
    }

    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: by the invariant, the offset is inside the buffer.
        let data = unsafe { self.start.add(usize::from(self.offset_bytes())) };
        // SAFETY: `len_bytes` from there stay inside the buffer, by the invariant; `u8` needs no alignment and
        // every value is valid; the mapping outlives the queue that `self` borrows. No other writer: see the
        // module documentation for who could break that and what follows.
        unsafe { std::slice::from_raw_parts(data.as_ptr(), usize::from(self.len_bytes())) }
    }

    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: by the invariant, the offset is inside the buffer.
        let data = unsafe { self.start.add(usize::from(self.offset_bytes())) };
        // SAFETY: as in `bytes`; `&mut self` is the only hold on this buffer in this process, because a
        // descriptor makes one `Held` and the host lends a buffer to one holder.
        unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), usize::from(self.len_bytes())) }
    }

    /// Bytes behind the data, in the buffer.
    #[inline]
    pub(crate) fn tailroom_bytes(&self) -> u16 {
        let end_bytes = u32::from(self.offset_bytes()) + u32::from(self.len_bytes());
        u16::try_from(self.queue.buffers().stride_bytes().saturating_sub(end_bytes)).unwrap_or(u16::MAX)
    }

    #[inline(always)]
    pub(crate) fn give_back(&self, verdict: Verdict, target: u32) {
        let word1 = self.raw.word1 & GENERATION | u64::from(verdict as u8) << 16 | u64::from(target) << 32;
        self.queue.give_back(RawDesc { word0: self.raw.word0, word1 }, verdict);
    }
}

/// The generation of a descriptor's second word.
const GENERATION: u64 = 0xffff;

/// Whether all data that `raw` names is inside one of `buffers`.
#[inline(always)]
pub(crate) fn is_inside(buffers: Buffers, raw: RawDesc) -> bool {
    let Desc { buffer_index, data_offset_bytes, data_len_bytes, .. } = raw.unpack();
    // u32: two u16 cannot wrap it.
    let end_bytes = u32::from(data_offset_bytes) + u32::from(data_len_bytes);
    (buffer_index < buffers.count()) & (end_bytes <= buffers.stride_bytes())
}

/// Whether each descriptor of a burst is a packet inside one of the buffers: as [`is_inside`] and a look at code
/// and flags, for all of them at once, in a few operations each and one branch at the end.
#[derive(Debug)]
pub(crate) struct BurstCheck {
    index_max: i64,
    stride_bytes: i64,
    /// Negative once an index or an end was beyond.
    beyond: i64,
    /// Not zero once code or flags were others than a packet's.
    other: u64,
}

impl BurstCheck {
    #[inline(always)]
    pub(crate) fn new(buffers: Buffers) -> Self {
        let index_max = i64::from(buffers.count()) - 1;
        Self { index_max, stride_bytes: i64::from(buffers.stride_bytes()), beyond: 0, other: 0 }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, raw: RawDesc) {
        let Desc { buffer_index, data_offset_bytes, data_len_bytes, .. } = raw.unpack();
        // i64: no difference of 32-bit numbers wraps it.
        let end_bytes = i64::from(data_offset_bytes) + i64::from(data_len_bytes);
        self.beyond |= (self.index_max - i64::from(buffer_index)) | (self.stride_bytes - end_bytes);
        self.other |= (raw.word1 ^ PACKET) & CODE_AND_FLAGS;
    }

    #[inline(always)]
    pub(crate) fn are_packets(&self) -> bool {
        self.beyond >= 0 && self.other == 0
    }
}

/// Code and flags of a descriptor's second word.
const CODE_AND_FLAGS: u64 = 0xffff_0000;
/// What they are of a packet.
const PACKET: u64 = (Kind::Packet as u64) << 16;

/// A packet in the place where it was received, held until its verdict.
#[must_use = "a packet that is only dropped is dropped from the network too; say `drop_packet` if that is meant"]
pub struct Packet<'q> {
    held: Held<'q>,
}

impl<'q> Packet<'q> {
    #[inline(always)]
    pub(crate) fn new(held: Held<'q>) -> Self {
        Self { held }
    }

    /// The frame, from its Ethernet header on.
    #[inline(always)]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.held.bytes()
    }

    /// The frame, to change in place.
    #[inline(always)]
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.held.bytes_mut()
    }

    /// Bytes of the frame.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.held.len_bytes())
    }

    /// Whether the frame has no bytes at all.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.len_bytes() == 0
    }

    /// Copies the first bytes of the frame out; returns how many. The copy is nobody's to change.
    pub fn copy_to(&self, copy: &mut [u8]) -> usize {
        let data = self.data();
        let len_bytes = data.len().min(copy.len());
        copy[..len_bytes].copy_from_slice(&data[..len_bytes]);
        len_bytes
    }

    /// Id of the port where the switch received the packet; see [`crate::Endpoint::port_name`].
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the port id is the low half of the mark")]
    pub fn ingress_port(&self) -> u16 {
        self.held.raw.unpack().aux as u16
    }

    /// The mark that the switch's rules gave this packet.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the shift leaves sixteen bits")]
    pub fn mark(&self) -> u16 {
        (self.held.raw.unpack().aux >> 16) as u16
    }

    /// Bytes of the buffer in front of the frame.
    #[inline]
    #[must_use]
    pub fn headroom_bytes(&self) -> u16 {
        self.held.offset_bytes()
    }

    /// Bytes of the buffer behind the frame.
    #[inline]
    #[must_use]
    pub fn tailroom_bytes(&self) -> u16 {
        self.held.tailroom_bytes()
    }

    /// Lengthens the frame at its front, to put a header there. What the new bytes hold is undefined: write
    /// them all, or an older packet of the domain leaks.
    ///
    /// # Errors
    /// If the headroom is shorter.
    pub fn grow_front(&mut self, wanted_bytes: u16) -> Result<(), ResizeError> {
        let headroom_bytes = self.held.offset_bytes();
        let refused = ResizeError::Headroom { wanted_bytes, headroom_bytes };
        let offset_bytes = headroom_bytes.checked_sub(wanted_bytes).ok_or(refused)?;
        let len_bytes = self.held.len_bytes().checked_add(wanted_bytes).ok_or(refused)?;
        self.held.set_data(offset_bytes, len_bytes);
        Ok(())
    }

    /// Cuts bytes off the front of the frame.
    ///
    /// # Errors
    /// If the frame is shorter.
    pub fn shrink_front(&mut self, wanted_bytes: u16) -> Result<(), ResizeError> {
        let refused = ResizeError::Length { wanted_bytes, len_bytes: self.held.len_bytes() };
        let len_bytes = self.held.len_bytes().checked_sub(wanted_bytes).ok_or(refused)?;
        // Wraps only in buffers longer than u16 can name.
        let offset_bytes = self.held.offset_bytes().checked_add(wanted_bytes).ok_or(refused)?;
        self.held.set_data(offset_bytes, len_bytes);
        Ok(())
    }

    /// Lengthens the frame at its end. What the new bytes hold is undefined, as with [`Packet::grow_front`].
    ///
    /// # Errors
    /// If the tailroom is shorter.
    pub fn grow_back(&mut self, wanted_bytes: u16) -> Result<(), ResizeError> {
        let tailroom_bytes = self.held.tailroom_bytes();
        let refused = ResizeError::Tailroom { wanted_bytes, tailroom_bytes };
        if wanted_bytes > tailroom_bytes {
            return Err(refused);
        }
        let len_bytes = self.held.len_bytes().checked_add(wanted_bytes).ok_or(refused)?;
        self.held.set_data(self.held.offset_bytes(), len_bytes);
        Ok(())
    }

    /// Cuts bytes off the end of the frame.
    ///
    /// # Errors
    /// If the frame is shorter.
    pub fn shrink_back(&mut self, wanted_bytes: u16) -> Result<(), ResizeError> {
        let len_bytes = self.held.len_bytes();
        let refused = ResizeError::Length { wanted_bytes, len_bytes };
        let len_bytes = len_bytes.checked_sub(wanted_bytes).ok_or(refused)?;
        self.held.set_data(self.held.offset_bytes(), len_bytes);
        Ok(())
    }

    /// Verdict: on to the next hop of the packet's chain.
    #[inline(always)]
    pub fn next(self) {
        self.leave(Verdict::Next, 0);
    }

    /// Verdict: to another service. The switch refuses and counts one that the config does not allow.
    #[inline(always)]
    pub fn to_service(self, service: ServiceTarget) {
        self.leave(Verdict::ToService, u32::from(service.id()));
    }

    /// Verdict: out of a port. The switch refuses and counts one that the config does not allow.
    #[inline(always)]
    pub fn to_port(self, port: PortTarget) {
        self.leave(Verdict::ToPort, u32::from(port.id()));
    }

    /// Verdict: drop. The same as dropping the value, said aloud.
    #[inline(always)]
    pub fn drop_packet(self) {
        self.leave(Verdict::Drop, 0);
    }

    #[inline(always)]
    fn leave(self, verdict: Verdict, target: u32) {
        // The verdict is given here, so `Drop` must not give another.
        ManuallyDrop::new(self).held.give_back(verdict, target);
    }
}

impl Drop for Packet<'_> {
    fn drop(&mut self) {
        if cfg!(feature = "sabotage-drop-returns") {
            return;
        }
        self.held.give_back(Verdict::Drop, 0);
    }
}

/// Shows place and size; packet bytes are never printed.
impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("buffer_index", &self.held.index())
            .field("offset_bytes", &self.held.offset_bytes())
            .field("len_bytes", &self.held.len_bytes())
            .field("ingress_port", &self.ingress_port())
            .field("mark", &self.mark())
            .finish()
    }
}
