//! Real traffic between two namespaces: pings, and a file over HTTP.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::child::Child;
use crate::error::LabError;
use crate::journal::Journal;
use crate::namespace::Namespace;

/// Port of the HTTP server.
const HTTP_PORT: u16 = 8080;

/// Answers to a series of pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// Echo requests sent.
    pub sent: u64,
    /// Echo replies that came back.
    pub answered: u64,
}

/// Sends `count` pings, one each `interval_ms`; a lost one is no error.
///
/// # Errors
/// If `ping` cannot be run or prints no summary.
pub fn ping(from: &Namespace, address: &str, count: u32, interval_ms: u32) -> Result<Pings, LabError> {
    let interval = format!("{}.{:03}", interval_ms / 1000, interval_ms % 1000);
    let mut command = from.command("ping");
    command.args(["-n", "-q", "-c", &count.to_string(), "-i", &interval, "-W", "2", address]);
    let output = command.output().map_err(|source| LabError::Start { command: "ping".into(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_summary(&text).ok_or_else(|| LabError::Failed {
        command: format!("ping {address}"),
        status: output.status,
        output: format!("{text}{}", String::from_utf8_lossy(&output.stderr)),
    })
}

/// Reads "N packets transmitted, M received, ...".
fn parse_summary(text: &str) -> Option<Pings> {
    let line = text.lines().find(|line| line.contains("packets transmitted"))?;
    let mut numbers = line.split(", ").filter_map(|part| part.split_whitespace().next()?.parse().ok());
    Some(Pings { sent: numbers.next()?, answered: numbers.next()? })
}

/// A file with pseudo-random content and its hash.
#[derive(Clone, Debug)]
pub struct Payload {
    /// Name of the file in its folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

impl Payload {
    /// Writes `bytes` bytes that depend on `seed` alone.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(folder: &Path, name: &str, bytes: u64, seed: u64) -> Result<Self, LabError> {
        let path = folder.join(name);
        let mut file = File::create(&path).map_err(LabError::file("write", &path))?;
        let mut hash = Sha256::new();
        let mut state = seed | 1;
        let mut block = vec![0_u8; 1 << 16];
        let mut left = bytes;
        while left > 0 {
            for word in block.chunks_exact_mut(8) {
                // xorshift64: no compressor and no repeated block can fake this content.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            file.write_all(&block[..part]).map_err(LabError::file("write", &path))?;
            hash.update(&block[..part]);
            left -= part as u64;
        }
        Ok(Self { name: name.to_owned(), bytes, sha256: hex(&hash.finalize()) })
    }
}

/// An HTTP server in a namespace.
#[derive(Debug)]
pub struct HttpServer {
    child: Child,
}

impl HttpServer {
    /// Serves `folder` in `namespace`.
    ///
    /// # Errors
    /// If the server cannot be started.
    pub fn start(
        namespace: &Namespace,
        folder: &Path,
        log_dir: &Path,
        journal: &Journal,
    ) -> Result<Self, LabError> {
        let mut command = namespace.command("busybox");
        command.args(["httpd", "-f", "-p", &HTTP_PORT.to_string(), "-h"]).arg(folder);
        let child = Child::spawn("http-server", command, log_dir, journal)?;
        Ok(Self { child })
    }

    /// Fails if the server has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_alive(&mut self) -> Result<(), LabError> {
        self.child.check_alive()
    }
}

/// A download in progress.
#[derive(Debug)]
pub struct Download {
    child: Child,
    into: std::path::PathBuf,
    started: Instant,
}

/// A download that has ended.
#[derive(Clone, Debug)]
pub struct Downloaded {
    /// Bytes received.
    pub bytes: u64,
    /// SHA-256 of what was received.
    pub sha256: String,
    /// How long it took.
    pub took: Duration,
}

impl Download {
    /// Starts `curl` in `namespace` for `name` from the server at `address`.
    ///
    /// # Errors
    /// If `curl` cannot be started.
    pub fn start(
        namespace: &Namespace,
        address: &str,
        name: &str,
        into: &Path,
        limit: Duration,
        log_dir: &Path,
        journal: &Journal,
    ) -> Result<Self, LabError> {
        let mut command = namespace.command("curl");
        command.args(["--fail", "--silent", "--show-error", "--noproxy", "*"]);
        command.args(["--retry", "3", "--retry-connrefused", "--max-time", &limit.as_secs().to_string()]);
        command.arg("--output").arg(into).arg(format!("http://{address}:{HTTP_PORT}/{name}"));
        let child = Child::spawn("curl", command, log_dir, journal)?;
        Ok(Self { child, into: into.to_owned(), started: Instant::now() })
    }

    /// Bytes received so far.
    #[must_use]
    pub fn bytes_so_far(&self) -> u64 {
        fs::metadata(&self.into).map_or(0, |meta| meta.len())
    }

    /// Whether `curl` has ended.
    ///
    /// # Errors
    /// If the kernel refuses to say.
    pub fn is_done(&mut self) -> Result<bool, LabError> {
        Ok(self.child.try_status()?.is_some())
    }

    /// Waits for the end and hashes what came.
    ///
    /// # Errors
    /// If `curl` fails or does not end within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Downloaded, LabError> {
        let status = self.child.wait(limit)?;
        let took = self.started.elapsed();
        if !status.success() {
            let log = self.child.log().to_owned();
            let tail = crate::child::tail(&log, 10);
            return Err(LabError::EndedEarly { name: "curl".into(), status, log, tail });
        }
        let (bytes, sha256) = hash_file(&self.into)?;
        Ok(Downloaded { bytes, sha256, took })
    }
}

fn hash_file(path: &Path) -> Result<(u64, String), LabError> {
    let mut file = File::open(path).map_err(LabError::file("read", path))?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut block = vec![0_u8; 1 << 16];
    loop {
        let got = file.read(&mut block).map_err(LabError::file("read", path))?;
        if got == 0 {
            return Ok((bytes, hex(&hash.finalize())));
        }
        hash.update(&block[..got]);
        bytes += got as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary_of_a_ping_with_losses() {
        let text = "--- 10.1.0.1 ping statistics ---\n\
                    20 packets transmitted, 17 received, 15% packet loss, time 3812ms\n";
        assert_eq!(parse_summary(text), Some(Pings { sent: 20, answered: 17 }));
    }

    #[test]
    fn reads_the_summary_of_a_ping_with_errors() {
        let text = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2048ms\n";
        assert_eq!(parse_summary(text), Some(Pings { sent: 3, answered: 0 }));
    }

    #[test]
    fn a_payload_hashes_to_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let payload = Payload::write(dir.path(), "p", 100_001, 7).unwrap();
        let (bytes, sha256) = hash_file(&dir.path().join("p")).unwrap();
        assert_eq!((bytes, sha256), (100_001, payload.sha256));
    }
}
