//! What a frame says of itself, and where it lies.

use dpdk::{BufferIndex, FrameBounds, MbufBurst, PrivatePool};

use crate::fixture::{Bench, FIRST_INDEX, STRIDE, eal, started};

#[test]
fn frames_of_net_null_lie_in_the_region_and_their_headers_do_not() {
    let bench = Bench::new("null_in_region", 512);
    let (port, mut queues) = started("net_null_place,size=60,copy=1", &bench.pool);
    assert_eq!(port.info().driver, "net_null");
    for _ in 0..100 {
        let mut burst = MbufBurst::<64>::new();
        let received = queues.rx[0].burst(&mut burst);
        assert!(received > 0);
        assert_eq!(received, burst.len());
        while let Some(frame) = burst.take_first() {
            let index = bench.pool.index_of(&frame).unwrap();
            let data = frame.data_address().addr().get();
            assert_eq!(data, bench.buffer_at(index.0) + 128);
            assert!(bench.contains(data));
            assert!(!bench.contains(frame.header_address()));
            assert_eq!((frame.data_len(), frame.pkt_len(), frame.segments()), (60, 60, 1));
        }
    }
    assert_eq!(queues.rx[0].faults(), dpdk::RxFaults::default());
    drop(queues);
    drop(port);
    bench.assert_all_home();
}

#[test]
fn a_frame_that_is_sent_into_a_ring_port_comes_back_with_its_bytes() {
    let bench = Bench::new("ring_round_trip", 256);
    let (port, mut queues) = started("net_ring_trip", &bench.pool);
    let mut burst = MbufBurst::<32>::new();
    assert!(bench.pool.take_into(&mut burst, 1));
    let mut frame = burst.take_first().unwrap();
    let sent: Vec<u8> = (0..=199).collect();
    frame.copy_in(&sent).unwrap();
    let index = bench.pool.index_of(&frame);
    burst.push(frame).unwrap();

    assert_eq!(queues.tx[0].burst(&mut burst), 1);
    assert!(burst.is_empty());
    assert_eq!(queues.rx[0].burst(&mut burst), 1);

    let frame = burst.take_first().unwrap();
    assert_eq!(bench.pool.index_of(&frame), index);
    let mut got = [0_u8; 256];
    assert_eq!(frame.copy_out(0, &mut got), 200);
    assert_eq!(got[..200], sent[..]);
    assert_eq!(frame.copy_out(190, &mut got), 10);
    assert_eq!(got[..10], sent[190..]);
    assert_eq!(frame.copy_out(200, &mut got), 0);
    assert_eq!(frame.copy_out(u16::MAX, &mut got), 0);
    drop(frame);
    drop((queues, burst));
    drop(port);
    bench.assert_all_home();
}

#[test]
fn an_index_turns_into_the_frame_it_was() {
    let bench = Bench::new("index_and_back", 8);
    let mut burst = MbufBurst::<8>::new();
    assert!(bench.pool.take_into(&mut burst, 8));
    let mut seen = Vec::new();
    while let Some(mut frame) = burst.take_first() {
        frame.set_data(140, 77).unwrap();
        let header = frame.header_address();
        let index = bench.pool.into_index(frame).unwrap();
        // SAFETY: given up in the line above.
        let frame = unsafe { bench.pool.mbuf_at(index) };
        assert_eq!((frame.header_address(), frame.data_off(), frame.data_len()), (header, 140, 77));
        seen.push(index.0);
    }
    seen.sort_unstable();
    assert_eq!(seen, (FIRST_INDEX..FIRST_INDEX + 8).collect::<Vec<_>>());
    bench.assert_all_home();
}

#[test]
fn accepts_data_that_ends_with_the_buffer_and_refuses_one_byte_more() {
    let bench = Bench::new("data_bounds", 4);
    let mut burst = MbufBurst::<1>::new();
    assert!(bench.pool.take_into(&mut burst, 1));
    let mut frame = burst.take_first().unwrap();
    let buffer_bytes = u16::try_from(STRIDE).unwrap();
    assert_eq!(frame.buffer_bytes(), buffer_bytes);
    frame.set_data(0, buffer_bytes).unwrap();
    frame.set_data(buffer_bytes, 0).unwrap();
    frame.set_data(128, buffer_bytes - 128).unwrap();
    let refused = frame.set_data(128, buffer_bytes - 127).unwrap_err();
    let expected =
        FrameBounds { offset_bytes: 128, len_bytes: buffer_bytes - 127, buffer_bytes, segments: 1 };
    assert_eq!(refused, expected);
    assert_eq!(frame.data_len(), buffer_bytes - 128, "a refusal changes nothing");
    // 65535 + 1 wraps to 0 in 16 bits.
    assert!(frame.set_data(u16::MAX, 1).is_err());
    assert!(frame.set_data(1, u16::MAX).is_err());
    frame.copy_in(&vec![7; STRIDE as usize - 128]).unwrap();
    assert!(frame.copy_in(&vec![7; STRIDE as usize - 127]).is_err());
    assert!(frame.copy_in(&vec![7; 70_000]).is_err());
}

#[test]
fn a_private_pool_receives_outside_every_region() {
    let bench = Bench::new("not_used", 4);
    let pool = PrivatePool::create(&eal(), "private", 256, 2048).unwrap();
    let (port, mut queues) = started("net_null_private", &pool);
    let mut burst = MbufBurst::<32>::new();
    assert!(queues.rx[0].burst(&mut burst) > 0);
    let frame = burst.take_first().unwrap();
    assert!(!bench.contains(frame.data_address().addr().get()));
    assert_eq!(bench.pool.index_of(&frame), None::<BufferIndex>);
    let frame = bench.pool.into_index(frame).unwrap_err();
    drop(frame);
    drop((queues, burst));
    drop(port);
    assert_eq!(pool.available(), 256);
}

#[test]
fn a_frame_of_two_segments_says_so_is_not_resized_and_goes_home_whole() {
    let bench = Bench::new("two_segments", 16);
    let (port, mut queues) = started("net_ring_segments", &bench.pool);
    let mut burst = MbufBurst::<4>::new();
    assert!(bench.pool.take_into(&mut burst, 2));
    let (mut first, second) = (burst.take_first().unwrap(), burst.take_first().unwrap());
    first.append(second).unwrap();
    // A third one is not taken.
    assert!(bench.pool.take_into(&mut burst, 1));
    drop(first.append(burst.take_first().unwrap()).unwrap_err());
    burst.push(first).unwrap();
    assert_eq!(queues.tx[0].burst(&mut burst), 1);
    assert_eq!(queues.rx[0].burst(&mut burst), 1);
    let mut frame = burst.take_first().unwrap();
    assert_eq!(frame.segments(), 2);
    assert!(frame.set_data(128, 60).is_err());
    assert_eq!(bench.list.len(), 14);
    drop(frame);
    bench.assert_all_home();
    drop(queues);
    drop(port);
}
