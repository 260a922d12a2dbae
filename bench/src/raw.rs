//! The yardsticks in C: the bare ring, and DPDK's ring with the same work.

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::child::{run, run_command};

use crate::error::BenchError;

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
        Self::compile("raw-ring", folder, &[])
    }

    /// Compiles the same work over `rte_ring`.
    ///
    /// # Errors
    /// If the compiler refuses.
    pub fn rte_ring(folder: &Path) -> Result<Self, BenchError> {
        let flags = run("pkg-config", &["--cflags", "--libs", "libdpdk"])?;
        let flags = String::from_utf8_lossy(&flags.stdout).into_owned();
        let mut all = vec!["-DRTE_RING"];
        all.extend(flags.split_whitespace());
        Self::compile("rte-ring", folder, &all)
    }

    fn compile(name: &'static str, folder: &Path, flags: &[&str]) -> Result<Self, BenchError> {
        let program = folder.join(name);
        let mut command = Command::new("cc");
        command.args(["-O3", "-march=native", "-o"]).arg(&program).arg(SOURCE).args(flags).arg("-lpthread");
        run_command(command)?;
        Ok(Self { name, program })
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
