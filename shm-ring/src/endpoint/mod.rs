//! One endpoint of a control area, seen from both sides: handshake words and queue pairs.

mod guest;
mod host;

pub use guest::{Answer, Counter, GuestEndpoint};
pub use host::{GuestReport, HostEndpoint};

use crate::reference::ReferenceTable;
use crate::ring::RingMemory;

/// The two rings between one lcore and one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct QueuePair<'m> {
    /// The lcore at the host's end.
    pub lcore: u16,
    /// Packets and empty buffers that the host lends.
    pub host_to_guest: RingMemory<'m>,
    /// What the guest gives back.
    pub guest_to_host: RingMemory<'m>,
    /// The words of an observer's references; empty of any other endpoint.
    pub references: ReferenceTable<'m>,
}
