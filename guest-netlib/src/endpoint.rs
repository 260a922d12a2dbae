//! One attached endpoint: a queue pair for each lcore of the switch.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use shm_ring::area::{GuestEndpoint, TargetKind};

use crate::attach::{AttachError, confirm_epoch};
use crate::burst::Burst;
use crate::device::Device;
use crate::leaving::Leaving;
use crate::queue::QueuePair;
use crate::seat::Seat;
use crate::shown::{QueueCounters, Shown};
use crate::targets::{Kind, PortTarget, ServiceTarget, Target, TargetError, Targets};

/// How long an attach may take unless the caller says otherwise.
pub const ATTACH_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Between two looks whether the switch has stopped feeding.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// One endpoint that is attached to the switch. Dropping it gives every buffer back and says goodbye.
#[derive(Debug)]
pub struct Endpoint {
    queue_pairs: Vec<QueuePair>,
    shown: Arc<Shown>,
    /// What earlier attaches of this endpoint moved.
    earlier: QueueCounters,
    epoch: u32,
    /// The switch was asked to feed this epoch no more.
    is_leaving: Cell<bool>,
    attaches: u32,
    position: usize,
    timeout: Duration,
    targets: Targets,
    device: Arc<Device>,
    /// Last: nobody else attaches before this one is gone.
    _seat: Seat,
}

/// One queue pair of an endpoint, lent to a thread by [`Endpoint::split`].
#[derive(Debug)]
pub struct SplitPair<'e>(&'e mut QueuePair);

impl Deref for SplitPair<'_> {
    type Target = QueuePair;

    fn deref(&self) -> &QueuePair {
        self.0
    }
}

impl Endpoint {
    /// Attaches to the endpoint at `position` (from 0, in the order of the switch's config).
    ///
    /// # Errors
    /// If there is none, somebody else has it, or the switch refuses or does not answer.
    pub fn attach(device: &Arc<Device>, position: usize) -> Result<Self, AttachError> {
        Self::attach_within(device, position, ATTACH_TIMEOUT_DEFAULT)
    }

    /// As [`Endpoint::attach`], waiting at most `timeout` for the switch.
    ///
    /// # Errors
    /// As [`Endpoint::attach`].
    pub fn attach_within(
        device: &Arc<Device>,
        position: usize,
        timeout: Duration,
    ) -> Result<Self, AttachError> {
        let count = device.endpoint_count();
        let words = device.endpoint(position).ok_or(AttachError::NoSuchEndpoint { position, count })?;
        let seat = Seat::take(device, position).map_err(|err| AttachError::of_seat(err, position))?;
        let mut endpoint = Self {
            queue_pairs: Vec::new(),
            shown: Arc::new(Shown::new(words)),
            earlier: QueueCounters::default(),
            epoch: 0,
            is_leaving: Cell::new(false),
            attaches: 0,
            position,
            timeout,
            targets: copy_targets(device),
            device: Arc::clone(device),
            _seat: seat,
        };
        endpoint.attach_anew()?;
        Ok(endpoint)
    }

    /// Ends the present attach, if the switch has not done so already, and asks for another one.
    ///
    /// # Errors
    /// As [`Endpoint::attach`]; the endpoint is detached then, and may try again.
    pub fn attach_anew(&mut self) -> Result<(), AttachError> {
        self.detach();
        let (position, count) = (self.position, self.device.endpoint_count());
        let words = self.device.endpoint(position).ok_or(AttachError::NoSuchEndpoint { position, count })?;
        let epoch = confirm_epoch(&self.device, &words, position, self.timeout)?;
        self.queue_pairs = words
            .queue_pairs()
            .iter()
            .map(|pair| QueuePair::new(&self.device, words.clone(), &self.shown, epoch, pair))
            .collect();
        self.epoch = epoch;
        self.is_leaving.set(false);
        self.attaches += 1;
        log::info!("endpoint {position} ({}) attached with epoch {epoch}", words.service_name());
        Ok(())
    }

    /// Has the switch stop feeding, gives back every buffer, then tells the switch that this epoch is over. Without an attach, nothing.
    fn detach(&mut self) {
        if self.epoch == 0 {
            return;
        }
        if !self.device.observes() {
            self.drop_the_rest();
        }
        for pair in &self.queue_pairs {
            pair.end();
        }
        self.earlier = self.counters();
        // The last word of this epoch: no packet is left, because each of them borrows its queue pair.
        self.queue_pairs.clear();
        if let Some(words) = self.words() {
            words.leave(self.epoch);
        }
        self.epoch = 0;
    }

    /// Drops what the switch lends until it has stopped feeding: nobody is left to judge it.
    fn drop_the_rest(&self) {
        let leaving = self.begin_leaving();
        let mut burst = Burst::new();
        while !leaving.has_expired() {
            let last = leaving.feeding_has_stopped();
            let mut taken = 0;
            for pair in &self.queue_pairs {
                match pair.poll(&mut burst) {
                    Ok(packets) => taken += packets,
                    // This epoch is over on one side or the other.
                    Err(_) => return,
                }
            }
            match (taken, last) {
                (0, true) => return,
                (0, false) => std::thread::sleep(LOOK_AGAIN),
                _ => {}
            }
        }
    }

    /// Asks the switch to feed this endpoint nothing more, because it is about to leave. This cannot be taken
    /// back: only a new attach is fed again.
    #[must_use]
    pub fn begin_leaving(&self) -> Leaving<'_> {
        self.is_leaving.set(true);
        Leaving::begin(&self.device, self.words(), self.epoch)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.get()
    }

    fn words(&self) -> Option<GuestEndpoint<'static>> {
        self.device.endpoint(self.position)
    }

    /// The queue pairs, one for each lcore, for a thread that polls them all.
    #[must_use]
    pub fn queue_pairs(&self) -> &[QueuePair] {
        &self.queue_pairs
    }

    /// The queue pairs, to be polled by a thread each.
    ///
    /// ```no_run
    /// # fn work(pair: &guest_netlib::QueuePair) {}
    /// # fn split(mut endpoint: guest_netlib::Endpoint) {
    /// std::thread::scope(|threads| {
    ///     for pair in endpoint.split() {
    ///         threads.spawn(move || work(&pair));
    ///     }
    /// });
    /// # }
    /// ```
    pub fn split(&mut self) -> impl Iterator<Item = SplitPair<'_>> {
        self.queue_pairs.iter_mut().map(SplitPair)
    }

    /// The service that a packet can be sent to by this name.
    ///
    /// # Errors
    /// If the config lets this network function name no such service.
    pub fn target_service(&self, name: &str) -> Result<ServiceTarget, TargetError> {
        self.targets.id_of(Kind::Service, name).map(ServiceTarget)
    }

    /// The port that a packet can be sent out of by this name.
    ///
    /// # Errors
    /// If the config lets this network function name no such port.
    pub fn target_port(&self, name: &str) -> Result<PortTarget, TargetError> {
        self.targets.id_of(Kind::Port, name).map(PortTarget)
    }

    /// The name of a port that this network function may know, by [`crate::Packet::ingress_port`].
    #[must_use]
    pub fn port_name(&self, id: u16) -> Option<&str> {
        self.targets.name_of(Kind::Port, id)
    }

    /// The name of the service that this endpoint is an instance of.
    #[must_use]
    pub fn service_name(&self) -> String {
        self.words().map(|words| words.service_name().to_owned()).unwrap_or_default()
    }

    /// The epoch of the present attach.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// How often this endpoint has attached.
    #[must_use]
    pub fn attaches(&self) -> u32 {
        self.attaches
    }

    /// Most buffers that this endpoint may hold at once.
    #[must_use]
    pub fn quota_buffers(&self) -> u32 {
        self.words().map_or(0, |words| words.facts().quota_buffers)
    }

    /// Packets that were taken or made under this attach and have no verdict yet, or views that were not given back.
    pub(crate) fn held(&self) -> u64 {
        let held = |counters: QueueCounters| {
            let QueueCounters { received, made, sent, dropped, released, .. } = counters;
            received.wrapping_add(made).wrapping_sub(sent).wrapping_sub(dropped).wrapping_sub(released)
        };
        self.queue_pairs.iter().map(|pair| held(pair.counters())).sum()
    }

    /// Whether this endpoint only observes: it is brought views, and no packets.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.device.observes()
    }

    /// What was moved, over all queue pairs and attaches.
    #[must_use]
    pub fn counters(&self) -> QueueCounters {
        self.queue_pairs.iter().fold(self.earlier, |sum, pair| sum.plus(pair.counters()))
    }

    /// Adds to one of the eight counters that the switch shows for the app; false if `number` is 8 or more.
    pub fn add_app_counter(&self, number: usize, count: u64) -> bool {
        self.shown.add_app(number, count)
    }

    /// The memory that this endpoint is part of.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.detach();
    }
}

fn copy_targets(device: &Device) -> Targets {
    let copy = device.area().targets().map(|target| Target {
        kind: match target.kind {
            TargetKind::Service => Kind::Service,
            TargetKind::Port => Kind::Port,
        },
        id: target.id,
        name: target.name,
    });
    Targets(copy.collect())
}
