//! What arrives at a host, frame by frame.

use std::iter::Sum;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::namespace::Namespace;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt};

use crate::attacker::edges::Edge;

/// How long a sniffer that is told to stop goes on.
const LAST_LOOK: Duration = Duration::from_millis(300);
/// Every protocol, as packet sockets want it: `ETH_P_ALL` in network order.
const EVERY_PROTOCOL: u32 = 0x0300;
/// Between two looks at whether to stop.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Frames that came from elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Those that an edge carries.
    pub carried: u64,
    /// All others.
    pub smuggled: u64,
}

impl Sum for Arrived {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            carried: sum.carried + one.carried,
            smuggled: sum.smuggled + one.smuggled,
        })
    }
}

/// A thread that looks at every frame of a host.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Arrived>,
}

impl Sniffer {
    /// Looks at the frames of `host`; those that it and its `neighbour` send each other do not count. Without an
    /// edge to it, every other frame is smuggled.
    ///
    /// # Panics
    /// If the host cannot be looked at.
    pub fn start(host: &Namespace, neighbour: &Namespace, edge: bool) -> Self {
        let own = [host, neighbour].map(|host| address(&host.mac().expect("a cable")));
        let socket = host.inside(move || {
            let protocol = NonZeroU32::new(EVERY_PROTOCOL).map(Protocol::from_raw);
            let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LOOK_PERIOD))?;
            sockopt::set_socket_recv_buffer_size(&socket, 4 << 20)?;
            Ok(socket)
        });
        let socket = socket.expect("a packet socket");
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || look(&socket, own, edge, &asked)) }
    }

    /// What has arrived.
    ///
    /// # Panics
    /// If the thread has.
    pub fn stop(self) -> Arrived {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a sniffer")
    }
}

fn look(socket: &OwnedFd, own: [[u8; 6]; 2], edge: bool, stop: &AtomicBool) -> Arrived {
    let mut arrived = Arrived::default();
    let mut frame = [0; 2048];
    let mut ends: Option<Instant> = None;
    // Once asked to stop, what has arrived by then is still looked at.
    while ends.is_none_or(|ends| Instant::now() < ends) {
        if ends.is_none() && stop.load(Ordering::Relaxed) {
            ends = Some(Instant::now() + LAST_LOOK);
        }
        let frame = match recv(socket, &mut frame, RecvFlags::empty()) {
            Ok((_, bytes)) => &frame[..bytes],
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(_) => break,
        };
        let from_own = frame.get(6..12).is_some_and(|mac| own.iter().any(|own| own == mac));
        match (from_own, edge && Edge::carries(frame)) {
            (true, _) => {}
            (false, true) => arrived.carried += 1,
            (false, false) => arrived.smuggled += 1,
        }
    }
    arrived
}

/// The bytes of "02:00:00:00:00:01".
fn address(text: &str) -> [u8; 6] {
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a MAC address"));
    std::array::from_fn(|_| bytes.next().expect("a MAC address"))
}
