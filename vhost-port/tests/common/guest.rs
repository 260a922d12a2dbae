//! A guest with RAM and a driver of one queue pair.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};

use super::port::Port;
use super::{Request, Wire, borrow, state, wait_until, words};

/// Where the guest has its RAM, and where its frontend does.
pub const GUEST_START: u64 = 0x10_0000;
pub const USER_START: u64 = 0x7f00_0000_0000;
pub const RAM_BYTES: u64 = 4 << 20;
pub const SIZE: u16 = 64;
/// VERSION_1 and the bit of vhost-user.
pub const FEATURES: u64 = 1 << 32 | 1 << 30;
const HEADER_BYTES: usize = 12;
const BUFFER_BYTES: u64 = 2048;
const DEVICE_WRITES: u16 = 2;

pub fn memfd(bytes: u64, seals: SealFlags) -> File {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
    file.set_len(bytes).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

pub struct Guest {
    pub wire: Wire,
    pub ram: File,
    pub call: OwnedFd,
    view: MmapRegion<()>,
    rings: [Ring; 2],
}

/// A ring as its driver keeps it: where it is in RAM, and what was made available and found used.
#[derive(Clone, Copy, Default)]
struct Ring {
    at: u64,
    offered: u16,
    seen: u16,
}

impl Ring {
    fn available(self) -> u64 {
        self.at + 16 * u64::from(SIZE)
    }

    fn used(self) -> u64 {
        self.available() + 1024
    }
}

/// The body of SET_MEM_TABLE: guest address, length, frontend's address, offset in the file.
pub fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut body = words(&[regions.len() as u64]);
    body.extend(regions.iter().flat_map(|region| words(region)));
    body
}

/// The body of ADD_MEM_REG and REM_MEM_REG.
pub fn region(region: [u64; 4]) -> Vec<u8> {
    let mut body = words(&[0]);
    body.extend(words(&region));
    body
}

/// The body of SET_VRING_ADDR.
pub fn rings(queue: u32, flags: u32, descriptors: u64, used: u64, available: u64) -> Vec<u8> {
    let mut body = state(queue, flags);
    body.extend(words(&[descriptors, used, available, 0]));
    body
}

pub const RAM: [u64; 4] = [GUEST_START, RAM_BYTES, USER_START, 0];

impl Guest {
    /// Connects, and says nothing yet.
    pub fn new(port: &Port) -> Self {
        Self::with_ram(port, memfd(RAM_BYTES, SealFlags::SHRINK))
    }

    pub fn with_ram(port: &Port, ram: File) -> Self {
        let offset = FileOffset::new(ram.try_clone().unwrap(), 0);
        let view = MmapRegion::from_file(offset, usize::try_from(RAM_BYTES).unwrap()).unwrap();
        let ring = |at| Ring { at, ..Ring::default() };
        Self {
            wire: Wire::connect(&port.path),
            ram,
            call: eventfd(0, EventfdFlags::NONBLOCK).unwrap(),
            view,
            rings: [ring(0), ring(0x4000)],
        }
    }

    /// The guest comes again with the RAM it has, as after the death of the switch or of its frontend.
    pub fn reconnect(&mut self, port: &Port) {
        self.wire = Wire::connect(&port.path);
        self.start();
    }

    pub fn negotiate(&self) {
        let wire = &self.wire;
        assert!(wire.send(Request::SET_OWNER, 0, &[], &[]));
        assert_eq!(wire.ask(Request::GET_FEATURES) & FEATURES, FEATURES);
        let protocol = wire.ask(Request::GET_PROTOCOL_FEATURES);
        assert!(wire.send(Request::SET_PROTOCOL_FEATURES, 0, &words(&[protocol]), &[]));
        self.done(Request::SET_FEATURES, &words(&[FEATURES]));
    }

    /// A request that must be done.
    pub fn done(&self, request: Request, body: &[u8]) {
        assert_eq!(self.wire.demand(request, body, &[]), Some(true), "{request:?}");
    }

    pub fn give_ram(&self) {
        let done = self.wire.demand(Request::SET_MEM_TABLE, &table(&[RAM]), &[borrow(&self.ram)]);
        assert_eq!(done, Some(true));
    }

    pub fn ring_addresses(&self, queue: u32, at: u64) -> Vec<u8> {
        let ring = Ring { at, ..Ring::default() };
        let user = USER_START;
        rings(queue, 0, user + ring.at, user + ring.used(), user + ring.available())
    }

    /// Sets up one queue and kicks it.
    pub fn start_queue(&self, queue: u32) {
        let ring = self.rings[queue as usize % 2];
        self.done(Request::SET_VRING_NUM, &state(queue, u32::from(SIZE)));
        self.done(Request::SET_VRING_BASE, &state(queue, u32::from(self.used_index(queue as usize % 2))));
        self.done(Request::SET_VRING_ADDR, &self.ring_addresses(queue, ring.at));
        let kick = eventfd(0, EventfdFlags::empty()).unwrap();
        let index = words(&[u64::from(queue)]);
        assert_eq!(self.wire.demand(Request::SET_VRING_KICK, &index, &[borrow(&kick)]), Some(true));
        assert_eq!(self.wire.demand(Request::SET_VRING_CALL, &index, &[borrow(&self.call)]), Some(true));
        self.done(Request::SET_VRING_ENABLE, &state(queue, 1));
    }

    /// All of it: features, memory, and the first queue pair, which works after this.
    pub fn start(&mut self) {
        self.negotiate();
        self.give_ram();
        self.post_receive_buffers();
        self.start_queue(0);
        self.start_queue(1);
    }

    pub fn started(port: &Port) -> Self {
        let mut guest = Self::new(port);
        guest.start();
        guest
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        self.view.get_slice(at, bytes.len()).unwrap().copy_from(bytes);
    }

    pub fn write_u16(&self, at: u64, value: u16) {
        self.write(at, &value.to_le_bytes());
    }

    fn load_u16(&self, at: u64) -> u16 {
        let at = usize::try_from(at).unwrap();
        self.view.as_volatile_slice().load(at, std::sync::atomic::Ordering::Acquire).unwrap()
    }

    pub fn used_index(&self, queue: usize) -> u16 {
        self.load_u16(self.rings[queue].used() + 2)
    }

    /// Makes a buffer available in this queue; `flags` of its descriptor.
    pub fn offer(&mut self, queue: usize, buffer: u64, len_bytes: u32, flags: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.offered % SIZE;
        let mut descriptor = words(&[GUEST_START + buffer]);
        descriptor.extend(len_bytes.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend(0_u16.to_le_bytes());
        ring.offered = ring.offered.wrapping_add(1);
        let ring = *ring;
        self.write(ring.at + 16 * u64::from(slot), &descriptor);
        self.write_u16(ring.available() + 4 + 2 * u64::from(slot), slot);
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        self.write_u16(ring.available() + 2, ring.offered);
    }

    /// Says in the available ring that there is more.
    pub fn claim_available(&self, queue: usize, index: u16) {
        self.write_u16(self.rings[queue].available() + 2, index);
    }

    fn buffer(queue: usize, slot: u16) -> u64 {
        0x10_0000 + (queue as u64) * 0x10_0000 + u64::from(slot) * BUFFER_BYTES
    }

    pub fn post_receive_buffers(&mut self) {
        let outstanding = self.rings[0].offered.wrapping_sub(self.rings[0].seen);
        for _ in outstanding..SIZE {
            let buffer = Self::buffer(0, self.rings[0].offered % SIZE);
            self.offer(0, buffer, 2048, DEVICE_WRITES);
        }
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) {
        let buffer = Self::buffer(1, self.rings[1].offered % SIZE);
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(frame);
        self.write(buffer, &bytes);
        self.offer(1, buffer, u32::try_from(bytes.len()).unwrap(), 0);
    }

    /// Takes the next received frame, if there is one.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let ring = self.rings[0];
        if self.used_index(0) == ring.seen {
            return None;
        }
        let entry = ring.used() + 4 + 8 * u64::from(ring.seen % SIZE);
        let mut pair = [0; 8];
        self.read(entry, &mut pair);
        let [id, len] = [0, 4].map(|at| u32::from_le_bytes(pair[at..at + 4].try_into().unwrap()));
        let mut frame = vec![0; len as usize];
        self.read(Self::buffer(0, u16::try_from(id).unwrap()), &mut frame);
        self.rings[0].seen = ring.seen.wrapping_add(1);
        self.post_receive_buffers();
        Some(frame.split_off(HEADER_BYTES))
    }

    fn read(&self, at: u64, bytes: &mut [u8]) {
        let at = usize::try_from(at).unwrap();
        self.view.get_slice(at, bytes.len()).unwrap().copy_to(bytes);
    }

    /// Waits for the next received frame.
    pub fn wait_for_frame(&mut self) -> Vec<u8> {
        let started = std::time::Instant::now();
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            assert!(started.elapsed() < super::SOON, "no frame comes");
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }

    /// Sends frames and gets each back, in order and byte for byte.
    pub fn echoes(&mut self, rounds: u32) {
        for round in 0..rounds {
            let frame: Vec<u8> = (0..64 + round % 1000).map(|at| (at ^ round).to_le_bytes()[0]).collect();
            self.send(&frame);
            let back = self.wait_for_frame();
            assert!(back == frame, "round {round}: {back:?}");
        }
    }

    /// Whether the guest was interrupted since the last time it was asked.
    pub fn wait_for_interrupt(&self) {
        wait_until("interrupt", || rustix::io::read(&self.call, &mut [0; 8]).is_ok());
    }
}
