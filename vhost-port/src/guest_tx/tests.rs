//! What arrives of what a guest sends.

use packet::checksum::checksum;

use super::*;
use crate::frame::Room;
use crate::lane::broken_name;
use crate::test_guest::{NEXT, TestDescriptor, TestGuest, TestGuestShape, buffer_at};

const TX: usize = 1;
const ROOM_BYTES: usize = 2048;

/// The frames of one burst.
fn take_into(guest: &mut TestGuest, room_bytes: usize) -> Vec<Vec<u8>> {
    let mut memory = vec![0xee; 64 * room_bytes];
    let mut received = [Received::default(); 64];
    let mut rooms: Vec<_> = memory.chunks_exact_mut(room_bytes).map(Room::of).collect();
    let count = guest.lane.dequeue(&mut rooms, &mut received);
    let frames = memory.chunks_exact(room_bytes).zip(&received[..count]);
    frames.map(|(room, frame)| room[..frame.len_bytes as usize].to_vec()).collect()
}

fn take(guest: &mut TestGuest) -> Vec<Vec<u8>> {
    take_into(guest, ROOM_BYTES)
}

fn drops(guest: &TestGuest, reason: PortDrop) -> u64 {
    guest.lane.counters().drops(reason)
}

fn frame(seed: u8, len_bytes: usize) -> Vec<u8> {
    (0..253).cycle().take(len_bytes).map(|at| seed ^ at).collect()
}

fn shape(features: Features) -> TestGuestShape {
    TestGuestShape { features: Features::VERSION_1 | features, ..TestGuestShape::default() }
}

/// Sends a frame behind a header of the guest's choice.
fn send_with_header(guest: &mut TestGuest, header: OffloadHeader, frame: &[u8]) {
    let (low, high) = header.to_words();
    guest.send(TX, 0, frame);
    guest.write(buffer_at(0), &low.to_le_bytes());
    guest.write(buffer_at(0) + 8, &high.to_le_bytes());
}

#[test]
fn takes_what_a_guest_sends_in_order_and_gives_its_buffers_back() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    let sent: Vec<_> = (0..10).map(|at| frame(at, 60 + 150 * usize::from(at))).collect();
    for (number, frame) in (0..).zip(&sent) {
        guest.send(TX, 15 - number, frame);
    }
    assert_eq!(take(&mut guest), sent);
    assert_eq!(guest.used_count(TX), 10);
    assert_eq!(
        (0..10).map(|at| guest.used(TX, at)).collect::<Vec<_>>(),
        (6..16).rev().map(|head| (head, 0)).collect::<Vec<_>>()
    );
    let bytes = sent.iter().map(|frame| frame.len() as u64).sum();
    assert_eq!(guest.lane.counters().from_guest(), (10, bytes));
}

#[test]
fn ring_indices_wrap_at_16_bits() {
    let mut guest =
        TestGuest::new(TestGuestShape { first_index: u16::MAX - 20, ..TestGuestShape::default() });
    for round in 0..8_u8 {
        let sent: Vec<_> = (0..7).map(|at| frame(round * 8 + at, 60)).collect();
        for (number, frame) in (0..).zip(&sent) {
            guest.send(TX, number, frame);
        }
        assert_eq!(take(&mut guest), sent, "round {round}");
    }
    assert_eq!(guest.used_count(TX), 56);
}

#[test]
fn takes_a_frame_that_fills_its_room_and_drops_one_byte_more() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.send(TX, 0, &frame(1, 100));
    guest.send(TX, 1, &frame(2, 101));
    guest.send(TX, 2, &frame(3, 99));
    assert_eq!(take_into(&mut guest, 100), [frame(1, 100), frame(3, 99)]);
    assert_eq!((drops(&guest, PortDrop::FrameTooLong), guest.used_count(TX)), (1, 3));
}

#[test]
fn takes_an_ethernet_header_and_drops_one_byte_less() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.send(TX, 0, &frame(1, 14));
    guest.send(TX, 1, &frame(2, 13));
    guest.send(TX, 2, &[]);
    assert_eq!(take(&mut guest), [frame(1, 14)]);
    assert_eq!((drops(&guest, PortDrop::FrameTooShort), guest.used_count(TX)), (2, 3));
}

#[test]
fn a_frame_may_be_cut_anywhere_the_header_included() {
    let sent = frame(7, 300);
    let mut bytes = vec![0; 12];
    bytes.extend_from_slice(&sent);
    for cut in [1, 5, 11, 12, 13, 100, 311] {
        let mut guest = TestGuest::new(TestGuestShape::default());
        guest.write(buffer_at(3), &bytes[..cut]);
        guest.write(buffer_at(9), &bytes[cut..]);
        let len = |len: usize| u32::try_from(len).unwrap();
        let first = TestDescriptor { address: buffer_at(3), len_bytes: len(cut), flags: NEXT, next: 2 };
        let second = TestDescriptor { address: buffer_at(9), len_bytes: len(312 - cut), flags: 0, next: 0 };
        guest.describe(TX, 5, first);
        guest.describe(TX, 2, second);
        guest.offer(TX, 5);
        assert_eq!(take(&mut guest), std::slice::from_ref(&sent), "cut at {cut}");
        assert_eq!(guest.used(TX, 0), (5, 0));
    }
}

#[test]
fn a_jumbo_frame_arrives_from_one_buffer_or_many() {
    let sent = frame(9, 9014);
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.send(TX, 0, &sent);
    assert_eq!(take_into(&mut guest, 9100), std::slice::from_ref(&sent));
    let mut bytes = vec![0; 12];
    bytes.extend_from_slice(&sent);
    for (number, part) in (0..).zip(bytes.chunks(1000)) {
        guest.write(buffer_at(number), part);
        let flags = if part.len() == 1000 { NEXT } else { 0 };
        let len_bytes = u32::try_from(part.len()).unwrap();
        guest.describe(
            TX,
            number,
            TestDescriptor { address: buffer_at(number), len_bytes, flags, next: number + 1 },
        );
    }
    guest.offer(TX, 0);
    assert_eq!(take_into(&mut guest, 9100), [sent]);
}

#[test]
fn the_header_of_an_old_driver_is_two_bytes_shorter() {
    let mut guest = TestGuest::new(TestGuestShape { features: Features::NONE, ..TestGuestShape::default() });
    let sent = frame(5, 62);
    guest.write(buffer_at(0), &[0; 10]);
    guest.write(buffer_at(0) + 10, &sent);
    guest.describe(TX, 0, TestDescriptor { address: buffer_at(0), len_bytes: 72, flags: 0, next: 0 });
    guest.offer(TX, 0);
    assert_eq!(take(&mut guest), [sent]);
}

#[test]
fn a_burst_ends_when_its_bytes_are_spent() {
    let mut guest = TestGuest::new(TestGuestShape { size: 64, ..TestGuestShape::default() });
    let sent = frame(5, 9000);
    for number in 0..32 {
        guest.send(TX, number, &sent);
    }
    // 14 frames have 126000 bytes, and no frame begins behind 131072.
    assert_eq!(take_into(&mut guest, 9000).len(), 15);
    assert_eq!(guest.used_count(TX), 15);
    assert_eq!(take_into(&mut guest, 9000).len(), 15);
    assert_eq!(take_into(&mut guest, 9000).len(), 2);
}

#[test]
fn frames_that_are_copied_and_refused_spend_the_bytes_of_a_burst_as_well() {
    let mut guest = TestGuest::new(TestGuestShape { size: 64, ..TestGuestShape::default() });
    for _ in 0..32 {
        send_with_header(&mut guest, CHECKSUM_AT_40, &frame(5, 9000));
    }
    assert!(take_into(&mut guest, 9000).is_empty());
    assert_eq!((drops(&guest, PortDrop::HeaderRefused), guest.used_count(TX)), (15, 15));
}

#[test]
fn what_came_before_a_broken_chain_is_received() {
    let mut guest = TestGuest::new(TestGuestShape::default());
    guest.send(TX, 0, &frame(1, 60));
    guest.offer(TX, 999);
    guest.send(TX, 2, &frame(2, 60));
    assert_eq!(take(&mut guest), [frame(1, 60)]);
    assert_eq!(guest.used_count(TX), 1);
    assert_eq!(broken_name(guest.publisher().report(TX).broken()), Some("head_outside"));
    assert_eq!(guest.lane.counters().faults(1), 1);
}

const CHECKSUM_AT_40: OffloadHeader =
    OffloadHeader { flags: 1, checksum_start: 34, checksum_offset: 6, ..OffloadHeader::NONE };

#[test]
fn completes_a_checksum_over_what_lies_behind_its_start() {
    for len_bytes in [60, 61, 545, 546, 547, 1514] {
        let mut guest = TestGuest::new(shape(Features::CHECKSUM));
        let mut sent = frame(3, len_bytes);
        send_with_header(&mut guest, CHECKSUM_AT_40, &sent);
        let sum = checksum(&sent[34..]).to_be_bytes();
        sent[40..42].copy_from_slice(&sum);
        assert_eq!(take(&mut guest), [sent], "{len_bytes}");
    }
}

#[test]
fn a_checksum_of_zero_is_written_as_ones() {
    let mut guest = TestGuest::new(shape(Features::CHECKSUM));
    let mut sent = vec![0; 60];
    sent[50..52].copy_from_slice(&[0xff, 0xff]);
    send_with_header(&mut guest, CHECKSUM_AT_40, &sent);
    sent[40..42].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(take(&mut guest), [sent]);
}

#[test]
fn completes_a_checksum_at_the_very_end_and_refuses_it_one_byte_later() {
    let mut guest = TestGuest::new(shape(Features::CHECKSUM));
    let mut sent = frame(3, 60);
    let at = |checksum_offset| OffloadHeader { checksum_offset, ..CHECKSUM_AT_40 };
    send_with_header(&mut guest, at(24), &sent);
    let sum = checksum(&sent[34..]).to_be_bytes();
    let before = sent.clone();
    sent[58..60].copy_from_slice(&sum);
    assert_eq!(take(&mut guest), [sent]);
    send_with_header(&mut guest, at(25), &before);
    assert!(take(&mut guest).is_empty());
    send_with_header(&mut guest, OffloadHeader { checksum_start: u16::MAX, ..at(u16::MAX) }, &before);
    assert!(take(&mut guest).is_empty());
    assert_eq!((drops(&guest, PortDrop::HeaderRefused), guest.used_count(TX)), (2, 3));
}

#[test]
fn what_was_not_agreed_on_is_refused() {
    let tcp = OffloadHeader { segment_kind: 1, segment_bytes: 1448, ..CHECKSUM_AT_40 };
    let udp = OffloadHeader { segment_kind: 3, ..tcp };
    let segments = Features::CHECKSUM | Features::HOST_TSO4;
    for (features, header) in [
        (Features::NONE, CHECKSUM_AT_40),
        (Features::CHECKSUM, tcp),
        (segments, udp),
        (segments, OffloadHeader { segment_kind: 0x81, ..tcp }),
        (segments, OffloadHeader { segment_kind: 4, ..tcp }),
        (segments, OffloadHeader { segment_bytes: 0, ..tcp }),
        (segments, OffloadHeader { flags: 0, ..tcp }),
    ] {
        let mut guest = TestGuest::new(shape(features));
        send_with_header(&mut guest, header, &frame(1, 60));
        assert!(take(&mut guest).is_empty(), "{header:?}");
        assert_eq!((drops(&guest, PortDrop::HeaderRefused), guest.used_count(TX)), (1, 1));
    }
}

#[test]
fn a_long_packet_that_was_agreed_on_arrives_with_its_header() {
    let mut guest = TestGuest::new(shape(Features::CHECKSUM | Features::HOST_TSO4));
    let header = OffloadHeader { segment_kind: 1, segment_bytes: 1448, header_bytes: 54, ..CHECKSUM_AT_40 };
    send_with_header(&mut guest, header, &frame(1, 2000));
    let mut memory = [0; ROOM_BYTES];
    let mut received = [Received::default()];
    assert_eq!(guest.lane.dequeue(&mut [Room::of(&mut memory)], &mut received), 1);
    assert_eq!(received[0], Received { len_bytes: 2000, offload: header });
    assert!(memory[..2000] == frame(1, 2000));
}

#[test]
fn flags_that_mean_nothing_here_are_left_out() {
    let mut guest = TestGuest::new(shape(Features::NONE));
    send_with_header(
        &mut guest,
        OffloadHeader { flags: 0xfe, header_bytes: 99, ..OffloadHeader::NONE },
        &frame(1, 60),
    );
    let mut memory = [0; ROOM_BYTES];
    let mut received = [Received::default()];
    assert_eq!(guest.lane.dequeue(&mut [Room::of(&mut memory)], &mut received), 1);
    assert_eq!(received[0].offload, OffloadHeader::NONE);
}
