//! One shard, reached by its lcore directly and by its mempool from within driver calls.
//!
//! The lcore moves packets through the ledger; drivers take and give buffers through the mempool, whose free
//! list is the same ledger. Both happen on the lcore's thread, one after the other: the lcore never holds a
//! borrow of the shard while it calls into a driver or drops a frame. The cell checks that at run time, so two
//! `&mut Shard` cannot exist.

use std::cell::{RefCell, RefMut};
use std::sync::Arc;

use dpdk::FreeList;
use switch_core::shard::Shard;

/// A shard with one user at a time.
#[derive(Debug)]
pub(super) struct ShardCell {
    shard: RefCell<Shard<'static>>,
}

// SAFETY: the cell moves between threads, but only one of them uses it at any moment, with a happens-before
// edge in between:
// - the thread that starts the datapath, until it spawns the lcore's thread;
// - the lcore's thread, until it has ended;
// - the thread that joined it.
// The mempool calls in only on the thread that owns it (`Pool::set_owner_current_thread`) or, before and after
// the lcore's thread, on the one that sets ports up or tears them down; what other threads free goes through
// the pool's return stack, which the owner empties.
unsafe impl Sync for ShardCell {}

impl ShardCell {
    /// A cell of its own for each shard.
    pub(super) fn new(shard: Shard<'static>) -> Arc<Self> {
        Arc::new(Self { shard: RefCell::new(shard) })
    }

    /// The shard, for as long as no driver is called and no frame dropped.
    #[inline(always)]
    pub(super) fn borrow(&self) -> RefMut<'_, Shard<'static>> {
        self.shard.borrow_mut()
    }
}

/// The mempool's side of the cell.
#[derive(Debug)]
pub(super) struct LedgerFreeList(pub(super) Arc<ShardCell>);

// SAFETY:
// - `Shard::take` gives out what its stack names, and the stack names buffers of this shard only; the pool is
//   made over the same range.
// - A buffer given out is off the stack until `Shard::give` puts it back, which it refuses for a buffer that
//   is not out.
// - There is no lock. While the lcore borrows the shard it calls no driver, so `try_borrow_mut` succeeds; if
//   that were broken, the call would have no effect instead of a second `&mut`: an allocation fails, a buffer
//   stays out and the audit shows it.
unsafe impl FreeList for LedgerFreeList {
    #[inline]
    fn take(&self, out: &mut [u32]) -> bool {
        self.0.shard.try_borrow_mut().is_ok_and(|mut shard| shard.take(out))
    }

    #[inline]
    fn give(&self, indices: &[u32]) {
        let shard = self.0.shard.try_borrow_mut();
        debug_assert!(shard.is_ok(), "a frame was freed while the lcore had the shard borrowed");
        if let Ok(mut shard) = shard {
            shard.give(indices);
        }
    }

    fn available(&self) -> u32 {
        self.0.shard.try_borrow().map_or(0, |shard| shard.available())
    }
}
