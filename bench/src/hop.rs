//! One checked hop through the switch and back, beside the raw limit of a ring between the same two cores.
//!
//! The frames of a `net_null` port travel a chain of 31 times the same service: all but two of 32 steps are
//! hops between lcore and NF, so the port's own cost fades, and each return of the NF is one completed round
//! trip with ledger, generation, rights and counters on. The windows of switch and yardsticks alternate; who
//! is not measured is stopped (SIGSTOP), so both always have the same two cores for themselves.
//!
//! A host may move the two CPUs between one physical core and far ones from one minute to the next, which
//! changes both figures several times over. So a ratio is taken of the windows that follow one another, and the
//! median of these pairs is reported: the ratio of the medians could set a near window against a far one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::artifacts::Artifacts;
use lab::child::Child;
use lab::hugepages;
use lab::journal::Journal;
use lab::switch::Switch;
use rustix::process::Signal;

use crate::error::BenchError;
use crate::machine::disturbance;
use crate::raw::{Shape, Yardstick};
use crate::report::Report;
use crate::sample::{Row, ratio_of_pairs};
use crate::scenario;

/// The switch's config.
const CONFIG: &str = "bench/scenarios/hop.toml";
/// Its name in there.
const SWITCH: &str = "bench-hop";
/// The lcore's CPU in there, and the one that the NF is pinned to.
const CPUS: (usize, usize) = (0, 1);

/// Options of the scenario.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench hop --windows 15 --json | tail -n 1")]
pub struct Options {
    /// How many windows each figure gets
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(9..=99))]
    windows: u32,
    /// Length of a window in milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=10_000))]
    window_ms: u64,
    /// Print the report as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// Runs the scenario.
///
/// # Errors
/// If something cannot be built or started, or the yardstick is invalid.
pub fn run(options: &Options) -> Result<(), BenchError> {
    scenario::need_two_cores()?;
    let artifacts = Artifacts::from_env()?;
    scenario::run(options.json, |folder, journal| measure(options, &artifacts, folder, journal))
}

fn measure(
    options: &Options,
    artifacts: &Artifacts,
    folder: &Path,
    journal: &Journal,
) -> Result<Report, BenchError> {
    hugepages::ensure_free(192, journal)?;
    let shape =
        Shape { ring_slots: 512, buffers: 1024, stride_bytes: 2368, burst: 32, window_ms: options.window_ms };
    let yardsticks = [Yardstick::bare(folder)?, Yardstick::rte_ring(folder)?];
    let mut disturbed = disturbance();
    let mut scene = Scene::set(artifacts, folder, journal)?;
    let (mut hop, mut bare, mut rte) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..options.windows {
        eprintln!("window {} of {}", at + 1, options.windows);
        hop.push(scene.window(Duration::from_millis(options.window_ms))? / 1e6);
        scene.pause();
        bare.push(yardsticks[0].window(CPUS, shape)? / 1e6);
        rte.push(yardsticks[1].window(CPUS, shape)? / 1e6);
        disturbed = disturbed.max(disturbance());
        scene.go_on();
    }
    scene.end()?;
    report(hop, bare, rte, disturbed)
}

fn report(hop: Vec<f64>, bare: Vec<f64>, rte: Vec<f64>, disturbed: f64) -> Result<Report, BenchError> {
    let ns_per_packet = hop.iter().map(|mpps| 1e3 / mpps).collect();
    let hop_to_raw = ratio_of_pairs(&hop, &bare);
    let raw_to_rte_ring = ratio_of_pairs(&bare, &rte);
    if raw_to_rte_ring.median < 1.0 {
        return Err(BenchError::Yardstick { ratio: raw_to_rte_ring.median });
    }
    let ratios =
        BTreeMap::from([("hop_to_raw", hop_to_raw.median), ("raw_to_rte_ring", raw_to_rte_ring.median)]);
    let rows = vec![
        Row::of("hop/round_trip/64B", "Mpps", hop),
        Row::of("hop/round_trip_time/64B", "ns/packet", ns_per_packet),
        Row::of("ring/bare/burst_32/64B", "Mpps", bare),
        Row::of("ring/rte_ring/burst_32/64B", "Mpps", rte),
        Row { name: "hop_to_raw/by_window".to_owned(), ..hop_to_raw },
    ];
    Ok(Report::of("hop", rows, ratios, disturbed))
}

/// The running switch and its NF.
struct Scene {
    switch: Switch,
    nf: Child,
}

impl Scene {
    fn set(artifacts: &Artifacts, folder: &Path, journal: &Journal) -> Result<Self, BenchError> {
        let mut switch = Switch::start(SWITCH, Path::new(CONFIG), artifacts, folder, journal)?;
        let mut nf =
            switch.start_process("fwd0", "forwarder", &["--touch", "--idle", "spin", "--cpu", "1"])?;
        let attached = switch.wait_attached(&["fwd0"], Duration::from_secs(20));
        nf.check_alive()?;
        attached?;
        Ok(Self { switch, nf })
    }

    /// Round trips per second in one window.
    fn window(&mut self, length: Duration) -> Result<f64, BenchError> {
        // What was stopped needs a moment to fill its rings and caches again.
        std::thread::sleep(Duration::from_millis(200));
        let (from, before) = self.returned()?;
        std::thread::sleep(length);
        let (to, after) = self.returned()?;
        #[allow(clippy::cast_precision_loss, reason = "a rate for display")]
        let packets = (after - before) as f64;
        Ok(packets / (to - from).as_secs_f64())
    }

    fn returned(&self) -> Result<(Instant, u64), BenchError> {
        let asked = Instant::now();
        let status = self.switch.status()?;
        let moment = asked + asked.elapsed() / 2;
        Ok((moment, status.endpoint_of("fwd0").map_or(0, |endpoint| endpoint.returned)))
    }

    fn pause(&mut self) {
        self.switch.child().signal(Signal::STOP);
        self.nf.signal(Signal::STOP);
    }

    fn go_on(&mut self) {
        self.switch.child().signal(Signal::CONT);
        self.nf.signal(Signal::CONT);
    }

    fn end(self) -> Result<(), BenchError> {
        self.nf.stop(Duration::from_secs(10))?;
        self.switch.stop()?;
        Ok(())
    }
}
