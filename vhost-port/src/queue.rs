//! One queue of a lane: its ring, how its packets look, and whether it may be used.

use std::sync::Arc;

use crate::chain::Chains;
use crate::features::Features;
use crate::lane::broken_code;
use crate::lane_counters::LaneCounters;
use crate::memory::GuestMemory;
use crate::notifier::Bell;
use crate::publication::QueueReport;
use crate::ring_fault::RingFault;
use crate::setup::DeviceSetup;
use crate::vring::{RingParts, Vring};

/// What one burst on one queue works with.
#[derive(Debug)]
pub(crate) struct Work<'w> {
    pub ring: &'w mut Vring,
    pub chains: &'w mut Chains,
    pub memory: &'w GuestMemory,
    /// The region that served last time.
    pub hint: &'w mut usize,
    pub counters: &'w LaneCounters,
    pub burst: &'w mut Burst,
}

/// What has been done in a burst, over all queues.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Burst {
    pub frames: usize,
    pub bytes: u64,
    /// Of frames that were copied and refused then.
    pub refused_bytes: u64,
    /// Whether the guest wants to be notified of the queue worked on last.
    pub notify: bool,
    /// Whether a queue broke that takes frames to the guest.
    pub has_broken: bool,
}

/// A started queue; `W` says how its packets look.
#[derive(Debug)]
pub(crate) struct Queue<W> {
    /// Which start of the queue this is: see `QueueSetup::start`.
    pub start: u64,
    pub ring: Vring,
    pub way: W,
    pub hint: usize,
    /// Whether the driver wants traffic on it.
    pub is_enabled: bool,
    /// What the driver did wrong: nothing more is read or written then.
    pub broken: Option<RingFault>,
    pub call: Option<Arc<Bell>>,
}

impl<W> Queue<W> {
    /// The queue as a new setup has it, going on where it stood if it was not started anew meanwhile.
    pub(crate) fn renewed(setup: &DeviceSetup, number: usize, old: Option<Self>, way: W) -> Option<Self> {
        let new = setup.queues.get(number)?.as_ref()?;
        let old = old.filter(|old| old.start == new.start);
        let parts = RingParts {
            size: new.size,
            descriptors: new.descriptors,
            avail: new.available,
            used: new.used,
            next_avail: old.as_ref().map_or(new.next_available, |old| old.ring.next_avail()),
            event_index: setup.features.has(Features::EVENT_INDEX),
            // Of an earlier backend: only when the queue starts, or while they are not all served.
            first_avail: new
                .resubmit
                .as_ref()
                .filter(|_| old.as_ref().is_none_or(|old| old.ring.is_before_drivers()))
                .map(|resubmit| (resubmit.ring(), resubmit.end())),
        };
        let next_used = old.as_ref().map(|old| old.ring.next_used());
        // SAFETY: control has checked size, alignment and full length of each ring against `setup.memory`
        // (`QueueSetup`), and who keeps the queue keeps the setup. All access is by pointer.
        let ring = unsafe { Vring::take_up(parts, next_used) };
        Some(Self {
            start: new.start,
            ring,
            way,
            hint: 0,
            is_enabled: new.is_enabled,
            broken: old.and_then(|old| old.broken),
            call: new.call.clone(),
        })
    }

    /// Ends the queue until it is started anew.
    #[cold]
    pub(crate) fn break_off(&mut self, fault: RingFault, counters: &LaneCounters, report: &QueueReport) {
        self.broken = Some(fault);
        counters.count_fault(fault);
        report.set_broken(broken_code(fault));
    }

    /// Whether frames may pass.
    #[inline(always)]
    pub(crate) fn is_usable(&self) -> bool {
        self.is_enabled && self.broken.is_none()
    }

    /// Wishes the guest to be interrupted, if it asked for that in the burst that has ended.
    #[inline(always)]
    pub(crate) fn notify(&self, burst: &mut Burst, counters: &LaneCounters) {
        if std::mem::take(&mut burst.notify)
            && let Some(call) = &self.call
        {
            call.ring();
            counters.count_notification();
        }
    }
}
