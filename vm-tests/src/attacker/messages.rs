//! A flood of messages on endpoint.sock.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::IoSlice;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::kind::Kind;
use super::siege::Siege;

/// Messages on the own connection in one bout.
const MESSAGES: usize = 1000;
/// Connections with one message each in one bout.
const CONNECTIONS: usize = 20;

impl Siege<'_> {
    /// See [`Kind::ControlFlood`].
    pub(super) fn flood_control(&mut self) {
        let Some(link) = &self.device.link else { return };
        let mut sent = 0;
        for number in 0..MESSAGES {
            sent += u64::from(say(
                &link.connection,
                &message(self.random.below(16), number),
                self.random.below(4),
            ));
            if number.is_multiple_of(8) {
                std::thread::yield_now();
            }
        }
        let mut dialled = Vec::new();
        for number in 0..CONNECTIONS {
            let Ok(connection) = link.dial() else { continue };
            sent +=
                u64::from(say(&connection, &message(self.random.below(16), number), self.random.below(4)));
            // Some go at once, some leave the answer unread for the whole bout.
            if number.is_multiple_of(2) {
                dialled.push(connection);
            }
        }
        self.attempts.add(Kind::ControlFlood, sent);
    }
}

/// Whether the kernel took the message; a full socket does not.
fn say(connection: &OwnedFd, text: &[u8], files: u64) -> bool {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let attached = [connection.as_fd(); 3];
    let attached = &attached[..usize::try_from(files).unwrap_or(0)];
    if !attached.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(attached));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(connection, &[IoSlice::new(text)], &mut ancillary, flags).is_ok()
}

fn message(which: u64, number: usize) -> Vec<u8> {
    let text = match which {
        0 => "{".to_owned(),
        1 => r#"{"netvm":1}"#.to_owned(),
        2 => format!(r#"{{"netvm":{number},"hello":"process","name":"x"}}"#),
        3 => format!(r#"{{"netvm":1,"hello":"process","name":"{}"}}"#, "x".repeat(number % 4000)),
        4 => r#"{"netvm":1,"hello":"vm","name":"attack-vm"}"#.to_owned(),
        5 => r#"{"netvm":1,"hello":"process","name":"other"}"#.to_owned(),
        6 => r#"{"netvm":1,"qmp":true}"#.to_owned(),
        7 => format!(r#"{{"netvm":1,"pid":{number}}}"#),
        8 => r#"{"netvm":1,"pid":-1,"accelerator":"\u0000"}"#.to_owned(),
        9 => r#"{"netvm":18446744073709551616}"#.to_owned(),
        10 => "[".repeat(4096),
        11 => format!("\"{}", "\\".repeat(number % 4096)),
        12 => "x".repeat(4097),
        13 => r#"{"netvm":1,"netvm":1,"hello":"process","name":"../../other"}"#.to_owned(),
        14 => "\u{0}".repeat(1 + number % 64),
        _ => return vec![0xff; 1 + number % 512],
    };
    text.into_bytes()
}
