//! The result of a scenario: a table for people, one object for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::machine::Machine;
use crate::sample::Row;

/// A finished scenario.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// Its figures.
    pub rows: Vec<Row>,
    /// Ratios by name: the median over pairs of windows that follow one another.
    pub ratios: BTreeMap<&'static str, f64>,
    /// Whether the machine was disturbed by more than 2 %.
    pub noisy: bool,
    /// Largest share of time that something else took.
    pub disturbance: f64,
    /// What the figures depend on besides the code.
    pub machine: Machine,
    /// What was not held constant.
    pub not_controlled: &'static str,
}

impl Report {
    /// What a scenario has measured; `disturbance` is the largest that was seen.
    #[must_use]
    pub fn of(
        scenario: &'static str,
        rows: Vec<Row>,
        ratios: BTreeMap<&'static str, f64>,
        disturbance: f64,
    ) -> Self {
        Self {
            scenario,
            rows,
            ratios,
            noisy: disturbance > 0.02,
            disturbance,
            machine: Machine::look(),
            not_controlled: "clock frequency, other guests of the same host, memory placement",
        }
    }

    /// Prints the table, and with `json` the object as the last line.
    pub fn print(&self, json: bool) {
        println!("{:<32} {:>9} {:>9} {:>9}  {:>19}  unit", "", "median", "min", "max", "95 % interval");
        for row in &self.rows {
            let interval = format!("{:.2} .. {:.2}", row.low95, row.high95);
            println!(
                "{:<32} {:>9.2} {:>9.2} {:>9.2}  {interval:>19}  {} ({} windows)",
                row.name, row.median, row.min, row.max, row.unit, row.windows
            );
        }
        for (name, ratio) in &self.ratios {
            println!("{name:<32} {ratio:>9.3}");
        }
        let Machine { cpu, cores, kernel, dpdk, commit } = &self.machine;
        println!("{cpu}, {cores} cores, Linux {kernel}, DPDK {dpdk}, commit {commit}");
        println!("not controlled: {}", self.not_controlled);
        if self.noisy {
            println!("NOISY: something else took up to {:.1} % of a core", 100.0 * self.disturbance);
        }
        if json {
            match serde_json::to_string(self) {
                Ok(line) => println!("{line}"),
                Err(err) => eprintln!("error: the report cannot be written as JSON: {err}"),
            }
        }
    }
}
