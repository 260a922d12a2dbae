//! The passage against the two steps that it stands for, at every bit of descriptor and ledger entry.

use shm_ring::desc::Verdict;

use super::*;
use crate::fault::DescFault;
use crate::handover::{Ingress, Loan};
use crate::ids::{BufferIndex, ChainId, PortId};
use crate::shard::Shard;

const FIRST: u32 = 1000;
const SIZE: usize = 6;
const GIVER: EndpointId = EndpointId(3);
const OTHER: EndpointId = EndpointId(4);
const LIMITS: FrameLimits = FrameLimits { stride_bytes: 2368, frame_bytes_min: 14, frame_bytes_max: 1522 };
const WAS: PacketPath =
    PacketPath { chain: ChainId(1), hop: 2, visited: 3, ingress_port: PortId(4), flow_hash: 5 };
const NEXT: PacketPath = PacketPath { hop: 3, visited: 4, ..WAS };
const MARK: u32 = 4;

/// The ledger of a shard with three packets lent to the giver, and their descriptors on the way back.
fn lent() -> (Vec<LedgerEntry>, Vec<u32>, Vec<RawDesc>) {
    let (mut entries, mut stack) = (vec![LedgerEntry::default(); SIZE], vec![0; SIZE]);
    let mut shard = Shard::fresh(FIRST, &mut entries, &mut stack).unwrap();
    let mut indices = [0; 3];
    assert!(shard.take(&mut indices));
    let ingress = Ingress { path: WAS, vlan: 6, class: 7, offload_flags: 8, host_time_ms: 9 };
    let descs = indices.map(|buffer_index| {
        assert!(shard.received(BufferIndex(buffer_index), &ingress));
        let loan = Loan { endpoint: GIVER, sequence: 77, kind: Kind::Packet, path: WAS };
        let generation = shard.lend(BufferIndex(buffer_index), &loan).unwrap();
        let (data_offset_bytes, data_len_bytes) = (128, 64);
        let code = Verdict::Next as u8;
        Desc { buffer_index, data_offset_bytes, data_len_bytes, generation, code, flags: 0, aux: 0 }.pack()
    });
    (entries, stack, descs.to_vec())
}

/// A shard over this ledger in which the giver holds three buffers.
fn over<'f>(entries: &'f mut [LedgerEntry], stack: &'f mut [u32]) -> Shard<'f> {
    let mut shard = Shard::over(FIRST, entries, stack).unwrap();
    shard.held[GIVER.index()] = 3;
    shard
}

/// Passes on what it can of `descs`, from the front, to ring position 90; how many.
fn pass_on(shard: &mut Shard<'_>, passage: &Passage, descs: &mut [RawDesc]) -> usize {
    let mut passing = shard.passing(passage, &LIMITS, 90);
    let carried = descs.iter_mut().map_while(|desc| passing.carry(*desc).map(|lent_on| *desc = lent_on));
    carried.count()
}

fn passage(to: EndpointId) -> Passage {
    let (mut entries, mut stack, descs) = lent();
    let returned = over(&mut entries, &mut stack).take_back(GIVER, descs[0], &LIMITS).unwrap();
    Passage::of(GIVER, &returned, to, NEXT, MARK, true).unwrap()
}

/// What the two steps make of a descriptor whose question is the passage's; none for another question.
fn in_two_steps(shard: &mut Shard<'_>, raw: RawDesc, to: EndpointId) -> Result<Option<RawDesc>, DescFault> {
    let returned = shard.take_back(GIVER, raw, &LIMITS)?;
    let asked = (returned.path, returned.verdict, returned.aux, returned.kind);
    if asked != (WAS, Verdict::Next, 0, Kind::Packet) {
        return Ok(None);
    }
    let loan = Loan { endpoint: to, sequence: 90, kind: Kind::Packet, path: NEXT };
    let generation = shard.lend(returned.index, &loan).unwrap();
    let code = Kind::Packet as u8;
    Ok(Some(Desc { generation, code, aux: MARK, ..raw.unpack() }.pack()))
}

/// Passes one descriptor on, over two ledgers alike, and in two steps; both must do the same. True: it passed.
fn agrees(entries: &[LedgerEntry], raw: RawDesc, to: EndpointId) -> bool {
    let (mut passed_entries, mut stepped_entries) = (entries.to_vec(), entries.to_vec());
    let (mut passed_stack, mut stepped_stack) = (vec![0; SIZE], vec![0; SIZE]);
    let mut descs = [raw];
    let mut passing = over(&mut passed_entries, &mut passed_stack);
    let passed = pass_on(&mut passing, &passage(to), &mut descs);
    let held_passed = (passing.held_by(GIVER), passing.held_by(to));
    let mut stepping = over(&mut stepped_entries, &mut stepped_stack);
    let expected = in_two_steps(&mut stepping, raw, to);
    let held_stepped = (stepping.held_by(GIVER), stepping.held_by(to));
    match expected {
        Ok(Some(lent_on)) => {
            assert_eq!((passed, descs[0]), (1, lent_on), "{raw:x?}");
            assert_eq!(held_passed, held_stepped);
            assert_eq!(passed_entries, stepped_entries);
        }
        Ok(None) | Err(_) => {
            assert_eq!((passed, descs[0]), (0, raw), "{raw:x?}");
            assert_eq!(passed_entries, entries);
        }
    }
    passed == 1
}

#[test]
fn does_what_the_two_steps_do_whichever_bits_of_a_descriptor_change() {
    let (entries, _, descs) = lent();
    let flip = |raw: RawDesc, bit: u32| match bit {
        0..64 => RawDesc { word0: raw.word0 ^ 1 << bit, ..raw },
        _ => RawDesc { word1: raw.word1 ^ 1 << (bit - 64), ..raw },
    };
    for to in [GIVER, OTHER] {
        assert!(agrees(&entries, descs[1], to));
        for one in 0..128 {
            agrees(&entries, flip(descs[1], one), to);
            for other in one + 1..128 {
                agrees(&entries, flip(flip(descs[1], one), other), to);
            }
        }
    }
}

#[test]
fn does_what_the_two_steps_do_at_the_limits_of_lengths() {
    let (entries, _, descs) = lent();
    let with = |data_offset_bytes, data_len_bytes| {
        agrees(&entries, Desc { data_offset_bytes, data_len_bytes, ..descs[0].unpack() }.pack(), OTHER)
    };
    assert!(with(128, 14) && !with(128, 13));
    assert!(with(128, 1522) && !with(128, 1523));
    assert!(with(2368 - 64, 64) && !with(2368 - 63, 64));
    assert!(!with(u16::MAX, 64), "the end wraps in 16 bits");
}

#[test]
fn does_what_the_two_steps_do_whichever_field_of_the_entry_changes() {
    type Change = fn(&mut LedgerEntry, u8);
    let changes: [(Change, bool); 14] = [
        (|entry, by| entry.state ^= by, false),
        (|entry, by| entry.hop ^= by, false),
        (|entry, by| entry.class ^= by, true),
        (|entry, by| entry.offload_flags ^= by, true),
        (|entry, by| entry.endpoint ^= u16::from(by), false),
        (|entry, by| entry.endpoint ^= u16::from(by) << 8, false),
        (|entry, by| entry.generation ^= u16::from(by) << 8, false),
        (|entry, by| entry.chain ^= u16::from(by) << 8, false),
        (|entry, by| entry.ingress_port ^= u16::from(by), false),
        (|entry, by| entry.vlan ^= u16::from(by), true),
        (|entry, by| entry.flow_hash ^= u32::from(by) << 24, false),
        (|entry, by| entry.ring_sequence ^= u32::from(by), true),
        (|entry, by| entry.visited ^= by, false),
        (|entry, by| entry.host_time_ms ^= u32::from(by), true),
    ];
    let (entries, _, descs) = lent();
    let at = (descs[1].unpack().buffer_index - FIRST) as usize;
    for (change, passes) in changes {
        for bit in 0..8 {
            let mut entries = entries.clone();
            change(&mut entries[at], 1 << bit);
            assert_eq!(agrees(&entries, descs[1], OTHER), passes, "{:?}", entries[at]);
        }
    }
    let mut entries = entries.clone();
    entries[at].kind = Kind::Empty as u8;
    assert!(!agrees(&entries, descs[1], OTHER));
}

#[test]
fn passes_every_flow_on_where_none_gets_an_answer_of_its_own_and_keeps_its_hash() {
    let (mut entries, mut stack, mut descs) = lent();
    let at = (descs[1].unpack().buffer_index - FIRST) as usize;
    entries[at].flow_hash = 99;
    let returned =
        over(&mut entries.clone(), &mut stack.clone()).take_back(GIVER, descs[0], &LIMITS).unwrap();
    let of_one_flow = Passage::of(GIVER, &returned, OTHER, NEXT, MARK, true).unwrap();
    let of_any_flow = Passage::of(GIVER, &returned, OTHER, NEXT, MARK, false).unwrap();
    let mut shard = over(&mut entries, &mut stack);
    assert_eq!(pass_on(&mut shard, &of_one_flow, &mut descs[1..].to_vec()), 0);
    assert_eq!(pass_on(&mut shard, &of_any_flow, &mut descs), 3);
    assert_eq!(entries[at].path(), PacketPath { flow_hash: 99, ..NEXT });
}

#[test]
fn is_none_for_a_packet_that_changes_its_chain() {
    let (mut entries, mut stack, descs) = lent();
    let returned = over(&mut entries, &mut stack).take_back(GIVER, descs[0], &LIMITS).unwrap();
    let elsewhere = PacketPath { chain: ChainId(9), ..NEXT };
    assert!(Passage::of(GIVER, &returned, OTHER, elsewhere, MARK, false).is_none());
}

#[test]
fn stops_in_front_of_the_first_that_does_not_fit_and_counts_the_rest_as_not_passed() {
    let (mut entries, mut stack, mut descs) = lent();
    descs[1].word1 ^= 1;
    let unfit = descs[1..].to_vec();
    let mut shard = over(&mut entries, &mut stack);
    assert_eq!(pass_on(&mut shard, &passage(OTHER), &mut descs), 1);
    assert_eq!(descs[1..], unfit);
    assert_eq!((shard.held_by(GIVER), shard.held_by(OTHER)), (2, 1));
}

#[test]
fn refuses_the_same_descriptor_again() {
    let (mut entries, mut stack, descs) = lent();
    let mut twice = [descs[0], descs[0]];
    assert_eq!(pass_on(&mut over(&mut entries, &mut stack), &passage(GIVER), &mut twice), 1);
}

#[test]
fn a_quota_has_room_for_what_its_holder_gives_and_gets_again_up_to_its_limit() {
    let (mut entries, mut stack, _) = lent();
    let shard = over(&mut entries, &mut stack);
    assert_eq!(shard.quota_left(GIVER, GIVER, 3), u32::MAX);
    assert_eq!(shard.quota_left(GIVER, GIVER, 2), 0);
    assert_eq!(shard.quota_left(GIVER, OTHER, 3), 0);
    assert_eq!(shard.quota_left(GIVER, OTHER, 5), 2);
}
