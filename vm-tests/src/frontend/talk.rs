//! Tricks with messages and connections.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::guest::Guest;
use super::ram::{ENTRIES, GUEST_START, RAM_BYTES, REGION, USER_START};
use super::siege::{Frontend, Open};
use super::trick::Trick;
use super::wire::{
    self, GET_FEATURES, NEED_REPLY, NET_SET_MTU, SET_FEATURES, SET_MEM_TABLE, SET_VRING_CALL,
    SET_VRING_ENABLE, SET_VRING_NUM, VERSION, Wire, message, region, rings, state, table, words,
};

/// Messages of one shuffled session.
const SHUFFLED: u64 = 80;
/// Connections of one storm.
const STORM: u64 = 100;
/// Requests of a network device, and some that are not.
const REQUESTS: [u32; 26] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 31, 32, 34, 36, 37, 38];

impl Frontend<'_> {
    /// See [`Trick::MalformedMessages`].
    pub(super) fn malform(&mut self) {
        let Some(guest) = self.session(Guest::greeted) else { return };
        let random = &mut self.random;
        let fd = guest.ram.fd();
        let (bytes, fds): (Vec<u8>, Vec<BorrowedFd<'_>>) = match random.below(8) {
            0 => (message(GET_FEATURES, random.of(&[0, 2, 3, 5, 17, 1 << 31 | 1]), &[]), vec![]),
            1 => (
                [GET_FEATURES, VERSION, random.of(&[4097, 1 << 20, u32::MAX])].map(u32::to_le_bytes).concat(),
                vec![],
            ),
            2 => (message(random.of(&[0, 6, 7, 19, 21, 33, 35, 39, 99, u32::MAX]), VERSION, &[0; 8]), vec![]),
            3 => {
                let length = usize::try_from(random.below(100)).unwrap_or(0);
                (message(random.of(&REQUESTS), VERSION, &vec![0xa5; length]), vec![])
            }
            4 => {
                let mut body = table(&[REGION]);
                body[..8]
                    .copy_from_slice(&random.of(&[0, 2, 255, u64::from(u32::MAX), u64::MAX]).to_le_bytes());
                (message(SET_MEM_TABLE, VERSION, &body), vec![fd])
            }
            5 => {
                let fds = vec![fd; random.index(40) + 1];
                (message(random.of(&[GET_FEATURES, SET_VRING_NUM, SET_MEM_TABLE]), VERSION, &[0; 8]), fds)
            }
            6 => (
                message(SET_FEATURES, VERSION, &words(&[1 << random.of(&[0, 7, 17, 26, 33, 40, 63])])),
                vec![],
            ),
            _ => {
                (message(SET_VRING_CALL, VERSION, &words(&[random.of(&[4, 255, 1 << 9, u64::MAX])])), vec![])
            }
        };
        guest.wire.send_raw(&bytes, &fds);
        guest.wire.wait_for_end();
        self.tried(Trick::MalformedMessages, 1);
    }

    /// See [`Trick::MessagesInAnyOrder`].
    pub(super) fn shuffle(&mut self) {
        let opens: [Open; 3] = [Guest::greeted, Guest::with_memory, Guest::started];
        let open = self.random.of(&opens);
        let Some(guest) = self.session(open) else { return };
        let Ok(counter) = eventfd(0, EventfdFlags::NONBLOCK) else { return };
        let mut sent = 0;
        for _ in 0..SHUFFLED {
            let request = self.random.of(&REQUESTS);
            let body = self.body(request);
            let fits = match request {
                5 | 32 | 37 => Some(guest.ram.fd()),
                12..=14 => Some(counter.as_fd()),
                _ => None,
            };
            let odd = self.random.below(15) == 0;
            let fds: Vec<_> = if odd { vec![counter.as_fd()] } else { fits.into_iter().collect() };
            let flags = VERSION | self.random.of(&[0, NEED_REPLY]);
            if !guest.wire.send_raw(&message(request, flags, &body), &fds) {
                break;
            }
            sent += 1;
        }
        self.tried(Trick::MessagesInAnyOrder, sent);
    }

    /// A body that often fits its request.
    fn body(&mut self, request: u32) -> Vec<u8> {
        let queue = u32::try_from(self.random.below(5)).unwrap_or(0);
        match request {
            2 => words(&[1 << 32 | 1 << 30]),
            SET_MEM_TABLE => {
                table(&[[GUEST_START, self.near(RAM_BYTES), self.near(USER_START), self.near(0)]])
            }
            8 => state(queue, u32::try_from(self.near(u64::from(ENTRIES)).min(1 << 20)).unwrap_or(0)),
            9 => {
                let at = self.near(USER_START);
                rings(queue, [at, self.near(at.wrapping_add(0x2000)), self.near(at.wrapping_add(0x1000))])
            }
            10 | 11 | 18 => state(queue, u32::try_from(self.random.below(3)).unwrap_or(0)),
            12..=14 => words(&[u64::from(queue)]),
            16 => words(&[1 | 8 | 1 << 12 | 1 << 13 | 1 << 15]),
            NET_SET_MTU => words(&[self.near(1500)]),
            31 | 32 => words(&[self.near(4096), self.near(0), 2 | 64 << 16]),
            37 | 38 => region([self.near(1 << 32), self.near(4096), self.near(1 << 44), 0]),
            _ => vec![0; self.random.index(64)],
        }
    }

    /// A number that is often right and sometimes far off.
    fn near(&mut self, right: u64) -> u64 {
        match self.random.below(8) {
            0 => u64::MAX - self.random.below(4096),
            1 => self.random.below(5),
            2 => right.wrapping_add(self.random.below(9)).wrapping_sub(4),
            _ => right,
        }
    }

    /// See [`Trick::PartialMessages`].
    pub(super) fn break_off(&mut self) {
        let Some(guest) = self.session(Guest::greeted) else { return };
        let whole = message(SET_MEM_TABLE, VERSION | NEED_REPLY, &table(&[REGION]));
        let sent = self.random.index(whole.len() - 1) + 1;
        if self.random.below(2) == 0 {
            guest.wire.send_raw(&whole[..sent], &[guest.ram.fd()]);
        } else {
            // In time for each byte, not for all.
            for byte in whole.iter().take(sent) {
                if !guest.wire.send_raw(std::slice::from_ref(byte), &[]) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        guest.wire.wait_for_end();
        self.tried(Trick::PartialMessages, 1);
    }

    /// See [`Trick::ReconnectStorms`].
    pub(super) fn storm(&mut self) {
        // One that is served while others knock.
        let served = self.session(Guest::started);
        let mut made = 0;
        let mut kept = Vec::new();
        for number in 0..STORM {
            let Ok(wire) = Wire::connect(self.socket) else { continue };
            made += 1;
            match self.random.below(4) {
                0 => drop(wire.send_raw(&[0xff; 12], &[])),
                1 => drop(wire.send(GET_FEATURES, &[], &[])),
                2 => drop(wire.send(SET_VRING_ENABLE, &state(0, 1), &[])),
                _ => {}
            }
            if number % 10 == 0 {
                kept.push(wire);
            }
        }
        if let Some(guest) = served {
            // Far more than the budget of a session: it is slowed down.
            guest.wire.send_raw(&message(wire::GET_FEATURES, VERSION, &[]).repeat(300), &[]);
        }
        self.tried(Trick::ReconnectStorms, made);
    }
}
