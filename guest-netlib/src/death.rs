//! The notice that a network function of this guest has died, given by its supervisor.
//!
//! The switch takes back what a dead network function held only on proof that no old writer runs. In a guest that
//! proof is a lock: an attached [`crate::Endpoint`] locks its byte of the control area's device file, and such
//! a lock lasts as long as any process maps the memory through it, forked children included. So whoever gets
//! the lock knows that nobody of that attach is left.

use std::io;
use std::sync::Arc;

use shm_ring::area::GuestEndpoint;

use crate::attach::AttachError;
use crate::device::Device;
use crate::seat::{Seat, SeatError};

/// Tells the switch of deaths at one endpoint.
#[derive(Debug)]
pub struct DeathNotice {
    words: GuestEndpoint<'static>,
    position: usize,
    /// Keeps the memory under `words` mapped; last, so that it goes last.
    device: Arc<Device>,
}

impl DeathNotice {
    /// For the endpoint at `position`.
    ///
    /// # Errors
    /// If there is no such endpoint.
    pub fn new(device: Arc<Device>, position: usize) -> Result<Self, AttachError> {
        let count = device.endpoint_count();
        let words = device.endpoint(position).ok_or(AttachError::NoSuchEndpoint { position, count })?;
        Ok(Self { words, position, device })
    }

    /// If nobody is attached any more, tells the switch that the last confirmed epoch is over, and returns it
    /// (0 if there was none yet). `None` while somebody still maps the memory.
    ///
    /// # Errors
    /// If the lock cannot be tried.
    pub fn give(&self) -> io::Result<Option<u32>> {
        // Held until the notice is given, so that nobody attaches in between.
        let _seat = match Seat::take(&self.device, self.position) {
            Ok(seat) => seat,
            Err(SeatError::Taken) => return Ok(None),
            Err(SeatError::Lock(err)) => return Err(err),
        };
        let epoch = self.words.confirmed_epoch();
        if epoch != 0 {
            self.words.reaped(epoch);
        }
        Ok(Some(epoch))
    }
}
