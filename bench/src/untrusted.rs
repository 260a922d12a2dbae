//! The untrusted path: the product's vhost backend beside DPDK's own in C.
//!
//! Both are polled on one CPU by harnesses that do the same (`backend`, `c/vhost-backend.c`), and each has a guest
//! of its own on the other CPU: testpmd with `net_virtio_user`. The windows alternate; who is not measured is
//! stopped (SIGSTOP), or waits for its next window. Both must have agreed on the same features.
//!
//! A figure is the median of all full bursts of a window, in cycles of the time stamp counter a packet, mbufs
//! included; as in `hop`, a ratio is taken of the windows that follow one another.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lab::child::Child;
use lab::error::LabError;
use lab::hugepages;
use lab::journal::Journal;
use rustix::process::Signal;

use crate::backend::Direction;
use crate::error::BenchError;
use crate::machine::disturbance;
use crate::report::Report;
use crate::sample::{Row, ratio_of_pairs};
use crate::scenario;

/// DPDK's backend, relative to the checkout.
const SOURCE: &str = "bench/c/vhost-backend.c";
/// The CPU of the backends, and the one of the guests.
const CPUS: (usize, usize) = (0, 1);
/// On offer: VERSION_1, IN_ORDER, INDIRECT_DESC, MRG_RXBUF, and vhost-user's own bit.
const FEATURES: u64 = 1 << 32 | 1 << 35 | 1 << 28 | 1 << 15 | 1 << 30;
/// Hugepages of 2 MiB: 64 MiB for each backend and each guest.
const HUGEPAGES: u64 = 4 * 32;

/// Options of the scenario.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench untrusted --json | tail -n 1")]
pub struct Options {
    /// How many windows each figure gets
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(9..=99))]
    windows: u32,
    /// Length of a window in milliseconds
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(100..=10_000))]
    window_ms: u64,
    /// Print the report as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// One way and length of packets.
#[derive(Clone, Copy, Debug)]
struct Case {
    ratio: &'static str,
    direction: Direction,
    frame_bytes: u16,
}

const CASES: [Case; 4] = [
    Case { ratio: "untrusted_tx_64", direction: Direction::Tx, frame_bytes: 64 },
    Case { ratio: "untrusted_rx_64", direction: Direction::Rx, frame_bytes: 64 },
    Case { ratio: "untrusted_tx_1500", direction: Direction::Tx, frame_bytes: 1500 },
    Case { ratio: "untrusted_rx_1500", direction: Direction::Rx, frame_bytes: 1500 },
];

impl Case {
    /// As the programs call the direction.
    fn way(self) -> &'static str {
        match self.direction {
            Direction::Tx => "tx",
            Direction::Rx => "rx",
        }
    }

    fn row(self, backend: &str, figure: &str) -> String {
        format!("{figure}/{backend}/{}_{}B", self.way(), self.frame_bytes)
    }
}

/// Runs the scenario.
///
/// # Errors
/// If something cannot be built or started, or the two backends did not agree on the same with their guests.
pub fn run_scenario(options: &Options) -> Result<(), BenchError> {
    scenario::need_two_cores()?;
    scenario::run(options.json, |folder, journal| measure(options, folder, journal))
}

fn measure(options: &Options, folder: &Path, journal: &Journal) -> Result<Report, BenchError> {
    hugepages::ensure_free(HUGEPAGES, journal)?;
    let peer = scenario::compile_with_dpdk(SOURCE, folder.join("vhost-backend"), &[])?;
    let ours = std::env::current_exe().map_err(LabError::file("find", "/proc/self/exe"))?;
    let (mut rows, mut ratios, mut disturbed) = (Vec::new(), BTreeMap::new(), disturbance());
    for case in CASES {
        let mut sides = [
            Side::start("ours", Command::new(&ours), &["backend"], case, folder, journal)?,
            Side::start("librte_vhost", Command::new(&peer), &[], case, folder, journal)?,
        ];
        check_features(&sides)?;
        for at in 0..options.windows {
            eprintln!("{}: window {} of {}", case.ratio, at + 1, options.windows);
            for side in &mut sides {
                side.window(options.window_ms)?;
            }
            disturbed = disturbed.max(disturbance());
        }
        let [ours, peer] = sides.map(Side::end);
        let (ours, peer) = (ours?, peer?);
        let ratio = ratio_of_pairs(&peer.cycles, &ours.cycles);
        ratios.insert(case.ratio, ratio.median);
        rows.extend(ours.rows(case));
        rows.extend(peer.rows(case));
        rows.push(Row { name: format!("{}/by_window", case.ratio), ..ratio });
    }
    Ok(Report::of("untrusted", rows, ratios, disturbed))
}

fn check_features(sides: &[Side]) -> Result<(), BenchError> {
    let taken: Vec<&str> = sides.iter().map(|side| side.features.as_str()).collect();
    if taken.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(());
    }
    Err(BenchError::Features { ours: taken[0].to_owned(), peer: taken[1].to_owned() })
}

/// What one side showed.
struct Figures {
    name: &'static str,
    cycles: Vec<f64>,
    mpps: Vec<f64>,
}

impl Figures {
    fn rows(self, case: Case) -> [Row; 2] {
        let Self { name, cycles, mpps } = self;
        [
            Row::of(&case.row(name, "cycles"), "cycles/packet", cycles),
            Row::of(&case.row(name, "rate"), "Mpps", mpps),
        ]
    }
}

/// A backend and its guest.
struct Side {
    figures: Figures,
    backend: std::process::Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    guest: Child,
    features: String,
}

impl Side {
    /// Starts both, and stops the guest once it is there.
    fn start(
        name: &'static str,
        mut command: Command,
        first: &[&str],
        case: Case,
        folder: &Path,
        journal: &Journal,
    ) -> Result<Self, BenchError> {
        let socket = folder.join(format!("{name}-{}-{}", case.way(), case.frame_bytes));
        command.args(first).arg(&socket).arg(CPUS.0.to_string()).arg(case.way());
        command.args([case.frame_bytes.to_string(), format!("{FEATURES:x}")]);
        // It ends when its standard input does: with us.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut backend =
            command.spawn().map_err(|source| LabError::Start { command: format!("{command:?}"), source })?;
        let gone = || BenchError::Backend { what: name, why: "it has no pipes".to_owned() };
        let asks = backend.stdin.take().ok_or_else(gone)?;
        let answers = BufReader::new(backend.stdout.take().ok_or_else(gone)?);
        wait_for(&socket)?;
        let guest = Child::spawn(&format!("guest-{name}"), testpmd(&socket, case), folder, journal)?;
        let figures = Figures { name, cycles: Vec::new(), mpps: Vec::new() };
        let mut side = Self { figures, backend, asks, answers, guest, features: String::new() };
        let line = side.answer()?;
        side.features = line.trim().trim_start_matches("ready ").to_owned();
        side.warm_up()?;
        Ok(side)
    }

    /// Windows that do not count, until packets move: a driver that has its queues is not yet forwarding.
    fn warm_up(&mut self) -> Result<(), BenchError> {
        let started = Instant::now();
        loop {
            let done = self.window(100);
            if !matches!(done, Err(BenchError::NoRate { .. })) || started.elapsed() > Duration::from_secs(20)
            {
                self.figures.cycles.clear();
                self.figures.mpps.clear();
                return done;
            }
        }
    }

    fn answer(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        match read {
            Ok(bytes) if bytes > 0 => Ok(line),
            _ => Err(BenchError::Backend { what: self.figures.name, why: "it has ended".to_owned() }),
        }
    }

    /// One window, in which the guest runs.
    fn window(&mut self, length_ms: u64) -> Result<(), BenchError> {
        self.guest.signal(Signal::CONT);
        // What was stopped needs a moment to fill its rings and caches again.
        std::thread::sleep(Duration::from_millis(20));
        let asked = writeln!(self.asks, "{length_ms}").and_then(|()| self.asks.flush());
        asked.map_err(|err| BenchError::Backend { what: self.figures.name, why: err.to_string() })?;
        let line = self.answer()?;
        self.guest.signal(Signal::STOP);
        let mut figures = line.split_whitespace().map_while(|word| word.parse::<f64>().ok());
        match (figures.next(), figures.next(), figures.next()) {
            (Some(cycles), Some(rate), Some(full)) if full > 0.0 => {
                self.figures.cycles.push(cycles);
                self.figures.mpps.push(rate / 1e6);
                Ok(())
            }
            _ => Err(BenchError::NoRate { program: self.figures.name, output: line }),
        }
    }

    fn end(self) -> Result<Figures, BenchError> {
        let Self { figures, mut backend, asks, guest, .. } = self;
        guest.signal(Signal::CONT);
        guest.stop(Duration::from_secs(10))?;
        drop(asks);
        let ended = backend.wait();
        ended.map_err(|err| BenchError::Backend { what: figures.name, why: err.to_string() })?;
        Ok(figures)
    }
}

/// A guest: DPDK's virtio driver, which polls on the second CPU. Without single files for its memory it would
/// have too many of them, and move nothing without a word.
fn testpmd(socket: &Path, case: Case) -> Command {
    let mut command = Command::new("dpdk-testpmd");
    command.args(["--in-memory", "--single-file-segments", "--no-pci", "--no-telemetry", "-m", "64"]);
    command.arg("-l").arg(format!("{},{}", CPUS.0, CPUS.1)).arg("--main-lcore").arg(CPUS.0.to_string());
    command.arg(format!("--vdev=net_virtio_user0,path={},queues=1,queue_size=1024", socket.display()));
    let mode = if case.direction == Direction::Tx { "txonly" } else { "rxonly" };
    command.arg("--").arg(format!("--forward-mode={mode}")).arg(format!("--txpkts={}", case.frame_bytes));
    // With a period it waits for signals, and not for its standard input.
    command.args(["--total-num-mbufs=8192", "--rxd=1024", "--txd=1024", "--stats-period=60"]);
    command
}

fn wait_for(socket: &Path) -> Result<(), BenchError> {
    for _ in 0..200 {
        if socket.exists() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(BenchError::Backend { what: "backend", why: format!("no socket at {}", socket.display()) })
}
