//! Runs the program as an operator does.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a laboratory that does not work is a test that failed")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a run said.
#[derive(Debug)]
pub struct Said {
    pub good: bool,
    pub output: String,
    pub errors: String,
}

/// Runs `netvm` to its end.
pub fn netvm(arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_netvm")).args(arguments).output().unwrap();
    Said {
        good: output.status.success(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder for runtime directories and configs of one test.
pub struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Writes the config of a switch with one process NF and these devices as ports.
    pub fn config(&self, switch: &str, devices: &[&str]) -> PathBuf {
        let mut text = format!("[switch]\nname = \"{switch}\"\nlcores = [0]\n");
        text += "[[domain]]\nname = \"blue\"\nregion_mib = 8\npages = \"plain\"\n";
        for (number, device) in devices.iter().enumerate() {
            text += &format!("[[port]]\nname = \"port{number}\"\ndevice = \"{device}\"\n");
            text += "domain = \"blue\"\nchain = \"way\"\n";
        }
        text += "[[service]]\nname = \"forwarder\"\n";
        text += "[[chain]]\nname = \"way\"\npath = [\"forwarder\"]\negress = \"port0\"\n";
        text += "[[process]]\nname = \"fwd0\"\ndomain = \"blue\"\n";
        text += "[[process.endpoint]]\nservice = \"forwarder\"\n";
        let path = self.folder.path().join(format!("{switch}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `netvm` on this lab's runtime directories.
    pub fn netvm(&self, arguments: &[&str]) -> Said {
        let run_dir = self.run_dir();
        let mut all = vec!["--run-dir", run_dir.to_str().unwrap()];
        all.extend(arguments);
        netvm(&all)
    }

    /// Starts a switch and waits until it runs.
    pub fn switch(&self, config: &Path) -> Switch {
        let mut child = Command::new(env!("CARGO_BIN_EXE_netvm"))
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("run")
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (line, lines) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            errors.lines().map_while(Result::ok).for_each(|text| drop(line.send(text)))
        });
        let switch = Switch { child, lines };
        switch.wait_for(" runs: ");
        switch
    }

    /// Whatever is left of runtime directories and locks.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.run_dir()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// A running switch; it is killed with the test.
pub struct Switch {
    child: Child,
    lines: Receiver<String>,
}

impl Switch {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of its log.
    pub fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no {text:?} in {seen:#?}"),
            }
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the switch does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Ours and not reaped; if it has ended already, so much the better.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
