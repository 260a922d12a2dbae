//! Receive and transmit queues: the hot path.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use dpdk_sys::rte_mbuf;

use crate::burst::MbufBurst;
use crate::pool::Pool;
use crate::port::PortId;
use crate::private_pool::PrivatePool;

/// Number of a queue within its port and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u16);

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a receive queue puts frames.
#[derive(Clone, Debug)]
pub enum RxPool {
    /// Into a region.
    Region(Pool),
    /// Into private memory.
    Private(PrivatePool),
}

impl RxPool {
    /// Data room of a buffer, behind its headroom.
    pub fn room_bytes(&self) -> u32 {
        match self {
            Self::Region(pool) => pool.room_bytes(),
            Self::Private(pool) => pool.room_bytes(),
        }
    }

    pub(crate) fn mempool(&self) -> *mut dpdk_sys::rte_mempool {
        match self {
            Self::Region(pool) => pool.mempool(),
            Self::Private(pool) => pool.mempool(),
        }
    }
}

impl From<&Pool> for RxPool {
    fn from(pool: &Pool) -> Self {
        Self::Region(pool.clone())
    }
}

impl From<&PrivatePool> for RxPool {
    fn from(pool: &PrivatePool) -> Self {
        Self::Private(pool.clone())
    }
}

/// Frames that a receive queue kept from its caller. They were given back to their pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxFaults {
    /// Frames in buffers of another pool than the queue's (a ring port passes on what it is sent).
    pub foreign_pool: u64,
    /// Frames whose header no longer pointed at its own buffer. The header was put right.
    pub moved_buffer: u64,
}

/// One receive queue, polled by whoever has it. Neither shared nor copied.
#[derive(Debug)]
pub struct RxQueue {
    port: PortId,
    queue: QueueId,
    pool: RxPool,
    faults: RxFaults,
    _port_may_not_stop: Arc<()>,
    _one_thread_at_a_time: PhantomData<Cell<()>>,
}

/// One transmit queue, fed by whoever has it. Neither shared nor copied.
#[derive(Debug)]
pub struct TxQueue {
    port: PortId,
    queue: QueueId,
    _port_may_not_stop: Arc<()>,
    _one_thread_at_a_time: PhantomData<Cell<()>>,
}

impl RxQueue {
    pub(crate) fn new(port: PortId, queue: QueueId, pool: RxPool, lease: Arc<()>) -> Self {
        Self {
            port,
            queue,
            pool,
            faults: RxFaults::default(),
            _port_may_not_stop: lease,
            _one_thread_at_a_time: PhantomData,
        }
    }

    /// The port it belongs to.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Its number.
    pub fn queue(&self) -> QueueId {
        self.queue
    }

    /// Where it puts frames.
    pub fn pool(&self) -> &RxPool {
        &self.pool
    }

    /// What it kept back since the port started.
    pub fn faults(&self) -> RxFaults {
        self.faults
    }

    /// Appends received frames to `burst`, as many as are there and fit, and says how many.
    ///
    /// With a region pool, each frame lies at the address that belongs to its header, and its header
    /// says "external buffer" again (some drivers drop that flag). A frame may have several
    /// [segments](crate::Mbuf::segments); the caller drops those it cannot handle.
    #[inline]
    pub fn burst<const N: usize>(&mut self, burst: &mut MbufBurst<N>) -> usize {
        let room = burst.room_mut();
        let most = u16::try_from(room.len()).unwrap_or(u16::MAX);
        // SAFETY: - the queue was set up, and its port is started: it cannot stop while we exist.
        // - only this value polls the queue, and `&mut self` makes it one thread at a time.
        // - `room` takes `most` pointers.
        let received =
            unsafe { dpdk_sys::netvm_rte_eth_rx_burst(self.port.0, self.queue.0, room.as_mut_ptr(), most) };
        let received = match &self.pool {
            RxPool::Region(pool) => keep_expected(pool, &mut self.faults, room, usize::from(received)),
            RxPool::Private(_) => usize::from(received),
        };
        // SAFETY: the driver wrote at least `received` mbufs to the room and gave them away;
        // `keep_expected` moved those to the front that are still live.
        unsafe { burst.accept(received) };
        received
    }
}

/// Moves the frames of `pool` to the front and says how many; frees the others.
#[inline]
fn keep_expected(pool: &Pool, faults: &mut RxFaults, room: &mut [*mut rte_mbuf], received: usize) -> usize {
    let mut kept = 0;
    for at in 0..received.min(room.len()) {
        let frame = room[at];
        // SAFETY: the driver has just given this mbuf to us alone, and headers are private memory.
        let header = unsafe { &mut *frame };
        let expected = pool.stock().slot_of(frame.addr()).map(|slot| pool.stock().buffer_at(slot));
        if expected == Some(header.buf_addr.addr()) {
            header.ol_flags |= dpdk_sys::NETVM_MBUF_F_EXTERNAL;
            room[kept] = frame;
            kept += 1;
        } else {
            refuse(faults, header, expected);
        }
    }
    kept
}

/// Counts a frame that is not in its place, and gives it back to its pool.
#[cold]
fn refuse(faults: &mut RxFaults, header: &mut rte_mbuf, expected: Option<usize>) {
    match expected {
        None => faults.foreign_pool += 1,
        Some(buffer) => {
            faults.moved_buffer += 1;
            header.buf_addr = std::ptr::with_exposed_provenance_mut(buffer);
            header.buf_iova = buffer as u64;
            header.ol_flags |= dpdk_sys::NETVM_MBUF_F_EXTERNAL;
        }
    }
    // SAFETY: a live mbuf that only we hold, and nobody uses after this.
    unsafe { dpdk_sys::netvm_rte_pktmbuf_free(header) };
}

impl TxQueue {
    pub(crate) fn new(port: PortId, queue: QueueId, lease: Arc<()>) -> Self {
        Self { port, queue, _port_may_not_stop: lease, _one_thread_at_a_time: PhantomData }
    }

    /// The port it belongs to.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Its number.
    pub fn queue(&self) -> QueueId {
        self.queue
    }

    /// Sends frames from the front of `burst`, and says how many the driver took. The others stay in it.
    #[inline]
    pub fn burst<const N: usize>(&mut self, burst: &mut MbufBurst<N>) -> usize {
        let held = burst.held_mut();
        let most = u16::try_from(held.len()).unwrap_or(u16::MAX);
        // SAFETY: - queue, port and thread as in `RxQueue::burst`.
        // - `held` are live mbufs that only the burst holds; the driver owns the first `sent`
        //   of them from here on, and the burst forgets those in the next line.
        let sent =
            unsafe { dpdk_sys::netvm_rte_eth_tx_burst(self.port.0, self.queue.0, held.as_mut_ptr(), most) };
        let sent = usize::from(sent);
        burst.forget_first(sent);
        sent
    }
}
