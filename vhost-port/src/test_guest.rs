//! A guest for tests: it writes what it likes into its memory, right or wrong, and a lane serves it.
//!
//! Its memory is a memfd that it writes through system calls, as another process would.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::features::{Features, HEADER_BYTES, Negotiated};
use crate::lane::Lane;
use crate::lane_counters::LaneCounters;
use crate::memory::{GuestMemory, MemoryLimits, MemoryRules, RegionClaim};
use crate::memory_file::MemoryFile;
use crate::memory_watch::{MemoryWatch, MemoryWatcher};
use crate::publication::{Publisher, publication};
use crate::setup::{DeviceSetup, QueueSetup};

/// Guest address of the region with the rings.
pub const RINGS_AT: u64 = 0x4000_0000;
/// Guest address of the region with the buffers; between the two there is nothing.
pub const BUFFERS_AT: u64 = 0x8000_0000;
/// Length of each region.
pub const REGION_BYTES: u64 = 1 << 20;
/// The chain goes on.
pub const NEXT: u16 = 1;
/// The device writes here.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// Room of each queue's rings.
const QUEUE_BYTES: u64 = 0x8000;
const AVAIL_AT: u64 = 0x4000;
const USED_AT: u64 = 0x5000;

/// Says that pages are lost when the test says so.
#[derive(Clone, Debug, Default)]
struct Loss(Arc<AtomicBool>);

impl MemoryWatch for Loss {
    fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl MemoryWatcher for Loss {
    unsafe fn watch(
        &self,
        _: NonNull<u8>,
        _: usize,
        _: usize,
    ) -> Result<Box<dyn MemoryWatch>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(self.clone()))
    }
}

/// A descriptor, as a driver may write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestDescriptor {
    /// Where the buffer is.
    pub address: u64,
    /// How long.
    pub len_bytes: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`], or anything.
    pub flags: u16,
    /// The descriptor after this one.
    pub next: u16,
}

impl TestDescriptor {
    /// As it lies in memory.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// What a guest is made of.
#[derive(Clone, Copy, Debug)]
pub struct TestGuestShape {
    /// Entries of each ring.
    pub size: u16,
    /// The features in force.
    pub features: Features,
    /// Queue pairs, at most 8.
    pub pairs: usize,
    /// Where all ring indices start.
    pub first_index: u16,
}

impl Default for TestGuestShape {
    fn default() -> Self {
        let features = Features::VERSION_1 | Features::MERGEABLE | Features::INDIRECT;
        Self { size: 16, features, pairs: 1, first_index: 0 }
    }
}

/// A guest, its port's only lane, and control's end of that.
#[derive(Debug)]
pub struct TestGuest {
    shape: TestGuestShape,
    file: File,
    memory: GuestMemory,
    loss: Loss,
    /// The lane that serves all its queues.
    pub lane: Lane,
    publisher: Publisher<DeviceSetup>,
    offered: Vec<u16>,
    start: u64,
}

impl TestGuest {
    /// A running guest whose lane has taken up all queues.
    ///
    /// # Panics
    /// If the system gives no memory.
    #[must_use]
    pub fn new(shape: TestGuestShape) -> Self {
        let loss = Loss::default();
        let (file, memory) = make_memory(&loss);
        let (publisher, mut subscriptions) = publication(1, 2 * shape.pairs);
        let subscription = subscriptions.remove(0);
        let lane = Lane::new(subscription, 1, Arc::new(LaneCounters::default()));
        let offered = vec![shape.first_index; 2 * shape.pairs];
        let mut guest = Self { shape, file, memory, loss, lane, publisher, offered, start: 0 };
        guest.restart();
        guest
    }

    /// Starts all queues anew, where the shape says, with empty rings.
    pub fn restart(&mut self) {
        self.start += 1;
        let first = self.shape.first_index;
        for queue in 0..2 * self.shape.pairs {
            self.offered[queue] = first;
            self.set_avail_index(queue, first);
            self.write_u16(Self::ring_at(queue) + AVAIL_AT, 0);
            self.write_u16(Self::ring_at(queue) + USED_AT + 2, first);
        }
        let setup = self.setup();
        self.publish(setup);
    }

    /// From now on a page of its memory is lost.
    pub fn lose_memory(&self) {
        self.loss.0.store(true, Ordering::Relaxed);
    }

    /// Publishes a setup, and lets the lane take it up.
    pub fn publish(&mut self, setup: DeviceSetup) {
        self.publisher.publish(setup);
        self.lane.adopt();
        self.publisher.drop_unused();
    }

    /// Control's end.
    #[must_use]
    pub fn publisher(&self) -> &Publisher<DeviceSetup> {
        &self.publisher
    }

    /// What control would publish now.
    ///
    /// # Panics
    /// If it was shaped with features that nobody offers.
    #[must_use]
    pub fn setup(&self) -> DeviceSetup {
        let features = Negotiated::take(self.shape.features, self.shape.features);
        DeviceSetup {
            memory: self.memory.clone(),
            features: features.expect("a set is a part of itself"),
            queues: (0..2 * self.shape.pairs).map(|queue| Some(self.queue_setup(queue))).collect(),
        }
    }

    fn queue_setup(&self, queue: usize) -> QueueSetup {
        let at = |offset: u64| {
            let found = self.memory.translate(&mut 0, Self::ring_at(queue) + offset, 1);
            found.expect("rings lie in the first region")
        };
        QueueSetup {
            start: self.start,
            size: self.shape.size,
            descriptors: at(0),
            available: at(AVAIL_AT),
            used: at(USED_AT),
            next_available: self.shape.first_index,
            resubmit: None,
            is_enabled: true,
            call: None,
        }
    }

    /// The memory: the region of buffers, and behind it the region of rings.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Guest address of a queue's descriptor table.
    fn ring_at(queue: usize) -> u64 {
        RINGS_AT + QUEUE_BYTES * queue as u64
    }

    /// Guest addresses of a queue's descriptor table, available ring and used ring.
    #[must_use]
    pub fn ring_addresses(queue: usize) -> (u64, u64, u64) {
        let at = Self::ring_at(queue);
        (at, at + AVAIL_AT, at + USED_AT)
    }

    /// Writes guest memory.
    ///
    /// # Panics
    /// If there is none.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, file_offset(address)).expect("a memfd takes what fits into it");
    }

    /// Reads guest memory.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn read(&self, address: u64, len_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0; len_bytes];
        self.file.read_exact_at(&mut bytes, file_offset(address)).expect("a memfd gives what is in it");
        bytes
    }

    fn write_u16(&self, address: u64, value: u16) {
        self.write(address, &value.to_le_bytes());
    }

    fn read_u16(&self, address: u64) -> u16 {
        let bytes = self.read(address, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    /// Writes a descriptor of a queue's table.
    pub fn describe(&self, queue: usize, number: u16, desc: TestDescriptor) {
        self.write(Self::ring_at(queue) + 16 * u64::from(number), &desc.bytes());
    }

    /// Offers a chain, by its head.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let at = self.offered[queue];
        let entry = u64::from(at & (self.shape.size - 1));
        self.write_u16(Self::ring_at(queue) + AVAIL_AT + 4 + 2 * entry, head);
        self.offered[queue] = at.wrapping_add(1);
        self.set_avail_index(queue, self.offered[queue]);
    }

    /// Sets the index of an available ring to anything.
    pub fn set_avail_index(&self, queue: usize, index: u16) {
        self.write_u16(Self::ring_at(queue) + AVAIL_AT + 2, index);
    }

    /// Sets the index for which the driver wants an interrupt (with that feature).
    pub fn set_used_event(&self, queue: usize, index: u16) {
        self.write_u16(Self::ring_at(queue) + AVAIL_AT + 4 + 2 * u64::from(self.shape.size), index);
    }

    /// Sets the flags of an available ring.
    pub fn set_avail_flags(&self, queue: usize, flags: u16) {
        self.write_u16(Self::ring_at(queue) + AVAIL_AT, flags);
    }

    /// How many chains of a queue the device has used since it was started.
    #[must_use]
    pub fn used_count(&self, queue: usize) -> u16 {
        self.read_u16(Self::ring_at(queue) + USED_AT + 2).wrapping_sub(self.shape.first_index)
    }

    /// Head and written bytes of the chain that was used as number `count` since the start.
    #[must_use]
    pub fn used(&self, queue: usize, count: u16) -> (u32, u32) {
        let entry = self.shape.first_index.wrapping_add(count) & (self.shape.size - 1);
        let bytes = self.read(Self::ring_at(queue) + USED_AT + 4 + 8 * u64::from(entry), 8);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (word(0), word(4))
    }

    /// Sends a frame in one descriptor with an empty header in front, by descriptor `number`, from a buffer of
    /// 16 KiB of its own.
    ///
    /// # Panics
    /// If the frame is longer than that.
    pub fn send(&mut self, queue: usize, number: u16, frame: &[u8]) {
        let address = buffer_at(number);
        self.write(address, &[0; HEADER_BYTES]);
        self.write(address + HEADER_BYTES as u64, frame);
        let len_bytes = u32::try_from(HEADER_BYTES + frame.len()).expect("a frame is short");
        self.describe(queue, number, TestDescriptor { address, len_bytes, flags: 0, next: 0 });
        self.offer(queue, number);
    }

    /// Offers a buffer to receive into, by descriptor `number`, at the buffer of that number.
    pub fn lend(&mut self, queue: usize, number: u16, len_bytes: u32) {
        let desc = TestDescriptor { address: buffer_at(number), len_bytes, flags: WRITE, next: 0 };
        self.describe(queue, number, desc);
        self.offer(queue, number);
    }
}

/// Guest address of the buffer of a number: there are 64, of 16 KiB each, and then it is the first again.
#[must_use]
pub fn buffer_at(number: u16) -> u64 {
    BUFFERS_AT + 0x4000 * u64::from(number % 64)
}

/// Both regions lie in one file, buffers first.
fn file_offset(address: u64) -> u64 {
    if address >= BUFFERS_AT { address - BUFFERS_AT } else { address - RINGS_AT + REGION_BYTES }
}

fn make_memory(loss: &Loss) -> (File, GuestMemory) {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("test-guest", flags).expect("a memfd"));
    ftruncate(&file, 2 * REGION_BYTES).expect("two megabytes");
    fcntl_add_seals(&file, SealFlags::SHRINK).expect("a seal");
    let limits = MemoryLimits { regions: 2, bytes: 2 * REGION_BYTES, accept_unsealed: false };
    let rules = MemoryRules { limits: &limits, watcher: loss };
    let mut memory = GuestMemory::default();
    for (guest_start, file_offset_bytes) in [(BUFFERS_AT, 0), (RINGS_AT, REGION_BYTES)] {
        let user_start = guest_start + (1 << 40);
        let claim = RegionClaim { guest_start, len_bytes: REGION_BYTES, user_start, file_offset_bytes };
        let checked = MemoryFile::check(file.try_clone().expect("a descriptor"), false);
        memory = memory
            .with_region(claim, checked.expect("a sealed memfd"), &GuestMemory::default(), &rules)
            .expect("a region of the file");
    }
    (file, memory)
}
