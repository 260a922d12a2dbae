//! The sending side of a port that several domains share, on one lcore.
//!
//! Each domain has a line of frames. A frame's headers are copied into private memory when it joins its line, and
//! that copy is what leaves ([`super::judged_frame`]). Lines take turns by the bytes that they send, so a domain that
//! fills its line drops its own frames and leaves the others their share.
//!
//! Where a port has fewer transmit queues than there are lcores, the first lcore owns its only one. The others make
//! their frames ready to be sent and hand them on, each domain's apart, and the owner sends them in that domain's line:
//! a domain that floods on one lcore takes nothing from others there either.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use dpdk::{Mbuf, MbufBurst, TxQueue};
use switch_core::drop_reason::DropReason;
use switch_core::frame::EgressLimits;
use switch_core::header::HeaderCopy;
use switch_core::ids::DomainId;
use switch_core::share::Shares;

use super::counters::PortCounters;
use super::domain::{DomainLane, DomainState, Frame};
use super::judged_frame::JudgedFrames;

/// Frames that wait in a line at most.
const LINE_FRAMES: usize = 256;
/// Frames of one domain that are offered to the driver at once.
const VISIT_FRAMES: usize = 8;
/// Frames of one domain and lcore that wait for the owner of the queue at most.
const HANDED_FRAMES: usize = 64;
/// Private buffers that one line may have in use, besides what the driver has.
pub(super) const LINE_PRIVATE_BUFFERS: usize = VISIT_FRAMES + HANDED_FRAMES + 1;
/// Bytes that a domain of the least weight sends in a round: about a visit of long frames.
const QUANTUM_BYTES: u32 = 12_000;

/// The sending side of a shared port on one lcore.
#[derive(Debug)]
pub(super) struct SharedEgress {
    outlet: Outlet,
    limits: EgressLimits,
    frames: JudgedFrames,
    lines: Vec<Line>,
    /// By position of the line.
    shares: Shares,
}

/// How frames leave an lcore.
#[derive(Debug)]
pub(super) enum Outlet {
    /// By a transmit queue of its own.
    Queue(TxQueue),
    /// By the lcore that owns the port's only queue: one way for each line.
    Owner(Vec<SyncSender<Mbuf>>),
}

/// What comes to the owner of a queue from another lcore: one way for each line.
pub(super) type FromLcore = Vec<Receiver<Mbuf>>;

/// The ways from an lcore without a transmit queue to the one that owns it, for a port of so many domains. Frames that
/// are never fetched go home when both ends are gone.
pub(super) fn handover(lines: usize) -> (Outlet, FromLcore) {
    let (to_owner, from_lcore) = (0..lines).map(|_| sync_channel(HANDED_FRAMES)).unzip();
    (Outlet::Owner(to_owner), from_lcore)
}

/// The frames of one domain that wait.
#[derive(Debug)]
struct Line {
    domain: DomainId,
    /// In the ledger's state `Lcore`.
    waiting: VecDeque<(Frame, HeaderCopy)>,
    /// Ready to be sent, by other lcores.
    from_lcores: Vec<Receiver<Mbuf>>,
    /// Whose turn it is: its own frames, then those of each other lcore.
    turn: usize,
    /// Next to be sent: the ledger calls their buffers the PMD's.
    ready: MbufBurst<VISIT_FRAMES>,
    /// Lengths of the ready frames.
    ready_bytes: VecDeque<u16>,
    /// Next to be handed on; likewise.
    held: Option<Mbuf>,
}

impl Line {
    fn of(domain: DomainId) -> Self {
        Self {
            domain,
            waiting: VecDeque::with_capacity(LINE_FRAMES),
            from_lcores: Vec::new(),
            turn: 0,
            ready: MbufBurst::new(),
            ready_bytes: VecDeque::with_capacity(VISIT_FRAMES),
            held: None,
        }
    }

    /// The next frame as it is to leave, from whoever's turn it is.
    fn next(&mut self, frames: &mut JudgedFrames, domain: &mut DomainLane) -> Option<Mbuf> {
        let sources = 1 + self.from_lcores.len();
        for _ in 0..sources {
            let source = self.turn;
            self.turn = (self.turn + 1) % sources;
            let next = match source.checked_sub(1) {
                Some(lcore) => self.from_lcores[lcore].try_recv().ok(),
                None => self.next_own(frames, domain),
            };
            if next.is_some() {
                return next;
            }
        }
        None
    }

    fn next_own(&mut self, frames: &mut JudgedFrames, domain: &mut DomainLane) -> Option<Mbuf> {
        while let Some((frame, header)) = self.waiting.pop_front() {
            match frames.make(frame, &header, domain) {
                Ok(mbuf) => return Some(mbuf),
                Err(reason) => domain.state.counters.drops.add(reason, 1),
            }
        }
        None
    }

    /// Fills a visit.
    fn make_ready(&mut self, frames: &mut JudgedFrames, domain: &mut DomainLane) {
        while !self.ready.is_full() {
            let Some(mbuf) = self.next(frames, domain) else { return };
            #[allow(clippy::cast_possible_truncation, reason = "at most what the port admits")]
            self.ready_bytes.push_back(mbuf.pkt_len() as u16);
            // There is room: the loop has seen it.
            let _ = self.ready.push(mbuf);
        }
    }

    /// Hands on as much as there is room for; how many frames.
    fn hand_on(
        &mut self,
        owner: &SyncSender<Mbuf>,
        frames: &mut JudgedFrames,
        domain: &mut DomainLane,
    ) -> usize {
        let mut handed = 0;
        while let Some(mbuf) = self.held.take().or_else(|| self.next(frames, domain)) {
            if let Err(TrySendError::Full(mbuf) | TrySendError::Disconnected(mbuf)) = owner.try_send(mbuf) {
                self.held = Some(mbuf);
                break;
            }
            handed += 1;
        }
        handed
    }

    /// Takes everything out that nobody will send; how many frames.
    fn give_up(&mut self, domain: &mut DomainLane) -> usize {
        let own = self.waiting.len() + self.ready.len() + usize::from(self.held.is_some());
        for (frame, _) in self.waiting.drain(..) {
            domain.cell.borrow().give(&[frame.index.0]);
        }
        self.ready.clear();
        self.ready_bytes.clear();
        self.held = None;
        own + self.from_lcores.iter().map(|lcore| lcore.try_iter().count()).sum::<usize>()
    }
}

impl SharedEgress {
    /// `members` are the domains of the port with their weights.
    pub(super) fn new(
        outlet: Outlet,
        limits: EgressLimits,
        frames: JudgedFrames,
        members: &[(DomainId, u16)],
    ) -> Self {
        let weights: Vec<u16> = members.iter().map(|(_, weight)| *weight).collect();
        Self {
            outlet,
            limits,
            frames,
            lines: members.iter().map(|(domain, _)| Line::of(*domain)).collect(),
            shares: Shares::new(&weights, QUANTUM_BYTES),
        }
    }

    /// Sends what another lcore hands on, too.
    pub(super) fn take_from(&mut self, lcore: FromLcore) {
        for (line, from_lcore) in self.lines.iter_mut().zip(lcore) {
            line.from_lcores.push(from_lcore);
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

    /// Sends or hands on as much as is taken; how many frames. The others wait.
    pub(super) fn send(&mut self, domains: &mut [DomainLane], counters: &mut PortCounters) -> usize {
        let Self { outlet, frames, lines, .. } = self;
        if let Outlet::Owner(owner) = outlet {
            let hand_on = |(line, owner): (&mut Line, &SyncSender<Mbuf>)| {
                line.hand_on(owner, frames, &mut domains[line.domain.index()])
            };
            return lines.iter_mut().zip(&*owner).map(hand_on).sum();
        }
        for line in &mut self.lines {
            line.make_ready(&mut self.frames, &mut domains[line.domain.index()]);
        }
        self.send_ready(domains, counters)
    }

    /// Sends line by line in shares, at most as much as the lines hold: other lcores hand on more meanwhile.
    fn send_ready(&mut self, domains: &mut [DomainLane], counters: &mut PortCounters) -> usize {
        let frames_max = self.lines.len() * LINE_FRAMES;
        let mut sent = 0;
        loop {
            let lines = &self.lines;
            let has_work = |at: DomainId| lines.get(at.index()).is_some_and(|line| !line.ready.is_empty());
            if sent >= frames_max || lines.iter().all(|line| line.ready.is_empty()) {
                return sent;
            }
            self.shares.start_turn(has_work);
            for (at, position) in (0..).map(DomainId).zip(0..self.lines.len()) {
                if !self.lines[position].ready.is_empty() && self.may_send(at) {
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
            return self.lines.iter().position(|line| !line.ready.is_empty()) == Some(line.index());
        }
        self.shares.may_run(line)
    }

    /// Offers the driver the ready frames of one line, and fills it up again.
    fn visit(&mut self, position: usize, domains: &mut [DomainLane], counters: &mut PortCounters) -> Visit {
        #[cfg(feature = "test-hooks")]
        let is_full = self.is_said_to_be_full(domains);
        #[cfg(not(feature = "test-hooks"))]
        let is_full = false;
        let Outlet::Queue(queue) = &mut self.outlet else { return Visit { frames: 0, is_driver_full: true } };
        let line = &mut self.lines[position];
        let domain = &mut domains[line.domain.index()];
        let offered = line.ready.len();
        let frames = if is_full { 0 } else { queue.burst(&mut line.ready) };
        let bytes = line.ready_bytes.drain(..frames).map(u64::from).sum();
        line.make_ready(&mut self.frames, domain);
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

    /// Before the lcore ends: what still waits goes home as `tx_full`.
    pub(super) fn give_up(&mut self, domains: &mut [DomainLane]) {
        for line in &mut self.lines {
            let domain = &mut domains[line.domain.index()];
            let left = line.give_up(domain);
            domain.state.counters.drops.add(DropReason::TxFull, left as u64);
        }
    }
}

/// What came of offering frames to the driver.
struct Visit {
    frames: usize,
    is_driver_full: bool,
}
