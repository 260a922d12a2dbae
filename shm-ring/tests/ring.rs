//! The ring at its limits, and against a model under random interleavings.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use shm_ring::desc::RawDesc;
use shm_ring::layout::{CounterLine, Slot};
use shm_ring::ring::{Batch, Consumer, Passed, PeerCounterError, Producer, RingMemory};

/// The shared parts of a ring, both counters at the same value.
struct Parts {
    produced: CounterLine,
    consumed: CounterLine,
    slots: Vec<Slot>,
}

impl Parts {
    fn new(slot_count: usize, counters: u32) -> Self {
        Self {
            produced: CounterLine::at(counters),
            consumed: CounterLine::at(counters),
            slots: (0..slot_count).map(|_| Slot::zeroed()).collect(),
        }
    }

    fn ring(&self) -> RingMemory<'_> {
        RingMemory::new(&self.produced, &self.consumed, &self.slots)
    }

    fn ends(&self) -> (Producer<'_>, Consumer<'_>) {
        (Producer::new(self.ring(), None), Consumer::new(self.ring()))
    }

    fn set_produced(&self, value: u32) {
        self.produced.value.store(value, Ordering::Relaxed);
    }

    fn set_consumed(&self, value: u32) {
        self.consumed.value.store(value, Ordering::Relaxed);
    }
}

fn desc(number: u32) -> RawDesc {
    RawDesc { word0: number.into(), word1: u64::from(number) << 32 | 1 }
}

fn take(consumer: &mut Consumer<'_>, at_most: usize) -> Vec<RawDesc> {
    let mut burst = vec![RawDesc::default(); at_most];
    let count = consumer.take(&mut burst).unwrap();
    burst.truncate(count);
    burst
}

#[test]
fn accepts_exactly_as_many_descriptors_as_there_are_slots() {
    let parts = Parts::new(8, 0);
    let (producer, mut consumer) = parts.ends();
    assert_eq!(producer.room(8), Ok(8));
    for number in 0..8 {
        assert!(producer.stage(desc(number)));
    }
    assert!(!producer.stage(desc(8)));
    assert_eq!(producer.room(1), Ok(0));
    producer.publish();
    assert_eq!(take(&mut consumer, 9), (0..8).map(desc).collect::<Vec<_>>());
}

#[test]
fn shows_nothing_before_it_is_published() {
    let parts = Parts::new(8, 0);
    let (producer, mut consumer) = parts.ends();
    assert!(producer.stage(desc(0)));
    assert_eq!(consumer.pending(), Ok(0));
    producer.publish();
    assert_eq!(consumer.pending(), Ok(1));
}

#[test]
fn has_no_new_room_before_the_consumer_releases() {
    let parts = Parts::new(8, 0);
    let (producer, mut consumer) = parts.ends();
    while producer.stage(desc(0)) {}
    producer.publish();
    assert_eq!(take(&mut consumer, 3).len(), 3);
    assert_eq!(producer.room(1), Ok(0));
    consumer.release();
    assert_eq!(producer.room(1), Ok(3));
}

#[test]
fn takes_what_came_after_the_last_look_when_the_burst_has_room() {
    let parts = Parts::new(8, 0);
    let (producer, mut consumer) = parts.ends();
    assert!(producer.stage(desc(0)));
    producer.publish();
    assert_eq!(consumer.pending(), Ok(1));
    assert!(producer.stage(desc(1)));
    producer.publish();
    assert_eq!(take(&mut consumer, 2), [desc(0), desc(1)]);
}

#[test]
fn accepts_a_producer_that_claims_a_full_ring_and_refuses_one_more() {
    let parts = Parts::new(8, 0);
    let (_, mut consumer) = parts.ends();
    parts.set_produced(9);
    assert_eq!(consumer.pending(), Err(PeerCounterError { claimed: 9, slot_count: 8 }));
    assert_eq!(
        consumer.take(&mut [RawDesc::default(); 4]),
        Err(PeerCounterError { claimed: 9, slot_count: 8 })
    );
    parts.set_produced(8);
    assert_eq!(consumer.pending(), Ok(8));
}

#[test]
fn refuses_a_producer_that_takes_back_what_was_taken() {
    let parts = Parts::new(8, 0);
    let (_, mut consumer) = parts.ends();
    parts.set_produced(2);
    assert_eq!(take(&mut consumer, 2).len(), 2);
    parts.set_produced(1);
    assert_eq!(consumer.pending(), Err(PeerCounterError { claimed: u32::MAX, slot_count: 8 }));
}

#[test]
fn refuses_a_peer_half_the_number_circle_away() {
    let parts = Parts::new(8, 0);
    let (producer, mut consumer) = parts.ends();
    parts.set_produced(1 << 31);
    assert!(consumer.pending().is_err());
    parts.set_consumed(1 << 31);
    assert!(producer.room(9).is_err());
}

#[test]
fn accepts_a_consumer_that_is_a_full_ring_behind_and_refuses_one_more() {
    let parts = Parts::new(8, 100);
    let producer = Producer::resume(parts.ring(), None, 100);
    parts.set_consumed(92);
    assert_eq!(producer.room(1), Ok(0));
    parts.set_consumed(91);
    assert_eq!(producer.room(1), Err(PeerCounterError { claimed: 9, slot_count: 8 }));
}

#[test]
fn refuses_a_consumer_that_is_ahead_of_the_producer() {
    let parts = Parts::new(8, 100);
    let producer = Producer::resume(parts.ring(), None, 100);
    parts.set_consumed(100);
    assert_eq!(producer.room(1), Ok(8));
    parts.set_consumed(101);
    assert_eq!(producer.room(9), Err(PeerCounterError { claimed: u32::MAX, slot_count: 8 }));
}

#[test]
fn a_refused_counter_is_an_error_that_names_both_figures() {
    let err = PeerCounterError { claimed: 9, slot_count: 8 };
    assert_eq!(err.to_string(), "peer claims 9 descriptors pending in a ring of 8 slots");
}

/// Puts `descs` into a ring that has room for them and takes them out again in place.
fn batch<'p>(from: &'p Parts, ends: &mut (Producer<'p>, Consumer<'p>), descs: &[RawDesc]) -> Batch<'p> {
    assert!(ends.0.room(from.ring().slot_count()).is_ok());
    assert!(descs.iter().all(|desc| ends.0.stage(*desc)));
    ends.0.publish();
    ends.1.take_in_place(usize::MAX).unwrap()
}

/// What a passed descriptor becomes: something else, so that a mere copy is noticed.
fn lent_on(raw: RawDesc) -> RawDesc {
    RawDesc { word1: raw.word1 + 1, ..raw }
}

#[test]
fn a_batch_passed_across_the_ends_of_both_memories_comes_out_in_order() {
    let (from, to) = (Parts::new(64, 0), Parts::new(32, 0));
    let (mut source, (producer, mut consumer)) = (from.ends(), to.ends());
    for start in (0..24 * 12).step_by(24) {
        let descs: Vec<_> = (start..start + 24).map(desc).collect();
        let mut batch = batch(&from, &mut source, &descs);
        assert!(producer.room(24).unwrap() >= 24);
        let passed = producer.pass(&mut batch, 24, Slot::load, |raw| Some(lent_on(raw)));
        assert_eq!((passed, batch.len()), (Passed { count: 24, refused: None }, 0));
        producer.publish();
        source.1.release();
        let expected: Vec<_> = descs.into_iter().map(lent_on).collect();
        assert_eq!(take(&mut consumer, 64), expected);
        consumer.release();
    }
}

#[test]
fn passes_what_the_ring_has_room_for_and_leaves_the_rest_unread() {
    let (from, to) = (Parts::new(64, 0), Parts::new(16, 0));
    let (mut source, (producer, mut consumer)) = (from.ends(), to.ends());
    let mut batch = batch(&from, &mut source, &(0..20).map(desc).collect::<Vec<_>>());
    let pass = |batch: &mut Batch<'_>, count_max| producer.pass(batch, count_max, Slot::load, Some).count;
    assert_eq!((pass(&mut batch, 5), pass(&mut batch, 64), pass(&mut batch, 64)), (5, 11, 0));
    assert_eq!(batch.len(), 4);
    producer.publish();
    assert_eq!(take(&mut consumer, 64), (0..16).map(desc).collect::<Vec<_>>());
    assert_eq!(producer.room(1), Ok(0), "nothing is released yet");
    consumer.release();
    assert_eq!(producer.room(1), Ok(16));
    assert_eq!(pass(&mut batch, 64), 4);
    producer.publish();
    assert_eq!(take(&mut consumer, 64), (16..20).map(desc).collect::<Vec<_>>());
}

#[test]
fn a_refused_descriptor_ends_the_pass_and_was_read_once() {
    let (from, to) = (Parts::new(8, 0), Parts::new(8, 0));
    let (mut source, (producer, mut consumer)) = (from.ends(), to.ends());
    let mut batch = batch(&from, &mut source, &(0..8).map(desc).collect::<Vec<_>>());
    let reads = Cell::new(0);
    let read = |slot: &Slot| {
        reads.set(reads.get() + 1);
        slot.load()
    };
    let passed = producer.pass(&mut batch, 8, read, |raw| (raw != desc(3)).then_some(raw));
    assert_eq!(passed, Passed { count: 3, refused: Some(desc(3)) });
    assert_eq!((reads.get(), batch.len()), (4, 4));
    assert_eq!(batch.next_with(read), Some(desc(4)));
    assert_eq!(producer.pass(&mut batch, 8, read, Some), Passed { count: 3, refused: None });
    assert_eq!((reads.get(), batch.next_with(read)), (8, None));
    producer.publish();
    assert_eq!(take(&mut consumer, 8), [0, 1, 2, 5, 6, 7].map(desc));
}

#[test]
fn counts_on_where_the_counters_wrap() {
    let start = u32::MAX - 2;
    let parts = Parts::new(8, start);
    let producer = Producer::resume(parts.ring(), None, start);
    let mut consumer = Consumer::resume(parts.ring(), None, start);
    for round in 0..3 {
        assert_eq!(producer.room(8), Ok(8));
        for number in 0..8 {
            assert!(producer.stage(desc(round * 8 + number)));
        }
        assert!(!producer.stage(desc(99)));
        producer.publish();
        assert_eq!(take(&mut consumer, 8), (round * 8..round * 8 + 8).map(desc).collect::<Vec<_>>());
        consumer.release();
    }
    assert_eq!(producer.next_sequence(), start.wrapping_add(24));
}

#[test]
fn refuses_a_peer_counter_beyond_the_ring_across_the_wrap() {
    let start = u32::MAX - 2;
    let parts = Parts::new(8, start);
    let mut consumer = Consumer::resume(parts.ring(), None, start);
    parts.set_produced(start.wrapping_add(9));
    assert_eq!(consumer.pending(), Err(PeerCounterError { claimed: 9, slot_count: 8 }));
    parts.set_produced(start.wrapping_add(8));
    assert_eq!(consumer.pending(), Ok(8));
}

#[test]
#[should_panic(expected = "a ring of 12 slots")]
fn refuses_a_number_of_slots_that_is_no_power_of_two() {
    let _ = Parts::new(12, 0).ring();
}

#[test]
#[should_panic(expected = "a ring of 4 slots")]
fn refuses_a_ring_below_the_smallest() {
    let _ = Parts::new(4, 0).ring();
}

#[test]
#[should_panic(expected = "a ring of 65536 slots")]
fn refuses_a_ring_above_the_largest() {
    let _ = Parts::new(65_536, 0).ring();
}

#[test]
fn works_at_the_largest_size() {
    let parts = Parts::new(32_768, 0);
    let (producer, mut consumer) = parts.ends();
    let mut staged = 0;
    while producer.stage(desc(staged)) {
        staged += 1;
    }
    assert_eq!(staged, 32_768);
    producer.publish();
    assert_eq!(take(&mut consumer, 40_000).len(), 32_768);
}

#[test]
fn a_successor_goes_on_where_the_journals_stop() {
    let parts = Parts::new(8, 0);
    let (produced_journal, consumed_journal) = (AtomicU32::new(0), AtomicU32::new(0));
    let producer = Producer::new(parts.ring(), Some(&produced_journal));
    let mut consumer = Consumer::resume(parts.ring(), Some(&consumed_journal), 0);
    for number in 0..5 {
        assert!(producer.stage(desc(number)));
    }
    producer.publish();
    assert!(producer.stage(desc(99)), "staged, never published");
    assert_eq!(take(&mut consumer, 2).len(), 2);
    consumer.release();
    assert_eq!(take(&mut consumer, 1), [desc(2)]);

    // The peer scribbles over our shared words; the journals are the truth.
    let produced = produced_journal.load(Ordering::Acquire);
    let consumed = consumed_journal.load(Ordering::Acquire);
    assert_eq!((produced, consumed), (5, 2));
    parts.set_produced(77);
    parts.set_consumed(77);
    let mut consumer = Consumer::resume(parts.ring(), Some(&consumed_journal), consumed);
    consumer.release();
    let producer = Producer::resume(parts.ring(), Some(&produced_journal), produced);
    producer.publish();
    assert_eq!(producer.next_sequence(), 5);
    assert_eq!(producer.room(1), Ok(5));
    assert_eq!(take(&mut consumer, 8), [desc(2), desc(3), desc(4)]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Room(u32),
    Stage(u32),
    Publish,
    Pending,
    Take(usize),
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u32..40).prop_map(Step::Room),
        (1u32..20).prop_map(Step::Stage),
        Just(Step::Publish),
        Just(Step::Pending),
        (0usize..40).prop_map(Step::Take),
        Just(Step::Release),
    ];
    prop::collection::vec(step, 0..300)
}

/// What a ring is: three queues in a row and the slots that are not free again yet.
#[derive(Default)]
struct Model {
    staged: VecDeque<RawDesc>,
    published: VecDeque<RawDesc>,
    unreleased: u32,
    next: u32,
}

impl Model {
    fn occupied(&self) -> u32 {
        u32::try_from(self.staged.len() + self.published.len()).unwrap() + self.unreleased
    }
}

proptest! {
    #[test]
    fn behaves_as_a_queue_under_any_interleaving(
        slots_log2 in 3u32..7,
        start in prop_oneof![Just(0u32), Just(u32::MAX - 5), any::<u32>()],
        steps in steps(),
    ) {
        let slot_count = 1u32 << slots_log2;
        let parts = Parts::new(slot_count as usize, start);
        let producer = Producer::resume(parts.ring(), None, start);
        let mut consumer = Consumer::resume(parts.ring(), None, start);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Room(wanted) => {
                    let room = producer.room(wanted).unwrap();
                    let truth = slot_count - model.occupied();
                    prop_assert!(room <= truth);
                    prop_assert!(room >= wanted.min(truth));
                }
                Step::Stage(count) => {
                    let room = producer.room(count).unwrap();
                    for position in 0..count {
                        let accepted = producer.stage(desc(model.next));
                        prop_assert_eq!(accepted, position < room);
                        if accepted {
                            model.staged.push_back(desc(model.next));
                            model.next += 1;
                        }
                    }
                }
                Step::Publish => {
                    producer.publish();
                    model.published.append(&mut model.staged);
                }
                Step::Pending => {
                    let pending = consumer.pending().unwrap() as usize;
                    prop_assert!(pending <= model.published.len());
                    prop_assert_eq!(pending == 0, model.published.is_empty());
                }
                Step::Take(at_most) => {
                    let taken = take(&mut consumer, at_most);
                    prop_assert_eq!(taken.len(), at_most.min(model.published.len()));
                    model.unreleased += u32::try_from(taken.len()).unwrap();
                    for raw in taken {
                        prop_assert_eq!(Some(raw), model.published.pop_front());
                    }
                }
                Step::Release => {
                    consumer.release();
                    model.unreleased = 0;
                }
            }
            prop_assert_eq!(producer.next_sequence(), start.wrapping_add(model.next));
        }
    }

    /// Whatever the peer writes into its counter, the consumer neither panics nor takes more than the ring holds.
    #[test]
    fn survives_any_counter_of_the_producer(writes in prop::collection::vec(any::<u32>(), 0..50)) {
        let parts = Parts::new(16, 0);
        let mut consumer = Consumer::new(parts.ring());
        let mut burst = [RawDesc::default(); 64];
        for value in writes {
            parts.set_produced(value);
            if let Ok(count) = consumer.take(&mut burst) {
                prop_assert!(count <= 16);
            }
        }
    }

    /// Whatever the peer writes into its counter, the producer neither panics nor overruns the ring.
    #[test]
    fn survives_any_counter_of_the_consumer(writes in prop::collection::vec((any::<u32>(), any::<bool>()), 0..50)) {
        let parts = Parts::new(16, 0);
        let producer = Producer::new(parts.ring(), None);
        for (value, near) in writes {
            let near_value = producer.next_sequence().wrapping_sub(value % 32);
            parts.set_consumed(if near { near_value } else { value });
            if let Ok(room) = producer.room(u32::MAX) {
                prop_assert!(room <= 16);
                prop_assert!((0..room).all(|number| producer.stage(desc(number))));
                prop_assert!(!producer.stage(desc(0)));
            }
        }
    }
}
