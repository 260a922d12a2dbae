//! What a driver may link together, and what breaks its ring, on the transmit queue.

use crate::features::Features;
use crate::frame::{Received, Room};
use crate::lane::broken_name;
use crate::lane_counters::PortDrop;
use crate::test_guest::{
    BUFFERS_AT, INDIRECT, NEXT, REGION_BYTES, TestDescriptor, TestGuest, TestGuestShape, WRITE, buffer_at,
};

/// The transmit queue of the first pair.
const TX: usize = 1;
const SIZE: u16 = 16;
/// Where tests keep a table outside the ring.
const TABLE_AT: u64 = BUFFERS_AT + 0x8_0000;

fn guest() -> TestGuest {
    TestGuest::new(TestGuestShape { size: SIZE, ..TestGuestShape::default() })
}

/// Frames that one burst takes.
fn take(guest: &mut TestGuest) -> usize {
    let mut memory = vec![0; 64 * 2048];
    let mut rooms: Vec<_> = memory.chunks_exact_mut(2048).map(Room::of).collect();
    guest.lane.dequeue(&mut rooms, &mut [Received::default(); 64])
}

/// What broke the transmit queue.
fn broken(guest: &TestGuest) -> Option<&'static str> {
    broken_name(guest.publisher().report(TX).broken())
}

fn piece(number: u16, len_bytes: u32, next: Option<u16>) -> TestDescriptor {
    let address = buffer_at(number);
    TestDescriptor { address, len_bytes, flags: next.map_or(0, |_| NEXT), next: next.unwrap_or(0) }
}

fn write_table(guest: &TestGuest, pieces: &[TestDescriptor]) {
    for (at, piece) in (0..).zip(pieces) {
        guest.write(TABLE_AT + 16 * at, &piece.bytes());
    }
}

fn table(count: u16) -> TestDescriptor {
    TestDescriptor { address: TABLE_AT, len_bytes: 16 * u32::from(count), flags: INDIRECT, next: 0 }
}

/// A chain of `count` pieces of 4 bytes, each followed by the next.
fn straight(count: u16) -> Vec<TestDescriptor> {
    (0..count).map(|at| piece(at, 4, (at + 1 < count).then_some(at + 1))).collect()
}

#[test]
fn a_full_ring_is_taken_whole() {
    let mut guest = guest();
    for number in 0..SIZE {
        guest.send(TX, number, &[0xab; 60]);
    }
    assert_eq!((take(&mut guest), guest.used_count(TX), broken(&guest)), (16, 16, None));
}

#[test]
fn an_index_that_claims_one_chain_more_than_the_ring_holds_breaks_it() {
    let mut guest = guest();
    guest.send(TX, 0, &[0xab; 60]);
    guest.set_avail_index(TX, SIZE + 1);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("avail_jump")));
}

#[test]
fn an_index_that_goes_back_breaks_the_ring() {
    let mut guest = guest();
    guest.send(TX, 0, &[0xab; 60]);
    assert_eq!(take(&mut guest), 1);
    guest.set_avail_index(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("avail_jump")));
}

#[test]
fn a_chain_that_starts_right_behind_the_table_breaks_the_ring() {
    let mut guest = guest();
    guest.send(TX, SIZE - 1, &[0xab; 60]);
    guest.offer(TX, SIZE);
    assert_eq!((take(&mut guest), guest.used_count(TX), broken(&guest)), (1, 1, Some("head_outside")));
}

#[test]
fn a_next_descriptor_right_behind_the_table_breaks_the_ring() {
    let mut guest = guest();
    guest.describe(TX, 0, piece(0, 20, Some(SIZE - 1)));
    guest.describe(TX, SIZE - 1, piece(1, 20, None));
    guest.offer(TX, 0);
    assert_eq!(take(&mut guest), 1);
    guest.describe(TX, SIZE - 1, piece(1, 20, Some(SIZE)));
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("next_outside")));
}

#[test]
fn a_next_descriptor_right_behind_its_table_breaks_the_ring() {
    let mut guest = guest();
    write_table(&guest, &[piece(0, 20, Some(1)), piece(1, 20, Some(2)), piece(2, 20, None)]);
    guest.describe(TX, 0, table(3));
    guest.offer(TX, 0);
    assert_eq!(take(&mut guest), 1);
    guest.describe(TX, 0, table(2));
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("next_outside")));
}

#[test]
fn a_chain_may_be_as_long_as_its_ring_and_no_longer() {
    let mut guest = guest();
    write_table(&guest, &straight(SIZE));
    guest.describe(TX, 0, table(SIZE));
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (1, None));
    // One piece in the ring, and then as many as the ring has entries.
    guest.describe(TX, 1, piece(0, 20, Some(0)));
    guest.offer(TX, 1);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("chain_too_long")));
}

#[test]
fn a_loop_breaks_the_ring_in_the_ring_and_in_a_table() {
    for in_table in [false, true] {
        let mut guest = guest();
        let there_and_back = [piece(0, 0, Some(1)), piece(1, 0, Some(0))];
        write_table(&guest, &there_and_back);
        guest.describe(TX, 0, if in_table { table(2) } else { there_and_back[0] });
        guest.describe(TX, 1, there_and_back[1]);
        guest.offer(TX, 0);
        assert_eq!((take(&mut guest), broken(&guest)), (0, Some("chain_too_long")));
    }
}

#[test]
fn a_table_in_a_table_breaks_the_ring() {
    let mut guest = guest();
    write_table(&guest, &[piece(0, 40, Some(1)), table(1)]);
    guest.describe(TX, 0, table(2));
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("indirect_nested")));
}

#[test]
fn a_table_may_be_as_long_as_its_ring_and_no_longer() {
    let mut guest = guest();
    write_table(&guest, &[piece(0, 60, None)]);
    guest.describe(TX, 0, table(SIZE));
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (1, None));
    guest.describe(TX, 0, table(SIZE + 1));
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("indirect_length")));
}

#[test]
fn a_table_of_no_whole_number_of_descriptors_or_none_breaks_the_ring() {
    for len_bytes in [0, 15, 17, u32::MAX, u32::MAX - 15] {
        let mut guest = guest();
        write_table(&guest, &[piece(0, 60, None)]);
        guest.describe(TX, 0, TestDescriptor { len_bytes, ..table(1) });
        guest.offer(TX, 0);
        assert_eq!((take(&mut guest), broken(&guest)), (0, Some("indirect_length")), "{len_bytes}");
    }
}

#[test]
fn a_table_needs_no_alignment() {
    let mut guest = guest();
    guest.write(TABLE_AT + 3, &piece(0, 60, None).bytes());
    guest.describe(TX, 0, TestDescriptor { address: TABLE_AT + 3, ..table(1) });
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (1, None));
}

#[test]
fn a_table_with_a_next_descriptor_breaks_the_ring() {
    let mut guest = guest();
    write_table(&guest, &[piece(0, 60, None)]);
    guest.describe(TX, 0, TestDescriptor { flags: INDIRECT | NEXT, next: 1, ..table(1) });
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("indirect_with_next")));
}

#[test]
fn a_table_without_the_feature_breaks_the_ring() {
    let features = Features::VERSION_1;
    let mut guest = TestGuest::new(TestGuestShape { features, ..TestGuestShape::default() });
    write_table(&guest, &[piece(0, 60, None)]);
    guest.describe(TX, 0, table(1));
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("indirect_unasked")));
}

#[test]
fn a_buffer_for_the_other_direction_breaks_the_ring() {
    for flags in [WRITE, WRITE | NEXT] {
        let mut guest = guest();
        guest.describe(TX, 0, TestDescriptor { flags, next: 1, ..piece(0, 60, None) });
        guest.describe(TX, 1, piece(1, 60, None));
        guest.offer(TX, 0);
        assert_eq!((take(&mut guest), broken(&guest)), (0, Some("direction")));
    }
}

#[test]
fn a_buffer_may_end_with_its_region_and_not_one_byte_later() {
    let mut guest = guest();
    let end = BUFFERS_AT + REGION_BYTES;
    guest.describe(TX, 0, TestDescriptor { address: end - 60, len_bytes: 60, ..piece(0, 0, None) });
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (1, None));
    guest.describe(TX, 0, TestDescriptor { address: end - 60, len_bytes: 61, ..piece(0, 0, None) });
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("outside_memory")));
}

#[test]
fn a_buffer_that_would_wrap_the_address_space_breaks_the_ring() {
    for (address, len_bytes) in [(u64::MAX - 10, 60), (BUFFERS_AT, u32::MAX), (u64::MAX, u32::MAX), (0, 60)] {
        let mut guest = guest();
        guest.describe(TX, 0, TestDescriptor { address, len_bytes, flags: 0, next: 0 });
        guest.offer(TX, 0);
        assert_eq!((take(&mut guest), broken(&guest)), (0, Some("outside_memory")), "{address:#x}");
    }
}

#[test]
fn a_table_outside_the_memory_breaks_the_ring() {
    let mut guest = guest();
    let address = BUFFERS_AT + REGION_BYTES - 16;
    guest.describe(TX, 0, TestDescriptor { address, ..table(2) });
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("outside_memory")));
}

#[test]
fn descriptors_of_no_length_count_and_hold_nothing() {
    let mut guest = guest();
    let mut pieces = straight(SIZE);
    pieces.iter_mut().skip(1).for_each(|piece| (piece.len_bytes, piece.address) = (0, u64::MAX));
    pieces[0].len_bytes = 60;
    write_table(&guest, &pieces);
    guest.describe(TX, 0, table(SIZE));
    guest.offer(TX, 0);
    assert_eq!((take(&mut guest), broken(&guest)), (1, None));
    guest.describe(TX, 2, TestDescriptor::default());
    guest.offer(TX, 2);
    assert_eq!((take(&mut guest), broken(&guest)), (0, None));
    assert_eq!(guest.lane.counters().drops(PortDrop::FrameTooShort), 1);
    assert_eq!(guest.used_count(TX), 2);
}

#[test]
fn a_burst_ends_when_its_descriptors_are_spent() {
    let mut guest = TestGuest::new(TestGuestShape { size: 64, ..TestGuestShape::default() });
    write_table(&guest, &straight(64));
    for number in 0..64 {
        guest.describe(TX, number, table(64));
        guest.offer(TX, number);
    }
    // 65 descriptors a chain: the sixteenth begins at 975, and no chain begins behind 1024.
    assert_eq!(take(&mut guest), 16);
    assert_eq!((take(&mut guest), guest.used_count(TX), broken(&guest)), (16, 32, None));
}

#[test]
fn a_broken_queue_is_left_alone_until_it_is_started_anew() {
    let mut guest = guest();
    guest.offer(TX, SIZE);
    assert_eq!((take(&mut guest), broken(&guest)), (0, Some("head_outside")));
    guest.send(TX, 0, &[0xab; 60]);
    let same_start = guest.setup();
    guest.publish(same_start);
    assert_eq!((take(&mut guest), guest.used_count(TX)), (0, 0));
    guest.restart();
    guest.send(TX, 0, &[0xab; 60]);
    assert_eq!((take(&mut guest), guest.used_count(TX)), (1, 1));
}
