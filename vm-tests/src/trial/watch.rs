//! What is seen of the switch while it is attacked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lab::status::{Port, Status};
use lab::switch::Switch;

use super::cast::{ATTACKED, OTHER, UNTRUSTED};

/// Drops that are refusals: targets that may not be named, and ways that no edge covers.
pub const DENIALS: [&str; 2] = ["verdict_denied", "domain_edge_denied"];

/// Between two lines of progress.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// The state at the beginning, and what has come since.
pub struct Watch {
    before: Status,
    /// The state at the last look.
    pub now: Status,
    /// Whether each look found the switch alive.
    pub alive: bool,
    /// Whether each look found every buffer accounted for.
    pub conserved: bool,
    /// The longest that an answer has taken.
    pub slowest: Duration,
    begun: Instant,
    last_line: Instant,
}

impl Watch {
    /// Takes note of how things stand.
    pub fn begin(switch: &Switch) -> Self {
        let now = switch.status().unwrap_or_else(|err| panic!("{err}"));
        let (begun, slowest) = (Instant::now(), Duration::ZERO);
        let (alive, conserved) = (true, is_conserved(&now));
        Self { before: now.clone(), now, alive, conserved, slowest, begun, last_line: begun }
    }

    /// Looks once more, and says how it stands from time to time.
    pub fn look(&mut self, switch: &mut Switch, bytes: u64, say: &mut dyn FnMut(&str)) {
        let asked = Instant::now();
        match switch.status() {
            Ok(status) => {
                self.conserved &= is_conserved(&status);
                self.now = status;
            }
            Err(err) => {
                self.alive = false;
                say(&format!("the switch does not answer: {err}"));
            }
        }
        self.alive &= switch.child().check_alive().is_ok();
        self.slowest = self.slowest.max(asked.elapsed());
        if self.last_line.elapsed() >= LINE_PERIOD {
            self.last_line = Instant::now();
            say(&format!(
                "{:>4} s: {} KiB crossed the other domain, {} lost there; {} violations",
                self.begun.elapsed().as_secs(),
                bytes >> 10,
                self.other_lost(),
                self.violations().values().sum::<u64>(),
            ));
        }
    }

    /// Violations of the attackers, by name.
    pub fn violations(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for owner in self.now.owners.iter().filter(|owner| owner.domain == ATTACKED) {
            let earlier = self.before.owners.iter().find(|earlier| earlier.name == owner.name);
            for (kind, names) in &owner.violations {
                for (name, count) in names {
                    let before = earlier.and_then(|earlier| earlier.violations.get(kind)?.get(name));
                    *all.entry(name.clone()).or_default() += count - before.unwrap_or(&0);
                }
            }
        }
        for reason in DENIALS {
            let denied = |status: &Status| {
                status.drops.get(ATTACKED).and_then(|drops| drops.get(reason)).copied().unwrap_or(0)
            };
            all.insert(reason.to_owned(), denied(&self.now) - denied(&self.before));
        }
        all
    }

    /// What frontends and drivers did wrong at the NICs of the attacked domain, by name.
    pub fn nic_faults(&self) -> BTreeMap<String, u64> {
        let is_attacked =
            |port: &&Port| UNTRUSTED.iter().any(|(vm, _)| port.name.starts_with(&format!("{vm}.")));
        let mut all = BTreeMap::new();
        for nic in self.now.ports.iter().filter(is_attacked).filter_map(|port| port.nic.as_ref()) {
            for (name, count) in &nic.faults {
                *all.entry(name.clone()).or_default() += count;
            }
        }
        all
    }

    /// Packets of one attacker that were refused a way since the beginning.
    pub fn denied(&self, owner: &str) -> u64 {
        let of = |status: &Status| -> u64 {
            let drops = status.endpoint_of(owner).map(|endpoint| &endpoint.drops);
            DENIALS.iter().filter_map(|reason| drops?.get(*reason)).sum()
        };
        of(&self.now) - of(&self.before)
    }

    /// Packets of the other domain since the beginning.
    pub fn other_packets(&self) -> u64 {
        let received = |status: &Status| -> u64 {
            ["client", "server"].iter().filter_map(|port| status.port(port)).map(|port| port.rx_packets).sum()
        };
        received(&self.now) - received(&self.before)
    }

    /// Packets of the other domain that were dropped since the beginning, by reason.
    pub fn other_drops(&self) -> BTreeMap<String, u64> {
        let of = |status: &Status| status.drops.get(OTHER).cloned().unwrap_or_default();
        let before = of(&self.before);
        let since = |(reason, count): (String, u64)| {
            let since = count - before.get(&reason).unwrap_or(&0);
            (since > 0).then_some((reason, since))
        };
        of(&self.now).into_iter().filter_map(since).collect()
    }

    /// How many those are.
    pub fn other_lost(&self) -> u64 {
        self.other_drops().values().sum()
    }
}

fn is_conserved(status: &Status) -> bool {
    status.buffers.values().all(|buffers| buffers.accounted() == buffers.total)
}
