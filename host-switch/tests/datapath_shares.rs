//! Who gets how much: limits of packets, shares of an lcore, endpoints that are throttled.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::time::{Duration, Instant};

use datapath_lab::guest::{Guest, Hands, verdict};
use datapath_lab::{Lab, LabSpec, device, edge, endpoint};
use host_switch::datapath::{CountersSnapshot, ViolationCounts};
use shm_ring::desc::{Desc, Verdict};
use switch_core::drop_reason::DropReason;
use switch_core::ids::EdgeId;
use switch_core::rate::RateSpec;

const RATE: RateSpec = RateSpec { packets_per_s: Some(2_000), bits_per_s: None };

/// What [`RATE`] lets pass in 200 ms.
const WELL_MORE_THAN_A_BUCKET: u64 = 464;

/// Most packets that [`RATE`] lets pass in a time: its bucket holds 64.
fn allowed(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap() * 2_000 / 1_000_000 + 64
}

/// Endless traffic through an endpoint, from one null device to another that sends only.
fn endless(adjust: impl FnOnce(&mut LabSpec)) -> Lab {
    let devices = [device("net_null", ""), device("net_null", ",no-rx=1")];
    let mut spec = LabSpec::chain(1, [&devices[0], &devices[1]]);
    adjust(&mut spec);
    Lab::start(&spec)
}

#[test]
fn a_limited_domain_lets_in_what_its_rate_allows() {
    let started = Instant::now();
    let lab = endless(|spec| spec.domain_limit = Some(RATE));
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let refused = |now: &CountersSnapshot| now.domains[0].packets.drops.get(DropReason::DomainRate);
    let let_in = |now: &CountersSnapshot| now.domains[0].packets.entered - refused(now);
    let counters = lab.wait_until("the bucket was empty and filled again", |now| {
        // Sabotaged, it refuses nothing.
        let_in(now) >= WELL_MORE_THAN_A_BUCKET && refused(now) > 0 || let_in(now) > 100_000
    });
    let time = started.elapsed();
    drop(guest);
    assert!(let_in(&counters) <= allowed(time), "{} in {time:?}", let_in(&counters));
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

/// A domain and one that is hidden in it: they have one limit.
#[test]
fn domains_that_share_a_limit_let_in_together_what_its_rate_allows() {
    let started = Instant::now();
    let lab = endless(|spec| {
        spec.devices.push(device("net_null", ""));
        spec.more_chains = vec![(2, Vec::new(), 2)];
        spec.domains = 2;
        spec.port_domains = vec![0, 0, 1];
        spec.domain_limit = Some(RATE);
        spec.one_domain_limit = true;
    });
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let refused =
        |now: &CountersSnapshot, of: usize| now.domains[of].packets.drops.get(DropReason::DomainRate);
    let let_in = |now: &CountersSnapshot| -> u64 {
        (0..2).map(|of| now.domains[of].packets.entered - refused(now, of)).sum()
    };
    // For so long that twice the rate shows beside the time that it takes to start.
    let counters = lab.wait_until("the bucket was empty and filled again", |now| {
        let_in(now) >= 8 * WELL_MORE_THAN_A_BUCKET && refused(now, 0) > 0 && refused(now, 1) > 0
    });
    let time = started.elapsed();
    drop(guest);
    assert!(let_in(&counters) <= allowed(time), "{} in {time:?}", let_in(&counters));
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn between_domains_that_share_a_limit_no_packet_counts_twice() {
    let lab = endless(|spec| {
        spec.domains = 2;
        spec.endpoint_domains = vec![1];
        spec.edges = vec![edge(0, 1, None), edge(1, 0, None)];
        spec.domain_limit = Some(RATE);
        spec.one_domain_limit = true;
    });
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let counters = lab.wait_until("the bucket was empty and filled again", |now| {
        let packets = &now.domains[0].packets;
        packets.delivered >= WELL_MORE_THAN_A_BUCKET && packets.drops.get(DropReason::DomainRate) > 0
    });
    drop(guest);
    for edge in &counters.edges {
        assert_eq!(edge.drops.total(), 0, "{edge:?}");
    }
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn copies_of_an_edge_count_against_its_limit_together() {
    let started = Instant::now();
    let lab = endless(|spec| {
        spec.devices.push(device("net_null", ""));
        spec.more_chains = vec![(2, Vec::new(), 1)];
        spec.domains = 3;
        spec.port_domains = vec![0, 1, 2];
        spec.edges = vec![edge(0, 1, None), edge(2, 1, None)];
        for edge in &mut spec.edges {
            edge.limit = Some(RATE);
        }
        spec.edges[1].limited_with = Some(EdgeId(0));
    });
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let crossed = |now: &CountersSnapshot| now.edges.iter().map(|edge| edge.packets).sum::<u64>();
    let refused = |now: &CountersSnapshot, edge: usize| now.edges[edge].drops.get(DropReason::EdgeRate);
    let counters = lab.wait_until("the bucket was empty and filled again", |now| {
        crossed(now) >= WELL_MORE_THAN_A_BUCKET && refused(now, 0) > 0 && refused(now, 1) > 0
    });
    let time = started.elapsed();
    drop(guest);
    assert!(crossed(&counters) <= allowed(time), "{} in {time:?}", crossed(&counters));
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn a_limited_endpoint_sends_on_what_its_rate_allows_and_may_drop_as_it_likes() {
    for drops in [false, true] {
        let started = Instant::now();
        let lab = endless(|spec| spec.endpoint_limit = Some(RATE));
        lab.attach(0);
        let mut hands = Hands::of(&lab, 0, 0);
        let says = if drops { Verdict::Drop } else { Verdict::Next };
        let guest = Guest::run(move || {
            let lent = hands.take();
            hands.give(lent.into_iter().map(|desc| verdict(desc, says)));
        });
        let counters = lab.wait_until("the bucket was empty and filled again", |now| {
            let packets = &now.endpoints[0].packets;
            let (returned, refused) = (packets.returned, packets.drops.get(DropReason::EndpointRate));
            if drops {
                returned > 10_000
            } else {
                returned - refused >= WELL_MORE_THAN_A_BUCKET && refused > 0
            }
        });
        let time = started.elapsed();
        drop(guest);
        let refused = counters.endpoints[0].packets.drops.get(DropReason::EndpointRate);
        let delivered = counters.domains[0].packets.delivered;
        assert_eq!(refused > 0, !drops);
        assert!(delivered <= allowed(time), "{delivered} in {time:?}");
        assert_eq!(delivered > 0, !drops);
        lab.assert_conserved();
        lab.assert_nothing_vanished();
        lab.stop();
    }
}

#[test]
fn a_limited_edge_lets_through_what_its_rate_allows() {
    let started = Instant::now();
    let lab = endless(|spec| {
        spec.domains = 2;
        spec.port_domains = vec![0, 1];
        spec.edges = vec![edge(0, 1, None)];
        spec.edges[0].limit = Some(RATE);
    });
    lab.attach(0);
    let guest = Guest::forwarder(&lab, 0);
    let refused = |now: &CountersSnapshot| now.edges[0].drops.get(DropReason::EdgeRate);
    let counters = lab.wait_until("the bucket was empty and filled again", |now| {
        now.edges[0].packets >= WELL_MORE_THAN_A_BUCKET && refused(now) > 0
    });
    let time = started.elapsed();
    drop(guest);
    let (crossed, refused) = (counters.edges[0].packets, refused(&counters));
    assert!(crossed <= allowed(time), "{crossed} in {time:?}");
    assert_eq!(counters.domains[0].packets.drops.get(DropReason::EdgeRate), refused);
    assert_eq!(counters.domains[1].packets.entered, crossed);
    lab.assert_conserved();
    lab.assert_nothing_vanished();
    lab.stop();
}

#[test]
fn nothing_is_taken_from_a_throttled_endpoint_until_its_time_is_over_also_after_it_attached_anew() {
    for attaches in [false, true] {
        let lab = endless(|_| {});
        lab.attach(0);
        let guest = Guest::forwarder(&lab, 0);
        let before = lab.counters().endpoints[0].packets.returned;
        lab.wait_until("packets flow", |now| now.endpoints[0].packets.returned > before + 1000);
        let started = Instant::now();
        lab.datapath().throttle(endpoint(0), Duration::from_millis(400)).unwrap();
        let guest = if attaches {
            drop(guest);
            lab.datapath().release(endpoint(0)).unwrap();
            lab.datapath().reclaim(endpoint(0)).unwrap();
            lab.attach(0);
            Guest::forwarder(&lab, 0)
        } else {
            guest
        };
        let before = lab.counters().endpoints[0].packets.returned;
        std::thread::sleep(Duration::from_millis(100));
        let counters = lab.counters();
        if started.elapsed() < Duration::from_millis(400) {
            assert_eq!(counters.endpoints[0].packets.returned, before);
        }
        assert!(counters.endpoints[0].held <= 256);
        lab.wait_until("packets flow again", |now| now.endpoints[0].packets.returned > before + 1000);
        assert!(started.elapsed() >= Duration::from_millis(400));
        drop(guest);
        lab.assert_conserved();
        lab.stop();
    }
}

#[test]
fn control_reads_what_an_endpoint_did_without_asking_an_lcore() {
    let lab = endless(|_| {});
    lab.attach(0);
    let mut hands = Hands::of(&lab, 0, 0);
    let guest = Guest::run(move || {
        let lent = hands.take();
        hands.give(lent.into_iter().map(|desc| Desc { flags: 1, ..verdict(desc, Verdict::Next) }));
    });
    // The endpoint holds its quota then, and nothing else comes to it.
    lab.wait_until("every descriptor was refused", |now| now.endpoints[0].packets.faults.total() == 256);
    drop(guest);
    let seen = lab.datapath().violations(endpoint(0));
    assert_eq!(seen, ViolationCounts { descriptors: 256, counters: 0 });
    let line = lab.guest_area().endpoint(0).pair(0).unwrap().guest_to_host;
    line.produced_line().value.store(1 << 20, std::sync::atomic::Ordering::Release);
    lab.wait_until("it is cut off", |counters| counters.endpoints[0].counter_errors == 1);
    assert_eq!(lab.datapath().violations(endpoint(0)).counters, 1);
    assert_eq!(lab.datapath().violations(endpoint(7)), ViolationCounts::default());
    lab.stop();
}

/// Domain 0 receives from six devices, domain 1 from one; all of them have as many frames as are asked of them.
fn entered_under_a_flood(shares: Vec<u16>) -> [u64; 2] {
    let mut devices = vec![device("net_null", ""), device("net_null", ",no-rx=1")];
    devices.extend((0..6).map(|_| device("net_null", "")));
    let mut spec = LabSpec::chain(0, ["", ""]);
    spec.devices = devices;
    spec.domains = 2;
    // Port 0 is the lone one of domain 1.
    spec.port_domains = vec![1, 1, 0, 0, 0, 0, 0, 0];
    spec.more_chains = (2..8).map(|port| (port, Vec::new(), port)).collect();
    spec.shares = shares;
    let lab = Lab::start(&spec);
    let entered =
        |now: &CountersSnapshot| now.domains.iter().map(|domain| domain.packets.entered).sum::<u64>();
    let counters = lab.wait_until("many rounds have passed", |now| entered(now) > 500_000);
    lab.stop();
    [0, 1].map(|domain| counters.domains[domain].packets.entered)
}

#[test]
fn a_flood_in_one_domain_leaves_the_other_its_share() {
    let [flooding, other] = entered_under_a_flood(vec![1, 1]);
    // A packet costs the same in both; without shares it is one in seven.
    assert!(other * 100 >= (flooding + other) * 35, "{flooding} and {other}");
}

#[test]
fn a_domain_of_twice_the_share_gets_twice_as_much() {
    let [flooding, other] = entered_under_a_flood(vec![2, 1]);
    let of_hundred = other * 100 / (flooding + other);
    assert!((25..42).contains(&of_hundred), "{flooding} and {other}");
}
