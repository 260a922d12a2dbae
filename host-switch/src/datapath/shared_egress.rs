//! The sending side of a port that several domains share, on one lcore.
//!
//! Each domain has a line of frames. A frame's headers are copied into private memory when it joins its line, and
//! that copy is what leaves: as a first segment in front of the rest in the region, or in one piece with it where
//! the driver sends no segments or the copy is all there is. Lines take turns by the bytes that they send, so a
//! domain that fills its line drops its own frames and leaves the others their share.

use std::collections::VecDeque;

use dpdk::{Mbuf, MbufBurst, PrivatePool, TxQueue};
use switch_core::drop_reason::DropReason;
use switch_core::frame::EgressLimits;
use switch_core::header::HeaderCopy;
use switch_core::ids::DomainId;
use switch_core::share::Shares;

use super::counters::PortCounters;
use super::domain::{DomainLane, DomainState, Frame};
use super::ingress::FRAME_COPY_BYTES;

/// Frames that wait in a line at most.
const LINE_FRAMES: usize = 256;
/// Frames of one domain that are offered to the driver at once.
const VISIT_FRAMES: usize = 8;
/// Bytes that a domain of the least weight sends in a round: about a visit of long frames.
const QUANTUM_BYTES: u32 = 12_000;

/// The sending side of a shared port on one lcore.
#[derive(Debug)]
pub(super) struct SharedEgress {
    queue: TxQueue,
    limits: EgressLimits,
    /// For the headers of frames, or for whole frames.
    private: PrivatePool,
    sends_segments: bool,
    lines: Vec<Line>,
    /// By position of the line.
    shares: Shares,
    scratch: Box<[u8; FRAME_COPY_BYTES]>,
}

/// The frames of one domain that wait.
#[derive(Debug)]
struct Line {
    domain: DomainId,
    /// In the ledger's state `Lcore`.
    waiting: VecDeque<(Frame, HeaderCopy)>,
    /// Next to be sent: the ledger calls their buffers the PMD's.
    ready: MbufBurst<VISIT_FRAMES>,
    /// Lengths of the ready frames.
    ready_bytes: VecDeque<u16>,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.ready.is_empty()
    }
}

impl SharedEgress {
    /// `members` are the domains of the port with their weights.
    pub(super) fn new(
        queue: TxQueue,
        limits: EgressLimits,
        private: PrivatePool,
        sends_segments: bool,
        members: &[(DomainId, u16)],
    ) -> Self {
        let line = |&(domain, _): &(DomainId, u16)| Line {
            domain,
            waiting: VecDeque::with_capacity(LINE_FRAMES),
            ready: MbufBurst::new(),
            ready_bytes: VecDeque::with_capacity(VISIT_FRAMES),
        };
        let weights: Vec<u16> = members.iter().map(|(_, weight)| *weight).collect();
        Self {
            queue,
            limits,
            private,
            sends_segments,
            lines: members.iter().map(line).collect(),
            shares: Shares::new(&weights, QUANTUM_BYTES),
            scratch: Box::new([0; FRAME_COPY_BYTES]),
        }
    }

    /// Lines take turns by other weights, given by domain, from here on.
    pub(super) fn share_anew(&mut self, weights: &[u16]) {
        let of_line = |line: &Line| weights.get(line.domain.index()).copied().unwrap_or(1);
        let weights: Vec<u16> = self.lines.iter().map(of_line).collect();
        self.shares = Shares::new(&weights, QUANTUM_BYTES);
    }

    /// Whether frames of a domain may leave here.
    pub(super) fn is_of(&self, domain: DomainId) -> bool {
        self.lines.iter().any(|line| line.domain == domain)
    }

    /// The domain that frames of domains that are not of the port cross into.
    pub(super) fn first_domain(&self) -> Option<DomainId> {
        self.lines.first().map(|line| line.domain)
    }

    /// Frames of a domain in the ledger's state `Lcore`.
    pub(super) fn waiting(&self, domain: DomainId) -> usize {
        self.lines.iter().filter(|line| line.domain == domain).map(|line| line.waiting.len()).sum()
    }

    /// Accepts a frame into the line of its domain.
    pub(super) fn stage(&mut self, domain: &DomainState, frame: Frame) -> Result<(), DropReason> {
        self.limits.admit(frame.len_bytes)?;
        let line = self.lines.iter_mut().find(|line| line.domain == domain.id);
        let line = line.ok_or(DropReason::EgressPoolForeign)?;
        if line.waiting.len() == LINE_FRAMES {
            return Err(DropReason::TxFull);
        }
        let mut header = HeaderCopy::default();
        domain.copy_header(frame, &mut header);
        #[cfg(feature = "test-hooks")]
        super::hook::reach(
            super::hook::Moment::HeadersJudged,
            domain.region,
            domain.position(frame.index, frame.offset_bytes),
        );
        line.waiting.push_back((frame, header));
        Ok(())
    }

    /// Sends as much as the driver takes, line by line in shares; how many frames. The others wait.
    pub(super) fn send(&mut self, domains: &mut [DomainLane], counters: &mut PortCounters) -> usize {
        let mut sent = 0;
        loop {
            let lines = &self.lines;
            let has_work = |at: DomainId| lines.get(at.index()).is_some_and(|line| !line.is_empty());
            if !lines.iter().any(|line| !line.is_empty()) {
                return sent;
            }
            self.shares.start_turn(has_work);
            for (at, position) in (0..).map(DomainId).zip(0..self.lines.len()) {
                if !self.lines[position].is_empty() && self.may_send(at) {
                    let visit = self.visit(position, domains, counters);
                    sent += visit.frames;
                    if visit.is_driver_full {
                        return sent;
                    }
                }
            }
        }
    }

    fn may_send(&self, line: DomainId) -> bool {
        if cfg!(feature = "sabotage-port-shares") {
            return self.lines.iter().position(|line| !line.is_empty()) == Some(line.index());
        }
        self.shares.may_run(line)
    }

    /// Offers the driver a few frames of one line.
    fn visit(&mut self, position: usize, domains: &mut [DomainLane], counters: &mut PortCounters) -> Visit {
        #[cfg(feature = "test-hooks")]
        let is_full = self.is_said_to_be_full(domains);
        #[cfg(not(feature = "test-hooks"))]
        let is_full = false;
        let domain = &mut domains[self.lines[position].domain.index()];
        self.make_ready(position, domain);
        let line = &mut self.lines[position];
        let offered = line.ready.len();
        let frames = if is_full { 0 } else { self.queue.burst(&mut line.ready) };
        let bytes = line.ready_bytes.drain(..frames).map(u64::from).sum();
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a port has at most as many domains as there are"
        )]
        self.shares.charge(DomainId(position as u16), bytes);
        domain.state.counters.delivered += frames as u64;
        counters.tx_packets += frames as u64;
        counters.tx_bytes += bytes;
        Visit { frames, is_driver_full: frames < offered }
    }

    #[cfg(feature = "test-hooks")]
    fn is_said_to_be_full(&self, domains: &[DomainLane]) -> bool {
        let region_of = |line: &Line| domains[line.domain.index()].state.region;
        let regions: Vec<_> = self.lines.iter().map(region_of).collect();
        let waiting: Vec<_> = self.lines.iter().map(|line| line.waiting.len() + line.ready.len()).collect();
        super::hook::is_driver_full(&regions, &waiting)
    }

    /// Turns waiting frames of a line into mbufs, a visit of them.
    fn make_ready(&mut self, position: usize, domain: &mut DomainLane) {
        while !self.lines[position].ready.is_full() {
            let Some((frame, header)) = self.lines[position].waiting.pop_front() else { return };
            match self.make_mbuf(frame, &header, domain) {
                Ok(mbuf) => {
                    let line = &mut self.lines[position];
                    #[allow(clippy::cast_possible_truncation, reason = "at most what the port admits")]
                    line.ready_bytes.push_back(mbuf.pkt_len() as u16);
                    // There is room: the loop has seen it.
                    let _ = line.ready.push(mbuf);
                }
                Err(reason) => domain.state.counters.drops.add(reason, 1),
            }
        }
    }

    /// The mbuf that leaves: its first bytes are `header`. Whatever comes of it, the lcore has the buffer no more.
    fn make_mbuf(
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
        let sent_bytes = frame_bytes.max(usize::from(self.limits.pad_to_bytes));
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

    /// Before the lcore ends: what still waits goes home as `tx_full`.
    pub(super) fn give_up(&mut self, domains: &mut [DomainLane]) {
        for line in &mut self.lines {
            let DomainLane { cell, state, .. } = &mut domains[line.domain.index()];
            let left = line.waiting.len() + line.ready.len();
            state.counters.drops.add(DropReason::TxFull, left as u64);
            for (frame, _) in line.waiting.drain(..) {
                cell.borrow().give(&[frame.index.0]);
            }
            line.ready.clear();
            line.ready_bytes.clear();
        }
    }
}

/// What came of offering frames to the driver.
struct Visit {
    frames: usize,
    is_driver_full: bool,
}
