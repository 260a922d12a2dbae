//! Frames as they leave a port that domains share: with the headers that were judged in front.
//!
//! The header of each is private memory that no guest reaches, as a first segment in front of the rest in the
//! region, or in one piece with it where the driver sends no segments or the copy is all there is.

use dpdk::{Mbuf, PrivatePool};
use switch_core::drop_reason::DropReason;
use switch_core::header::HeaderCopy;

use super::domain::{DomainLane, DomainState, Frame};
use super::ingress::FRAME_COPY_BYTES;

/// Makes such frames on one lcore.
#[derive(Debug)]
pub(super) struct JudgedFrames {
    /// For the headers of frames, or for whole frames.
    private: PrivatePool,
    sends_segments: bool,
    pad_to_bytes: u16,
    scratch: Box<[u8; FRAME_COPY_BYTES]>,
}

impl JudgedFrames {
    pub(super) fn new(private: PrivatePool, sends_segments: bool, pad_to_bytes: u16) -> Self {
        Self { private, sends_segments, pad_to_bytes, scratch: Box::new([0; FRAME_COPY_BYTES]) }
    }

    /// The mbuf that leaves: its first bytes are `header`. Whatever comes of it, the lcore has the buffer no more.
    pub(super) fn make(
        &mut self,
        frame: Frame,
        header: &HeaderCopy,
        domain: &mut DomainLane,
    ) -> Result<Mbuf, DropReason> {
        let DomainLane { cell, pool, state, .. } = domain;
        let Some(mut first) = self.private.take() else {
            cell.borrow().give(&[frame.index.0]);
            return Err(DropReason::TxFull);
        };
        let header = header.as_bytes();
        #[allow(clippy::cast_possible_truncation, reason = "at most 128")]
        let header_bytes = header.len() as u16;
        if !self.sends_segments || frame.len_bytes <= header_bytes {
            let whole = self.write_whole(frame, header, state);
            let copied = first.copy_in(whole);
            cell.borrow().give(&[frame.index.0]);
            return copied.map(|()| first).map_err(|_| DropReason::FrameTooLong);
        }
        if !cell.borrow().send(frame.index) {
            return Err(DropReason::LedgerRefused);
        }
        // SAFETY: `Shard::send` has just agreed that this lcore held the buffer, so its index is of this pool and
        // no other frame, driver or list names it. From here on the mbuf is the holder.
        let mut rest = unsafe { pool.mbuf_at(dpdk::BufferIndex(frame.index.0)) };
        // Both sums end inside the buffer: the frame does, and is longer than its headers.
        let fits = rest.set_data(frame.offset_bytes + header_bytes, frame.len_bytes - header_bytes);
        let fits = fits.and_then(|()| first.copy_in(header));
        if fits.is_err() || first.append(rest).is_err() {
            return Err(DropReason::FrameTooLong);
        }
        Ok(first)
    }

    /// Puts a frame together in private memory: the headers, the rest as it is now, and zeroes up to the
    /// shortest length that the port sends.
    fn write_whole(&mut self, frame: Frame, header: &[u8], domain: &DomainState) -> &[u8] {
        let frame_bytes = usize::from(frame.len_bytes).min(FRAME_COPY_BYTES);
        let sent_bytes = frame_bytes.max(usize::from(self.pad_to_bytes));
        let whole = &mut self.scratch[..sent_bytes];
        whole[frame_bytes..].fill(0);
        let at = domain.position(frame.index, frame.offset_bytes);
        domain.region.copy_out(at + header.len(), &mut whole[header.len()..frame_bytes]);
        whole[..header.len()].copy_from_slice(header);
        if cfg!(feature = "sabotage-egress-reread") {
            domain.region.copy_out(at, &mut whole[..frame_bytes]);
        }
        whole
    }
}
