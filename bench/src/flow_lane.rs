//! The product's flow table as `bench/c/flow-hash.c` runs DPDK's: the same keys, the same work, the same output.

use std::io::{BufRead, Write};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use flow_table::{BURST, Direction, FlowTable, Key, Limits, Line, Packet, Seed};
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::BenchError;

/// What one run has; the C program takes the same in the same order.
#[derive(clap::Args)]
pub struct Options {
    /// The CPU it runs on
    cpu: usize,
    /// How many flows there are
    flows: u32,
}

/// Looked up before each window.
const WARM_UP: Duration = Duration::from_millis(20);
/// Bursts between two looks at the clock, as in C.
const BURSTS: usize = 16;
/// Size of a hugepage.
const HUGEPAGE_BYTES: usize = 2 << 20;

/// Runs the windows that are asked for: see the C program for what it prints.
///
/// # Errors
/// If there is no memory, or a flow has no room.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let failed = |what: &'static str| move |why: String| BenchError::Backend { what, why };
    pin(options.cpu).map_err(|err| failed("pinning")(err.to_string()))?;
    let limits = Limits { unanswered: options.flows, ..Limits::for_flows(options.flows) };
    let lines = on_hugepages(FlowTable::lines_for(limits.flows), Line::default)?;
    let mut random = Random(1);
    let seed = Seed::new(std::array::from_fn(|at| Random(at as u64 + 1000).word()));
    let mut table =
        FlowTable::new(lines, seed, limits).map_err(|err| failed("the table")(err.to_string()))?;
    let packets = make_packets(&mut table, &mut random)?;
    say(&format!("ready {:.3}", f64::from(table.len()) / f64::from(table.buckets() * 31)));
    let per_ms = cycles_per_ms();
    let mut lane = Lane { table, packets, at: 0 };
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let length: u64 = line.trim().parse().unwrap_or(0);
        lane.run(u64::try_from(WARM_UP.as_millis()).unwrap_or(0) * per_ms);
        say(&lane.run(length * per_ms));
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

/// So many values on hugepages, which stay for the rest of the process.
fn on_hugepages<T>(count: usize, mut value: impl FnMut() -> T) -> Result<&'static mut [T], BenchError> {
    let bytes = (count * size_of::<T>()).next_multiple_of(HUGEPAGE_BYTES);
    let (access, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB);
    // SAFETY: a new mapping, wherever the kernel has room.
    let at = unsafe { rustix::mm::mmap_anonymous(null_mut(), bytes, access, flags) }
        .map_err(|err| BenchError::Backend { what: "memory on hugepages", why: err.to_string() })?;
    // SAFETY: the mapping is long enough, aligned to a page, never unmapped and nobody else's.
    let room = unsafe { std::slice::from_raw_parts_mut(at.cast::<MaybeUninit<T>>(), count) };
    room.fill_with(|| MaybeUninit::new(value()));
    // SAFETY: all of them have just been written.
    Ok(unsafe { room.assume_init_mut() })
}

/// SplitMix64, as in C.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn key(&mut self) -> Key {
        let mut words: [u64; 5] = std::array::from_fn(|_| self.word());
        if words[4] & 1 == 1 {
            (words[0], words[2]) = (0, 0);
            words[1] >>= 32;
            words[3] >>= 32;
        }
        Key::from_words(words)
    }

    #[allow(clippy::cast_possible_truncation, reason = "far below 65,536")]
    fn packet(&mut self) -> Packet {
        let (key, bytes) = (self.key(), 64 + (self.word() % 1400) as u16);
        let direction = if self.word() & 1 == 0 { Direction::FromLower } else { Direction::FromHigher };
        Packet { key, direction, bytes }
    }
}

/// A packet of each flow, and for each nine of them one of a flow that is not there, shuffled; whole bursts.
fn make_packets(
    table: &mut FlowTable<'static>,
    random: &mut Random,
) -> Result<&'static [Packet], BenchError> {
    let flows = table.limits().flows as usize;
    let count = flows + flows / 9;
    let packets = on_hugepages(count, || random.packet())?;
    for packet in &packets[..flows] {
        table
            .insert(packet, 0)
            .map_err(|err| BenchError::Backend { what: "a flow", why: err.to_string() })?;
        let back = match packet.direction {
            Direction::FromLower => Direction::FromHigher,
            Direction::FromHigher => Direction::FromLower,
        };
        table.lookup_bulk(&[Packet { direction: back, ..*packet }, *packet], 0, &mut [None; 2]);
    }
    for at in (1..count).rev() {
        #[allow(clippy::cast_possible_truncation, reason = "below `at`")]
        packets.swap(at, (random.word() % (at as u64 + 1)) as usize);
    }
    Ok(&packets[..count / BURST * BURST])
}

/// Frequency of the time stamp counter.
fn cycles_per_ms() -> u64 {
    let (from, started) = (cycles(), Instant::now());
    while started.elapsed() < Duration::from_millis(50) {}
    (cycles() - from) / 50
}

/// The time stamp counter, as `rte_rdtsc` reads it.
#[inline(always)]
fn cycles() -> u64 {
    // SAFETY: the instruction is part of x86-64.
    unsafe { std::arch::x86_64::_rdtsc() }
}

struct Lane {
    table: FlowTable<'static>,
    packets: &'static [Packet],
    at: usize,
}

impl Lane {
    /// Looks up for so many cycles.
    fn run(&mut self, length: u64) -> String {
        let from = cycles();
        let (mut now, mut looked_up, before) = (from, 0_u64, self.table.counters().hits);
        while now - from < length {
            for _ in 0..BURSTS {
                let mut found = [None; BURST];
                let burst = &self.packets[self.at..self.at + BURST];
                self.table.lookup_bulk(burst, now >> 21, &mut found);
                std::hint::black_box(&found);
                self.at += BURST;
                if self.at == self.packets.len() {
                    self.at = 0;
                }
            }
            looked_up += (BURSTS * BURST) as u64;
            now = cycles();
        }
        let hits = self.table.counters().hits - before;
        #[allow(clippy::cast_precision_loss, reason = "figures for display")]
        let (cycles, share) = ((now - from) as f64 / looked_up as f64, hits as f64 / looked_up as f64);
        format!("{cycles:.3} {looked_up} {share:.4}")
    }
}
