//! A TCP transfer between two hosts at a steady pace, with its hash and the time it took.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::error::LabError;
use crate::namespace::Namespace;

/// Sent in one go.
const CHUNK_BYTES: usize = 8192;
/// Distance between two marks: each full packet shows several.
const MARK_PERIOD: usize = 256;
/// How long a side waits for the other before it gives up.
const SILENCE: Duration = Duration::from_secs(20);

/// How fast, for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// What the sender keeps to when it is not held up.
    pub bytes_per_second: u64,
    /// How long that takes when it is not held up.
    pub seconds: u64,
}

/// What a transfer has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Bytes received.
    pub bytes: u64,
    /// From the first byte sent to the last received.
    pub took: Duration,
    /// Whether the hash of what was received is that of what was sent.
    pub is_intact: bool,
}

impl Moved {
    /// The goodput.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let bytes = self.bytes as f64;
        bytes / self.took.as_secs_f64().max(1e-3)
    }
}

/// The hash of everything, and when the side was done with it.
type Side = JoinHandle<io::Result<([u8; 32], Instant)>>;

/// A transfer under way.
#[derive(Debug)]
pub struct Paced {
    received: Arc<AtomicU64>,
    started: Instant,
    sender: Side,
    receiver: Side,
}

impl Paced {
    /// Sends from `server`, which has `address`, to `client`. `mark` is in each 256 bytes.
    ///
    /// # Errors
    /// If the hosts cannot connect.
    pub fn start(
        server: &Namespace,
        client: &Namespace,
        address: (Ipv4Addr, u16),
        pace: Pace,
        mark: &[u8],
    ) -> Result<Self, LabError> {
        let address = SocketAddr::from(address);
        let listener = server.inside(move || TcpListener::bind(address))?;
        let incoming = client.inside(move || TcpStream::connect_timeout(&address, SILENCE))?;
        let outgoing = listener.accept().map_err(LabError::file("accept", address.to_string()))?.0;
        let (received, mark) = (Arc::new(AtomicU64::new(0)), mark.to_vec());
        let (counted, started) = (Arc::clone(&received), Instant::now());
        let sender = std::thread::spawn(move || send(outgoing, pace, &mark, started));
        let receiver = std::thread::spawn(move || receive(incoming, &counted));
        Ok(Self { received, started, sender, receiver })
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether both sides have ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.sender.is_finished() && self.receiver.is_finished()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If a side gave up.
    pub fn finish(self) -> Result<Moved, LabError> {
        let side = |side: Side| {
            let ended = side.join().unwrap_or_else(|_| Err(io::Error::other("a side panicked")));
            ended.map_err(LabError::file("move bytes over", "a paced transfer"))
        };
        let (sent, _) = side(self.sender)?;
        let (received, at) = side(self.receiver)?;
        let bytes = self.received.load(Ordering::Relaxed);
        Ok(Moved { bytes, took: at - self.started, is_intact: sent == received })
    }
}

fn send(mut stream: TcpStream, pace: Pace, mark: &[u8], started: Instant) -> io::Result<([u8; 32], Instant)> {
    stream.set_write_timeout(Some(SILENCE))?;
    let mut hash = Sha256::new();
    let (mut sent, total) = (0_u64, pace.bytes_per_second * pace.seconds);
    let mut state = 0x6e65_7476_6d01_u64;
    let mut chunk = [0; CHUNK_BYTES];
    while sent < total {
        for word in chunk.as_chunks_mut::<8>().0 {
            // xorshift64: no compressor and no repeated block can fake this content.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        for part in chunk.as_chunks_mut::<MARK_PERIOD>().0 {
            part[..mark.len()].copy_from_slice(mark);
        }
        let due = started + Duration::from_micros(sent * 1_000_000 / pace.bytes_per_second);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(&chunk)?;
        hash.update(chunk);
        sent += CHUNK_BYTES as u64;
    }
    Ok((hash.finalize().into(), Instant::now()))
}

fn receive(mut stream: TcpStream, received: &AtomicU64) -> io::Result<([u8; 32], Instant)> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut hash = Sha256::new();
    let mut last = Instant::now();
    let mut block = vec![0; 1 << 16];
    loop {
        let bytes = stream.read(&mut block)?;
        if bytes == 0 {
            return Ok((hash.finalize().into(), last));
        }
        last = Instant::now();
        hash.update(&block[..bytes]);
        received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
