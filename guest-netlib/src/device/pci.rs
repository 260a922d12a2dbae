//! Finds the shared memory among a guest's PCI devices.
//!
//! QEMU shows each piece of shared memory as a device 1af4:1110 (ivshmem-plain) whose BAR 2 is the memory. Once
//! memory access is enabled, the kernel lets root map it from `resource2`, with no driver at all.
//! `resource2_wc` is never used: write-combining memory does not keep the order that the rings rely on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use shm_ring::layout::{CONTROL_MAGIC, REGION_MAGIC};

use crate::mapping::Mapping;

/// Where Linux lists PCI devices.
pub(crate) const PCI_DEVICES: &str = "/sys/bus/pci/devices";
const VENDOR: &str = "0x1af4";
const DEVICE: &str = "0x1110";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Why no shared memory was found among the PCI devices.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// No device of the right kind, or not both halves.
    #[error(
        "no {missing} among the {seen} shared-memory devices (1af4:1110) in {}; check that this VM is named in the \
         switch's config and was started by `netvm boot`, or give --socket and --name to run as a process",
        listed.display()
    )]
    Missing {
        /// Control area or region.
        missing: &'static str,
        /// How many devices of the kind there are.
        seen: usize,
        /// The folder that lists the devices.
        listed: PathBuf,
    },
    /// Two control areas: nothing says which is ours.
    #[error("PCI devices {} and {} both hold a control area; a VM has one", first.display(), second.display())]
    TwoControlAreas {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The kernel forbids it, whoever asks.
    #[error(
        "kernel lockdown ({mode}) blocks mapping PCI memory {}: boot the guest without Secure Boot or without lockdown=",
        device.display()
    )]
    Lockdown {
        /// The device.
        device: PathBuf,
        /// What the kernel says of lockdown.
        mode: String,
    },
    /// A file of the device could not be used.
    #[error("{doing} {}: {source}{}", file.display(), hint(source))]
    Access {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// One shared-memory device, mapped.
struct Bar {
    device: PathBuf,
    mapping: Mapping,
    file: File,
}

/// A control area, the file that maps it, and every region beside it.
pub(crate) struct Found {
    pub(crate) control: Mapping,
    pub(crate) control_file: File,
    pub(crate) regions: Vec<super::Found>,
}

/// Maps every shared-memory device listed in `listed` and tells control area from regions by their magic.
pub(crate) fn find(listed: &Path) -> Result<Found, PciError> {
    let devices = shared_memory_devices(listed)?;
    let seen = devices.len();
    let missing = |missing| PciError::Missing { missing, seen, listed: listed.to_owned() };
    let mut control: Option<Bar> = None;
    let mut regions = Vec::new();
    for device in devices {
        let bar = open_bar(device)?;
        match bar.mapping.magic() {
            Some(CONTROL_MAGIC) => {
                if let Some(first) = control.replace(bar) {
                    let second = control.map(|bar| bar.device).unwrap_or_default();
                    return Err(PciError::TwoControlAreas { first: first.device, second });
                }
            }
            Some(REGION_MAGIC) => {
                let Bar { mapping, file, .. } = bar;
                regions.push(super::Found { mapping, file: file.into(), writable: true });
            }
            // Somebody else's shared memory.
            _ => log::debug!("{} holds neither control area nor region", bar.device.display()),
        }
    }
    let control = control.ok_or(missing("control area"))?;
    if regions.is_empty() {
        return Err(missing("region"));
    }
    Ok(Found { control: control.mapping, control_file: control.file, regions })
}

fn shared_memory_devices(listed: &Path) -> Result<Vec<PathBuf>, PciError> {
    let failed = |source| PciError::Access { doing: "listing", file: listed.to_owned(), source };
    let mut devices = Vec::new();
    for entry in fs::read_dir(listed).map_err(failed)? {
        let device = entry.map_err(failed)?.path();
        let is = |file: &str, id: &str| {
            fs::read_to_string(device.join(file)).is_ok_and(|text| text.trim().eq_ignore_ascii_case(id))
        };
        if is("vendor", VENDOR) && is("device", DEVICE) {
            devices.push(device);
        }
    }
    devices.sort();
    Ok(devices)
}

/// Enables the device's memory and maps BAR 2.
fn open_bar(device: PathBuf) -> Result<Bar, PciError> {
    let enable = device.join("enable");
    // The kernel counts enables: only a device that is off needs one.
    if fs::read_to_string(&enable).is_ok_and(|state| state.trim() == "0") {
        fs::write(&enable, "1").map_err(|err| refused(&device, "writing 1 to", enable, err))?;
    }
    let path = device.join("resource2");
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    let file = opened.map_err(|err| refused(&device, "opening", path.clone(), err))?;
    let file_bytes = file.metadata().map_err(|err| refused(&device, "measuring", path.clone(), err))?.len();
    let mapped_bytes = usize::try_from(file_bytes).unwrap_or(0);
    let mapping =
        Mapping::shared(file.as_fd(), mapped_bytes).map_err(|err| refused(&device, "mapping", path, err))?;
    Ok(Bar { device, mapping, file })
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; only root may map PCI memory",
        _ => "",
    }
}

/// Tells lockdown from other refusals: both are EPERM, and only one is cured by becoming root.
fn refused(device: &Path, doing: &'static str, file: PathBuf, source: io::Error) -> PciError {
    let mode = fs::read_to_string(LOCKDOWN).unwrap_or_default();
    let locked_down = !mode.is_empty() && !mode.contains("[none]");
    if locked_down && source.raw_os_error() == Some(libc::EPERM) {
        return PciError::Lockdown { device: device.to_owned(), mode: mode.trim().to_owned() };
    }
    PciError::Access { doing, file, source }
}
