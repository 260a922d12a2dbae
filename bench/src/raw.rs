//! The yardsticks in C: the bare ring, and DPDK's ring with the same work.

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::child::run_command;

use crate::error::BenchError;
use crate::scenario;

/// Where this crate's C sources lie, relative to the checkout.
const SOURCE: &str = "bench/c/raw-ring.c";

/// What both yardsticks and the product have in common.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Slots of the ring.
    pub ring_slots: u32,
    /// Buffers in circulation.
    pub buffers: u32,
    /// Distance of buffers.
    pub stride_bytes: u32,
    /// Packets a call.
    pub burst: u32,
    /// Length of one window.
    pub window_ms: u64,
}

/// A compiled yardstick.
#[derive(Debug)]
pub struct Yardstick {
    name: &'static str,
    program: PathBuf,
}

impl Yardstick {
    /// Compiles the bare ring.
    ///
    /// # Errors
    /// If the compiler refuses.
    pub fn bare(folder: &Path) -> Result<Self, BenchError> {
        let name = "raw-ring";
        Ok(Self { name, program: scenario::compile(SOURCE, folder.join(name), &["-lpthread"])? })
    }

    /// Compiles the same work over `rte_ring`.
    ///
    /// # Errors
    /// If the compiler refuses.
    pub fn rte_ring(folder: &Path) -> Result<Self, BenchError> {
        let (name, flags) = ("rte-ring", ["-DRTE_RING", "-lpthread"]);
        Ok(Self { name, program: scenario::compile_with_dpdk(SOURCE, folder.join(name), &flags)? })
    }

    /// Packets per second in one window, producer on `cpus.0`, consumer on `cpus.1`.
    ///
    /// # Errors
    /// If the program fails or prints no number.
    pub fn window(&self, cpus: (usize, usize), shape: Shape) -> Result<f64, BenchError> {
        let mut command = Command::new(&self.program);
        command.args([cpus.0.to_string(), cpus.1.to_string()]);
        command
            .args([shape.ring_slots, shape.buffers, shape.stride_bytes, shape.burst].map(|n| n.to_string()));
        command.arg(shape.window_ms.to_string());
        let output = run_command(command)?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        text.parse().map_err(|_| BenchError::NoRate { program: self.name, output: text })
    }
}
