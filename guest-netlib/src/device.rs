//! The switch's memory, found and mapped: one control area and the region that belongs to it.
//!
//! A process or container fetches it over the switch's endpoint socket; a guest finds it among its PCI devices.
//! Which of the two is decided by [`Options`]: a socket means process.

mod pci;
mod process;

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shm_ring::area::{AreaError, GuestArea, GuestEndpoint};

pub use pci::PciError;
pub use process::ProcessError;

use crate::mapping::Mapping;
use crate::region::{Buffers, Region};

/// Where to look for the switch's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The switch's endpoint.sock; none means: we are in a guest, look at its PCI devices.
    pub socket: Option<PathBuf>,
    /// Our name in the switch's config; needed with a socket.
    pub name: Option<String>,
    /// The folder that lists the PCI devices.
    pub pci_devices: PathBuf,
    /// Whether this program knows what to do as an observer: see [`crate::view`].
    pub observes: bool,
}

impl Options {
    /// From `NETVM_SOCKET` and `NETVM_NAME`; without them, the guest's PCI devices, listed in
    /// `NETVM_PCI_DEVICES` or where Linux lists them.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            socket: std::env::var_os("NETVM_SOCKET").map(PathBuf::from),
            name: std::env::var("NETVM_NAME").ok(),
            pci_devices: std::env::var_os("NETVM_PCI_DEVICES").map_or(pci::PCI_DEVICES.into(), PathBuf::from),
            observes: false,
        }
    }

    /// The memory of process `name` from the switch at `socket`.
    #[must_use]
    pub fn process(socket: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self { socket: Some(socket.into()), name: Some(name.into()), ..Self::default() }
    }
}

impl Default for Options {
    /// The guest's PCI devices.
    fn default() -> Self {
        Self { socket: None, name: None, pci_devices: pci::PCI_DEVICES.into(), observes: false }
    }
}

/// Why the switch's memory is not there or not usable.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A socket without a name.
    #[error(
        "a socket without a name: say which [[process]] of the switch's config this is by NETVM_NAME or --name"
    )]
    NameMissing,
    /// Not from the endpoint socket.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Not among the PCI devices.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The control area makes no sense.
    #[error("control area: {0}")]
    Control(AreaError),
    /// No region that belongs to the control area.
    #[error("region: {0}")]
    Region(AreaError),
    /// The region is read-only, and this program wants packets of its own.
    #[error(
        "the switch's config lets this VM or process only observe its domain (access = \"observer\"), and this program \
         handles packets; run one that looks on, such as monitor, or give it access = \"trusted\" or \"copied\""
    )]
    Observer,
    /// The region could not be mapped read-only.
    #[error("mapping the region read-only: {0}")]
    ReadOnly(std::io::Error),
}

/// What keeps the memory ours, and shows its end.
#[derive(Debug)]
enum Link {
    /// The connection to the switch; its end is our death.
    Process(OwnedFd),
    /// The file that maps the control area; locks on it end with the last mapping of it.
    Guest(File),
}

/// The mapped memory of one VM or process.
///
/// Law of this struct: `area` calls its lifetime `'static`, which holds as long as the `Device` lives. So
/// whatever is taken out of `area` stays beside an `Arc<Device>` and inside this crate.
#[derive(Debug)]
pub struct Device {
    area: GuestArea<'static>,
    region: Region,
    _control: Mapping,
    /// By position: whether somebody in this process has the endpoint.
    taken: Vec<AtomicBool>,
    /// The region is read-only.
    observes: bool,
    /// Last, so that it ends after the memory is unmapped: its end says that we write no more.
    link: Link,
}

impl Device {
    /// Finds and maps the memory.
    ///
    /// # Errors
    /// With what was looked for, what was found, and what to check.
    pub fn find(options: &Options) -> Result<Arc<Self>, DeviceError> {
        match &options.socket {
            Some(socket) => {
                let name = options.name.as_deref().ok_or(DeviceError::NameMissing)?;
                let lent = process::fetch(socket, name)?;
                Self::open(options, lent.control, vec![lent.region], Link::Process(lent.connection))
            }
            None => {
                let found = pci::find(&options.pci_devices)?;
                Self::open(options, found.control, found.regions, Link::Guest(found.control_file))
            }
        }
    }

    /// Checks the control area and picks the region that it names.
    fn open(
        options: &Options,
        control: Mapping,
        regions: Vec<Found>,
        link: Link,
    ) -> Result<Arc<Self>, DeviceError> {
        // SAFETY:
        // - The mapping is readable and writable for its whole length. It stays in place for as long as the
        //   `Device` lives, which owns it; by the law of `Device` nothing of the area outlives that.
        // - Whoever writes these bytes on this machine does so through shm-ring, atomically.
        let area: GuestArea<'static> = unsafe { GuestArea::open(control.base(), control.mapped_bytes()) }
            .map_err(DeviceError::Control)?;
        let observes = area.header().access != 0;
        if observes && !options.observes {
            return Err(DeviceError::Observer);
        }
        let region = pick_region(regions, &area)?;
        let taken = (0..area.endpoint_count()).map(|_| AtomicBool::new(false)).collect();
        Ok(Arc::new(Self { area, region, _control: control, taken, observes, link }))
    }

    /// How many endpoints this VM or process has.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.area.endpoint_count()
    }

    /// Whether the switch still holds its end. In a guest this is always so: the memory outlives the switch.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match &self.link {
            Link::Process(connection) => process::is_connected(connection),
            Link::Guest(_) => true,
        }
    }

    pub(crate) fn area(&self) -> &GuestArea<'static> {
        &self.area
    }

    /// The endpoint at `position`, if there is one.
    pub(crate) fn endpoint(&self, position: usize) -> Option<GuestEndpoint<'static>> {
        (position < self.endpoint_count()).then(|| self.area.endpoint(position))
    }

    /// Whether it only observes: its endpoints are brought views, and no packets.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.observes
    }

    /// What its endpoints may hold: nothing, as an observer.
    pub(crate) fn buffers(&self) -> Buffers {
        if self.observes { self.region.buffers().none() } else { self.region.buffers() }
    }

    /// What its endpoints may look at.
    pub(crate) fn seen(&self) -> Buffers {
        self.region.buffers()
    }

    /// The file whose locks tell the processes of a guest apart; a process of the host needs none, because the
    /// switch lets one in at a time.
    pub(crate) fn lock_file(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            Link::Process(_) => None,
            Link::Guest(file) => Some(file.as_fd()),
        }
    }

    /// Claims an endpoint within this process; false if somebody has it.
    pub(crate) fn take(&self, position: usize) -> bool {
        // Acquire: pairs with the Release in `let_go`, so that the previous owner is done with the rings.
        self.taken.get(position).is_some_and(|taken| !taken.swap(true, Ordering::Acquire))
    }

    pub(crate) fn let_go(&self, position: usize) {
        if let Some(taken) = self.taken.get(position) {
            taken.store(false, Ordering::Release);
        }
    }
}

/// A file that may be the region, mapped.
pub(crate) struct Found {
    pub(crate) mapping: Mapping,
    pub(crate) file: OwnedFd,
    /// Whether the mapping allows writes.
    pub(crate) writable: bool,
}

impl Found {
    /// The mapping as the access of the control area wants it: an observer maps nothing writable, whatever its file
    /// would allow.
    fn map_for(self, access: u16) -> std::io::Result<Mapping> {
        if access == 0 || !self.writable {
            return Ok(self.mapping);
        }
        Mapping::read_only(self.file.as_fd(), self.mapping.mapped_bytes())
    }
}

/// The first region that passes; if none does, what was wrong with the last.
fn pick_region(regions: Vec<Found>, area: &GuestArea<'_>) -> Result<Region, DeviceError> {
    let mut wrong = AreaError::Mapping { mapped_bytes: 0, needed_bytes: area.region().region_bytes };
    for found in regions {
        let mapping = found.map_for(area.header().access).map_err(DeviceError::ReadOnly)?;
        match Region::open(mapping, area.region()) {
            Ok(region) => return Ok(region),
            Err(err) => wrong = err,
        }
    }
    Err(DeviceError::Region(wrong))
}
