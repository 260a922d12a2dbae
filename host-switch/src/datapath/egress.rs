//! The sending side of one port on one lcore.

use dpdk::{MbufBurst, TxQueue};
use switch_core::drop_reason::DropReason;
use switch_core::frame::EgressLimits;
use switch_core::ids::DomainId;

use super::counters::PortCounters;
use super::domain::{DomainLane, DomainState, Frame};
use super::sample::Place;

/// Frames that make a transmission worth its call.
pub(super) const FLUSH_FRAMES: usize = 32;
/// Room of a batch: what waits below [`FLUSH_FRAMES`], and the largest number of frames moved between two
/// looks at it.
const BATCH_FRAMES: usize = FLUSH_FRAMES + super::lcore::RETURN_BURST;

/// The sending side of one port on one lcore.
#[derive(Debug)]
pub(super) struct Egress {
    pub domain: DomainId,
    pub limits: EgressLimits,
    /// None: this lcore cannot send there.
    pub queue: Option<TxQueue>,
    /// Frames on their way, in the ledger's state `Lcore`.
    batch: [Frame; BATCH_FRAMES],
    batch_len: usize,
    mbufs: MbufBurst<BATCH_FRAMES>,
    pub counters: PortCounters,
}

impl Egress {
    pub(super) fn new(domain: DomainId, limits: EgressLimits, queue: Option<TxQueue>) -> Self {
        let nothing = Frame { index: switch_core::ids::BufferIndex(0), offset_bytes: 0, len_bytes: 0 };
        Self {
            domain,
            limits,
            queue,
            batch: [nothing; BATCH_FRAMES],
            batch_len: 0,
            mbufs: MbufBurst::new(),
            counters: PortCounters::default(),
        }
    }

    /// How many frames wait here.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.batch_len
    }

    /// The frames that wait here.
    pub(super) fn batch(&self) -> &[Frame] {
        &self.batch[..self.batch_len]
    }

    /// Accepts a frame for the next transmission, padded if it is shorter than the port sends.
    #[inline]
    pub(super) fn stage(&mut self, domain: &DomainState, mut frame: Frame) -> Result<(), DropReason> {
        if self.queue.is_none() {
            return Err(DropReason::PortDown);
        }
        if self.domain != domain.id {
            return Err(DropReason::EgressPoolForeign);
        }
        let sent_bytes = self.limits.admit(frame.len_bytes)?;
        if sent_bytes > frame.len_bytes {
            pad(domain, &mut frame, sent_bytes)?;
        }
        // There is room: the batch is flushed between any two bursts that could fill it.
        let Some(slot) = self.batch.get_mut(self.batch_len) else { return Err(DropReason::TxFull) };
        *slot = frame;
        self.batch_len += 1;
        Ok(())
    }

    /// Gives the waiting frames to the driver. What it does not take is dropped as `tx_full`.
    pub(super) fn flush(&mut self, domain: &mut DomainLane) {
        let Some(queue) = &mut self.queue else { return };
        let count = std::mem::take(&mut self.batch_len);
        if count == 0 {
            return;
        }
        let DomainLane { cell, pool, state } = domain;
        let mut bytes = 0;
        {
            // Before the driver sees them: some drivers free at once.
            let mut shard = cell.borrow();
            for frame in &mut self.batch[..count] {
                if !shard.send(frame.index) {
                    state.counters.drops.add(DropReason::LedgerRefused, 1);
                    frame.len_bytes = 0;
                }
            }
        }
        for frame in self.batch[..count].iter().filter(|frame| frame.len_bytes > 0) {
            // SAFETY: `Shard::send` has just agreed that this lcore held the buffer, so its index is of this
            // pool and no other frame, driver or list names it. From here on the mbuf is the holder.
            let mut mbuf = unsafe { pool.mbuf_at(dpdk::BufferIndex(frame.index.0)) };
            if mbuf.set_data(frame.offset_bytes, frame.len_bytes).is_err() {
                state.counters.drops.add(DropReason::FrameTooLong, 1);
                continue;
            }
            if state.sampler.watches(frame.index.0) {
                state.sampler.compare(Place::of(&mbuf));
            }
            bytes += u64::from(frame.len_bytes);
            // As many places as frames in the batch, and empty before.
            let pushed = self.mbufs.push(mbuf);
            debug_assert!(pushed.is_ok());
        }
        let sent = queue.burst(&mut self.mbufs);
        while let Some(left) = self.mbufs.take_first() {
            bytes -= u64::from(left.data_len());
            state.counters.drops.add(DropReason::TxFull, 1);
        }
        state.counters.delivered += sent as u64;
        self.counters.tx_packets += sent as u64;
        self.counters.tx_bytes += bytes;
    }
}

/// Zeroes behind a short frame, inside its buffer.
#[cold]
fn pad(domain: &DomainState, frame: &mut Frame, sent_bytes: u16) -> Result<(), DropReason> {
    let end_bytes = u32::from(frame.offset_bytes) + u32::from(sent_bytes);
    if end_bytes > domain.limits.stride_bytes {
        return Err(DropReason::FrameTooShort);
    }
    let padding = domain.position(frame.index, frame.offset_bytes) + usize::from(frame.len_bytes);
    domain.region.zero(padding, usize::from(sent_bytes - frame.len_bytes));
    frame.len_bytes = sent_bytes;
    Ok(())
}
