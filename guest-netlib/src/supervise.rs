//! Keeps a network function of a guest running: starts it, tells the switch when it has died, starts it again.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use crate::death::DeathNotice;
use crate::stop::Stop;

/// First pause before a restart; each one after that is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A network function that ran this long was no failed start: pauses begin anew.
const GOOD_RUN: Duration = Duration::from_secs(10);
/// How long a network function may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the stop flag.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Why the supervisor gave up.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The program does not start.
    #[error("starting {program:?}: {source}")]
    Start {
        /// Which program.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its end cannot be awaited.
    #[error("waiting for the network function: {0}")]
    Wait(io::Error),
    /// Its death cannot be reported.
    #[error("locking the endpoint to report a death: {0}")]
    Notice(io::Error),
    /// It ended too often.
    #[error("the network function ended {ends} times, --restarts allows {allowed}; last: {last}")]
    TooManyEnds {
        /// How often it ended.
        ends: u32,
        /// How many restarts are allowed.
        allowed: u32,
        /// How it ended last.
        last: ExitStatus,
    },
}

/// Which program to keep running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervised {
    /// The program and its arguments.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Which endpoint it attaches to; it learns it from NETVM_ENDPOINT.
    pub endpoint: usize,
    /// Most restarts; none means no limit.
    pub restarts_max: Option<u32>,
}

impl Supervised {
    /// Runs the program until it ends by itself with success, or `stop` is asked. Says on standard error what
    /// happens.
    ///
    /// # Errors
    /// If it cannot be started or awaited, or fails more often than allowed.
    pub fn run(&self, notice: &DeathNotice, stop: &Stop) -> Result<(), SuperviseError> {
        // An earlier supervisor may have died between a death and its report.
        self.report(notice, stop)?;
        let mut ends = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let last = self.run_once(stop)?;
            self.report(notice, stop)?;
            if last.success() || stop.asked() {
                return Ok(());
            }
            ends += 1;
            if let Some(allowed) = self.restarts_max.filter(|allowed| ends > *allowed) {
                return Err(SuperviseError::TooManyEnds { ends, allowed, last });
            }
            if started.elapsed() >= GOOD_RUN {
                pause = FIRST_PAUSE;
            }
            self.say(&format!("starts again in {pause:?}"));
            wait_or_stop(pause, stop);
            if stop.asked() {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn say(&self, what: &str) {
        eprintln!("netlib-supervise: endpoint {}: {what}", self.endpoint);
    }

    /// Starts the program in a process group of its own and waits until it has ended.
    fn run_once(&self, stop: &Stop) -> Result<ExitStatus, SuperviseError> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env("NETVM_ENDPOINT", self.endpoint.to_string()).process_group(0);
        let started = command.spawn();
        let mut child =
            started.map_err(|source| SuperviseError::Start { program: self.program.clone(), source })?;
        let (pid, pidfd) = handles(&child).map_err(SuperviseError::Wait)?;
        self.say(&format!("{} started, pid {}", self.program.display(), child.id()));
        let ended = await_end(&mut child, pid, &pidfd, stop);
        // Children of the program that map the memory too would be old writers. The program itself is gone or
        // about to be reaped, so its group can belong to nobody else.
        let _ = kill_process_group(pid, Signal::KILL);
        let status = ended.and_then(|()| child.wait()).map_err(SuperviseError::Wait)?;
        self.say(&format!("{} ended: {}", self.program.display(), described(status)));
        Ok(status)
    }

    /// Tells the switch, once nobody maps the memory of the attach any more.
    fn report(&self, notice: &DeathNotice, stop: &Stop) -> Result<(), SuperviseError> {
        let mut said = false;
        loop {
            match notice.give().map_err(SuperviseError::Notice)? {
                Some(0) => return Ok(()),
                Some(epoch) => {
                    self.say(&format!("told the switch that epoch {epoch} is over"));
                    return Ok(());
                }
                None if stop.asked() && said => return Ok(()),
                None => {}
            }
            if !said {
                self.say("waits: another process still maps the memory of this endpoint");
                said = true;
            }
            wait_or_stop(Duration::from_millis(100), stop);
        }
    }
}

fn handles(child: &Child) -> io::Result<(Pid, OwnedFd)> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    Ok((pid, pidfd_open(pid, PidfdFlags::empty())?))
}

/// Waits until the process has ended, unreaped; on `stop` asks it to end, then makes it.
fn await_end(child: &mut Child, pid: Pid, pidfd: &OwnedFd, stop: &Stop) -> io::Result<()> {
    let mut asked: Option<Instant> = None;
    loop {
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&LOOK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(err) => return Err(err.into()),
        }
        match asked {
            None if stop.asked() => {
                // It may have had the signal already, from the terminal or at shutdown: a second one does no harm.
                kill_process(pid, Signal::TERM)?;
                asked = Some(Instant::now());
            }
            Some(since) if since.elapsed() >= PATIENCE => child.kill()?,
            _ => {}
        }
    }
}

/// Sleeps, but not on when asked to stop.
fn wait_or_stop(time: Duration, stop: &Stop) {
    let until = Instant::now() + time;
    while !stop.asked() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20).min(time));
    }
}

fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "finished".to_owned(),
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
