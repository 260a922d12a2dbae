//! A guest's memory: a file, two rings in it, and whatever is written into them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};

use crate::attacker::memory::Memory;

/// Where the guest has it, and where its frontend does.
pub const GUEST_START: u64 = 0x10_0000;
pub const USER_START: u64 = 0x7f00_0000_0000;
/// All of it.
pub const RAM_BYTES: u64 = 2 << 20;
/// The region that all of it is.
pub const REGION: [u64; 4] = [GUEST_START, RAM_BYTES, USER_START, 0];
/// Entries of each ring.
pub const ENTRIES: u16 = 64;
/// Flags of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
/// Where indirect tables have room for 65,535 descriptors.
pub const INDIRECT_AT: u64 = 0x8_0000;
/// Bytes of each buffer.
pub const BUFFER_BYTES: u32 = 2048;
/// Bytes of the header in front of a frame.
pub const HEADER_BYTES: usize = 12;

/// Between the rings of two queues, and from descriptors to the ring of available and of used ones.
const RING_STEP: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS_AT: u64 = 0x2_0000;

/// A descriptor as it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptor {
    pub address: u64,
    pub len_bytes: u32,
    pub flags: u16,
    pub next: u16,
}

/// Memory of a guest with two queues; the first receives.
#[derive(Debug)]
pub struct Ram {
    file: File,
    view: Memory,
    /// By queue: how many chains were made available.
    offered: [u16; 2],
}

impl Ram {
    /// Fresh memory, sealed like this.
    ///
    /// # Errors
    /// If the kernel has none.
    pub fn new(seals: SealFlags) -> io::Result<Self> {
        let file = memory_file(RAM_BYTES, seals)?;
        let view = Memory::map(file.as_fd(), size(RAM_BYTES))?;
        Ok(Self { file, view, offered: [0; 2] })
    }

    /// Its file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What a device may write honestly, as it is now: rings, and buffers to receive into.
    pub fn written(&self) -> Vec<u8> {
        self.view.copy(0..size(Self::buffer(1, 0) - GUEST_START))
    }

    /// Where the frontend has descriptors, used and available ring of a queue.
    pub fn rings(queue: u32) -> [u64; 3] {
        let at = USER_START + u64::from(queue) * RING_STEP;
        [at, at + USED, at + AVAILABLE]
    }

    /// The guest's address of a buffer of its own for each slot.
    pub fn buffer(queue: usize, slot: u16) -> u64 {
        let number = queue as u64 * u64::from(ENTRIES) + u64::from(slot);
        GUEST_START + BUFFERS_AT + number * u64::from(BUFFER_BYTES)
    }

    /// A queue as if nothing had been offered or used.
    pub fn empty(&mut self, queue: usize) {
        let at = Self::at(queue);
        self.view.store32(at + size(AVAILABLE), 0);
        self.view.store32(at + size(USED), 0);
        self.offered[queue] = 0;
    }

    /// Writes a descriptor of a queue's table.
    pub fn describe(&self, queue: usize, slot: u16, descriptor: Descriptor) {
        self.describe_at(Self::at(queue) + 16 * usize::from(slot), descriptor);
    }

    /// Writes a descriptor of an indirect table.
    pub fn describe_indirect(&self, position: usize, descriptor: Descriptor) {
        self.describe_at(size(INDIRECT_AT) + 16 * position, descriptor);
    }

    fn describe_at(&self, at: usize, descriptor: Descriptor) {
        let Descriptor { address, len_bytes, flags, next } = descriptor;
        self.view.store64(at, address);
        self.view.store64(at + 8, u64::from(len_bytes) | u64::from(flags) << 32 | u64::from(next) << 48);
    }

    /// Makes the chain that begins at this descriptor available.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let slot = usize::from(self.offered[queue] % ENTRIES);
        // Entries are behind flags and index, two in a word.
        let at = Self::at(queue) + size(AVAILABLE) + 4 + slot / 2 * 4;
        let (shift, old) = (slot % 2 * 16, self.view.load32(at));
        self.view.store32(at, old & !(0xffff << shift) | u32::from(head) << shift);
        self.claim(queue, self.offered[queue].wrapping_add(1));
    }

    /// Says how many chains were made available.
    pub fn claim(&mut self, queue: usize, index: u16) {
        self.offered[queue] = index;
        self.view.store32(Self::at(queue) + size(AVAILABLE), u32::from(index) << 16);
    }

    /// Chains that were offered and are not used yet, if both indices are honest.
    pub fn outstanding(&self, queue: usize) -> u16 {
        let used = self.view.load16(Self::at(queue) + size(USED) + 2);
        self.offered[queue].wrapping_sub(used)
    }

    /// The slot that an honest driver fills next.
    pub fn next_slot(&self, queue: usize) -> u16 {
        self.offered[queue] % ENTRIES
    }

    /// Writes a frame with its header into a buffer of the guest's.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(8), 0);
        self.view.write(size(address - GUEST_START), &padded);
    }

    /// Gives every receive buffer to the device.
    pub fn offer_to_receive(&mut self) {
        while self.outstanding(0) < ENTRIES {
            let slot = self.next_slot(0);
            let address = Self::buffer(0, slot);
            self.describe(0, slot, Descriptor { address, len_bytes: BUFFER_BYTES, flags: WRITE, next: 0 });
            self.offer(0, slot);
        }
    }

    /// Takes all pages away; they come back as zeroes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn punch(&self) -> io::Result<()> {
        let all = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, all, 0, RAM_BYTES)?)
    }

    /// Ends the file at its beginning. Nothing of this memory may be touched afterwards.
    ///
    /// # Errors
    /// If it is sealed.
    pub fn truncate(self) -> io::Result<()> {
        let Self { file, view, .. } = self;
        drop(view);
        file.set_len(0)
    }

    fn at(queue: usize) -> usize {
        queue * size(RING_STEP)
    }
}

/// A file of memory.
///
/// # Errors
/// If the kernel has none.
pub fn memory_file(bytes: u64, seals: SealFlags) -> io::Result<File> {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(bytes)?;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// A number of bytes inside the memory.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
