//! An untrusted guest with one NIC: a driver of split rings in memory of its own, as virtio 1.2 section 2.7 has them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use host_switch::datapath::NicLanes;
use host_switch::region::fault::GuestMemoryWatcher;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use switch_core::ids::PortId;
use vhost_port::features::{Features, HEADER_BYTES, Negotiated};
use vhost_port::lane::Lane;
use vhost_port::memory::{GuestMemory, MemoryLimits, MemoryRules, RegionClaim};
use vhost_port::memory_file::MemoryFile;
use vhost_port::publication::{Publisher, publication};
use vhost_port::setup::{DeviceSetup, QueueSetup};

const MEMORY_BYTES: usize = 2 << 20;
/// Entries of each ring.
const ENTRIES: u16 = 256;
/// Room of a buffer; each ring has one for each entry, behind the rings.
const BUFFER_BYTES: usize = 2048;
/// Where the rings of the two queues lie: descriptors, and a page behind them each, available and used.
const RINGS: [usize; 2] = [0, 0x4000];
const AVAILABLE: usize = 0x1000;
const USED: usize = 0x2000;
/// Where their buffers begin.
const BUFFERS: [usize; 2] = [0x1_0000, 0x9_0000];
const WRITE: u16 = 2;

/// The guest. Its first queue receives, its second sends.
pub struct GuestNic {
    base: NonNull<u8>,
    memory: GuestMemory,
    publisher: Publisher<DeviceSetup>,
    /// Chains made available, and used ones seen, by queue.
    available: [u16; 2],
    seen: [u16; 2],
}

// SAFETY: the mapping is the process's and is never unmapped.
unsafe impl Send for GuestNic {}

impl GuestNic {
    /// A guest that has not started its device, and the lanes of its NIC.
    pub fn new(port: PortId, lcores: usize) -> (Self, NicLanes) {
        let file = memory();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so no mapping of ours is replaced.
        let base =
            unsafe { mmap(std::ptr::null_mut(), MEMORY_BYTES, protection, MapFlags::SHARED, &file, 0) };
        let base = NonNull::new(base.unwrap().cast()).unwrap();
        let len_bytes = MEMORY_BYTES as u64;
        let claim = RegionClaim { guest_start: 0, len_bytes, user_start: 0x7000_0000, file_offset_bytes: 0 };
        let limits = MemoryLimits { regions: 1, bytes: len_bytes, accept_unsealed: false };
        let rules = MemoryRules { limits: &limits, watcher: &GuestMemoryWatcher };
        let file = MemoryFile::check(File::from(file), false).unwrap();
        let memory =
            GuestMemory::default().with_region(claim, file, &GuestMemory::default(), &rules).unwrap();
        let (publisher, subscriptions) = publication(lcores, 2);
        let lane = |subscription| Lane::new(subscription, lcores, Arc::default());
        let lanes = subscriptions.into_iter().map(lane).collect();
        (Self { base, memory, publisher, available: [0; 2], seen: [0; 2] }, NicLanes { port, lanes })
    }

    /// Its driver starts, with so many buffers to receive into.
    pub fn start(&mut self, buffers: u16) {
        (0..buffers).for_each(|entry| self.offer(entry));
        let queue = |rings: usize| {
            let at = |offset: usize| self.memory.translate(&mut 0, (rings + offset) as u64, 16).unwrap();
            Some(QueueSetup {
                start: 1,
                size: ENTRIES,
                descriptors: at(0),
                available: at(AVAILABLE),
                used: at(USED),
                next_available: 0,
                resubmit: None,
                is_enabled: true,
                call: None,
            })
        };
        let features = Negotiated::take(Features::VERSION_1, Features::VERSION_1).unwrap();
        let queues = RINGS.map(queue).into();
        self.publisher.publish(DeviceSetup { memory: self.memory.clone(), features, queues });
    }

    /// Makes a buffer available to receive into.
    fn offer(&mut self, entry: u16) {
        self.describe(0, entry, BUFFER_BYTES, WRITE);
    }

    /// Sends a frame. The caller keeps fewer on the way than there are entries.
    pub fn send(&mut self, frame: &[u8]) {
        let entry = self.available[1] % ENTRIES;
        let at = buffer(1, entry);
        self.write(at, &[0; HEADER_BYTES]);
        self.write(at + HEADER_BYTES, frame);
        self.describe(1, entry, HEADER_BYTES + frame.len(), 0);
    }

    /// How many frames the device has taken.
    pub fn sent(&self) -> u16 {
        self.word(RINGS[1] + USED + 2).load(Ordering::Acquire)
    }

    /// What came in since the last look; the buffers are offered again.
    pub fn receive(&mut self) -> Vec<Vec<u8>> {
        let used = self.word(RINGS[0] + USED + 2).load(Ordering::Acquire);
        let mut frames = Vec::new();
        while self.seen[0] != used {
            let at = RINGS[0] + USED + 4 + usize::from(self.seen[0] % ENTRIES) * 8;
            let element = self.read(at, 8);
            let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
            let (entry, len) =
                (u16::try_from(number(&element[..4])).unwrap(), number(&element[4..]) as usize);
            frames.push(self.read(buffer(0, entry) + HEADER_BYTES, len - HEADER_BYTES));
            self.offer(entry);
            self.seen[0] = self.seen[0].wrapping_add(1);
        }
        frames
    }

    /// Writes a descriptor of one buffer and makes it available.
    fn describe(&mut self, queue: usize, entry: u16, bytes: usize, flags: u16) {
        let mut descriptor = (buffer(queue, entry) as u64).to_le_bytes().to_vec();
        descriptor.extend(u32::try_from(bytes).unwrap().to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend([0; 2]);
        self.write(RINGS[queue] + usize::from(entry) * 16, &descriptor);
        let count = self.available[queue];
        self.write(RINGS[queue] + AVAILABLE + 4 + usize::from(count % ENTRIES) * 2, &entry.to_le_bytes());
        self.available[queue] = count.wrapping_add(1);
        self.word(RINGS[queue] + AVAILABLE + 2).store(self.available[queue], Ordering::Release);
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY_BYTES);
        for (position, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the mapping (above).
            let to = unsafe { self.base.add(at + position) };
            // SAFETY: as above; volatile, since the switch reads it.
            unsafe { to.write_volatile(*byte) };
        }
    }

    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= MEMORY_BYTES);
        let byte = |position| {
            // SAFETY: inside the mapping (above).
            let from = unsafe { self.base.add(at + position) };
            // SAFETY: as above; volatile, since the switch writes it.
            unsafe { from.read_volatile() }
        };
        (0..len).map(byte).collect()
    }

    fn word(&self, at: usize) -> &AtomicU16 {
        assert!(at.is_multiple_of(2) && at + 2 <= MEMORY_BYTES);
        // SAFETY: inside the mapping (above).
        let word = unsafe { self.base.add(at) }.cast::<AtomicU16>();
        // SAFETY: aligned, mapped for the life of the process; an atomic has no invalid values.
        unsafe { word.as_ref() }
    }
}

fn buffer(queue: usize, entry: u16) -> usize {
    BUFFERS[queue] + usize::from(entry) * BUFFER_BYTES
}

fn memory() -> OwnedFd {
    let file = memfd_create("netvm-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, MEMORY_BYTES as u64).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    file
}
