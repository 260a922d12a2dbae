//! Follows the serial console of a guest until its network functions run, or it has panicked twice.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest line that is looked at; the guest decides what is in the log.
const LINE_BYTES_MAX: usize = 1024;
/// Most bytes read in one call.
const READ_BYTES_MAX: usize = 256 << 10;

/// Longest name of a network function that is shown.
const NAME_CHARS_MAX: usize = 64;

/// What `init` of the image writes in front of its lines.
const MARKER: &str = "netvm-guest: ";

/// Texts of the kernel after which a boot goes no further.
const PANICS: &[&str] = &["IO-APIC + timer doesn't work", "Kernel panic"];

/// What the console shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootNews {
    /// The kernel runs `init`.
    Booted,
    /// A network function was started.
    NfStarted,
    /// This network function, as far as its name is one, was asked for and is not in the image.
    NfMissing(String),
    /// Every network function was started.
    Ready,
    /// The kernel panicked for the first time: reset the machine (the image's kernel does so itself).
    Panicked(&'static str),
    /// It panicked again: end the VM.
    PanickedAgain(&'static str),
}

/// Reads a growing log.
#[derive(Debug)]
pub struct BootWatch {
    log: File,
    line: Vec<u8>,
    panics: u32,
}

impl BootWatch {
    /// Watches the log from its beginning; it is made if QEMU has not done so yet.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn new(log: &Path) -> std::io::Result<Self> {
        let log = File::options().read(true).append(true).create(true).open(log)?;
        Ok(Self { log, line: Vec::new(), panics: 0 })
    }

    /// Reads what was added.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn read(&mut self) -> std::io::Result<Vec<BootNews>> {
        let mut bytes = Vec::new();
        (&self.log).take(READ_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        let mut news = Vec::new();
        for byte in bytes {
            if byte == b'\n' {
                news.extend(self.finished_line());
            } else if self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            }
        }
        Ok(news)
    }

    fn finished_line(&mut self) -> Option<BootNews> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if let Some(&panic) = PANICS.iter().find(|&&panic| line.contains(panic)) {
            // A kernel that stays where it is closes its report with a second line.
            return (!line.contains("end Kernel panic")).then(|| self.panicked(panic));
        }
        // The kernel may have left its own line unfinished in front of ours.
        let (_, words) = line.trim_end().split_once(MARKER)?;
        if words.starts_with("booted") {
            return Some(BootNews::Booted);
        }
        match words.strip_prefix("nf ") {
            Some(nf) if nf.contains(" started ") => Some(BootNews::NfStarted),
            Some(nf) if nf.contains(" is not in this image") => Some(BootNews::NfMissing(name_in(nf))),
            _ => (words == "ready").then_some(BootNews::Ready),
        }
    }

    fn panicked(&mut self, panic: &'static str) -> BootNews {
        self.panics += 1;
        if self.panics == 1 { BootNews::Panicked(panic) } else { BootNews::PanickedAgain(panic) }
    }
}

/// The name that the words begin with. The guest writes them: what no file name of an NF has is left out.
fn name_in(words: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    words.chars().take_while(|c| *c != ' ').filter(is_plain).take(NAME_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn watched() -> (tempfile::TempDir, File, BootWatch) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial.log");
        let watch = BootWatch::new(&path).unwrap();
        (folder, File::options().append(true).open(path).unwrap(), watch)
    }

    #[test]
    fn markers_are_found_in_order_also_in_pieces() {
        let (_folder, mut log, mut watch) = watched();
        log.write_all(b"SeaBIOS\r\nnetvm-guest: booted after 1.7 s\r\nnetvm-gu").unwrap();
        assert_eq!(watch.read().unwrap(), [BootNews::Booted]);
        log.write_all(
            b"est: nf forwarder started (endpoint 0)\r\n[ 1.2] x netvm-guest: nf odd is not in this image",
        )
        .unwrap();
        assert_eq!(watch.read().unwrap(), [BootNews::NfStarted]);
        log.write_all(b" (endpoint 1)\r\nnetvm-guest: ready\r\n").unwrap();
        assert_eq!(watch.read().unwrap(), [BootNews::NfMissing("odd".to_owned()), BootNews::Ready]);
    }

    #[test]
    fn of_a_name_that_the_guest_writes_only_a_name_is_kept() {
        assert_eq!(name_in("fire\x1b[31mwall-2 is not in this image"), "fire31mwall-2");
        assert_eq!(name_in(&"a".repeat(65)).len(), 64);
    }

    #[test]
    fn the_first_panic_is_for_a_retry_and_the_second_is_the_end() {
        let panic = b"[ 0.1] Kernel panic - not syncing: IO-APIC + timer doesn't work!\r\n\
            [ 0.1] ---[ end Kernel panic - not syncing: IO-APIC + timer doesn't work! ]---\r\n";
        let (_folder, mut log, mut watch) = watched();
        log.write_all(panic).unwrap();
        assert_eq!(watch.read().unwrap(), [BootNews::Panicked(PANICS[0])]);
        log.write_all(panic).unwrap();
        assert_eq!(watch.read().unwrap(), [BootNews::PanickedAgain(PANICS[0])]);
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_the_limit() {
        let (_folder, mut log, mut watch) = watched();
        log.write_all(&vec![b'x'; 2 * LINE_BYTES_MAX]).unwrap();
        assert_eq!(watch.read().unwrap(), []);
        assert_eq!(watch.line.len(), LINE_BYTES_MAX);
        log.write_all(b"\nnetvm-guest: ready\n").unwrap();
        assert_eq!(watch.read().unwrap(), [BootNews::Ready]);
    }
}
