//! One entry of the ledger: who holds a buffer, and what the host itself knows about the packet in it.

use std::sync::atomic::{Ordering, compiler_fence};

use crate::ids::{ChainId, PortId};
use crate::transition::HolderState;

/// What the host keeps about one buffer, 32 bytes, in a host-private file that outlives the process.
///
/// No pointers, no padding; all zero is a buffer in the pool that was never lent. A new switch process reads
/// what its predecessor left, so a change of this layout is a change of the file's version.
///
/// The first word says who holds the buffer and where on its way the packet is, the second one which way that
/// is: [`crate::passage`] compares and replaces whole words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(32))]
pub struct LedgerEntry {
    /// A [`HolderState`] code. Written last when a buffer is lent: see [`crate::shard::Shard::lend`].
    pub state: u8,
    /// The [`shm_ring::desc::Kind`] code under which the buffer was lent last.
    pub kind: u8,
    /// Position in the chain's path at which the packet is; the path's length means the egress port.
    pub hop: u8,
    /// Endpoints that have had the packet so far.
    pub visited: u8,
    /// The holder, in the states `Endpoint` and `Quarantined`; else the last one.
    pub endpoint: u16,
    /// Rises (and wraps) each time the buffer comes home from an endpoint, so old descriptors die.
    pub generation: u16,
    /// The chain that carries the packet, or [`ChainId::NONE`].
    pub chain: u16,
    /// The port that received the packet, or [`PortId::NONE`].
    pub ingress_port: u16,
    /// Hash of the flow, equal in both directions.
    pub flow_hash: u32,
    /// Position in the host_to_guest ring at hand-over.
    pub ring_sequence: u32,
    /// Coarse host time at ingress, milliseconds, wrapping.
    pub host_time_ms: u32,
    /// Tag control information of a VLAN tag that the NIC has taken off; 0 = none.
    pub vlan: u16,
    /// Observer references. They never make a holder; 0 of a buffer in the pool.
    pub observer_count: u16,
    /// Traffic class.
    pub class: u8,
    /// Offload flags of the host's own metadata.
    pub offload_flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<LedgerEntry>() == 32 && align_of::<LedgerEntry>() == 32);

impl LedgerEntry {
    /// Who holds the buffer; `None` for a code that this version does not know.
    #[inline(always)]
    #[must_use]
    pub const fn holder_state(&self) -> Option<HolderState> {
        HolderState::from_code(self.state)
    }

    /// How far the packet has come.
    #[inline(always)]
    #[must_use]
    pub const fn path(&self) -> PacketPath {
        PacketPath {
            chain: ChainId(self.chain),
            hop: self.hop,
            visited: self.visited,
            ingress_port: PortId(self.ingress_port),
            flow_hash: self.flow_hash,
        }
    }

    /// Notes how far the packet has come.
    #[inline(always)]
    pub(crate) const fn set_path(&mut self, path: PacketPath) {
        self.chain = path.chain.0;
        self.hop = path.hop;
        self.visited = path.visited;
        self.ingress_port = path.ingress_port.0;
        self.flow_hash = path.flow_hash;
    }

    /// Endpoint or Quarantined → Lcore. State first: a crash in between leaves the buffer the host's, and
    /// recovery raises the generation of whatever it brings home. The other order would leave a loan whose
    /// generation the endpoint was never told.
    #[inline(always)]
    pub(crate) fn come_home(&mut self) {
        self.state = HolderState::Lcore as u8;
        // As in [`crate::shard::Shard::lend`]: the process may be killed between the two stores, so the
        // compiler must keep their order.
        compiler_fence(Ordering::AcqRel);
        self.generation = self.generation.wrapping_add(1);
    }
}

/// Where a packet came in and how far it has come along its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketPath {
    /// The chain that carries it, or [`ChainId::NONE`].
    pub chain: ChainId,
    /// Position in the chain's path; the path's length means the egress port.
    pub hop: u8,
    /// Endpoints that have had it so far; at the hop limit it is dropped.
    pub visited: u8,
    /// The port that received it, or [`PortId::NONE`].
    pub ingress_port: PortId,
    /// Hash of its flow, equal in both directions.
    pub flow_hash: u32,
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn each_field_lies_where_the_ledger_file_has_it() {
        assert_eq!(size_of::<LedgerEntry>(), 32);
        let offsets = [
            offset_of!(LedgerEntry, state),
            offset_of!(LedgerEntry, kind),
            offset_of!(LedgerEntry, hop),
            offset_of!(LedgerEntry, visited),
            offset_of!(LedgerEntry, endpoint),
            offset_of!(LedgerEntry, generation),
            offset_of!(LedgerEntry, chain),
            offset_of!(LedgerEntry, ingress_port),
            offset_of!(LedgerEntry, flow_hash),
            offset_of!(LedgerEntry, ring_sequence),
            offset_of!(LedgerEntry, host_time_ms),
            offset_of!(LedgerEntry, vlan),
            offset_of!(LedgerEntry, observer_count),
            offset_of!(LedgerEntry, class),
            offset_of!(LedgerEntry, offload_flags),
            offset_of!(LedgerEntry, reserved),
        ];
        assert_eq!(offsets, [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 26, 28, 29, 30]);
    }

    #[test]
    fn a_zeroed_entry_is_a_buffer_in_the_pool() {
        assert_eq!(LedgerEntry::default().holder_state(), Some(HolderState::Pool));
    }

    #[test]
    fn a_path_that_was_noted_reads_back_the_same() {
        let path = PacketPath {
            chain: ChainId(1),
            hop: 2,
            visited: 3,
            ingress_port: PortId(4),
            flow_hash: 0xdead_beef,
        };
        let mut entry = LedgerEntry::default();
        entry.set_path(path);
        assert_eq!(entry.path(), path);
    }
}
