//! A lane between control and guest.

use super::*;
use crate::features::Features;
use crate::test_guest::{INDIRECT, NEXT, TestDescriptor, TestGuest, TestGuestShape, buffer_at};

const FRAME: [u8; 60] = [0xab; 60];

fn take(guest: &mut TestGuest, rooms: usize) -> usize {
    let mut memory = vec![0; rooms * 2048];
    let mut rooms: Vec<_> = memory.chunks_exact_mut(2048).map(Room::of).collect();
    let mut received = vec![Received::default(); rooms.len()];
    guest.lane.dequeue(&mut rooms, &mut received)
}

fn flow(number: u32) -> Frame<'static> {
    Frame::whole(Segment::of(&FRAME), number)
}

#[test]
fn a_lane_without_a_guest_receives_nothing_and_drops_by_name() {
    let (_publisher, mut subscriptions) = crate::publication::publication(1, 2);
    let mut lane = Lane::new(subscriptions.remove(0), 1, Arc::new(LaneCounters::default()));
    lane.adopt();
    let mut memory = [0; 100];
    assert_eq!(lane.dequeue(&mut [Room::of(&mut memory)], &mut [Received::default()]), 0);
    assert_eq!(lane.enqueue(&[flow(0), flow(1)]), 0);
    assert_eq!(lane.counters().drops(PortDrop::QueueOff), 2);
}

#[test]
fn a_burst_takes_from_all_queue_pairs_and_begins_with_another_each_time() {
    let mut guest = TestGuest::new(TestGuestShape { pairs: 3, ..TestGuestShape::default() });
    for queue in [1, 3, 5] {
        (0..4).for_each(|number| guest.send(queue, number, &FRAME));
    }
    let mut used = Vec::new();
    for _ in 0..3 {
        assert_eq!(take(&mut guest, 3), 3);
        used.push([1, 3, 5].map(|queue| guest.used_count(queue)));
    }
    assert_eq!(used, [[3, 0, 0], [3, 3, 0], [3, 3, 3]]);
    assert_eq!(take(&mut guest, 8), 3);
}

#[test]
fn frames_of_one_flow_go_to_one_queue_and_flows_are_spread() {
    let mut guest = TestGuest::new(TestGuestShape { pairs: 4, size: 64, ..TestGuestShape::default() });
    for queue in [0, 2, 4, 6] {
        (0..64).for_each(|number| guest.lend(queue, number, 2048));
    }
    let frames: Vec<_> = (0..100).map(flow).chain((0..20).map(|_| flow(2))).collect();
    assert_eq!(guest.lane.enqueue(&frames), 120);
    assert_eq!([0, 2, 4, 6].map(|queue| guest.used_count(queue)), [25, 25, 45, 25]);
}

#[test]
fn a_queue_that_breaks_in_a_burst_takes_no_flow_of_another_with_it() {
    let mut guest = TestGuest::new(TestGuestShape { pairs: 3, ..TestGuestShape::default() });
    for queue in [0, 2, 4] {
        (0..4).for_each(|number| guest.lend(queue, number, 2048));
    }
    // A chain more than there can be, in the first queue.
    guest.set_avail_index(0, u16::MAX);
    let frames: Vec<_> = (0..6).map(flow).collect();
    assert_eq!(guest.lane.enqueue(&frames), 4);
    assert_eq!([0, 2, 4].map(|queue| guest.used_count(queue)), [0, 2, 2]);
    assert_eq!(guest.lane.counters().drops(PortDrop::QueueOff), 2);
    // From the next burst on, its flows go to the others.
    assert_eq!(guest.lane.enqueue(&[flow(0), flow(1)]), 2);
    assert_eq!([0, 2, 4].map(|queue| guest.used_count(queue)), [0, 3, 3]);
}

#[test]
fn a_lane_sees_from_the_index_alone_that_a_guest_sends() {
    let mut guest = TestGuest::new(TestGuestShape { pairs: 2, ..TestGuestShape::default() });
    assert!(!guest.lane.is_sending());
    guest.lend(0, 0, 2048);
    assert!(!guest.lane.is_sending());
    guest.send(3, 0, &FRAME);
    assert!(guest.lane.is_sending());
    assert_eq!(take(&mut guest, 8), 1);
    assert!(!guest.lane.is_sending());
    // What cannot be is for who dequeues to find, and is looked at no more then.
    guest.set_avail_index(3, u16::MAX);
    assert!(guest.lane.is_sending());
    assert_eq!(take(&mut guest, 8), 0);
    assert!(!guest.lane.is_sending());
}

#[test]
fn lost_memory_is_looked_at_no_more() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.send(1, 0, &FRAME);
    guest.lend(0, 1, 2048);
    guest.lose_memory();
    assert_eq!(take(&mut guest, 8), 0);
    assert_eq!(guest.lane.enqueue(&[flow(0), flow(1)]), 0);
    assert_eq!(guest.lane.counters().drops(PortDrop::QueueOff), 2);
    assert_eq!([0, 1].map(|queue| guest.used_count(queue)), [0, 0]);
}

#[test]
fn a_closed_port_serves_nothing_even_before_its_session_ends() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.send(1, 0, &FRAME);
    guest.lend(0, 1, 2048);
    guest.lane.is_closed.store(true, Ordering::Relaxed);
    assert!(!guest.lane.is_receiving());
    assert_eq!(take(&mut guest, 8), 0);
    assert_eq!(guest.lane.enqueue(&[flow(0)]), 0);
    assert_eq!(guest.lane.counters().drops(PortDrop::QueueOff), 1);
    guest.lane.is_closed.store(false, Ordering::Relaxed);
    assert_eq!((take(&mut guest, 8), guest.lane.enqueue(&[flow(0)])), (1, 1));
}

#[test]
fn queues_share_the_budget_of_a_burst() {
    let mut guest = TestGuest::new(TestGuestShape { pairs: 3, size: 64, ..TestGuestShape::default() });
    let table = buffer_at(63);
    for number in 0..64 {
        // 63 times nothing, and then a frame too short to be one.
        let flags = if number == 63 { 0 } else { NEXT };
        let len_bytes = u32::from(number == 63);
        let piece = TestDescriptor { address: buffer_at(0), len_bytes, flags, next: number + 1 };
        guest.write(table + 16 * u64::from(number), &piece.bytes());
        let whole = TestDescriptor { address: table, len_bytes: 1024, flags: INDIRECT, next: 0 };
        for queue in [1, 3, 5] {
            guest.describe(queue, number, whole);
            guest.offer(queue, number);
        }
    }
    assert_eq!(take(&mut guest, 32), 0);
    // 16 tables of 64 descriptors, whichever queue they are in.
    assert_eq!([1, 3, 5].map(|queue| guest.used_count(queue)), [16, 0, 0]);
    assert_eq!(take(&mut guest, 32), 0);
    assert_eq!([1, 3, 5].map(|queue| guest.used_count(queue)), [16, 16, 0]);
}

#[test]
fn a_disabled_queue_is_not_touched() {
    let mut guest = TestGuest::new(TestGuestShape { pairs: 2, ..TestGuestShape::default() });
    for queue in [0, 2] {
        (0..4).for_each(|number| guest.lend(queue, number, 2048));
        guest.send(queue + 1, 0, &FRAME);
    }
    let mut setup = guest.setup();
    setup.queues[2..].iter_mut().flatten().for_each(|queue| queue.is_enabled = false);
    guest.publish(setup);
    assert_eq!(guest.lane.enqueue(&[flow(0), flow(1)]), 2);
    assert_eq!(take(&mut guest, 8), 1);
    assert_eq!([0, 1, 2, 3].map(|queue| guest.used_count(queue)), [2, 1, 0, 0]);
}

#[test]
fn a_queue_goes_on_where_it_stood_unless_it_is_started_anew() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    (0..3).for_each(|number| guest.send(1, number, &FRAME));
    assert_eq!(take(&mut guest, 8), 3);
    let same = guest.setup();
    guest.publish(same);
    assert_eq!(guest.publisher().report(1).next_available(), 3);
    guest.send(1, 3, &FRAME);
    assert_eq!(take(&mut guest, 8), 1);
    let mut stopped = guest.setup();
    stopped.queues.fill(None);
    guest.publish(stopped);
    assert_eq!(guest.publisher().report(1).next_available(), 4);
    guest.send(1, 4, &FRAME);
    assert_eq!(take(&mut guest, 8), 0);
    // Control starts it where it stopped.
    let mut again = guest.setup();
    again.queues.iter_mut().flatten().for_each(|queue| (queue.start, queue.next_available) = (77, 4));
    guest.publish(again);
    assert_eq!((take(&mut guest, 8), guest.used_count(1)), (1, 5));
}

#[test]
fn a_parked_lane_holds_nothing_and_comes_back() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.send(1, 0, &FRAME);
    assert_eq!(take(&mut guest, 8), 1);
    guest.lane.park();
    guest.send(1, 1, &FRAME);
    assert_eq!(take(&mut guest, 8), 0);
    assert_eq!(guest.publisher().report(1).next_available(), 1);
    let mut setup = guest.setup();
    setup.queues.iter_mut().flatten().for_each(|queue| (queue.start, queue.next_available) = (2, 1));
    guest.publish(setup);
    assert_eq!(take(&mut guest, 8), 1);
}

#[test]
fn lanes_share_the_pairs_by_turns() {
    let guest = TestGuest::new(TestGuestShape { pairs: 5, ..TestGuestShape::default() });
    let (mut publisher, subscriptions) = crate::publication::publication(2, 10);
    publisher.publish(guest.setup());
    let pairs = subscriptions.into_iter().map(|subscription| {
        let mut lane = Lane::new(subscription, 2, Arc::new(LaneCounters::default()));
        lane.adopt();
        (0..lane.pairs.len()).map(|at| lane.pair_number(at)).collect::<Vec<_>>()
    });
    assert_eq!(pairs.collect::<Vec<_>>(), [vec![0, 2, 4], vec![1, 3]]);
}

#[test]
fn each_feature_set_and_size_passes_traffic_both_ways() {
    let choices = [Features::MERGEABLE, Features::INDIRECT, Features::EVENT_INDEX];
    for set in 0..8_usize {
        let chosen = (0..3).filter(|bit| set >> bit & 1 == 1).map(|bit| choices[bit]);
        let features = chosen.fold(Features::VERSION_1, |all, one| all | one);
        for size in [1, 2, 4, 64, 256, 1024] {
            for first_index in [0, u16::MAX - 3] {
                let mut guest = TestGuest::new(TestGuestShape { size, features, pairs: 1, first_index });
                for round in 0..20_u8 {
                    let frame = [round; 60];
                    let number = u16::from(round) % size;
                    guest.send(1, number, &frame);
                    assert_eq!(take(&mut guest, 8), 1);
                    guest.lend(0, number, 2048);
                    assert_eq!(guest.lane.enqueue(&[Frame::whole(Segment::of(&frame), 0)]), 1);
                    assert_eq!(guest.read(buffer_at(number) + 12, 60), frame);
                }
                assert_eq!((guest.used_count(0), guest.used_count(1)), (20, 20), "{set} {size}");
            }
        }
    }
}
