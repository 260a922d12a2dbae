//! A running switch, driven through its command line.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::child::{Child, run_command};
use crate::error::LabError;
use crate::journal::Journal;
use crate::status::Status;

/// A `netvm run` with the NFs and VMs that were started on it.
#[derive(Debug)]
pub struct Switch {
    name: String,
    config: PathBuf,
    artifacts: Artifacts,
    log_dir: PathBuf,
    journal: Journal,
    child: Child,
}

impl Switch {
    /// Starts the switch and waits until it answers.
    ///
    /// # Errors
    /// If it ends or does not answer within 60 s.
    pub fn start(
        name: &str,
        config: &Path,
        artifacts: &Artifacts,
        log_dir: &Path,
        journal: &Journal,
    ) -> Result<Self, LabError> {
        let mut command = Command::new(artifacts.program("netvm"));
        command.arg("run").arg(config).env("RUST_LOG", "info");
        let child = Child::spawn("switch", command, log_dir, journal)?;
        let mut switch = Self {
            name: name.to_owned(),
            config: config.to_owned(),
            artifacts: artifacts.clone(),
            log_dir: log_dir.to_owned(),
            journal: journal.clone(),
            child,
        };
        switch.wait_for("the switch to answer", Duration::from_secs(60), |_| true)?;
        Ok(switch)
    }

    /// What the switch says of itself now.
    ///
    /// # Errors
    /// If it does not answer, or not as expected.
    pub fn status(&self) -> Result<Status, LabError> {
        let mut command = Command::new(self.artifacts.program("netvm"));
        command.args(["status", "--json", "--switch", &self.name]);
        let output = run_command(command)?;
        serde_json::from_slice(&output.stdout).map_err(|err| LabError::Status { what: err.to_string() })
    }

    /// Waits until `reached` says so of the status, checking that the switch lives.
    ///
    /// # Errors
    /// If the switch ends, or `limit` passes.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        reached: impl Fn(&Status) -> bool,
    ) -> Result<Status, LabError> {
        let deadline = Instant::now() + limit;
        loop {
            self.child.check_alive()?;
            let seen = self.status();
            if let Ok(status) = &seen
                && reached(status)
            {
                return seen;
            }
            if Instant::now() >= deadline {
                let detail = match seen {
                    Ok(status) => format!(": {:?}", status.endpoints),
                    Err(err) => format!(": {err}"),
                };
                return Err(LabError::TimedOut { what: what.to_owned(), seconds: limit.as_secs(), detail });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until every endpoint of `owners` is attached.
    ///
    /// # Errors
    /// If the switch ends, or `limit` passes.
    pub fn wait_attached(&mut self, owners: &[&str], limit: Duration) -> Result<Status, LabError> {
        self.wait_for(&format!("{} to attach", owners.join(", ")), limit, |status| {
            owners.iter().all(|owner| {
                let mut own = status.endpoints.iter().filter(|endpoint| endpoint.owner == *owner).peekable();
                own.peek().is_some() && own.all(|endpoint| endpoint.phase == "attached")
            })
        })
    }

    /// Starts an NF as a host process of the given name.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_process(&self, name: &str, nf: &str, args: &[&str]) -> Result<Child, LabError> {
        let mut command = Command::new(self.artifacts.program(nf));
        command.args(["--socket", &format!("/run/netvm/{}/endpoint.sock", self.name), "--name", name]);
        command.args(args).env("RUST_LOG", "info");
        Child::spawn(name, command, &self.log_dir, &self.journal)
    }

    /// Boots a VM of the config.
    ///
    /// # Errors
    /// If `netvm boot` cannot be started.
    pub fn boot(&self, vm: &str) -> Result<Child, LabError> {
        let mut command = Command::new(self.artifacts.program("netvm"));
        command.arg("boot").arg(&self.config).arg(vm);
        command.arg("--serial-log").arg(self.serial_log(vm)).env("RUST_LOG", "info");
        Child::spawn(vm, command, &self.log_dir, &self.journal)
    }

    /// Where the serial console of a VM is logged.
    #[must_use]
    pub fn serial_log(&self, vm: &str) -> PathBuf {
        self.log_dir.join(format!("{vm}.serial.log"))
    }

    /// Waits until the serial console of a VM has shown `text` so many times; all that it has shown then.
    ///
    /// # Errors
    /// If the switch ends, or `limit` passes.
    pub fn wait_console(
        &mut self,
        vm: &str,
        text: &str,
        times: usize,
        limit: Duration,
    ) -> Result<String, LabError> {
        let log = self.serial_log(vm);
        let deadline = Instant::now() + limit;
        loop {
            self.child.check_alive()?;
            let shown = std::fs::read(&log).unwrap_or_default();
            let shown = String::from_utf8_lossy(&shown).into_owned();
            if shown.matches(text).count() >= times {
                return Ok(shown);
            }
            if Instant::now() >= deadline {
                let what = format!("the console of {vm} to show {text:?}");
                let detail = format!(": it shows\n{}", crate::child::tail(&log, 30));
                return Err(LabError::TimedOut { what, seconds: limit.as_secs(), detail });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the switch as SIGKILL does: nothing of it runs on, and nothing is tidied up.
    ///
    /// # Errors
    /// If it cannot be reaped.
    pub fn kill(self) -> Result<(), LabError> {
        self.child.kill()
    }

    /// The switch's own process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Stops the switch; it checks its buffers one last time and says so by its exit status.
    ///
    /// # Errors
    /// If it does not end, or ends with a failure.
    pub fn stop(self) -> Result<(), LabError> {
        let log = self.child.log().to_owned();
        let status = self.child.stop(Duration::from_secs(20))?;
        if status.success() {
            return Ok(());
        }
        let tail = crate::child::tail(&log, 20);
        Err(LabError::EndedEarly { name: "switch".into(), status, log, tail })
    }
}
