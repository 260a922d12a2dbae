//! The product's vhost backend as `bench/c/vhost-backend.c` runs DPDK's: the real server and lane, polled on one
//! CPU, mbufs from a pool with a cache, taken and given back within what is timed.

use std::io::{BufRead, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk::{Eal, EalOptions};
use dpdk_sys::{rte_mbuf, rte_mempool};
use vhost_port::features::{Features, Offer};
use vhost_port::frame::{Frame, Received, Room, Segment};
use vhost_port::lane::Lane;
use vhost_port::memory::MemoryLimits;
use vhost_port::memory_watch::{MemoryWatch, MemoryWatcher};
use vhost_port::notifier::Notifier;
use vhost_port::server::{self, Server};
use vhost_port::terms::Terms;

use crate::error::BenchError;

/// Packets in a full burst.
const BURST: usize = 32;
/// Cycles of a burst are counted in steps of 8, up to 2048 cycles a packet, as in C.
const STEP: u64 = 8;
const STEPS: usize = 2048 * BURST / 8;
/// Mbufs of the pool, and how many a core keeps at hand: as in C.
const MBUFS: u32 = 8191;
const CACHE: u32 = 256;
const MBUF_BYTES: u16 = 2048 + 128;

/// What one backend runs with; the C program takes the same in the same order.
#[derive(clap::Args)]
pub struct Options {
    /// Where it listens
    socket: PathBuf,
    /// The CPU it polls on
    cpu: usize,
    /// tx takes what the guest sends, rx sends to the guest
    direction: Direction,
    /// Length of frames to the guest
    frame_bytes: u16,
    /// Feature bits on offer, hexadecimal
    #[arg(value_parser = hexadecimal)]
    features: u64,
}

/// Which way packets go, by the guest's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// What the guest sends.
    Tx,
    /// What it receives.
    Rx,
}

fn hexadecimal(text: &str) -> Result<u64, std::num::ParseIntError> {
    u64::from_str_radix(text, 16)
}

/// Nobody watches for lost pages: the frontend is ours.
#[derive(Debug)]
struct Unwatched;

impl MemoryWatch for Unwatched {
    fn is_lost(&self) -> bool {
        false
    }
}

impl MemoryWatcher for Unwatched {
    unsafe fn watch(
        &self,
        _: NonNull<u8>,
        _: usize,
        _: usize,
    ) -> Result<Box<dyn MemoryWatch>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(Self))
    }
}

/// Runs a backend: see the C program for what it prints.
///
/// # Errors
/// If something of it cannot be made.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let failed =
        |what: &'static str| move |err: std::io::Error| BenchError::Backend { what, why: err.to_string() };
    pin(options.cpu).map_err(failed("pinning"))?;
    let eal = EalOptions { hugepages: true, memory_mib: 64, ..EalOptions::default() };
    Eal::init(&eal).map_err(|err| BenchError::Backend { what: "the EAL", why: err.to_string() })?;
    let pool = Pool::create()?;
    let listener = UnixListener::bind(&options.socket).map_err(failed("listening"))?;
    let notifier = Notifier::start().map_err(failed("the notifier"))?;
    let all = Offer { checksums: false, segmentation: false, multiqueue: false, withheld: Features::NONE };
    let withheld = all.features().without(Features::from_bits(options.features));
    let terms = Terms {
        name: "bench".to_owned(),
        queue_pairs: 1,
        ring_entries: 1024,
        mtu_bytes: 1500,
        offer: Offer { withheld, ..all },
        // The frontend's memory is on hugepages without seals.
        memory: MemoryLimits { regions: 8, bytes: 1 << 34, accept_unsealed: true },
        notifier: Arc::new(notifier),
        watcher: Arc::new(Unwatched),
    };
    let (server, mut lanes) = server::open(terms, listener, 1).map_err(failed("the port"))?;
    let Some(lane) = lanes.first_mut() else { return Ok(()) };
    let features = wait_for_driver(&server, lane);
    say(&format!("ready {:x}", features.bits()));
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let length = Duration::from_millis(line.trim().parse().unwrap_or(0));
        let mut port = Port::new(lane, &pool, options.frame_bytes);
        say(&port.window(options.direction, length));
    }
    Ok(())
}

fn pin(cpu: usize) -> std::io::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &cpus)?)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Who does not listen has ended.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn wait_for_driver(server: &Server, lane: &mut Lane) -> Features {
    loop {
        lane.adopt();
        let status = server.status();
        let is_running =
            status.queues.iter().filter(|queue| queue.is_running && queue.is_enabled).count() == 2;
        if let Some(features) = status.features.filter(|_| is_running) {
            return features;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Mbufs with a cache for the calling core.
struct Pool(NonNull<rte_mempool>);

impl Pool {
    fn create() -> Result<Self, BenchError> {
        // SAFETY: the EAL is up; the name is terminated and copied.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(
                c"frames".as_ptr(),
                MBUFS,
                CACHE,
                0,
                MBUF_BYTES,
                dpdk_sys::NETVM_SOCKET_ID_ANY,
            )
        };
        let why = "rte_pktmbuf_pool_create gave nothing".to_owned();
        NonNull::new(pool).map(Self).ok_or(BenchError::Backend { what: "the pool", why })
    }

    /// Takes as many empty mbufs as there are places. The pool has more than anybody holds at a time.
    #[inline(always)]
    fn take(&self, mbufs: &mut [*mut rte_mbuf]) {
        let (pool, count) = (self.0.as_ptr(), count_of(mbufs));
        // SAFETY: a live pool of mbufs, and an array for as many as are asked.
        let refused = unsafe { dpdk_sys::netvm_rte_pktmbuf_alloc_bulk(pool, mbufs.as_mut_ptr(), count) };
        assert_eq!(refused, 0, "the pool is empty");
    }

    #[inline(always)]
    fn give_back(mbufs: &mut [*mut rte_mbuf]) {
        // SAFETY: mbufs of `take`, each given back once.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr(), count_of(mbufs)) };
    }
}

/// How many, as DPDK counts.
#[inline(always)]
fn count_of(mbufs: &[*mut rte_mbuf]) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "a burst at most")]
    let count = mbufs.len() as u32;
    count
}

/// Where the frame of an mbuf lies, and how much room it has.
#[inline(always)]
fn data_of(mbuf: *mut rte_mbuf) -> (NonNull<u8>, u32) {
    // SAFETY: a live mbuf of `Pool::take` that is ours alone.
    let header = unsafe { &*mbuf };
    let start = header.buf_addr.cast::<u8>().wrapping_add(usize::from(header.data_off));
    let room_bytes = u32::from(header.buf_len) - u32::from(header.data_off);
    // SAFETY: the buffer of an mbuf is mapped, so its address is not null.
    (unsafe { NonNull::new_unchecked(start) }, room_bytes)
}

#[inline(always)]
fn set_length(mbuf: *mut rte_mbuf, len_bytes: u32) {
    // SAFETY: as in `data_of`.
    let header = unsafe { &mut *mbuf };
    header.pkt_len = len_bytes;
    #[allow(clippy::cast_possible_truncation, reason = "no mbuf of the pool is longer than 2048 bytes")]
    let len_bytes = len_bytes as u16;
    header.data_len = len_bytes;
}

/// What a window polls. The arrays stay where they are: nothing is moved that the C program does not move.
struct Port<'b> {
    lane: &'b mut Lane,
    pool: &'b Pool,
    frame_bytes: u16,
    mbufs: [*mut rte_mbuf; BURST],
    rooms: Vec<Room<'static>>,
    received: [Received; BURST],
    frames: Vec<Frame<'static>>,
}

impl<'b> Port<'b> {
    fn new(lane: &'b mut Lane, pool: &'b Pool, frame_bytes: u16) -> Self {
        Self {
            lane,
            pool,
            frame_bytes,
            mbufs: [null_mut(); BURST],
            rooms: (0..BURST).map(|_| Room::of(&mut [])).collect(),
            received: [Received::default(); BURST],
            frames: vec![Frame::whole(Segment::EMPTY, 0); BURST],
        }
    }

    /// Empty mbufs for the first rooms, before the first poll and for those that a burst has used: nothing is taken
    /// for a poll that finds nothing, as in C.
    #[inline(always)]
    fn refill(&mut self, count: usize) {
        self.pool.take(&mut self.mbufs[..count]);
        for (mbuf, room) in self.mbufs.iter().zip(&mut self.rooms).take(count) {
            let (at, room_bytes) = data_of(*mbuf);
            // SAFETY: the mbuf's buffer is mapped, and ours until it is given back; the room is not used then.
            *room = unsafe { Room::new(at, room_bytes) };
        }
    }

    #[inline(always)]
    fn receive(&mut self) -> usize {
        let count = self.lane.dequeue(&mut self.rooms, &mut self.received);
        if count > 0 {
            for (mbuf, frame) in self.mbufs.iter().zip(&self.received[..count]) {
                set_length(*mbuf, frame.len_bytes);
            }
            Pool::give_back(&mut self.mbufs[..count]);
            self.refill(count);
        }
        count
    }

    #[inline(always)]
    fn transmit(&mut self) -> usize {
        self.pool.take(&mut self.mbufs);
        for (mbuf, frame) in self.mbufs.iter().zip(&mut self.frames) {
            set_length(*mbuf, self.frame_bytes.into());
            // SAFETY: as in `receive`; no longer than the pool's room.
            *frame = Frame::whole(unsafe { Segment::new(data_of(*mbuf).0, self.frame_bytes.into()) }, 0);
        }
        let count = self.lane.enqueue(&self.frames);
        Pool::give_back(&mut self.mbufs);
        count
    }

    /// Polls for so long, and sums it up as the C program does.
    fn window(&mut self, direction: Direction, length: Duration) -> String {
        let mut bursts = vec![0_u32; STEPS];
        let (mut packets, mut full) = (0_u64, 0_u64);
        if direction == Direction::Tx {
            self.refill(BURST);
        }
        let started = Instant::now();
        let mut now = cycles();
        let mut polls = 0_u32;
        loop {
            self.lane.adopt();
            let before = now;
            let count = match direction {
                Direction::Tx => self.receive(),
                Direction::Rx => self.transmit(),
            };
            now = cycles();
            packets += count as u64;
            if count == BURST {
                let step = usize::try_from((now - before) / STEP).unwrap_or(STEPS).min(STEPS - 1);
                bursts[step] += 1;
                full += 1;
            }
            polls = polls.wrapping_add(1);
            if polls.is_multiple_of(64) {
                if started.elapsed() >= length {
                    break;
                }
                now = cycles();
            }
        }
        if direction == Direction::Tx {
            Pool::give_back(&mut self.mbufs);
        }
        let mut seen = 0;
        let step = bursts.iter().position(|count| {
            seen += u64::from(*count);
            2 * seen >= full
        });
        #[allow(clippy::cast_precision_loss, reason = "figures for display")]
        let (median, rate) = (
            (step.unwrap_or(0) as f64 + 0.5) * STEP as f64 / BURST as f64,
            packets as f64 / started.elapsed().as_secs_f64(),
        );
        format!("{median:.3} {rate:.0} {full}")
    }
}

/// The time stamp counter, as `rte_rdtsc` reads it.
#[inline(always)]
fn cycles() -> u64 {
    // SAFETY: the instruction is part of x86-64.
    unsafe { std::arch::x86_64::_rdtsc() }
}
