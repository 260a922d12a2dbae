//! The memory of a VM, as the switch hands it out.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use shm_ring::area::{AreaLayout, RegionGeometry};

use crate::cli::Failure;
use crate::control::protocol::{ClientKind, Granted, Reply, Request, Said};
use crate::control::seqpacket::{self, Received};
use crate::plan::Plan;
use crate::qemu::command::SharedArea;
use crate::region::FilePages;

/// Why the switch gives no memory.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Nobody listens.
    #[error(
        "no switch answers at {}: {source}; start it first with `netvm run {}`",
        socket.display(),
        config.display()
    )]
    NoSwitch {
        /// Its endpoint socket.
        socket: PathBuf,
        /// The config given.
        config: PathBuf,
        /// What the system said.
        source: Errno,
    },
    /// It said no.
    #[error("the switch refuses: {0}")]
    Refused(String),
    /// It said something else.
    #[error("the switch at {} does not answer as expected: {cause}; is it another version?", socket.display())]
    Strange {
        /// Its endpoint socket.
        socket: PathBuf,
        /// What came.
        cause: String,
    },
}

/// What the switch gave.
#[derive(Debug)]
pub struct Grant {
    /// Open as long as this process looks after the VM.
    pub connection: OwnedFd,
    /// Control area and region; none for an untrusted VM.
    pub areas: Vec<SharedArea>,
    /// The user that QEMU is to change to.
    pub uid: Option<u32>,
}

impl Grant {
    /// Asks the switch behind `socket` for the memory of a VM.
    pub fn fetch(socket: &Path, config: &Path, vm: &str) -> Result<Self, GrantError> {
        let strange = |cause: String| GrantError::Strange { socket: socket.to_owned(), cause };
        let connection = seqpacket::connect_to(socket).map_err(|source| GrantError::NoSwitch {
            socket: socket.to_owned(),
            config: config.to_owned(),
            source,
        })?;
        let hello = Request::Hello(ClientKind::Vm, vm.to_owned()).to_bytes();
        seqpacket::send(&connection, &hello, &[]).map_err(|error| strange(error.to_string()))?;
        let (bytes, fds) =
            match seqpacket::receive(&connection).map_err(|error| strange(error.to_string()))? {
                Received::Message { bytes, fds } => (bytes, fds),
                Received::End => return Err(strange("it hung up".to_owned())),
                Received::TooLong => return Err(strange("its answer is too long".to_owned())),
            };
        let granted = match Reply::parse(&bytes).map_err(|error| strange(error.to_string()))? {
            Said::Ok(granted) => granted,
            Said::Taken(_) => return Err(strange("it took what it was not given".to_owned())),
            Said::Error(why) => return Err(GrantError::Refused(why)),
        };
        let areas = if granted.is_nothing() {
            Vec::new()
        } else {
            let fds = <[OwnedFd; 2]>::try_from(fds)
                .map_err(|fds| strange(format!("{} descriptors instead of 2", fds.len())))?;
            areas(&granted, fds)
        };
        Ok(Self { connection, areas, uid: granted.uid })
    }

    /// Hands over a message with a descriptor, and waits until the switch says that it took it.
    pub fn hand_over(&self, request: &Request, fd: BorrowedFd<'_>) -> Result<(), GrantError> {
        let refused = |why: String| GrantError::Refused(why);
        seqpacket::send(&self.connection, &request.to_bytes(), &[fd])
            .map_err(|error| refused(error.to_string()))?;
        let Received::Message { bytes, .. } =
            seqpacket::receive(&self.connection).map_err(|error| refused(error.to_string()))?
        else {
            return Err(refused("it hung up".to_owned()));
        };
        match Reply::parse(&bytes).map_err(|error| refused(error.to_string()))? {
            Said::Taken(_) => Ok(()),
            Said::Error(why) => Err(refused(why)),
            Said::Ok(_) => Err(refused("it gave memory that was not asked for".to_owned())),
        }
    }
}

fn areas(granted: &Granted, [control, region]: [OwnedFd; 2]) -> Vec<SharedArea> {
    let Granted { control_bytes, region_bytes, read_only, .. } = *granted;
    vec![
        SharedArea { name: "control", fd: control, path: None, bytes: control_bytes, read_only: false },
        SharedArea { name: "region", fd: region, path: None, bytes: region_bytes, read_only },
    ]
}

/// Empty memory of the sizes that the switch would give. It takes up no pages.
pub fn stand_in(plan: &Plan, vm: &str) -> Result<Vec<SharedArea>, Failure> {
    let owner = plan.owners.iter().find(|owner| owner.kind == ClientKind::Vm && owner.name == vm);
    let owner = owner.ok_or_else(|| format!("no VM {vm:?} in the plan"))?;
    let domain = &plan.domains[owner.domain.index()];
    let geometry = RegionGeometry::fit(domain.region_bytes, domain.buffer_stride_bytes, 0)?;
    let control_bytes = AreaLayout::plan(&owner.area(geometry))?.bytes();
    // The file system says how long a file is. Where its folder is missing, `netvm run` will say so.
    let file_pages = owner.path.as_deref().map_or(Ok(FilePages::Plain), FilePages::beside);
    let granted = Granted {
        control_bytes: file_pages.unwrap_or(FilePages::Plain).whole(control_bytes),
        region_bytes: domain.region_bytes,
        read_only: owner.read_only,
        uid: None,
    };
    let memory = |bytes| -> Result<OwnedFd, Errno> {
        let fd = memfd_create("netvm-stand-in", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, bytes)?;
        Ok(fd)
    };
    let mut region = memory(granted.region_bytes)?;
    if granted.read_only {
        let path = format!("/proc/self/fd/{}", region.as_raw_fd());
        region = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    }
    let mut areas = areas(&granted, [memory(granted.control_bytes)?, region]);
    for (area, path) in areas.iter_mut().zip([&owner.path, &domain.path]) {
        area.path.clone_from(path);
    }
    Ok(areas)
}
