//! The control area of one VM or process: its file and the host's view of it.

use std::os::fd::BorrowedFd;

use shm_ring::area::{AreaError, AreaLayout, HostArea, RegionGeometry};
use shm_ring::endpoint::HostEndpoint;

use crate::plan::OwnerPlan;
use crate::region::{FileIdentity, Mapping, MemoryError, Pages, SharedMemory};

/// Why there is no control area.
#[derive(Debug, thiserror::Error)]
pub enum ControlAreaError {
    /// Breaks a rule of the layout.
    #[error("control area of {owner}: {source}")]
    Layout {
        /// VM or process.
        owner: String,
        /// Which rule.
        source: AreaError,
    },
    /// There is no such memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A control area; its mapping stays for the rest of the process.
#[derive(Debug)]
pub struct ControlArea {
    memory: SharedMemory,
    mapping: &'static Mapping,
    area: HostArea<'static>,
}

impl ControlArea {
    /// Makes the control area of an owner over the region of its domain.
    ///
    /// On plain pages, unless it is a file beside the region of its domain: it is far smaller than a huge page,
    /// and only its owner maps it.
    ///
    /// # Errors
    /// If its plan breaks a rule of the layout, or there is no such memory.
    pub fn create(owner: &OwnerPlan, region: RegionGeometry) -> Result<Self, ControlAreaError> {
        let refused = |source| ControlAreaError::Layout { owner: owner.name.clone(), source };
        let layout = AreaLayout::plan(&owner.area(region)).map_err(refused)?;
        let memory = match &owner.path {
            None => {
                SharedMemory::create(&format!("netvm-control-{}", owner.name), layout.bytes(), Pages::Plain)?
            }
            // Beside the region, on whatever pages that has.
            Some(path) => SharedMemory::create_file(path, layout.bytes(), Pages::HugetlbOrPlain)?,
        };
        let mapping = Mapping::shared(&memory)?.leak();
        // SAFETY: `mapping` is writable over all its bytes and leaked, so it stays in place for 'static. On this
        // host only shm-ring touches these bytes; the owner's process or QEMU has a mapping of its own, and what
        // it writes there is taken for granted by nobody.
        let area = unsafe { HostArea::create(mapping.base(), mapping.bytes(), &layout) }.map_err(refused)?;
        Ok(Self { memory, mapping, area })
    }

    /// The file, for this owner only.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// Its file, if it has a name for others.
    #[must_use]
    pub fn file(&self) -> Option<&FileIdentity> {
        self.memory.file()
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Whether a page of it was lost: its owner is not to be served any more.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.mapping.is_dead()
    }

    /// The endpoint at a position.
    #[must_use]
    pub fn endpoint(&self, position: usize) -> HostEndpoint<'static> {
        self.area.endpoint(position)
    }
}
