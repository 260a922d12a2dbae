//! Users of their own for QEMU processes.
//!
//! A guest that breaks out of its QEMU is a process of that user. It owns no file and shares its user with no
//! other VM, so it can open neither another's memory (through `/proc/PID/fd`) nor a socket of the switch.
//!
//! The number is [`UID_BASE`] + block × [`UIDS_PER_SWITCH`] + position of the VM in the config. Each switch of a
//! host claims a block. The range is one that nobody else hands out: distributions, `systemd-nspawn` and
//! container tools stay below 1879048192.

use std::fs;
use std::path::Path;

use super::runtime_dir::{RuntimeDirError, UidClaim};

/// First user of the first switch.
pub const UID_BASE: u32 = 1_900_000_000;
/// Most VMs of one switch.
pub const UIDS_PER_SWITCH: u32 = 1 << 16;
/// Most switches at a time on one host.
pub const BLOCKS: u32 = 1000;

/// The users of one switch's VMs.
#[derive(Debug)]
pub struct UidBlock {
    block: u32,
    /// Held for its lock.
    _claim: UidClaim,
}

impl UidBlock {
    /// Claims a block; none if this process could not give a QEMU a user of its own.
    ///
    /// # Errors
    /// If the folder of claims cannot be used, or every block is taken.
    pub fn claim(claims: &Path) -> Result<Option<Self>, RuntimeDirError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let (block, claim) = UidClaim::take(claims, BLOCKS)?;
        let last = UID_BASE + block * UIDS_PER_SWITCH + (UIDS_PER_SWITCH - 1);
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if !is_mapped(last, &map) {
            log::warn!(
                "QEMU runs as the user of `netvm boot`: users {UID_BASE} and up do not exist in this user namespace"
            );
            return Ok(None);
        }
        Ok(Some(Self { block, _claim: claim }))
    }

    /// The user of the VM at this position of the config.
    #[must_use]
    pub fn of_vm(&self, position: usize) -> Option<u32> {
        uid(self.block, position)
    }
}

/// The user of a VM of the switch that holds this block.
#[must_use]
pub fn uid(block: u32, position: usize) -> Option<u32> {
    let position = u32::try_from(position).ok().filter(|position| *position < UIDS_PER_SWITCH)?;
    let position = if cfg!(feature = "sabotage-vm-uid") { 0 } else { position };
    Some(UID_BASE + block * UIDS_PER_SWITCH + position)
}

/// Whether a user is one of those for VMs, of whichever switch.
#[must_use]
pub fn is_of_a_vm(uid: u32) -> bool {
    (UID_BASE..UID_BASE + BLOCKS * UIDS_PER_SWITCH).contains(&uid)
}

/// Whether a user exists in the namespace of this `uid_map`.
fn is_mapped(uid: u32, map: &str) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        first.zip(count).is_some_and(|(first, count)| (first..first + count).contains(&u64::from(uid)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vm_of_every_switch_has_a_user_of_its_own() {
        assert_eq!(uid(0, 0), Some(1_900_000_000));
        assert_eq!(uid(0, 65_535).map(|last| last + 1), uid(1, 0));
        assert_eq!(uid(0, 65_536), None);
        // The end of what a user id can be, and of what nobody hands out.
        assert!(uid(BLOCKS - 1, 65_535).unwrap() < 1 << 31);
        assert!(is_of_a_vm(UID_BASE) && is_of_a_vm(uid(BLOCKS - 1, 65_535).unwrap()));
        assert!(!is_of_a_vm(0) && !is_of_a_vm(uid(BLOCKS - 1, 65_535).unwrap() + 1));
    }

    #[test]
    fn a_user_exists_where_the_namespace_maps_it() {
        assert!(is_mapped(UID_BASE, "         0          0 4294967295\n"));
        assert!(!is_mapped(UID_BASE, "         0     100000      65536\n"));
        assert!(is_mapped(65_535, "         0     100000      65536\n"));
        assert!(!is_mapped(65_536, "         0     100000      65536\n"));
    }
}
