//! UDP traffic with sequence numbers between two namespaces, sent and checked by threads of this process.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use crate::error::LabError;
use crate::namespace::Namespace;

/// Payload of each datagram: a sequence number, then a pattern that follows from it.
const PAYLOAD_BYTES: usize = 200;

/// What a flood has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloodCount {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received whole.
    pub received: u64,
    /// Datagrams that came after a later one.
    pub reordered: u64,
    /// Datagrams whose bytes are not those sent.
    pub damaged: u64,
}

/// A running flood; dropping it stops it.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    reordered: AtomicU64,
    damaged: AtomicU64,
}

impl Flood {
    /// Sends about `per_second` datagrams from one host to a port of another.
    ///
    /// # Errors
    /// If a namespace cannot be entered or a socket cannot be made.
    pub fn start(
        from: &Namespace,
        to: &Namespace,
        to_address: Ipv4Addr,
        port: u16,
        per_second: u32,
    ) -> Result<Self, LabError> {
        let receiver = to.udp_socket((to_address, port).into())?;
        let sender = from.udp_socket((Ipv4Addr::UNSPECIFIED, 0).into())?;
        receiver
            .set_read_timeout(Some(Duration::from_millis(50)))
            .map_err(LabError::file("set up", "a socket"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Counters::default());
        let threads = vec![
            std::thread::spawn({
                let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
                move || send(&sender, (to_address, port).into(), per_second, &stop, &counters)
            }),
            std::thread::spawn({
                let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
                move || receive(&receiver, &stop, &counters)
            }),
        ];
        Ok(Self { stop, counters, threads })
    }

    /// What has been done so far.
    #[must_use]
    pub fn count(&self) -> FloodCount {
        FloodCount {
            sent: self.counters.sent.load(Ordering::Relaxed),
            received: self.counters.received.load(Ordering::Relaxed),
            reordered: self.counters.reordered.load(Ordering::Relaxed),
            damaged: self.counters.damaged.load(Ordering::Relaxed),
        }
    }

    /// Waits until `datagrams` more have arrived than now.
    ///
    /// # Errors
    /// If `limit` passes first.
    pub fn wait_for_more(&self, datagrams: u64, limit: Duration) -> Result<(), LabError> {
        let (before, deadline) = (self.count().received, Instant::now() + limit);
        while self.count().received < before + datagrams {
            if Instant::now() >= deadline {
                let what = format!("{datagrams} datagrams more than {before}");
                let detail = format!(": {:?}", self.count());
                return Err(LabError::TimedOut { what, seconds: limit.as_secs(), detail });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Stops sending, waits half a second for stragglers, and says what was done in all.
    #[must_use]
    pub fn stop(mut self) -> FloodCount {
        self.halt();
        self.count()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _panicked = thread.join();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.halt();
    }
}

fn pattern(sequence: u64) -> [u8; PAYLOAD_BYTES] {
    let mut payload = [0; PAYLOAD_BYTES];
    for (at, word) in payload.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&sequence.wrapping_mul(1 + 2 * at as u64).to_le_bytes());
    }
    payload
}

/// Keeps the calling thread where it is: veth queues frames for each CPU by itself, so a sender that moves to
/// another CPU reorders its own frames before any switch sees them.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu());
    if let Err(err) = sched_setaffinity(None, &cpus) {
        eprintln!("warning: a sender may reorder its own frames: {err}");
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, per_second: u32, stop: &AtomicBool, counters: &Counters) {
    stay_on_one_cpu();
    let started = Instant::now();
    let mut sequence = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let due = started.elapsed().as_micros() * u128::from(per_second) / 1_000_000;
        while u128::from(sequence) < due {
            // A host that gets no answer to ARP refuses to send: such a datagram never was on the wire.
            if socket.send_to(&pattern(sequence), to).is_ok() {
                counters.sent.fetch_add(1, Ordering::Relaxed);
            }
            sequence += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, counters: &Counters) {
    let mut block = [0; 2048];
    let mut next = 0;
    let mut last_look = None;
    loop {
        match socket.recv(&mut block) {
            Ok(bytes) => {
                let sequence = block.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
                if block[..bytes] != pattern(sequence) {
                    counters.damaged.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                if sequence < next {
                    counters.reordered.fetch_add(1, Ordering::Relaxed);
                }
                next = sequence + 1;
                counters.received.fetch_add(1, Ordering::Relaxed);
            }
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        if stop.load(Ordering::Relaxed) {
            let since = *last_look.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_millis(500) {
                return;
            }
        }
    }
}
