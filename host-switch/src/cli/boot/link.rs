//! The connection of a launcher to its switch, and what its end means.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::grant::{Grant, GrantError};
use super::watch::is_readable;
use crate::cli::Failure;
use crate::control::protocol::Request;

/// How often a switch that is gone is looked for.
const RENEWAL_PERIOD: Duration = Duration::from_secs(1);

/// What ties a VM to its switch.
#[derive(Debug)]
pub enum Link {
    /// The memory of the switch: without it, the VM ends.
    Needed(OwnedFd),
    /// Nothing but its NICs, which QEMU connects again by itself: the VM lives on, and is told to the next switch.
    Renewed(Renewal),
}

/// How a VM that needs no switch is told to the next one.
#[derive(Debug)]
pub struct Renewal {
    connection: Option<OwnedFd>,
    endpoint_socket: PathBuf,
    config: PathBuf,
    vm: String,
    process: Request,
    next: Instant,
    /// What the last try came to, said once.
    said: Option<String>,
}

impl Link {
    /// Whether the VM has to end, since its switch has. `pidfd` is its process.
    pub fn is_broken(&mut self, pidfd: &OwnedFd) -> Result<bool, Failure> {
        match self {
            // Nothing is ever said on the connection after the grant: readable means closed.
            Self::Needed(connection) => is_readable(&*connection, Duration::ZERO),
            Self::Renewed(renewal) => renewal.look(pidfd).map(|()| false),
        }
    }

    /// Whether the console is believed when it says that the guest cannot go on.
    pub fn trusts_console(&self) -> bool {
        matches!(self, Self::Needed(_))
    }
}

impl Renewal {
    /// A VM that `grant` was for, whose process was handed over with `process`.
    pub fn new(grant: Grant, endpoint_socket: PathBuf, config: PathBuf, vm: &str, process: Request) -> Self {
        Self {
            connection: Some(grant.connection),
            endpoint_socket,
            config,
            vm: vm.to_owned(),
            process,
            next: Instant::now(),
            said: None,
        }
    }

    fn look(&mut self, pidfd: &OwnedFd) -> Result<(), Failure> {
        if let Some(connection) = &self.connection {
            if !is_readable(connection, Duration::ZERO)? {
                return Ok(());
            }
            log::warn!(
                "vm {}: its switch has ended; it lives on, without packets until the next one starts",
                self.vm
            );
            self.connection = None;
        }
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + RENEWAL_PERIOD;
        match self.renew(pidfd) {
            Ok(connection) => {
                log::info!("vm {}: a switch has it again", self.vm);
                (self.connection, self.said) = (Some(connection), None);
            }
            Err(GrantError::NoSwitch { .. }) => {}
            Err(error) => {
                let why = error.to_string();
                if self.said.as_ref() != Some(&why) {
                    log::warn!("vm {}: {why}; it is tried again", self.vm);
                }
                self.said = Some(why);
            }
        }
        Ok(())
    }

    fn renew(&self, pidfd: &OwnedFd) -> Result<OwnedFd, GrantError> {
        let grant = Grant::fetch(&self.endpoint_socket, &self.config, &self.vm)?;
        grant.hand_over(&self.process, pidfd.as_fd())?;
        Ok(grant.connection)
    }
}
