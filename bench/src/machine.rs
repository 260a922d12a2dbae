//! The machine of a run, and how much it was disturbed.

use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

/// What a figure depends on besides the code.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the CPU.
    pub cpu: String,
    /// Number of cores.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Version of libdpdk.
    pub dpdk: String,
    /// Commit of this checkout, with "+" if files differ from it.
    pub commit: String,
}

impl Machine {
    /// Asks the machine; what it does not say is "unknown".
    #[must_use]
    pub fn look() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|m| m.1);
        Self {
            cpu: model.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            dpdk: answer("pkg-config", &["--modversion", "libdpdk"]),
            commit: answer("git", &["describe", "--always", "--dirty=+", "--abbrev=12"]),
        }
    }
}

fn answer(program: &str, args: &[&str]) -> String {
    lab::child::run(program, args).map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Share of a second that something else took from a spinning loop, 0 to 1: every gap over 10 µs counts.
#[must_use]
pub fn disturbance() -> f64 {
    let started = Instant::now();
    let (mut last, mut lost) = (started, Duration::ZERO);
    while started.elapsed() < Duration::from_secs(1) {
        let now = Instant::now();
        let gap = now - last;
        if gap > Duration::from_micros(10) {
            lost += gap;
        }
        last = now;
    }
    lost.as_secs_f64()
}
