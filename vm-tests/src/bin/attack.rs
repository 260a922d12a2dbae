//! Attacks a switch and says what held; `cargo xtask attack` builds what it needs. See `--help`.

use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;
use serde::Serialize;
use vm_tests::attacker::kind::Kind;
use vm_tests::frontend::trick::Trick;
use vm_tests::trial::{self, Plan, Summary};

/// Attacks a switch from a process, a VM and frontends of one domain, while another domain is at work.
#[derive(Parser)]
struct Options {
    /// How long to attack
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,
    /// What all choices follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Attack without a VM
    #[arg(long)]
    no_vm: bool,
    /// Attack in this way alone; may be given several times
    #[arg(long, value_name = "KIND")]
    only: Vec<Choice>,
    /// Print the summary as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// What an attacker does, or a frontend.
#[derive(Clone, Copy)]
enum Choice {
    Kind(Kind),
    Trick(Trick),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = |why: String| text.parse().map(Self::Kind).map_err(|also| format!("{why}; {also}"));
        text.parse().map(Self::Trick).or_else(kind)
    }
}

/// What the last line says.
#[derive(Serialize)]
struct Report<'r> {
    #[serde(flatten)]
    summary: &'r Summary,
    /// Why the attack counts as failed; empty if every promise held and every kind was tried often enough.
    complaints: &'r [String],
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Options { seconds, seed, no_vm, only, .. } = options;
    let mut plan = Plan { seconds, seed, vm: !no_vm, only: Vec::new(), tricks: Vec::new() };
    for choice in only {
        match choice {
            Choice::Kind(kind) => plan.only.push(kind),
            Choice::Trick(trick) => plan.tricks.push(trick),
        }
    }
    let summary = trial::run(&plan, &mut |line| println!("{line}"));
    println!("\n{}", summary.text());
    let complaints = summary.complaints();
    for complaint in &complaints {
        println!("FAILED: {complaint}");
    }
    if options.json {
        let report = Report { summary: &summary, complaints: &complaints };
        match serde_json::to_string(&report) {
            Ok(line) => println!("{line}"),
            Err(err) => eprintln!("error: summary: {err}"),
        }
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
