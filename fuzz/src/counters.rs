//! A ring whose other side writes what it likes, counters and slots.
//!
//! Our side must find out each distance beyond the ring, by the right figures, and otherwise do what a queue of
//! that many slots does: take what stands in the slots in order, and overwrite nothing that is not taken.

use std::sync::atomic::Ordering::Relaxed;

use shm_ring::desc::RawDesc;
use shm_ring::layout::{CounterLine, RING_SLOTS_MIN, Slot};
use shm_ring::ring::{Consumer, PeerCounterError, Producer, RingMemory};

use crate::Input;

/// Steps of one run at most.
const STEPS_MAX: usize = 128;
const BURST: usize = 16;

/// The memory of one ring.
struct Memory {
    produced: CounterLine,
    consumed: CounterLine,
    slots: Vec<Slot>,
}

impl Memory {
    fn new(slot_count: u32, at: u32) -> Self {
        let slots = (0..slot_count).map(|_| Slot::zeroed()).collect();
        Self { produced: CounterLine::at(at), consumed: CounterLine::at(at), slots }
    }

    fn ring(&self) -> RingMemory<'_> {
        RingMemory::new(&self.produced, &self.consumed, &self.slots)
    }

    fn slot(&self, position: u32) -> &Slot {
        &self.slots[position as usize % self.slots.len()]
    }

    fn desc(&self, position: u32) -> RawDesc {
        let slot = self.slot(position);
        RawDesc { word0: slot.word0.load(Relaxed), word1: slot.word1.load(Relaxed) }
    }
}

/// Runs one side of a ring against a peer.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let consumes = input.below(2) == 0;
    let slot_count = RING_SLOTS_MIN << input.below(3);
    // Freely running counters wrap sooner or later: start anywhere.
    let memory = Memory::new(slot_count, input.u32());
    if consumes { consume(&mut input, &memory) } else { produce(&mut input, &memory) }
}

/// Passes `count` descriptors like `desc` on from another ring; how many it took.
fn passed(producer: &Producer<'_>, desc: RawDesc, count: usize) -> u32 {
    let source = Memory::new(RING_SLOTS_MIN << 2, 0);
    let (filling, mut consumer) = (Producer::new(source.ring(), None), Consumer::new(source.ring()));
    assert!((0..count).all(|_| filling.stage(desc)));
    filling.publish();
    let mut batch = consumer.take_in_place(usize::MAX).unwrap_or_else(|error| panic!("{error}"));
    producer.pass(&mut batch, u32::MAX, Slot::load, Some).count
}

/// A counter that is nearly right, or not at all.
fn counter(input: &mut Input<'_>, near: u32) -> u32 {
    match input.below(8) {
        0 => input.u32(),
        1 => near.wrapping_sub(u32::from(input.u8())),
        2 => near.wrapping_add(u32::from(input.u16())),
        _ => near.wrapping_add(u32::from(input.below(20))),
    }
}

fn refused(claimed: u32, slot_count: u32) -> Option<PeerCounterError> {
    (claimed > slot_count).then_some(PeerCounterError { claimed, slot_count })
}

fn consume(input: &mut Input<'_>, memory: &Memory) {
    let start = memory.consumed.value.load(Relaxed);
    let slot_count = memory.ring().slot_count();
    let mut consumer = Consumer::resume(memory.ring(), None, start);
    // What a reader of the rules keeps: all taken so far, the peer's counter as seen last.
    let (mut taken, mut seen) = (start, start);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            return;
        }
        let action = input.below(6);
        match action {
            0 | 1 => memory.produced.value.store(counter(input, seen), Relaxed),
            2 => {
                let slot = memory.slot(input.u32());
                slot.word0.store(input.u64(), Relaxed);
                slot.word1.store(input.u64(), Relaxed);
            }
            3 => {
                consumer.release();
                assert_eq!(memory.consumed.value.load(Relaxed), taken, "what is released was taken");
            }
            _ => {
                let wanted = if action == 4 { 1 } else { u32::from(input.u8()) % 17 };
                let known = seen.wrapping_sub(taken);
                let claimed = memory.produced.value.load(Relaxed).wrapping_sub(taken);
                // The peer's counter is looked at only when too little is known.
                let expected = if known >= wanted { None } else { refused(claimed, slot_count) };
                if known < wanted && expected.is_none() {
                    seen = taken.wrapping_add(claimed);
                }
                let pending = seen.wrapping_sub(taken);
                if action == 4 {
                    assert_eq!(consumer.pending(), expected.map_or(Ok(pending), Err));
                    continue;
                }
                let mut burst = [RawDesc::default(); BURST];
                let burst = &mut burst[..wanted as usize % (BURST + 1)];
                let found = consumer.take(burst);
                assert_eq!(found, expected.map_or(Ok(pending.min(wanted) as usize), Err));
                for desc in &burst[..found.unwrap_or(0)] {
                    assert_eq!(*desc, memory.desc(taken), "takes what stands there");
                    taken = taken.wrapping_add(1);
                }
            }
        }
    }
}

fn produce(input: &mut Input<'_>, memory: &Memory) {
    let start = memory.produced.value.load(Relaxed);
    let slot_count = memory.ring().slot_count();
    let producer = Producer::resume(memory.ring(), None, start);
    // All staged so far, and how much room was believed last.
    let (mut staged, mut room) = (start, 0);
    // What the slots hold once all is published, and up to where it is.
    let mut slots: Vec<RawDesc> = (0..slot_count).map(|at| memory.desc(at)).collect();
    let mut published = start;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            return;
        }
        match input.below(5) {
            0 => memory.consumed.value.store(counter(input, staged.wrapping_sub(slot_count)), Relaxed),
            1 => {
                producer.publish();
                assert_eq!(memory.produced.value.load(Relaxed), staged, "what is published was staged");
                published = staged;
                assert!((0..).zip(&slots).all(|(at, desc)| memory.desc(at) == *desc), "and stands there");
            }
            2 => {
                let wanted = u32::from(input.u8());
                let unread = staged.wrapping_sub(memory.consumed.value.load(Relaxed));
                let expected = if room >= wanted { None } else { refused(unread, slot_count) };
                if room < wanted && expected.is_none() {
                    room = slot_count - unread;
                }
                assert_eq!(producer.room(wanted), expected.map_or(Ok(room), Err));
            }
            step => {
                let count = if step == 3 { 1 } else { usize::from(input.below(17)) };
                let word = input.u64();
                let desc = RawDesc { word0: word, word1: !word };
                let done =
                    if step == 3 { u32::from(producer.stage(desc)) } else { passed(&producer, desc, count) };
                assert_eq!(
                    done,
                    room.min(u32::try_from(count).unwrap_or(0)),
                    "stages what there is room for"
                );
                room -= done;
                for _ in 0..done {
                    slots[(staged & (slot_count - 1)) as usize] = desc;
                    staged = staged.wrapping_add(1);
                }
                let is_on_its_way = |at: u32| {
                    (at.wrapping_sub(published) & (slot_count - 1)) < staged.wrapping_sub(published)
                };
                for (at, desc) in (0..).zip(&slots).filter(|(at, _)| !is_on_its_way(*at)) {
                    assert_eq!(memory.desc(at), *desc, "slot {at}: nothing else is overwritten");
                }
                assert_eq!(producer.next_sequence(), staged);
            }
        }
    }
}
