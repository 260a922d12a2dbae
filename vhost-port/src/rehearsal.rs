//! A session without its thread: for fuzzing, where the caller says when a message is looked at.

use std::os::unix::net::UnixStream;

use crate::device::{Device, Lanes};
use crate::features::Negotiated;
use crate::lane::Lane;
use crate::lane_counters::LaneCounters;
use crate::log_budget::LogBudget;
use crate::publication::publication;
use crate::refusal::{FaultCounts, Refusal};
use crate::server::QueueStatus;
use crate::terms::Terms;
use crate::wire::{Connection, Incoming};

/// A session that hears what has come when it is told to.
#[derive(Debug)]
pub struct Rehearsal<'r> {
    connection: Connection,
    device: Device<'r>,
}

/// What came of a look.
#[derive(Debug)]
pub enum Heard {
    /// No whole message.
    Nothing,
    /// The other side is gone.
    End,
    /// A message was done; the body of its answer, if it has one of its own.
    Done(Option<Vec<u8>>),
    /// A message was refused: a session would end here.
    Refused(Refusal),
}

/// Plays a session with one lane, which is to be parked whenever something is heard; then ends it.
pub fn rehearse(terms: &Terms, stream: UnixStream, play: impl FnOnce(&mut Rehearsal<'_>, &mut Lane)) {
    let (publisher, mut subscriptions) = publication(1, terms.queue_count());
    let (mut lanes, faults) = (Lanes::new(publisher), FaultCounts::default());
    let log = LogBudget::new(&terms.name);
    let device = Device::new(terms, &mut lanes, &faults, &log);
    let Ok(connection) = Connection::new(stream) else { return };
    let mut session = Rehearsal { connection, device };
    if let Some(subscription) = subscriptions.pop() {
        let mut lane = Lane::new(subscription, 1, std::sync::Arc::new(LaneCounters::default()));
        play(&mut session, &mut lane);
        lane.park();
    }
    let ended = session.device.withdraw();
    assert!(ended.is_ok(), "{ended:?}");
}

impl Rehearsal<'_> {
    /// Looks for one message.
    pub fn hear(&mut self) -> Heard {
        let heard = self.device.watch().and_then(|()| self.connection.receive());
        match heard {
            Ok(Incoming::Nothing) => Heard::Nothing,
            Ok(Incoming::End) => Heard::End,
            Ok(Incoming::Message(message)) => match self.device.serve(message) {
                Ok(answer) => Heard::Done(answer.map(|answer| answer.body)),
                Err(refusal) => Heard::Refused(refusal),
            },
            Err(refusal) => Heard::Refused(refusal),
        }
    }

    /// The queues as they are now.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueStatus> {
        self.device.queues.iter().map(|queue| queue.status()).collect()
    }

    /// Regions and bytes of the memory that is mapped.
    #[must_use]
    pub fn memory(&self) -> (usize, u64) {
        (self.device.memory.region_count(), self.device.memory.bytes())
    }

    /// The features in force.
    #[must_use]
    pub fn features(&self) -> Option<Negotiated> {
        self.device.features
    }
}
