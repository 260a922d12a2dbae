//! Looks after a VM that was started: its console, its end, the switch's end, the operator's wish.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::background;
use super::grant::GrantError;
use super::link::Link;
use crate::cli::Failure;
use crate::control::stop::Stop;
use crate::qemu::boot_watch::{BootNews, BootWatch};
use crate::qemu::launch::Vm;
use crate::qemu::qmp::{Command, Qmp};

/// How often the console is read and wishes are looked for.
pub const LOOK: Duration = Duration::from_millis(50);
/// Time for a guest to shut down after its power button was pressed, and for QEMU to quit after that.
const POWERDOWN_LIMIT: Duration = Duration::from_secs(5);
const QUIT_LIMIT: Duration = Duration::from_secs(2);
/// Time between the end of a QEMU's sockets and its own.
const QUIT_PATIENCE: Duration = Duration::from_millis(500);
/// Most bytes of QEMU's last words that are shown.
const WORDS_BYTES_MAX: usize = 2048;

/// A VM under watch.
#[derive(Debug)]
pub struct Watched {
    name: String,
    vm: Vm,
    link: Link,
    qmp: Qmp,
    console: BootWatch,
    stop: Stop,
    started: Instant,
    ready: bool,
}

/// What ended the waiting.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// QEMU has ended by itself.
    Ended,
    /// Its NFs run, and nobody wants to stay.
    Ready,
    /// The VM is to end, and whether that is a failure.
    End { why: String, failed: bool },
}

impl Watched {
    /// Watches a VM that has just been started.
    pub fn new(
        name: &str,
        vm: Vm,
        link: Link,
        monitor: UnixStream,
        serial_log: &Path,
        stop: Stop,
    ) -> Result<Self, Failure> {
        let (qmp, console) = (Qmp::new(monitor)?, BootWatch::new(serial_log)?);
        Ok(Self {
            name: name.to_owned(),
            vm,
            ready: !link.trusts_console(),
            link,
            qmp,
            console,
            stop,
            started: Instant::now(),
        })
    }

    /// Stays until the VM has ended; with `detach`, in the background from when its NFs run.
    pub fn attend(mut self, detach: bool) -> Result<ExitCode, Failure> {
        let mut outcome = self.wait(detach)?;
        if outcome == Outcome::Ready {
            log::info!("vm {} goes on in the background (process {})", self.name, std::process::id());
            background::enter(&self.vm.qemu_log)?;
            outcome = self.wait(false)?;
        }
        match outcome {
            Outcome::Ended | Outcome::Ready => self.conclude(),
            Outcome::End { why, failed } => {
                log::info!("vm {} is to end: {why}", self.name);
                self.end()?;
                if failed { Err(format!("vm {}: {why}", self.name).into()) } else { Ok(ExitCode::SUCCESS) }
            }
        }
    }

    fn wait(&mut self, detach: bool) -> Result<Outcome, Failure> {
        loop {
            let ended = self.look(LOOK)?;
            if let Some(why) = self.read_console()? {
                return Ok(Outcome::End { why, failed: true });
            }
            if ended {
                return Ok(Outcome::Ended);
            }
            if detach && self.ready {
                return Ok(Outcome::Ready);
            }
            if let Some(why) = self.stop.requested() {
                return Ok(Outcome::End { why, failed: false });
            }
            if self.link.is_broken(&self.vm.pidfd)? {
                let why =
                    "the switch has ended, and with it the memory of this VM; start it again, then boot anew";
                return Ok(Outcome::End { why: why.to_owned(), failed: true });
            }
        }
    }

    /// Waits a while; true if QEMU has ended.
    fn look(&mut self, limit: Duration) -> Result<bool, Failure> {
        // Events are the switch's business; here they only must not pile up.
        self.qmp.read()?;
        is_readable(&self.vm.pidfd, limit)
    }

    /// Says how the boot goes; what is returned is why it cannot go on.
    fn read_console(&mut self) -> Result<Option<String>, Failure> {
        for news in self.console.read()? {
            let ms = self.started.elapsed().as_millis();
            let name = &self.name;
            // Another system may write anything there, and mean something else by it.
            if !self.link.trusts_console() && news != BootNews::Booted {
                continue;
            }
            match news {
                BootNews::Booted => log::info!("vm {name} booted after {ms} ms"),
                BootNews::NfStarted => {}
                BootNews::NfMissing(nf) => {
                    return Ok(Some(format!(
                        "its image has no NF {nf}; build it anew with `cargo xtask image`, or correct `nf` in the config"
                    )));
                }
                BootNews::Ready => {
                    self.ready = true;
                    log::info!("vm {name}: all its NFs were started after {ms} ms");
                }
                BootNews::Panicked(what) => {
                    log::warn!("vm {name}: its kernel panicked ({what}); it boots once more");
                    // The image's kernel resets itself; another image's may hang.
                    self.qmp.tell(Command::SystemReset)?;
                }
                BootNews::PanickedAgain(what) => {
                    return Ok(Some(format!("its kernel panicked twice ({what}); see its console")));
                }
            }
        }
        Ok(None)
    }

    /// Presses the power button, then pulls the plug.
    fn end(&mut self) -> Result<(), Failure> {
        for (command, limit) in [(Command::SystemPowerdown, POWERDOWN_LIMIT), (Command::Quit, QUIT_LIMIT)] {
            if let Err(error) = self.qmp.tell(command) {
                log::debug!("vm {}: QMP does not take {command:?}: {error}", self.name);
            }
            let deadline = Instant::now() + limit;
            while Instant::now() < deadline {
                if self.look(LOOK)? {
                    self.vm.child.wait()?;
                    return Ok(());
                }
            }
        }
        log::warn!("vm {}: QEMU does not quit and is killed", self.name);
        self.vm.child.kill()?;
        self.vm.child.wait()?;
        Ok(())
    }

    fn conclude(self) -> Result<ExitCode, Failure> {
        conclude(&self.name, self.vm)
    }
}

/// QEMU has ended by itself: well if the guest was switched off, badly otherwise.
fn conclude(name: &str, mut vm: Vm) -> Result<ExitCode, Failure> {
    let status = vm.child.wait()?;
    if status.success() {
        log::info!("vm {name} was switched off");
        return Ok(ExitCode::SUCCESS);
    }
    let deadline = Instant::now() + QUIT_PATIENCE;
    while !vm.log.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let words = std::fs::read(&vm.qemu_log).unwrap_or_default();
    let words = String::from_utf8_lossy(&words[words.len().saturating_sub(WORDS_BYTES_MAX)..])
        .replace(|c: char| c.is_control() && c != '\n', "?");
    let log = vm.qemu_log.display();
    let words = match words.trim_end() {
        "" => format!("it said nothing in {log}"),
        words => format!("its last words (from {log}):\n{words}"),
    };
    Err(format!("vm {name}: QEMU ended with {status}; {words}").into())
}

/// The switch does not take the VM: mostly because QEMU has ended at once, which tells more than the refusal.
pub fn give_up(name: &str, mut vm: Vm, refused: &GrantError) -> Result<ExitCode, Failure> {
    if is_readable(&vm.pidfd, QUIT_PATIENCE)? {
        return conclude(name, vm);
    }
    vm.child.kill()?;
    vm.child.wait()?;
    Err(format!("vm {name}: {refused}").into())
}

pub fn is_readable(fd: impl AsFd, limit: Duration) -> Result<bool, Failure> {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    let limit = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut fds, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        // A signal; the caller looks again.
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
