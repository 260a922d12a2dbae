//! A log that somebody else writes, through a pipe, up to a size.
//!
//! A guest decides what is on its serial console, and a QEMU what it says. Neither can fill the disk: what is
//! beyond the limit is read, so that nobody waits, and thrown away.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::JoinHandle;

/// Most bytes of a log.
pub const LOG_BYTES_MAX: u64 = 64 << 20;
/// What stands at its end then.
const FULL: &[u8] = b"\n[netvm: this log is full, the rest is left out]\n";

/// Writes to the end of the log at `path`, in a thread of its own, what comes out of the pipe whose other end is
/// returned. The thread ends when every copy of that end is closed.
///
/// # Errors
/// If there is no such file, pipe or thread.
pub fn limited(path: &Path, bytes_max: u64) -> io::Result<(OwnedFd, JoinHandle<()>)> {
    let log = File::options().create(true).append(true).open(path)?;
    let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let name = path.display().to_string();
    let thread = std::thread::Builder::new().name("netvm-log".to_owned()).spawn(move || {
        if let Err(error) = copy(File::from(read_end), log, bytes_max) {
            log::warn!("cannot write {name}: {error}");
        }
    })?;
    Ok((write_end, thread))
}

fn copy(mut from: File, mut log: File, bytes_max: u64) -> io::Result<()> {
    io::copy(&mut (&mut from).take(bytes_max), &mut log)?;
    let mut rest = [0; 4096];
    let mut is_said = false;
    loop {
        match from.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) if !is_said => {
                is_said = true;
                log.write_all(FULL)?;
            }
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial.log");
        let (end, thread) = limited(&path, 100_000).unwrap();
        let mut end = File::from(end);
        end.write_all(bytes).unwrap();
        drop(end);
        thread.join().unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_log_of_exactly_the_limit_is_whole() {
        assert_eq!(written(&[b'x'; 100_000]), [b'x'; 100_000]);
    }

    #[test]
    fn a_log_beyond_the_limit_ends_there_and_says_so_and_its_writer_does_not_wait() {
        let log = written(&[b'x'; 1_000_000]);
        assert_eq!(log.len(), 100_000 + FULL.len());
        assert!(log.ends_with(FULL));
    }
}
