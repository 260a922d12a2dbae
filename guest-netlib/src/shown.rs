//! What an endpoint shows the switch while it runs: a heartbeat and counters, for display only.

use std::sync::Mutex;

use shm_ring::area::GuestEndpoint;
use shm_ring::layout::GuestCounter;

/// What a queue pair has moved since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Packets taken, or views.
    pub received: u64,
    /// Packets given back with a verdict other than drop.
    pub sent: u64,
    /// Packets given back with the verdict drop.
    pub dropped: u64,
    /// Views given back.
    pub released: u64,
    /// Packets made from empty buffers.
    pub made: u64,
    /// Polls that found nothing.
    pub empty_polls: u64,
}

impl QueueCounters {
    /// Adds up, field by field.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            sent: self.sent + other.sent,
            dropped: self.dropped + other.dropped,
            released: self.released + other.released,
            made: self.made + other.made,
            empty_polls: self.empty_polls + other.empty_polls,
        }
    }
}

/// The words of one endpoint that its threads write together, one at a time.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Counters in shared memory have one writer; the lock makes several threads one.
    words: Mutex<GuestEndpoint<'static>>,
}

impl Shown {
    pub(crate) fn new(words: GuestEndpoint<'static>) -> Self {
        Self { words: Mutex::new(words) }
    }

    /// Moves the heartbeat on and adds what `now` has more than `before`; false if another thread is at it,
    /// and then nothing was added.
    pub(crate) fn beat(&self, before: &QueueCounters, now: &QueueCounters) -> bool {
        let Ok(words) = self.words.try_lock() else { return false };
        words.beat();
        for (counter, before, now) in [
            (GuestCounter::Received, before.received, now.received),
            (GuestCounter::Sent, before.sent, now.sent),
            (GuestCounter::Dropped, before.dropped, now.dropped),
            (GuestCounter::Made, before.made, now.made),
            (GuestCounter::EmptyPolls, before.empty_polls, now.empty_polls),
        ] {
            words.counter(counter).add(now.wrapping_sub(before));
        }
        true
    }

    /// Adds to one of the app's counters; false if there is no such counter.
    pub(crate) fn add_app(&self, number: usize, count: u64) -> bool {
        // A poisoned lock guards no state of ours: the words are in shared memory.
        let words = self.words.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        words.app_counter(number).map(|counter| counter.add(count)).is_some()
    }
}
