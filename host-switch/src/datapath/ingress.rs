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
const FRAME_COPY_BYTES: usize = 9728;

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
    Private(Box<[u8; FRAME_COPY_BYTES]>),
}

impl Source {
    pub(super) fn private() -> Self {
        Self::Private(Box::new([0; FRAME_COPY_BYTES]))
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
fn check(mbuf: &Mbuf) -> Result<(), DropReason> {
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
    scratch: &mut [u8; FRAME_COPY_BYTES],
    header: &mut HeaderCopy,
    mbuf: Mbuf,
) -> Result<Arrived, Refused> {
    let (offset_bytes, len_bytes) = (domain.geometry.headroom_bytes, mbuf.data_len());
    let end_bytes = u32::from(offset_bytes) + u32::from(len_bytes);
    if end_bytes > domain.limits.stride_bytes || usize::from(len_bytes) > FRAME_COPY_BYTES {
        return Err(Refused { mbuf, reason: DropReason::FrameTooLong });
    }
    let mut index = [0];
    if !shard.take(&mut index) {
        return Err(Refused { mbuf, reason: DropReason::NoBuffer });
    }
    let copied = mbuf.copy_out(0, &mut scratch[..usize::from(len_bytes)]);
    let frame = Frame { index: BufferIndex(index[0]), offset_bytes, len_bytes };
    domain.region.copy_in(domain.position(frame.index, offset_bytes), &scratch[..copied]);
    *header = HeaderCopy::of_frame(&scratch[..copied]);
    let place = Place::of(&mbuf);
    Ok(Arrived { frame, place, copied_from: Some(mbuf) })
}
