//! A polling loop for network functions that hold packets back, or act without one.
//!
//! [`Endpoint::run`] hands each packet out for one call. Here a packet may be kept until the end of the attach,
//! the clock ticks without traffic, and the counters that the switch shows are kept up to date:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use guest_netlib::holding::{Handler, SHOWN_COUNTERS};
//! use guest_netlib::{Endpoint, Packet, Run, RunError};
//!
//! /// Lets packets go at the next tick.
//! #[derive(Default)]
//! struct Late<'q> {
//!     held: Vec<Packet<'q>>,
//! }
//!
//! impl<'q> Handler<'q> for Late<'q> {
//!     fn packet(&mut self, packet: Packet<'q>, _now: Duration) {
//!         self.held.push(packet);
//!     }
//!     fn tick(&mut self, _now: Duration) {
//!         self.held.drain(..).for_each(Packet::next);
//!     }
//!     fn shown(&self) -> [u64; SHOWN_COUNTERS] {
//!         [self.held.len() as u64, 0, 0, 0, 0, 0, 0, 0]
//!     }
//! }
//!
//! # fn delay(mut endpoint: Endpoint) -> Result<(), RunError> {
//! endpoint.run_holding(&Run::default(), |attach| attach.poll(&mut Late::default()))?;
//! # Ok(())
//! # }
//! ```

use std::time::{Duration, Instant};

use crate::burst::{BURST_PACKETS_MAX, Burst};
use crate::endpoint::Endpoint;
use crate::packet::Packet;
use crate::queue::{PollError, QueuePair};
use crate::run::{End, Run, RunError, RunReport};
use crate::view::View;

/// Rounds over all queue pairs between two looks at the clock, when there is traffic.
const ROUNDS_PER_LOOK: u32 = 64;
/// Time between two ticks.
pub const TICK: Duration = Duration::from_millis(50);
/// Counters that the switch shows for an endpoint.
pub const SHOWN_COUNTERS: usize = 8;
/// What a network function does during one attach. `'q` is the time of the attach.
pub trait Handler<'q> {
    /// Takes a packet; what is dropped without a verdict is dropped from the network.
    fn packet(&mut self, packet: Packet<'q>, now: Duration);

    /// Takes a view, of an endpoint that observes; what is dropped goes back. A handler that knows nothing of views
    /// lets each go.
    fn view(&mut self, view: View<'q>, now: Duration) {
        let _ = now;
        view.release();
    }

    /// Called about every [`TICK`], traffic or not. `now` counts from the start of the run.
    fn tick(&mut self, now: Duration);

    /// What the switch shows of this network function, counted since the run started.
    fn shown(&self) -> [u64; SHOWN_COUNTERS];
}

/// Why one attach ended.
#[derive(Debug)]
pub struct Pause(Reason);

#[derive(Debug)]
enum Reason {
    End(End),
    Broken(PollError),
}

/// What lasts over all attaches of a run.
#[derive(Debug)]
struct Progress {
    started: Instant,
    packets: u64,
    shown: [u64; SHOWN_COUNTERS],
}

/// One attach, to be polled once.
#[derive(Debug)]
pub struct Attach<'q> {
    endpoint: &'q Endpoint,
    how: &'q Run,
    progress: &'q mut Progress,
}

impl Endpoint {
    /// Runs until `how` says to end. `attached` is called once for each attach and has to
    /// [`poll`](Attach::poll) it; when the switch detaches the endpoint, it is attached anew.
    ///
    /// # Errors
    /// As [`Endpoint::run`].
    pub fn run_holding(
        &mut self,
        how: &Run,
        mut attached: impl FnMut(Attach<'_>) -> Pause,
    ) -> Result<RunReport, RunError> {
        let mut progress = Progress { started: Instant::now(), packets: 0, shown: [0; SHOWN_COUNTERS] };
        self.return_after_leaving(progress.started)?;
        loop {
            let Pause(reason) = attached(Attach { endpoint: self, how, progress: &mut progress });
            let cause = match reason {
                Reason::End(end) => return self.report(end, progress.started).conclude(),
                Reason::Broken(cause) => cause,
            };
            log::warn!("{cause}; attaching again");
            if let Err(source) = self.attach_anew() {
                return Err(RunError::attach(cause, source, self.report(End::Detached, progress.started)));
            }
        }
    }
}

/// Hands views to a closure.
struct Views<F>(F);

impl<'q, F: FnMut(View<'_>)> Handler<'q> for Views<F> {
    fn packet(&mut self, packet: Packet<'q>, _now: Duration) {
        // Not of an endpoint that observes; of any other one it goes on as if nobody had looked.
        packet.next();
    }

    fn view(&mut self, view: View<'q>, _now: Duration) {
        (self.0)(view);
    }

    fn tick(&mut self, _now: Duration) {}

    fn shown(&self) -> [u64; SHOWN_COUNTERS] {
        [0; SHOWN_COUNTERS]
    }
}

impl Endpoint {
    /// Polls all queue pairs of an endpoint that observes, and calls `handler` with each view, until `how` says to
    /// end. When the switch detaches this endpoint, attaches again and goes on.
    ///
    /// # Errors
    /// As [`Endpoint::run`].
    pub fn run_views(&mut self, how: &Run, handler: impl FnMut(View<'_>)) -> Result<RunReport, RunError> {
        let mut views = Views(handler);
        self.run_holding(how, |attach| attach.poll(&mut views))
    }
}

impl<'q> Attach<'q> {
    /// The queue pairs of this attach.
    #[must_use]
    pub fn queue_pairs(&self) -> &'q [QueuePair] {
        self.endpoint.queue_pairs()
    }

    /// Polls round and round until there is a reason to pause.
    pub fn poll(self, handler: &mut impl Handler<'q>) -> Pause {
        let Self { endpoint, how, progress } = self;
        let reason = progress.poll(endpoint, how, handler);
        progress.show(endpoint, handler.shown());
        Pause(reason)
    }
}

impl Progress {
    fn poll<'q>(&mut self, endpoint: &'q Endpoint, how: &Run, handler: &mut impl Handler<'q>) -> Reason {
        let mut burst = Burst::new();
        let mut now = self.started.elapsed();
        let mut next_tick = now;
        let (mut empty_rounds, mut rounds) = (0_u32, 0_u32);
        loop {
            if how.stop.asked() {
                self.take_leave(endpoint, how, handler);
                return Reason::End(End::Stopped);
            }
            let wanted = self.packets_wanted(how);
            if wanted == 0 {
                return Reason::End(End::Packets);
            }
            let taken = match self.poll_round(endpoint.queue_pairs(), how, now, &mut burst, handler) {
                Ok(taken) => taken,
                Err(err) => return Reason::Broken(err),
            };
            rounds = rounds.wrapping_add(1);
            if taken == 0 || rounds.is_multiple_of(ROUNDS_PER_LOOK) {
                now = self.started.elapsed();
            }
            if now >= next_tick {
                next_tick = now + TICK;
                handler.tick(now);
                self.show(endpoint, handler.shown());
                if how.time_max.is_some_and(|max| now >= max) {
                    return Reason::End(End::Time);
                }
                if !endpoint.device().is_connected() {
                    return Reason::End(End::SwitchGone);
                }
            }
            empty_rounds = if taken == 0 { empty_rounds.saturating_add(1) } else { 0 };
            if taken == 0 {
                how.idle.wait(empty_rounds);
            }
        }
    }

    /// Goes on until the switch has stopped feeding and the handler holds nothing more.
    fn take_leave<'q>(&mut self, endpoint: &'q Endpoint, how: &Run, handler: &mut impl Handler<'q>) {
        let leaving = endpoint.begin_leaving();
        let mut burst = Burst::new();
        let mut empty_rounds = 0_u32;
        let mut next_tick = self.started.elapsed();
        while !leaving.has_expired() {
            let last = leaving.feeding_has_stopped();
            let now = self.started.elapsed();
            match self.poll_round(endpoint.queue_pairs(), how, now, &mut burst, handler) {
                Ok(0) if last && endpoint.held() == 0 => break,
                Ok(0) => {
                    empty_rounds = empty_rounds.saturating_add(1);
                    how.idle.wait(empty_rounds);
                }
                Ok(_) => empty_rounds = 0,
                // The epoch is over: there is nothing to leave any more.
                Err(_) => break,
            }
            if now >= next_tick {
                next_tick = now + TICK;
                handler.tick(now);
            }
        }
    }

    /// How many packets the next poll may take.
    fn packets_wanted(&self, how: &Run) -> usize {
        let left = how.packets_max.map_or(u64::MAX, |max| max.saturating_sub(self.packets));
        usize::try_from(left).unwrap_or(usize::MAX).min(BURST_PACKETS_MAX)
    }

    /// One poll of each queue pair.
    #[inline]
    fn poll_round<'q>(
        &mut self,
        pairs: &'q [QueuePair],
        how: &Run,
        now: Duration,
        burst: &mut Burst<'q>,
        handler: &mut impl Handler<'q>,
    ) -> Result<usize, PollError> {
        let mut taken = 0;
        for pair in pairs {
            let wanted = self.packets_wanted(how);
            let packets = if pair.observes() {
                pair.poll_views_up_to(wanted, |view| handler.view(view, now))?
            } else {
                let packets = pair.poll_up_to(burst, wanted)?;
                burst.for_each(|packet| handler.packet(packet, now));
                packets
            };
            self.packets += packets as u64;
            taken += packets;
        }
        Ok(taken)
    }

    /// Adds what is new to the counters that the switch shows.
    fn show(&mut self, endpoint: &Endpoint, now: [u64; SHOWN_COUNTERS]) {
        for (number, (count, before)) in now.iter().zip(&mut self.shown).enumerate() {
            let more = count.wrapping_sub(*before);
            if more > 0 && endpoint.add_app_counter(number, more) {
                *before = *count;
            }
        }
    }
}
