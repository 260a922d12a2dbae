//! A client of QEMU's machine protocol (QMP) that never blocks.
//!
//! QEMU is trusted no more than its guest: a line is read up to [`LINE_BYTES_MAX`], one call reads up to
//! [`READ_BYTES_MAX`], and what does not fit is skipped and counted.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::Deserialize;

/// Longest line that is looked at; an event has a few hundred bytes.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Most bytes read in one call, so that a flood does not keep the caller.
pub const READ_BYTES_MAX: usize = 256 << 10;

/// What QEMU says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Commands are taken from now on.
    Ready,
    /// The machine was reset: whatever ran in the guest runs no more.
    Reset,
    /// The machine is about to be switched off; its CPUs may still run. Followed by the end of QEMU, or by
    /// [`Event::Stop`].
    Shutdown,
    /// The guest's CPUs are paused.
    Stop,
    /// The guest's CPUs run again.
    Resume,
    /// The power button was pressed.
    Powerdown,
    /// A command was carried out.
    Done,
    /// A command was refused.
    Refused,
    /// The socket has ended: QEMU is gone.
    Eof,
}

/// What QEMU is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Resets the machine at once.
    SystemReset,
    /// Presses the power button.
    SystemPowerdown,
    /// Ends QEMU.
    Quit,
    /// Pauses the guest's CPUs.
    Stop,
    /// Lets the guest's CPUs run again.
    Continue,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Self::SystemReset => "system_reset",
            Self::SystemPowerdown => "system_powerdown",
            Self::Quit => "quit",
            Self::Stop => "stop",
            Self::Continue => "cont",
        }
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<serde::de::IgnoredAny>,
    event: Option<String>,
    #[serde(rename = "return")]
    result: Option<serde::de::IgnoredAny>,
    error: Option<serde::de::IgnoredAny>,
}

/// Whether commands are taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitsGreeting,
    AwaitsCapabilities,
    Ready,
}

/// One connection.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    phase: Phase,
    /// Told before QEMU took commands.
    waiting: Vec<Command>,
    line: Vec<u8>,
    /// The line is too long: everything up to its end is skipped.
    skipping: bool,
    lines_cut: u64,
    ended: bool,
}

impl Qmp {
    /// Speaks over our end of a socket pair whose other end only QEMU holds.
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking.
    pub fn new(socket: UnixStream) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        let phase = Phase::AwaitsGreeting;
        let (waiting, line) = (Vec::new(), Vec::new());
        Ok(Self { socket, phase, waiting, line, skipping: false, lines_cut: 0, ended: false })
    }

    /// What to wait on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Lines that were too long to be looked at.
    #[must_use]
    pub fn lines_cut(&self) -> u64 {
        self.lines_cut
    }

    /// Tells QEMU; before [`Event::Ready`] the command waits its turn.
    ///
    /// # Errors
    /// If QEMU does not take it: it is gone, or does not read.
    pub fn tell(&mut self, command: Command) -> std::io::Result<()> {
        if self.phase == Phase::Ready {
            return self.write(command.name());
        }
        self.waiting.push(command);
        Ok(())
    }

    fn write(&mut self, name: &str) -> std::io::Result<()> {
        // Far below the socket's buffer: it goes whole or not at all.
        self.socket.write_all(format!("{{\"execute\":\"{name}\"}}\n").as_bytes())
    }

    /// Reads what is there, at most [`READ_BYTES_MAX`]. After [`Event::Eof`] there is nothing more.
    ///
    /// # Errors
    /// If the socket cannot be used in a way that is not its end.
    pub fn read(&mut self) -> std::io::Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut chunk = [0; 4096];
        let mut budget_bytes = READ_BYTES_MAX;
        while !self.ended && budget_bytes > 0 {
            match self.socket.read(&mut chunk) {
                Ok(0) => self.end(&mut events),
                Ok(count) => {
                    budget_bytes = budget_bytes.saturating_sub(count);
                    self.take(&chunk[..count], &mut events)?;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::Interrupted => {}
                    // QEMU died with words of ours unread.
                    ErrorKind::ConnectionReset => self.end(&mut events),
                    _ => return Err(error),
                },
            }
        }
        Ok(events)
    }

    fn end(&mut self, events: &mut Vec<Event>) {
        self.ended = true;
        events.push(Event::Eof);
    }

    fn take(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> std::io::Result<()> {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if std::mem::take(&mut self.skipping) {
                    self.lines_cut += 1;
                } else {
                    self.understand(&line, events)?;
                }
            } else if self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            } else {
                self.skipping = true;
            }
        }
        Ok(())
    }

    fn understand(&mut self, line: &[u8], events: &mut Vec<Event>) -> std::io::Result<()> {
        // What is no QMP is nothing to us.
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return Ok(()) };
        if line.greeting.is_some() && self.phase == Phase::AwaitsGreeting {
            self.phase = Phase::AwaitsCapabilities;
            return self.open("qmp_capabilities");
        }
        if line.result.is_some() && self.phase == Phase::AwaitsCapabilities {
            self.phase = Phase::Ready;
            events.push(Event::Ready);
            for command in std::mem::take(&mut self.waiting) {
                self.open(command.name())?;
            }
            return Ok(());
        }
        events.extend(match (line.event.as_deref(), line.result, line.error) {
            (Some("RESET"), ..) => Some(Event::Reset),
            (Some("SHUTDOWN"), ..) => Some(Event::Shutdown),
            (Some("STOP"), ..) => Some(Event::Stop),
            (Some("RESUME"), ..) => Some(Event::Resume),
            (Some("POWERDOWN"), ..) => Some(Event::Powerdown),
            (None, Some(_), None) => Some(Event::Done),
            (None, None, Some(_)) => Some(Event::Refused),
            _ => None,
        });
        Ok(())
    }

    /// Writes in answer to QEMU; if QEMU is gone, its end of file is read next and says so.
    fn open(&mut self, name: &str) -> std::io::Result<()> {
        match self.write(name) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, Qmp) {
        let (qemu, ours) = UnixStream::pair().unwrap();
        (qemu, Qmp::new(ours).unwrap())
    }

    fn said(qemu: &mut UnixStream) -> String {
        let mut bytes = [0; 256];
        let count = qemu.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    fn ready() -> (UnixStream, Qmp) {
        let (mut qemu, mut qmp) = pair();
        qemu.write_all(b"{\"QMP\": {\"version\": {}}}\r\n{\"return\": {}}\r\n").unwrap();
        assert_eq!(qmp.read().unwrap(), [Event::Ready]);
        assert_eq!(said(&mut qemu), "{\"execute\":\"qmp_capabilities\"}\n");
        (qemu, qmp)
    }

    #[test]
    fn a_command_waits_until_qemu_takes_commands() {
        let (mut qemu, mut qmp) = pair();
        qmp.tell(Command::SystemPowerdown).unwrap();
        qemu.write_all(b"{\"QMP\": {}}\r\n").unwrap();
        assert_eq!(qmp.read().unwrap(), []);
        assert_eq!(said(&mut qemu), "{\"execute\":\"qmp_capabilities\"}\n");
        qemu.write_all(b"{\"return\": {}}\r\n").unwrap();
        assert_eq!(qmp.read().unwrap(), [Event::Ready]);
        assert_eq!(said(&mut qemu), "{\"execute\":\"system_powerdown\"}\n");
    }

    #[test]
    fn events_in_pieces_and_in_one_go_are_understood() {
        let (mut qemu, mut qmp) = ready();
        qemu.write_all(b"{\"event\": \"RES").unwrap();
        assert_eq!(qmp.read().unwrap(), []);
        qemu.write_all(b"ET\"}\r\n{\"event\": \"STOP\"}\r\n{\"error\": {}}\r\n{\"return\": {}}\r\n").unwrap();
        assert_eq!(qmp.read().unwrap(), [Event::Reset, Event::Stop, Event::Refused, Event::Done]);
    }

    #[test]
    fn the_end_is_said_once() {
        let (qemu, mut qmp) = ready();
        drop(qemu);
        assert_eq!(qmp.read().unwrap(), [Event::Eof]);
        assert_eq!(qmp.read().unwrap(), []);
        assert!(qmp.tell(Command::Quit).is_err());
    }

    #[test]
    fn a_peer_that_leaves_with_our_words_unread_is_at_its_end() {
        let (mut qemu, mut qmp) = pair();
        qemu.write_all(b"{\"QMP\": {}}\r\n").unwrap();
        qmp.read().unwrap();
        drop(qemu);
        assert_eq!(qmp.read().unwrap(), [Event::Eof]);
    }

    #[test]
    fn a_line_of_the_longest_length_is_read_and_a_longer_one_cut() {
        let (mut qemu, mut qmp) = ready();
        for (bytes, events, cut) in [(LINE_BYTES_MAX, vec![Event::Reset], 0), (LINE_BYTES_MAX + 1, vec![], 1)]
        {
            let mut line = b"{\"event\": \"RESET\"}".to_vec();
            line.resize(bytes, b' ');
            line.push(b'\n');
            let mut got = Vec::new();
            for part in line.chunks(16 << 10) {
                qemu.write_all(part).unwrap();
                got.extend(qmp.read().unwrap());
            }
            assert_eq!((got, qmp.lines_cut()), (events, cut), "{bytes}");
        }
    }

    #[test]
    fn noise_is_nothing() {
        let (mut qemu, mut qmp) = ready();
        qemu.write_all(b"\xff\xfe\n[]\n{\"event\": 3}\n{}\n\n{\"event\": \"NEW\"}\n").unwrap();
        assert_eq!(qmp.read().unwrap(), []);
    }
}
