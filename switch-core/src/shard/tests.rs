//! Each operation of a shard at its limits, and against the table of transitions.

use shm_ring::desc::{Desc, Verdict};

use super::*;
use crate::audit::{AuditFinding, InHand};
use crate::ids::{ChainId, PortId};
use crate::ledger::PacketPath;
use crate::transition::{LEGAL, PROHIBITED};

const FIRST: u32 = 1000;
const SIZE: u32 = 6;
const RED: EndpointId = EndpointId(3);
const BLUE: EndpointId = EndpointId(4);
const LIMITS: FrameLimits = FrameLimits { stride_bytes: 2368, frame_bytes_min: 14, frame_bytes_max: 1522 };
const PATH: PacketPath =
    PacketPath { chain: ChainId(1), hop: 2, visited: 3, ingress_port: PortId(4), flow_hash: 5 };
const INGRESS: Ingress = Ingress { path: PATH, vlan: 6, class: 7, offload_flags: 8, host_time_ms: 9 };

/// The memory of a shard; in the switch, a part of the ledger file.
struct Memory {
    entries: Vec<LedgerEntry>,
    stack: Vec<u32>,
}

impl Memory {
    fn new() -> Self {
        Self { entries: vec![LedgerEntry::default(); SIZE as usize], stack: vec![0; SIZE as usize] }
    }

    fn shard(&mut self) -> Shard<'_> {
        Shard::fresh(FIRST, &mut self.entries, &mut self.stack).unwrap()
    }
}

fn received(shard: &mut Shard<'_>) -> BufferIndex {
    let mut out = [0];
    assert!(shard.take(&mut out));
    assert!(shard.received(BufferIndex(out[0]), &INGRESS));
    BufferIndex(out[0])
}

fn lent(shard: &mut Shard<'_>, endpoint: EndpointId, kind: Kind) -> Desc {
    let index = received(shard);
    let loan = Loan { endpoint, sequence: 77, kind, path: PATH };
    let generation = shard.lend(index, &loan).unwrap();
    Desc {
        buffer_index: index.0,
        data_offset_bytes: 128,
        data_len_bytes: 64,
        generation,
        code: Verdict::Next as u8,
        flags: 0,
        aux: 0,
    }
}

fn give_back(shard: &mut Shard<'_>, desc: Desc) -> Result<Returned, DescFault> {
    shard.take_back(RED, desc.pack(), &LIMITS)
}

/// A fault must leave everything as it was.
fn assert_refused(shard: &mut Shard<'_>, desc: Desc, fault: DescFault) {
    let before = (shard.audit(), shard.entries.to_vec());
    assert_eq!(give_back(shard, desc), Err(fault));
    assert_eq!((shard.audit(), shard.entries.to_vec()), before);
}

#[test]
fn a_fresh_shard_gives_out_the_lowest_indices_first() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let mut out = [0; 3];
    assert!(shard.take(&mut out));
    assert_eq!(out, [FIRST, FIRST + 1, FIRST + 2]);
    assert_eq!(shard.available(), 3);
}

#[test]
fn takes_all_that_the_pool_has() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    assert!(shard.take(&mut [0; SIZE as usize]));
    assert_eq!(shard.available(), 0);
}

#[test]
fn takes_nothing_when_one_more_is_wanted_than_the_pool_has() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    assert!(!shard.take(&mut [0; SIZE as usize + 1]));
    assert_eq!(shard.available(), SIZE);
}

#[test]
fn a_packet_goes_out_and_comes_home_with_what_the_host_noted() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    assert_eq!(shard.held_by(RED), 1);
    let returned = give_back(&mut shard, Desc { aux: 42, ..desc }).unwrap();
    let expected = Returned {
        index: BufferIndex(desc.buffer_index),
        data_offset_bytes: 128,
        data_len_bytes: 64,
        kind: Kind::Packet,
        verdict: Verdict::Next,
        aux: 42,
        path: PATH,
    };
    assert_eq!(returned, expected);
    assert_eq!(shard.held_by(RED), 0);
    let entry = shard.entry(returned.index).unwrap();
    assert_eq!((entry.vlan, entry.class, entry.offload_flags, entry.host_time_ms), (6, 7, 8, 9));
    assert!(shard.send(returned.index));
    shard.give(&[returned.index.0]);
    assert_eq!(shard.available(), SIZE);
    assert_eq!(shard.faults().total(), 0);
}

#[test]
fn refuses_a_replayed_descriptor() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let old = lent(&mut shard, RED, Kind::Packet);
    let returned = give_back(&mut shard, old).unwrap();
    // At home: nobody holds it.
    assert_refused(&mut shard, old, DescFault::NotHeld { index: FIRST, state: HolderState::Lcore as u8 });
    // Lent to the same endpoint again: the old descriptor is of another loan.
    shard.give(&[returned.index.0]);
    let new = lent(&mut shard, RED, Kind::Packet);
    assert_eq!(new.buffer_index, old.buffer_index);
    let (given, current) = (old.generation, new.generation);
    assert_refused(&mut shard, old, DescFault::WrongGeneration { index: FIRST, given, current });
    assert!(give_back(&mut shard, new).is_ok());
}

#[test]
fn the_generation_wraps_without_a_fault() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    shard.entries[0].generation = u16::MAX;
    let desc = lent(&mut shard, RED, Kind::Packet);
    assert!(give_back(&mut shard, desc).is_ok());
    assert_eq!(shard.entries[0].generation, 0);
}

#[test]
fn refuses_a_buffer_that_another_endpoint_holds() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, BLUE, Kind::Packet);
    assert_refused(&mut shard, desc, DescFault::OtherHolder { index: FIRST, holder: BLUE });
}

#[test]
fn refuses_an_index_of_another_shard() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    for index in [0, FIRST - 1, FIRST + SIZE, FIRST + 2 * SIZE, 1 << 31, (1 << 31) + FIRST, u32::MAX] {
        let fault = DescFault::ForeignIndex { index, first: FIRST, size: SIZE };
        assert_refused(&mut shard, Desc { buffer_index: index, ..desc }, fault);
    }
}

#[test]
fn the_outside_mask_is_zero_inside_and_all_ones_outside() {
    for size in [1, 6, 4096, 1 << 31] {
        for local in [0, size / 2, size - 1] {
            assert_eq!(outside_mask(local, size), 0, "{local} of {size}");
        }
        for local in [size, size + 1, i32::MAX.cast_unsigned().max(size), (1 << 31) + (size - 1), u32::MAX] {
            assert_eq!(outside_mask(local, size), u32::MAX, "{local} of {size}");
        }
    }
    assert_eq!(outside_mask(0, 0), u32::MAX);
}

#[test]
fn accepts_the_last_index_of_the_shard() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    assert!(shard.take(&mut [0; SIZE as usize - 1]));
    let desc = lent(&mut shard, RED, Kind::Packet);
    assert_eq!(desc.buffer_index, FIRST + SIZE - 1);
    assert!(give_back(&mut shard, desc).is_ok());
}

#[test]
fn accepts_data_that_ends_exactly_at_the_buffer_end() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    assert!(give_back(&mut shard, Desc { data_offset_bytes: 2304, ..desc }).is_ok());
}

#[test]
fn refuses_data_one_byte_past_the_buffer() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    let fault = DescFault::PastBuffer { data_offset_bytes: 2305, data_len_bytes: 64, stride_bytes: 2368 };
    assert_refused(&mut shard, Desc { data_offset_bytes: 2305, ..desc }, fault);
}

#[test]
fn refuses_an_offset_that_would_wrap_16_bits() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    let fault = DescFault::PastBuffer { data_offset_bytes: u16::MAX, data_len_bytes: 65, stride_bytes: 2368 };
    assert_refused(&mut shard, Desc { data_offset_bytes: u16::MAX, data_len_bytes: 65, ..desc }, fault);
}

#[test]
fn refuses_data_past_the_buffer_also_when_the_verdict_is_drop() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = Desc { code: Verdict::Drop as u8, ..lent(&mut shard, RED, Kind::Packet) };
    let fault = DescFault::PastBuffer { data_offset_bytes: 2305, data_len_bytes: 64, stride_bytes: 2368 };
    assert_refused(&mut shard, Desc { data_offset_bytes: 2305, ..desc }, fault);
}

#[test]
fn accepts_the_longest_and_the_shortest_frame() {
    for data_len_bytes in [14, 1522] {
        let mut memory = Memory::new();
        let mut shard = memory.shard();
        let desc = lent(&mut shard, RED, Kind::Packet);
        assert!(give_back(&mut shard, Desc { data_len_bytes, ..desc }).is_ok());
    }
}

#[test]
fn refuses_a_frame_one_byte_too_long_or_too_short() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    let too_long = DescFault::FrameTooLong { frame_bytes: 1523, frame_bytes_max: 1522 };
    assert_refused(&mut shard, Desc { data_len_bytes: 1523, ..desc }, too_long);
    let too_short = DescFault::FrameTooShort { frame_bytes: 13, frame_bytes_min: 14 };
    assert_refused(&mut shard, Desc { data_len_bytes: 13, ..desc }, too_short);
}

#[test]
fn a_buffer_that_just_goes_home_needs_no_frame() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let packet = lent(&mut shard, RED, Kind::Packet);
    let empty = lent(&mut shard, RED, Kind::Empty);
    let dropped = Desc { code: Verdict::Drop as u8, data_len_bytes: 0, ..packet };
    assert_eq!(give_back(&mut shard, dropped).unwrap().kind, Kind::Packet);
    let unused = Desc { code: Verdict::ReturnEmpty as u8, data_len_bytes: 0, ..empty };
    assert_eq!(give_back(&mut shard, unused).unwrap().kind, Kind::Empty);
}

#[test]
fn refuses_a_packet_that_comes_back_as_an_unused_empty_buffer() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    let fault = DescFault::NotEmpty { index: FIRST };
    assert_refused(&mut shard, Desc { code: Verdict::ReturnEmpty as u8, ..desc }, fault);
}

#[test]
fn accepts_a_packet_made_in_an_empty_buffer() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Empty);
    let made = Desc { code: Verdict::ToPort as u8, aux: 1, ..desc };
    let returned = give_back(&mut shard, made).unwrap();
    assert_eq!((returned.kind, returned.verdict, returned.aux), (Kind::Empty, Verdict::ToPort, 1));
}

#[test]
fn refuses_codes_that_are_no_verdict_and_every_flag() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    for code in (0..=u8::MAX).filter(|code| Verdict::from_code(*code).is_none()) {
        assert_refused(&mut shard, Desc { code, ..desc }, DescFault::UnknownCode { code });
    }
    for bit in 0..8 {
        let flags = 1 << bit;
        assert_refused(&mut shard, Desc { flags, ..desc }, DescFault::UnknownFlags { flags });
    }
}

#[test]
fn the_quota_counts_what_is_quarantined() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    lent(&mut shard, RED, Kind::Packet);
    assert!(shard.is_under_quota(RED, 2));
    lent(&mut shard, RED, Kind::Packet);
    assert!(!shard.is_under_quota(RED, 2));
    assert!(shard.is_under_quota(BLUE, 2));
    assert_eq!(shard.quarantine(RED), 2);
    assert!(!shard.is_under_quota(RED, 2));
    assert_eq!(shard.reclaim(RED).len(), 2);
    assert!(shard.is_under_quota(RED, 2));
}

#[test]
fn a_late_return_of_a_quarantined_or_reclaimed_buffer_is_refused() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    assert_eq!(shard.quarantine(RED), 1);
    let state = HolderState::Quarantined as u8;
    assert_refused(&mut shard, desc, DescFault::NotHeld { index: FIRST, state });
    let home = shard.reclaim(RED);
    assert_eq!(home, [Reclaimed { index: BufferIndex(FIRST), had_packet: true }]);
    shard.give(&[FIRST]);
    let next = lent(&mut shard, RED, Kind::Packet);
    let (given, current) = (desc.generation, next.generation);
    assert_refused(&mut shard, desc, DescFault::WrongGeneration { index: FIRST, given, current });
}

#[test]
fn reclaims_exactly_what_the_endpoint_held() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let red_packet = lent(&mut shard, RED, Kind::Packet).buffer_index;
    let blue = lent(&mut shard, BLUE, Kind::Packet);
    let red_empty = lent(&mut shard, RED, Kind::Empty).buffer_index;
    assert_eq!(shard.quarantine(RED), 2);
    let home = shard.reclaim(RED);
    let expected = [(red_packet, true), (red_empty, false)]
        .map(|(index, had_packet)| Reclaimed { index: BufferIndex(index), had_packet });
    assert_eq!(home, expected);
    assert_eq!((shard.held_by(RED), shard.held_by(BLUE)), (0, 1));
    assert!(shard.take_back(BLUE, blue.pack(), &LIMITS).is_ok());
}

#[test]
fn a_proof_about_an_earlier_attach_leaves_what_is_lent_under_the_present_one() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let old = lent(&mut shard, RED, Kind::Packet).buffer_index;
    assert_eq!(shard.quarantine(RED), 1);
    let new = lent(&mut shard, RED, Kind::Packet);
    assert_eq!(shard.held_by(RED), 2);
    assert_eq!(shard.reclaim(RED), [Reclaimed { index: BufferIndex(old), had_packet: true }]);
    assert_eq!(shard.held_by(RED), 1);
    assert!(give_back(&mut shard, new).is_ok());
}

#[test]
fn an_endpoint_beyond_the_limit_gets_no_loan() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let index = received(&mut shard);
    let loan = Loan { endpoint: EndpointId(1024), sequence: 0, kind: Kind::Packet, path: PATH };
    assert_eq!(shard.lend(index, &loan), None);
    assert_eq!(shard.faults().get(LedgerFault::LendNotLcore), 1);
    assert!(shard.lend(index, &Loan { endpoint: EndpointId(1023), ..loan }).is_some());
}

#[test]
fn a_shard_needs_a_free_list_of_its_own_length() {
    let error = Shard::fresh(0, &mut [LedgerEntry::default(); 2], &mut [0; 3]).map(|_| ()).unwrap_err();
    assert_eq!(error, ShardError::Lengths { entries: 2, slots: 3 });
}

#[test]
fn the_last_index_of_a_shard_is_below_2_to_the_31() {
    let mut entries = [LedgerEntry::default(); 2];
    assert!(Shard::fresh((1 << 31) - 2, &mut entries, &mut [0; 2]).is_ok());
    let error = Shard::fresh((1 << 31) - 1, &mut entries, &mut [0; 2]).map(|_| ()).unwrap_err();
    assert_eq!(error, ShardError::TooMany { entries: 2, first: (1 << 31) - 1 });
}

/// Puts the first buffer into `state`, everything else being in the pool.
fn put_into(shard: &mut Shard<'_>, state: HolderState) {
    match state {
        HolderState::Pool => {}
        HolderState::Pmd => assert!(shard.take(&mut [0])),
        HolderState::Lcore => assert_eq!(received(shard), BufferIndex(FIRST)),
        HolderState::Endpoint => assert_eq!(lent(shard, RED, Kind::Packet).buffer_index, FIRST),
        HolderState::Quarantined => {
            put_into(shard, HolderState::Endpoint);
            assert_eq!(shard.quarantine(RED), 1);
        }
        HolderState::Pinned => {
            put_into(shard, HolderState::Lcore);
            assert!(shard.observe(BufferIndex(FIRST)));
            shard.give(&[FIRST]);
        }
    }
}

type Operation = fn(&mut Shard<'_>);

/// Each operation on the first buffer, and where it takes a buffer.
const OPERATIONS: [(&str, HolderState, Operation); 10] = [
    ("take", HolderState::Pmd, |shard| {
        let _ = shard.take(&mut [0]);
    }),
    ("give", HolderState::Pool, |shard| shard.give(&[FIRST])),
    ("give", HolderState::Pinned, |shard| {
        let count = shard.entries[0].observer_count;
        shard.entries[0].observer_count = 1;
        shard.give(&[FIRST]);
        if shard.entries[0].holder_state() != Some(HolderState::Pinned) {
            shard.entries[0].observer_count = count;
        }
    }),
    ("unobserve", HolderState::Pool, |shard| {
        shard.unobserve(BufferIndex(FIRST));
    }),
    ("received", HolderState::Lcore, |shard| {
        let _ = shard.received(BufferIndex(FIRST), &INGRESS);
    }),
    ("send", HolderState::Pmd, |shard| {
        let _ = shard.send(BufferIndex(FIRST));
    }),
    ("lend", HolderState::Endpoint, |shard| {
        let loan = Loan { endpoint: RED, sequence: 0, kind: Kind::Packet, path: PATH };
        let _ = shard.lend(BufferIndex(FIRST), &loan);
    }),
    ("take_back", HolderState::Lcore, |shard| {
        let generation = shard.entries[0].generation;
        let desc = Desc {
            buffer_index: FIRST,
            data_offset_bytes: 0,
            data_len_bytes: 64,
            generation,
            code: Verdict::Next as u8,
            flags: 0,
            aux: 0,
        };
        let _ = shard.take_back(RED, desc.pack(), &LIMITS);
    }),
    ("quarantine", HolderState::Quarantined, |shard| {
        shard.quarantine(RED);
    }),
    ("reclaim", HolderState::Lcore, |shard| {
        let _ = shard.reclaim(RED);
    }),
];

#[test]
fn each_operation_makes_the_transitions_of_the_table_and_no_other() {
    for from in HolderState::ALL {
        for (name, to, operation) in OPERATIONS {
            let mut memory = Memory::new();
            let mut shard = memory.shard();
            put_into(&mut shard, from);
            operation(&mut shard);
            let is_legal = LEGAL.iter().any(|t| t.from == from && t.to == to && t.by == name);
            let found = shard.entries[0].holder_state().unwrap();
            let expected = if is_legal { to } else { from };
            assert_eq!(found, expected, "{name} of a buffer in {from:?}");
            let pool_is_sound = shard.audit().pool == shard.audit().pool_marked;
            assert!(pool_is_sound && shard.audit().sum() == u64::from(SIZE), "{name} of {from:?}");
            assert_eq!(shard.audit().misplaced, 0, "{name} of {from:?}");
        }
    }
    assert_eq!(LEGAL.len() + PROHIBITED.len(), 36);
}

#[test]
fn a_buffer_whose_chain_is_done_waits_for_its_observers() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let index = received(&mut shard);
    assert!(shard.observe(index) && shard.observe(index));
    assert!(shard.send(index));
    shard.give(&[index.0]);
    assert_eq!((shard.available(), shard.audit().pinned, shard.audit().references), (SIZE - 1, 1, 2));
    assert!(shard.audit().findings(InHand::default()).is_empty());
    assert!(shard.unobserve(index));
    assert_eq!(shard.audit().pinned, 1, "one still looks at it");
    assert!(shard.unobserve(index));
    assert_eq!((shard.available(), shard.audit().pinned), (SIZE, 0));
    assert_eq!(received(&mut shard), index);
}

#[test]
fn observers_that_are_done_before_the_chain_leave_no_trace() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let index = received(&mut shard);
    assert!(shard.observe(index));
    let loan = Loan { endpoint: RED, sequence: 0, kind: Kind::Packet, path: PATH };
    assert!(shard.lend(index, &loan).is_some());
    assert!(shard.unobserve(index));
    assert_eq!(shard.held_by(RED), 1);
    assert_eq!(shard.quarantine(RED), 1);
    let home = shard.reclaim(RED);
    shard.give(&[home[0].index.0]);
    assert_eq!((shard.available(), shard.faults().total()), (SIZE, 0));
}

#[test]
fn only_what_the_lcore_has_can_be_shown_to_an_observer() {
    for state in HolderState::ALL {
        let mut memory = Memory::new();
        let mut shard = memory.shard();
        put_into(&mut shard, state);
        let before = shard.entries[0];
        let is_shown = shard.observe(BufferIndex(FIRST));
        assert_eq!(is_shown, state == HolderState::Lcore, "{state:?}");
        assert!(is_shown || shard.entries[0] == before);
        assert_eq!(shard.faults().get(LedgerFault::ObserveNotLcore), u64::from(!is_shown));
        assert!(!shard.observe(BufferIndex(FIRST + SIZE)));
    }
}

#[test]
fn an_observer_too_many_and_one_too_few_are_faults_of_the_host() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let index = received(&mut shard);
    assert!(!shard.unobserve(index) && !shard.unobserve(BufferIndex(FIRST + SIZE)));
    assert_eq!(shard.faults().get(LedgerFault::UnobserveNone), 2);
    shard.entries[0].observer_count = u16::MAX - 1;
    assert!(shard.observe(index) && !shard.observe(index));
    assert_eq!(shard.entries[0].observer_count, u16::MAX);
}

#[test]
fn the_audit_finds_references_that_nobody_has_and_pins_that_nobody_needs() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    put_into(&mut shard, HolderState::Pinned);
    let in_hand = |references| InHand { references: Some(references), ..InHand::default() };
    assert_eq!(shard.audit().findings(in_hand(1)), []);
    assert_eq!(shard.audit().findings(in_hand(0)), [AuditFinding::References { counted: 1, in_hand: 0 }]);
    shard.entries[0].observer_count = 0;
    shard.entries[1].observer_count = 1;
    assert_eq!(shard.audit().findings(in_hand(1)), [AuditFinding::Misplaced { entries: 2 }]);
}

#[test]
fn freeing_twice_is_counted_and_does_not_put_the_index_on_the_free_list_twice() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let index = received(&mut shard);
    shard.give(&[index.0, index.0]);
    assert_eq!(shard.faults().get(LedgerFault::GiveNotOut), 1);
    assert!(shard.audit().findings(InHand::default()).is_empty());
}

#[test]
fn freeing_what_an_endpoint_holds_is_counted_and_it_stays_lent() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    shard.give(&[desc.buffer_index, FIRST + SIZE]);
    assert_eq!(shard.faults().get(LedgerFault::GiveNotOut), 1);
    assert_eq!(shard.faults().get(LedgerFault::GiveForeign), 1);
    assert!(give_back(&mut shard, desc).is_ok());
}

#[test]
fn the_audit_finds_a_buffer_that_the_lcore_forgot() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    let desc = lent(&mut shard, RED, Kind::Packet);
    assert!(shard.audit().findings(InHand::default()).is_empty());
    // Leaked on purpose: taken back and neither sent, lent nor given to the pool.
    let _forgotten = give_back(&mut shard, desc).unwrap();
    let findings = shard.audit().findings(InHand { lcore: 0, pmd: None, references: None });
    assert_eq!(findings, [AuditFinding::Lcore { marked: 1, in_hand: 0 }]);
    assert_eq!(findings[0].to_string(), "1 buffers marked as the lcore's, it has 0 in hand");
}

#[test]
fn the_audit_finds_a_buffer_that_fell_off_the_free_list() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    shard.depth -= 1;
    let findings = shard.audit().findings(InHand::default());
    let sum = AuditFinding::Sum { sum: u64::from(SIZE) - 1, size: SIZE };
    assert_eq!(findings, [sum, AuditFinding::Pool { pool: SIZE - 1, pool_marked: SIZE }]);
}

#[test]
fn the_audit_finds_an_index_that_is_on_the_free_list_twice() {
    let mut memory = Memory::new();
    let shard = memory.shard();
    shard.stack[0] = FIRST;
    let findings = shard.audit().findings(InHand::default());
    assert!(findings.contains(&AuditFinding::BadSlots { slots: 1 }), "{findings:?}");
}

#[test]
fn the_audit_finds_a_wrong_charge_an_unknown_state_and_a_missing_pmd_buffer() {
    let mut memory = Memory::new();
    let mut shard = memory.shard();
    lent(&mut shard, RED, Kind::Packet);
    assert!(shard.take(&mut [0; 2]));
    shard.held[RED.index()] = 5;
    shard.entries[SIZE as usize - 4].state = 0x77;
    let findings = shard.audit().findings(InHand { lcore: 0, pmd: Some(2), references: None });
    assert!(findings.contains(&AuditFinding::Held { endpoint: RED, charged: 5, walked: 1 }));
    assert!(findings.contains(&AuditFinding::Unknown { entries: 1 }));
    assert!(findings.contains(&AuditFinding::Pmd { marked: 1, in_hand: 2 }));
}
