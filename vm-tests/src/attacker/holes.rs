//! Memory taken away under the switch: holes in its files, and sizes and seals that are not for an attacker to set.

use std::os::fd::OwnedFd;

use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate};

use super::kind::Kind;
use super::memory::{Memory, PAGE_BYTES};
use super::siege::Siege;
use crate::random::Random;

/// Tries of one bout.
const TRIES: u64 = 1024;
/// Pages of one hole at most.
const HOLE_PAGES: u64 = 16;

impl Siege<'_> {
    /// See [`Kind::PunchedHoles`]. Like after scribbling, what the next reader of the tables needs is put back.
    pub(super) fn punch_holes(&mut self) {
        let Some(link) = &self.device.link else { return };
        for _ in 0..TRIES {
            let [control, region] = &link.files;
            // The region more often: it is what the switch reads and writes all the time.
            let (file, memory) = if self.random.below(8) == 0 {
                (control, &self.device.control)
            } else {
                (region, &self.device.region)
            };
            self.resized += u64::from(take_away(file, memory, &mut self.random));
            self.attempts.add(Kind::PunchedHoles, 1);
            if self.is_bout_over() {
                break;
            }
        }
        self.device.seat.restore(&self.device.control);
        self.device.region.write(0, &self.region_header);
        self.ended.extend(self.session.take().map(|session| session.epoch));
    }
}

/// One try; true if the file let itself be resized or sealed.
fn take_away(file: &OwnedFd, memory: &Memory, random: &mut Random) -> bool {
    let bytes = memory.bytes() as u64;
    let page = PAGE_BYTES as u64;
    match random.below(16) {
        0 => ftruncate(file, random.below(bytes)).is_ok_and(|()| ftruncate(file, bytes).is_ok()),
        1 => ftruncate(file, bytes + page).is_ok(),
        2 => fallocate(file, FallocateFlags::empty(), bytes, page).is_ok(),
        3 => fcntl_add_seals(file, random.of(&[SealFlags::WRITE, SealFlags::FUTURE_WRITE])).is_ok(),
        4 => {
            let kind = random.of(&[FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE]);
            fallocate(file, kind, 0, page).is_ok()
        }
        _ => {
            let first = random.below(bytes / page);
            let pages = (1 + random.below(HOLE_PAGES)).min(bytes / page - first);
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A hole changes no size and breaks no seal: the kernel allows it, and the next access finds zeroes.
            let _allowed = fallocate(file, hole, first * page, pages * page);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn resized(seals: SealFlags) -> bool {
        let file = memfd_create("hole", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, 16 * PAGE_BYTES as u64).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        let memory = Memory::map(file.as_fd(), 16 * PAGE_BYTES).unwrap();
        let mut random = Random::seeded(5);
        let tries = (0..200).map(|_| take_away(&file, &memory, &mut random));
        let resized = tries.fold(false, |any, one| any | one);
        let size = rustix::fs::fstat(&file).unwrap().st_size;
        assert!(resized || size == 16 * 4096);
        resized
    }

    #[test]
    fn notices_a_file_that_lets_itself_be_resized_and_none_that_is_sealed() {
        assert!(resized(SealFlags::empty()));
        assert!(!resized(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    }
}
