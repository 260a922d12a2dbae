//! The flow table beside DPDK's `rte_hash`: what it costs to look up the flow of a packet.
//!
//! Both are programs on the same CPU that do the same (`flow_lane`, `c/flow-hash.c`): keys of 40 bytes in bulks of 32,
//! 90 % of them there, in shuffled order, hashed within what is timed, and each packet found is counted in its flow's
//! line. All memory is on hugepages. Nothing is fuller than four fifths: ours is made for just as many flows as it
//! has, `rte_hash` for a quarter more, which it rounds up.
//!
//! The windows alternate; who is not measured waits. As in `hop`, a ratio is taken of the windows that follow one
//! another, and the median of these pairs is reported.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use lab::error::LabError;
use lab::hugepages;
use lab::journal::Journal;

use crate::error::BenchError;
use crate::machine::disturbance;
use crate::report::Report;
use crate::sample::{Row, ratio_of_pairs};
use crate::scenario;

/// The program with `rte_hash`, relative to the checkout.
const SOURCE: &str = "bench/c/flow-hash.c";
/// The CPU of both.
const CPU: usize = 0;
/// Share of the packets whose flow is there.
const FOUND: f64 = 0.9;
/// How far the share may be off in a window.
const FOUND_TOLERANCE: f64 = 0.01;
/// Hugepages of 2 MiB for the tables and packets of both at a million flows: 240 MiB each.
const HUGEPAGES: u64 = 2 * 120;

/// Options of the scenario.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench flows --json | tail -n 1")]
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

/// How many flows there are.
#[derive(Clone, Copy, Debug)]
struct Case {
    ratio: &'static str,
    name: &'static str,
    flows: u32,
}

const CASES: [Case; 3] = [
    Case { ratio: "flows_1k_to_rte_hash", name: "1k", flows: 1000 },
    Case { ratio: "flows_100k_to_rte_hash", name: "100k", flows: 100_000 },
    Case { ratio: "flows_1m_to_rte_hash", name: "1m", flows: 1_000_000 },
];

/// Runs the scenario.
///
/// # Errors
/// If something cannot be built or started, or the two tables did not do the same work.
pub fn run_scenario(options: &Options) -> Result<(), BenchError> {
    scenario::run(options.json, |folder, journal| measure(options, folder, journal))
}

fn measure(options: &Options, folder: &Path, journal: &Journal) -> Result<Report, BenchError> {
    hugepages::ensure_free(HUGEPAGES, journal)?;
    let peer = scenario::compile_with_dpdk(SOURCE, folder.join("flow-hash"), &[])?;
    let ours = std::env::current_exe().map_err(LabError::file("find", "/proc/self/exe"))?;
    let (mut rows, mut ratios, mut disturbed) = (Vec::new(), BTreeMap::new(), disturbance());
    for case in CASES {
        let mut ours = Side::start("flow_table", Command::new(&ours).arg("flow-lane"), case)?;
        let mut peer = Side::start("rte_hash", &mut Command::new(&peer), case)?;
        for at in 0..options.windows {
            eprintln!("{}: window {} of {}", case.ratio, at + 1, options.windows);
            ours.window(options.window_ms)?;
            peer.window(options.window_ms)?;
            disturbed = disturbed.max(disturbance());
        }
        let ratio = ratio_of_pairs(&peer.cycles, &ours.cycles);
        ratios.insert(case.ratio, ratio.median);
        rows.extend([ours.end(case)?, peer.end(case)?]);
        rows.push(Row { name: format!("{}/by_window", case.ratio), ..ratio });
    }
    Ok(Report::of("flows", rows, ratios, disturbed))
}

/// One of the two programs, and what it has measured.
struct Side {
    name: &'static str,
    program: std::process::Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    load: f64,
    cycles: Vec<f64>,
}

impl Side {
    /// Starts a program and waits until its table is filled. It ends with its standard input.
    fn start(name: &'static str, command: &mut Command, case: Case) -> Result<Self, BenchError> {
        command.args([CPU.to_string(), case.flows.to_string()]);
        let mut program = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| LabError::Start { command: name.to_owned(), source })?;
        let (Some(asks), Some(answers)) = (program.stdin.take(), program.stdout.take()) else {
            return Err(BenchError::Backend { what: name, why: "it has no pipes".to_owned() });
        };
        let answers = BufReader::new(answers);
        let mut side = Self { name, program, asks, answers, load: 0.0, cycles: Vec::new() };
        let line = side.answer()?;
        let load = line.strip_prefix("ready ").and_then(|load| load.trim().parse().ok());
        side.load = load.ok_or(BenchError::NoRate { program: name, output: line })?;
        Ok(side)
    }

    fn answer(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(bytes) if bytes > 0 => Ok(line),
            _ => Err(BenchError::Backend { what: self.name, why: "it has ended".to_owned() }),
        }
    }

    fn window(&mut self, length_ms: u64) -> Result<(), BenchError> {
        let asked = writeln!(self.asks, "{length_ms}").and_then(|()| self.asks.flush());
        asked.map_err(|err| BenchError::Backend { what: self.name, why: err.to_string() })?;
        let line = self.answer()?;
        let figures: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let &[cycles, _packets, found] = figures.as_slice() else {
            return Err(BenchError::NoRate { program: self.name, output: line });
        };
        if (found - FOUND).abs() > FOUND_TOLERANCE {
            return Err(BenchError::Found { program: self.name, found, expected: FOUND });
        }
        self.cycles.push(cycles);
        Ok(())
    }

    fn end(self, case: Case) -> Result<Row, BenchError> {
        let Self { name, mut program, asks, answers: _, load, cycles } = self;
        drop(asks);
        let ended = program.wait();
        ended.map_err(|err| BenchError::Backend { what: name, why: err.to_string() })?;
        let row = format!("lookup/{name}/{}/load_{:.0}%", case.name, 100.0 * load);
        Ok(Row::of(&row, "cycles/packet", cycles))
    }
}
