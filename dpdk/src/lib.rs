//! Safe wrapper of the parts of DPDK that the switch uses.
//!
//! # Laws of the unsafe code here
//!
//! 1. **Headers are private, bytes are not.** An mbuf header lies in memory that no guest maps, so it may
//!    be borrowed. What it points at may lie in a region that guests write at any time: no reference is
//!    ever made to it, only copies by C ([`Mbuf::copy_out`], [`Mbuf::copy_in`]).
//! 2. **One holder.** An [`Mbuf`] or its place in an [`MbufBurst`] is the buffer. It is in exactly one of:
//!    the free list, a driver's ring, a burst, a value, or an index that the caller answers for
//!    ([`Pool::into_index`]). Nothing is cloned or attached: with pinned buffers, attaching would raise a
//!    count that all headers of a pool share.
//! 3. **A header is its index.** Header `i` is at `headers + i × 192`, its buffer at
//!    `region + first + i × stride`, checked for every header when a pool is made and for every frame
//!    when it is received. A frame that fails goes back to its pool under a counter ([`RxFaults`]).
//! 4. **`EXTERNAL` stays set** on headers of region pools. `rte_pktmbuf_detach` of 22.11 leaves a pinned
//!    buffer alone ("just exit"), and `__rte_pktmbuf_pinned_extbuf_decref` sets the flag on freeing, but
//!    only where it was set before; some drivers overwrite the flags on receiving. So receiving and
//!    taking set it again. `MBUF_FAST_FREE` is never asked for.
//! 5. **A free list has one thread at a time** (`holder`): its owner, or one that claims it for one call
//!    while there is no owner. All others use the return stack, or get nothing.
//! 6. **Nothing is freed under somebody's feet.** A port keeps its pools; a queue keeps its port from
//!    stopping; a pool that is not complete when its last handle goes stays in memory.
//! 7. **C calls back into Rust** only through the mempool handler (`ops`) and while headers are made. A
//!    panic there ends the process.
//! 8. **DPDK starts once** and is never cleaned up ([`Eal`]).
//!
//! What the tests do not show: PCI devices (`dma_map`, `-a`), and drivers off the list in [`PortInfo`].
//!
//! # Which thread
//! [`RxQueue`] and [`TxQueue`] are `Send` and neither `Sync` nor `Clone`: one thread polls each, and it may
//! be handed on. A [`Port`] belongs to control. Free lists are called from inside [`RxQueue::burst`],
//! [`TxQueue::burst`] and whenever a frame is dropped.
#![deny(missing_docs)]

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("the sabotage features break this crate on purpose and are for its tests only");

mod burst;
mod device;
mod eal;
mod error;
mod freelist;
mod holder;
mod lcore;
mod making;
mod mbuf;
mod memory;
mod ops;
mod pool;
mod port;
mod private_pool;
mod queue;
mod returns;
mod setup;
mod stats;
mod stock;
mod sync;

pub use burst::MbufBurst;
pub use eal::{Eal, EalOptions, LogLevel, version};
pub use error::{DpdkError, Errno, GeometryFault};
pub use freelist::FreeList;
pub use lcore::{RegisteredThread, pin_current_thread};
pub use mbuf::{FrameBounds, Mbuf};
pub use memory::ExternalMemory;
pub use pool::{BufferIndex, Pool, PoolGeometry, PoolOwner};
pub use port::{Direction, Port, PortId, PortInfo, PortSettings, Queues};
pub use private_pool::PrivatePool;
pub use queue::{QueueId, RxFaults, RxPool, RxQueue, TxQueue};
pub use stats::{LinkState, PortStats};
pub use stock::PoolFaults;
