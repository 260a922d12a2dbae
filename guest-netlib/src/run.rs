//! The polling loop: until a signal, a limit, or an error that attaching again does not cure.

use std::time::{Duration, Instant};

use crate::attach::AttachError;
use crate::burst::{BURST_PACKETS_MAX, Burst};
use crate::device::Device;
use crate::endpoint::Endpoint;
use crate::idle::Idle;
use crate::packet::Packet;
use crate::queue::{PollError, QueuePair};
use crate::shown::QueueCounters;
use crate::stop::Stop;

/// Rounds over all queue pairs between two looks at the clock and the connection.
const ROUNDS_PER_LOOK: u32 = 64;
/// Least time between two looks at the connection.
const CONNECTION_LOOK: Duration = Duration::from_millis(100);

/// How to run, and until when.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What to do between empty polls.
    pub idle: Idle,
    /// Ends the loop when asked.
    pub stop: Stop,
    /// Ends the loop after exactly this many packets.
    pub packets_max: Option<u64>,
    /// Ends the loop after this time.
    pub time_max: Option<Duration>,
}

/// Why a loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A signal, or somebody called [`Stop::ask`].
    Stopped,
    /// [`Run::packets_max`] is reached.
    Packets,
    /// [`Run::time_max`] is over.
    Time,
    /// The switch has closed the connection.
    SwitchGone,
    /// The switch has detached the endpoint and does not let it in again.
    Detached,
}

/// What a loop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// Why it ended.
    pub end: End,
    /// What the endpoint moved since it first attached.
    pub counters: QueueCounters,
    /// How often the endpoint has attached.
    pub attaches: u32,
    /// How long the loop ran.
    pub elapsed: Duration,
}

impl RunReport {
    /// As a result: a switch that went away is a failure, whatever was done before.
    pub(crate) fn conclude(self) -> Result<Self, RunError> {
        match self.end {
            End::SwitchGone => Err(RunError::SwitchGone { report: Box::new(self) }),
            _ => Ok(self),
        }
    }
}

/// What ends a loop early; what it did until then comes along.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Detached by the switch, and attaching again failed.
    #[error("{cause}; attaching again: {source}")]
    Attach {
        /// What ended the attach.
        cause: PollError,
        /// Why there is no other one.
        source: AttachError,
        /// What was done before.
        report: Box<RunReport>,
    },
    /// Only references come, and the program wants packets.
    #[error("this endpoint only observes: it is brought views, and no packets")]
    Observes {
        /// What was done before.
        report: Box<RunReport>,
    },
    /// The switch's end of the connection is closed; its memory is of no more use.
    #[error("the switch has closed the connection: start this program again when the switch is back")]
    SwitchGone {
        /// What was done before.
        report: Box<RunReport>,
    },
}

impl RunError {
    /// Attaching again failed after `cause`. A switch that detaches and goes is a switch that stops, nothing else.
    pub(crate) fn attach(cause: PollError, source: AttachError, report: RunReport) -> Self {
        match source {
            AttachError::SwitchGone { .. } => {
                Self::SwitchGone { report: Box::new(RunReport { end: End::SwitchGone, ..report }) }
            }
            source => Self::Attach { cause, source, report: Box::new(report) },
        }
    }

    /// What was done before the loop ended.
    #[must_use]
    pub fn report(&self) -> &RunReport {
        match self {
            Self::Attach { report, .. } | Self::Observes { report } | Self::SwitchGone { report } => report,
        }
    }
}

/// Why one attach of the loop ended.
enum Pause {
    End(End),
    Broken(PollError),
}

impl Endpoint {
    /// Polls all queue pairs and calls `handler` with each packet, until `how` says to end. When the switch
    /// detaches this endpoint, attaches again and goes on. When it is stopped, handles what comes until the switch
    /// has stopped feeding; a further run attaches anew.
    ///
    /// # Errors
    /// If attaching again fails, the switch is gone, or this endpoint only observes.
    pub fn run(&mut self, how: &Run, mut handler: impl FnMut(Packet<'_>)) -> Result<RunReport, RunError> {
        self.run_bursts(how, |burst| burst.drain_into(&mut handler))
    }

    /// As [`Endpoint::run`], but hands over whole bursts. What `handler` leaves in a burst is dropped.
    ///
    /// # Errors
    /// As [`Endpoint::run`].
    pub fn run_bursts(
        &mut self,
        how: &Run,
        mut handler: impl FnMut(&mut Burst<'_>),
    ) -> Result<RunReport, RunError> {
        let started = Instant::now();
        if self.observes() {
            return Err(RunError::Observes { report: Box::new(self.report(End::Stopped, started)) });
        }
        let mut progress = Progress { packets: 0, started, connection_seen: started };
        self.return_after_leaving(started)?;
        loop {
            let cause = match poll_on(self.queue_pairs(), self.device(), how, &mut progress, &mut handler) {
                Pause::End(end) => {
                    if end == End::Stopped && !cfg!(feature = "sabotage-leave-at-once") {
                        take_leave(self, how, &mut progress, &mut handler);
                    }
                    return self.report(end, started).conclude();
                }
                Pause::Broken(cause) => cause,
            };
            log::warn!("{cause}; attaching again");
            if let Err(source) = self.attach_anew() {
                return Err(RunError::attach(cause, source, self.report(End::Detached, started)));
            }
        }
    }

    /// An earlier run was stopped, and the switch feeds that epoch no more: attaches again.
    pub(crate) fn return_after_leaving(&mut self, started: Instant) -> Result<(), RunError> {
        if !self.is_leaving() {
            return Ok(());
        }
        let cause = PollError::Detached { ours: self.epoch() };
        self.attach_anew()
            .map_err(|source| RunError::attach(cause, source, self.report(End::Detached, started)))
    }

    pub(crate) fn report(&self, end: End, started: Instant) -> RunReport {
        let (counters, attaches, elapsed) = (self.counters(), self.attaches(), started.elapsed());
        RunReport { end, counters, attaches, elapsed }
    }
}

/// How far a loop has come, over all its attaches.
struct Progress {
    packets: u64,
    started: Instant,
    connection_seen: Instant,
}

impl Progress {
    /// How many packets the next poll may take.
    fn packets_wanted(&self, how: &Run) -> usize {
        let left = how.packets_max.map_or(u64::MAX, |max| max.saturating_sub(self.packets));
        usize::try_from(left).unwrap_or(usize::MAX).min(BURST_PACKETS_MAX)
    }

    /// Looks at what changes slowly: the clock and the connection.
    fn look(&mut self, how: &Run, device: &Device) -> Option<Pause> {
        let now = Instant::now();
        if how.time_max.is_some_and(|max| now - self.started >= max) {
            return Some(Pause::End(End::Time));
        }
        if now - self.connection_seen >= CONNECTION_LOOK {
            self.connection_seen = now;
            return (!device.is_connected()).then_some(Pause::End(End::SwitchGone));
        }
        None
    }
}

/// Polls round and round until there is a reason to pause; nothing stays unshown or unreturned then.
fn poll_on(
    pairs: &[QueuePair],
    device: &Device,
    how: &Run,
    progress: &mut Progress,
    handler: &mut impl FnMut(&mut Burst<'_>),
) -> Pause {
    let mut burst = Burst::new();
    let mut empty_rounds: u32 = 0;
    let mut rounds: u32 = 0;
    let pause = loop {
        if how.stop.asked() {
            break Pause::End(End::Stopped);
        }
        let wanted = progress.packets_wanted(how);
        if wanted == 0 {
            break Pause::End(End::Packets);
        }
        let taken = match poll_round(pairs, how, progress, &mut burst, handler) {
            Ok(taken) => taken,
            Err(err) => break Pause::Broken(err),
        };
        rounds = rounds.wrapping_add(1);
        let sleepy = taken == 0 && empty_rounds >= ROUNDS_PER_LOOK;
        if (sleepy || rounds.is_multiple_of(ROUNDS_PER_LOOK))
            && let Some(pause) = progress.look(how, device)
        {
            break pause;
        }
        if taken == 0 {
            empty_rounds = empty_rounds.saturating_add(1);
            how.idle.wait(empty_rounds);
        } else {
            empty_rounds = 0;
        }
    };
    burst.finish();
    pairs.iter().for_each(QueuePair::beat);
    pause
}

/// Handles what the switch lends until it has stopped feeding.
fn take_leave(
    endpoint: &Endpoint,
    how: &Run,
    progress: &mut Progress,
    handler: &mut impl FnMut(&mut Burst<'_>),
) {
    let leaving = endpoint.begin_leaving();
    let mut burst = Burst::new();
    let mut empty_rounds: u32 = 0;
    while !leaving.has_expired() {
        let last = leaving.feeding_has_stopped();
        match poll_round(endpoint.queue_pairs(), how, progress, &mut burst, handler) {
            Ok(0) if last => break,
            Ok(0) => {
                empty_rounds = empty_rounds.saturating_add(1);
                how.idle.wait(empty_rounds);
            }
            Ok(_) => empty_rounds = 0,
            // The epoch is over: there is nothing to leave any more.
            Err(_) => break,
        }
    }
    burst.finish();
    endpoint.queue_pairs().iter().for_each(QueuePair::beat);
}

/// One poll of each queue pair.
#[inline]
fn poll_round<'q>(
    pairs: &'q [QueuePair],
    how: &Run,
    progress: &mut Progress,
    burst: &mut Burst<'q>,
    handler: &mut impl FnMut(&mut Burst<'_>),
) -> Result<usize, PollError> {
    let mut taken = 0;
    for pair in pairs {
        let packets = pair.poll_up_to(burst, progress.packets_wanted(how))?;
        if packets > 0 {
            progress.packets += packets as u64;
            taken += packets;
            handler(burst);
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_detaches_and_goes_is_gone() {
        let report = RunReport {
            end: End::Detached,
            counters: QueueCounters { received: 7, ..QueueCounters::default() },
            attaches: 1,
            elapsed: Duration::ZERO,
        };
        let cause = PollError::Detached { ours: 1 };
        let gone = RunError::attach(cause, AttachError::SwitchGone { position: 0 }, report);
        assert!(matches!(gone, RunError::SwitchGone { .. }), "{gone}");
        assert_eq!(*gone.report(), RunReport { end: End::SwitchGone, ..report });
        let refused = RunError::attach(cause, AttachError::InUse { position: 0 }, report);
        assert!(matches!(refused, RunError::Attach { .. }), "{refused}");
        assert_eq!(*refused.report(), report);
    }
}
