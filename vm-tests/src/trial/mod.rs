//! The trial: two domains on one switch, one of them attacked, the other at work.
//!
//! A control run measures what the other domain moves while nobody attacks; then an attacker runs in the
//! attacked domain, as a process and in a VM, while the other domain moves bytes at the same pace. The
//! other domain's packets, names and network functions carry canaries; the attackers look for them.

mod cast;
mod planted;
mod sniffer;
mod summary;
mod watch;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::beacon::Beacon;
use lab::child::Child;
use lab::paced::{Moved, Pace, Paced};
use lab::switch::Switch;

pub use planted::Kept;
use summary::Reports;
pub use summary::{Summary, VmSummary};

use crate::Scene;
use crate::attacker::kind::Kind;
use crate::attacker::siege::Report;
use crate::frontend::trick::Trick;
use cast::{ATTACKED, Canaries, VM};
use planted::Planted;
use sniffer::Sniffer;
use watch::Watch;

/// How fast the other domain moves its file.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// How long the switch and its functions may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// Between two looks at the switch.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// How long a VM may take to boot on a machine that is busy.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long after its time an attacker may still be at its last search, in a VM under emulation.
const LAST_SEARCH: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How long to attack.
    pub seconds: u64,
    /// What all choices follow from.
    pub seed: u64,
    /// Whether a VM attacks besides the process.
    pub vm: bool,
    /// The kinds of attack; none, and no trick either: all.
    pub only: Vec<Kind>,
    /// The tricks of frontends; none, and no kind either: all.
    pub tricks: Vec<Trick>,
}

impl Plan {
    /// How long the control run takes.
    #[must_use]
    pub fn control_seconds(&self) -> u64 {
        (self.seconds / 6).clamp(5, 20)
    }

    /// What guests and processes do; none: all.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        // An attacker that is there for others' tricks is quiet.
        if self.only.is_empty() && self.has_frontends() && !self.tricks.is_empty() {
            vec![Kind::CanarySearch]
        } else {
            self.only.clone()
        }
    }

    /// Whether attackers do this.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        let kinds = self.kinds();
        kinds.is_empty() || kinds.contains(&kind)
    }

    /// Whether the NICs of untrusted VMs are attacked.
    #[must_use]
    pub fn has_frontends(&self) -> bool {
        !self.tricks.is_empty() || self.only.is_empty()
    }

    /// Whether a frontend does this.
    #[must_use]
    pub fn plays(&self, trick: Trick) -> bool {
        self.has_frontends() && (self.tricks.is_empty() || self.tricks.contains(&trick))
    }
}

/// Runs the trial and says how it stands, line by line, to `say`.
///
/// # Panics
/// If the scene cannot be set, or the switch does not answer any more.
#[must_use]
pub fn run(plan: &Plan, say: &mut dyn FnMut(&str)) -> Summary {
    let scene = Scene::new();
    scene.journal.undo_on_signal().expect("signal handlers");
    let canaries = Canaries::random(plan.seed);
    let hosts = cast::Hosts::of(&scene);
    let mut switch = scene.switch(&cast::config(&scene, &canaries, plan));
    let functions = cast::functions(&mut switch, &scene, &canaries, READY);
    let run_dir = PathBuf::from("/run/netvm").join(scene.switch_name());
    let planted =
        Planted::plant(switch.child().pid(), run_dir, cast::OTHER_DOMAIN, &canaries).expect("canaries");
    let beacon = Beacon::start(
        &hosts.attacked,
        (Ipv4Addr::new(10, 9, 0, 3), 9),
        canaries.own.bytes.repeat(8),
        Duration::from_millis(2),
    );
    let _beacon = beacon.expect("a beacon");

    let sniffers = [
        Sniffer::start(&hosts.client, &hosts.server, false),
        Sniffer::start(&hosts.server, &hosts.client, true),
        // No function may name this port, and no chain leads there.
        Sniffer::start(&hosts.attacked, &hosts.attacked, false),
    ];

    let seconds = plan.control_seconds();
    say(&format!("control run of {seconds} s: nobody attacks"));
    let control = transfer(&hosts, &canaries, seconds, &mut |_| ());
    say(&format!("control run: {:.0} KiB/s", control.bytes_per_second() / 1024.0));

    let vm = plan.vm.then(|| {
        say("booting the VM that attacks");
        cast::boot(&mut switch, &scene, BOOT_LIMIT)
    });
    say(&format!("attack of {} s with seed {}", plan.seconds, plan.seed));
    let process = cast::attacker(&scene, &canaries, plan);
    let frontends = cast::frontends(&scene, &canaries, plan);
    let mut watch = Watch::begin(&switch);
    let attacked = transfer(&hosts, &canaries, plan.seconds, &mut |bytes| {
        watch.look(&mut switch, bytes, say);
    });
    let mut reports = Reports::of_process(report_of(process, READY));
    reports.frontends = frontends.map(|child| report_of(child, READY));
    reports.vm = vm.map(|child| {
        let report = guest_report(&switch, &child, LAST_SEARCH);
        VmSummary::of(&switch, report, child)
    });
    watch.look(&mut switch, plan.seconds * BYTES_PER_SECOND, say);
    let kept = planted.kept(&canaries).expect("a look into the switch");
    drop(functions);
    let arrived = sniffers.map(Sniffer::stop).into_iter().sum();
    let ratio = attacked.bytes_per_second() / control.bytes_per_second().max(1.0);
    let summary = Summary::new(plan, &watch, reports, (ratio, attacked.is_intact), arrived, kept);
    summary.after_the_end(switch.stop(), say)
}

/// Moves bytes through the other domain for so many seconds.
fn transfer(hosts: &cast::Hosts, canaries: &Canaries, seconds: u64, look: &mut dyn FnMut(u64)) -> Moved {
    let pace = Pace { bytes_per_second: BYTES_PER_SECOND, seconds };
    let paced = Paced::start(&hosts.server, &hosts.client, cast::SERVER, pace, &canaries.packets.bytes);
    let paced = paced.unwrap_or_else(|err| panic!("{err}"));
    let mut looked = Instant::now();
    while !paced.is_done() {
        std::thread::sleep(Duration::from_millis(20));
        if looked.elapsed() >= LOOK_PERIOD {
            looked = Instant::now();
            look(paced.received());
        }
    }
    paced.finish().unwrap_or_else(|err| panic!("{err}"))
}

/// The report at the end of an attacker's log.
fn report_of(mut attacker: Child, limit: Duration) -> Report {
    let log = attacker.log().to_owned();
    let status = attacker.wait(limit).unwrap_or_else(|err| panic!("{err}"));
    assert!(status.success(), "the attacker of {ATTACKED} ended with {status}");
    parse_report(&std::fs::read_to_string(log).unwrap_or_default()).expect("a report")
}

/// The report on the console of the VM.
fn guest_report(switch: &Switch, child: &Child, limit: Duration) -> Report {
    let console = switch.serial_log(VM);
    let deadline = Instant::now() + limit;
    loop {
        let text = std::fs::read(&console).unwrap_or_default();
        if let Some(report) = parse_report(&String::from_utf8_lossy(&text)) {
            return report;
        }
        assert!(Instant::now() < deadline, "{} has not reported: {}", child.name(), console.display());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn parse_report(text: &str) -> Option<Report> {
    let line = text.lines().rev().find_map(|line| line.trim().strip_prefix("attacker: {"))?;
    serde_json::from_str(&format!("{{{line}")).ok()
}
