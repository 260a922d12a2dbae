//! Who gives a buffer back, and on which thread.

use std::sync::mpsc;

use dpdk::{DpdkError, MbufBurst};

use crate::fixture::{Bench, eal, started};

#[test]
fn a_burst_dropped_half_used_gives_its_frames_back() {
    let bench = Bench::new("half_used", 64);
    {
        let mut burst = MbufBurst::<32>::new();
        assert!(bench.pool.take_into(&mut burst, 20));
        for _ in 0..7 {
            drop(burst.take_first());
        }
        assert_eq!(burst.len(), 13);
        assert_eq!(bench.list.len(), 64 - 13);
    }
    bench.assert_all_home();
}

#[test]
fn a_burst_keeps_what_the_driver_did_not_take() {
    let bench = Bench::new("leftover", 4096);
    let (port, mut queues) = started("net_ring_full", &bench.pool);
    let mut burst = MbufBurst::<64>::new();
    let mut sent = 0;
    loop {
        assert!(bench.pool.take_into(&mut burst, 64));
        let now = queues.tx[0].burst(&mut burst);
        sent += now;
        assert_eq!(burst.len(), 64 - now);
        if now < 64 {
            break;
        }
    }
    assert_eq!(bench.list.len(), 4096 - sent - burst.len());
    drop(burst);
    assert_eq!(bench.list.len(), 4096 - sent);
    let mut burst = MbufBurst::<64>::new();
    while queues.rx[0].burst(&mut burst) > 0 {
        burst.clear();
    }
    drop(queues);
    drop(port);
    bench.assert_all_home();
}

#[test]
fn a_burst_takes_in_at_the_back_what_left_room_at_the_front() {
    let bench = Bench::new("round", 16);
    let mut burst = MbufBurst::<4>::new();
    assert!(bench.pool.take_into(&mut burst, 4));
    assert!(burst.is_full());
    assert!(!bench.pool.take_into(&mut burst, 1), "no room");
    let first = burst.take_first().unwrap();
    let second = burst.take_first().unwrap();
    let addresses = (first.header_address(), second.header_address());
    burst.push(first).unwrap();
    burst.push(second).unwrap();
    let mut third = MbufBurst::<1>::new();
    assert!(bench.pool.take_into(&mut third, 1));
    let refused = burst.push(third.take_first().unwrap()).unwrap_err();
    drop(refused);
    assert_eq!(burst.len(), 4);
    drop(burst.take_first());
    drop(burst.take_first());
    let back = (burst.take_first().unwrap(), burst.take_first().unwrap());
    assert_eq!((back.0.header_address(), back.1.header_address()), addresses);
    drop(back);
    bench.assert_all_home();
}

#[test]
fn a_frame_dropped_on_a_foreign_thread_waits_for_the_owner() {
    let bench = Bench::new("foreign_free", 128);
    let owner = bench.pool.set_owner_current_thread().unwrap();
    let mut burst = MbufBurst::<64>::new();
    assert!(bench.pool.take_into(&mut burst, 50));
    std::thread::scope(|scope| {
        scope.spawn(move || drop(burst));
    });
    assert_eq!(bench.list.len(), 78, "the free list was not touched by the other thread");
    assert_eq!(bench.pool.collect_foreign(), 50);
    assert_eq!(bench.pool.collect_foreign(), 0);
    bench.assert_all_home();
    drop(owner);
}

#[test]
fn what_foreign_threads_gave_back_is_found_when_the_free_list_is_empty() {
    let bench = Bench::new("foreign_refill", 32);
    let _owner = bench.pool.set_owner_current_thread().unwrap();
    let mut burst = MbufBurst::<32>::new();
    assert!(bench.pool.take_into(&mut burst, 32));
    std::thread::scope(|scope| {
        scope.spawn(move || drop(burst));
    });
    let mut burst = MbufBurst::<32>::new();
    assert!(bench.pool.take_into(&mut burst, 32));
}

#[test]
fn a_foreign_thread_gets_no_buffers_and_is_counted() {
    let bench = Bench::new("foreign_take", 32);
    let owner = bench.pool.set_owner_current_thread().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut burst = MbufBurst::<32>::new();
            assert!(!bench.pool.take_into(&mut burst, 1));
            assert_eq!(bench.pool.available(), None);
            assert_eq!(bench.pool.collect_foreign(), 0);
            assert!(matches!(bench.pool.set_owner_current_thread(), Err(DpdkError::PoolOwned { .. })));
        });
    });
    assert_eq!(bench.pool.faults().foreign_takes, 1);
    drop(owner);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(bench.pool.set_owner_current_thread().unwrap()));
    });
    bench.assert_all_home();
}

#[test]
fn every_buffer_comes_home_while_three_threads_drop_what_one_receives() {
    let bench = Bench::new("many_threads", 2048);
    let (port, mut queues) = started("net_null_many", &bench.pool);
    let rounds = 3000;
    std::thread::scope(|scope| {
        let droppers: Vec<_> = (0..3)
            .map(|_| {
                let (to, from) = mpsc::sync_channel::<MbufBurst<32>>(4);
                scope.spawn(move || from.into_iter().for_each(drop));
                to
            })
            .collect();
        let (pool, queue) = (&bench.pool, &mut queues.rx[0]);
        scope.spawn(move || {
            let _thread = eal().register_thread().unwrap();
            let owner = pool.set_owner_current_thread().unwrap();
            for round in 0..rounds {
                let mut burst = MbufBurst::new();
                queue.burst(&mut burst);
                droppers[round % 3].send(burst).unwrap();
                if round % 16 == 0 {
                    pool.collect_foreign();
                }
            }
            drop(owner);
        });
    });
    bench.pool.collect_foreign();
    drop(queues);
    drop(port);
    bench.assert_all_home();
}

#[test]
fn a_pool_outlives_its_handles_while_a_frame_is_out() {
    let mut burst = MbufBurst::<2>::new();
    let list = {
        let bench = Bench::new("outlived", 8);
        assert!(bench.pool.take_into(&mut burst, 2));
        bench.list
    };
    assert_eq!(list.len(), 6);
    drop(burst);
    assert_eq!(list.len(), 8, "the free list is still there to take them back");
}

#[test]
fn a_complete_pool_goes_with_its_last_handle_and_its_name_is_free_again() {
    let list = {
        let bench = Bench::new("reused_name", 8);
        bench.list
    };
    assert_eq!(std::sync::Arc::strong_count(&list), 1, "the pool's handle of the list is gone");
    Bench::new("reused_name", 8).assert_all_home();
}
