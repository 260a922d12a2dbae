//! What the trial found, for people and, as one JSON object, for programs.

use std::collections::BTreeMap;

use lab::child::Child;
use lab::error::LabError;
use lab::switch::Switch;
use serde::Serialize;

use super::Plan;
use super::cast::{PROCESS, VM};
use super::planted::Kept;
use super::sniffer::Arrived;
use super::watch::{DENIALS, Watch};
use crate::attacker::kind::{KINDS, Kind};
use crate::attacker::siege::Report;
use crate::frontend::trick::{TRICKS, Trick};

/// Least attempts of each kind that the process makes in a minute.
const ATTEMPTS_PER_MINUTE: u64 = 10_000;

/// Violations, each with the kind of attack that a process cannot try without it: each is one check of the switch,
/// met.
const COUNTED: [(&str, Kind); 16] = [
    ("foreign_index", Kind::ForgedDescriptors),
    ("not_held", Kind::UnheldBuffers),
    ("wrong_generation", Kind::ForgedDescriptors),
    ("unknown_code", Kind::ForgedDescriptors),
    ("unknown_flags", Kind::ForgedDescriptors),
    ("not_empty", Kind::ForgedDescriptors),
    ("past_buffer", Kind::ForgedDescriptors),
    ("frame_too_short", Kind::ForgedDescriptors),
    ("peer_counter", Kind::AbsurdCounters),
    ("verdict_denied", Kind::DeniedTargets),
    ("domain_edge_denied", Kind::DeniedEdges),
    ("attach_too_often", Kind::AttachStorm),
    ("wrong_epoch", Kind::EpochFlips),
    ("message_malformed", Kind::ControlFlood),
    ("message_too_long", Kind::ControlFlood),
    ("message_unexpected", Kind::ControlFlood),
];

/// Least attempts of each trick in a minute: a port that was refused something lets its frontend wait up to a second.
const TRICKS_PER_MINUTE: u64 = 8;

/// The same of frontends: each is one check of a NIC, met. A short attack tries each trick a few times only, and not
/// each variant of it.
const NIC_COUNTED: [(&str, Trick); 16] = [
    ("message_malformed", Trick::MalformedMessages),
    ("message_partial", Trick::PartialMessages),
    ("connection_rate", Trick::ReconnectStorms),
    ("region_overlap", Trick::OverlappingRegions),
    ("ring_outside", Trick::VanishingMemory),
    ("region_range", Trick::LyingSizes),
    ("region_too_many", Trick::ManyRegions),
    ("memory_kind", Trick::WrongFiles),
    ("memory_unsealed", Trick::Truncation),
    ("memory_lost", Trick::Truncation),
    ("chain_too_long", Trick::DescriptorLoops),
    ("next_outside", Trick::DescriptorLoops),
    ("indirect_nested", Trick::NestedIndirect),
    ("indirect_length", Trick::EndlessIndirect),
    ("avail_jump", Trick::AvailableJumps),
    ("outside_memory", Trick::HugeLengths),
];
/// An attack at least this long tries every variant.
const EVERY_VARIANT_SECONDS: u64 = 60;

/// The result. Keys are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What was to be tried.
    #[serde(skip)]
    plan: Plan,
    /// How long the attack took.
    pub seconds: u64,
    /// What all choices followed from.
    pub seed: u64,
    /// Attempts of the process and of the frontends, by kind.
    pub attempts: BTreeMap<String, u64>,
    /// Violations that the switch counted, by name, of process and VM.
    pub violations: BTreeMap<String, u64>,
    /// What it refused at NICs, or took a queue out of service for, by name.
    pub nic_faults: BTreeMap<String, u64>,
    /// Whether the switch lived and answered all the time, and ended well.
    pub switch_alive: bool,
    /// The longest that it took to answer, in milliseconds.
    pub slowest_answer_ms: u64,
    /// Whether all buffers were accounted for at every look and in the end.
    pub conserved: bool,
    /// Packets that entered the other domain.
    pub other_domain_packets: u64,
    /// Packets that were dropped there.
    pub other_domain_lost: u64,
    /// The same by reason, those that were counted.
    pub other_domain_drops: BTreeMap<String, u64>,
    /// Goodput of the other domain's transfer, as a part of what it was without an attack.
    pub other_domain_goodput_ratio: f64,
    /// Whether what it moved arrived as it was sent.
    pub other_domain_sha256_ok: bool,
    /// Canaries of the other domain that an attacker found, in whatever memory.
    pub canaries_found: u64,
    /// How often those of the switch itself were there in the end, to be found.
    pub canaries_kept: Kept,
    /// Whether each attacker found the canary of its own domain.
    pub own_canary_found: bool,
    /// Packets that the switch refused a way: their target may not be named, or no edge carries them.
    pub denied_edge_tried: u64,
    /// Those of the process alone.
    pub denied_edge_tried_by_process: u64,
    /// Those of the VM alone.
    pub denied_edge_tried_by_vm: u64,
    /// Packets that arrived at a host although their target may not be named or the edge does not carry them.
    pub denied_edge_delivered: u64,
    /// Packets that arrived and are what the edge carries: the way is open for those.
    pub allowed_edge_delivered: u64,
    /// How often sealed memory let itself be resized or sealed anew.
    pub seals_broken: u64,
    /// The same of the attacker in the VM, if there was one.
    pub vm: Option<VmSummary>,
}

/// What each attacker says of itself.
pub(super) struct Reports {
    process: Report,
    pub(super) frontends: Option<Report>,
    pub(super) vm: Option<VmSummary>,
}

impl Reports {
    /// The report of the process, which is always there.
    pub(super) fn of_process(process: Report) -> Self {
        Self { process, frontends: None, vm: None }
    }

    /// Those of attackers that have memory of the attacked domain.
    fn inside(&self) -> impl Iterator<Item = &Report> {
        std::iter::once(&self.process).chain(self.vm.as_ref().map(|vm| &vm.report))
    }

    fn all(&self) -> impl Iterator<Item = &Report> {
        self.inside().chain(&self.frontends)
    }

    fn attempts(&self) -> BTreeMap<String, u64> {
        let frontends = self.frontends.iter().flat_map(|report| report.attempts.clone());
        self.process.attempts.clone().into_iter().chain(frontends).collect()
    }
}

/// What the attacker in the VM did.
#[derive(Clone, Debug, Serialize)]
pub struct VmSummary {
    /// kvm or tcg.
    pub accelerator: String,
    /// Attempts by kind.
    pub attempts: BTreeMap<String, u64>,
    /// Bytes searched, by mapping: every BAR.
    pub searched: BTreeMap<String, u64>,
    /// How often it was attached.
    pub attaches: u64,
    #[serde(skip)]
    report: Report,
}

impl VmSummary {
    /// What this report of the VM says. The VM ends here.
    pub fn of(switch: &Switch, report: Report, child: Child) -> Self {
        let status = switch.status().ok();
        let vm = status.as_ref().and_then(|status| status.vms.iter().find(|vm| vm.name == VM));
        let accelerator = vm.map_or_else(|| "none".to_owned(), |vm| vm.accelerator.clone());
        drop(child);
        Self {
            accelerator,
            attempts: report.attempts.clone(),
            searched: report.searched.clone(),
            attaches: report.attaches,
            report,
        }
    }
}

impl Summary {
    pub(super) fn new(
        plan: &Plan,
        watch: &Watch,
        reports: Reports,
        moved: (f64, bool),
        arrived: Arrived,
        canaries_kept: Kept,
    ) -> Self {
        let (ratio, hash_ok) = moved;
        let foreign =
            reports.all().flat_map(|report| &report.found).filter(|found| found.place != "own").count();
        let own_canary_found = reports.inside().all(|report| {
            report.found.iter().any(|found| found.place == "own" && found.mapping != "control")
        });
        let seals_broken = reports.inside().map(|report| report.resized).sum();
        let violations = watch.violations();
        Self {
            plan: plan.clone(),
            seconds: plan.seconds,
            seed: plan.seed,
            attempts: reports.attempts(),
            nic_faults: watch.nic_faults(),
            denied_edge_tried: DENIALS.iter().filter_map(|reason| violations.get(*reason)).sum(),
            violations,
            switch_alive: watch.alive,
            slowest_answer_ms: u64::try_from(watch.slowest.as_millis()).unwrap_or(u64::MAX),
            conserved: watch.conserved,
            other_domain_packets: watch.other_packets(),
            other_domain_lost: watch.other_lost(),
            other_domain_drops: watch.other_drops(),
            other_domain_goodput_ratio: ratio,
            other_domain_sha256_ok: hash_ok,
            canaries_kept,
            canaries_found: foreign as u64,
            own_canary_found,
            denied_edge_tried_by_process: watch.denied(PROCESS),
            denied_edge_tried_by_vm: watch.denied(VM),
            seals_broken,
            denied_edge_delivered: arrived.smuggled,
            allowed_edge_delivered: arrived.carried,
            vm: reports.vm,
        }
    }

    /// Takes in how the switch ended: its last audit is part of that.
    pub(super) fn after_the_end(mut self, ended: Result<(), LabError>, say: &mut dyn FnMut(&str)) -> Self {
        if let Err(err) = ended {
            say(&format!("{err}"));
            self.switch_alive = false;
            self.conserved = false;
        }
        self
    }

    /// What is wrong with the result; empty if every promise held and every kind was tried often enough.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.broken().into_iter().chain(self.too_weak()).collect()
    }

    /// Promises that did not hold, and checks that were not met.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut claim = |holds: bool, what: String| {
            if !holds {
                complaints.push(what);
            }
        };
        claim(self.switch_alive, "the switch did not live, answer or end well".to_owned());
        claim(self.conserved, "buffers were missing or counted twice".to_owned());
        claim(
            self.other_domain_sha256_ok,
            "what the other domain moved arrived as something else".to_owned(),
        );
        let ratio = self.other_domain_goodput_ratio;
        claim(ratio >= 0.5, format!("the other domain kept {ratio:.2} of its goodput, not 0.5"));
        let lost = self.other_domain_lost;
        let drops = &self.other_domain_drops;
        claim(lost == 0, format!("{lost} packets of the other domain were dropped: {drops:?}"));
        claim(self.other_domain_packets > 0, "no packet entered the other domain".to_owned());
        let found = self.canaries_found;
        claim(found == 0, format!("{found} canaries of the other domain were found"));
        let kept = self.canaries_kept;
        claim(
            kept.config > 0 && kept.ledger > 0 && kept.mbufs > 0,
            format!("not all canaries were in the switch to be found: {kept:?}"),
        );
        let broken = self.seals_broken;
        claim(broken == 0, format!("sealed memory let itself be resized or sealed {broken} times"));
        let searched = self.plan.has(Kind::CanarySearch);
        claim(
            !searched || self.own_canary_found,
            "an attacker did not find the canary of its own domain".to_owned(),
        );
        let delivered = self.denied_edge_delivered;
        claim(delivered == 0, format!("{delivered} packets crossed where the config draws no edge"));
        let crosses = !self.plan.has(Kind::DeniedEdges) || self.allowed_edge_delivered > 0;
        claim(crosses, "the edge carried nothing that it should".to_owned());
        for (name, kind) in COUNTED {
            if !self.plan.has(kind) {
                continue;
            }
            let count = self.violations.get(name).copied().unwrap_or(0);
            claim(count > 0, format!("no violation {name} was counted"));
        }
        let every_variant = self.seconds >= EVERY_VARIANT_SECONDS;
        for (name, trick) in
            NIC_COUNTED.into_iter().filter(|(_, trick)| every_variant && self.plan.plays(*trick))
        {
            let count = self.nic_faults.get(name).copied().unwrap_or(0);
            claim(count > 0, format!("no {name} was counted of {}", trick.name()));
        }
        complaints
    }

    /// Kinds of attack that were tried too rarely to prove anything, as on a machine that is busy.
    #[must_use]
    pub fn too_weak(&self) -> Vec<String> {
        let least = ATTEMPTS_PER_MINUTE * self.seconds.min(60) / 60;
        let kinds = KINDS.into_iter().filter(|kind| self.plan.has(*kind)).map(|kind| (kind.name(), least));
        let least = TRICKS_PER_MINUTE * self.seconds.min(60) / 60;
        let tricks = TRICKS.into_iter().filter(|trick| self.plan.plays(*trick));
        let wanted = kinds.chain(tricks.map(|trick| (trick.name(), least)));
        wanted
            .map(|(name, least)| (self.attempts.get(name).copied().unwrap_or(0), name, least))
            .filter(|(made, _, least)| made < least)
            .map(|(made, name, least)| {
                format!("too weak an attack to tell: {made} attempts of {name}, not {least}")
            })
            .collect()
    }

    /// A few lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("\n    {name:<24} {count:>12}")).collect::<String>()
        };
        let vm = self.vm.as_ref().map_or_else(String::new, |vm| {
            let searched: Vec<&str> = vm.searched.keys().map(String::as_str).collect();
            format!(
                "VM ({}), attached {} times, searched {}:{}\n",
                vm.accelerator,
                vm.attaches,
                searched.join(", "),
                list(&vm.attempts)
            )
        });
        format!(
            "attempts of process and frontends in {} s, seed {}:{}\n{vm}violations counted:{}\nfaults of NICs:{}\n\
             switch            {}, slowest answer {} ms, buffers {}\n\
             other domain      {} packets, {} lost, {:.2} of its goodput, hash {}\n\
             canaries          {} of the other domain found; own {}\n\
             in the switch     {} times in its heap, in {} entries of the ledger, in {} mbufs\n\
             no edge           {} tried ({} by the process, {} by the VM), {} delivered; {} delivered over the edge",
            self.seconds,
            self.seed,
            list(&self.attempts),
            list(&self.violations),
            list(&self.nic_faults),
            if self.switch_alive { "alive" } else { "DEAD" },
            self.slowest_answer_ms,
            if self.conserved { "conserved" } else { "LOST" },
            self.other_domain_packets,
            self.other_domain_lost,
            self.other_domain_goodput_ratio,
            if self.other_domain_sha256_ok { "equal" } else { "DIFFERENT" },
            self.canaries_found,
            match (self.plan.has(Kind::CanarySearch), self.own_canary_found) {
                (false, _) => "not looked for",
                (true, true) => "found",
                (true, false) => "NOT FOUND",
            },
            self.canaries_kept.config,
            self.canaries_kept.ledger,
            self.canaries_kept.mbufs,
            self.denied_edge_tried,
            self.denied_edge_tried_by_process,
            self.denied_edge_tried_by_vm,
            self.denied_edge_delivered,
            self.allowed_edge_delivered,
        )
    }
}
