//! What was changed on the machine, written down before it is changed, undone in reverse.
//!
//! One file for each process, under [`JOURNAL_DIR`]. A file whose process is gone (SIGKILL) is undone by the
//! next start or by `cargo xtask clean`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::hugepages;
use crate::process::ProcessId;

/// Where the journals lie; on a file system that a reboot empties, like the changes themselves.
pub const JOURNAL_DIR: &str = "/run/netvm-lab";

/// One change and how to undo it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A network namespace was made; its interfaces go with it.
    Namespace(String),
    /// An interface of the root namespace was made.
    Link(String),
    /// The number of 2 MiB hugepages was raised by this much.
    HugepagesRaised(u64),
    /// A process group was started, led by this process.
    Group(ProcessId),
    /// A directory was made that holds nothing of value.
    Directory(PathBuf),
    /// A file system was mounted here, or is about to be.
    Mount(PathBuf),
}

impl Change {
    /// Undoes the change; says what went wrong, if anything.
    fn undo(&self) -> Result<(), String> {
        match self {
            Self::Namespace(name) => {
                delete_if_there(&["netns", "del", name], &Path::new("/run/netns").join(name))
            }
            Self::Link(name) => {
                delete_if_there(&["link", "del", name], &Path::new("/sys/class/net").join(name))
            }
            Self::HugepagesRaised(pages) => hugepages::lower_by(*pages).map_err(|err| err.to_string()),
            Self::Group(leader) => {
                end_group(*leader);
                Ok(())
            }
            Self::Mount(path) => unmount(path),
            Self::Directory(path) => match fs::remove_dir_all(path) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                    Err(format!("cannot remove {}: {err}", path.display()))
                }
                _ => Ok(()),
            },
        }
    }
}

/// Deletes by `ip` what shows as `sign`; a veth whose namespace has just gone goes by itself, at any moment.
fn delete_if_there(ip_args: &[&str], sign: &Path) -> Result<(), String> {
    if !sign.exists() {
        return Ok(());
    }
    match Command::new("ip").args(ip_args).output() {
        Ok(output) if output.status.success() || !sign.exists() => Ok(()),
        Ok(output) => {
            Err(format!("ip {}: {}", ip_args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(err) => Err(format!("ip {}: {err}", ip_args.join(" "))),
    }
}

/// Unmounts what is mounted here, if anything is; whoever has files of it open keeps them.
fn unmount(path: &Path) -> Result<(), String> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").map_err(|err| format!("/proc/self/mounts: {err}"))?;
    if !mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == path)) {
        return Ok(());
    }
    match Command::new("umount").arg("--lazy").arg(path).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("umount: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(err) => Err(format!("umount: {err}")),
    }
}

/// Asks a group to end, and ends it if it has not within three seconds.
fn end_group(leader: ProcessId) {
    leader.signal_group(Signal::TERM);
    let deadline = Instant::now() + Duration::from_secs(3);
    while leader.is_alive() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    leader.signal_group(Signal::KILL);
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    owner: ProcessId,
    changes: Vec<Change>,
}

/// The journal of this process. Clones share it; [`Journal::undo_all`] undoes once, whoever calls it.
#[derive(Clone, Debug)]
pub struct Journal {
    path: Arc<PathBuf>,
    record: Arc<Mutex<Record>>,
}

impl Journal {
    /// Opens a journal for this process, after undoing those of dead processes.
    ///
    /// # Errors
    /// If the journal directory cannot be made or read.
    pub fn open(name: &str) -> Result<Self, LabError> {
        fs::create_dir_all(JOURNAL_DIR).map_err(LabError::file("make", JOURNAL_DIR))?;
        undo_stale()?;
        let owner = ProcessId::own();
        let path = Path::new(JOURNAL_DIR).join(format!("{name}-{}.json", owner.pid));
        Ok(Self { path: Arc::new(path), record: Arc::new(Mutex::new(Record { owner, changes: Vec::new() })) })
    }

    /// Undoes everything and ends this process with 130 when SIGINT, SIGTERM or SIGHUP arrives.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub fn undo_on_signal(&self) -> Result<(), LabError> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(LabError::file("handle", "signals"))?;
        let journal = self.clone();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("\nsignal {signal}: undoing what was changed");
                for problem in journal.undo_all() {
                    eprintln!("warning: {problem}");
                }
                std::process::exit(130);
            }
        });
        Ok(())
    }

    /// Writes a change down; call this before making it.
    ///
    /// # Errors
    /// If the file cannot be written; the change must not be made then.
    pub fn note(&self, change: Change) -> Result<(), LabError> {
        let mut record = self.lock();
        record.changes.push(change);
        self.write(&record)
    }

    /// Takes back the last note that equals `change`: it was undone by other means.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn forget(&self, change: &Change) -> Result<(), LabError> {
        let mut record = self.lock();
        if let Some(at) = record.changes.iter().rposition(|noted| noted == change) {
            record.changes.remove(at);
        }
        self.write(&record)
    }

    /// Undoes all changes, last first; returns what could not be undone.
    pub fn undo_all(&self) -> Vec<String> {
        let mut record = self.lock();
        let problems: Vec<String> = undo_reversed(&std::mem::take(&mut record.changes));
        // The draft is there only if a signal came between writing and renaming it.
        for path in [&*self.path, &self.path.with_extension("draft")] {
            if let Err(err) = fs::remove_file(path)
                && err.kind() != std::io::ErrorKind::NotFound
            {
                eprintln!("warning: cannot remove {}: {err}", path.display());
            }
        }
        problems
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // A panic between two notes leaves a record that is whole: the lock's poison says nothing of it.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, record: &Record) -> Result<(), LabError> {
        let text = serde_json::to_vec_pretty(record).map_err(|err| LabError::File {
            verb: "write",
            path: self.path.to_path_buf(),
            source: err.into(),
        })?;
        let draft = self.path.with_extension("draft");
        let mut file = fs::File::create(&draft).map_err(LabError::file("write", &draft))?;
        file.write_all(&text).map_err(LabError::file("write", &draft))?;
        fs::rename(&draft, &*self.path).map_err(LabError::file("write", &*self.path))
    }
}

fn undo_reversed(changes: &[Change]) -> Vec<String> {
    changes.iter().rev().filter_map(|change| change.undo().err()).collect()
}

/// Undoes the journals whose process is gone; returns how many there were.
///
/// # Errors
/// If the journal directory cannot be read.
pub fn undo_stale() -> Result<usize, LabError> {
    let Ok(entries) = fs::read_dir(JOURNAL_DIR) else { return Ok(0) };
    let mut undone = 0;
    for entry in entries {
        let path = entry.map_err(LabError::file("read", JOURNAL_DIR))?.path();
        if path.extension().is_none_or(|ext| ext != "json") {
            continue;
        }
        let Ok(text) = fs::read(&path) else { continue };
        let Ok(record) = serde_json::from_slice::<Record>(&text) else {
            eprintln!("warning: {} is no journal of ours; left alone", path.display());
            continue;
        };
        if record.owner.is_alive() {
            continue;
        }
        eprintln!("undoing what process {} left behind", record.owner.pid);
        for problem in undo_reversed(&record.changes) {
            eprintln!("warning: {problem}");
        }
        fs::remove_file(&path).map_err(LabError::file("remove", &path))?;
        undone += 1;
    }
    Ok(undone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoes_the_last_change_first() {
        let dir = tempfile::tempdir().unwrap();
        let outer = dir.path().join("outer");
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).unwrap();
        let changes = [Change::Directory(outer.clone()), Change::Directory(inner)];
        assert_eq!(undo_reversed(&changes), Vec::<String>::new());
        assert!(!outer.exists());
    }

    #[test]
    fn undoing_what_is_gone_is_no_problem() {
        let gone = ProcessId { pid: 1, start_ticks: u64::MAX };
        let changes = [
            Change::Namespace("nv-never-was".into()),
            Change::Link("nv-never-was".into()),
            Change::Group(gone),
            Change::Directory("/run/nv-never-was".into()),
        ];
        assert_eq!(undo_reversed(&changes), Vec::<String>::new());
    }

    #[test]
    fn a_record_survives_its_file_format() {
        let changes = vec![Change::HugepagesRaised(7), Change::Group(ProcessId::own())];
        let text = serde_json::to_vec(&Record { owner: ProcessId::own(), changes: changes.clone() }).unwrap();
        assert_eq!(serde_json::from_slice::<Record>(&text).unwrap().changes, changes);
    }
}
