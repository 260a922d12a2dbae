//! Tricks with the memory of a guest, and with files that are none.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::SealFlags;

use super::guest::Guest;
use super::ram::{ENTRIES, GUEST_START, HEADER_BYTES, RAM_BYTES, REGION, USER_START, memory_file};
use super::siege::{Frontend, SEALED};
use super::trick::Trick;
use super::wire::{
    ADD_MEM_REG, GET_INFLIGHT_FD, REM_MEM_REG, SET_INFLIGHT_FD, SET_MEM_TABLE, SET_VRING_CALL, SET_VRING_ERR,
    region, table, words,
};

const PAGE: u64 = 4096;
/// What a frontend tries to have mapped in one session.
const REGIONS: u64 = 3000;
/// Times that all memory is punched away in one bout.
const HOLES: u64 = 50;

impl Frontend<'_> {
    /// See [`Trick::OverlappingRegions`].
    pub(super) fn overlap(&mut self) {
        let Some(guest) = self.session(Guest::greeted) else { return };
        let (len, far) = (self.random.of(&[PAGE, RAM_BYTES]), 1 << 40);
        let second = match self.random.below(4) {
            0 => [GUEST_START + RAM_BYTES - 1, len, USER_START + far, 0],
            1 => [GUEST_START - len + 1, len, USER_START + far, 0],
            2 => [GUEST_START + far, len, USER_START + RAM_BYTES - 1, 0],
            _ => [GUEST_START + PAGE, PAGE, USER_START + PAGE, PAGE],
        };
        let fd = guest.ram.fd();
        if self.random.below(2) == 0 {
            guest.wire.send(SET_MEM_TABLE, &table(&[REGION, second]), &[fd, fd]);
        } else if guest.give_memory() {
            guest.wire.send(ADD_MEM_REG, &region(second), &[fd]);
        }
        guest.wire.wait_for_end();
        self.tried(Trick::OverlappingRegions, 1);
    }

    /// See [`Trick::VanishingMemory`].
    pub(super) fn vanish(&mut self) {
        let Some(mut guest) = self.session(Guest::started) else { return };
        self.exchange(&mut guest, u64::from(ENTRIES));
        let fd = guest.ram.fd();
        let [start, len, user, offset] = REGION;
        match self.random.below(5) {
            0 => guest.wire.send(SET_MEM_TABLE, &table(&[]), &[]),
            1 => guest.wire.send(REM_MEM_REG, &region(REGION), &[]),
            2 => guest.wire.send(SET_MEM_TABLE, &table(&[[start, len, user + (1 << 40), offset]]), &[fd]),
            3 => guest.wire.send(SET_MEM_TABLE, &table(&[[start, PAGE, user, offset]]), &[fd]),
            // The rings stay and the buffers go: the next chain points at nothing.
            _ => guest.wire.send(SET_MEM_TABLE, &table(&[[start, 0x1_0000, user, offset]]), &[fd]),
        };
        self.exchange(&mut guest, u64::from(ENTRIES));
        self.tried(Trick::VanishingMemory, 1);
    }

    /// See [`Trick::LyingSizes`].
    pub(super) fn lie_about_sizes(&mut self) {
        let Some(guest) = self.session(Guest::greeted) else { return };
        let (max, fd) = (u64::MAX, guest.ram.fd());
        let claim = match self.random.below(9) {
            0 => [GUEST_START, 0, USER_START, 0],
            1 => [max - PAGE, RAM_BYTES, USER_START, 0],
            2 => [GUEST_START, RAM_BYTES, max - PAGE, 0],
            3 => [GUEST_START, PAGE, USER_START, max - PAGE + 1],
            4 => [GUEST_START, max, USER_START, 0],
            5 => [GUEST_START, RAM_BYTES + 1, USER_START, 0],
            6 => [GUEST_START, RAM_BYTES, USER_START, PAGE],
            7 => [GUEST_START, 1 << 40, USER_START, 0],
            _ => return self.lie_about_inflight(&guest),
        };
        match self.random.below(2) {
            0 => guest.wire.send(SET_MEM_TABLE, &table(&[claim]), &[fd]),
            _ => guest.wire.send(ADD_MEM_REG, &region(claim), &[fd]),
        };
        guest.wire.wait_for_end();
        self.tried(Trick::LyingSizes, 1);
    }

    fn lie_about_inflight(&mut self, guest: &Guest) {
        let shape = |queues: u64, entries: u64| queues | entries << 16;
        if self.random.below(2) == 0 {
            let wanted = self.random.of(&[shape(0, 64), shape(5, 64), shape(1, 0), shape(1, 65_535)]);
            guest.wire.send(GET_INFLIGHT_FD, &words(&[0, 0, wanted]), &[]);
        } else {
            let wrap = u64::MAX;
            let claims =
                [[RAM_BYTES + 1, 0, 1], [PAGE, wrap, 1], [wrap, 0, 1], [16, 0, 1], [PAGE, 0, 65_535]];
            let [bytes, offset, queues] = self.random.of(&claims);
            let body = words(&[bytes, offset, shape(queues, 64)]);
            guest.wire.send(SET_INFLIGHT_FD, &body, &[guest.ram.fd()]);
        }
        guest.wire.wait_for_end();
        self.tried(Trick::LyingSizes, 1);
    }

    /// See [`Trick::ManyRegions`].
    pub(super) fn add_regions(&mut self) {
        let Some(guest) = self.session(Guest::greeted) else { return };
        let Ok(page) = memory_file(PAGE, SEALED) else { return };
        let taken =
            |at: u64| guest.wire.demand(ADD_MEM_REG, &region([at << 30, PAGE, at << 40, 0]), &[page.as_fd()]);
        let added = (0..REGIONS).take_while(|at| taken(*at)).count();
        self.tried(Trick::ManyRegions, added as u64 + 1);
    }

    /// See [`Trick::WrongFiles`].
    pub(super) fn pass_wrong_files(&mut self) {
        let Some(guest) = self.session(Guest::greeted) else { return };
        let Some(file) = wrong_file(self.random.below(6)) else { return };
        let fds = [file.as_fd()];
        match self.random.below(4) {
            0 => guest.wire.send(SET_MEM_TABLE, &table(&[REGION]), &fds),
            1 => guest.wire.send(ADD_MEM_REG, &region(REGION), &fds),
            2 => guest.wire.send(SET_VRING_CALL, &words(&[0]), &fds),
            _ => guest.wire.send(SET_VRING_ERR, &words(&[0]), &fds),
        };
        // An eventfd is right for one half of these, and the session goes on.
        drop(guest);
        self.tried(Trick::WrongFiles, 1);
    }

    /// See [`Trick::Truncation`].
    pub(super) fn truncate(&mut self) {
        let open = |socket: &std::path::Path, _| Guest::started(socket, SealFlags::empty());
        self.tried(Trick::Truncation, 1);
        // A port that takes sealed memory alone has refused it already.
        let Some(mut guest) = self.session(open) else { return };
        self.exchange(&mut guest, u64::from(ENTRIES));
        let Guest { wire, ram, .. } = guest;
        if ram.truncate().is_ok() {
            wire.wait_for_end();
        }
    }

    /// See [`Trick::PunchedHoles`].
    pub(super) fn punch(&mut self) {
        let Some(mut guest) = self.session(Guest::started) else { return };
        for _ in 0..HOLES {
            self.exchange(&mut guest, 8);
            if guest.ram.punch().is_err() {
                break;
            }
            self.tried(Trick::PunchedHoles, 1);
            // What was there is forgotten by both sides.
            guest.ram.empty(0);
            guest.ram.empty(1);
            guest.ram.offer_to_receive();
        }
        self.search(&guest.ram);
    }

    /// Sends some frames and takes what comes, as an honest guest.
    fn exchange(&mut self, guest: &mut Guest, frames: u64) {
        for _ in 0..frames {
            let frame = vec![self.random.next().to_le_bytes()[0]; 60 + self.random.index(1400)];
            guest.send([0; HEADER_BYTES], &frame);
        }
        guest.ram.offer_to_receive();
        std::thread::yield_now();
    }
}

fn wrong_file(which: u64) -> Option<OwnedFd> {
    match which {
        0 => rustix::pipe::pipe().ok().map(|(end, _)| end),
        1 => UnixStream::pair().ok().map(|(end, _)| end.into()),
        2 => eventfd(0, EventfdFlags::empty()).ok(),
        3 => File::open("/proc/self/exe").ok().map(Into::into),
        4 => File::options().read(true).write(true).open("/dev/zero").ok().map(Into::into),
        _ => File::open("/").ok().map(Into::into),
    }
}
