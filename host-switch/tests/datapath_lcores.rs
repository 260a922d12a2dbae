//! Two lcores: each has its own shard, queues and rings; a port with one queue is reached through its owner.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod datapath_lab;

use datapath_lab::guest::{Guest, Hands, verdict};
use datapath_lab::{Lab, LabSpec, device, endpoint};
use shm_ring::desc::Verdict;

#[test]
fn frames_of_another_lcore_leave_by_the_one_queue_of_a_port() {
    let devices = [device("net_null", ""), device("net_pcap", ",tx_pcap=/dev/null")];
    let mut spec = LabSpec::chain(1, [&devices[0], &devices[1]]);
    spec.lcores = 2;
    spec.region_bytes = 4 << 20;
    spec.paced = true;
    let lab = Lab::start(&spec);
    lab.attach(0);
    // Nobody serves the first lcore's rings, so every frame that leaves was handed on by the second one.
    let mut hands = Hands::of(&lab, 0, 1);
    let guest = Guest::run(move || {
        let lent = hands.take();
        hands.give(lent.into_iter().map(|desc| verdict(desc, Verdict::Next)));
    });
    let counters =
        lab.wait_until("the second lcore sends", |counters| counters.domains[0].packets.delivered > 20_000);
    assert_eq!(counters.lcores.len(), 2);
    assert!(counters.endpoints[0].attached && counters.endpoints[0].fed);
    // More frames than the second shard has buffers: they came home from the first lcore's thread.
    let reports = lab.assert_conserved();
    assert!(reports.len() == 2 && reports[1].audit.size < 2000);

    let released = lab.datapath().release(endpoint(0)).unwrap();
    lab.assert_conserved();
    drop(guest);
    assert_eq!(lab.datapath().reclaim(endpoint(0)).unwrap(), released.quarantined);
    lab.assert_conserved();
    lab.stop();
}
