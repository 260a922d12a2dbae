//! What a region pool asks of the ledger.

/// The free buffers of one pool, by index. The ledger implements it, so that "in the pool" and "given
/// to a driver" are states of the ledger and not guesses from counters.
///
/// Calls come from inside receiving, sending and dropping frames on the thread that owns the pool, and
/// from port set-up and tear-down while no thread owns it; never from two threads at a time. None of
/// them may panic (the caller is C) or call back into the pool.
///
/// # Safety
/// - Every index that [`take`](Self::take) hands out is one of the pool's geometry.
/// - It hands out no index twice without [`give`](Self::give) of it in between: two frames with
///   one header would be two owners of it.
/// - No lock that is shared with a thread that waits for this one, and nothing but the calling
///   thread's memory or memory that no other thread uses meanwhile.
pub unsafe trait FreeList: Send {
    /// Fills `out` with free buffers, all or nothing.
    fn take(&self, out: &mut [u32]) -> bool;
    /// Takes buffers back.
    fn give(&self, indices: &[u32]);
    /// Number of free buffers.
    fn available(&self) -> u32;
}
