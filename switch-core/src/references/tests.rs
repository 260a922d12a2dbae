use std::collections::BTreeMap;

use proptest::prelude::*;
use shm_ring::desc::{RawDesc, reference_aux};

use super::*;
use crate::audit::InHand;
use crate::ids::{ChainId, PortId};
use crate::ledger::{LedgerEntry, PacketPath};
use crate::shard::{Ingress, Shard};
use crate::transition::HolderState;

const MS: u32 = 100;

fn release(reference: Reference, buffer: u32) -> Desc {
    Desc {
        buffer_index: buffer,
        data_offset_bytes: 128,
        data_len_bytes: 60,
        generation: reference.generation,
        code: RELEASE,
        flags: 0,
        aux: reference_aux(3, reference.slot),
    }
}

fn two() -> (References, Reference) {
    let mut references = References::new(2, MS);
    let reference = references.bring(BufferIndex(7), 0).unwrap();
    (references, reference)
}

#[test]
fn brings_as_many_as_there_are_slots_and_not_one_more() {
    let (mut references, first) = two();
    let second = references.bring(BufferIndex(8), 0).unwrap();
    assert_ne!(first.slot, second.slot);
    assert!(!references.has_room());
    assert_eq!(references.bring(BufferIndex(9), 0), None);
    assert_eq!(references.live(), 2);
}

#[test]
fn a_reference_lasts_until_its_time_is_up_and_not_one_millisecond_longer() {
    let mut references = References::new(2, MS);
    let start = u32::MAX - 10;
    let reference = references.bring(BufferIndex(7), start).unwrap();
    assert_eq!(references.expire(start.wrapping_add(MS - 1)), None);
    let ended = references.expire(start.wrapping_add(MS)).unwrap();
    assert_eq!((ended.slot, ended.buffer), (reference.slot, BufferIndex(7)));
    assert_ne!(ended.generation, reference.generation, "whoever looks sees that it ended");
    assert_eq!(references.expire(start.wrapping_add(MS)), None);
    assert_eq!(references.live(), 0);
}

#[test]
fn a_slot_is_brought_again_only_after_it_was_given_back() {
    let mut references = References::new(1, MS);
    let reference = references.bring(BufferIndex(7), 0).unwrap();
    assert!(references.expire(MS).is_some());
    assert!(!references.has_room(), "expired, and not given back");
    assert_eq!(references.give_back(&release(reference, 7)), Ok(None), "late, and honest");
    let next = references.bring(BufferIndex(7), MS).unwrap();
    assert_ne!(next.generation, reference.generation);
}

#[test]
fn gives_back_in_any_order_and_expires_by_age() {
    let mut references = References::new(4, MS);
    let brought: Vec<_> = (0..4).map(|at| references.bring(BufferIndex(at), at).unwrap()).collect();
    assert!(references.give_back(&release(brought[1], 1)).unwrap().is_some());
    assert!(references.give_back(&release(brought[0], 0)).unwrap().is_some());
    assert!(references.give_back(&release(brought[3], 3)).unwrap().is_some());
    assert_eq!(references.expire(MS + 1), None);
    assert_eq!(references.expire(MS + 2).unwrap().buffer, BufferIndex(2));
    assert_eq!(references.expire(u32::MAX / 2), None);
}

#[test]
fn refuses_a_reference_that_is_given_back_twice() {
    let (mut references, reference) = two();
    assert!(references.give_back(&release(reference, 7)).is_ok());
    let twice = references.give_back(&release(reference, 7));
    assert_eq!(twice, Err(DescFault::ReferenceNotHeld { slot: reference.slot, index: 7 }));
}

#[test]
fn refuses_a_reference_that_was_never_brought() {
    let (mut references, reference) = two();
    let other = Reference { slot: 1 - reference.slot, generation: 0 };
    let never = references.give_back(&release(other, 7));
    assert_eq!(never, Err(DescFault::ReferenceNotHeld { slot: other.slot, index: 7 }));
    let elsewhere = references.give_back(&release(reference, 8));
    assert_eq!(elsewhere, Err(DescFault::ReferenceNotHeld { slot: reference.slot, index: 8 }));
    assert_eq!(references.live(), 1);
}

#[test]
fn refuses_a_reference_of_before() {
    let mut references = References::new(1, MS);
    let old = references.bring(BufferIndex(7), 0).unwrap();
    references.give_back(&release(old, 7)).unwrap();
    let slot = references.bring(BufferIndex(7), 0).unwrap().slot;
    let replayed = references.give_back(&release(old, 7));
    assert_eq!(replayed, Err(DescFault::ReferenceGeneration { slot, given: 0, current: 1 }));
    assert_eq!(references.live(), 1);
}

#[test]
fn refuses_a_slot_that_there_is_not_and_anything_but_a_release() {
    let (mut references, reference) = two();
    let good = release(reference, 7);
    for slot in [2, 3, u16::MAX] {
        let foreign = references.give_back(&Desc { aux: reference_aux(3, slot), ..good });
        assert_eq!(foreign, Err(DescFault::ForeignReference { slot, count: 2 }));
    }
    for code in [0, 0x03, 0x11, 0x14, 0x15, 0x17] {
        assert_eq!(references.give_back(&Desc { code, ..good }), Err(DescFault::UnknownCode { code }));
    }
    let flagged = references.give_back(&Desc { flags: 1, ..good });
    assert_eq!(flagged, Err(DescFault::UnknownFlags { flags: 1 }));
    assert!(references.give_back(&good).is_ok());
}

#[test]
fn the_end_of_an_observer_frees_every_slot() {
    let mut references = References::new(3, MS);
    let expired = references.bring(BufferIndex(1), 0).unwrap();
    assert!(references.expire(MS).is_some());
    let live = references.bring(BufferIndex(2), MS).unwrap();
    assert_eq!(references.end().unwrap().buffer, BufferIndex(2));
    assert_eq!(references.end(), None);
    assert_eq!(references.live(), 0);
    let good: BTreeMap<_, _> = references.good().collect();
    assert!(good[&expired.slot] != expired.generation && good[&live.slot] != live.generation);
    assert!((0..3).all(|at| references.bring(BufferIndex(at), 0).is_some()));
}

#[derive(Clone, Debug)]
enum Operation {
    Bring,
    /// The n-th reference that was ever brought, given back: once, again, or in its slot's next life.
    GiveBack(usize),
    /// Any words at all, near a release.
    Hostile(u64, u64),
    /// The chain is done with the packet.
    Done(u32),
    Later(u32),
    End,
}

const FIRST: u32 = 64;
const SIZE: u32 = 6;
const SLOTS: u16 = 4;

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let buffer = || FIRST..FIRST + SIZE;
    let near = (0..u64::from(FIRST + SIZE), 0..4u64, 0..6u64).prop_map(|(index, generation, slot)| {
        Hostile(index, generation | u64::from(RELEASE) << 16 | slot << 48)
    });
    prop_oneof![
        6 => Just(Bring),
        5 => any::<usize>().prop_map(GiveBack),
        3 => near,
        1 => (any::<u64>(), any::<u64>()).prop_map(|(a, b)| Hostile(a, b)),
        3 => buffer().prop_map(Done),
        2 => (0..MS).prop_map(Later),
        1 => Just(End),
    ]
}

const PATH: PacketPath =
    PacketPath { chain: ChainId(0), hop: 0, visited: 0, ingress_port: PortId(0), flow_hash: 0 };

/// A second bookkeeper, beside the ledger: what the observer has, and what each slot shows.
struct Model {
    /// Slot, generation, buffer, brought when; in the order of bringing.
    live: Vec<(Reference, u32, u32)>,
    /// Ended, not given back.
    expired: Vec<(Reference, u32)>,
    /// Every reference there ever was.
    ever: Vec<(Reference, u32)>,
    shown: BTreeMap<u16, u16>,
}

impl Model {
    /// The host's two steps: show the end, then let the buffer go.
    fn end(&mut self, shard: &mut Shard<'_>, ended: Ended) -> (Reference, u32) {
        let before = self.shown.insert(ended.slot, ended.generation);
        assert_ne!(before, Some(ended.generation), "an end must show");
        let at = self.live.iter().position(|(live, ..)| live.slot == ended.slot).expect("it was live");
        let (reference, buffer, _) = self.live.remove(at);
        assert_eq!(buffer, ended.buffer.0);
        assert!(shard.unobserve(ended.buffer));
        (reference, buffer)
    }
}

proptest! {
    #[test]
    fn whatever_an_observer_gives_back_each_reference_ends_once_and_every_buffer_comes_home(
        operations in prop::collection::vec(operation(), 1..200)
    ) {
        let (mut entries, mut stack) = (vec![LedgerEntry::default(); SIZE as usize], vec![0; SIZE as usize]);
        let mut shard = Shard::fresh(FIRST, &mut entries, &mut stack).unwrap();
        let mut references = References::new(SLOTS, MS);
        let shown = references.good().collect();
        let mut model = Model { live: Vec::new(), expired: Vec::new(), ever: Vec::new(), shown };
        let mut now_ms = u32::MAX - 500;
        for operation in operations {
            match operation {
                Operation::Bring => {
                    // A packet arrives and is shown; its chain has it until `Done`.
                    let mut index = [0];
                    if !references.has_room() || !shard.take(&mut index) {
                        continue;
                    }
                    let buffer = BufferIndex(index[0]);
                    let arrival = Ingress { path: PATH, vlan: 0, class: 0, offload_flags: 0, host_time_ms: 0 };
                    prop_assert!(shard.received(buffer, &arrival));
                    prop_assert!(shard.observe(buffer));
                    let reference = references.bring(buffer, now_ms).unwrap();
                    prop_assert_eq!(model.shown[&reference.slot], reference.generation);
                    model.live.push((reference, buffer.0, now_ms));
                    model.ever.push((reference, buffer.0));
                }
                Operation::GiveBack(number) => {
                    let Some(&(reference, buffer)) = model.ever.get(number % model.ever.len().max(1)) else { continue };
                    let given = references.give_back(&release(reference, buffer));
                    let is = |known: &(Reference, u32)| *known == (reference, buffer);
                    if model.live.iter().any(|(live, at, _)| is(&(*live, *at))) {
                        let ended = given.unwrap().unwrap();
                        prop_assert_eq!(model.end(&mut shard, ended), (reference, buffer));
                    } else if let Some(at) = model.expired.iter().position(is) {
                        prop_assert_eq!(given, Ok(None));
                        model.expired.remove(at);
                    } else {
                        prop_assert!(given.is_err(), "{:?} was taken back", reference);
                    }
                }
                Operation::Hostile(word0, word1) => {
                    let desc = RawDesc { word0, word1 }.unpack();
                    let live = references.live();
                    if let Ok(ended) = references.give_back(&desc) {
                        // By chance a good one.
                        let reference = Reference { slot: reference_slot(desc.aux), generation: desc.generation };
                        match ended {
                            Some(ended) => {
                                prop_assert_eq!(model.end(&mut shard, ended), (reference, desc.buffer_index));
                            }
                            None => {
                                let known = (reference, desc.buffer_index);
                                let at = model.expired.iter().position(|one| *one == known);
                                model.expired.remove(at.expect("it had ended"));
                            }
                        }
                    } else {
                        prop_assert_eq!(references.live(), live);
                    }
                }
                Operation::Done(index) => {
                    let state = shard.entry(BufferIndex(index)).and_then(LedgerEntry::holder_state);
                    if state == Some(HolderState::Lcore) {
                        shard.give(&[index]);
                    }
                }
                Operation::Later(ms) => {
                    now_ms = now_ms.wrapping_add(ms);
                    while let Some(ended) = references.expire(now_ms) {
                        let ended = model.end(&mut shard, ended);
                        model.expired.push(ended);
                    }
                    prop_assert!(model.live.iter().all(|(.., since)| now_ms.wrapping_sub(*since) < MS));
                }
                Operation::End => {
                    while let Some(ended) = references.end() {
                        model.end(&mut shard, ended);
                    }
                    prop_assert!(model.live.is_empty());
                    model.expired.clear();
                }
            }
            prop_assert_eq!(references.live() as usize, model.live.len());
            prop_assert!(model.live.iter().all(|(live, ..)| model.shown[&live.slot] == live.generation));
            let free = usize::from(SLOTS) - model.live.len() - model.expired.len();
            prop_assert_eq!(references.has_room(), free > 0);
            let audit = shard.audit();
            let lcore = audit.lcore;
            let in_hand = InHand { lcore, pmd: None, references: Some(references.live().into()) };
            prop_assert_eq!(audit.findings(in_hand), []);
            prop_assert_eq!(shard.faults().total(), 0);
        }
        while let Some(ended) = references.end() {
            model.end(&mut shard, ended);
        }
        for index in FIRST..FIRST + SIZE {
            if shard.entry(BufferIndex(index)).and_then(LedgerEntry::holder_state) == Some(HolderState::Lcore) {
                shard.give(&[index]);
            }
        }
        prop_assert_eq!(shard.available(), SIZE);
    }
}
