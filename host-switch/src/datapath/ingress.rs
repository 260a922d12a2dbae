//! The receiving side of one port on one lcore.

use dpdk::{Mbuf, MbufBurst, Pool, RxQueue};
use switch_core::drop_reason::DropReason;
use switch_core::frame::ETHERNET_HEADER_BYTES;
use switch_core::header::HeaderCopy;
use switch_core::ids::{BufferIndex, DomainId, EndpointId, PortId};
use switch_core::shard::Shard;

use super::counters::PortCounters;
use super::domain::{DomainState, Frame};
use super::sample::Place;

/// Frames of one receive call.
pub(super) const RX_BURST: usize = 32;
/// Longest frame that is copied from a host-private pool.
pub(super) const FRAME_COPY_BYTES: usize = 9728;

/// The receiving side of one port on one lcore.
#[derive(Debug)]
pub(super) struct Ingress {
    pub port: PortId,
    pub domain: DomainId,
    pub queue: RxQueue,
    pub burst: MbufBurst<RX_BURST>,
    pub source: Source,
    /// See [`super::PortSpec::paced`].
    pub paced: Option<Vec<EndpointId>>,
    pub counters: PortCounters,
}

/// Where the driver puts frames.
#[derive(Debug)]
pub(super) enum Source {
    /// Into the region of the port's domain.
    Region,
    /// Into private memory; the buffer is what a frame passes on its way into the region.
    Private(Box<Scratch>),
}

/// What a frame passes on its way into the region.
#[derive(Debug)]
pub(super) struct Scratch {
    bytes: [u8; FRAME_COPY_BYTES],
    /// How many of them are the frame's.
    len: usize,
}

impl Scratch {
    /// Copies a frame out of its mbuf. One that is longer than any port's is cut, and fits no buffer then.
    fn copy_out(&mut self, mbuf: &Mbuf) -> &[u8] {
        self.len = mbuf.copy_out(0, &mut self.bytes);
        self.copied()
    }

    /// The frame that was copied last.
    fn copied(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Source {
    pub(super) fn private() -> Self {
        Self::Private(Box::new(Scratch { bytes: [0; FRAME_COPY_BYTES], len: 0 }))
    }

    /// Copies a frame out of private memory; nothing for a port that receives into a region.
    pub(super) fn copy_out(&mut self, mbuf: &Mbuf) -> &[u8] {
        match self {
            Self::Region => &[],
            Self::Private(scratch) => scratch.copy_out(mbuf),
        }
    }

    /// The frame that was copied out last.
    pub(super) fn copied(&self) -> &[u8] {
        match self {
            Self::Region => &[],
            Self::Private(scratch) => scratch.copied(),
        }
    }

    /// Makes a received frame one that lies in the region. A copied one fills in `header` by the way.
    #[inline(always)]
    pub(super) fn bring_in(
        &mut self,
        pool: &Pool,
        domain: &DomainState,
        shard: &mut Shard<'static>,
        header: &mut HeaderCopy,
        mbuf: Mbuf,
    ) -> Result<Arrived, Refused> {
        match (check(&mbuf), self) {
            (Err(reason), _) => Err(Refused { mbuf, reason }),
            (Ok(()), Self::Region) => take_over(pool, mbuf),
            (Ok(()), Self::Private(scratch)) => copy_over(domain, shard, scratch, header, mbuf),
        }
    }
}

/// A frame that was received and cannot be used; freed when the shard is not borrowed any more.
pub(super) struct Refused {
    pub mbuf: Mbuf,
    pub reason: DropReason,
}

/// A frame as it lies in the region now.
pub(super) struct Arrived {
    pub frame: Frame,
    /// Where the driver had put it.
    pub place: Place,
    /// The received mbuf, if the frame was copied out of it.
    pub copied_from: Option<Mbuf>,
}

/// Checks what no frame may be, whatever the port.
#[inline]
pub(super) fn check(mbuf: &Mbuf) -> Result<(), DropReason> {
    if mbuf.segments() != 1 {
        return Err(DropReason::FrameTooLong);
    }
    if mbuf.data_len() < ETHERNET_HEADER_BYTES {
        return Err(DropReason::FrameTooShort);
    }
    Ok(())
}

/// Takes over a frame that the driver has put into the region.
#[inline]
fn take_over(pool: &Pool, mbuf: Mbuf) -> Result<Arrived, Refused> {
    let (offset_bytes, len_bytes) = (mbuf.data_off(), mbuf.data_len());
    let place = Place::of(&mbuf);
    match pool.into_index(mbuf) {
        Ok(index) => {
            let frame = Frame { index: BufferIndex(index.0), offset_bytes, len_bytes };
            Ok(Arrived { frame, place, copied_from: None })
        }
        Err(mbuf) => Err(Refused { mbuf, reason: DropReason::LedgerRefused }),
    }
}

/// Copies a frame from private memory into a buffer of the region.
fn copy_over(
    domain: &DomainState,
    shard: &mut Shard<'static>,
    scratch: &mut Scratch,
    header: &mut HeaderCopy,
    mbuf: Mbuf,
) -> Result<Arrived, Refused> {
    if usize::from(mbuf.data_len()) > FRAME_COPY_BYTES {
        return Err(Refused { mbuf, reason: DropReason::FrameTooLong });
    }
    let bytes = scratch.copy_out(&mbuf);
    match write(domain, shard, bytes) {
        Ok(frame) => {
            *header = HeaderCopy::of_frame(bytes);
            let place = Place::of(&mbuf);
            Ok(Arrived { frame, place, copied_from: Some(mbuf) })
        }
        Err(reason) => Err(Refused { mbuf, reason }),
    }
}

/// Writes a frame into a buffer taken from the pool, which is the PMD's in the ledger then.
pub(super) fn write(
    domain: &DomainState,
    shard: &mut Shard<'static>,
    bytes: &[u8],
) -> Result<Frame, DropReason> {
    let offset_bytes = domain.geometry.headroom_bytes;
    let len_bytes = u16::try_from(bytes.len()).map_err(|_| DropReason::FrameTooLong)?;
    if u32::from(offset_bytes) + u32::from(len_bytes) > domain.limits.stride_bytes {
        return Err(DropReason::FrameTooLong);
    }
    let mut index = [0];
    if domain.is_lost || !shard.take(&mut index) {
        return Err(DropReason::NoBuffer);
    }
    let frame = Frame { index: BufferIndex(index[0]), offset_bytes, len_bytes };
    domain.region.copy_in(domain.position(frame.index, offset_bytes), bytes);
    Ok(frame)
}
