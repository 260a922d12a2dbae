//! What a network function says of packets is what the switch reads.

mod support;

use guest_netlib::{Burst, Endpoint, PollError, ResizeError};
use shm_ring::desc::{Desc, Verdict};
use shm_ring::layout::STRIDE_BYTES_DEFAULT;
use support::{INGRESS_PORT, QUOTA, RULE_MARK, TestHost, empty_loan, loan};

fn verdict(lent: Desc, verdict: Verdict, aux: u32) -> Desc {
    Desc { code: verdict as u8, aux, ..lent }
}

#[test]
fn each_verdict_comes_back_as_its_own_descriptor() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let (router, client) =
        (endpoint.target_service("router").unwrap(), endpoint.target_port("client").unwrap());
    let mut lcore = host.lcore(0);
    lcore.lend(0, 5);
    let mut burst = Burst::new();
    let pair = &endpoint.queue_pairs()[0];
    assert_eq!(pair.poll(&mut burst).unwrap(), 5);
    let mut packets: Vec<_> = burst.by_ref().collect();
    drop(packets.pop());
    packets.pop().unwrap().drop_packet();
    packets.pop().unwrap().to_port(client);
    packets.pop().unwrap().to_service(router);
    packets.pop().unwrap().next();
    assert_eq!(lcore.returned(), [], "verdicts are shown once a burst");
    assert_eq!(pair.poll(&mut burst).unwrap(), 0);
    assert_eq!(
        lcore.returned(),
        [
            verdict(loan(4, 64), Verdict::Drop, 0),
            verdict(loan(3, 64), Verdict::Drop, 0),
            verdict(loan(2, 64), Verdict::ToPort, u32::from(INGRESS_PORT)),
            verdict(loan(1, 64), Verdict::ToService, 2),
            verdict(loan(0, 64), Verdict::Next, 0),
        ]
    );
    let counters = endpoint.counters();
    assert_eq!((counters.received, counters.sent, counters.dropped), (5, 3, 2));
}

#[test]
fn a_packet_is_read_and_written_where_the_switch_put_it() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(9, 1);
    let mut burst = Burst::new();
    endpoint.queue_pairs()[0].poll(&mut burst).unwrap();
    let mut packet = burst.next().unwrap();
    assert_eq!(packet.data(), [9; 64]);
    assert_eq!((packet.ingress_port(), packet.mark()), (INGRESS_PORT, RULE_MARK));
    assert_eq!(endpoint.port_name(packet.ingress_port()), Some("client"));
    packet.data_mut()[..2].copy_from_slice(&[1, 2]);
    packet.next();
    assert_eq!(lcore.read_buffer(9, 128, 3), [1, 2, 9]);
}

#[test]
fn a_packet_grows_up_to_both_ends_of_its_buffer_and_no_further() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 1);
    let mut burst = Burst::new();
    endpoint.queue_pairs()[0].poll(&mut burst).unwrap();
    let mut packet = burst.next().unwrap();
    let tailroom_bytes = u16::try_from(STRIDE_BYTES_DEFAULT).unwrap() - 128 - 64;
    assert_eq!((packet.headroom_bytes(), packet.tailroom_bytes()), (128, tailroom_bytes));
    assert_eq!(packet.grow_front(129), Err(ResizeError::Headroom { wanted_bytes: 129, headroom_bytes: 128 }));
    assert_eq!(
        packet.grow_back(tailroom_bytes + 1),
        Err(ResizeError::Tailroom { wanted_bytes: tailroom_bytes + 1, tailroom_bytes })
    );
    assert_eq!(packet.shrink_front(65), Err(ResizeError::Length { wanted_bytes: 65, len_bytes: 64 }));
    assert_eq!(packet.shrink_back(65), Err(ResizeError::Length { wanted_bytes: 65, len_bytes: 64 }));
    assert_eq!(packet.len(), 64, "a refused resize changes nothing");
    packet.grow_front(128).unwrap();
    packet.grow_back(tailroom_bytes).unwrap();
    assert_eq!(packet.len(), STRIDE_BYTES_DEFAULT as usize);
    packet.data_mut().fill(0xee);
    packet.shrink_front(100).unwrap();
    packet.shrink_back(200).unwrap();
    packet.next();
    drop(burst);
    let [back] = lcore.returned()[..] else { panic!("one packet back") };
    assert_eq!((back.data_offset_bytes, back.data_len_bytes), (100, 2068));
    assert_eq!(lcore.read_buffer(1, 0, 4), [0; 4], "the neighbour buffer is untouched");
}

#[test]
fn a_half_used_burst_gives_back_the_rest() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 8);
    let mut burst = Burst::new();
    endpoint.queue_pairs()[0].poll(&mut burst).unwrap();
    burst.next().unwrap().next();
    burst.next().unwrap().next();
    drop(burst);
    let back: Vec<_> = lcore.returned().iter().map(|desc| (desc.buffer_index, desc.code)).collect();
    let (next, drop) = (Verdict::Next as u8, Verdict::Drop as u8);
    assert_eq!(
        back,
        [(0, next), (1, next), (2, drop), (3, drop), (4, drop), (5, drop), (6, drop), (7, drop)]
    );
}

#[test]
fn a_packet_that_outlives_its_burst_goes_home_with_the_next_poll() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let pair = &endpoint.queue_pairs()[0];
    let mut lcore = host.lcore(0);
    lcore.lend(0, 2);
    let mut burst = Burst::new();
    pair.poll(&mut burst).unwrap();
    let late = burst.next().unwrap();
    drop(burst);
    assert_eq!(lcore.returned().len(), 1);
    late.next();
    assert_eq!(lcore.returned().len(), 0);
    pair.flush();
    assert_eq!(lcore.returned(), [verdict(loan(0, 64), Verdict::Next, 0)]);
}

#[test]
fn an_empty_buffer_becomes_a_packet_or_goes_home_empty() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let pair = &endpoint.queue_pairs()[0];
    let mut lcore = host.lcore(0);
    lcore.lend_desc(empty_loan(20));
    lcore.lend_desc(loan(21, 60));
    lcore.lend_desc(empty_loan(22));
    lcore.lend_desc(empty_loan(23));
    lcore.publish();
    let mut burst = Burst::new();
    assert_eq!(pair.poll(&mut burst).unwrap(), 1, "empty buffers are no packets");
    let packet = pair.take_empty().unwrap().fill(&[0xab; 60]).unwrap();
    packet.to_port(endpoint.target_port("client").unwrap());
    let too_long = pair.take_empty().unwrap().fill_with(3000, |_| {}).unwrap_err();
    assert_eq!(too_long.to_string(), "a frame of 3000 bytes in a buffer with room for 2240");
    drop(too_long);
    drop(pair.take_empty().unwrap());
    assert!(pair.take_empty().is_none());
    burst.next().unwrap().next();
    drop(burst);
    assert_eq!(
        lcore.returned(),
        [
            verdict(Desc { data_len_bytes: 60, ..empty_loan(23) }, Verdict::ToPort, INGRESS_PORT.into()),
            verdict(empty_loan(22), Verdict::ReturnEmpty, 0),
            verdict(empty_loan(20), Verdict::ReturnEmpty, 0),
            verdict(loan(21, 60), Verdict::Next, 0),
        ]
    );
    assert_eq!(lcore.read_buffer(23, 128, 60), [0xab; 60]);
    assert_eq!(endpoint.counters().made, 1);
}

#[test]
fn rings_wrap_many_times_and_nothing_is_lost() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let pair = &endpoint.queue_pairs()[0];
    let mut lcore = host.lcore(0);
    let mut burst = Burst::new();
    let rounds = 500;
    for round in 0..rounds {
        lcore.lend(0, QUOTA);
        let mut taken = 0;
        while taken < QUOTA as usize {
            taken += pair.poll(&mut burst).unwrap();
            for packet in &mut burst {
                packet.next();
            }
        }
        pair.flush();
        let back: Vec<_> = lcore.returned().iter().map(|desc| desc.buffer_index).collect();
        assert_eq!(back, (0..QUOTA).collect::<Vec<_>>(), "round {round}");
    }
    assert_eq!(endpoint.counters().sent, u64::from(QUOTA) * rounds);
}

#[test]
fn a_descriptor_outside_the_region_ends_the_attach_and_spares_the_packets_beside_it() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let pair = &endpoint.queue_pairs()[0];
    let mut lcore = host.lcore(0);
    let count = host.areas().geometry.buffer_count;
    lcore.lend_desc(loan(1, 64));
    lcore.lend_desc(Desc { buffer_index: count, ..loan(0, 64) });
    lcore.lend_desc(loan(2, 64));
    lcore.publish();
    let mut burst = Burst::new();
    assert_eq!(pair.poll(&mut burst).unwrap(), 2);
    assert_eq!(burst.by_ref().map(|packet| packet.len()).collect::<Vec<_>>(), [64, 64]);
    let err = pair.poll(&mut burst).unwrap_err();
    assert!(matches!(err, PollError::Descriptor { buffer_index, .. } if buffer_index == count), "{err}");
}

#[test]
fn data_may_end_with_the_buffer_and_not_one_byte_later() {
    let stride = u16::try_from(STRIDE_BYTES_DEFAULT).unwrap();
    for (len, accepted) in [(stride - 128, 1), (stride - 127, 0)] {
        let host = TestHost::new(&[0]);
        let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
        let mut lcore = host.lcore(0);
        lcore.lend_desc(loan(host.areas().geometry.buffer_count - 1, len));
        lcore.publish();
        let mut burst = Burst::new();
        assert_eq!(endpoint.queue_pairs()[0].poll(&mut burst).unwrap(), accepted);
    }
}

#[test]
fn a_code_or_a_flag_that_is_no_kind_is_refused() {
    for strange in [
        Desc { code: 0, ..loan(0, 64) },
        Desc { code: 0x11, ..loan(0, 64) },
        Desc { flags: 1, ..loan(0, 64) },
    ] {
        let host = TestHost::new(&[0]);
        let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
        let mut lcore = host.lcore(0);
        lcore.lend_desc(strange);
        lcore.publish();
        let mut burst = Burst::new();
        assert_eq!(endpoint.queue_pairs()[0].poll(&mut burst).unwrap(), 0);
        let err = endpoint.queue_pairs()[0].poll(&mut burst).unwrap_err();
        assert!(matches!(err, PollError::Descriptor { .. }), "{err}");
    }
}
