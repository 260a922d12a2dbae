//! What a hostile QEMU says on its QMP socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::Input;
use crate::switch::qmp::{Command, Event, LINE_BYTES_MAX, Qmp};

/// Bytes written at once: less than a socket takes without a reader.
const CHUNK_BYTES: usize = 16 << 10;

/// Speaks the same bytes in one go and in pieces: the same must be heard, whatever the pieces, and the end last
/// and once. Lines beyond the limit are counted.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let cuts = [input.u8(), input.u8(), input.u8()];
    let padding = match input.below(32) {
        0 => LINE_BYTES_MAX - 64 + usize::from(input.u8()),
        _ => 0,
    };
    let mut said = vec![b' '; padding];
    said.extend(input.take_rest());
    let whole = listen(&said, &[CHUNK_BYTES]);
    let pieces: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) + 1 + padding / 8).collect();
    assert_eq!(whole, listen(&said, &pieces), "heard otherwise in pieces");

    let (events, lines_cut) = whole;
    assert_eq!(events.iter().filter(|event| **event == Event::Eof).count(), 1);
    assert_eq!(events.last(), Some(&Event::Eof));
    assert!(events.iter().filter(|event| **event == Event::Ready).count() <= 1);
    let lines = || said.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    assert!(events.len() <= lines().count() + 1, "one event a line at most, and the end");
    let too_long = lines().filter(|line| line.len() - 1 > LINE_BYTES_MAX).count();
    assert_eq!(lines_cut, too_long as u64);
}

fn listen(said: &[u8], pieces: &[usize]) -> (Vec<Event>, u64) {
    let Ok((mut qemu, ours)) = UnixStream::pair() else { panic!("out of sockets") };
    let mut qmp = Qmp::new(ours).unwrap_or_else(|error| panic!("{error}"));
    qmp.tell(Command::SystemPowerdown).unwrap_or_else(|error| panic!("waits until QEMU is ready: {error}"));
    let mut heard = Vec::new();
    let mut rest = said;
    for piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        rest = later;
        qemu.write_all(now).unwrap_or_else(|error| panic!("{error}"));
        heard.extend(qmp.read().unwrap_or_else(|error| panic!("{error}")));
    }
    hang_up(qemu);
    heard.extend(qmp.read().unwrap_or_else(|error| panic!("{error}")));
    (heard, qmp.lines_cut())
}

/// Reads what it was told before it ends, as QEMU would.
fn hang_up(mut qemu: UnixStream) {
    let mut told = [0; 4096];
    qemu.set_nonblocking(true).unwrap_or_else(|error| panic!("{error}"));
    while qemu.read(&mut told).is_ok_and(|bytes| bytes > 0) {}
}
