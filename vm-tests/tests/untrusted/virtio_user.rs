//! DPDK's own driver for such NICs, `virtio_user` in `dpdk-testpmd`, which answers pings: what a driver that polls
//! agrees to, and no kernel in between that would mend anything.

use std::process::Command;
use std::time::Duration;

use lab::child::Child;
use lab::hugepages;
use lab::transfer::ping;
use vm_tests::Scene;
use vm_tests::config::{self, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;

use crate::UPLINK;

/// Two drivers, each with so many queue pairs.
const DRIVERS: [(&str, u16); 2] = [("single", 1), ("multiple", 4)];
/// NICs of each: every subset of what this driver knows and a NIC may withhold. It has no EVENT_IDX.
const NICS: u8 = 4;
/// Flows to each NIC, so that several queues get some.
const FLOWS: u8 = 4;
/// Huge pages for the memory of both drivers, and for the switch.
const HUGEPAGES: u64 = 192;

fn withheld(nic: u8) -> Vec<&'static str> {
    let all = [(1, "mrg_rxbuf"), (2, "indirect")];
    all.into_iter().filter(|(bit, _)| nic & bit > 0).map(|(_, name)| name).collect()
}

fn mac(driver: usize, nic: u8) -> String {
    format!("02:00:00:00:{driver:02x}:{nic:02x}")
}

fn address(driver: usize, nic: u8, flow: u8) -> String {
    format!("10.1.{}.{}", driver + 1, 16 * nic + flow + 1)
}

/// One VM, which nobody boots: its NICs, and how the host's frames find them by their addresses.
fn driver_of(driver: usize, (name, queue_pairs): (&str, u16)) -> String {
    let mut parts = Vec::new();
    let mut nics = String::new();
    for nic in 0..NICS {
        let (port, mac) = (format!("{name}.eth{nic}"), mac(driver, nic));
        let chain = format!("to-{name}-{nic}");
        parts.push(config::chain(&chain, &[], &port));
        parts.push(format!("\n[[rule]]\nport = \"uplink\"\ndmac = \"{mac}\"\nchain = \"{chain}\"\n"));
        let keys = format!(
            "mac = \"{mac}\"\nqueue_pairs = {queue_pairs}\nrx_slots = 256\ntx_slots = 256\nwithhold = {:?}",
            withheld(nic)
        );
        nics += &config::nic(&format!("eth{nic}"), "out", &keys);
    }
    // DPDK's memory has no seals.
    let memory = "guest_memory = \"/dev/shm/never-made\"\naccept_unsealed_memory = true";
    parts.push(config::untrusted_vm(name, memory, &nics));
    parts.concat()
}

fn start(scene: &Scene, driver: usize, (name, queue_pairs): (&str, u16)) -> Child {
    let mut command = Command::new("dpdk-testpmd");
    command.args([
        "--in-memory",
        "--single-file-segments",
        "--no-pci",
        "--no-telemetry",
        "-m",
        "64",
        "-l",
        "0,1",
    ]);
    for nic in 0..NICS {
        let socket = format!("/run/netvm/{}.nics/{name}.eth{nic}.sock", scene.switch_name());
        let mac = mac(driver, nic);
        command.arg(format!(
            "--vdev=net_virtio_user{nic},path={socket},mac={mac},queues={queue_pairs},queue_size=256"
        ));
    }
    // With a period it waits for signals, and not for its standard input.
    command.args(["--", "--forward-mode=icmpecho", "--port-topology=loop", "--stats-period=60"]);
    command.args(["--total-num-mbufs=8192", "--rxd=256", "--txd=256"]);
    command.args([format!("--rxq={queue_pairs}"), format!("--txq={queue_pairs}")]);
    Child::spawn(name, command, &scene.dir, &scene.journal).expect("dpdk-testpmd")
}

#[test]
fn each_feature_set_of_dpdks_driver_echoes_pings_with_one_and_with_four_queue_pairs() {
    let scene = Scene::new();
    hugepages::ensure_free(HUGEPAGES, &scene.journal).expect("hugepages");
    let host = scene.host("c", "10.1.0.2/16", None);
    let mut text = vec![SWITCH_AND_DOMAIN.to_owned(), UPLINK.to_owned()];
    text.push(config::chain("in", &[], "uplink"));
    text.push(config::chain("out", &[], "uplink"));
    text.extend(DRIVERS.into_iter().enumerate().map(|(driver, shape)| driver_of(driver, shape)));
    let mut switch = scene.switch(&text.concat());
    for (driver, shape) in DRIVERS.into_iter().enumerate() {
        // One after the other: each polls as fast as it can, and there are two cores.
        let testpmd = start(&scene, driver, shape);
        let (name, queue_pairs) = shape;
        let ready = switch.wait_for("every NIC to be driven", Duration::from_secs(60), |status| {
            let nic = |nic: u8| status.port(&format!("{name}.eth{nic}")).and_then(|port| port.nic.as_ref());
            (0..NICS).all(|number| nic(number).is_some_and(|nic| nic.queue_pairs == queue_pairs))
        });
        ready.unwrap_or_else(|err| panic!("{err}"));
        for (nic, flow) in (0..NICS).flat_map(|nic| (0..FLOWS).map(move |flow| (nic, flow))) {
            let address = address(driver, nic, flow);
            host.know(&address, &mac(driver, nic)).expect("a neighbour");
            // The kernel takes no answer with a wrong checksum.
            assert_eq!(ping(&host, &address, 10, 10).unwrap().answered, 10, "{name}.eth{nic}");
            let long = ["-n", "-q", "-c", "1", "-W", "5", "-s", "1472", "-p", "a5", &address];
            host.run("ping", &long).unwrap_or_else(|err| panic!("{name}.eth{nic}: {err}"));
        }
        let status = switch.status().unwrap();
        for nic in 0..NICS {
            let port = status.port(&format!("{name}.eth{nic}")).unwrap();
            let state = port.nic.as_ref().unwrap();
            for feature in ["mrg_rxbuf", "indirect"] {
                let is_on = state.features.iter().any(|name| name == feature);
                assert_ne!(is_on, withheld(nic).contains(&feature), "{feature} of {port:?}");
            }
            assert!(!state.features.iter().any(|name| name == "event_idx"), "{port:?}");
            assert_eq!(state.faults.values().sum::<u64>(), 0, "{port:?}");
            assert!(port.rx_packets >= 11 * u64::from(FLOWS), "{port:?}");
        }
        assert_conserved(&status);
        drop(testpmd);
    }
    switch.stop().unwrap();
}
