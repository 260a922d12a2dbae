//! Other tables and limits while packets flow: nothing is lost to a change, and every flow stays in order.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath_lab::capture::{self, Dice};
use datapath_lab::guest::{Guest, Hands, verdict};
use datapath_lab::{Lab, LabSpec, device, edge, folder};
use host_switch::datapath::{Changed, DatapathChange};
use shm_ring::desc::Verdict;
use switch_core::drop_reason::DropReason;
use switch_core::forwarding::Forwarding;
use switch_core::ids::{ChainId, DomainId, PortId, ServiceId};
use switch_core::rate::RateSpec;
use switch_core::snapshot::{ChainSpec, EndpointSpec, ForwardingSpec, PortSpec, ServiceSpec};

const FRAMES: usize = 20_000;
/// Longer than a busy machine takes for what it does in microseconds.
const LONG: Duration = Duration::from_secs(20);

/// Chain 0 through both services, and chain 1 through the first alone; port 0 takes one of them.
fn tables(entered: Option<u16>) -> Forwarding {
    let chain = |path: &[u16]| ChainSpec {
        path: path.iter().map(|id| ServiceId(*id)).collect(),
        egress: PortId(1),
        observers: Vec::new(),
    };
    let port = |chain: Option<u16>| PortSpec { domains: vec![DomainId(0)], chain: chain.map(ChainId) };
    ForwardingSpec {
        ports: vec![port(entered), port(None)],
        services: vec![ServiceSpec::default(); 2],
        endpoints: [0, 1].map(|id| EndpointSpec { domain: DomainId(0), service: ServiceId(id) }).to_vec(),
        chains: vec![chain(&[0, 1]), chain(&[0])],
        flow_seed: 7,
        ..ForwardingSpec::default()
    }
    .build()
    .unwrap()
}

/// A lab whose port 0 plays frames into a chain of two, and whose port 1 writes them down.
fn replay(frames: &[Vec<u8>]) -> (Lab, PathBuf) {
    let (folder, _) = folder();
    let (played, written) = (folder.join("in.pcap"), folder.join("out.pcap"));
    capture::write(&played, frames);
    let devices = [
        device("net_pcap", &format!(",rx_pcap={}", played.display())),
        device("net_pcap", &format!(",tx_pcap={}", written.display())),
    ];
    let mut spec = LabSpec::chain(2, [&devices[0], &devices[1]]);
    spec.paced = true;
    (Lab::start(&spec), written)
}

/// From chain to chain; what was on its way is waited for at most so long.
fn enter(lab: &Lab, from: u16, to: Option<u16>, hold_max: Duration) -> Changed {
    let (old, new) = (tables(Some(from)), Arc::new(tables(to)));
    lab.datapath().change(DatapathChange::of_tables(&old, new, vec![PortId(0)], hold_max)).unwrap()
}

/// Gives packets back late, as one that thinks about each burst.
fn slow(lab: &Lab, number: usize) -> Guest {
    let mut hands = Hands::of(lab, number, 0);
    Guest::run(move || {
        let lent = hands.take();
        std::thread::sleep(Duration::from_micros(300));
        hands.give(lent.into_iter().map(|desc| verdict(desc, Verdict::Next)));
    })
}

#[test]
fn a_chain_that_gets_shorter_under_traffic_loses_nothing_and_keeps_every_flow_in_order() {
    let frames = Dice(21).frames(FRAMES);
    let (lab, written) = replay(&frames);
    (0..2).for_each(|number| lab.attach(number));
    let guests = [Guest::forwarder(&lab, 0), slow(&lab, 1)];
    let mut changes = 0;
    let mut at = 0;
    loop {
        let delivered = lab.counters().domains[0].packets.delivered;
        if delivered == FRAMES as u64 {
            break;
        }
        // In the midst of it, again and again.
        let wanted = (delivered + 300).min(FRAMES as u64);
        lab.wait_until("frames flow", |counters| counters.domains[0].packets.delivered >= wanted);
        let changed = enter(&lab, at, Some(1 - at), LONG);
        assert_eq!(changed.overtaken, 0, "{changed:?}");
        (at, changes) = (1 - at, changes + 1);
    }
    drop(guests);
    assert!(changes >= 10, "{changes}");
    let counters = lab.counters();
    assert_eq!(counters.domains[0].packets.drops.total(), 0);
    assert!(counters.endpoints[1].packets.lent > 0 && counters.endpoints[0].packets.lent == FRAMES as u64);
    lab.assert_conserved();
    lab.stop();
    assert!(capture::read(&written) == frames, "another order, or others");
}

#[test]
fn a_port_waits_no_longer_than_it_may_and_counts_what_is_overtaken() {
    let frames = Dice(22).frames(1000);
    let (lab, _) = replay(&frames);
    (0..2).for_each(|number| lab.attach(number));
    // The second one keeps what it gets.
    let guest = Guest::forwarder(&lab, 0);
    let held = lab.wait_until("the second one has some", |counters| counters.endpoints[1].held > 0);
    let limit = Duration::from_millis(20);
    let started = Instant::now();
    let changed = enter(&lab, 0, Some(1), limit);
    assert!(changed.held_for >= limit && started.elapsed() < LONG, "{changed:?}");
    assert!(changed.overtaken >= held.endpoints[1].held.into(), "{changed:?} {held:?}");
    drop(guest);
    lab.assert_conserved();
}

#[test]
fn nothing_on_its_way_is_nothing_to_wait_for() {
    let devices = [device("net_null", ""), device("net_null", "")];
    let lab = Lab::start(&LabSpec::chain(2, [&devices[0], &devices[1]]));
    // No endpoint is attached: what enters is dropped at once.
    let changed = enter(&lab, 0, Some(1), LONG);
    assert!(changed.overtaken == 0 && changed.held_for < LONG / 2, "{changed:?}");
    let before = lab.counters().domains[0].packets.entered;
    lab.wait_until("the port is polled again", |counters| counters.domains[0].packets.entered > before);
    lab.stop();
}

#[test]
fn packets_keep_the_chain_they_are_on_and_one_that_is_gone_is_named() {
    let frames = Dice(23).frames(64);
    let (lab, written) = replay(&frames);
    (0..2).for_each(|number| lab.attach(number));
    let mut first = Hands::of(&lab, 0, 0);
    lab.wait_until("the first one has them", |counters| counters.endpoints[0].held == 64);
    assert_eq!(lab.datapath().carried(&[ChainId(0), ChainId(1)]).unwrap(), [ChainId(0)]);
    // Half of them go on, after the port takes another chain.
    enter(&lab, 0, Some(1), Duration::ZERO);
    let lent: Vec<_> =
        std::iter::from_fn(|| Some(first.take()).filter(|lent| !lent.is_empty())).flatten().collect();
    first.give(lent[..32].iter().map(|desc| verdict(*desc, Verdict::Next)));
    lab.wait_until("they are with the second one", |counters| counters.endpoints[1].held == 32);
    // The rest finds a table where chain 0 leads nowhere.
    let gone = ForwardingSpec {
        ports: vec![PortSpec { domains: vec![DomainId(0)], chain: None }; 2],
        services: vec![ServiceSpec::default(); 2],
        endpoints: [0, 1].map(|id| EndpointSpec { domain: DomainId(0), service: ServiceId(id) }).to_vec(),
        chains: vec![ChainSpec { path: Vec::new(), egress: PortId(0), observers: Vec::new() }],
        flow_seed: 7,
        ..ForwardingSpec::default()
    };
    let gone = Arc::new(gone.build().unwrap());
    let change = DatapathChange::of_tables(&tables(Some(1)), gone, Vec::new(), Duration::ZERO);
    lab.datapath().change(change).unwrap();
    first.give(lent[32..].iter().map(|desc| verdict(*desc, Verdict::Next)));
    let counters = lab.wait_until("the rest is dropped", |counters| {
        counters.domains[0].packets.drops.get(DropReason::NoChain) == 32
    });
    assert_eq!(counters.domains[0].packets.delivered, 0);
    let mut second = Hands::of(&lab, 1, 0);
    let lent = second.take();
    second.give(lent.into_iter().map(|desc| verdict(desc, Verdict::Next)));
    lab.wait_until("none is left", |counters| counters.endpoints[1].held == 0);
    assert_eq!(lab.datapath().carried(&[ChainId(0), ChainId(1)]).unwrap(), []);
    lab.assert_conserved();
    lab.stop();
    assert!(capture::read(&written).is_empty());
}

#[test]
fn a_limit_holds_from_the_change_on_and_not_before() {
    let devices = [device("net_null", ""), device("net_null", "")];
    let lab = Lab::start(&LabSpec::chain(1, [&devices[0], &devices[1]]));
    let rate = |counters: &host_switch::datapath::CountersSnapshot| {
        counters.domains[0].packets.drops.get(DropReason::DomainRate)
    };
    lab.wait_until("frames flow", |counters| counters.domains[0].packets.entered > 1000);
    assert_eq!(rate(&lab.counters()), 0);
    let tables = Arc::new(datapath_lab::forwarding(&LabSpec::chain(1, ["", ""])));
    let limit = RateSpec { packets_per_s: Some(10), bits_per_s: None };
    let limited = |limit| DatapathChange {
        domain_limits: vec![(DomainId(0), limit)],
        ..DatapathChange::of_tables(&tables, Arc::clone(&tables), Vec::new(), LONG)
    };
    lab.datapath().change(limited(Some(limit))).unwrap();
    lab.wait_until("frames are dropped", |counters| rate(counters) > 1000);
    lab.datapath().change(limited(None)).unwrap();
    let dropped = rate(&lab.counters());
    let entered = lab.counters().domains[0].packets.entered;
    lab.wait_until("frames flow again", |counters| counters.domains[0].packets.entered > entered + 1000);
    assert_eq!(rate(&lab.counters()), dropped);
    lab.stop();
}

#[test]
fn an_edge_that_stays_keeps_its_counters_wherever_it_stands() {
    let devices = [device("net_null", ""), device("net_null", "")];
    let mut spec = LabSpec::chain(1, [&devices[0], &devices[1]]);
    spec.domains = 2;
    spec.port_domains = vec![0, 1];
    spec.path = Vec::new();
    spec.endpoint_domains = vec![1];
    // A frame of net_null is all zeroes, which is no TCP.
    spec.edges = vec![edge(0, 1, Some(6)), edge(0, 1, None)];
    let lab = Lab::start(&spec);
    lab.wait_until("frames cross", |counters| counters.edges[1].packets > 1000);
    let old = datapath_lab::forwarding(&spec);
    spec.edges = vec![edge(0, 1, None), edge(1, 0, None)];
    let new = Arc::new(datapath_lab::forwarding(&spec));
    let before = lab.counters().edges[1].packets;
    lab.datapath().change(DatapathChange::of_tables(&old, new, Vec::new(), LONG)).unwrap();
    let edges = lab.counters().edges;
    assert!(edges.len() == 2 && edges[0].packets >= before && edges[1].packets == 0, "{edges:?}");
    lab.stop();
}
