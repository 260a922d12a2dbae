//! The loop that holds packets over real rings, with a test in the place of the switch.

mod support;

use std::time::Duration;

use guest_netlib::holding::{Handler, SHOWN_COUNTERS, TICK};
use guest_netlib::{End, Endpoint, Packet, Run, RunError, Stop};
use shm_ring::desc::Verdict;
use shm_ring::layout::GuestCounter;
use support::TestHost;

/// Holds every packet, and lets go of them at the tick that comes `release_at`.
struct Holder<'q> {
    held: Vec<Packet<'q>>,
    seen: u64,
    ticks: u64,
    release_at: u64,
}

impl<'q> Holder<'q> {
    fn new(release_at: u64) -> Self {
        Self { held: Vec::new(), seen: 0, ticks: 0, release_at }
    }
}

impl<'q> Handler<'q> for Holder<'q> {
    fn packet(&mut self, packet: Packet<'q>, _now: Duration) {
        self.seen += 1;
        self.held.push(packet);
    }

    fn tick(&mut self, now: Duration) {
        // The first tick is at the start of the run, whatever the clock says.
        assert!(self.ticks == 0 || now >= TICK);
        self.ticks += 1;
        if self.ticks == self.release_at {
            self.held.drain(..).for_each(Packet::next);
        }
    }

    fn shown(&self) -> [u64; SHOWN_COUNTERS] {
        [self.seen, 0, 0, 0, 0, 0, 0, self.held.len() as u64]
    }
}

fn verdicts(lcore: &mut support::Lcore<'_>) -> Vec<u8> {
    lcore.returned().iter().map(|desc| desc.code).collect()
}

#[test]
fn packets_may_be_held_over_many_bursts_and_leave_at_a_tick_without_traffic() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 50);
    let how = Run { time_max: Some(TICK * 4), ..Run::default() };
    let report = endpoint.run_holding(&how, |attach| attach.poll(&mut Holder::new(2))).unwrap();
    assert_eq!((report.end, report.counters.sent), (End::Time, 50));
    assert_eq!(verdicts(&mut lcore), vec![Verdict::Next as u8; 50]);
}

#[test]
fn what_is_held_when_the_run_ends_goes_home_dropped() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 10);
    let how = Run { packets_max: Some(7), ..Run::default() };
    let report = endpoint.run_holding(&how, |attach| attach.poll(&mut Holder::new(u64::MAX))).unwrap();
    assert_eq!((report.end, report.counters.received, report.counters.dropped), (End::Packets, 7, 7));
    drop(endpoint);
    assert_eq!(verdicts(&mut lcore), vec![Verdict::Drop as u8; 10], "the three that nobody took too");
}

#[test]
fn the_switch_is_shown_what_the_handler_counts() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    host.lcore(0).lend(0, 5);
    let how = Run { packets_max: Some(5), ..Run::default() };
    endpoint.run_holding(&how, |attach| attach.poll(&mut Holder::new(u64::MAX))).unwrap();
    let shown = host.counters();
    assert_eq!((shown[GuestCounter::App as usize], shown[GuestCounter::App as usize + 7]), (5, 5));
}

#[test]
fn a_detached_endpoint_attaches_again_with_a_handler_that_holds_nothing_old() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    host.lcore(0).lend(0, 5);
    let how = Run { stop: Stop::new(), ..Run::default() };
    let mut attaches = 0;
    let report = endpoint
        .run_holding(&how, |attach| {
            attaches += 1;
            match attaches {
                1 => host.detach(0),
                _ => how.stop.ask(),
            }
            attach.poll(&mut Holder::new(u64::MAX))
        })
        .unwrap();
    assert_eq!((attaches, report.attaches, report.end), (2, 2, End::Stopped));
}

#[test]
fn what_was_done_is_told_when_the_switch_goes_away() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    host.lcore(0).lend(0, 5);
    let err = endpoint
        .run_holding(&Run::default(), |attach| {
            host.hang_up();
            attach.poll(&mut Holder::new(1))
        })
        .unwrap_err();
    assert!(matches!(err, RunError::SwitchGone { .. }), "{err}");
    assert_eq!((err.report().end, err.report().counters.received), (End::SwitchGone, 5));
}

#[test]
fn who_is_stopped_lets_go_of_what_it_holds_before_it_leaves() {
    let host = TestHost::new(&[0]);
    let mut endpoint = Endpoint::attach(&host.device(), 0).unwrap();
    let mut lcore = host.lcore(0);
    lcore.lend(0, 50);
    let how = Run { stop: Stop::new(), ..Run::default() };
    how.stop.ask();
    // Nothing is taken before the stop; the ticks go on after it.
    let report = endpoint.run_holding(&how, |attach| attach.poll(&mut Holder::new(3))).unwrap();
    assert_eq!((report.end, report.counters.sent, report.counters.dropped), (End::Stopped, 50, 0));
    assert_eq!(verdicts(&mut lcore), vec![Verdict::Next as u8; 50]);
}
