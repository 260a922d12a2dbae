//! A VM or process of the config: its memory, its endpoints, and whoever lives behind it now.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use switch_core::ids::{DomainId, EndpointId};

use super::area::ControlArea;
use super::lending::Lending;
use super::protocol::{ClientKind, Granted};
use super::served::ServedEndpoint;
use super::status::VmStatus;
use crate::qemu::qmp::{Event, Qmp};
use crate::region::Region;

/// A VM or process.
#[derive(Debug)]
pub struct Owner {
    name: String,
    kind: ClientKind,
    read_only: bool,
    domain: DomainId,
    area: ControlArea,
    region: Arc<Region>,
    endpoints: Vec<ServedEndpoint>,
    /// Whether somebody is connected for it.
    connected: bool,
    running: Running,
    /// A VM may still run here, and nothing would tell of its end.
    unwatched: bool,
}

/// What is known of the VM behind an owner.
#[derive(Debug, Default)]
struct Running {
    qmp: Option<Qmp>,
    pidfd: Option<OwnedFd>,
    pid: i32,
    accelerator: String,
    /// QEMU has said that it shuts down; its CPUs may still run.
    is_shutting_down: bool,
}

/// Memory that is handed out: sizes, control area, region.
#[derive(Debug)]
pub struct Grant<'o> {
    /// What the client is told.
    pub told: Granted,
    /// What it maps.
    pub fds: [std::os::fd::BorrowedFd<'o>; 2],
}

impl Owner {
    /// An owner that nobody has come for yet.
    #[must_use]
    pub fn new(
        plan: &crate::plan::OwnerPlan,
        area: ControlArea,
        region: Arc<Region>,
        endpoints: Vec<ServedEndpoint>,
    ) -> Self {
        Self {
            name: plan.name.clone(),
            kind: plan.kind,
            read_only: plan.read_only,
            domain: plan.domain,
            area,
            region,
            endpoints,
            connected: false,
            running: Running::default(),
            unwatched: false,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// VM or process.
    #[must_use]
    pub fn kind(&self) -> ClientKind {
        self.kind
    }

    /// Its domain.
    #[must_use]
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// Its endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[ServedEndpoint] {
        &self.endpoints
    }

    /// Whether it is taken: somebody is connected, or its VM runs.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.connected || self.unwatched || self.running.qmp.is_some()
    }

    /// Whether a guest is listened to.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.endpoints.iter().any(ServedEndpoint::is_open)
    }

    /// Its VM, while one runs.
    #[must_use]
    pub fn vm(&self) -> Option<VmStatus> {
        let Running { qmp, pid, accelerator, .. } = &self.running;
        qmp.as_ref().map(|_| VmStatus {
            name: self.name.clone(),
            pid: *pid,
            accelerator: accelerator.clone(),
        })
    }

    /// The QMP connection to wait on.
    #[must_use]
    pub fn qmp(&self) -> Option<&Qmp> {
        self.running.qmp.as_ref()
    }

    /// Takes a client. A process is proved by its connection; a VM has to bring QMP first.
    pub fn take(&mut self, lending: &dyn Lending) -> Grant<'_> {
        self.connected = true;
        for endpoint in &mut self.endpoints {
            endpoint.prepare(lending);
            if self.kind == ClientKind::Process {
                endpoint.open();
            }
        }
        let told = Granted {
            control_bytes: self.area.bytes(),
            region_bytes: self.region.memory().bytes(),
            read_only: self.read_only,
        };
        Grant { told, fds: [self.area.fd(), self.region.memory().fd()] }
    }

    /// QEMU's QMP socket has come: from here on its end proves the end of the VM.
    ///
    /// # Errors
    /// If there is one already.
    pub fn watch_qmp(&mut self, qmp: Qmp) -> Result<(), &'static str> {
        if self.running.qmp.is_some() {
            return Err("this VM has a QMP socket already");
        }
        self.running.qmp = Some(qmp);
        for endpoint in &mut self.endpoints {
            endpoint.open();
        }
        log::info!("vm {} started", self.name);
        Ok(())
    }

    /// QEMU's process, as `netvm boot` says.
    pub fn set_process(&mut self, pid: i32, pidfd: Option<OwnedFd>, accelerator: Option<String>) {
        self.running.pid = pid;
        self.running.pidfd = pidfd;
        self.running.accelerator = accelerator.unwrap_or_default();
    }

    /// The client's connection has ended. For a process that is the proof of its end.
    pub fn disconnected(&mut self, lending: &dyn Lending) {
        self.connected = false;
        if self.kind == ClientKind::Process {
            // Its last words first: who left in good order is not reported dead.
            self.poll(lending);
            self.prove_stopped(true, "its process has ended", lending);
        }
    }

    /// Looks at the QMP connection, which has something to read.
    pub fn read_qmp(&mut self, lending: &dyn Lending) {
        let Some(qmp) = &mut self.running.qmp else { return };
        let events = match qmp.read() {
            Ok(events) => events,
            Err(error) => return self.lose_qmp(&error, lending),
        };
        for event in events {
            match event {
                // Said while the CPUs are paused, behind the reset.
                Event::Reset => {
                    self.running.is_shutting_down = false;
                    self.prove_stopped(false, "its guest starts over", lending);
                }
                // Said before the CPUs are stopped: the guest may write for some milliseconds more. What proves
                // its end is the end of QEMU, or, if QEMU stays (`-no-shutdown`), STOP; only a reset leads on from
                // there.
                Event::Shutdown => self.running.is_shutting_down = true,
                Event::Stop if self.running.is_shutting_down => {
                    self.prove_stopped(false, "its guest has shut down", lending);
                }
                Event::Eof => {
                    self.running = Running::default();
                    log::info!("vm {} ended", self.name);
                    self.prove_stopped(true, "its VM has ended", lending);
                }
                Event::Ready
                | Event::Stop
                | Event::Resume
                | Event::Powerdown
                | Event::Done
                | Event::Refused => {}
            }
        }
    }

    /// QMP cannot be read, so the end of this VM will not be noticed: nothing of it is served any more, and
    /// nobody else gets its memory.
    fn lose_qmp(&mut self, error: &std::io::Error, lending: &dyn Lending) {
        log::error!("vm {}: its QMP socket cannot be read: {error}; it is not served again", self.name);
        self.running.qmp = None;
        self.unwatched = true;
        self.expel("its VM cannot be watched any more", lending);
    }

    /// Polls the guests' words.
    pub fn poll(&mut self, lending: &dyn Lending) {
        if self.area.is_dead() && self.is_open() {
            self.expel("a page of its control area is lost", lending);
        }
        for endpoint in &mut self.endpoints {
            endpoint.poll(lending);
        }
    }

    /// Memory of all its endpoints is lost.
    pub fn expel(&mut self, cause: &str, lending: &dyn Lending) {
        for endpoint in &mut self.endpoints {
            endpoint.expel(cause, lending);
        }
    }

    /// Hands a violation to the endpoint it is about; false if that is not here.
    pub fn fault(&mut self, id: EndpointId, cause: &str, lending: &dyn Lending) -> bool {
        let endpoint = self.endpoints.iter_mut().find(|endpoint| endpoint.id() == id);
        endpoint.map(|endpoint| endpoint.fault(cause, lending)).is_some()
    }

    /// Tells its guests that the switch ends; a VM that nobody else looks after ends too.
    pub fn say_goodbye(&self) {
        for endpoint in &self.endpoints {
            endpoint.say_goodbye();
        }
        let orphan = self.running.pidfd.as_ref().filter(|_| !self.connected);
        if let Some(pidfd) = orphan {
            match rustix::process::pidfd_send_signal(pidfd.as_fd(), rustix::process::Signal::TERM) {
                Ok(()) => {
                    log::info!("vm {} was detached from `netvm boot`: ended with the switch", self.name)
                }
                Err(error) => log::warn!("vm {} runs on without a switch: {error}", self.name),
            }
        }
    }

    fn prove_stopped(&mut self, closed: bool, cause: &str, lending: &dyn Lending) {
        for endpoint in &mut self.endpoints {
            endpoint.prove_stopped(closed, cause, lending);
        }
    }
}
