//! What a table promises, one fact each.

use bytemuck::Zeroable;

use super::*;
use crate::line::ACCOUNT_PACKETS;

const SEED: [u64; 8] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6c,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
];
const FORTH: Direction = Direction::FromLower;
const BACK: Direction = Direction::FromHigher;

fn memory(flows: u32) -> Vec<Line> {
    vec![Line::zeroed(); FlowTable::lines_for(flows)]
}

fn table(memory: &mut [Line], limits: Limits) -> FlowTable<'_> {
    FlowTable::new(memory, Seed::new(SEED), limits).unwrap()
}

fn packet(flow: u64, direction: Direction) -> Packet {
    // As flows of one server over IPv4 look.
    let client = 0x0a00_0000 | flow >> 8;
    let key = Key::from_words([0, client, 0, 0xc0a8_0001, (flow & 0xff) << 48 | 443 << 32 | 6 << 24]);
    Packet { key, direction, bytes: 100 }
}

fn look_up(table: &mut FlowTable<'_>, packet: Packet, now_ms: u64) -> Option<FlowId> {
    let mut found = [None];
    table.lookup_bulk(&[packet], now_ms, &mut found);
    found[0]
}

/// Enters a flow and lets both ends speak until it is answered.
fn establish(table: &mut FlowTable<'_>, flow: u64, now_ms: u64) -> FlowId {
    let id = table.insert(&packet(flow, FORTH), now_ms).unwrap();
    assert_eq!(look_up(table, packet(flow, BACK), now_ms), Some(id));
    assert_eq!(look_up(table, packet(flow, FORTH), now_ms), Some(id));
    assert_eq!(table.flow(id).unwrap().stage, Stage::Answered);
    id
}

#[test]
fn ten_thousand_established_flows_outlive_five_million_first_packets() {
    let limits = Limits::for_flows(40_000);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let established: Vec<FlowId> = (0..10_000).map(|flow| establish(&mut table, flow, 0)).collect();
    for syn in 0..5_000_000 {
        // Each under its own address, and never seen again.
        assert_eq!(look_up(&mut table, packet(1 << 24 | syn, FORTH), 1), None);
        table.insert(&packet(1 << 24 | syn, FORTH), 1).unwrap();
    }
    for (flow, id) in (0..).zip(&established) {
        assert_eq!(look_up(&mut table, packet(flow, BACK), 2), Some(*id));
    }
    assert_eq!((table.unanswered(), table.len()), (10_000, 20_000));
    assert_eq!(table.counters().evicted_unanswered, 5_000_000 - 10_000);
}

#[test]
fn a_server_that_replies_to_every_first_packet_answers_no_flow() {
    let limits = Limits { unanswered: 25, ..Limits::for_flows(100) };
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    for syn in 0..1000 {
        table.insert(&packet(syn, FORTH), 0).unwrap();
        look_up(&mut table, packet(syn, BACK), 0).unwrap();
    }
    assert_eq!((table.len(), table.unanswered(), table.counters().answered), (25, 25, 0));
}

#[test]
fn the_oldest_unanswered_flow_makes_room_however_much_it_sends() {
    let limits = Limits { unanswered: 3, ..Limits::for_flows(100) };
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let ids: Vec<FlowId> = (0..3).map(|flow| table.insert(&packet(flow, FORTH), 0).unwrap()).collect();
    for _ in 0..10 {
        look_up(&mut table, packet(0, FORTH), 1).unwrap();
    }
    table.insert(&packet(3, FORTH), 1).unwrap();
    assert_eq!(ids.map_by(|id| table.flow(id).is_some()), [false, true, true]);
    // The second in the order is answered: the third is the oldest then.
    look_up(&mut table, packet(1, BACK), 1).unwrap();
    look_up(&mut table, packet(1, FORTH), 1).unwrap();
    table.insert(&packet(4, FORTH), 1).unwrap();
    table.insert(&packet(5, FORTH), 1).unwrap();
    assert_eq!(ids.map_by(|id| table.flow(id).is_some()), [false, true, false]);
}

trait MapBy {
    fn map_by(&self, fact: impl FnMut(FlowId) -> bool) -> Vec<bool>;
}

impl MapBy for Vec<FlowId> {
    fn map_by(&self, fact: impl FnMut(FlowId) -> bool) -> Vec<bool> {
        self.iter().copied().map(fact).collect()
    }
}

#[test]
fn a_table_full_of_answered_flows_refuses_new_ones_and_counts_them() {
    let limits = Limits::for_flows(50);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let ids: Vec<FlowId> = (0..50).map(|flow| establish(&mut table, flow, 0)).collect();
    assert_eq!(table.insert(&packet(50, FORTH), 0), Err(Refused::Full { flows: 50 }));
    assert_eq!((table.counters().refused_full, table.len()), (1, 50));
    assert!(table.remove(ids[7]));
    table.insert(&packet(50, FORTH), 0).unwrap();
    // The new one is unanswered, so the next one takes its place.
    table.insert(&packet(51, FORTH), 0).unwrap();
    assert_eq!((table.counters().evicted_unanswered, table.len()), (1, 50));
}

#[test]
fn a_table_takes_as_many_flows_as_it_was_made_for() {
    for flows in [1, 25, 1000, 100_000] {
        let limits = Limits { unanswered: flows, ..Limits::for_flows(flows) };
        let mut memory = memory(flows);
        let mut table = table(&mut memory, limits);
        for flow in 0..flows.into() {
            table.insert(&packet(flow, FORTH), 0).unwrap();
        }
        assert_eq!((table.len(), table.counters().refused_buckets_full), (flows, 0));
        let packets: Vec<Packet> = (0..2 * u64::from(flows)).map(|flow| packet(flow, FORTH)).collect();
        let mut found = vec![None; packets.len()];
        table.lookup_bulk(&packets, 0, &mut found);
        let (known, unknown) = found.split_at(flows as usize);
        assert!(known.iter().all(Option::is_some) && unknown.iter().all(Option::is_none));
        assert_eq!((table.counters().hits, table.counters().misses), (flows.into(), flows.into()));
    }
}

#[test]
fn flows_that_share_bucket_and_tag_are_told_apart_by_their_keys() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let place = |flow| {
        let hash = Seed::new(SEED).hash(&packet(flow, FORTH).key);
        (hash.tag(), hash.first(table.bucket_count()))
    };
    let own = place(0);
    let lookalike = (1..).find(|flow| place(*flow) == own).unwrap();
    let id = table.insert(&packet(0, FORTH), 0).unwrap();
    assert_eq!(look_up(&mut table, packet(lookalike, FORTH), 0), None);
    let other = table.insert(&packet(lookalike, FORTH), 0).unwrap();
    assert_eq!(look_up(&mut table, packet(0, FORTH), 0), Some(id));
    assert_eq!(look_up(&mut table, packet(lookalike, FORTH), 0), Some(other));
}

#[test]
fn flows_beyond_their_first_bucket_are_found_in_the_second() {
    let limits = Limits { unanswered: 48, ..Limits::for_flows(48) };
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let seed = Seed::new(SEED);
    let of_one_bucket = |flow: &u64| seed.hash(&packet(*flow, FORTH).key).first(2) == 0;
    let flows: Vec<u64> = (0..).filter(of_one_bucket).take(48).collect();
    let ids: Vec<FlowId> = flows.iter().map(|flow| table.insert(&packet(*flow, FORTH), 0).unwrap()).collect();
    assert!(table.buckets[0].spilled > 15);
    for (flow, id) in flows.iter().zip(&ids) {
        assert_eq!(look_up(&mut table, packet(*flow, FORTH), 0), Some(*id));
    }
    for id in ids {
        assert!(table.remove(id));
    }
    assert_eq!((table.buckets[0].spilled, table.len()), (0, 0));
}

#[test]
fn flows_whose_buckets_are_full_are_refused_and_counted() {
    let limits = Limits { unanswered: 100, ..Limits::for_flows(100) };
    let mut memory = vec![Line::zeroed(); FlowTable::lines_for(100)];
    let mut table = table(&mut memory, limits);
    // Nobody can do this who does not know the seed: flows that have the same two buckets.
    let seed = Seed::new(SEED);
    let buckets = table.bucket_count();
    let of_two_buckets = |flow: &u64| {
        let hash = seed.hash(&packet(*flow, FORTH).key);
        (hash.first(buckets), hash.second(buckets)) == (0, 1)
    };
    let mut flows = (0..).filter(of_two_buckets);
    for flow in flows.by_ref().take(62) {
        table.insert(&packet(flow, FORTH), 0).unwrap();
    }
    let one_more = packet(flows.next().unwrap(), FORTH);
    assert_eq!(table.insert(&one_more, 0), Err(Refused::BucketsFull));
    assert_eq!((table.counters().refused_buckets_full, table.len()), (1, 62));
}

#[test]
fn where_flows_meet_hangs_on_the_seed() {
    let meet = |seed: &Seed| {
        let first = |flow| seed.hash(&packet(flow, FORTH).key).first(1 << 10);
        (1..20_000).filter(|flow| first(*flow) == first(0)).collect::<Vec<u64>>()
    };
    let other = Seed::new(SEED.map(u64::swap_bytes));
    assert_ne!(meet(&Seed::new(SEED)), meet(&other));
}

#[test]
fn an_id_of_a_flow_that_has_ended_names_nothing_even_when_the_slot_is_in_use_again() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let id = table.insert(&packet(0, FORTH), 0).unwrap();
    assert!(table.remove(id));
    assert!(!table.remove(id));
    let next = table.insert(&packet(0, FORTH), 0).unwrap();
    assert_eq!(next.slot, id.slot);
    assert_eq!(table.flow(id), None);
    assert!(!table.pin(id, 0, Some(1)) && !table.decide(id, FORTH, NonZeroU32::MIN));
    assert!(table.flow(next).is_some());
}

#[test]
fn an_id_of_another_table_names_nothing_beyond_the_last_slot() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let table = table(&mut memory, limits);
    assert_eq!(table.flow(FlowId { slot: u32::MAX, generation: NonZeroU32::MIN }), None);
}

#[test]
fn a_second_packet_of_a_new_flow_in_the_same_burst_is_of_that_flow() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let id = table.insert(&packet(0, FORTH), 5).unwrap();
    assert_eq!(table.insert(&packet(0, FORTH), 5), Ok(id));
    let flow = table.flow(id).unwrap();
    assert_eq!((table.len(), flow.packets, flow.bytes), (1, 2, 200));
}

#[test]
fn packets_and_bytes_add_up_beyond_what_the_line_counts() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let longest = Packet { bytes: u16::MAX, ..packet(0, FORTH) };
    let id = table.insert(&longest, 1).unwrap();
    let burst = [longest; BURST];
    let rounds = 3 * u64::from(ACCOUNT_PACKETS) / 32 + 1;
    for at in 0..rounds {
        table.lookup_bulk(&burst, 2 + at, &mut [None; BURST]);
    }
    let flow = table.flow(id).unwrap();
    let packets = 1 + 32 * rounds;
    assert_eq!((flow.packets, flow.bytes), (packets, packets * 65_535));
    assert_eq!((flow.first_seen_ms, u64::from(flow.last_seen_ms)), (1, 1 + rounds));
}

#[test]
fn a_flow_ends_when_no_packet_came_for_its_time_and_not_one_millisecond_earlier() {
    let limits = Limits { idle_ms: 100, unanswered_idle_ms: 10, ..Limits::for_flows(100) };
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    // The low half of the clock wraps in between.
    let from_ms = (7 << 32) - 5;
    let answered = establish(&mut table, 0, from_ms);
    let opened = table.insert(&packet(1, FORTH), from_ms).unwrap();
    let mut ended = Vec::new();
    let mut sweep = |table: &mut FlowTable<'_>, ms| {
        table.expire(from_ms + ms, table.buckets(), |flow, end| ended.push((flow.id, end, ms)));
    };
    [9, 10, 99, 100].iter().for_each(|ms| sweep(&mut table, *ms));
    assert_eq!(ended, [(opened, End::Idle, 10), (answered, End::Idle, 100)]);
    assert_eq!((table.len(), table.unanswered(), table.counters().expired_idle), (0, 0, 2));
}

#[test]
fn a_flow_with_packets_ends_at_its_hard_limit_only() {
    let limits = Limits { idle_ms: 10, hard_ms: Some(25), ..Limits::for_flows(100) };
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let id = establish(&mut table, 0, 0);
    for now_ms in 1..=25 {
        assert_eq!(look_up(&mut table, packet(0, FORTH), now_ms), Some(id), "{now_ms}");
        table.expire(now_ms, table.buckets(), |_, end| assert_eq!((end, now_ms), (End::Hard, 25)));
    }
    assert_eq!((table.len(), table.counters().expired_hard), (0, 1));
}

#[test]
fn a_sweep_with_an_older_clock_than_the_packets_ends_nobody() {
    let limits = Limits { hard_ms: Some(10), ..Limits::for_flows(100) };
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    table.insert(&packet(0, FORTH), 1000).unwrap();
    table.expire(999, table.buckets(), |_, _| unreachable!());
}

#[test]
fn a_sweep_of_a_few_buckets_a_turn_comes_by_everybody_once_a_round() {
    let limits = Limits { unanswered: 1000, unanswered_idle_ms: 1, ..Limits::for_flows(1000) };
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    for flow in 0..1000 {
        table.insert(&packet(flow, FORTH), 0).unwrap();
    }
    let turns = table.buckets().div_ceil(3);
    for turn in 1..=turns {
        let before = table.len();
        table.expire(1, 3, |_, _| {});
        assert!(before - table.len() <= 3 * LANES);
        assert_eq!(table.is_empty(), turn == turns);
    }
}

#[test]
fn a_decision_holds_for_its_direction_until_the_next_epoch() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let id = table.insert(&packet(0, FORTH), 0).unwrap();
    let (one, two) = (NonZeroU32::new(1).unwrap(), NonZeroU32::new(2).unwrap());
    assert_eq!(table.decision(id, FORTH), None);
    assert!(table.decide(id, FORTH, one));
    assert_eq!((table.decision(id, FORTH), table.decision(id, BACK)), (Some(one), None));
    table.begin_epoch();
    assert_eq!((table.decision(id, FORTH), table.decision(id, BACK)), (None, None));
    assert!(table.decide(id, BACK, two));
    assert_eq!((table.decision(id, FORTH), table.decision(id, BACK)), (None, Some(two)));
}

#[test]
fn a_decision_does_not_come_back_when_epochs_wrap() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let id = table.insert(&packet(0, FORTH), 0).unwrap();
    assert!(table.decide(id, FORTH, NonZeroU32::MIN));
    for _ in 0..2 * u32::from(u16::MAX) {
        table.begin_epoch();
        assert_eq!(table.decision(id, FORTH), None);
    }
}

#[test]
fn a_new_flow_in_a_used_slot_has_neither_decisions_nor_pins() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let id = table.insert(&packet(0, FORTH), 0).unwrap();
    assert!(table.decide(id, FORTH, NonZeroU32::MIN) && table.pin(id, 3, Some(0)));
    assert!(table.remove(id));
    let id = table.insert(&packet(0, FORTH), 0).unwrap();
    assert_eq!((table.decision(id, FORTH), table.pinned(id, 3)), (None, None));
}

#[test]
fn a_pin_holds_at_each_hop_there_is_and_at_none_behind() {
    let limits = Limits::for_flows(10);
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let id = table.insert(&packet(0, FORTH), 0).unwrap();
    assert!(table.pin(id, 15, Some(9)) && !table.pin(id, 16, Some(9)));
    table.begin_epoch();
    assert_eq!((table.pinned(id, 15), table.pinned(id, 14), table.pinned(id, 16)), (Some(9), None, None));
    assert!(table.pin(id, 15, None));
    assert_eq!(table.pinned(id, 15), None);
}

#[test]
fn all_flows_are_listed_once_in_pieces() {
    let limits = Limits { unanswered: 500, ..Limits::for_flows(500) };
    let mut memory = memory(limits.flows);
    let mut table = table(&mut memory, limits);
    let mut entered: Vec<FlowId> =
        (0..500).map(|flow| table.insert(&packet(flow, FORTH), 0).unwrap()).collect();
    let pieces = (0..=table.buckets()).step_by(2);
    let mut listed: Vec<FlowId> =
        pieces.flat_map(|from| table.flows_of(from, 2).map(|flow| flow.id).collect::<Vec<_>>()).collect();
    entered.sort_by_key(|id| id.slot);
    listed.sort_by_key(|id| id.slot);
    assert_eq!(entered, listed);
}

#[test]
fn refuses_limits_that_contradict_each_other() {
    let mut memory = memory(10);
    let mut refused = |limits| FlowTable::new(&mut memory, Seed::new(SEED), limits).map(|_| ()).unwrap_err();
    let good = Limits::for_flows(10);
    let flows = |flows, unanswered| Limits { flows, unanswered, ..good };
    assert_eq!(refused(flows(0, 1)), SetupError::Flows { flows: 0, unanswered: 1 });
    assert_eq!(refused(flows(10, 0)), SetupError::Flows { flows: 10, unanswered: 0 });
    assert_eq!(refused(flows(10, 11)), SetupError::Flows { flows: 10, unanswered: 11 });
    assert_eq!(refused(Limits { idle_ms: 0, ..good }), SetupError::Time { ms: 0 });
    assert_eq!(refused(Limits { hard_ms: Some(1 << 31), ..good }), SetupError::Time { ms: 1 << 31 });
    assert_eq!(refused(flows(u32::MAX, 1)), SetupError::TooMany { flows: u32::MAX, max: 1 << 30 });
}

#[test]
fn takes_exactly_the_memory_that_it_asks_for_and_refuses_one_line_less() {
    let limits = Limits::for_flows(1000);
    let mut memory = memory(1000);
    assert!(FlowTable::new(&mut memory, Seed::new(SEED), limits).is_ok());
    let (needed, lines) = (memory.len(), memory.len() - 1);
    let refused = FlowTable::new(&mut memory[1..], Seed::new(SEED), limits).map(|_| ()).unwrap_err();
    assert_eq!(refused, SetupError::Memory { flows: 1000, needed, lines });
    assert_eq!(refused.to_string(), format!("1000 flows need {needed} lines of 64 bytes, got {lines}"));
}
