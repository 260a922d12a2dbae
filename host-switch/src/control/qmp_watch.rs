//! Watches a VM's QMP socket for proof that its guest's old writers have stopped. Never blocks.
//!
//! QEMU is trusted no more than its guest: what it says is read with a bound, and a false `RESET` harms only
//! the guest's own domain, whose bytes it can write anyway.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::Deserialize;

/// Longest line that is looked at; QEMU's events are a few hundred bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A QMP connection.
#[derive(Debug)]
pub struct QmpWatch {
    socket: OwnedFd,
    /// The line so far.
    line: Vec<u8>,
    /// The line is too long: everything up to its end is skipped.
    skipping: bool,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QmpNews {
    /// Events after which no earlier writer of the guest runs: `RESET`, `SHUTDOWN`.
    pub stopped: Vec<&'static str>,
    /// QEMU is gone.
    pub ended: bool,
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "QMP")]
    greeting: Option<serde::de::IgnoredAny>,
    event: Option<String>,
}

impl QmpWatch {
    /// Watches the socket, whose other end only QEMU holds.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, line: Vec::new(), skipping: false }
    }

    /// What to wait on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what is there.
    pub fn read(&mut self) -> QmpNews {
        let mut news = QmpNews::default();
        let mut chunk = [0; 4096];
        loop {
            match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => {
                    news.ended = true;
                    return news;
                }
                Ok((_, count)) => self.take(&chunk[..count.min(chunk.len())], &mut news),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return news,
                Err(error) => {
                    log::error!("QMP socket cannot be read: {error}; the end of this VM will not be noticed");
                    return news;
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8], news: &mut QmpNews) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.skipping) {
                    self.understand(&line, news);
                }
            } else if self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            } else {
                self.skipping = true;
            }
        }
    }

    fn understand(&self, line: &[u8], news: &mut QmpNews) {
        // Answers and unknown things are nothing to us.
        let Ok(said) = serde_json::from_slice::<Said>(line) else { return };
        if said.greeting.is_some() {
            // Events flow only after this command.
            let command = b"{\"execute\":\"qmp_capabilities\"}\n";
            if let Err(error) = send(&self.socket, command, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                log::warn!("QMP cannot be opened: {error}; a reset of this guest will not be noticed");
            }
        }
        news.stopped.extend(match said.event.as_deref() {
            Some("RESET") => Some("RESET"),
            Some("SHUTDOWN") => Some("SHUTDOWN"),
            _ => None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn watched() -> (UnixStream, QmpWatch) {
        let (qemu, ours) = UnixStream::pair().unwrap();
        (qemu, QmpWatch::new(ours.into()))
    }

    #[test]
    fn the_greeting_is_answered_and_a_reset_is_proof() {
        let (mut qemu, mut watch) = watched();
        qemu.write_all(b"{\"QMP\":{\"version\":{},\"capabilities\":[]}}\r\n").unwrap();
        assert_eq!(watch.read(), QmpNews::default());
        let mut asked = [0; 64];
        let count = qemu.read(&mut asked).unwrap();
        assert!(asked[..count].starts_with(b"{\"execute\":\"qmp_capabilities\"}"));
        qemu.write_all(b"{\"return\":{}}\n{\"event\":\"RES").unwrap();
        assert_eq!(watch.read(), QmpNews::default());
        qemu.write_all(b"ET\",\"data\":{\"guest\":true}}\n{\"event\":\"STOP\"}\n").unwrap();
        assert_eq!(watch.read(), QmpNews { stopped: vec!["RESET"], ended: false });
    }

    #[test]
    fn the_end_of_the_socket_is_the_end_of_the_vm() {
        let (qemu, mut watch) = watched();
        drop(qemu);
        assert!(watch.read().ended);
    }

    #[test]
    fn a_line_without_end_is_skipped_and_the_next_understood() {
        let (mut qemu, mut watch) = watched();
        for _ in 0..2 {
            qemu.write_all(&[b'x'; LINE_BYTES_MAX]).unwrap();
            watch.read();
        }
        qemu.write_all(b"\n{\"event\":\"SHUTDOWN\"}\n").unwrap();
        assert_eq!(watch.read().stopped, ["SHUTDOWN"]);
    }
}
