//! Leaves an epoch without losing a packet.
//!
//! The switch feeds an endpoint until it learns that it leaves; what it lends meanwhile would be lost. So the
//! network function first says that it is about to leave ([`crate::Endpoint::begin_leaving`]), goes on until the switch has
//! stopped feeding and nothing is left, and leaves then. [`crate::Endpoint::run`] does this by itself when it is stopped; an own
//! loop does it like this:
//!
//! ```no_run
//! # use guest_netlib::{Burst, Endpoint, PollError};
//! # fn last_rounds(endpoint: Endpoint) -> Result<(), PollError> {
//! let pair = &endpoint.queue_pairs()[0];
//! let mut burst = Burst::new();
//! let leaving = endpoint.begin_leaving();
//! while !leaving.has_expired() {
//!     // Asked before the poll: what that poll finds is the last then.
//!     let last = leaving.feeding_has_stopped();
//!     if pair.poll(&mut burst)? == 0 && last {
//!         break;
//!     }
//!     for packet in &mut burst {
//!         packet.next();
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::cell::Cell;
use std::time::{Duration, Instant};

use shm_ring::area::GuestEndpoint;

use crate::device::Device;

/// Longest time between the wish to leave and the leave: a quarter of what a supervisor waits after SIGTERM.
const LIMIT: Duration = Duration::from_millis(500);
/// Least time between two looks at the connection.
const CONNECTION_LOOK: Duration = Duration::from_millis(20);

/// An endpoint that is about to leave.
#[derive(Debug)]
pub struct Leaving<'e> {
    device: &'e Device,
    words: Option<GuestEndpoint<'static>>,
    epoch: u32,
    deadline: Instant,
    connection_seen: Cell<Instant>,
}

impl<'e> Leaving<'e> {
    pub(crate) fn begin(device: &'e Device, words: Option<GuestEndpoint<'static>>, epoch: u32) -> Self {
        let now = Instant::now();
        if let Some(words) = words.as_ref().filter(|_| epoch != 0) {
            words.drain(epoch);
        }
        Self { device, words, epoch, deadline: now + LIMIT, connection_seen: Cell::new(now) }
    }

    /// Whether the switch has stopped feeding: what a poll after this finds is the last.
    #[must_use]
    pub fn feeding_has_stopped(&self) -> bool {
        self.words.as_ref().is_some_and(GuestEndpoint::feeding_has_stopped)
    }

    /// Whether waiting is of no more use: the time is up, the switch has ended this epoch, or it is gone.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        let now = Instant::now();
        let current = self.words.as_ref().is_some_and(|words| words.host_epoch() == self.epoch);
        now >= self.deadline || self.epoch == 0 || !current || self.is_switch_gone(now)
    }

    fn is_switch_gone(&self, now: Instant) -> bool {
        if now - self.connection_seen.get() < CONNECTION_LOOK {
            return false;
        }
        self.connection_seen.set(now);
        !self.device.is_connected()
    }
}
