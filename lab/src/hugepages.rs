//! 2 MiB hugepages: raised by what is missing, lowered by what was raised.

use std::fs;

use crate::error::LabError;
use crate::journal::{Change, Journal};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

fn read(path: &str) -> Result<u64, LabError> {
    let text = fs::read_to_string(path).map_err(LabError::file("read", path))?;
    text.trim().parse().map_err(|_| LabError::Status { what: format!("{path} holds {:?}", text.trim()) })
}

/// Pages that nobody uses now.
///
/// # Errors
/// If the kernel has no 2 MiB pages.
pub fn free() -> Result<u64, LabError> {
    read(FREE)
}

/// Raises the pool until `wanted` pages are free; returns how many are free then, which can be fewer.
///
/// # Errors
/// If the pool cannot be read or written.
pub fn ensure_free(wanted: u64, journal: &Journal) -> Result<u64, LabError> {
    let missing = wanted.saturating_sub(free()?);
    if missing > 0 {
        let before = read(POOL)?;
        let change = Change::HugepagesRaised(missing);
        journal.note(change.clone())?;
        fs::write(POOL, (before + missing).to_string()).map_err(LabError::file("write", POOL))?;
        // The kernel gives what it finds in one piece: note what was got, not what was asked.
        let got = read(POOL)?.saturating_sub(before);
        if got != missing {
            journal.forget(&change)?;
            journal.note(Change::HugepagesRaised(got))?;
        }
    }
    free()
}

/// Gives pages back.
///
/// # Errors
/// If the pool cannot be read or written.
pub fn lower_by(pages: u64) -> Result<(), LabError> {
    let now = read(POOL)?;
    fs::write(POOL, now.saturating_sub(pages).to_string()).map_err(LabError::file("write", POOL))
}
