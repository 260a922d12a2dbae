//! The record of buffers in flight that a frontend keeps for the backend that comes after a crash.
//!
//! This backend serves each queue in order and has nothing in flight between two bursts: where the used ring ends
//! is where the next backend goes on, and at worst the last burst is served twice. So it never marks a buffer. It
//! hands out a record if asked, and reads the record of another backend that did mark some.
//!
//! The file is read and written by calls, not mapped: whatever its owner does to it, no access to it can fault.
//! Layout: vhost-user specification, "Inflight I/O tracking", split virtqueue.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::memory_file::MemoryFile;
use crate::refusal::Refusal;

/// `features`, `version`, `desc_num`, `last_batch_head`, `used_idx`.
const HEADER_BYTES: usize = 16;
const VERSION_AT: usize = 8;
const ENTRIES_AT: usize = 10;
/// `inflight`, padding, `next`, `counter`.
const ENTRY_BYTES: usize = 16;
const COUNTER_AT: usize = 8;
/// Each queue's part begins at a multiple of this.
const ALIGN_BYTES: u64 = 64;
/// The only version there is.
const VERSION: u16 = 1;

/// A record, as a frontend describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InflightClaim {
    pub(crate) len_bytes: u64,
    pub(crate) offset_bytes: u64,
    pub(crate) queues: u16,
    pub(crate) entries: u16,
}

/// A record whose place has been checked. What it says has not.
#[derive(Debug)]
pub(crate) struct Inflight {
    file: File,
    claim: InflightClaim,
}

fn queue_bytes(entries: u16) -> u64 {
    ((HEADER_BYTES + ENTRY_BYTES * usize::from(entries)) as u64).next_multiple_of(ALIGN_BYTES)
}

/// Where the entry of a buffer begins in its queue's part.
fn entry_at(head: u16) -> u64 {
    (HEADER_BYTES + ENTRY_BYTES * usize::from(head)) as u64
}

fn system(error: impl Into<std::io::Error>) -> Refusal {
    Refusal::Inflight { what: error.into().to_string() }
}

impl Inflight {
    /// A fresh record with nothing in it, and its description.
    pub(crate) fn create(queues: u16, entries: u16) -> Result<(InflightClaim, OwnedFd), Refusal> {
        let len_bytes = u64::from(queues) * queue_bytes(entries);
        let claim = InflightClaim { len_bytes, offset_bytes: 0, queues, entries };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("vhost-inflight", flags).map_err(system)?);
        file.set_len(len_bytes).map_err(system)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(system)?;
        for queue in 0..u64::from(queues) {
            let version_and_entries = [VERSION, entries].map(u16::to_le_bytes).concat();
            let at = queue * queue_bytes(entries) + VERSION_AT as u64;
            file.write_all_at(&version_and_entries, at).map_err(system)?;
        }
        Ok((claim, file.into()))
    }

    /// Takes a record from a frontend.
    pub(crate) fn take(file: File, claim: InflightClaim) -> Result<Self, Refusal> {
        // Calls on it must not wait for anybody; whether it can shrink matters only to who maps it.
        let file =
            MemoryFile::check(file, true).map_err(|error| Refusal::Inflight { what: error.to_string() })?;
        let needed_bytes = u64::from(claim.queues) * queue_bytes(claim.entries);
        let end_bytes = claim.offset_bytes.checked_add(claim.len_bytes);
        if claim.len_bytes < needed_bytes || end_bytes.is_none_or(|end| end > file.len_bytes()) {
            let InflightClaim { len_bytes, offset_bytes, .. } = claim;
            let file_bytes = file.len_bytes();
            let what = format!(
                "{len_bytes} bytes at {offset_bytes} of a file of {file_bytes}; {needed_bytes} are needed"
            );
            return Err(Refusal::Inflight { what });
        }
        Ok(Self { file: file.into_file(), claim })
    }

    fn at(&self, queue: usize) -> u64 {
        // No wrap: `take` has found the end of the last queue inside the file.
        self.claim.offset_bytes + queue as u64 * queue_bytes(self.claim.entries)
    }

    /// The buffers of a queue that were taken and not used, in the order in which they were taken. Empty for a
    /// queue that the record does not know.
    pub(crate) fn pending(&self, queue: usize, ring_size: u16) -> Result<Vec<u16>, Refusal> {
        if queue >= usize::from(self.claim.queues) {
            return Ok(Vec::new());
        }
        if self.claim.entries < ring_size {
            let what = format!("{} entries for a ring of {ring_size}", self.claim.entries);
            return Err(Refusal::Inflight { what });
        }
        let mut bytes = vec![0; HEADER_BYTES + ENTRY_BYTES * usize::from(ring_size)];
        self.file.read_exact_at(&mut bytes, self.at(queue)).map_err(system)?;
        let (header, entries) = bytes.split_at(HEADER_BYTES);
        match u16_at(header, VERSION_AT) {
            // Never used by anybody.
            0 => return Ok(Vec::new()),
            VERSION => {}
            version => {
                return Err(Refusal::Inflight { what: format!("version {version}, known is {VERSION}") });
            }
        }
        if u16_at(header, ENTRIES_AT) < ring_size {
            let what = format!("{} entries for a ring of {ring_size}", u16_at(header, ENTRIES_AT));
            return Err(Refusal::Inflight { what });
        }
        let mut pending: Vec<(u64, u16)> = entries
            .chunks_exact(ENTRY_BYTES)
            .zip(0_u16..)
            .filter(|(entry, _)| entry[0] == 1)
            .map(|(entry, head)| (u64_at(entry, COUNTER_AT), head))
            .collect();
        pending.sort_unstable();
        Ok(pending.into_iter().map(|(_, head)| head).collect())
    }

    /// Notes that these buffers are used now.
    pub(crate) fn clear(&self, queue: usize, heads: &[u16]) -> Result<(), Refusal> {
        for head in heads {
            let at = self.at(queue) + entry_at(*head);
            self.file.write_all_at(&[0], at).map_err(system)?;
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(queues: u16, entries: u16) -> (Inflight, File) {
        let (claim, fd) = Inflight::create(queues, entries).unwrap();
        let file = File::from(fd);
        (Inflight::take(file.try_clone().unwrap(), claim).unwrap(), file)
    }

    /// Marks a buffer as another backend would.
    fn mark(file: &File, at: u64, head: u16, counter: u64) {
        let at = at + entry_at(head);
        file.write_all_at(&[1], at).unwrap();
        file.write_all_at(&counter.to_le_bytes(), at + COUNTER_AT as u64).unwrap();
    }

    #[test]
    fn a_fresh_record_is_empty_and_sealed() {
        let (record, file) = record(4, 256);
        assert!(file.set_len(0).is_err());
        for queue in 0..4 {
            assert_eq!(record.pending(queue, 256).unwrap(), Vec::<u16>::new());
        }
    }

    #[test]
    fn buffers_come_back_in_the_order_in_which_they_were_taken_until_they_are_cleared() {
        let (record, file) = record(2, 256);
        for (head, counter) in [(7, 30), (255, 10), (0, 20)] {
            mark(&file, record.at(1), head, counter);
        }
        assert_eq!(record.pending(0, 256).unwrap(), Vec::<u16>::new());
        assert_eq!(record.pending(1, 256).unwrap(), [255, 0, 7]);
        record.clear(1, &[255, 7]).unwrap();
        assert_eq!(record.pending(1, 256).unwrap(), [0]);
        assert_eq!(record.pending(2, 256).unwrap(), Vec::<u16>::new());
    }

    #[test]
    fn no_buffer_outside_the_ring_comes_back() {
        let (record, file) = record(1, 256);
        mark(&file, record.at(0), 64, 1);
        mark(&file, record.at(0), 63, 2);
        assert_eq!(record.pending(0, 64).unwrap(), [63]);
    }

    #[test]
    fn refuses_a_record_that_is_shorter_than_it_says_by_a_byte() {
        let (claim, fd) = Inflight::create(2, 64).unwrap();
        let with = |claim| Inflight::take(File::from(fd.try_clone().unwrap()), claim);
        with(claim).unwrap();
        let refused = [
            InflightClaim { len_bytes: claim.len_bytes - 1, ..claim },
            InflightClaim { len_bytes: claim.len_bytes + 1, ..claim },
            InflightClaim { offset_bytes: 1, ..claim },
            InflightClaim { offset_bytes: u64::MAX, ..claim },
            InflightClaim { queues: u16::MAX, ..claim },
            InflightClaim { entries: u16::MAX, ..claim },
        ];
        for claim in refused {
            assert!(with(claim).is_err(), "{claim:?}");
        }
    }

    #[test]
    fn refuses_an_unknown_version_and_a_ring_larger_than_the_record() {
        let (record, file) = record(1, 64);
        assert!(record.pending(0, 128).is_err());
        file.write_all_at(&[9], VERSION_AT as u64).unwrap();
        assert!(record.pending(0, 64).is_err());
    }
}
