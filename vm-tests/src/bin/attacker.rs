//! A hostile guest: attacks the switch that lends it memory, for some seconds; see `--help`.
//!
//! It runs inside a VM, or as a process at the switch's endpoint.sock; a static build does both.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use vm_tests::attacker::canary::Canary;
use vm_tests::attacker::deface;
use vm_tests::attacker::device::Device;
use vm_tests::attacker::edges::Edge;
use vm_tests::attacker::kind::Kind;
use vm_tests::attacker::plant::plant;
use vm_tests::attacker::siege::{Report, Siege};
use vm_tests::frontend::siege as frontend;
use vm_tests::frontend::trick::Trick;

/// Attacks the switch: forged descriptors, absurd counters, races, floods, and a search for others' secrets.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  attacker --socket /run/netvm/t/endpoint.sock --name bad --seconds 60 --seed 7 --json"
)]
struct Options {
    /// The switch's endpoint socket; without it, the PCI devices of this guest are attacked
    #[arg(long, value_name = "PATH", requires = "name")]
    socket: Option<PathBuf>,
    /// Name of this process in the switch's config
    #[arg(long)]
    name: Option<String>,
    /// How long
    #[arg(long, default_value_t = 60, overrides_with = "seconds")]
    seconds: u64,
    /// What all choices follow from
    #[arg(long, default_value_t = 1, overrides_with = "seed")]
    seed: u64,
    /// Print the report as one line of JSON, after the word "attacker: "
    #[arg(long)]
    json: bool,
    /// A secret to look for: where it is, and its bytes, inverted, in hexadecimal; may be given several times
    #[arg(long, value_name = "PLACE=HEX")]
    canary: Vec<Canary>,
    /// Attack in this way alone; may be given several times
    #[arg(long, value_name = "KIND")]
    only: Vec<Kind>,
    /// The number of a port of another domain, to which an edge carries UDP to 10.1.0.3 port 7 alone
    #[arg(long, value_name = "NUMBER")]
    edge_port: Option<u16>,
    /// Be one of the lives of an attacker: end when only a new process will be let in again
    #[arg(long, hide = true)]
    life: bool,
    /// Attack nothing but the region, as an observer that may only read it, once
    #[arg(long)]
    deface: bool,
    /// Attack the socket of an untrusted VM's NIC, as its frontend; may be given several times
    #[arg(long, value_name = "PATH", conflicts_with = "socket")]
    nic: Vec<PathBuf>,
    /// With --nic: do this alone; may be given several times
    #[arg(long, value_name = "TRICK")]
    trick: Vec<Trick>,
    /// Attack nothing: keep this canary in all memory that it has, as a network function of its domain
    #[arg(long, value_name = "PLACE=HEX")]
    plant: Option<Canary>,
}

fn run(options: &Options) -> Result<(), String> {
    if options.deface {
        return deface(options);
    }
    let report = match (&options.socket, &options.plant) {
        (None, None) if !options.nic.is_empty() => {
            let length = Duration::from_secs(options.seconds);
            frontend::run(&options.nic, options.seed, length, &options.canary, &options.trick)
        }
        (Some(_), None) if !options.life => live_again_and_again(options)?,
        _ => match live(options)? {
            Some(report) => report,
            None => return Ok(()),
        },
    };
    if options.json || options.life {
        let line = serde_json::to_string(&report).map_err(|err| err.to_string())?;
        println!("attacker: {line}");
    } else {
        println!("{report:#?}");
    }
    Ok(())
}

/// Tries to write the region of an observer, and says what came of it.
fn deface(options: &Options) -> Result<(), String> {
    let report = match (&options.socket, &options.name) {
        (Some(socket), Some(name)) => deface::in_process(socket, name),
        _ => deface::in_guest(),
    };
    let report = report.map_err(|err| err.to_string())?;
    let line = serde_json::to_string(&report).map_err(|err| err.to_string())?;
    println!("attacker: {line}");
    Ok(())
}

/// One life. No report: it attacked nothing.
fn live(options: &Options) -> Result<Option<Report>, String> {
    let device = match (&options.socket, &options.name) {
        (Some(socket), Some(name)) => Device::process(socket, name),
        _ => Device::guest(),
    };
    let device = device.map_err(|err| err.to_string())?;
    let length = Duration::from_secs(options.seconds);
    if let Some(canary) = &options.plant {
        return plant(&device, canary, length).map(|()| None);
    }
    let edge = options.edge_port.map(Edge::to_port);
    Ok(Some(Siege::new(device, options.seed, length, &options.canary, edge, &options.only).run(options.seed)))
}

/// A process that the switch has cut off for good dies, with all that it holds, and another takes its place.
fn live_again_and_again(options: &Options) -> Result<Report, String> {
    let ends = Instant::now() + Duration::from_secs(options.seconds);
    let mut all = Report { seed: options.seed, ..Report::default() };
    for life in 0.. {
        let left = ends.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 {
            break;
        }
        // The last of several options of one name counts.
        let mut command = Command::new("/proc/self/exe");
        command.args(std::env::args_os().skip(1)).arg("--life");
        command.args(["--seconds", &left.to_string(), "--seed", &(options.seed + life).to_string()]);
        let output = command.stderr(Stdio::inherit()).output().map_err(|err| err.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let report = text.lines().rev().find_map(|line| line.strip_prefix("attacker: "));
        let report = report.ok_or_else(|| format!("life {life} ended with {}: {text}", output.status))?;
        all.add(serde_json::from_str(report).map_err(|err| err.to_string())?);
    }
    Ok(all)
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("attacker: {err}");
            ExitCode::FAILURE
        }
    }
}
