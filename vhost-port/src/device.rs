//! One session's device: what the frontend has said so far, and what the lanes were told of it.
//!
//! Every change goes the same way: it is checked, the snapshot of the device is made anew ([`DeviceSetup`]), the
//! lanes have passed it, and only then is the message answered. Nothing of a refused change reaches a lane.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vhost::vhost_user::VhostUserProtocolFeatures;

use crate::features::{Features, Negotiated};
use crate::guest_bytes::shared_u16;
use crate::inflight::Inflight;
use crate::lane::broken_name;
use crate::log_budget::LogBudget;
use crate::memory::GuestMemory;
use crate::notifier::Bell;
use crate::publication::Publisher;
use crate::refusal::{Fault, FaultCounts, Refusal};
use crate::resubmit::Resubmit;
use crate::ring_claim::{RingClaim, RingPlaces};
use crate::server::QueueStatus;
use crate::setup::{DeviceSetup, QueueSetup};
use crate::terms::Terms;

/// How long control waits for the lanes to pass a setup: they do within a burst.
const LANE_PATIENCE: Duration = Duration::from_secs(2);

/// What outlives the sessions of a port.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) publisher: Publisher<DeviceSetup>,
    /// Counts the starts of queues: a number for each, never used again.
    starts: u64,
    is_idle: bool,
}

impl Lanes {
    pub(crate) fn new(publisher: Publisher<DeviceSetup>) -> Self {
        Self { publisher, starts: 0, is_idle: true }
    }

    /// Publishes a setup and waits until no lane uses an older one.
    fn renew(&mut self, setup: DeviceSetup) -> Result<(), Refusal> {
        let is_idle = setup.queues.iter().all(Option::is_none);
        if self.is_idle && is_idle {
            return Ok(());
        }
        self.is_idle = is_idle;
        let generation = self.publisher.publish(setup);
        if cfg!(feature = "sabotage-answer-early") {
            return Ok(());
        }
        Ok(self.publisher.wait_passed(generation, LANE_PATIENCE)?)
    }
}

/// One queue, as far as the frontend has described it.
#[derive(Debug, Default)]
pub(crate) struct QueueState {
    pub(crate) size: Option<u16>,
    pub(crate) rings: Option<RingClaim>,
    pub(crate) base: u16,
    /// The frontend asked for it to start.
    pub(crate) is_kicked: bool,
    /// As the frontend said; if it said nothing, the features decide.
    pub(crate) enable: Option<bool>,
    pub(crate) call: Option<Arc<Bell>>,
    pub(crate) error: Option<Arc<Bell>>,
    pub(crate) running: Option<Running>,
}

impl QueueState {
    pub(crate) fn status(&self) -> QueueStatus {
        QueueStatus {
            size: self.size.unwrap_or(0),
            is_running: self.running.is_some(),
            is_enabled: self.enable.unwrap_or(false),
        }
    }
}

/// A started queue.
#[derive(Debug)]
pub(crate) struct Running {
    start: u64,
    next_available: u16,
    resubmit: Option<Arc<Resubmit>>,
    /// Whether the record of buffers in flight says so, too.
    is_resubmitted: bool,
    is_known_broken: bool,
}

/// The device of one session.
#[derive(Debug)]
pub(crate) struct Device<'p> {
    pub(crate) terms: &'p Terms,
    pub(crate) lanes: &'p mut Lanes,
    pub(crate) faults: &'p FaultCounts,
    log: &'p LogBudget,
    pub(crate) features: Option<Negotiated>,
    pub(crate) protocol: VhostUserProtocolFeatures,
    pub(crate) memory: GuestMemory,
    pub(crate) queues: Vec<QueueState>,
    pub(crate) inflight: Option<Inflight>,
    pub(crate) mtu_bytes: Option<u16>,
}

impl<'p> Device<'p> {
    pub(crate) fn new(
        terms: &'p Terms,
        lanes: &'p mut Lanes,
        faults: &'p FaultCounts,
        log: &'p LogBudget,
    ) -> Self {
        Self {
            terms,
            lanes,
            faults,
            log,
            features: None,
            protocol: VhostUserProtocolFeatures::empty(),
            memory: GuestMemory::default(),
            queues: (0..terms.queue_count()).map(|_| QueueState::default()).collect(),
            inflight: None,
            mtu_bytes: None,
        }
    }

    /// Brings the lanes up to date: starts what is ready, and publishes if anything runs or ran.
    pub(crate) fn renew(&mut self) -> Result<(), Refusal> {
        for queue in 0..self.queues.len() {
            self.start_if_ready(queue)?;
        }
        let setup = self.setup()?;
        self.lanes.renew(setup)
    }

    fn setup(&self) -> Result<DeviceSetup, Refusal> {
        let queues: Vec<_> =
            (0..self.queues.len()).map(|queue| self.queue_setup(queue)).collect::<Result<_, _>>()?;
        let is_idle = queues.iter().all(Option::is_none);
        // What nobody works on is nobody's to keep: an idle setup holds no memory.
        let memory = if is_idle { GuestMemory::default() } else { self.memory.clone() };
        Ok(DeviceSetup { memory, features: self.features.unwrap_or_default(), queues })
    }

    fn queue_setup(&self, queue: usize) -> Result<Option<QueueSetup>, Refusal> {
        let state = &self.queues[queue];
        let (Some(running), Some(size), Some(rings)) = (&state.running, state.size, state.rings) else {
            return Ok(None);
        };
        let RingPlaces { descriptors, available, used } = rings.locate(queue, size, &self.memory)?;
        Ok(Some(QueueSetup {
            start: running.start,
            size,
            descriptors,
            available,
            used,
            next_available: running.next_available,
            resubmit: running.resubmit.clone(),
            is_enabled: state.enable.unwrap_or(!self.has(Features::PROTOCOL)),
            call: state.call.clone(),
        }))
    }

    fn has(&self, feature: Features) -> bool {
        self.features.is_some_and(|features| features.has(feature))
    }

    /// Starts a queue that the frontend has kicked once everything about it is known.
    fn start_if_ready(&mut self, queue: usize) -> Result<(), Refusal> {
        let QueueState { size: Some(size), rings: Some(rings), is_kicked: true, running: None, base, .. } =
            self.queues[queue]
        else {
            return Ok(());
        };
        if self.features.is_none() || self.memory.region_count() == 0 {
            return Ok(());
        }
        let places = rings.locate(queue, size, &self.memory)?;
        let (next_available, resubmit) = match &self.inflight {
            Some(record) => resume(record, queue, size, &places)?,
            None => (base, None),
        };
        self.lanes.starts += 1;
        self.lanes.publisher.report(queue).reset(next_available);
        let is_resubmitted = resubmit.is_none();
        self.queues[queue].running = Some(Running {
            start: self.lanes.starts,
            next_available,
            resubmit,
            is_resubmitted,
            is_known_broken: false,
        });
        Ok(())
    }

    /// Stops a queue and says where it stopped, once no lane works on it.
    pub(crate) fn stop(&mut self, queue: usize) -> Result<u16, Refusal> {
        let state = &mut self.queues[queue];
        state.is_kicked = false;
        if state.running.take().is_some() {
            self.renew()?;
            self.queues[queue].base = self.lanes.publisher.report(queue).next_available();
        }
        Ok(self.queues[queue].base)
    }

    /// Stops everything, and forgets what was negotiated about queues. The memory stays known.
    pub(crate) fn reset(&mut self) -> Result<(), Refusal> {
        self.queues.iter_mut().for_each(|queue| *queue = QueueState::default());
        self.inflight = None;
        self.features = None;
        self.renew()
    }

    /// Ends the session: no lane uses anything of this guest any more, and its memory is unmapped.
    pub(crate) fn withdraw(&mut self) -> Result<(), Refusal> {
        self.memory = GuestMemory::default();
        self.reset()
    }

    /// Refuses to change what a running queue rests on.
    pub(crate) fn check_stopped(&self, queue: usize, what: &'static str) -> Result<(), Refusal> {
        let is_running = self.queues[queue].running.is_some() && !cfg!(feature = "sabotage-running-change");
        if is_running { Err(Refusal::Running { queue, what }) } else { Ok(()) }
    }

    /// Looks at what happened without a message: lost memory, queues that lanes gave up, buffers resubmitted.
    pub(crate) fn watch(&mut self) -> Result<(), Refusal> {
        if self.memory.is_lost() {
            return Err(Refusal::MemoryLost);
        }
        for (number, queue) in self.queues.iter_mut().enumerate() {
            let Some(running) = &mut queue.running else { continue };
            let report = self.lanes.publisher.report(number);
            if report.broken() != 0 && !running.is_known_broken {
                running.is_known_broken = true;
                self.faults.count(Fault::QueueBroken);
                let why = broken_name(report.broken()).unwrap_or("unknown");
                self.log.say(
                    log::Level::Warn,
                    format_args!("queue {number} is not served until its driver sets it up anew: {why}"),
                );
                queue.error.iter().for_each(|bell| bell.ring());
            }
        }
        self.lanes.publisher.drop_unused();
        (0..self.queues.len()).try_for_each(|queue| self.watch_resubmission(queue))
    }

    /// Notes in the record which buffers of an earlier backend are used by now.
    fn watch_resubmission(&mut self, queue: usize) -> Result<(), Refusal> {
        let state = &mut self.queues[queue];
        let (Some(running), Some(size), Some(rings)) = (&mut state.running, state.size, state.rings) else {
            return Ok(());
        };
        let Some(resubmit) = running.resubmit.as_ref().filter(|_| !running.is_resubmitted) else {
            return Ok(());
        };
        // A driver that lies about the index unmarks its own buffers.
        if resubmit.is_over(used_index(&rings.locate(queue, size, &self.memory)?)) {
            running.is_resubmitted = true;
            // It may have missed the interrupt: it was judged by what the driver wanted to hear before.
            state.call.iter().for_each(|bell| bell.ring());
            self.inflight.as_ref().map_or(Ok(()), |record| record.clear(queue, resubmit.heads()))?;
        }
        Ok(())
    }
}

/// Where a queue goes on, by the record of an earlier backend: behind what that one had used, with what it had taken
/// and not used.
fn resume(
    record: &Inflight,
    queue: usize,
    size: u16,
    places: &RingPlaces,
) -> Result<(u16, Option<Arc<Resubmit>>), Refusal> {
    let pending = record.pending(queue, size)?;
    let used = used_index(places);
    let resubmit = (!pending.is_empty()).then(|| Arc::new(Resubmit::new(pending, used, size)));
    Ok((used, resubmit))
}

/// The index of a used ring, as it is in guest memory.
fn used_index(places: &RingPlaces) -> u16 {
    // SAFETY: the index behind the flags of the used ring is inside it: `locate` has checked the ring's full
    // length, which is more than two bytes.
    let index_at = unsafe { places.used.add(2) };
    // SAFETY: inside the mapping that the caller's memory holds, and aligned: used rings begin at multiples of 4.
    // Whoever else in this process looks at ring words does so by atomics, too.
    let index = unsafe { shared_u16(index_at.cast()) };
    index.load(Ordering::Acquire)
}
