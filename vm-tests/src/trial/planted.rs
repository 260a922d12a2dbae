//! Secrets in the switch's own memory: put there, and looked up in the end, as root alone can.
//!
//! What the attackers do not find must have been there to be found. A name of the config is in the switch's heap
//! by itself. Into the ledger and the mbuf headers of the other domain, canaries are written from outside: into
//! what a buffer at the bottom of the free stack keeps of its last packet, and into fields of mbufs that nothing
//! uses. So it is the program that people run which is attacked, and not one with a hook.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::Serialize;

use super::cast::{Canaries, OTHER};
use crate::attacker::canary::{CANARY_BYTES, Canary};

/// The ledger file's first bytes: its magic, and the version that is read here.
const LEDGER_HEAD: [u8; 12] = *b"NETVMLDG\x02\0\0\0";
/// Where its shard table begins.
const SHARDS_AT: u64 = 64;
/// Bytes of a row of it.
const SHARD_ROW_BYTES: usize = 32;
/// Bytes of an entry, and where those of the last packet begin in it.
const ENTRY: (u64, u64) = (32, 8);
/// Buffers at the bottom of the free stack, which no packet of the trial ever gets.
const BOTTOM: u64 = 256;
/// Bytes of an mbuf header; it begins with the address of its buffer.
const MBUF_BYTES: usize = 128;
/// Where the address of its pool is in it.
const MBUF_POOL: usize = 56;
/// The other domain has more.
const MBUFS_MIN: usize = 1000;
/// Where the last of its dynamic fields are, which nobody has asked DPDK for.
const MBUF_SPARE: usize = MBUF_BYTES - CANARY_BYTES;
/// Read at once.
const BLOCK_BYTES: usize = 1 << 20;

/// How often each canary was in the switch's memory in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The name in the switch's memory.
    pub config: u64,
    /// Entries of the ledger.
    pub ledger: u64,
    /// Headers of mbufs.
    pub mbufs: u64,
}

/// The canaries that were planted.
#[derive(Debug)]
pub struct Planted {
    memory: File,
    maps: PathBuf,
    ledger: File,
    entries: Vec<u64>,
    mbufs: Vec<u64>,
}

impl Planted {
    /// Plants them in the switch with this pid and this runtime directory.
    ///
    /// # Errors
    /// If its memory cannot be read and written.
    pub fn plant(pid: u32, run_dir: PathBuf, domain: u16, canaries: &Canaries) -> io::Result<Self> {
        let open = |path: PathBuf| File::options().read(true).write(true).open(path);
        let maps = PathBuf::from(format!("/proc/{pid}/maps"));
        let mut planted = Self {
            memory: open(format!("/proc/{pid}/mem").into())?,
            maps,
            ledger: open(run_dir.join("ledger"))?,
            entries: Vec::new(),
            mbufs: Vec::new(),
        };
        planted.entries = planted.unused_entries(domain)?;
        for at in &planted.entries {
            planted.ledger.write_all_at(&canaries.ledger.bytes, *at)?;
        }
        planted.mbufs = planted.mbufs()?;
        for at in &planted.mbufs {
            planted.memory.write_all_at(&canaries.mbufs.bytes, *at)?;
        }
        Ok(planted)
    }

    /// What of it is there now.
    ///
    /// # Errors
    /// If the switch's memory cannot be read.
    pub fn kept(&self, canaries: &Canaries) -> io::Result<Kept> {
        let holds = |file: &File, at: u64, canary: &Canary| {
            let mut bytes = [0; CANARY_BYTES];
            file.read_exact_at(&mut bytes, at).is_ok_and(|()| bytes == canary.bytes)
        };
        let kept = |file: &File, places: &[u64], canary: &Canary| {
            places.iter().filter(|at| holds(file, **at, canary)).count() as u64
        };
        let mut config = 0;
        for mapping in writable(&fs::read_to_string(&self.maps)?) {
            self.scan(mapping, |_, block| {
                let found = |window: &&[u8]| **window == canaries.names.bytes;
                config += block.windows(CANARY_BYTES).filter(found).count() as u64;
            });
        }
        Ok(Kept {
            config,
            ledger: kept(&self.ledger, &self.entries, &canaries.ledger),
            mbufs: kept(&self.memory, &self.mbufs, &canaries.mbufs),
        })
    }

    /// Where entries of buffers that no packet gets keep what they know of their last packet.
    fn unused_entries(&self, domain: u16) -> io::Result<Vec<u64>> {
        let mut head = [0; 64];
        self.ledger.read_exact_at(&mut head, 0)?;
        if head[..LEDGER_HEAD.len()] != LEDGER_HEAD {
            return Err(io::Error::other("a ledger of another version"));
        }
        let mut entries = Vec::new();
        for shard in 0..number(&head[20..28]) {
            let mut row = [0; SHARD_ROW_BYTES];
            self.ledger.read_exact_at(&mut row, SHARDS_AT + shard * SHARD_ROW_BYTES as u64)?;
            let (first, count) = (number(&row[4..8]), number(&row[8..12]));
            let (table, stack) = (number(&row[16..24]), number(&row[24..32]));
            if number(&row[..2]) != u64::from(domain) {
                continue;
            }
            for position in 0..BOTTOM.min(count / 4) {
                let mut index = [0; 4];
                self.ledger.read_exact_at(&mut index, stack + position * 4)?;
                let entry = table + (number(&index) - first) * ENTRY.0;
                entries.push(entry + ENTRY.1);
            }
        }
        Ok(entries)
    }

    /// Where the spare fields of the other domain's mbufs are.
    fn mbufs(&self) -> io::Result<Vec<u64>> {
        let maps = fs::read_to_string(&self.maps)?;
        let is_region = |line: &&str| line.ends_with(&format!("memfd:netvm-region-{OTHER} (deleted)"));
        let region = maps.lines().find(is_region).and_then(range);
        let region = region.ok_or_else(|| io::Error::other(format!("no region of {OTHER} in {maps}")))?;
        // By the pool that they say they are of: whatever else begins with such an address is not so many.
        let mut pools: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for mapping in writable(&maps).filter(|mapping| *mapping != region) {
            self.scan(mapping, |start, block| {
                for (position, header) in (0..).step_by(64).zip(block.windows(MBUF_BYTES).step_by(64)) {
                    let [buffer, pool] = [0, MBUF_POOL].map(|at| number(&header[at..at + 8]));
                    if region.contains(&buffer) && pool != 0 {
                        pools.entry(pool).or_default().insert(start + position + MBUF_SPARE as u64);
                    }
                }
            });
        }
        let largest = pools.into_values().max_by_key(BTreeSet::len).unwrap_or_default();
        if largest.len() < MBUFS_MIN {
            return Err(io::Error::other(format!("{} mbufs of {OTHER} found", largest.len())));
        }
        Ok(largest.into_iter().collect())
    }

    /// Reads a mapping block by block, each with the beginning of the next; what cannot be read is passed over.
    fn scan(&self, mapping: Range<u64>, mut look: impl FnMut(u64, &[u8])) {
        let mut block = vec![0; BLOCK_BYTES + MBUF_BYTES];
        for start in mapping.clone().step_by(BLOCK_BYTES) {
            let wanted = usize::try_from(mapping.end - start).unwrap_or(usize::MAX).min(block.len());
            if self.memory.read_exact_at(&mut block[..wanted], start).is_ok() {
                look(start, &block[..wanted]);
            }
        }
    }
}

/// The mappings of a process that it can write.
fn writable(maps: &str) -> impl Iterator<Item = Range<u64>> {
    maps.lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|may| may.starts_with("rw")))
        .filter_map(range)
}

/// The addresses in a line of `maps`.
fn range(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let address = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "7f00-7f10 r-xp 00000000 00:01 1 /usr/bin/netvm\n\
                        8000-9000 rw-s 00000000 00:01 2 /memfd:netvm-region-other (deleted)\n";

    #[test]
    fn reads_what_a_process_may_write() {
        assert!(writable(MAPS).eq(std::iter::once(0x8000..0x9000)));
    }

    #[test]
    fn reads_numbers_of_the_ledger_and_of_mbufs() {
        assert_eq!((number(&[1, 2]), number(&[0, 0, 0, 0, 0, 0, 0, 0x80])), (0x0201, 1 << 63));
    }
}
