//! What a guest gets of what it is sent.

use super::*;
use crate::frame::Segment;
use crate::header::OffloadHeader;
use crate::lane::broken_name;
use crate::test_guest::{INDIRECT, NEXT, TestDescriptor, TestGuest, TestGuestShape, WRITE, buffer_at};

const RX: usize = 0;

fn frame(seed: u8, len_bytes: usize) -> Vec<u8> {
    (0..253).cycle().take(len_bytes).map(|at| seed ^ at).collect()
}

fn put(guest: &mut TestGuest, frames: &[Vec<u8>]) -> usize {
    let frames: Vec<_> = frames.iter().map(|frame| Frame::whole(Segment::of(frame), 0)).collect();
    guest.lane.enqueue(&frames)
}

fn drops(guest: &TestGuest, reason: PortDrop) -> u64 {
    guest.lane.counters().drops(reason)
}

fn broken(guest: &TestGuest) -> Option<&'static str> {
    broken_name(guest.publisher().report(RX).broken())
}

fn shape(features: Features) -> TestGuestShape {
    TestGuestShape { features: Features::VERSION_1 | features, ..TestGuestShape::default() }
}

/// A header that says nothing but how many buffers the packet takes.
fn header(buffers: u8) -> [u8; 12] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, buffers, 0]
}

#[test]
fn a_guest_gets_frames_in_order_in_the_buffers_it_lent() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    for number in 0..10 {
        guest.lend(RX, 15 - number, 2048);
    }
    let sent: Vec<_> = (0..10).map(|at| frame(at, 60 + 150 * usize::from(at))).collect();
    assert_eq!(put(&mut guest, &sent), 10);
    assert_eq!(guest.used_count(RX), 10);
    for (at, frame) in (0..).zip(&sent) {
        let written = u32::try_from(frame.len() + 12).unwrap();
        assert_eq!(guest.used(RX, at), (u32::from(15 - at), written));
        assert_eq!(guest.read(buffer_at(15 - at), 12), header(1));
        assert_eq!(guest.read(buffer_at(15 - at) + 12, frame.len()), *frame);
    }
    let bytes = sent.iter().map(|frame| frame.len() as u64).sum();
    assert_eq!(guest.lane.counters().to_guest(), (10, bytes));
}

#[test]
fn ring_indices_wrap_at_16_bits() {
    let mut guest =
        TestGuest::new(TestGuestShape { first_index: u16::MAX - 20, ..TestGuestShape::default() });
    for round in 0..8_u8 {
        (0..7).for_each(|number| guest.lend(RX, number, 2048));
        let sent: Vec<_> = (0..7).map(|at| frame(round * 8 + at, 60)).collect();
        assert_eq!(put(&mut guest, &sent), 7, "round {round}");
        for (number, frame) in (0..).zip(&sent) {
            assert_eq!(guest.read(buffer_at(number) + 12, 60), *frame, "round {round}");
        }
    }
    assert_eq!(guest.used_count(RX), 56);
}

#[test]
fn the_judged_headers_come_first_and_then_the_rest() {
    let (headers, body) = (frame(1, 128), frame(2, 1386));
    for mergeable in [2048, 1000] {
        let mut guest = TestGuest::new(TestGuestShape::default());
        guest.lend(RX, 0, mergeable);
        guest.lend(RX, 1, mergeable);
        let whole = Frame::judged(Segment::of(&headers), Segment::of(&body), 0);
        assert_eq!(guest.lane.enqueue(&[whole]), 1);
        let all = [headers.clone(), body.clone()].concat();
        let first = usize::try_from(mergeable).unwrap().min(1526) - 12;
        assert_eq!(guest.read(buffer_at(0) + 12, first), all[..first]);
        assert_eq!(guest.read(buffer_at(1), 1514 - first), all[first..]);
    }
}

#[test]
fn fills_a_buffer_to_its_end_and_not_one_byte_further() {
    let mut guest = TestGuest::new(shape(Features::NONE));
    guest.lend(RX, 0, 112);
    assert_eq!(put(&mut guest, &[frame(1, 101)]), 0);
    assert_eq!((drops(&guest, PortDrop::GuestBufferShort), guest.used_count(RX)), (1, 0));
    assert_eq!(put(&mut guest, &[frame(2, 100)]), 1);
    assert_eq!(guest.used(RX, 0), (0, 112));
    assert_eq!(guest.read(buffer_at(0) + 112, 100), [0; 100]);
}

#[test]
fn a_long_frame_takes_as_many_mergeable_buffers_as_it_needs() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    (0..16).for_each(|number| guest.lend(RX, number, 1526));
    let (jumbo, small) = (frame(1, 9014), frame(2, 60));
    assert_eq!(put(&mut guest, &[jumbo.clone(), small.clone(), jumbo.clone()]), 3);
    // 9026 bytes with the header: five full buffers and one of 1396.
    let lens: Vec<_> = (0..13).map(|at| guest.used(RX, at).1).collect();
    assert_eq!(lens, [1526, 1526, 1526, 1526, 1526, 1396, 72, 1526, 1526, 1526, 1526, 1526, 1396]);
    assert_eq!(guest.used_count(RX), 13);
    assert_eq!(guest.read(buffer_at(0), 12), header(6));
    assert_eq!(guest.read(buffer_at(6), 12), header(1));
    let got: Vec<_> = (0..6).flat_map(|number| guest.read(buffer_at(number), 1526)).collect();
    assert_eq!(got[12..9026], jumbo);
    assert_eq!(guest.read(buffer_at(6) + 12, 60), small);
}

#[test]
fn more_frames_than_one_round_of_chains_arrive_in_one_call() {
    let mut guest = TestGuest::new(TestGuestShape { size: 256, ..TestGuestShape::default() });
    for number in 0..256 {
        let desc = TestDescriptor {
            address: buffer_at(number) + 0x1000 * u64::from(number / 64),
            len_bytes: 300,
            flags: WRITE,
            next: 0,
        };
        guest.describe(RX, number, desc);
        guest.offer(RX, number);
    }
    let sent: Vec<_> = (0..40).map(|at| frame(at, 1514)).collect();
    assert_eq!(put(&mut guest, &sent), 40);
    // 1526 bytes are six buffers of 300.
    assert_eq!(guest.used_count(RX), 240);
    assert_eq!(guest.used(RX, 239).1, 26);
}

#[test]
fn a_frame_with_too_few_buffers_left_is_dropped_and_takes_none() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    (0..4).for_each(|number| guest.lend(RX, number, 500));
    assert_eq!(put(&mut guest, &[frame(1, 1000), frame(2, 1000), frame(3, 60), frame(4, 60)]), 2);
    assert_eq!(drops(&guest, PortDrop::NoGuestBuffer), 2);
    assert_eq!(guest.used_count(RX), 4);
    assert_eq!(guest.read(buffer_at(3) + 12, 60), frame(3, 60));
    assert_eq!(put(&mut guest, &[frame(5, 60)]), 0);
    assert_eq!(drops(&guest, PortDrop::NoGuestBuffer), 3);
}

#[test]
fn a_buffer_in_pieces_is_filled_piece_by_piece_in_the_ring_and_in_a_table() {
    let sent = frame(7, 300);
    for in_table in [false, true] {
        let mut guest = TestGuest::new(TestGuestShape::default());
        let piece = |number: u16, len_bytes, flags| TestDescriptor {
            address: buffer_at(number),
            len_bytes,
            flags: WRITE | flags,
            next: number + 1,
        };
        let pieces = [piece(0, 5, NEXT), piece(1, 7, NEXT), piece(2, 200, NEXT), piece(3, 1000, 0)];
        for (number, piece) in (0..).zip(pieces) {
            guest.describe(RX, number, piece);
            guest.write(buffer_at(9) + 16 * u64::from(number), &piece.bytes());
        }
        let table = TestDescriptor { address: buffer_at(9), len_bytes: 64, flags: INDIRECT, next: 0 };
        guest.describe(RX, 8, table);
        guest.offer(RX, if in_table { 8 } else { 0 });
        assert_eq!(put(&mut guest, std::slice::from_ref(&sent)), 1);
        assert_eq!(guest.used(RX, 0).1, 312);
        let got = [guest.read(buffer_at(0), 5), guest.read(buffer_at(1), 7)].concat();
        assert_eq!(got, header(1));
        assert_eq!([guest.read(buffer_at(2), 200), guest.read(buffer_at(3), 100)].concat(), sent);
    }
}

#[test]
fn a_buffer_may_be_as_small_as_the_header_and_no_smaller() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.lend(RX, 0, 12);
    guest.lend(RX, 1, 60);
    guest.lend(RX, 2, 11);
    assert_eq!(put(&mut guest, &[frame(1, 60)]), 1);
    assert_eq!((guest.used(RX, 0), guest.used(RX, 1)), ((0, 12), (1, 60)));
    assert_eq!(put(&mut guest, &[frame(1, 60), frame(2, 60)]), 0);
    assert_eq!(broken(&guest), Some("no_room_for_header"));
    assert_eq!(drops(&guest, PortDrop::QueueOff), 2);
}

#[test]
fn what_came_before_a_broken_chain_is_delivered() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.lend(RX, 0, 2048);
    guest.offer(RX, 999);
    guest.lend(RX, 2, 2048);
    assert_eq!(put(&mut guest, &[frame(1, 60)]), 1);
    assert_eq!(broken(&guest), None);
    guest.lend(RX, 3, 2048);
    assert_eq!(put(&mut guest, &[frame(1, 60), frame(2, 60)]), 0);
    assert_eq!((broken(&guest), guest.used_count(RX)), (Some("head_outside"), 1));
    assert_eq!(drops(&guest, PortDrop::QueueOff), 2);
    assert!(!guest.lane.is_receiving());
}

#[test]
fn a_frame_that_would_go_on_into_a_broken_chain_breaks_the_ring() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.lend(RX, 0, 500);
    guest.lend(RX, 1, 500);
    guest.offer(RX, 999);
    assert_eq!(put(&mut guest, &[frame(1, 60), frame(2, 1000)]), 1);
    assert_eq!((broken(&guest), guest.used_count(RX)), (Some("head_outside"), 1));
    assert_eq!(drops(&guest, PortDrop::QueueOff), 1);
}

#[test]
fn a_buffer_to_read_breaks_the_ring() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.describe(RX, 0, TestDescriptor { address: buffer_at(0), len_bytes: 2048, flags: 0, next: 0 });
    guest.offer(RX, 0);
    assert_eq!((put(&mut guest, &[frame(1, 60)]), broken(&guest)), (0, Some("direction")));
}

#[test]
fn endless_descriptors_of_no_length_spend_the_budget_of_a_call() {
    let mut guest = TestGuest::new(TestGuestShape { size: 64, ..TestGuestShape::default() });
    let table = buffer_at(63);
    for number in 0..64 {
        // 63 times nothing, and then a buffer.
        let len_bytes = if number == 63 { 2048 } else { 0 };
        let flags = if number == 63 { WRITE } else { WRITE | NEXT };
        let piece = TestDescriptor { address: buffer_at(0), len_bytes, flags, next: number + 1 };
        guest.write(table + 16 * u64::from(number), &piece.bytes());
        guest.describe(
            RX,
            number,
            TestDescriptor { address: table, len_bytes: 1024, flags: INDIRECT, next: 0 },
        );
        guest.offer(RX, number);
    }
    let sent = vec![frame(1, 60); 64];
    assert_eq!(put(&mut guest, &sent), 16);
    assert_eq!(drops(&guest, PortDrop::NoGuestBuffer), 48);
    assert_eq!((guest.used_count(RX), broken(&guest)), (16, None));
}

#[test]
fn the_header_of_an_old_driver_is_two_bytes_shorter() {
    let mut guest = TestGuest::new(TestGuestShape { features: Features::NONE, ..TestGuestShape::default() });
    guest.lend(RX, 0, 2048);
    assert_eq!(put(&mut guest, &[frame(1, 62)]), 1);
    assert_eq!((guest.used(RX, 0), guest.read(buffer_at(0) + 10, 62)), ((0, 72), frame(1, 62)));
}

#[test]
fn a_driver_is_told_of_offloads_only_if_it_took_them() {
    let bytes = frame(1, 60);
    let partial = OffloadHeader { flags: 1, checksum_start: 34, checksum_offset: 6, ..OffloadHeader::NONE };
    let valid = OffloadHeader { flags: 2, ..OffloadHeader::NONE };
    let long = OffloadHeader { segment_kind: 1, segment_bytes: 1000, ..partial };
    let told = |features, offload| {
        let mut guest = TestGuest::new(shape(features));
        guest.lend(RX, 0, 2048);
        let frame = Frame { offload, ..Frame::whole(Segment::of(&bytes), 0) };
        let count = guest.lane.enqueue(&[frame]);
        assert_eq!(drops(&guest, PortDrop::OffloadUntaken), 1 - count as u64);
        (count == 1).then(|| guest.read(buffer_at(0), 10))
    };
    let checksums = Features::GUEST_CHECKSUM;
    assert_eq!(told(checksums, partial), Some(vec![1, 0, 0, 0, 0, 0, 34, 0, 6, 0]));
    assert_eq!(told(checksums, valid), Some(vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(told(Features::NONE, valid), Some(vec![0; 10]));
    assert_eq!(told(Features::NONE, partial), None);
    assert_eq!(told(checksums, long), None);
    let segments = checksums | Features::GUEST_TSO4;
    assert_eq!(told(segments, long), Some(vec![1, 1, 0, 0, 0xe8, 3, 34, 0, 6, 0]));
    assert_eq!(told(segments, OffloadHeader { segment_kind: 0x81, ..long }), None);
}

#[test]
fn a_frame_shorter_than_an_ethernet_header_is_dropped() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.lend(RX, 0, 2048);
    assert_eq!(put(&mut guest, &[frame(1, 13), frame(2, 14)]), 1);
    assert_eq!((drops(&guest, PortDrop::FrameTooShort), guest.used(RX, 0)), (1, (0, 26)));
}
