//! What an lcore remembers of flows: what rules said of a flow holds for its later packets in that direction.
//!
//! Only ports with rules have flows, and only where the rules judge all packets of a flow alike
//! ([`Forwarding::judges_flows`]). The frames of a burst are set aside until all have come in, so that their flows are
//! looked up together. A packet whose flow is not known, or of which nothing was decided since the tables changed,
//! takes its way by the rules, as does one that belongs to no flow, and one for whose flow there is no room. Flows
//! enter with the first packet that rules let in: what they drop takes nobody's place.

use std::num::NonZeroU32;
use std::time::Duration;

use flow_table::{BURST, Direction, FlowId, FlowTable, Key, Line, NoKey, Packet, Place};
use packet::Parsed;
use switch_core::forwarding::{Arrival, Classification, Forwarding};
use switch_core::header::HeaderCopy;
use switch_core::ids::{DomainId, PortId};
use switch_core::liveness::Liveness;

use super::arrivals::Entrance;
use super::counters::FlowsSnapshot;
use super::domain::Frame;
use super::error::DatapathError;
use super::lcore::Lcore;
use super::route::Route;
use super::sample;
use super::spec::FlowsSpec;

/// A frame of the burst under way, its headers copied.
#[derive(Debug)]
pub(super) struct Waiting {
    pub frame: Frame,
    pub header: HeaderCopy,
    /// Tag that the device has taken off.
    pub vlan: u16,
    /// Where the driver had put it, if that is to be remembered.
    pub sampled: Option<sample::Place>,
}

/// The memory of flows of one lcore.
#[derive(Debug)]
pub(super) struct Flows {
    table: FlowTable<'static>,
    now_ms: u64,
    /// Until when the sweep has come by.
    swept_ms: u64,
    /// How long one round of the sweep takes.
    round_ms: u64,
    waiting: Vec<Waiting>,
    parsed: Vec<Parsed>,
    /// Of those that belong to a flow.
    packets: Vec<Packet>,
    found: [Option<FlowId>; BURST],
}

/// Most buckets of the table that are swept at once: some 10 µs.
const SWEEP_BUCKETS_MAX: u64 = 16;

impl Flows {
    /// Memory without any flow. It stays for the rest of the process.
    pub(super) fn new(spec: &FlowsSpec) -> Result<Self, DatapathError> {
        let limits = spec.limits;
        let count = FlowTable::lines_for(limits.flows);
        let mut lines: Vec<Line> = Vec::new();
        let needed = count.saturating_mul(size_of::<Line>());
        lines
            .try_reserve_exact(count)
            .map_err(|_| DatapathError::FlowMemory { flows: limits.flows, needed })?;
        lines.resize(count, Line::default());
        Ok(Self {
            table: FlowTable::new(lines.leak(), spec.seed.clone(), limits)?,
            now_ms: 0,
            swept_ms: 0,
            round_ms: u64::from(limits.idle_ms.min(limits.unanswered_idle_ms)) / 2 + 1,
            waiting: Vec::with_capacity(BURST),
            parsed: Vec::with_capacity(BURST),
            packets: Vec::with_capacity(BURST),
            found: [None; BURST],
        })
    }

    /// Sets the clock, and ends flows whose time is up.
    pub(super) fn keep_house(&mut self, elapsed: Duration) {
        self.now_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let buckets = u64::from(self.table.buckets());
        let due = buckets * (self.now_ms - self.swept_ms) / self.round_ms;
        if due > 0 {
            #[allow(clippy::cast_possible_truncation, reason = "at most 16")]
            self.table.expire(self.now_ms, due.min(SWEEP_BUCKETS_MAX) as u32, |_, _| {});
            self.swept_ms = self.now_ms;
        }
    }

    /// The tables are others now: all that was decided is void.
    pub(super) fn forget_decisions(&mut self) {
        if !cfg!(feature = "sabotage-flow-decisions") {
            self.table.begin_epoch();
        }
    }

    pub(super) fn snapshot(&self) -> FlowsSnapshot {
        FlowsSnapshot {
            limit: self.table.limits().flows,
            flows: self.table.len(),
            unanswered: self.table.unanswered(),
            counters: *self.table.counters(),
        }
    }

    /// Keeps a frame until all of its burst have come in.
    #[inline(always)]
    pub(super) fn set_aside(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
    }

    /// Sends the frames that were set aside on their way.
    pub(super) fn send_on(&mut self, entrance: &mut Entrance<'_>, route: &mut Route<'_>) {
        let mut waiting = std::mem::take(&mut self.waiting);
        let (forwarding, port) = (entrance.forwarding, entrance.port);
        for burst in waiting.chunks(BURST) {
            let domain = route.domain.id;
            self.look_up(domain, burst.iter().map(|one| &one.header));
            let mut of_flows = 0;
            for (at, one) in burst.iter().enumerate() {
                let arrival = self.arrival_at(at, &mut of_flows, forwarding, port, route.live);
                *entrance.header = one.header;
                entrance.enter(route, one.frame, arrival, one.vlan, one.sampled);
            }
        }
        waiting.clear();
        self.waiting = waiting;
    }

    /// Where one frame goes that `port` has just received.
    pub(super) fn arrival(
        &mut self,
        forwarding: &Forwarding,
        port: PortId,
        header: &HeaderCopy,
        live: &Liveness,
    ) -> Arrival {
        let domain = forwarding.domains_of(port).first().copied().unwrap_or_default();
        self.look_up(domain, [header].into_iter());
        self.arrival_at(0, &mut 0, forwarding, port, live)
    }

    /// Reads the headers of a burst, and finds the flows.
    fn look_up<'h>(&mut self, domain: DomainId, headers: impl Iterator<Item = &'h HeaderCopy>) {
        let Self { table, now_ms, parsed, packets, found, .. } = self;
        parsed.clear();
        packets.clear();
        for header in headers {
            let headers = header.parse();
            if let Ok((key, direction)) = key_of(&headers, domain) {
                packets.push(Packet { key, direction, bytes: header.frame_bytes });
            }
            parsed.push(headers);
        }
        table.lookup_bulk(packets, *now_ms, found);
    }

    /// Where the frame at a place of the burst goes; `of_flows` counts those so far that belong to a flow.
    fn arrival_at(
        &mut self,
        at: usize,
        of_flows: &mut usize,
        forwarding: &Forwarding,
        port: PortId,
        live: &Liveness,
    ) -> Arrival {
        let parsed = self.parsed[at];
        let place = *of_flows;
        let is_of_flow = parsed.flow_key().is_ok() && place < self.packets.len();
        let classification = if is_of_flow {
            *of_flows += 1;
            self.classification(place, &parsed, forwarding, port)
        } else {
            forwarding.classify(port, &parsed)
        };
        forwarding.arrival_of(port, classification, forwarding.hash_of(&parsed), live)
    }

    /// What rules say of a packet, or have said of its flow.
    fn classification(
        &mut self,
        place: usize,
        parsed: &Parsed,
        forwarding: &Forwarding,
        port: PortId,
    ) -> Classification {
        let (packet, known) = (self.packets[place], self.found[place]);
        let decided = known.and_then(|id| self.table.decision(id, packet.direction));
        if let Some(classification) = decided.and_then(|decision| read(decision, port)) {
            return classification;
        }
        let classification = forwarding.classify(port, parsed);
        // What is refused is counted by the table.
        let enter = |table: &mut FlowTable<'_>| {
            forwarding.enters(port, classification).then(|| table.insert(&packet, self.now_ms).ok()).flatten()
        };
        let id = known.or_else(|| enter(&mut self.table));
        if let (Some(id), Some(decision)) = (id, write(classification, port)) {
            self.table.decide(id, packet.direction, decision);
        }
        classification
    }
}

fn key_of(parsed: &Parsed, domain: DomainId) -> Result<(Key, Direction), NoKey> {
    Key::of(parsed, Place { domain: domain.0 })
}

/// A decision is of the port that it was taken for: a flow that comes in elsewhere is decided anew.
fn write(classification: Classification, port: PortId) -> Option<NonZeroU32> {
    let rule = match classification {
        Classification::Default => 1,
        Classification::Rule(place) => place.checked_add(2)?,
        Classification::CannotSay(_) => return None,
    };
    NonZeroU32::new(u32::from(port.0) << 16 | u32::from(rule))
}

#[allow(clippy::cast_possible_truncation, reason = "the halves of a decision are wanted")]
fn read(decision: NonZeroU32, port: PortId) -> Option<Classification> {
    if (decision.get() >> 16) as u16 != port.0 {
        return None;
    }
    match decision.get() as u16 {
        1 => Some(Classification::Default),
        rule => rule.checked_sub(2).map(Classification::Rule),
    }
}

impl Lcore {
    /// Whether what rules say of the flows of a port is remembered.
    #[inline(always)]
    pub(super) fn remembers_flows_of(&self, port: PortId) -> bool {
        self.flows.is_some() && self.forwarding.judges_flows(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_read_as_it_was_written_and_for_its_own_port_only() {
        let (own, other) = (PortId(3), PortId(4));
        for classification in [
            Classification::Default,
            Classification::Rule(0),
            Classification::Rule(4095),
            Classification::Rule(u16::MAX - 2),
        ] {
            let decision = write(classification, own).unwrap();
            assert_eq!(read(decision, own), Some(classification));
            assert_eq!(read(decision, other), None);
        }
    }

    #[test]
    fn what_cannot_be_said_or_written_is_not_remembered() {
        use switch_core::drop_reason::DropReason;
        assert_eq!(write(Classification::CannotSay(DropReason::HeaderMalformed), PortId(0)), None);
        assert_eq!(write(Classification::Rule(u16::MAX - 1), PortId(0)), None);
    }
}
