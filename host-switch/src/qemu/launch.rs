//! Starts QEMU: its own process group, only the descriptors it needs, its last words in a file.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::command::{CommandError, VmLaunch};
use super::log_file::{LOG_BYTES_MAX, limited};

/// Most bytes of a file that QEMU may write by itself, when the operator adds no options, besides its disk and memory. Its logs are not its own
/// files: see [`super::log_file`].
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why QEMU does not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Found before QEMU was started.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A log file cannot be written.
    #[error("cannot write {path}: {source}")]
    Log {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {program}: {source}; `apt install qemu-system-x86` brings QEMU")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It was started and cannot be watched.
    #[error("cannot watch process {pid}: {source}")]
    Watch {
        /// Its number.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

/// A running QEMU.
#[derive(Debug)]
pub struct Vm {
    /// The process; reaping it is up to the holder.
    pub child: Child,
    /// Readable once the process has ended; cannot mean another process.
    pub pidfd: OwnedFd,
    /// What QEMU itself says, such as why it did not start.
    pub qemu_log: PathBuf,
    /// Writes that log; ends with QEMU.
    pub log: JoinHandle<()>,
}

/// Starts the VM. Our copies of its descriptors are closed, so that the end of a QMP socket means that QEMU
/// is gone. QEMU is killed when the thread that started it ends; not with [`VmLaunch::run_as`]: the kernel drops
/// this wish when QEMU changes its user. The switch then kills it when its launcher ends (`with_launcher`); a QEMU
/// whose launcher and switch are both killed at once stays, without anybody to talk to.
///
/// # Errors
/// If the launch is refused before QEMU, or QEMU cannot be started. Options that QEMU refuses show later: it
/// ends, with the reason in [`Vm::qemu_log`].
pub fn launch(mut vm: VmLaunch) -> Result<Vm, LaunchError> {
    vm.check()?;
    let qemu_log = vm.serial_log.with_extension("qemu.log");
    let log_error = |source| LaunchError::Log { path: qemu_log.clone(), source };
    let (console, _) = limited(&vm.serial_log, LOG_BYTES_MAX).map_err(log_error)?;
    vm.console = Some(console);
    let line = vm.command();
    // What an earlier QEMU said must not be taken for this one's words.
    File::create(&qemu_log).map_err(log_error)?;
    let (words, log) = limited(&qemu_log, LOG_BYTES_MAX).map_err(log_error)?;

    let mut command = Command::new(&line.program);
    command.args(line.arguments());
    command.stdin(Stdio::null()).stdout(words.try_clone().map_err(log_error)?).stderr(words);
    command.process_group(0);
    let inherited: Vec<RawFd> = vm.inherited().iter().map(|fd| fd.as_raw_fd()).collect();
    let file_bytes_max = vm.extra.is_empty().then(|| vm.file_bytes_max(FILE_BYTES_MAX));
    let parent = std::process::id();
    // SAFETY: between fork and exec the closure makes async-signal-safe system calls only: close_range,
    // fcntl, prctl, getppid, signal, setrlimit. It allocates nothing: `inherited` was filled before, and an error is made
    // of a number.
    unsafe { command.pre_exec(move || prepare_child(&inherited, file_bytes_max, parent)) };

    let spawned = command.spawn();
    // With it go our copies of the pipe, so that the log ends with QEMU.
    drop(command);
    let mut child = spawned.map_err(|source| LaunchError::Start { program: line.program.clone(), source })?;
    match watch(&child) {
        Ok(pidfd) => Ok(Vm { child, pidfd, qemu_log, log }),
        Err(source) => {
            let pid = child.id();
            // It is our child and not reaped, so this cannot hit another process.
            _ = child.kill();
            _ = child.wait();
            Err(LaunchError::Watch { pid, source })
        }
    }
}

fn watch(child: &Child) -> io::Result<OwnedFd> {
    let pid = Pid::from_child(child);
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// `CLOSE_RANGE_CLOEXEC` as the call takes it.
const CLOSE_RANGE_CLOEXEC: libc::c_int = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;

/// Runs in the child, between fork and exec.
fn prepare_child(inherited: &[RawFd], file_bytes_max: Option<u64>, parent: u32) -> io::Result<()> {
    // Whatever else this process was started with stays here, also what others forgot to mark.
    // SAFETY: the call takes numbers; with this flag it closes nothing before the exec.
    check(unsafe { libc::close_range(3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) })?;
    for &fd in inherited {
        // SAFETY: F_SETFD takes a number and touches no memory of ours; a bad descriptor is an error.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    }
    // SAFETY: this prctl takes numbers and touches no memory of ours.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    // SAFETY: getppid has no preconditions.
    let now = unsafe { libc::getppid() };
    // The parent may have ended before the line above.
    if u32::try_from(now) != Ok(parent) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    file_bytes_max.map_or(Ok(()), limit_files)
}

/// Writing beyond `bytes` of a file becomes an error; without the handler it would end QEMU.
fn limit_files(bytes: u64) -> io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition, and it survives the exec.
    let old = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if old == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: `limit` is a valid rlimit for the time of the call, which only reads it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::command::tests::sample;
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_missing_qemu_is_said_with_the_way_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let serial_log = folder.path().join("fw0.log");
        let launched = launch(VmLaunch { qemu: "/nonexistent/qemu".into(), serial_log, ..sample() });
        let text = launched.unwrap_err().to_string();
        assert!(text.ends_with("`apt install qemu-system-x86` brings QEMU"), "{text}");
    }

    /// A stand-in for QEMU that shows where its console is, and which descriptors and limits it got.
    const SCRIPT: &str = "#!/bin/sh\n\
        for word; do case \"$word\" in *id=netvm-serial,path=/proc/self/fd/*) echo \"${word##*/}\" ;; esac; done\n\
        ls /proc/$$/fd\nulimit -f\n";

    #[test]
    fn the_child_gets_its_descriptors_and_no_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let qemu = folder.path().join("qemu");
        std::fs::write(&qemu, SCRIPT).unwrap();
        std::fs::set_permissions(&qemu, PermissionsExt::from_mode(0o755)).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (serial_log, monitors) = (folder.path().join("fw0.log"), vec![theirs.into()]);
        let vm = VmLaunch { qemu, serial_log, monitors, ..sample() };
        let mut wanted: Vec<i32> = vm.inherited().iter().map(|fd| fd.as_raw_fd()).collect();

        let mut vm = launch(vm).unwrap();
        assert!(vm.child.wait().unwrap().success());
        vm.log.join().unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "our copy of QEMU's end is closed");

        let words = std::fs::read_to_string(&vm.qemu_log).unwrap();
        let mut numbers: Vec<u64> = words.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers.pop(), Some(FILE_BYTES_MAX / 512));
        // 0, 1 and 2, its console, and the script that the shell reads (its number is the shell's choice).
        wanted.extend([0, 1, 2, i32::try_from(numbers.remove(0)).unwrap()]);
        numbers.retain(|&number| !wanted.iter().any(|&fd| u64::try_from(fd) == Ok(number)));
        assert!(numbers.len() <= 1, "not asked for: {numbers:?}");
    }
}
