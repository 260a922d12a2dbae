//! The sending side of one port on one lcore.

use dpdk::{MbufBurst, TxQueue};
use switch_core::drop_reason::DropReason;
use switch_core::frame::EgressLimits;
use switch_core::ids::DomainId;

use super::counters::PortCounters;
use super::domain::{DomainLane, DomainState, Frame};
use super::handoff::{FromLcore, Taken, ToOwner};
use super::nic::NicLane;
use super::sample::Place;
use super::shared_egress::SharedEgress;

/// Frames that make a transmission worth its call.
pub(super) const FLUSH_FRAMES: usize = 32;
/// Room of a batch: what waits below [`FLUSH_FRAMES`], and the largest number of frames moved between two
/// looks at it.
pub(super) const BATCH_FRAMES: usize = FLUSH_FRAMES + super::lcore::RETURN_BURST;

/// How frames leave.
#[derive(Debug)]
pub(super) enum Way {
    /// By a transmit queue of this lcore.
    Queue(TxQueue),
    /// By the lcore that owns the port's only queue.
    Owner(Box<ToOwner>),
    /// In a line for each domain of the port; nothing waits in the batch.
    Shared(Box<SharedEgress>),
    /// Into the memory of an untrusted VM.
    Nic(Box<NicLane>),
}

/// The sending side of one port on one lcore.
#[derive(Debug)]
pub(super) struct Egress {
    /// The only domain whose frames leave here; [`Egress::OF_SEVERAL`] for a shared port.
    pub domain: DomainId,
    pub limits: EgressLimits,
    pub way: Way,
    /// Frames on their way, in the ledger's state `Lcore`.
    batch: [Frame; BATCH_FRAMES],
    batch_len: usize,
    mbufs: MbufBurst<BATCH_FRAMES>,
    pub counters: PortCounters,
}

impl Egress {
    /// No domain has this number.
    pub(super) const OF_SEVERAL: DomainId = DomainId(u16::MAX);

    pub(super) fn new(domain: DomainId, limits: EgressLimits, way: Way) -> Self {
        let nothing = Frame { index: switch_core::ids::BufferIndex(0), offset_bytes: 0, len_bytes: 0 };
        Self {
            domain,
            limits,
            way,
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

    /// How many frames of a domain wait here, in the ledger's state `Lcore`.
    pub(super) fn waiting_of(&self, domain: DomainId) -> usize {
        match &self.way {
            Way::Shared(shared) => shared.waiting(domain),
            _ if self.domain == domain => self.batch_len,
            _ => 0,
        }
    }

    /// Lines of a shared port take turns by other weights, given by domain, from here on.
    pub(super) fn share_anew(&mut self, weights: &[u16]) {
        if let Way::Shared(shared) = &mut self.way {
            shared.share_anew(weights);
        }
    }

    /// Sends what waits in the lines of a shared port, as far as the driver takes it; how many.
    pub(super) fn send_lines(&mut self, domains: &mut [DomainLane]) -> usize {
        match &mut self.way {
            Way::Shared(shared) => shared.send(domains, &mut self.counters),
            _ => 0,
        }
    }

    /// Before the lcore ends: frames that nobody will send go home.
    pub(super) fn give_up(&mut self, domains: &mut [DomainLane]) {
        match &mut self.way {
            Way::Shared(shared) => shared.give_up(domains),
            Way::Nic(nic) => nic.give_up(&mut domains[self.domain.index()].cell.borrow()),
            Way::Queue(_) | Way::Owner(_) => {}
        }
    }

    /// Accepts a frame for the next transmission, padded if it is shorter than the port sends.
    #[inline]
    pub(super) fn stage(&mut self, domain: &DomainState, mut frame: Frame) -> Result<(), DropReason> {
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

    /// Gives the waiting frames to the driver, or to the lcore that has it. What is not taken is dropped as
    /// `tx_full`.
    pub(super) fn flush(&mut self, domain: &mut DomainLane) {
        let count = std::mem::take(&mut self.batch_len);
        let frames = &mut self.batch[..count];
        match &mut self.way {
            Way::Shared(_) => {}
            Way::Owner(owner) => hand_on(owner, frames, domain),
            Way::Nic(nic) => nic.send(frames, &mut self.counters, domain),
            Way::Queue(queue) => {
                let bytes = make_mbufs(frames, &mut self.mbufs, domain);
                send(queue, &mut self.mbufs, bytes, &mut self.counters, domain);
            }
        }
    }

    /// Sends frames that another lcore has handed on; how many.
    pub(super) fn deliver(&mut self, from: &mut FromLcore, domain: &mut DomainLane) -> usize {
        let Taken { frames, refused, bytes } = from.take(&mut self.mbufs);
        if frames > 0 {
            domain.state.counters.drops.add(DropReason::FrameTooLong, refused);
            match &mut self.way {
                Way::Queue(queue) => send(queue, &mut self.mbufs, bytes, &mut self.counters, domain),
                Way::Nic(nic) => nic.send_mbufs(&mut self.mbufs, &mut self.counters, domain),
                // An lcore that owns no queue of a port is handed nothing for it.
                Way::Owner(_) | Way::Shared(_) => {}
            }
        }
        frames
    }
}

/// Turns frames into mbufs for the driver; how many bytes they have.
#[inline]
fn make_mbufs(frames: &mut [Frame], mbufs: &mut MbufBurst<BATCH_FRAMES>, domain: &mut DomainLane) -> u64 {
    let DomainLane { cell, pool, state, .. } = domain;
    {
        // Before the driver sees them: some drivers free at once.
        let mut shard = cell.borrow();
        for frame in frames.iter_mut() {
            if !shard.send(frame.index) {
                state.counters.drops.add(DropReason::LedgerRefused, 1);
                frame.len_bytes = 0;
            }
        }
    }
    let mut bytes = 0;
    for frame in frames.iter().filter(|frame| frame.len_bytes > 0) {
        // SAFETY: `Shard::send` has just agreed that this lcore held the buffer, so its index is of this pool
        // and no other frame, driver or list names it. From here on the mbuf is the holder.
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
        let pushed = mbufs.push(mbuf);
        debug_assert!(pushed.is_ok());
    }
    bytes
}

/// Sends what is in `mbufs`; the rest is freed.
fn send(
    queue: &mut TxQueue,
    mbufs: &mut MbufBurst<BATCH_FRAMES>,
    mut bytes: u64,
    counters: &mut PortCounters,
    domain: &mut DomainLane,
) {
    let sent = queue.burst(mbufs);
    while let Some(left) = mbufs.take_first() {
        bytes = bytes.saturating_sub(u64::from(left.data_len()));
        domain.state.counters.drops.add(DropReason::TxFull, 1);
    }
    domain.state.counters.delivered += sent as u64;
    counters.tx_packets += sent as u64;
    counters.tx_bytes += bytes;
}

/// Gives frames to the lcore that owns the queue.
pub(super) fn hand_on(owner: &mut ToOwner, frames: &[Frame], domain: &mut DomainLane) {
    let DomainLane { cell, state, .. } = domain;
    let (handed, rest) = frames.split_at(owner.room(frames.len()).min(frames.len()));
    let mut shard = cell.borrow();
    for frame in handed {
        if shard.send(frame.index) {
            owner.stage(*frame);
        } else {
            state.counters.drops.add(DropReason::LedgerRefused, 1);
        }
    }
    owner.publish();
    for frame in rest {
        state.counters.drops.add(DropReason::TxFull, 1);
        shard.give(&[frame.index.0]);
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

#[cfg(test)]
mod tests {
    use switch_core::counters::DomainCounters;
    use switch_core::frame::FrameLimits;
    use switch_core::ids::BufferIndex;

    use super::*;
    use crate::datapath::sample::Sampler;
    use crate::region::{HEADER_BYTES_MAX, Pages, Region};

    fn domain() -> DomainState {
        let region = Region::create("blue", 2 << 20, 2368, Pages::Plain).unwrap();
        DomainState {
            id: DomainId(0),
            region: region.mapping(),
            geometry: *region.geometry(),
            limits: FrameLimits::of_stride(2368),
            counters: DomainCounters::default(),
            sampler: Sampler::new(),
            limited_with: DomainId(0),
            is_lost: false,
        }
    }

    #[test]
    fn pads_a_short_frame_with_zeroes_up_to_the_end_of_its_buffer() {
        let domain = domain();
        for offset_bytes in [128, 2368 - 60] {
            let mut frame = Frame { index: BufferIndex(3), offset_bytes, len_bytes: 42 };
            domain.region.copy_in(domain.position(frame.index, offset_bytes), &[7; 62]);
            pad(&domain, &mut frame, 60).unwrap();
            assert_eq!(frame.len_bytes, 60);
            let mut copy = [0; HEADER_BYTES_MAX];
            domain.region.copy_header(domain.position(frame.index, offset_bytes), 62, &mut copy);
            assert_eq!(copy[..42], [7; 42]);
            assert_eq!(copy[42..60], [0; 18]);
            assert_eq!(copy[60..62], [7; 2]);
        }
    }

    #[test]
    fn refuses_padding_one_byte_past_the_buffer() {
        let mut frame = Frame { index: BufferIndex(3), offset_bytes: 2368 - 59, len_bytes: 42 };
        assert_eq!(pad(&domain(), &mut frame, 60), Err(DropReason::FrameTooShort));
        assert_eq!(frame.len_bytes, 42);
    }
}
