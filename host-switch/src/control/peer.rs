//! The process behind an owner, held by a pidfd: a number that can never come to mean another process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// As in Linux's `asm-generic/socket.h`, since 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// A process that can be watched and ended.
#[derive(Debug)]
pub struct Peer {
    pidfd: OwnedFd,
    pid: i32,
}

impl Peer {
    /// The process that connected this Unix socket to us.
    ///
    /// Kernels before 6.5 know only its number: should that process end and another take its number before this
    /// call, the other one is meant. Nobody but root and our own user gets this far.
    ///
    /// # Errors
    /// If it has ended already, or lives in a PID namespace that this process does not see.
    pub fn of(socket: &OwnedFd) -> io::Result<Self> {
        match peer_pidfd(socket) {
            Ok(pidfd) => Self::new(pidfd),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                let pid = rustix::net::sockopt::socket_peercred(socket)?.pid;
                Self::new(pidfd_open(pid, PidfdFlags::empty())?)
            }
            Err(error) => Err(error),
        }
    }

    /// The process that a pidfd means.
    ///
    /// # Errors
    /// If it is no pidfd. One of a process that has ended is one, and [`Peer::has_exited`] says so.
    pub fn new(pidfd: OwnedFd) -> io::Result<Self> {
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        let pid = about.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        let no_pidfd = || io::Error::new(io::ErrorKind::InvalidInput, "that descriptor is no pidfd");
        Ok(Self { pidfd, pid: pid.ok_or_else(no_pidfd)? })
    }

    /// The user that it runs as, if that is one of those for VMs.
    #[must_use]
    pub fn vm_user(&self) -> Option<u32> {
        let about = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let uid = about.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?;
        // A number that went to another process meanwhile says nothing.
        let uid = uid.parse().ok().filter(|_| !self.has_exited())?;
        super::uid::is_of_a_vm(uid).then_some(uid)
    }

    /// Its number, for people.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether all its threads have ended, so that nothing it had mapped is mapped by it any more.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // A poll that fails proves nothing.
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If the kernel refuses. That it has ended is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn peer_pidfd(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut pidfd: libc::c_int = -1;
    let mut bytes = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `bytes` bytes at `pidfd`, which has as many, and the length back;
    // both live for the time of the call.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &raw mut bytes,
        )
    };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Pid;
    use std::process::Command;

    #[test]
    fn the_process_that_connected_is_known_by_a_pidfd() {
        let socket = std::env::temp_dir().join(format!("netvm-peer-{}.sock", std::process::id()));
        let listener = super::super::seqpacket::listen_at(&socket).unwrap();
        let _connection = super::super::seqpacket::connect_to(&socket).unwrap();
        let accepted = rustix::net::accept(&listener).unwrap();
        let peer = Peer::of(&accepted).unwrap();
        assert_eq!(u32::try_from(peer.pid()), Ok(std::process::id()));
        assert!(!peer.has_exited());
        fs::remove_file(socket).unwrap();
    }

    #[test]
    fn a_killed_process_has_exited_and_takes_a_second_signal_without_complaint() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let peer = Peer::new(pidfd).unwrap();
        assert!(!peer.has_exited());
        peer.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(peer.has_exited());
        peer.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn a_file_is_no_pidfd() {
        let error = Peer::new(fs::File::open("/dev/null").unwrap().into()).unwrap_err();
        assert_eq!(error.to_string(), "that descriptor is no pidfd");
    }
}
