//! What goes with a buffer when it changes hands.

use shm_ring::desc::{Kind, Verdict};

use crate::ids::{BufferIndex, EndpointId};
use crate::ledger::PacketPath;

/// What the host notes when a packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Where it came in and which chain carries it.
    pub path: PacketPath,
    /// Tag control information of a VLAN tag that the NIC has taken off; 0 = none.
    pub vlan: u16,
    /// Traffic class.
    pub class: u8,
    /// Offload flags of the host's own metadata.
    pub offload_flags: u8,
    /// Coarse host time, milliseconds, wrapping.
    pub host_time_ms: u32,
}

/// To whom a buffer is lent, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// The holder-to-be.
    pub endpoint: EndpointId,
    /// Position of the descriptor in the ring: [`shm_ring::ring::Producer::next_sequence`].
    pub sequence: u32,
    /// With a packet or empty.
    pub kind: Kind,
    /// How far the packet has come: of the [`crate::forwarding::Decision`] that sent it here.
    pub path: PacketPath,
}

/// A descriptor that passed every check; its buffer is the lcore's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Which buffer.
    pub index: BufferIndex,
    /// Where the data starts, in bytes from the start of the buffer. Offset plus length is within the buffer.
    pub data_offset_bytes: u16,
    /// How long the data is. Within the frame limits, unless the buffer just goes home (`Drop`, `ReturnEmpty`).
    pub data_len_bytes: u16,
    /// As what it was lent.
    pub kind: Kind,
    /// What the NF says. Its right to say so is checked by [`crate::forwarding::Forwarding::after`].
    pub verdict: Verdict,
    /// The target of the verdict as the endpoint gave it, unchecked.
    pub aux: u32,
    /// How far the packet had come when it was lent.
    pub path: PacketPath,
}

/// A buffer that came home by proof of its holder's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaimed {
    /// Which buffer; the lcore's now.
    pub index: BufferIndex,
    /// Whether it was lent with a packet, which is lost.
    pub had_packet: bool,
}
