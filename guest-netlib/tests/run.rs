//! The polling loop: limits, stops, threads, and what the switch sees of it.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guest_netlib::{Burst, End, Endpoint, Idle, Run, RunError, Stop};
use shm_ring::attach::GuestEvent;
use shm_ring::desc::Verdict;
use shm_ring::layout::GuestCounter;
use support::TestHost;

#[test]
fn a_loop_ends_after_exactly_the_packets_it_was_given() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 50);
    let how = Run { packets_max: Some(37), ..Run::default() };
    let report = endpoint.run(&how, |packet| packet.next()).unwrap();
    assert_eq!((report.end, report.counters.sent), (End::Packets, 37));
    assert_eq!(lcore.returned().len(), 37, "nothing is left unshown");
    let shown = host.counters();
    assert_eq!(shown[GuestCounter::Received as usize], 37);
    assert_eq!(shown[GuestCounter::Sent as usize], 37);
}

#[test]
fn a_loop_ends_when_its_time_is_over() {
    for idle in [Idle::Spin, Idle::Yield, Idle::sleep()] {
        let host = TestHost::new(&[0]);
        let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
        let how = Run { idle, time_max: Some(Duration::from_millis(30)), ..Run::default() };
        let report = endpoint.run(&how, |packet| packet.next()).unwrap();
        assert_eq!(report.end, End::Time);
        assert!(report.elapsed >= Duration::from_millis(30));
        assert!(report.counters.empty_polls > 0);
        host.wait_until("a heartbeat", || host.has_seen(GuestEvent::Beat(1)) || host.counters()[4] > 0);
    }
}

#[test]
fn a_loop_ends_when_asked_and_gives_back_what_its_handler_left() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 4);
    let how = Run { stop: Stop::new(), ..Run::default() };
    let report = endpoint.run_bursts(&how, |burst| {
        burst.next().unwrap().next();
        how.stop.ask();
    });
    assert_eq!(report.unwrap().end, End::Stopped);
    let back: Vec<_> = lcore.returned().iter().map(|desc| desc.code).collect();
    let (next, drop) = (Verdict::Next as u8, Verdict::Drop as u8);
    assert_eq!(back, [next, drop, drop, drop]);
}

#[test]
fn a_handler_that_panics_loses_no_buffer() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 8);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        endpoint.run(&Run::default(), |packet| {
            assert_ne!(packet.data()[0], 3, "an app that cannot bear packet 3");
            packet.next();
        })
    }));
    assert!(ended.is_err());
    let back: Vec<_> = lcore.returned().iter().map(|desc| (desc.buffer_index, desc.code)).collect();
    let (next, drop) = (Verdict::Next as u8, Verdict::Drop as u8);
    assert_eq!(
        back,
        [(0, next), (1, next), (2, next), (3, drop), (4, drop), (5, drop), (6, drop), (7, drop)]
    );
}

#[test]
fn a_loop_goes_on_after_the_switch_detached_it() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let stop = Stop::new();
    let how = Run { stop: stop.clone(), ..Run::default() };
    std::thread::scope(|threads| {
        let looping = threads.spawn(|| endpoint.run(&how, |packet| packet.next()).unwrap());
        host.wait_until("the first attach", || host.has_seen(GuestEvent::Confirmed(41)));
        host.wait_until("the second attach", || {
            if !host.has_seen(GuestEvent::Left(41)) {
                host.detach(0);
            }
            host.has_seen(GuestEvent::Confirmed(42))
        });
        let mut lcore = host.lcore(0);
        lcore.lend(0, 10);
        let mut back = 0;
        host.wait_until("ten packets", || {
            back += lcore.returned().len();
            back == 10
        });
        stop.ask();
        assert_eq!(looping.join().unwrap().attaches, 2);
    });
}

#[test]
fn a_loop_ends_with_an_error_when_the_switch_hangs_up() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    host.hang_up();
    let err = endpoint.run(&Run::default(), |packet| packet.next()).unwrap_err();
    assert!(matches!(err, RunError::SwitchGone { .. }), "{err}");
}

#[test]
fn two_threads_poll_two_queue_pairs() {
    let host = TestHost::new(&[0, 1]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let taken = AtomicU64::new(0);
    let rounds = 200;
    std::thread::scope(|threads| {
        for pair in endpoint.split() {
            let taken = &taken;
            threads.spawn(move || {
                let mut burst = Burst::new();
                let mut own = 0;
                while own < 16 * rounds {
                    own += pair.poll(&mut burst).unwrap() as u64;
                    burst.by_ref().for_each(|packet| packet.next());
                }
                taken.fetch_add(own, Ordering::SeqCst);
            });
        }
        let mut lcores = [host.lcore(0), host.lcore(1)];
        for _ in 0..rounds {
            for (lcore, first) in lcores.iter_mut().zip([0, 100]) {
                lcore.lend(first, 16);
                let mut back = Vec::new();
                host.wait_until("sixteen packets", || {
                    back.extend(lcore.returned());
                    back.len() == 16
                });
                let indices: Vec<_> = back.iter().map(|desc| desc.buffer_index).collect();
                assert_eq!(indices, (first..first + 16).collect::<Vec<_>>(), "home to its own lcore");
            }
        }
    });
    assert_eq!(taken.load(Ordering::SeqCst), 2 * 16 * rounds);
    assert_eq!(endpoint.counters().sent, 2 * 16 * rounds);
}

#[test]
fn the_app_has_eight_counters_and_no_ninth() {
    let host = TestHost::new(&[0]);
    let endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    assert!(endpoint.add_app_counter(0, 5));
    assert!(endpoint.add_app_counter(7, 2));
    assert!(!endpoint.add_app_counter(8, 1));
    let shown = host.counters();
    assert_eq!((shown[8], shown[15]), (5, 2));
}

#[test]
fn a_stopped_loop_handles_what_the_switch_lends_until_it_knows() {
    let host = TestHost::new(&[0]);
    let device = host.device();
    let stop = Stop::new();
    let looping = std::thread::spawn({
        let how = Run { stop: stop.clone(), ..Run::default() };
        move || {
            let mut endpoint = Endpoint::attach(&device, 0).unwrap();
            endpoint.run(&how, |packet| packet.next()).unwrap()
        }
    });
    host.wait_until("the attach", || host.has_seen(GuestEvent::Confirmed(41)));
    let mut lcore = host.lcore(0);
    lcore.lend(0, 10);
    // The switch is busy: it goes on feeding for a while after the loop was stopped.
    host.silence(true);
    stop.ask();
    std::thread::sleep(Duration::from_millis(20));
    lcore.lend(10, 10);
    host.silence(false);
    let report = looping.join().unwrap();
    assert_eq!((report.end, report.counters.sent, report.counters.dropped), (End::Stopped, 20, 0));
    let back = lcore.returned();
    assert_eq!(back.iter().map(|desc| desc.code).collect::<Vec<_>>(), vec![Verdict::Next as u8; 20]);
    host.wait_until("the leave", || host.has_seen(GuestEvent::Left(41)));
    let drained = [GuestEvent::Confirmed(41), GuestEvent::Draining(41), GuestEvent::Left(41)];
    assert_eq!(host.handshakes(), drained);
}

#[test]
fn a_switch_that_never_stops_feeding_is_left_all_the_same() {
    let host = TestHost::new(&[0]);
    let stop = Stop::new();
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    host.wait_until("the attach", || host.has_seen(GuestEvent::Confirmed(41)));
    host.silence(true);
    stop.ask();
    let started = Instant::now();
    let how = Run { stop, ..Run::default() };
    assert_eq!(endpoint.run(&how, |packet| packet.next()).unwrap().end, End::Stopped);
    drop(endpoint);
    let elapsed = started.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_millis(1900)).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn a_run_after_a_stopped_one_attaches_anew() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let stopped = Run { stop: Stop::new(), ..Run::default() };
    stopped.stop.ask();
    endpoint.run(&stopped, |packet| packet.next()).unwrap();
    let limited = Run { time_max: Some(Duration::from_millis(5)), ..Run::default() };
    assert_eq!(endpoint.run(&limited, |packet| packet.next()).unwrap().attaches, 2);
    assert_eq!(endpoint.run(&limited, |packet| packet.next()).unwrap().attaches, 2, "time alone is no leave");
}
