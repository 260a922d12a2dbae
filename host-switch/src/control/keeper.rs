//! Keeps the endpoints: serves `endpoint.sock`, polls guests' words, notices deaths.
//!
//! One thread, which waits for sockets, polls the words of open endpoints every few milliseconds, looks at what
//! the lcores counted of their faults every [`SURVEY_PERIOD`], and carries out an operator's orders. It never
//! waits for a client: sockets are non-blocking, and a message that does not fit is the client's loss.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use switch_core::ids::EndpointId;

use super::lending::Lending;
use super::nic::NicView;
use super::order::{Act, Order, OrderError, Orders};
use super::owner::Owner;
use super::peer::Peer;
use super::policy::Policy;
use super::protocol::{ClientKind, Reply, Request, Said};
use super::seqpacket::{self, Received};
use super::served::{EndpointView, ServedEndpoint};
use super::status::{OwnerStatus, VmStatus};
use super::violation::Violation;
use crate::datapath::Event;
use crate::qemu::qmp::Qmp;

/// How often the words of open endpoints are read.
const POLL_PERIOD: Duration = Duration::from_millis(2);
/// How long the thread sleeps when no endpoint is open; a wish to stop waits so long.
const IDLE_PERIOD: Duration = Duration::from_millis(20);
/// How often faults are looked at, and what they lead to is decided.
pub const SURVEY_PERIOD: Duration = Duration::from_millis(100);
/// How long nobody is accepted after the system had no descriptor or memory for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Most connections at once.
const CLIENTS_MAX: usize = 1024;
/// Time to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// What the keeper shows of itself.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By endpoint id.
    pub endpoints: Vec<Option<EndpointView>>,
    /// Those that run.
    pub vms: Vec<VmStatus>,
    /// All of them, at most [`SURVEY_PERIOD`] ago.
    pub owners: Vec<OwnerStatus>,
    /// The NICs of untrusted VMs by the names of their ports, at most [`SURVEY_PERIOD`] ago.
    pub nics: BTreeMap<String, NicView>,
}

/// Says which process is behind a connection.
pub type Witness = Box<dyn Fn(&OwnedFd) -> io::Result<Peer> + Send>;

/// The running keeper.
#[derive(Debug)]
pub struct Keeper {
    thread: JoinHandle<()>,
    ending: Arc<AtomicBool>,
    view: Arc<Mutex<View>>,
    orders: Orders,
    policies: Sender<NewPolicies>,
}

/// What VMs and processes are judged by from here on, and where to say that they are.
pub type NewPolicies = (Vec<Policy>, Sender<()>);

impl Keeper {
    /// Listens at `socket` and serves these owners in a thread of its own.
    ///
    /// # Errors
    /// If the socket cannot be bound or the thread not be started.
    pub fn start(
        socket: &Path,
        owners: Vec<Owner>,
        lending: Arc<dyn Lending>,
        witness: Witness,
    ) -> io::Result<Self> {
        let listener = seqpacket::listen_at(socket)?;
        let ending = Arc::new(AtomicBool::new(false));
        let view = Arc::new(Mutex::new(View::default()));
        let (orders, arriving) = Orders::new();
        let (policies, new_policies) = channel();
        let room = Room {
            listener,
            accepts_from: None,
            owners,
            lending,
            witness,
            clients: Vec::new(),
            orders: arriving,
            policies: new_policies,
            surveyed: Instant::now(),
            view: Arc::clone(&view),
        };
        room.show();
        room.show_owners();
        let wish = Arc::clone(&ending);
        let thread =
            std::thread::Builder::new().name("netvm-keeper".to_owned()).spawn(move || room.run(&wish))?;
        Ok(Self { thread, ending, view, orders, policies })
    }

    /// Where orders are given.
    #[must_use]
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Where new policies are given.
    #[must_use]
    pub fn policies(&self) -> Sender<NewPolicies> {
        self.policies.clone()
    }

    /// What can be looked at while the keeper works.
    #[must_use]
    pub fn view(&self) -> Arc<Mutex<View>> {
        Arc::clone(&self.view)
    }

    /// Says goodbye to everybody and waits for the thread.
    pub fn stop(self) {
        // Relaxed: the flag guards nothing but itself.
        self.ending.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            log::error!("the keeper thread panicked; endpoints were not served since");
        }
    }
}

/// A connection.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// The process that connected, until it has come for an owner.
    peer: Option<Peer>,
    /// Position of the owner it came for.
    owner: Option<usize>,
    since: Instant,
    /// Has been told that it is not understood.
    is_told: bool,
}

/// Everything that the keeper's thread owns.
struct Room {
    listener: OwnedFd,
    /// Nobody is accepted before: the system had no room for one more.
    accepts_from: Option<Instant>,
    owners: Vec<Owner>,
    lending: Arc<dyn Lending>,
    witness: Witness,
    clients: Vec<Client>,
    orders: Receiver<Order>,
    policies: Receiver<NewPolicies>,
    /// When the faults were last looked at.
    surveyed: Instant,
    view: Arc<Mutex<View>>,
}

/// What has something to say, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Listener,
    Client(usize),
    Qmp(usize),
}

impl Room {
    fn run(mut self, ending: &AtomicBool) {
        while !ending.load(Ordering::Relaxed) {
            let ready = self.wait();
            // Ends before beginnings: an owner that comes back finds its place free.
            for source in ready.iter().rev() {
                match *source {
                    Source::Qmp(owner) => self.owners[owner].read_qmp(&*self.lending),
                    Source::Client(client) => self.hear(client),
                    Source::Listener => self.accept(),
                }
            }
            self.take_events();
            let now = Instant::now();
            for owner in &mut self.owners {
                owner.poll(&*self.lending);
            }
            if now - self.surveyed >= SURVEY_PERIOD {
                self.surveyed = now;
                self.survey();
            }
            while let Ok(Order { act, name, done }) = self.orders.try_recv() {
                // Whoever asked may have lost patience.
                _ = done.send(self.carry_out(act, &name));
            }
            while let Ok((policies, done)) = self.policies.try_recv() {
                self.owners.iter_mut().for_each(|owner| owner.judge_by(&policies));
                _ = done.send(());
            }
            self.dismiss_silent(now);
            self.show();
        }
        self.owners.iter().for_each(Owner::say_goodbye);
    }

    /// Waits until something is readable or it is time to look at the guests' words. The listener is first,
    /// clients follow in ascending order.
    fn wait(&self) -> Vec<Source> {
        let (mut sources, mut fds): (Vec<Source>, Vec<BorrowedFd<'_>>) = (Vec::new(), Vec::new());
        if self.accepts_from.is_none_or(|from| Instant::now() >= from) {
            sources.push(Source::Listener);
            fds.push(self.listener.as_fd());
        }
        for (position, client) in self.clients.iter().enumerate() {
            sources.push(Source::Client(position));
            fds.push(client.socket.as_fd());
        }
        for (position, owner) in self.owners.iter().enumerate() {
            if let Some(qmp) = owner.qmp() {
                sources.push(Source::Qmp(position));
                fds.push(qmp.fd());
            }
        }
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let period = if self.owners.iter().any(Owner::is_open) { POLL_PERIOD } else { IDLE_PERIOD };
        let timeout = Timespec { tv_sec: 0, tv_nsec: period.subsec_nanos().into() };
        if let Err(error) = poll(&mut polled, Some(&timeout)) {
            if error != Errno::INTR {
                log::error!("endpoints cannot be waited for: {error}");
                std::thread::sleep(period);
            }
            return Vec::new();
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        sources.iter().zip(&polled).filter(|(_, fd)| is_ready(fd)).map(|(source, _)| *source).collect()
    }

    fn accept(&mut self) {
        let socket = match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            // The connection stays in the queue, so the listener stays readable: looking again at once would
            // keep this thread from everything else.
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                log::warn!(
                    "a connection to endpoint.sock waits: {error}; raise the limit of open files of the switch"
                );
                self.accepts_from = Some(Instant::now() + ACCEPT_PAUSE);
                return;
            }
            Err(error) => return log::debug!("a client went away before it was accepted: {error}"),
        };
        match self.admit(&socket) {
            Ok(peer) => {
                let peer = Some(peer);
                self.clients.push(Client {
                    socket,
                    peer,
                    owner: None,
                    since: Instant::now(),
                    is_told: false,
                });
            }
            Err(why) => {
                log::warn!("connection to endpoint.sock refused: {why}");
                refuse(&socket, why);
            }
        }
    }

    fn admit(&self, socket: &OwnedFd) -> Result<Peer, String> {
        if self.clients.len() >= CLIENTS_MAX {
            return Err(format!("{CLIENTS_MAX} clients are connected already"));
        }
        let peer = rustix::net::sockopt::socket_peercred(socket).map_err(|error| error.to_string())?;
        let ours = rustix::process::geteuid();
        if peer.uid.is_root() || peer.uid == ours {
            let watched = (self.witness)(socket);
            return watched.map_err(|error| format!("its process cannot be watched: {error}"));
        }
        Err(format!("user {} may not connect, only root and user {} may", peer.uid.as_raw(), ours.as_raw()))
    }

    /// A client has said something or is gone. Clients behind `position` have been heard already.
    fn hear(&mut self, position: usize) {
        let socket = self.clients[position].socket.as_fd();
        let heard = match seqpacket::receive(socket) {
            Ok(Received::Message { bytes, fds }) => self.understand(position, &bytes, fds),
            Ok(Received::TooLong) => {
                let (bytes, fds) = (seqpacket::MESSAGE_BYTES_MAX, seqpacket::FDS_MAX);
                let why = format!("message too long; at most {bytes} bytes and {fds} file descriptors");
                Err((Violation::MessageTooLong, why))
            }
            Ok(Received::End) => return self.dismiss(position),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err((Violation::MessageMalformed, error.to_string())),
        };
        if let Err((violation, why)) = heard {
            if let Some(owner) = self.clients[position].owner {
                self.owners[owner].note(violation);
            }
            self.object(position, why);
        }
    }

    /// Says no. That ends the connection of a client without memory. Of one that has memory it stays, whatever
    /// it says: that its own end is closed is the proof that it writes no more, that ours is proves nothing.
    fn object(&mut self, position: usize, why: String) {
        let client = &mut self.clients[position];
        if std::mem::replace(&mut client.is_told, true) {
            return;
        }
        log::warn!("a client of endpoint.sock is refused: {why}");
        refuse(&client.socket, why);
        if client.owner.is_none() {
            self.dismiss(position);
        }
    }

    fn understand(
        &mut self,
        position: usize,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), (Violation, String)> {
        let request =
            Request::parse(bytes).map_err(|error| (Violation::MessageMalformed, error.to_string()))?;
        self.answer(position, request, fds).map_err(|why| (Violation::MessageUnexpected, why))
    }

    fn answer(&mut self, position: usize, request: Request, fds: Vec<OwnedFd>) -> Result<(), String> {
        let owner = self.clients[position].owner;
        match (request, owner) {
            (Request::Hello(kind, name), None) => self.welcome(position, kind, &name),
            (Request::Hello(..), Some(_)) => Err("hello was said already".to_owned()),
            (_, None) => Err("hello comes first".to_owned()),
            (_, Some(owner)) if self.owners[owner].kind() == ClientKind::Process => {
                Err("only a VM has QMP and a QEMU process".to_owned())
            }
            (Request::Qmp, Some(owner)) => {
                let [socket] =
                    <[OwnedFd; 1]>::try_from(fds).map_err(|_| "qmp comes with one file descriptor")?;
                let qmp = Qmp::new(socket.into()).map_err(|error| error.to_string())?;
                self.owners[owner].watch_qmp(qmp)?;
                self.acknowledge(position);
                Ok(())
            }
            (Request::Pid { accelerator, with_launcher, .. }, Some(owner)) => {
                let [pidfd] = <[OwnedFd; 1]>::try_from(fds)
                    .map_err(|_| "pid comes with one file descriptor, the pidfd of QEMU")?;
                self.owners[owner].watch_process(pidfd, accelerator, with_launcher)?;
                self.acknowledge(position);
                Ok(())
            }
        }
    }

    /// Says that what came was taken; a launcher that does not read it misses it.
    fn acknowledge(&self, position: usize) {
        let taken = Reply::new(Said::Taken(true)).to_bytes();
        if let Err(error) = seqpacket::send(&self.clients[position].socket, &taken, &[]) {
            log::debug!("a launcher did not hear that its message was taken: {error}");
        }
    }

    fn welcome(&mut self, position: usize, kind: ClientKind, name: &str) -> Result<(), String> {
        let owner = self.find(kind, name)?;
        let peer = self.clients[position].peer.take().ok_or("hello was said already")?;
        let grant = self.owners[owner].take(peer, &*self.lending);
        let reply = Reply::new(Said::Ok(grant.told)).to_bytes();
        let sent = seqpacket::send(&self.clients[position].socket, &reply, &grant.fds);
        // From here on the client is the owner's, and its end is seen to.
        self.clients[position].owner = Some(owner);
        sent.map_err(|error| format!("the answer to {name} was not taken: {error}"))
    }

    /// The owner of this name, if nobody has it.
    fn find(&self, kind: ClientKind, name: &str) -> Result<usize, String> {
        let what = if kind == ClientKind::Vm { "VM" } else { "process" };
        let Some(position) = self.owners.iter().position(|owner| owner.name() == name) else {
            let known = self.owners.iter().filter(|owner| owner.kind() == kind).map(Owner::name);
            let known: Vec<&str> = known.collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!(
                "no {what} {:?} in the config of this switch; it has: {known}",
                printable(name)
            ));
        };
        let owner = &self.owners[position];
        if owner.kind() != kind {
            return Err(match owner.kind() {
                ClientKind::Vm => format!("{name} is a VM; start it with `netvm boot FILE {name}`"),
                ClientKind::Process => {
                    format!("{name} is a process, not a VM; start its NF with --name {name}")
                }
            });
        }
        owner.why_not_now().map_or(Ok(position), Err)
    }

    /// Does what an operator wants of an owner.
    fn carry_out(&mut self, act: Act, name: &str) -> Result<OwnerStatus, OrderError> {
        let Some(position) = self.owners.iter().position(|owner| owner.name() == name) else {
            let known: Vec<&str> = self.owners.iter().map(Owner::name).collect();
            return Err(OrderError::unknown(&printable(name), &known));
        };
        let (owner, lending) = (&mut self.owners[position], &*self.lending);
        match act {
            Act::Detach => owner.detach(lending)?,
            Act::Attach => owner.attach(lending)?,
            Act::Kill => owner.kill()?,
        }
        let status = owner.status();
        self.show_owners();
        Ok(status)
    }

    /// Reads what the lcores counted of faults, and has each owner judged by its policies. The counters stay
    /// where they are, so nothing is lost between two looks.
    fn survey(&mut self) {
        let is_open = self.owners.iter().any(Owner::is_open);
        let faults = if is_open { self.lending.faults() } else { Vec::new() };
        for owner in &mut self.owners {
            owner.survey(&faults, &*self.lending);
        }
        for owner in &mut self.owners {
            owner.judge(&*self.lending);
        }
        self.show_owners();
    }

    fn dismiss(&mut self, position: usize) {
        let client = self.clients.remove(position);
        if let Some(owner) = client.owner {
            self.owners[owner].disconnected(&*self.lending);
        }
    }

    fn dismiss_silent(&mut self, now: Instant) {
        self.clients.retain(|client| client.owner.is_some() || now - client.since < HELLO_LIMIT);
    }

    /// Events are for the log; what follows from them is seen in counters and memory, which lose nothing.
    fn take_events(&mut self) {
        for event in self.lending.events() {
            match event {
                Event::Descriptor { endpoint, fault } => {
                    log::warn!(
                        "{} gave a bad descriptor: {fault}; more are only counted",
                        self.name_of(endpoint)
                    );
                }
                Event::Counter { endpoint, lcore, error } => {
                    log::warn!("{} is not served by lcore {}: {error}", self.name_of(endpoint), lcore.0);
                }
                Event::RegionLost { domain, lcore } => {
                    log::error!(
                        "lcore {} serves domain {} no more: its region lost a page",
                        lcore.0,
                        domain.0
                    );
                }
            }
        }
    }

    fn name_of(&self, id: EndpointId) -> &str {
        let mut endpoints = self.owners.iter().flat_map(Owner::endpoints);
        endpoints.find(|endpoint| endpoint.id() == id).map_or("an unknown endpoint", ServedEndpoint::name)
    }

    fn show(&self) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        for endpoint in self.owners.iter().flat_map(Owner::endpoints) {
            let position = endpoint.id().index();
            if view.endpoints.len() <= position {
                view.endpoints.resize(position + 1, None);
            }
            view.endpoints[position] = Some(ServedEndpoint::view(endpoint));
        }
        view.vms = self.owners.iter().filter_map(Owner::vm).collect();
    }

    fn show_owners(&self) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.owners = self.owners.iter().map(Owner::status).collect();
        view.nics =
            self.owners.iter().flat_map(Owner::nics).map(|nic| (nic.name().to_owned(), nic.view())).collect();
    }
}

/// Says why not; a client that does not listen misses it.
fn refuse(socket: &OwnedFd, why: String) {
    if let Err(error) = seqpacket::send(socket, &Reply::new(Said::Error(why)).to_bytes(), &[]) {
        log::debug!("a refused client did not hear why: {error}");
    }
}

/// A name as somebody else wrote it, cut to what a name may be long.
fn printable(name: &str) -> String {
    name.chars().take(shm_ring::layout::NAME_BYTES).collect()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod untrusted_tests;
