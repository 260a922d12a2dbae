//! A table beside a map: whatever is done to them, they agree.

use std::collections::HashMap;

use bytemuck::Zeroable;
use proptest::prelude::*;

use super::*;
use crate::level::Avx2;

const FLOWS: u32 = 60;
const UNANSWERED: u32 = 20;
const IDLE_MS: u64 = 40;
const UNANSWERED_IDLE_MS: u64 = 15;

#[derive(Clone, Debug)]
enum Step {
    /// Packets of these flows arrive together.
    Burst(Vec<(u8, bool)>),
    /// A flow is taken out.
    Remove(u8),
    /// Time passes, and all flows are looked at.
    Expire(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => proptest::collection::vec((0..120_u8, any::<bool>()), 1..40).prop_map(Step::Burst),
        1 => (0..120_u8).prop_map(Step::Remove),
        1 => (0..30_u8).prop_map(Step::Expire),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What is known of a flow.
#[derive(Clone, Debug)]
struct Known {
    id: FlowId,
    opener: Direction,
    stage: Stage,
    packets: u64,
    bytes: u64,
    first_seen_ms: u64,
    last_seen_ms: u64,
    /// Which insertion it was.
    order: u64,
}

#[derive(Default)]
struct Model {
    flows: HashMap<u8, Known>,
    insertions: u64,
}

impl Model {
    fn unanswered(&self) -> usize {
        self.flows.values().filter(|known| known.stage != Stage::Answered).count()
    }

    fn see(&mut self, flow: u8, packet: &Packet, now_ms: u64) {
        let known = self.flows.get_mut(&flow).unwrap();
        known.packets += 1;
        known.bytes += u64::from(packet.bytes);
        known.last_seen_ms = now_ms;
        known.stage = match (known.stage, packet.direction == known.opener) {
            (Stage::Opened, false) => Stage::Replied,
            (Stage::Replied, true) => Stage::Answered,
            (stage, _) => stage,
        };
    }

    /// Whether there is room, and who had to go.
    fn make_room(&mut self) -> bool {
        let is_full = self.flows.len() >= FLOWS as usize;
        if is_full && self.unanswered() == 0 {
            return false;
        }
        if is_full || self.unanswered() >= UNANSWERED as usize {
            let unanswered = self.flows.iter().filter(|(_, known)| known.stage != Stage::Answered);
            let oldest = *unanswered.min_by_key(|(_, known)| known.order).unwrap().0;
            self.flows.remove(&oldest);
        }
        true
    }

    fn enter(&mut self, flow: u8, id: FlowId, packet: &Packet, now_ms: u64) {
        self.insertions += 1;
        let (opener, bytes) = (packet.direction, packet.bytes.into());
        let (stage, order) = (Stage::Opened, self.insertions);
        let known = Known {
            id,
            opener,
            stage,
            packets: 1,
            bytes,
            first_seen_ms: now_ms,
            last_seen_ms: now_ms,
            order,
        };
        assert!(self.flows.insert(flow, known).is_none());
    }
}

fn packet(flow: u8, is_back: bool) -> Packet {
    let direction = if is_back { Direction::FromHigher } else { Direction::FromLower };
    Packet {
        key: Key::from_words([0, 1, 0, 2, u64::from(flow) << 32]),
        direction,
        bytes: 60 + u16::from(flow),
    }
}

fn burst(table: &mut FlowTable<'_>, model: &mut Model, packets: &[(u8, bool)], now_ms: u64) {
    let arrived: Vec<Packet> = packets.iter().map(|(flow, is_back)| packet(*flow, *is_back)).collect();
    let mut found = vec![None; arrived.len()];
    table.lookup_bulk(&arrived, now_ms, &mut found);
    for (((flow, _), packet), found) in packets.iter().zip(&arrived).zip(&found) {
        assert_eq!(*found, model.flows.get(flow).map(|known| known.id));
        if found.is_some() {
            model.see(*flow, packet, now_ms);
        }
    }
    for (((flow, _), packet), _) in
        packets.iter().zip(&arrived).zip(&found).filter(|(_, found)| found.is_none())
    {
        let entered = table.insert(packet, now_ms);
        if let Some(known) = model.flows.get(flow) {
            assert_eq!(entered, Ok(known.id));
            model.see(*flow, packet, now_ms);
        } else if model.make_room() {
            model.enter(*flow, entered.unwrap(), packet, now_ms);
        } else {
            assert_eq!(entered, Err(Refused::Full { flows: FLOWS }));
        }
    }
}

fn expire(table: &mut FlowTable<'_>, model: &mut Model, now_ms: u64) {
    let mut ended = 0;
    table.expire(now_ms, table.buckets(), |_, _| ended += 1);
    let before = model.flows.len();
    model.flows.retain(|_, known| {
        let limit_ms = if known.stage == Stage::Answered { IDLE_MS } else { UNANSWERED_IDLE_MS };
        now_ms - known.last_seen_ms < limit_ms
    });
    assert_eq!(before - model.flows.len(), ended);
}

fn agree(table: &FlowTable<'_>, model: &Model) {
    assert_eq!(table.len() as usize, model.flows.len());
    assert_eq!(table.unanswered() as usize, model.unanswered());
    assert_eq!(table.flows_of(0, u32::MAX).count(), model.flows.len());
    for known in model.flows.values() {
        let flow = table.flow(known.id).unwrap();
        assert_eq!((flow.opener, flow.stage), (known.opener, known.stage));
        assert_eq!((flow.packets, flow.bytes), (known.packets, known.bytes));
        assert_eq!(flow.first_seen_ms, known.first_seen_ms);
        assert_eq!(u64::from(flow.last_seen_ms), known.last_seen_ms);
    }
    let spilled: u32 = table.buckets.iter().map(|bucket| u32::from(bucket.spilled)).sum();
    let flagged = table.flows_of(0, u32::MAX).filter(|flow| table.lines[flow.id.slot as usize].is_spilled());
    assert_eq!(spilled as usize, flagged.count());
}

fn run(level: Level, seed: [u64; 8], steps: &[Step]) {
    let limits =
        Limits { flows: FLOWS, unanswered: UNANSWERED, idle_ms: 40, unanswered_idle_ms: 15, hard_ms: None };
    let mut memory = vec![Line::zeroed(); FlowTable::lines_for(FLOWS)];
    let mut table = FlowTable::new(&mut memory, Seed::new(seed), limits).unwrap();
    table.level = level;
    let mut model = Model::default();
    let mut now_ms = 0;
    for step in steps {
        match step {
            Step::Burst(packets) => burst(&mut table, &mut model, packets, now_ms),
            Step::Remove(flow) => {
                if let Some(known) = model.flows.remove(flow) {
                    assert!(table.remove(known.id) && !table.remove(known.id));
                }
            }
            Step::Expire(ms) => {
                now_ms += u64::from(*ms);
                expire(&mut table, &mut model, now_ms);
            }
        }
        agree(&table, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_table_does_what_a_map_does(seed in any::<[u64; 8]>(), steps in steps()) {
        run(Level::Baseline, seed, &steps);
        #[cfg(target_arch = "x86_64")]
        if let Some(level) = Avx2::detect() {
            run(Level::Avx2(level), seed, &steps);
        }
    }
}
