//! Child processes: each in a process group of its own, logged to a file, ended with its parent.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::error::LabError;
use crate::journal::{Change, Journal};
use crate::process::ProcessId;

/// A running child. Dropping it ends its group.
#[derive(Debug)]
pub struct Child {
    name: String,
    child: std::process::Child,
    id: ProcessId,
    log: PathBuf,
    journal: Journal,
}

impl Child {
    /// Starts `command` with its output in `log_dir/name.log`.
    ///
    /// The child gets SIGKILL when the thread that started it dies, so start it from a thread that outlives
    /// it.
    ///
    /// # Errors
    /// If the log cannot be made or the program cannot be started.
    pub fn spawn(
        name: &str,
        mut command: Command,
        log_dir: &Path,
        journal: &Journal,
    ) -> Result<Self, LabError> {
        let log = log_dir.join(format!("{name}.log"));
        let file =
            File::options().create(true).append(true).open(&log).map_err(LabError::file("write", &log))?;
        let errors = file.try_clone().map_err(LabError::file("write", &log))?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        die_with_parent(&mut command);
        let child =
            command.spawn().map_err(|source| LabError::Start { command: format!("{command:?}"), source })?;
        // A child that is not reaped keeps its entry in /proc, so the id is there even if it has ended.
        let id = ProcessId::of(child.id())
            .unwrap_or(ProcessId { pid: i32::try_from(child.id()).unwrap_or(i32::MAX), start_ticks: 0 });
        journal.note(Change::Group(id))?;
        Ok(Self { name: name.to_owned(), child, id, log, journal: journal.clone() })
    }

    /// What the child was called when it was started.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error if the child has ended.
    ///
    /// # Errors
    /// [`LabError::EndedEarly`] with the end of the log.
    pub fn check_alive(&mut self) -> Result<(), LabError> {
        match self.try_status()? {
            None => Ok(()),
            Some(status) => Err(LabError::EndedEarly {
                name: self.name.clone(),
                status,
                log: self.log.clone(),
                tail: tail(&self.log, 30),
            }),
        }
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// If the kernel refuses to say.
    pub fn try_status(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child.try_wait().map_err(LabError::file("wait for", format!("process {}", self.child.id())))
    }

    /// Waits for the child to end by itself.
    ///
    /// # Errors
    /// If it has not after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_status()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(LabError::TimedOut {
                    what: format!("{} to end", self.name),
                    seconds: limit.as_secs(),
                    detail: format!(": the end of its log:\n{}", tail(&self.log, 20)),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the child's group.
    pub fn signal(&self, signal: Signal) {
        self.id.signal_group(signal);
    }

    /// Ends the child as SIGKILL does: nothing of it runs on.
    ///
    /// # Errors
    /// If it cannot be reaped.
    pub fn kill(mut self) -> Result<(), LabError> {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// Asks the child to end and waits for it.
    ///
    /// # Errors
    /// If it has not after `limit`.
    pub fn stop(mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        self.signal(Signal::TERM);
        self.wait(limit)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(3);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.signal(Signal::KILL);
            // Reaped or not, there is nobody to tell.
            let _status = self.child.wait();
        }
        let _unwritten = self.journal.forget(&Change::Group(self.id));
    }
}

/// Makes the kernel end the child when its parent dies, also by SIGKILL.
fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call: it allocates nothing and
    // takes no lock.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        })
    };
}

/// Runs a command of the system to its end, silently; its output is in the error if it fails.
///
/// # Errors
/// If it cannot be started or fails.
pub fn run(program: &str, args: &[&str]) -> Result<Output, LabError> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    run_command(command)
}

/// Like [`run`], for a command that is ready made.
///
/// # Errors
/// If it cannot be started or fails.
pub fn run_command(mut command: Command) -> Result<Output, LabError> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|source| LabError::Start { command: shown.clone(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    let mut text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if text.is_empty() {
        text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    Err(LabError::Failed { command: shown, status: output.status, output: text })
}

/// The last `lines` lines of a log; empty when it cannot be read.
#[must_use]
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
