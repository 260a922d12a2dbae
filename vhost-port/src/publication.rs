//! How a new setup gets from control to the lcores, and how control knows that the old one is out of use.
//!
//! Control puts the setup into a slot of each lane. A lane looks at its slot between two bursts: one load while
//! there is nothing new. It takes what is there, builds its rings anew, drops what it had before, and then
//! acknowledges. Control waits for that, never the lane.
//!
//! Memory safety does not rest on the waiting: setups are counted references, so nothing is unmapped while a lane
//! could still use it. The waiting makes *control* the one who drops the last reference (unmapping takes time that
//! no lcore has), and it is what an answer to the frontend means: "your memory is no longer looked at".
//!
//! A lane that is not polled is *away* and holds nothing; control does not wait for it. It begins away.

use std::fmt::Debug;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, ordering};

/// What has been published: the count of publications so far.
pub type Generation = u64;

/// A lane did not pass in time. What was published before is kept until it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lcore lane {lane} has not passed generation {generation} within {waited_ms} ms")]
pub struct NotPassed {
    /// Which lane.
    pub lane: usize,
    /// What it has not acknowledged.
    pub generation: Generation,
    /// How long was waited.
    pub waited_ms: u128,
}

/// A setup on its way.
struct Parcel<T> {
    generation: Generation,
    setup: Arc<T>,
}

/// One lane's side of the publication, on a cache line of its own.
#[repr(align(128))]
struct Slot<T> {
    /// From `Box::into_raw`, or null. Whoever swaps a parcel out owns it.
    parcel: AtomicPtr<Parcel<T>>,
    /// What the lane has acknowledged.
    passed: AtomicU64,
    /// Whether the lane is not polled and holds no setup.
    is_away: AtomicBool,
}

/// What lanes tell control about one queue. Each word is written by the one lane that serves the queue, and by
/// control while the queue is stopped.
#[derive(Debug)]
pub struct QueueReport {
    next_available: AtomicU32,
    broken: AtomicU32,
}

struct Shared<T> {
    slots: Box<[Slot<T>]>,
    reports: Box<[QueueReport]>,
}

/// Control's end.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    generation: Generation,
    /// What was published and may still be in use, with the generation that replaced it. Never dropped by a lane.
    kept: Vec<(Generation, Arc<T>)>,
    current: Option<Arc<T>>,
}

/// A lane's end. Belongs to one lcore at a time.
pub struct Subscription<T> {
    shared: Arc<Shared<T>>,
    lane: usize,
}

/// A publication with this many lanes about a device of this many queues.
#[must_use]
pub fn publication<T: Send + Sync>(lanes: usize, queues: usize) -> (Publisher<T>, Vec<Subscription<T>>) {
    let slots = (0..lanes).map(|_| Slot {
        parcel: AtomicPtr::new(ptr::null_mut()),
        passed: AtomicU64::new(0),
        is_away: AtomicBool::new(true),
    });
    let reports =
        (0..queues).map(|_| QueueReport { next_available: AtomicU32::new(0), broken: AtomicU32::new(0) });
    let shared = Arc::new(Shared { slots: slots.collect(), reports: reports.collect() });
    let subscriptions = (0..lanes).map(|lane| Subscription { shared: shared.clone(), lane }).collect();
    (Publisher { shared, generation: 0, kept: Vec::new(), current: None }, subscriptions)
}

impl<T> Publisher<T> {
    /// Makes this what the lanes work by from their next burst on. Does not wait.
    pub fn publish(&mut self, setup: T) -> Generation {
        let setup = Arc::new(setup);
        self.generation += 1;
        for slot in &self.shared.slots {
            let parcel =
                Box::into_raw(Box::new(Parcel { generation: self.generation, setup: setup.clone() }));
            // Release: the lane sees what the pointer points at. Pairs with the Acquire in `Subscription::take`.
            // Acquire: a parcel that nobody took is ours again, whoever wrote it.
            // SeqCst: either the lane that comes back finds this parcel, or `has_passed` sees it present.
            let untaken = slot.parcel.swap(parcel, Ordering::SeqCst);
            drop(reclaim(untaken));
        }
        if let Some(replaced) = self.current.replace(setup) {
            self.kept.push((self.generation, replaced));
        }
        self.generation
    }

    /// Waits until every lane that is polled works by this generation or a later one, and then drops what nobody
    /// uses any more.
    ///
    /// # Errors
    /// If a lane takes longer than `limit`.
    pub fn wait_passed(&mut self, generation: Generation, limit: Duration) -> Result<(), NotPassed> {
        let started = Instant::now();
        for lane in 0..self.shared.slots.len() {
            while !self.has_passed(lane, generation) {
                if started.elapsed() >= limit {
                    return Err(NotPassed { lane, generation, waited_ms: limit.as_millis() });
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        self.drop_unused();
        Ok(())
    }

    /// Drops what every lane has passed.
    pub fn drop_unused(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        kept.retain(|(replaced_by, _)| {
            (0..self.shared.slots.len()).any(|lane| !self.has_passed(lane, *replaced_by))
        });
        self.kept = kept;
    }

    /// How many replaced setups somebody may still use.
    #[must_use]
    pub fn kept_count(&self) -> usize {
        self.kept.len()
    }

    /// Whether this lane uses nothing older than `generation`.
    fn has_passed(&self, lane: usize, generation: Generation) -> bool {
        let slot = &self.shared.slots[lane];
        // Acquire: what the lane did with the old setup, and its reports, happened before. Pairs with the Release
        // in `Subscription::acknowledge`.
        let passed = slot.passed.load(ordering!(Acquire, "sabotage-acknowledge-relaxed")) >= generation;
        // SeqCst, behind the swap in `publish`: a lane that is away now finds the new parcel when it comes back.
        passed || slot.is_away.load(Ordering::SeqCst)
    }

    /// The report about one queue.
    #[must_use]
    pub fn report(&self, queue: usize) -> &QueueReport {
        &self.shared.reports[queue]
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        for slot in &self.shared.slots {
            drop(reclaim(slot.parcel.swap(ptr::null_mut(), Ordering::AcqRel)));
        }
    }
}

impl<T> Subscription<T> {
    /// Which lane this is.
    #[must_use]
    pub fn lane(&self) -> usize {
        self.lane
    }

    fn slot(&self) -> &Slot<T> {
        &self.shared.slots[self.lane]
    }

    /// Whether there is something to [`Self::take`]. One load; for the packet path.
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        // Relaxed: only says that it is worth to look; `take` orders.
        !self.slot().parcel.load(Ordering::Relaxed).is_null()
    }

    /// The newest setup, if it was not taken yet. The lane drops what it had before and then calls
    /// [`Self::acknowledge`] with the generation beside it.
    #[cold]
    #[must_use]
    pub fn take(&mut self) -> Option<(Generation, Arc<T>)> {
        // Acquire: pairs with the Release in `Publisher::publish`. SeqCst: see `come_back`.
        let parcel = self.slot().parcel.swap(ptr::null_mut(), ordering!(SeqCst, "sabotage-publish-relaxed"));
        reclaim(parcel).map(|parcel| (parcel.generation, parcel.setup))
    }

    /// Says that nothing older than `generation` is in use here: every reference to it is dropped, every report
    /// about it written.
    #[cold]
    pub fn acknowledge(&mut self, generation: Generation) {
        // Release: all that happened with the old setup stays before this. Pairs with the Acquire in `has_passed`.
        self.slot().passed.store(generation, ordering!(Release, "sabotage-acknowledge-relaxed"));
    }

    /// Says that this lane is polled from now on. Call before the first look for news.
    #[cold]
    pub fn come_back(&mut self) {
        // SeqCst, before any swap in `take`: control either sees this lane present and waits for it, or has put its
        // parcel into the slot before and this lane can take nothing older.
        self.slot().is_away.store(false, Ordering::SeqCst);
    }

    /// Says that this lane is not polled any more. The caller has dropped every setup and written its reports.
    #[cold]
    pub fn go_away(&mut self) {
        // Release: as in `acknowledge`.
        self.slot().is_away.store(true, ordering!(SeqCst, "sabotage-offline-relaxed"));
    }

    /// The report about one queue.
    #[must_use]
    pub fn report(&self, queue: usize) -> &QueueReport {
        &self.shared.reports[queue]
    }
}

impl QueueReport {
    /// Lane: where it stopped in the available ring; before it acknowledges the setup that stops the queue.
    /// Control: where a queue begins, before it publishes the setup that starts it.
    pub fn set_next_available(&self, index: u16) {
        // Relaxed: `acknowledge` and `has_passed`, or the parcel, order it.
        self.next_available.store(u32::from(index), Ordering::Relaxed);
    }

    /// Where the queue stopped, once the lane has passed the setup that stops it.
    #[must_use]
    pub fn next_available(&self) -> u16 {
        #[allow(clippy::cast_possible_truncation, reason = "only u16 values are stored")]
        let index = self.next_available.load(Ordering::Relaxed) as u16;
        index
    }

    /// Lane: the queue is not served any more, and why: a code of the lane's own, not 0.
    #[cold]
    pub fn set_broken(&self, code: u32) {
        self.broken.store(code, Ordering::Relaxed);
    }

    /// Why the queue is not served, or 0.
    #[must_use]
    pub fn broken(&self) -> u32 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Control: forgets what was said about an earlier start.
    pub fn reset(&self, next_available: u16) {
        self.set_next_available(next_available);
        self.broken.store(0, Ordering::Relaxed);
    }
}

/// The parcel behind a pointer that was swapped out of a slot.
fn reclaim<T>(parcel: *mut Parcel<T>) -> Option<Box<Parcel<T>>> {
    if parcel.is_null() {
        return None;
    }
    // SAFETY: slots hold null or what `Box::into_raw` gave (`publish`); pointers leave a slot by swap only, so
    // each parcel is taken out exactly once and nobody else has it.
    Some(unsafe { Box::from_raw(parcel) })
}

impl<T> Debug for Publisher<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl<T> Debug for Subscription<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("lane", &self.lane).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "publication_tests.rs"]
mod tests;
