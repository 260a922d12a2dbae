//! The NIC of an untrusted VM on one lcore: frames are copied out of the guest's RAM into buffers of the region, and
//! out of the region into the guest's RAM.
//!
//! The rings lie in the guest's memory and are `vhost_port`'s to read. Here are the buffers: some of the pool are kept
//! ready for what the guest sends (in the ledger's state `Pmd`, like those posted to a hardware NIC), and what goes to
//! the guest is freed as soon as it was copied. Its headers are copied into private memory first, and that copy is
//! what the guest gets.

use dpdk::{Mbuf, MbufBurst};
use switch_core::drop_reason::DropReason;
use switch_core::frame::{ETHERNET_HEADER_BYTES, EgressLimits};
use switch_core::header::HeaderCopy;
use switch_core::ids::BufferIndex;
use switch_core::shard::Shard;
use vhost_port::frame::{Frame as GuestFrame, Received, Room, Segment};
use vhost_port::lane::Lane;

use super::arrivals::Entrance;
use super::counters::PortCounters;
use super::domain::{DomainLane, DomainState, Frame};
use super::egress::{Egress, Way, hand_on};
use super::flows::Waiting;
use super::handoff::ToOwner;
use super::lcore::Lcore;
use super::limit::EntryLimits;
use super::route::Route;

/// Frames copied in one go, and buffers kept ready for them.
const NIC_BURST: usize = 32;
const _: () = assert!(NIC_BURST as u64 == security_domains::NIC_BUFFERS);

/// The NIC of an untrusted VM on one lcore.
#[derive(Debug)]
pub(super) struct NicLane {
    lane: Lane,
    /// Longest frame that the guest may send.
    room_bytes: u16,
    /// Buffers ready for what the guest sends; the ledger calls them the PMD's.
    ready: Vec<BufferIndex>,
    received: Box<[Received; NIC_BURST]>,
    headers: Box<[HeaderCopy; NIC_BURST]>,
    /// The first lcore, where the guest's first queues are, in case it uses none of ours.
    owner: Option<ToOwner>,
}

impl NicLane {
    pub(super) fn new(lane: Lane, limits: EgressLimits, owner: Option<ToOwner>) -> Self {
        Self {
            lane,
            room_bytes: limits.frame_bytes_max,
            ready: Vec::with_capacity(NIC_BURST),
            received: Box::new([Received::default(); NIC_BURST]),
            headers: Box::new([HeaderCopy::default(); NIC_BURST]),
            owner,
        }
    }

    /// Copies what the guest has sent into the buffers that are ready; how many frames, which are in front of
    /// `frames` then and the PMD's in the ledger.
    fn take(
        &mut self,
        domain: &DomainState,
        shard: &mut Shard<'static>,
        frames: &mut [Frame; NIC_BURST],
    ) -> usize {
        self.lane.adopt();
        if !self.lane.is_sending() {
            return 0;
        }
        self.make_ready(shard);
        let offset_bytes = domain.geometry.headroom_bytes;
        let fits_bytes = domain.limits.stride_bytes.saturating_sub(u32::from(offset_bytes));
        let room_bytes = fits_bytes.min(u32::from(self.room_bytes));
        let mut rooms: [Room<'static>; NIC_BURST] = std::array::from_fn(|at| match self.ready.get(at) {
            None => Room::of(&mut []),
            Some(index) => {
                let at = domain.region.place(domain.position(*index, offset_bytes), room_bytes as usize);
                // SAFETY:
                // - `place` has checked that the room is inside the region, whose mapping is `'static`.
                // - Nobody in this process has references into regions: `Mapping` hands out none, and the ledger
                //   says that this buffer is nobody else's to write.
                unsafe { Room::new(at, room_bytes) }
            }
        });
        let taken = self.lane.dequeue(&mut rooms[..self.ready.len()], &mut self.received[..]);
        let filled = self.ready.drain(..taken).zip(self.received.iter());
        for ((index, received), frame) in filled.zip(frames) {
            // No longer than its room.
            let len_bytes = u16::try_from(received.len_bytes).unwrap_or(u16::MAX);
            *frame = Frame { index, offset_bytes, len_bytes };
        }
        taken
    }

    /// Takes buffers out of the pool until a burst is ready. An empty pool leaves frames with their guest.
    fn make_ready(&mut self, shard: &mut Shard<'static>) {
        let mut indices = [0; NIC_BURST];
        let wanted = NIC_BURST - self.ready.len();
        if wanted > 0 && shard.take(&mut indices[..wanted]) {
            self.ready.extend(indices[..wanted].iter().map(|index| BufferIndex(*index)));
        }
    }

    /// Copies frames, in the ledger's state `Lcore`, into the guest's memory, and takes their buffers home. What the
    /// guest has no room for is dropped as `tx_full`.
    pub(super) fn send(&mut self, frames: &[Frame], counters: &mut PortCounters, domain: &mut DomainLane) {
        self.lane.adopt();
        if let Some(owner) = &mut self.owner
            && !self.lane.is_receiving()
        {
            return hand_on(owner, frames, domain);
        }
        let DomainLane { cell, state, .. } = domain;
        let flow_of = flow_by(&self.lane);
        for part in frames.chunks(NIC_BURST) {
            self.copy_headers(part, state);
            let mut outgoing = [GuestFrame::whole(Segment::EMPTY, 0); NIC_BURST];
            for ((slot, frame), header) in outgoing.iter_mut().zip(part).zip(self.headers.iter()) {
                *slot = in_region(*frame, header, state, flow_of);
            }
            deliver(&mut self.lane, &outgoing[..part.len()], counters, state);
            let mut shard = cell.borrow();
            for frame in part {
                shard.give(&[frame.index.0]);
            }
        }
    }

    fn copy_headers(&mut self, frames: &[Frame], domain: &DomainState) {
        for (frame, header) in frames.iter().zip(self.headers.iter_mut()) {
            domain.copy_header(*frame, header);
            #[cfg(feature = "test-hooks")]
            super::hook::reach(
                super::hook::Moment::HeadersJudged,
                domain.region,
                domain.position(frame.index, frame.offset_bytes),
            );
        }
    }

    /// Copies frames of other lcores into the guest's memory and frees them.
    pub(super) fn send_mbufs<const N: usize>(
        &mut self,
        mbufs: &mut MbufBurst<N>,
        counters: &mut PortCounters,
        domain: &mut DomainLane,
    ) {
        self.lane.adopt();
        let flow_of = flow_by(&self.lane);
        while !mbufs.is_empty() {
            // A burst at a time, freed at the end of the round: the guest has one budget for all of it.
            let part: [Option<Mbuf>; NIC_BURST] = std::array::from_fn(|_| mbufs.take_first());
            for (mbuf, header) in part.iter().flatten().zip(self.headers.iter_mut()) {
                copy_header(mbuf, header);
            }
            let mut outgoing = [GuestFrame::whole(Segment::EMPTY, 0); NIC_BURST];
            let mut count = 0;
            for ((mbuf, header), slot) in part.iter().flatten().zip(self.headers.iter()).zip(&mut outgoing) {
                *slot = in_mbuf(mbuf, header, flow_of);
                count += 1;
            }
            deliver(&mut self.lane, &outgoing[..count], counters, &mut domain.state);
        }
    }

    /// Before the lcore ends: lets go of the guest's memory, and of the buffers that are ready.
    pub(super) fn give_up(&mut self, shard: &mut Shard<'static>) {
        self.lane.park();
        for index in self.ready.drain(..) {
            shard.give(&[index.0]);
        }
    }

    /// Lets go of the guest's memory for as long as nobody serves this NIC.
    #[cold]
    fn park(&mut self) {
        self.lane.park();
    }
}

/// A frame of the region as the guest gets it: `header`, and behind it what stands in the region now.
fn in_region<'f>(
    frame: Frame,
    header: &'f HeaderCopy,
    domain: &DomainState,
    flow_of: fn(&HeaderCopy) -> u32,
) -> GuestFrame<'f> {
    let judged = header.as_bytes();
    let rest_bytes = usize::from(frame.len_bytes).saturating_sub(judged.len());
    let at = domain.region.place(domain.position(frame.index, frame.offset_bytes) + judged.len(), rest_bytes);
    #[allow(clippy::cast_possible_truncation, reason = "less than a frame, whose length is a u16")]
    // SAFETY: `place` has checked that these bytes are inside the region, whose mapping is `'static`; nobody in this
    // process has references into regions.
    let rest = unsafe { Segment::new(at, rest_bytes as u32) };
    if cfg!(feature = "sabotage-nic-reread") {
        let at =
            domain.region.place(domain.position(frame.index, frame.offset_bytes), frame.len_bytes.into());
        // SAFETY: as above.
        return GuestFrame::whole(unsafe { Segment::new(at, frame.len_bytes.into()) }, 0);
    }
    GuestFrame::judged(Segment::of(judged), rest, flow_of(header))
}

/// The same of a frame that another lcore has handed on; it stays where it is while `mbuf` is there.
fn in_mbuf<'f>(mbuf: &'f Mbuf, header: &'f HeaderCopy, flow_of: fn(&HeaderCopy) -> u32) -> GuestFrame<'f> {
    let judged = header.as_bytes();
    let rest_bytes = usize::from(mbuf.data_len()).saturating_sub(judged.len());
    // SAFETY: the header copy is at most as long as the frame, which is inside its buffer.
    let at = unsafe { mbuf.data_address().add(judged.len()) };
    #[allow(clippy::cast_possible_truncation, reason = "less than a frame, whose length is a u16")]
    // SAFETY: the rest of the frame is inside the mbuf's buffer (`Mbuf::set_data` has checked its end), which stays
    // mapped for the life of the process; nobody has references to bytes of buffers.
    let rest = unsafe { Segment::new(at, rest_bytes as u32) };
    GuestFrame::judged(Segment::of(judged), rest, flow_of(header))
}

fn copy_header(mbuf: &Mbuf, header: &mut HeaderCopy) {
    let copied = mbuf.copy_out(0, &mut header.bytes);
    #[allow(clippy::cast_possible_truncation, reason = "at most 128")]
    {
        header.len_bytes = copied as u8;
    }
    header.frame_bytes = mbuf.data_len();
}

/// Which of the guest's queues a flow goes to. No secret: who fills a queue drops packets of that guest only. Headers
/// are not parsed for a guest that has one queue to choose from.
fn flow_by(lane: &Lane) -> fn(&HeaderCopy) -> u32 {
    if lane.spreads_flows() { |header| header.parse().symmetric_hash(0) } else { |_| 0 }
}

/// Gives frames to the guest, as far as it takes them.
fn deliver(
    lane: &mut Lane,
    frames: &[GuestFrame<'_>],
    counters: &mut PortCounters,
    domain: &mut DomainState,
) {
    let is_up = lane.is_receiving();
    let (_, bytes_before) = lane.counters().to_guest();
    let delivered = lane.enqueue(frames);
    let (_, bytes) = lane.counters().to_guest();
    domain.counters.delivered += delivered as u64;
    counters.tx_packets += delivered as u64;
    counters.tx_bytes += bytes.wrapping_sub(bytes_before);
    let dropped = (frames.len() - delivered) as u64;
    if dropped > 0 {
        domain.counters.drops.add(if is_up { DropReason::TxFull } else { DropReason::PortDown }, dropped);
    }
}

impl Lcore {
    /// Receives a burst from each NIC of a domain; how many frames.
    #[inline(never)]
    pub(super) fn receive_from_guests(&mut self, domain: usize) -> usize {
        let mut moved = 0;
        for at in 0..self.domains[domain].nics.len() {
            moved += self.receive_from_guest(self.domains[domain].nics[at]);
            self.flush(super::egress::FLUSH_FRAMES);
        }
        moved
    }

    /// Receives a burst from the NIC that is this port, and sends each frame on its way.
    fn receive_from_guest(&mut self, port: usize) -> usize {
        let mut frames = [Frame { index: BufferIndex(0), offset_bytes: 0, len_bytes: 0 }; NIC_BURST];
        let taken = self.copy_from_guest(port, &mut frames);
        if taken == 0 {
            return 0;
        }
        let id = switch_core::ids::PortId(u16::try_from(port).unwrap_or(u16::MAX));
        let domain = self.egresses[port].domain;
        let DomainLane { cell, state, .. } = &mut self.domains[domain.index()];
        state.counters.entered += taken as u64;
        let mut shard = cell.borrow();
        let mut route = Route {
            lcore: self.id,
            domain: state,
            limits: &mut self.limits,
            shard: &mut shard,
            endpoints: &mut self.endpoints,
            egresses: &mut self.egresses,
            live: &mut self.live,
            events: &mut self.events,
            crossings: &mut self.crossings,
        };
        let mut entrance = Entrance {
            port: id,
            needs_header: self.forwarding.needs_header(id),
            now_ms: self.now_ms,
            forwarding: &self.forwarding,
            header: &mut self.header,
            observed: &mut self.observed,
        };
        let mut flows = self.flows.as_mut().filter(|_| self.forwarding.judges_flows(id));
        for &frame in &frames[..taken] {
            match admit(route.limits, route.domain, frame) {
                Ok(()) => {
                    entrance.look(&route, frame);
                    match &mut flows {
                        Some(flows) => {
                            let header = *entrance.header;
                            flows.set_aside(Waiting { frame, header, vlan: 0, sampled: None });
                        }
                        None => entrance.pass(&mut route, frame, 0, None),
                    }
                }
                Err(reason) => route.drop(frame.index, reason, None),
            }
        }
        if let Some(flows) = flows {
            flows.send_on(&mut entrance, &mut route);
        }
        drop(shard);
        if !self.observed.is_empty() {
            self.show_burst(domain);
        }
        if !self.crossings.is_empty() {
            self.cross(domain);
        }
        taken
    }

    /// Copies a burst out of the guest's memory; how many frames.
    fn copy_from_guest(&mut self, port: usize, frames: &mut [Frame; NIC_BURST]) -> usize {
        let Egress { way: Way::Nic(nic), counters, domain, .. } = &mut self.egresses[port] else { return 0 };
        let DomainLane { cell, state, .. } = &mut self.domains[domain.index()];
        if state.is_lost {
            nic.park();
            return 0;
        }
        let taken = nic.take(state, &mut cell.borrow(), frames);
        counters.rx_packets += taken as u64;
        counters.rx_bytes += frames[..taken].iter().map(|frame| u64::from(frame.len_bytes)).sum::<u64>();
        counters.copies += taken as u64;
        taken
    }
}

/// Whether a frame that a guest sent may enter its domain.
fn admit(limits: &mut EntryLimits, domain: &DomainState, frame: Frame) -> Result<(), DropReason> {
    if frame.len_bytes < ETHERNET_HEADER_BYTES {
        return Err(DropReason::FrameTooShort);
    }
    limits.admit(domain, frame.len_bytes)
}
