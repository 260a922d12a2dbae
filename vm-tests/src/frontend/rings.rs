//! Tricks with rings: chains that no driver makes, and frames behind headers that lie.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::guest::Guest;
use super::ram::{
    BUFFER_BYTES, Descriptor, ENTRIES, GUEST_START, HEADER_BYTES, INDIRECT, INDIRECT_AT, NEXT, RAM_BYTES,
    Ram, USER_START, WRITE,
};
use super::siege::Frontend;
use super::trick::Trick;
use super::wire::{
    SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM, rings,
    state, words,
};

/// By then an lcore has looked at a ring.
const LOOKED: Duration = Duration::from_millis(2);
/// The most descriptors that an indirect table can name by 16 bits.
const ENDLESS: u16 = u16::MAX;

impl Frontend<'_> {
    /// See [`Trick::RingsOutside`].
    pub(super) fn lay_rings_outside(&mut self) {
        let Some(guest) = self.session(Guest::with_memory) else { return };
        let (end, size) = (USER_START + RAM_BYTES, u64::from(ENTRIES));
        let at = USER_START;
        let places = match self.random.below(8) {
            0 => [end - 16 * size + 16, at, at],
            1 => [at, end - 8 * size, at],
            2 => [at, at, end - 2 * size],
            3 => [end, at, at],
            4 => [at - 16, at, at],
            5 => [u64::MAX - 15, at, at],
            6 => [at + 8, at + 2, at + 1],
            _ => [at, at, 0],
        };
        let wire = &guest.wire;
        let wrong_size = self.random.of(&[0, 3, 63, 2048, 65_536, u32::MAX]);
        match self.random.below(4) {
            0 => _ = wire.demand(SET_VRING_NUM, &state(0, wrong_size), &[]),
            1 => _ = wire.demand(SET_VRING_BASE, &state(0, 65_536), &[]),
            _ => {
                let Ok(kick) = eventfd(0, EventfdFlags::empty()) else { return };
                wire.send(SET_VRING_NUM, &state(0, u32::from(ENTRIES)), &[]);
                wire.send(SET_VRING_ADDR, &rings(0, places), &[]);
                wire.demand(SET_VRING_KICK, &words(&[0]), &[kick.as_fd()]);
            }
        }
        self.tried(Trick::RingsOutside, 1);
    }

    /// See the tricks about chains: breaks a queue, has it set up anew, and so on.
    pub(super) fn break_rings(&mut self, trick: Trick) {
        let Some(mut guest) = self.session(Guest::started) else { return };
        while !self.is_bout_over() {
            // A receive queue is looked at when something comes for it.
            let queue = if self.random.below(3) == 0 { 0 } else { 1 };
            if !guest.start_anew(queue) {
                return;
            }
            let chains = self.chain(trick, &mut guest.ram, queue as usize);
            if queue == 0 {
                // Or its neighbour sends something; its own transmit queue may be as broken.
                _ = guest.send([0; HEADER_BYTES], &[0xaa; 64]);
            }
            std::thread::sleep(LOOKED);
            self.tried(trick, chains);
        }
        self.search(&guest.ram);
    }

    /// Writes chains into an empty ring, and says how many.
    fn chain(&mut self, trick: Trick, ram: &mut Ram, queue: usize) -> u64 {
        let direction = if queue == 0 { WRITE } else { 0 };
        let buffer =
            Descriptor { address: Ram::buffer(queue, 0), len_bytes: 64, flags: direction | NEXT, next: 0 };
        let head = u16::try_from(self.random.below(u64::from(ENTRIES))).unwrap_or(0);
        match trick {
            Trick::DescriptorLoops => {
                let next = self.random.of(&[head, (head + 1) % ENTRIES, ENTRIES, u16::MAX]);
                ram.describe(queue, head, Descriptor { next, ..buffer });
                ram.describe(queue, (head + 1) % ENTRIES, Descriptor { next: head, ..buffer });
                ram.offer(queue, self.random.of(&[head, head, head, ENTRIES, u16::MAX]));
            }
            Trick::NestedIndirect => {
                let table = Descriptor {
                    address: GUEST_START + INDIRECT_AT,
                    len_bytes: 32,
                    flags: INDIRECT | self.random.of(&[0, 0, NEXT]),
                    next: (head + 1) % ENTRIES,
                };
                ram.describe(queue, head, table);
                ram.describe_indirect(0, Descriptor { flags: INDIRECT | direction, next: 1, ..table });
                ram.describe_indirect(1, Descriptor { flags: direction, ..buffer });
                ram.offer(queue, head);
            }
            Trick::EndlessIndirect => return self.endless(ram, queue, direction),
            Trick::AvailableJumps => {
                let jump = self.random.of(&[ENTRIES + 1, 20_000, 32_767, 32_768, 65_535]);
                ram.claim(queue, jump);
            }
            _ => {
                let max = u64::MAX;
                let addresses = [buffer.address, 0, GUEST_START + RAM_BYTES - 1, max, max - 4095, 1 << 63];
                let len_bytes = self.random.of(&[u32::MAX, 1 << 31, 1 << 21, 65_536, 0]);
                let address = self.random.of(&addresses);
                ram.describe(queue, head, Descriptor { address, len_bytes, flags: direction, next: 0 });
                ram.offer(queue, head);
            }
        }
        1
    }

    /// A table without a byte in it, in every slot: as long as 16 bits can count, or as long as a ring allows.
    fn endless(&mut self, ram: &mut Ram, queue: usize, direction: u16) -> u64 {
        let entries = self.random.of(&[ENDLESS, ENTRIES + 1, ENTRIES]);
        for position in 0..entries {
            let flags = if position + 1 < entries { NEXT | direction } else { direction };
            let next = position.wrapping_add(1);
            let empty = Descriptor { address: GUEST_START, len_bytes: 0, flags, next };
            ram.describe_indirect(usize::from(position), empty);
        }
        let len_bytes = 16 * u32::from(entries);
        let table = Descriptor { address: GUEST_START + INDIRECT_AT, len_bytes, flags: INDIRECT, next: 0 };
        for slot in 0..ENTRIES {
            ram.describe(queue, slot, table);
            ram.offer(queue, slot);
        }
        u64::from(ENTRIES)
    }

    /// See [`Trick::LyingHeaders`].
    pub(super) fn lie_in_headers(&mut self) {
        let Some(mut guest) = self.session(Guest::started) else { return };
        while !self.is_bout_over() {
            let mut sent = 0;
            for _ in 0..ENTRIES {
                let (header, frame) = self.lie();
                sent += u64::from(guest.send(header, &frame));
            }
            guest.ram.offer_to_receive();
            self.tried(Trick::LyingHeaders, sent);
            // An lcore has other rings to look at, and this thread is not alone.
            std::thread::sleep(LOOKED);
        }
        self.search(&guest.ram);
    }

    /// A header that asks for work on bytes that are not there, and some frame.
    fn lie(&mut self) -> ([u8; HEADER_BYTES], Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        for byte in &mut header {
            *byte = self.random.of(&[0, 1, 4, 0x7f, 0x80, 0xff]);
        }
        let mut frame = vec![0x5a; self.random.index(1515)];
        if let Some(start) = frame.get_mut(12..14) {
            start.copy_from_slice(&self.random.of(&[[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6], [0xff, 0xff]]));
        }
        (header, frame)
    }

    /// See [`Trick::FullEventfds`].
    pub(super) fn fill_eventfds(&mut self) {
        let Some(mut guest) = self.session(Guest::started) else { return };
        let flags = self.random.of(&[EventfdFlags::empty(), EventfdFlags::SEMAPHORE]);
        let Ok(full) = eventfd(0, flags) else { return };
        _ = rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes());
        for queue in [0, 1] {
            for request in [SET_VRING_CALL, SET_VRING_ERR] {
                if !guest.wire.demand(request, &words(&[queue]), &[full.as_fd()]) {
                    return;
                }
            }
        }
        let mut frames = 0;
        while !self.is_bout_over() {
            for _ in 0..ENTRIES {
                frames += u64::from(guest.send([0; HEADER_BYTES], &[0x42; 60]));
            }
            guest.ram.offer_to_receive();
            std::thread::sleep(LOOKED);
        }
        // The last of it: an error that is told by the full descriptor.
        guest.ram.claim(1, 20_000);
        std::thread::sleep(LOOKED);
        self.tried(Trick::FullEventfds, frames);
        self.search(&guest.ram);
    }
}

const _: () = assert!(INDIRECT_AT + 16 * (ENDLESS as u64 + 1) <= RAM_BYTES);
const _: () = assert!(BUFFER_BYTES as usize > HEADER_BYTES + 1515);
