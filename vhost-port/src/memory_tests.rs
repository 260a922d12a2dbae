use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::*;

const LIMITS: MemoryLimits = MemoryLimits { regions: 4, bytes: 1 << 20, accept_unsealed: false };
const PAGE: u64 = 4096;

/// Counts the mappings there are.
#[derive(Debug, Default)]
struct Counting {
    mapped: Arc<AtomicUsize>,
    is_lost: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>, Arc<AtomicBool>);

impl MemoryWatch for Counted {
    fn is_lost(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MemoryWatcher for Counting {
    unsafe fn watch(
        &self,
        _base: NonNull<u8>,
        _bytes: usize,
        _page_bytes: usize,
    ) -> Result<Box<dyn MemoryWatch>, Box<dyn std::error::Error + Send + Sync>> {
        self.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Counted(self.mapped.clone(), self.is_lost.clone())))
    }
}

fn memfd(bytes: u64) -> File {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
    file.set_len(bytes).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    file
}

fn claim(guest_start: u64, len_bytes: u64) -> RegionClaim {
    RegionClaim { guest_start, len_bytes, user_start: guest_start + (1 << 40), file_offset_bytes: 0 }
}

/// The table with one more region of a file that is just long enough.
fn add(table: &GuestMemory, claim: RegionClaim, watcher: &Counting) -> Result<GuestMemory, MemoryError> {
    let end = claim.file_offset_bytes.saturating_add(claim.len_bytes).min(1 << 21);
    add_of(table, claim, memfd(end), watcher)
}

fn add_of(
    table: &GuestMemory,
    claim: RegionClaim,
    file: File,
    watcher: &Counting,
) -> Result<GuestMemory, MemoryError> {
    let rules = MemoryRules { limits: &LIMITS, watcher };
    table.with_region(claim, MemoryFile::check(file, false).unwrap(), &GuestMemory::default(), &rules)
}

fn one(guest_start: u64, len_bytes: u64) -> GuestMemory {
    add(&GuestMemory::default(), claim(guest_start, len_bytes), &Counting::default()).unwrap()
}

#[test]
fn a_region_may_end_exactly_where_its_file_does() {
    let with = |len_bytes| {
        let claim = RegionClaim { file_offset_bytes: PAGE, ..claim(0, len_bytes) };
        add_of(&GuestMemory::default(), claim, memfd(3 * PAGE), &Counting::default())
    };
    with(2 * PAGE).unwrap();
    let refused = with(2 * PAGE + 1);
    assert!(matches!(refused, Err(MemoryError::PastFile { .. })), "{refused:?}");
}

#[test]
fn refuses_ranges_that_wrap_or_are_empty() {
    let max = u64::MAX;
    let sane = claim(PAGE, PAGE);
    let wrapping = [
        RegionClaim { guest_start: max - PAGE + 1, ..sane },
        RegionClaim { user_start: max - PAGE + 1, ..sane },
        RegionClaim { file_offset_bytes: max - PAGE + 1, ..sane },
        RegionClaim { len_bytes: max, ..sane },
        RegionClaim { len_bytes: 1 << 62, ..sane },
        RegionClaim { file_offset_bytes: 1 << 62, ..sane },
    ];
    for claim in wrapping {
        let refused = add_of(&GuestMemory::default(), claim, memfd(PAGE), &Counting::default());
        assert!(matches!(refused, Err(MemoryError::Wraps { .. })), "{claim:?}: {refused:?}");
    }
    let refused = add(&GuestMemory::default(), claim(0, 0), &Counting::default());
    assert!(matches!(refused, Err(MemoryError::Empty { .. })), "{refused:?}");
}

#[test]
fn regions_may_touch_and_may_not_overlap_by_a_byte() {
    let table = one(4 * PAGE, 4 * PAGE);
    let counting = Counting::default();
    for start in [2 * PAGE, 8 * PAGE] {
        add(&table, claim(start, 2 * PAGE), &counting).unwrap();
    }
    for start in [2 * PAGE + 1, 8 * PAGE - 1, 5 * PAGE] {
        let refused = add(&table, claim(start, 2 * PAGE), &counting);
        assert!(matches!(refused, Err(MemoryError::Overlap { .. })), "{refused:?}");
    }
    let same_user = RegionClaim { guest_start: 1 << 30, ..claim(4 * PAGE, PAGE) };
    let refused = add(&table, same_user, &counting);
    assert!(matches!(refused, Err(MemoryError::Overlap { .. })), "{refused:?}");
}

#[test]
fn takes_as_many_regions_and_bytes_as_its_limits_say() {
    let counting = Counting::default();
    let mut table = GuestMemory::default();
    for at in 0..4 {
        table = add(&table, claim(at << 30, PAGE), &counting).unwrap();
    }
    let refused = add(&table, claim(4 << 30, PAGE), &counting);
    assert!(matches!(refused, Err(MemoryError::TooMany { regions: 5, allowed: 4 })), "{refused:?}");

    let large = one(0, (1 << 20) - PAGE);
    add(&large, claim(1 << 30, PAGE), &counting).unwrap();
    let refused = add(&large, claim(1 << 30, PAGE + 1), &counting);
    assert!(matches!(refused, Err(MemoryError::TooLarge { .. })), "{refused:?}");
}

#[test]
fn bytes_count_in_whole_pages_however_little_of_them_is_claimed() {
    let counting = Counting::default();
    let large = one(0, (1 << 20) - PAGE);
    let two_bytes = |file_offset_bytes| RegionClaim { file_offset_bytes, ..claim(1 << 30, 2) };
    let inside = add_of(&large, two_bytes(PAGE - 2), memfd(2 * PAGE), &counting).unwrap();
    assert_eq!(inside.bytes(), 1 << 20);
    let across = add_of(&large, two_bytes(PAGE - 1), memfd(2 * PAGE), &counting);
    let bytes = (1 << 20) + PAGE;
    assert!(
        matches!(across, Err(MemoryError::TooLarge { bytes: counted, .. }) if counted == bytes),
        "{across:?}"
    );
}

#[test]
fn mappings_are_shared_by_tables_and_gone_with_the_last() {
    let counting = Counting::default();
    let mapped = || counting.mapped.load(Ordering::Relaxed);
    let first = add(&GuestMemory::default(), claim(0, PAGE), &counting).unwrap();
    let both = add(&first, claim(1 << 30, PAGE), &counting).unwrap();
    assert_eq!(mapped(), 2);
    let second = both.without_region(&claim(0, PAGE));
    assert_eq!((second.region_count(), second.bytes()), (1, PAGE));
    drop(both);
    assert_eq!(mapped(), 2);
    drop(first);
    assert_eq!(mapped(), 1);
    drop(second);
    assert_eq!(mapped(), 0);
}

#[test]
fn the_same_region_again_changes_nothing_and_maps_nothing() {
    let counting = Counting::default();
    let file = memfd(PAGE);
    let add = |table: &GuestMemory, earlier: &GuestMemory| {
        let file = MemoryFile::check(file.try_clone().unwrap(), false).unwrap();
        let rules = MemoryRules { limits: &LIMITS, watcher: &counting };
        table.with_region(claim(0, PAGE), file, earlier, &rules).unwrap()
    };
    let none = GuestMemory::default();
    let table = add(&none, &none);
    let again = add(&table, &none);
    let anew = add(&none, &table);
    assert_eq!((again.region_count(), anew.region_count()), (1, 1));
    assert_eq!(counting.mapped.load(Ordering::Relaxed), 1);
}

#[test]
fn bytes_are_found_where_the_guest_has_them() {
    let file = memfd(4 * PAGE);
    std::os::unix::fs::FileExt::write_all_at(&file, b"here", PAGE + 6).unwrap();
    let claim = RegionClaim { file_offset_bytes: PAGE + 2, ..claim(1 << 32, PAGE) };
    let table = add_of(&GuestMemory::default(), claim, file, &Counting::default()).unwrap();
    for found in [table.translate(&mut 0, (1 << 32) + 4, 4), table.translate_user(claim.user_start + 4, 4)] {
        let found = found.unwrap().cast::<[u8; 4]>();
        // SAFETY: four bytes inside the mapping that `table` holds; nobody else writes this file.
        assert_eq!(unsafe { found.read_unaligned() }, *b"here");
    }
}

#[test]
fn lost_pages_are_reported() {
    let counting = Counting::default();
    let table = add(&GuestMemory::default(), claim(0, PAGE), &counting).unwrap();
    assert!(!table.is_lost());
    counting.is_lost.store(true, Ordering::Relaxed);
    assert!(table.is_lost());
}

#[test]
fn a_mask_keeps_speculation_inside() {
    assert_eq!(bounded(0, 1), 0);
    assert_eq!(bounded(6, 7), 6);
    assert_eq!(bounded(7, 7), 0);
    assert_eq!(bounded(u64::MAX, 7), 0);
    assert_eq!(bounded(1 << 63, 1 << 62), 0);
    assert_eq!(bounded((1 << 62) - 1, 1 << 62), (1 << 62) - 1);
}

proptest! {
    #[test]
    fn finds_exactly_what_lies_in_one_region(address in 0..24 * PAGE, len_bytes in 0..3 * PAGE, hint in 0..5_usize) {
        let counting = Counting::default();
        let claims = [claim(4 * PAGE, 2 * PAGE), claim(6 * PAGE, PAGE), claim(16 * PAGE, 3 * PAGE)];
        let table = claims.iter().fold(GuestMemory::default(), |table, claim| add(&table, *claim, &counting).unwrap());
        let holds = |claim: &RegionClaim, start: u64| start <= address && address + len_bytes <= start + claim.len_bytes;
        let is_inside = claims.iter().any(|claim| holds(claim, claim.guest_start));
        let found = table.translate(&mut hint.clone(), address, u32::try_from(len_bytes).unwrap());
        prop_assert_eq!(found.is_some(), is_inside);
        let by_user = table.translate_user(address + (1 << 40), len_bytes);
        // An empty range on the border of two regions may be in either.
        prop_assert!(len_bytes == 0 || found == by_user);
    }
}
