//! What endpoints give back: checked, and sent on its way.

use shm_ring::desc::{Kind, RawDesc, Verdict};
use shm_ring::layout::Slot;
use shm_ring::ring::Passed;
use switch_core::drop_reason::DropReason;
use switch_core::fault::DescFault;
use switch_core::forwarding::{Decision, Forwarding, Step};
use switch_core::header::HeaderCopy;
use switch_core::ids::{ChainId, EndpointId, PortId};
use switch_core::ledger::PacketPath;
use switch_core::passage::Passage;
use switch_core::shard::Returned;

use super::domain::{DomainLane, Frame};
use super::endpoint::{EndpointLane, aux_of};
use super::lcore::{Lcore, RETURN_BURST};
use super::message::Event;
use super::references::take_references;
use super::route::{EventSink, Route, cut_off};
use crate::region::Mapping;

impl Lcore {
    /// Takes what an endpoint has given back, checks it, and sends each frame on its way.
    pub(super) fn serve(&mut self, position: usize) -> usize {
        let lane = &mut self.endpoints[position];
        let (id, domain) = (lane.id, lane.domain);
        let Some(pair) = &mut lane.pair else { return 0 };
        let mut batch = match pair.from_guest.take_in_place(RETURN_BURST) {
            Ok(batch) if batch.is_empty() => return 0,
            Ok(batch) => batch,
            Err(error) => {
                cut_off(lane, &mut self.live, &mut self.events, self.id, error);
                return 0;
            }
        };
        let taken = batch.len();
        let DomainLane { cell, state, .. } = &mut self.domains[domain.index()];
        let region = state.region;
        let read = |slot: &Slot| read(slot, region);
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
        let limits = route.domain.limits;
        let mut accepted = 0;
        let mut last_question = Question::NONE;
        let mut decision = Decision { step: Step::Home, path: PATH_OF_NOTHING };
        let mut passage = None;
        if route.endpoints[position].is_served_singly() {
            let returns = std::iter::from_fn(|| batch.next_with(read));
            accepted = serve_singly(&mut route, position, returns, &self.forwarding, &mut self.header);
        }
        loop {
            let passed = match &passage {
                Some(passage) => route.pass_on(passage, &mut batch, read),
                None => Passed { count: 0, refused: None },
            };
            accepted += u64::from(passed.count);
            let Some(raw) = passed.refused.or_else(|| batch.next_with(read)) else { break };
            // Taken apart at once, so that the fields stay in registers.
            let Returned { index, data_offset_bytes, data_len_bytes, kind, verdict, aux, path } =
                match route.shard.take_back(id, raw, &limits) {
                    Ok(returned) => returned,
                    Err(fault) => {
                        refuse(&mut route.endpoints[position], route.events, fault);
                        continue;
                    }
                };
            accepted += 1;
            let frame = Frame { index, offset_bytes: data_offset_bytes, len_bytes: data_len_bytes };
            let whole = || Returned { index, data_offset_bytes, data_len_bytes, kind, verdict, aux, path };
            if kind == Kind::Empty {
                made(&mut route, position, frame, whole(), &self.forwarding, &mut self.header, true);
                continue;
            }
            let question = Question::of(path, verdict, aux);
            if question != last_question {
                last_question = question;
                decision = self.forwarding.after(id, &whole(), route.live);
                passage = passage_of(id, &whole(), decision, &self.forwarding);
            }
            route.forward(frame, decision, Some(id));
        }
        let lane = &mut route.endpoints[position];
        lane.counters.returned += accepted;
        if let Some(pair) = &mut lane.pair {
            // Behind the ledger: should the process die in between, its successor reads these descriptors once
            // more and refuses them as not held, instead of believing that the endpoint still holds the buffers.
            pair.from_guest.release();
        }
        drop(shard);
        if !self.crossings.is_empty() {
            self.cross(domain);
        }
        taken
    }
}

/// Copies a descriptor out of its slot: the one time that it is read.
#[inline(always)]
#[cfg_attr(
    not(feature = "test-hooks"),
    expect(unused_variables, reason = "tells a test where the host stands")
)]
fn read(slot: &Slot, region: &Mapping) -> RawDesc {
    let raw = slot.load();
    #[cfg(feature = "test-hooks")]
    super::hook::reach(super::hook::Moment::DescriptorCopied, region, 0);
    #[cfg(feature = "sabotage-double-read")]
    let raw = slot.load();
    raw
}

/// All that [`Forwarding::after`] looks at, of a packet, in two words: equal questions of one burst have equal
/// answers, and packets that came in one after the other mostly ask the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Question(u64, u64);

impl Question {
    /// No packet asks this: there is no such verdict.
    const NONE: Self = Self(u64::MAX, 0);

    #[inline(always)]
    fn of(path: PacketPath, verdict: Verdict, aux: u32) -> Self {
        let PacketPath { chain, hop, visited, ingress_port, flow_hash } = path;
        let place = u64::from(chain.0) | u64::from(hop) << 16 | u64::from(visited) << 24;
        Self(
            place | u64::from(ingress_port.0) << 32 | u64::from(verdict as u8) << 48,
            u64::from(flow_hash) | u64::from(aux) << 32,
        )
    }
}

/// How packets like this one go on, if that is to an endpoint.
#[inline]
fn passage_of(
    from: EndpointId,
    returned: &Returned,
    decision: Decision,
    forwarding: &Forwarding,
) -> Option<Passage> {
    let Step::Endpoint(to) = decision.step else { return None };
    let by_flow = forwarding.chooses_by_flow(returned.path.chain);
    Passage::of(from, returned, to, decision.path, aux_of(decision.path), by_flow)
}

/// Stands for a path until there is one.
const PATH_OF_NOTHING: PacketPath =
    PacketPath { chain: ChainId::NONE, hop: 0, visited: 0, ingress_port: PortId::NONE, flow_hash: 0 };

/// An empty buffer came home, perhaps with a packet that the endpoint made: that one has no flow hash yet.
#[cold]
fn made(
    route: &mut Route<'_>,
    position: usize,
    frame: Frame,
    mut returned: Returned,
    forwarding: &Forwarding,
    header: &mut HeaderCopy,
    may_send: bool,
) {
    let lane = &mut route.endpoints[position];
    let id = lane.id;
    lane.empties = lane.empties.saturating_sub(1);
    route.domain.copy_header(frame, header);
    returned.path.flow_hash = forwarding.flow_hash(header);
    let mut decision = forwarding.after(id, &returned, route.live);
    if decision.step != Step::Home {
        route.domain.counters.entered += 1;
        if !may_send {
            decision.step = Step::Drop(DropReason::EndpointRate);
        } else if let Err(reason) = route.limits.admit(route.domain, frame.len_bytes) {
            decision.step = Step::Drop(reason);
        }
    }
    route.forward(frame, decision, Some(id));
}

/// Takes what an observer, or an endpoint with a limit, has given back; how many descriptors were accepted.
#[cold]
#[inline(never)]
fn serve_singly(
    route: &mut Route<'_>,
    position: usize,
    returns: impl Iterator<Item = RawDesc>,
    forwarding: &Forwarding,
    header: &mut HeaderCopy,
) -> u64 {
    let EndpointLane { id, observes, .. } = route.endpoints[position];
    if route.endpoints[position].references.is_some() {
        return take_references(route, position, returns);
    }
    let limits = route.domain.limits;
    let mut accepted = 0;
    for raw in returns {
        let returned = match route.shard.take_back(id, raw, &limits) {
            Ok(returned) => returned,
            Err(fault) => {
                refuse(&mut route.endpoints[position], route.events, fault);
                continue;
            }
        };
        accepted += 1;
        let Returned { index, data_offset_bytes: offset_bytes, data_len_bytes: len_bytes, .. } = returned;
        let frame = Frame { index, offset_bytes, len_bytes };
        if observes && !cfg!(feature = "sabotage-observer-verdict") {
            route.domain.counters.observed += 1;
            route.shard.give(&[index.0]);
            continue;
        }
        let goes_home = matches!(returned.verdict, Verdict::Drop | Verdict::ReturnEmpty);
        let limit = &mut route.endpoints[position].limit;
        let may_send = goes_home || limit.as_mut().is_none_or(|limit| limit.admit(len_bytes));
        if returned.kind == Kind::Empty {
            made(route, position, frame, returned, forwarding, header, may_send);
            continue;
        }
        let mut decision = forwarding.after(id, &returned, route.live);
        if !may_send {
            decision.step = Step::Drop(DropReason::EndpointRate);
        }
        route.forward(frame, decision, Some(id));
    }
    accepted
}

/// Counts a refused descriptor. Control hears of the first one; a guest that floods us with them moves a
/// counter and nothing else.
#[cold]
pub(super) fn refuse(lane: &mut EndpointLane, events: &mut EventSink, fault: DescFault) {
    lane.counters.faults.add(fault.kind(), 1);
    lane.violations.count_descriptor();
    if !lane.fault_told {
        lane.fault_told = true;
        events.tell(Event::Descriptor { endpoint: lane.id, fault });
    }
}
