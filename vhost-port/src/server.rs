//! The control thread of a port: one frontend after the other, each from nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::sockopt::socket_peercred;

use crate::device::{Device, Lanes};
use crate::features::Features;
use crate::lane::Lane;
use crate::lane_counters::LaneCounters;
use crate::log_budget::LogBudget;
use crate::publication::{Publisher, publication};
use crate::refusal::{Fault, FaultCounts};
use crate::session::{self, Ending};
use crate::setup::{DeviceSetup, QUEUE_PAIRS_MAX, RING_ENTRIES_MAX};
use crate::terms::Terms;

/// A session that lasts this long and ends well is no reason to slow the next one down.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// After sessions that ended badly, the next waits: this long, then twice as long, up to the most.
const PENALTY: Duration = Duration::from_millis(10);
const PENALTY_MAX: Duration = Duration::from_secs(1);
/// Connections that are over before they are served pass at this pace.
const STORM_PAUSE: Duration = Duration::from_millis(1);
/// How long the end of a port waits for its thread. What could hold it up longer is a descriptor that a frontend
/// passed from a filesystem of its own and whose closing it does not answer.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// A queue, as shown to operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Entries of its ring; 0 while unknown.
    pub size: u16,
    /// Whether the driver has started it.
    pub is_running: bool,
    /// Whether the driver wants traffic on it.
    pub is_enabled: bool,
}

/// A port, as shown to operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether a frontend is connected.
    pub is_connected: bool,
    /// How many were connected so far.
    pub sessions: u64,
    /// The features that its driver took.
    pub features: Option<Features>,
    /// Bytes of guest memory that are mapped.
    pub memory_bytes: u64,
    /// What the driver was told of packet sizes, if it asked.
    pub mtu_bytes: Option<u16>,
    /// By queue index.
    pub queues: Vec<QueueStatus>,
}

/// What the control thread shares with who owns the port.
#[derive(Debug)]
pub(crate) struct Shared {
    is_ended: AtomicBool,
    /// Lanes look at it too.
    is_closed: Arc<AtomicBool>,
    wake: OwnedFd,
    status: Mutex<Status>,
    faults: FaultCounts,
    log: LogBudget,
}

impl Shared {
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire) || self.is_ended.load(Ordering::Acquire)
    }

    pub(crate) fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    /// Sleeps can begin again: what woke this thread is looked at after this.
    pub(crate) fn clear_wake(&self) {
        _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what became of the device.
    pub(crate) fn show(&self, device: &Device<'_>, is_connected: bool) {
        let mut status = self.status();
        let sessions = status.sessions;
        *status = Status { sessions, ..Status::default() };
        if is_connected {
            status.is_connected = true;
            status.features = device.features.map(crate::features::Negotiated::features);
            status.memory_bytes = device.memory.bytes();
            status.mtu_bytes = device.mtu_bytes;
            status.queues = device.queues.iter().map(|queue| queue.status()).collect();
        }
    }

    fn raise(&self) {
        // Fails only if the counter is full, and then it is raised already.
        _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// A port's control thread. Dropping it ends the session; the lanes keep nothing of it.
#[derive(Debug)]
pub struct Server {
    name: String,
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
    has_ended: Receiver<()>,
}

/// Opens a port on a listening socket, with this many lanes.
///
/// # Errors
/// If the terms cannot be, or the system gives no thread.
pub fn open(terms: Terms, listener: UnixListener, lanes: usize) -> io::Result<(Server, Vec<Lane>)> {
    check(&terms)?;
    listener.set_nonblocking(true)?;
    let (publisher, subscriptions) = publication(lanes, terms.queue_count());
    let is_closed = Arc::<AtomicBool>::default();
    let lanes: Vec<Lane> = subscriptions
        .into_iter()
        .map(|subscription| {
            Lane::new(subscription, lanes, Arc::new(LaneCounters::default())).closed_by(is_closed.clone())
        })
        .collect();
    let shared = Arc::new(Shared {
        is_ended: AtomicBool::new(false),
        is_closed,
        wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        status: Mutex::default(),
        faults: FaultCounts::default(),
        log: LogBudget::new(&terms.name),
    });
    let (ended, has_ended) = channel();
    let (name, of_thread) = (terms.name.clone(), shared.clone());
    let worker = std::thread::Builder::new().name(format!("vhost-{name}")).spawn(move || {
        serve(&terms, &listener, publisher, &of_thread);
        // Nobody listens any more if the end took too long.
        _ = ended.send(());
    })?;
    Ok((Server { name, shared, worker: Some(worker), has_ended }, lanes))
}

fn check(terms: &Terms) -> io::Result<()> {
    let fits = (1..=QUEUE_PAIRS_MAX).contains(&terms.queue_pairs)
        && terms.ring_entries <= RING_ENTRIES_MAX
        && terms.ring_entries.is_power_of_two();
    if fits {
        return Ok(());
    }
    let (pairs, entries) = (terms.queue_pairs, terms.ring_entries);
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "{pairs} queue pairs of {entries} entries; a port has 1 to {QUEUE_PAIRS_MAX} of a power of two up to {RING_ENTRIES_MAX}"
        ),
    ))
}

impl Server {
    /// The port as it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status().clone()
    }

    /// What frontends and drivers did wrong so far.
    #[must_use]
    pub fn faults(&self) -> &FaultCounts {
        &self.shared.faults
    }

    /// Ends the session; lanes serve nothing of it from now on. Who connects is turned away until [`Self::reopen`].
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.raise();
    }

    /// Lets frontends connect again.
    pub fn reopen(&self) {
        self.shared.is_closed.store(false, Ordering::Release);
        self.shared.raise();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_ended.store(true, Ordering::Release);
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.raise();
        if self.has_ended.recv_timeout(END_PATIENCE).is_err() {
            log::error!("port {}: its control thread is held up by its frontend and left behind", self.name);
            return;
        }
        if let Some(worker) = self.worker.take()
            && worker.join().is_err()
        {
            log::error!("port {}: its control thread had panicked", self.name);
        }
    }
}

/// The thread.
fn serve(terms: &Terms, listener: &UnixListener, publisher: Publisher<DeviceSetup>, shared: &Shared) {
    let mut lanes = Lanes::new(publisher);
    let mut penalty = Duration::ZERO;
    let mut next = None;
    while !shared.is_ended.load(Ordering::Acquire) {
        let Some(stream) = next.take().or_else(|| next_connection(listener, shared)) else { continue };
        if session::has_hung_up(&stream) {
            // One of a storm: whatever it said, nobody waits for an answer.
            pause(shared, STORM_PAUSE);
            continue;
        }
        if shared.is_closed() {
            // Answered by its end: a frontend that waits for an answer would stand still.
            drop(stream);
            continue;
        }
        let started = Instant::now();
        let ending = one_session(terms, stream, &mut lanes, shared, listener);
        let was_good = !matches!(ending, Ending::Refused(_)) && started.elapsed() >= GOOD_SESSION;
        if let Ending::Left(successor) = ending {
            next = successor;
        }
        penalty = if was_good { Duration::ZERO } else { (penalty * 2).clamp(PENALTY, PENALTY_MAX) };
        if penalty == PENALTY_MAX {
            shared.faults.count(Fault::ConnectionRate);
        }
        pause(shared, penalty);
    }
}

fn one_session(
    terms: &Terms,
    stream: UnixStream,
    lanes: &mut Lanes,
    shared: &Shared,
    listener: &UnixListener,
) -> Ending {
    let peer = socket_peercred(&stream).map_or_else(|_| "?".to_owned(), |peer| peer.pid.to_string());
    shared.log.say(Level::Info, format_args!("process {peer} connected"));
    let mut device = Device::new(terms, lanes, &shared.faults, &shared.log);
    shared.status().sessions += 1;
    shared.show(&device, true);
    let ending = session::run(stream, &mut device, shared, listener);
    match &ending {
        Ending::Left(_) => shared.log.say(Level::Info, format_args!("process {peer} left")),
        Ending::Stopped => shared.log.say(Level::Info, format_args!("closed")),
        Ending::Refused(refusal) => {
            shared.faults.count(refusal.fault());
            let ended = format_args!("session of process {peer} ended: {refusal}; it may connect again");
            shared.log.say(Level::Warn, ended);
        }
    }
    ending
}

/// The next connection; `None` if the port was woken instead.
fn next_connection(listener: &UnixListener, shared: &Shared) -> Option<UnixStream> {
    let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&shared.wake, PollFlags::IN)];
    // An error of poll, which only too little memory explains, is met by the pause of the next session.
    _ = poll(&mut fds, None);
    shared.clear_wake();
    listener.accept().ok().map(|(stream, _)| stream)
}

/// Waits, or less if the port is woken.
fn pause(shared: &Shared, time: Duration) {
    if !time.is_zero() {
        let mut fds = [PollFd::new(&shared.wake, PollFlags::IN)];
        _ = poll(&mut fds, Some(&Timespec::try_from(time).unwrap_or_default()));
    }
}
