//! Measurements by `iperf3` against the server in a guest, by bytes and not by the clock.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::child::Child;
use lab::namespace::Namespace;
use lab::switch::Switch;
use vm_tests::Scene;

use crate::DEBIAN;

/// Bytes of one measurement.
const BYTES: u64 = 32 << 20;
/// How long one may take, in seconds, on whatever machine.
const LIMIT_SECONDS: &str = "300";
/// Between two measurements the server does not listen for a moment, and a guest that boots takes a while.
const PATIENCE: Duration = Duration::from_secs(60);
/// Packets to the guest that show that a measurement is under way.
const FLOWING_PACKETS: u64 = 10_000;

/// What a measurement found.
pub struct Measured {
    /// Bytes that arrived.
    pub bytes: u64,
    /// How fast.
    pub mbit_per_second: f64,
}

impl Measured {
    /// What the report of a measurement in this file says.
    pub fn read(path: &Path) -> Self {
        let report = std::fs::read(path).expect("a report");
        Self::of(&report).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&report)))
    }

    /// Nothing if the report is of an error: iperf3 ends well all the same.
    fn of(json: &[u8]) -> Option<Self> {
        let report: serde_json::Value = serde_json::from_slice(json).expect("a report");
        let arrived = &report["end"]["sum_received"];
        let [bytes, rate] = ["bytes", "bits_per_second"].map(|key| &arrived[key]);
        Some(Self { bytes: bytes.as_u64()?, mbit_per_second: rate.as_f64()? / 1e6 })
    }
}

fn command(host: &Namespace, bytes: u64, arguments: &[&str]) -> Command {
    let mut command = host.command("timeout");
    command.args([LIMIT_SECONDS, "iperf3", "--json", "--client", DEBIAN, "--bytes", &bytes.to_string()]);
    command.args(arguments);
    command
}

/// A measurement, if the server takes it.
fn attempt(host: &Namespace, bytes: u64, arguments: &[&str]) -> Option<Measured> {
    lab::child::run_command(command(host, bytes, arguments))
        .ok()
        .and_then(|ended| Measured::of(&ended.stdout))
}

/// Whether the server takes a measurement now.
pub fn is_served(host: &Namespace) -> bool {
    attempt(host, 1024, &[]).is_some()
}

/// Measures, as soon as the server takes it.
fn measured(host: &Namespace, bytes: u64, arguments: &[&str]) -> Measured {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(measured) = attempt(host, bytes, arguments) {
            return measured;
        }
        assert!(Instant::now() < deadline, "the server in the guest takes no measurement");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Measures both directions.
pub fn assert_measures(host: &Namespace, what: &str) {
    for (direction, arguments) in [("to the guest", &[][..]), ("from the guest", &["--reverse"])] {
        let Measured { bytes, mbit_per_second } = measured(host, BYTES, arguments);
        println!("{what}, {direction}: {mbit_per_second:.0} Mbit/s");
        // The end of a measurement is said beside the stream, and may overtake what is still under way.
        assert!(bytes >= BYTES / 2, "{what}, {direction}: {bytes} of {BYTES} bytes");
    }
}

/// Starts a measurement to the guest, and waits until its packets flow.
pub fn start(scene: &Scene, host: &Namespace, switch: &mut Switch, bytes: u64) -> Child {
    let deadline = Instant::now() + PATIENCE;
    for attempt in 0.. {
        let sent = |switch: &Switch| {
            let status = switch.status().unwrap_or_else(|err| panic!("{err}"));
            status.port("web0.eth0").expect("a NIC").tx_packets
        };
        let before = sent(switch);
        let name = format!("iperf-{bytes}-{attempt}");
        let started = Child::spawn(&name, command(host, bytes, &[]), &scene.dir, &scene.journal);
        let mut measurement = started.expect("iperf3");
        while measurement.try_status().expect("a child").is_none() {
            if sent(switch) - before > FLOWING_PACKETS {
                return measurement;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Instant::now() < deadline, "no measurement comes about");
        std::thread::sleep(Duration::from_millis(500));
    }
    unreachable!("the deadline ends the loop")
}
