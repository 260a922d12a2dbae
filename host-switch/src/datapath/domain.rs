//! One domain on one lcore: its shard, its pool, and what is counted of it.

use std::sync::Arc;

use dpdk::Pool;
use shm_ring::area::RegionGeometry;
use switch_core::audit::ShardAudit;
use switch_core::counters::DomainCounters;
use switch_core::frame::FrameLimits;
use switch_core::header::HeaderCopy;
use switch_core::ids::{BufferIndex, DomainId};

use super::counters::DomainSnapshot;
use super::sample::Sampler;
use super::shard_cell::ShardCell;
use crate::region::{HEADER_BYTES_MAX, Mapping};

/// A frame in the lcore's hands: which buffer, and where in it the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub index: BufferIndex,
    pub offset_bytes: u16,
    pub len_bytes: u16,
}

/// One domain on one lcore.
#[derive(Debug)]
pub(super) struct DomainLane {
    pub cell: Arc<ShardCell>,
    pub pool: Pool,
    pub state: DomainState,
    /// Positions of the queues whose frames land here.
    pub ingresses: Vec<usize>,
    /// The ports that are NICs of untrusted VMs.
    pub nics: Vec<usize>,
    /// Positions of the endpoints whose returns are taken.
    pub served: Vec<usize>,
}

/// What of a domain may be used while its shard is borrowed.
#[derive(Debug)]
pub(super) struct DomainState {
    pub id: DomainId,
    pub region: &'static Mapping,
    pub geometry: RegionGeometry,
    pub limits: FrameLimits,
    pub counters: DomainCounters,
    pub sampler: Sampler,
    /// The domain whose limit what enters counts against: see [`super::DomainSpec::limited_with`].
    pub limited_with: DomainId,
    /// The region lost a page: nothing of this domain is served any more.
    pub is_lost: bool,
}

impl DomainState {
    /// Where in the region the byte at `offset_bytes` of a buffer lies.
    #[inline]
    pub(super) fn position(&self, index: BufferIndex, offset_bytes: u16) -> usize {
        let start = self.geometry.buffer_offset(index.0) + u64::from(offset_bytes);
        // A region that is mapped fits the address space; an offset that does not is past any mapping.
        usize::try_from(start).unwrap_or(usize::MAX)
    }

    /// Copies the headers of a frame into private memory.
    #[inline]
    pub(super) fn copy_header(&self, frame: Frame, copy: &mut HeaderCopy) {
        let len_bytes = frame.len_bytes.min(HEADER_BYTES_MAX_U16);
        let at = self.position(frame.index, frame.offset_bytes);
        self.region.copy_header(at, usize::from(len_bytes), &mut copy.bytes);
        #[allow(clippy::cast_possible_truncation, reason = "at most 128")]
        {
            copy.len_bytes = len_bytes as u8;
        }
        copy.frame_bytes = frame.len_bytes;
    }
}

#[allow(clippy::cast_possible_truncation, reason = "128")]
const HEADER_BYTES_MAX_U16: u16 = HEADER_BYTES_MAX as u16;
const _: () = assert!(HEADER_BYTES_MAX == switch_core::header::HEADER_COPY_BYTES);

impl DomainLane {
    pub(super) fn snapshot(&self) -> DomainSnapshot {
        DomainSnapshot {
            packets: self.state.counters.clone(),
            identity: self.state.sampler.counters,
            ledger_faults: self.cell.borrow().faults().clone(),
            region_lost: self.state.is_lost,
        }
    }

    pub(super) fn audit(&self) -> ShardAudit {
        self.cell.borrow().audit()
    }
}
