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
    /// The frontend hung up; perhaps it has connected anew already.
    Left(Option<UnixStream>),
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
        shared.clear_wake();
        if shared.is_closed() {
            return Ok(Ending::Stopped);
        }
        device.watch()?;
        match connection.receive()? {
            Incoming::End => return Ok(Ending::Left(None)),
            Incoming::Nothing => {
                if let Some(next) = turn_away(&connection, listener, device) {
                    return Ok(Ending::Left(Some(next)));
                }
                wait = TICK;
            }
            Incoming::Message(message) => {
                slow_down(&mut budget, device, shared);
                serve_one(&connection, device, message, shared)?;
                // More may have come with it.
                wait = Duration::ZERO;
            }
        }
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

/// A frontend that finds a listener and no answer would stand still: who comes second is turned away. Unless the
/// first has hung up meanwhile: then the second may be the same one, and is next.
fn turn_away(connection: &Connection, listener: &UnixListener, device: &Device<'_>) -> Option<UnixStream> {
    for _ in 0..EXTRA_A_TICK {
        let (extra, _) = listener.accept().ok()?;
        if has_hung_up(connection) {
            return Some(extra);
        }
        device.faults.count(Fault::ConnectionExtra);
    }
    None
}

/// Whether the other side has closed its end.
pub(crate) fn has_hung_up(stream: &impl AsFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok() && fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
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

/// Serves one message, shows what became of the device, and answers if there is to be an answer.
fn serve_one(
    connection: &Connection,
    device: &mut Device<'_>,
    message: Message,
    shared: &Shared,
) -> Result<(), Refusal> {
    let (request, needs_reply) = (message.request, message.needs_reply);
    let outcome = device.serve(message);
    shared.show(device, true);
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
