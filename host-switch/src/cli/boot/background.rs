//! The process that `netvm boot --detach` leaves behind. QEMU does not see the end of a switch that was killed,
//! so somebody has to stay who does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};

use super::BootArgs;
use super::watch::{LOOK, is_readable};
use crate::cli::{self, Failure};
use crate::control::stop::Stop;

/// Boots in a process of its own, and comes back when that one goes to the background or ends.
pub fn start(run_dir: &Path, args: &BootArgs) -> Result<ExitCode, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--run-dir").arg(run_dir).args(["boot", "--detach", "--background"]);
    if let Some(accel) = args.accel.to_possible_value() {
        command.args(["--accel", accel.get_name()]);
    }
    if let Some(log) = &args.serial_log {
        command.arg("--serial-log").arg(log);
    }
    command.arg("--").arg(&args.file).arg(&args.vm);
    // Its own process group: what the terminal does to ours, now and later, does not reach it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());

    let stop = Stop::default();
    stop.on_signals()?;
    let mut child = command.spawn()?;
    let mut news = child.stdout.take().ok_or("no pipe from the process in the background")?;
    let mut told = false;
    loop {
        if is_readable(&news, LOOK)? {
            // One byte from `enter`, or the end of a process that has said why.
            let entered = news.read(&mut [0])? > 0;
            return Ok(cli::code(entered || child.wait()?.success()));
        }
        if !told && stop.requested().is_some() {
            // It is our child and not reaped, so this cannot hit another process.
            kill_process(Pid::from_child(&child), Signal::TERM)?;
            told = true;
        }
    }
}

/// Goes to the background: lets [`start`] come back, and from now on writes what there is to say to `log`.
pub fn enter(log: &Path) -> Result<(), Failure> {
    let words = File::options().append(true).open(log)?;
    replace(libc::STDERR_FILENO, &words)?;
    let mut stdout = io::stdout();
    stdout.write_all(b"\n")?;
    stdout.flush()?;
    replace(libc::STDOUT_FILENO, &words)?;
    Ok(())
}

/// Makes `number` another name of `file`.
fn replace(number: RawFd, file: &File) -> io::Result<()> {
    // SAFETY: the call takes numbers; both are standard streams or open here, and nobody owns a standard stream.
    if unsafe { libc::dup2(file.as_raw_fd(), number) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
