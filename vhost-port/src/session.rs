//! One connection of a frontend, from its first message to its end.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;

use crate::device::Device;
use crate::refusal::{Fault, Refusal};
use crate::server::Shared;
use crate::wire::{Connection, Incoming, Message};

/// How often the control thread looks at what happens without a message.
const TICK: Duration = Duration::from_millis(50);
/// Messages at once, and a second in the long run. QEMU sends about a hundred when it starts a device.
const MESSAGES_AT_ONCE: u32 = 512;
const MESSAGES_A_SECOND: u32 = 256;
/// Connections beside the one that is served which are turned away in one tick.
const EXTRA_A_TICK: usize = 8;

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The frontend hung up.
    Left,
    /// Something was refused.
    Refused(Refusal),
    /// The port is closed.
    Stopped,
}

/// A budget of messages that refills with time.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
    is_known_spent: bool,
}

impl Budget {
    fn new() -> Self {
        Self { left: MESSAGES_AT_ONCE, since: Instant::now(), is_known_spent: false }
    }

    /// Takes one; how long to wait if there is none.
    fn take(&mut self) -> Option<Duration> {
        let each = Duration::from_secs(1) / MESSAGES_A_SECOND;
        let earned = u32::try_from(self.since.elapsed().as_nanos() / each.as_nanos()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(MESSAGES_AT_ONCE);
            self.since = Instant::now();
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                None
            }
            None => Some(each),
        }
    }
}

/// Serves a connection until it ends; then no lane uses anything of that guest.
pub(crate) fn run(
    stream: UnixStream,
    device: &mut Device<'_>,
    shared: &Shared,
    listener: &UnixListener,
) -> Ending {
    let ending = match serve(stream, device, shared, listener) {
        Ok(ending) => ending,
        Err(refusal) => Ending::Refused(refusal),
    };
    shared.show(device, false);
    match device.withdraw() {
        Ok(()) => ending,
        Err(refusal) => Ending::Refused(refusal),
    }
}

fn serve(
    stream: UnixStream,
    device: &mut Device<'_>,
    shared: &Shared,
    listener: &UnixListener,
) -> Result<Ending, Refusal> {
    let mut connection = Connection::new(stream)?;
    let mut budget = Budget::new();
    let mut wait = TICK;
    loop {
        wait_for(&connection, shared.wake(), wait)?;
        if shared.is_closed() {
            return Ok(Ending::Stopped);
        }
        device.watch()?;
        turn_away(listener, device);
        match connection.receive()? {
            Incoming::End => return Ok(Ending::Left),
            Incoming::Nothing => wait = TICK,
            Incoming::Message(message) => {
                slow_down(&mut budget, device, shared);
                answer(&connection, device, message)?;
                // More may have come with it.
                wait = Duration::ZERO;
            }
        }
        shared.show(device, true);
    }
}

/// Waits until something comes, the port is woken, or the time is over.
fn wait_for(connection: &Connection, wake: &OwnedFd, limit: Duration) -> Result<(), Refusal> {
    let limit = Timespec::try_from(limit).unwrap_or_default();
    let mut fds =
        [PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(Refusal::Connection(error.into())),
    }
}

/// A frontend that finds a listener and no answer would stand still: who comes second is turned away.
fn turn_away(listener: &UnixListener, device: &Device<'_>) {
    for _ in 0..EXTRA_A_TICK {
        let Ok((extra, _)) = listener.accept() else { break };
        drop(extra);
        device.faults.count(Fault::ConnectionExtra);
    }
}

fn slow_down(budget: &mut Budget, device: &Device<'_>, shared: &Shared) {
    while let Some(pause) = budget.take() {
        if !budget.is_known_spent {
            budget.is_known_spent = true;
            device.faults.count(Fault::MessageRate);
        }
        if shared.is_closed() {
            break;
        }
        std::thread::sleep(pause);
    }
}

/// Serves one message, and answers it if it is to be answered.
pub(crate) fn answer(
    connection: &Connection,
    device: &mut Device<'_>,
    message: Message,
) -> Result<(), Refusal> {
    let (request, needs_reply) = (message.request, message.needs_reply);
    let outcome = device.serve(message);
    match &outcome {
        Ok(Some(answer)) => {
            connection.reply(request, &answer.body, answer.fd.as_ref().map(AsFd::as_fd))?;
        }
        Ok(None) | Err(_) if needs_reply && device.protocol.contains(Protocol::REPLY_ACK) => {
            let failed = u64::from(outcome.is_err());
            // Who is refused and gone is refused first of all.
            let told = connection.reply(request, &failed.to_le_bytes(), None);
            if outcome.is_ok() {
                told?;
            }
        }
        _ => {}
    }
    outcome.map(|_| ())
}
