//! Frontends and guests that mean harm: each attack is refused by name, harms its own port only, and whoever
//! connects next is served.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use common::guest::{
    FEATURES, GUEST_START, Guest, RAM, RAM_BYTES, SIZE, USER_START, memfd, region, rings, table,
};
use common::port::{Port, terms};
use common::{NEED_REPLY, Request, Wire, borrow, message, state, wait_until, words};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, SealFlags, fallocate};
use rustix::net::RecvFlags;
use vhost_port::refusal::Fault;
use vhost_port::terms::Terms;

const PAGE: u64 = 4096;

/// A port to attack, and one whose guest does nothing wrong. One thread polls the lanes of both.
struct Scene {
    port: Port,
    neighbour: Port,
    honest: Guest,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Terms)) -> Self {
        let mut attacked = terms("attacked");
        change(&mut attacked);
        let mut port = Port::still(attacked);
        let mut neighbour = Port::still(terms("neighbour"));
        port.poll_with(&mut neighbour);
        let honest = Guest::started(&neighbour);
        Self { port, neighbour, honest }
    }

    /// A guest whose frontend has negotiated, and nothing else.
    fn attacker(&self) -> Guest {
        let guest = Guest::new(&self.port);
        guest.negotiate();
        guest
    }

    /// The neighbour has noticed nothing.
    fn neighbour_goes_on(&mut self) {
        self.honest.echoes(5);
        assert_eq!(self.neighbour.server.status().sessions, 1);
        assert_eq!(self.neighbour.server.faults().all().map(|(_, count)| count).sum::<u64>(), 0);
    }

    /// The session of the attacker is over, its fault is counted and no other, and the next frontend is served.
    fn ends_with(&mut self, attacker: &Wire, fault: Fault) {
        attacker.wait_for_end();
        self.port.expect(fault, 1);
        self.neighbour_goes_on();
        let mut next = Guest::started(&self.port);
        next.echoes(3);
        assert_eq!(self.port.faults(fault), 1, "{}", fault.name());
    }

    /// The session is alive, and so is the neighbour's.
    fn goes_on(&mut self, guest: &mut Guest) {
        self.neighbour_goes_on();
        guest.echoes(3);
    }
}

/// Sends one message to a port of its own; its session must end with this fault.
fn refused(request: Request, body: &[u8], fds: &[BorrowedFd<'_>], fault: Fault) {
    let mut scene = Scene::new();
    let attacker = scene.attacker();
    assert!(attacker.wire.send(request, 0, body, fds));
    scene.ends_with(&attacker.wire, fault);
}

/// The same, with guest memory in place.
fn refused_with_memory(request: Request, body: &[u8], fds: &[BorrowedFd<'_>], fault: Fault) {
    let mut scene = Scene::new();
    let attacker = scene.attacker();
    attacker.give_ram();
    assert!(attacker.wire.send(request, 0, body, fds));
    scene.ends_with(&attacker.wire, fault);
}

fn sealed(bytes: u64) -> File {
    memfd(bytes, SealFlags::SHRINK)
}

// Memory.

#[test]
fn regions_that_lie_about_their_range_are_not_mapped() {
    let ram = sealed(RAM_BYTES);
    let max = u64::MAX;
    let attacks = [
        ([GUEST_START, 0, USER_START, 0], Fault::RegionRange),
        ([max - PAGE, RAM_BYTES, USER_START, 0], Fault::RegionRange),
        ([GUEST_START, RAM_BYTES, max - PAGE, 0], Fault::RegionRange),
        ([GUEST_START, PAGE, USER_START, max - PAGE + 1], Fault::RegionRange),
        ([GUEST_START, max, USER_START, 0], Fault::RegionRange),
        ([GUEST_START, RAM_BYTES + 1, USER_START, 0], Fault::RegionPastFile),
        ([GUEST_START, RAM_BYTES, USER_START, PAGE], Fault::RegionPastFile),
        ([GUEST_START, 1 << 40, USER_START, 0], Fault::RegionPastFile),
    ];
    for (claim, fault) in attacks {
        refused(Request::SET_MEM_TABLE, &table(&[claim]), &[borrow(&ram)], fault);
        refused(Request::ADD_MEM_REG, &region(claim), &[borrow(&ram)], fault);
    }
}

#[test]
fn regions_that_overlap_are_not_mapped() {
    let (one, other) = (sealed(RAM_BYTES), sealed(RAM_BYTES));
    let second = [GUEST_START + RAM_BYTES - 1, PAGE, USER_START + (1 << 40), 0];
    let fds = [borrow(&one), borrow(&other)];
    refused(Request::SET_MEM_TABLE, &table(&[RAM, second]), &fds, Fault::RegionOverlap);
    refused_with_memory(Request::ADD_MEM_REG, &region(second), &fds[..1], Fault::RegionOverlap);
    let same_user = [1 << 40, PAGE, USER_START, 0];
    refused_with_memory(Request::ADD_MEM_REG, &region(same_user), &fds[..1], Fault::RegionOverlap);
}

#[test]
fn more_regions_and_bytes_than_allowed_are_not_mapped() {
    let ram = sealed(128 << 20);
    let claims: Vec<_> = (0..9).map(|at| [at << 30, PAGE, at << 40, 0]).collect();
    let fds = vec![borrow(&ram); 9];
    refused(Request::SET_MEM_TABLE, &table(&claims), &fds, Fault::RegionTooMany);
    let large = [0, 65 << 20, USER_START, 0];
    refused(Request::SET_MEM_TABLE, &table(&[large]), &fds[..1], Fault::MemoryTooLarge);
}

#[test]
fn three_thousand_regions_end_at_the_limit() {
    let mut scene = Scene::new();
    let attacker = scene.attacker();
    let ram = sealed(PAGE);
    let mut taken = 0;
    for at in 0..3000 {
        let claim = region([at << 30, PAGE, at << 40, 0]);
        match attacker.wire.demand(Request::ADD_MEM_REG, &claim, &[borrow(&ram)]) {
            Some(true) => taken += 1,
            Some(false) | None => break,
        }
    }
    assert_eq!(taken, 8);
    scene.ends_with(&attacker.wire, Fault::RegionTooMany);
}

#[test]
fn descriptors_of_the_wrong_kind_are_not_mapped() {
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let ram = sealed(RAM_BYTES);
    let readable = File::open(format!("/proc/self/fd/{}", ram.as_raw_fd()));
    let files: Vec<OwnedFd> = vec![
        pipe,
        socket.into(),
        eventfd(0, EventfdFlags::empty()).unwrap(),
        File::open(std::env::current_exe().unwrap()).unwrap().into(),
        File::options().read(true).write(true).open("/dev/zero").unwrap().into(),
        File::open("/").unwrap().into(),
        readable.unwrap().into(),
    ];
    for file in &files {
        refused(Request::SET_MEM_TABLE, &table(&[RAM]), &[borrow(file)], Fault::MemoryKind);
        refused(Request::ADD_MEM_REG, &region(RAM), &[borrow(file)], Fault::MemoryKind);
    }
    let unsealed = memfd(RAM_BYTES, SealFlags::empty());
    refused(Request::SET_MEM_TABLE, &table(&[RAM]), &[borrow(&unsealed)], Fault::MemoryUnsealed);
}

#[test]
fn memory_under_a_running_queue_does_not_vanish() {
    let elsewhere = [GUEST_START, RAM_BYTES, USER_START + (1 << 40), 0];
    let other = sealed(RAM_BYTES);
    let fds = [borrow(&other)];
    let attacks: [(Request, Vec<u8>, &[BorrowedFd<'_>]); 3] = [
        (Request::SET_MEM_TABLE, table(&[elsewhere]), &fds),
        (Request::SET_MEM_TABLE, table(&[]), &[]),
        (Request::REM_MEM_REG, region(RAM), &[]),
    ];
    for (request, body, fds) in attacks {
        let mut scene = Scene::new();
        let mut attacker = Guest::started(&scene.port);
        attacker.echoes(3);
        assert!(attacker.wire.send(request, 0, &body, fds));
        scene.ends_with(&attacker.wire, Fault::RingOutside);
    }
}

#[test]
fn memory_that_is_truncated_while_it_is_in_use_ends_its_own_session_only() {
    let mut scene = Scene::with(|terms| terms.memory.accept_unsealed = true);
    let ram = memfd(RAM_BYTES, SealFlags::empty());
    let mut attacker = Guest::with_ram(&scene.port, ram);
    attacker.start();
    attacker.echoes(3);
    // The driver's own view of it is gone, too: it must not touch its memory any more.
    attacker.ram.set_len(0).unwrap();
    scene.ends_with(&attacker.wire, Fault::MemoryLost);
}

#[test]
fn holes_that_are_punched_while_it_is_in_use_harm_nobody_else() {
    let mut scene = Scene::new();
    let mut attacker = Guest::started(&scene.port);
    attacker.echoes(3);
    for _ in 0..50 {
        attacker.send(&[7; 60]);
        let all = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&attacker.ram, all, 0, RAM_BYTES).unwrap();
    }
    scene.neighbour_goes_on();
    drop(attacker);
    wait_until("end of the session", || !scene.port.server.status().is_connected);
    Guest::started(&scene.port).echoes(3);
}

// Rings.

#[test]
fn a_ring_that_ends_outside_guest_memory_never_starts() {
    let end = USER_START + RAM_BYTES;
    let size = u64::from(SIZE);
    // Each part in turn ends one unit past the end of memory, or starts outside it.
    let attacks = [
        (end - 16 * size + 16, USER_START, USER_START),
        (USER_START, end - (6 + 8 * size) / 4 * 4 + 4, USER_START),
        (USER_START, USER_START, end - (6 + 2 * size) + 2),
        (end, USER_START, USER_START),
        (USER_START - 16, USER_START, USER_START),
        (u64::MAX - 15, USER_START, USER_START),
        (USER_START, USER_START, 0),
    ];
    for (descriptors, used, available) in attacks {
        never_starts(&rings(0, 0, descriptors, used, available), Fault::RingOutside);
    }
}

#[test]
fn a_ring_whose_words_are_not_aligned_never_starts() {
    for (descriptors, used, available) in [(8, 0, 0), (0, 2, 0), (0, 0, 1)] {
        let at = |offset| USER_START + offset;
        never_starts(&rings(0, 0, at(descriptors), at(used), at(available)), Fault::RingMisaligned);
    }
}

fn never_starts(rings: &[u8], fault: Fault) {
    let mut scene = Scene::new();
    let attacker = scene.attacker();
    attacker.give_ram();
    attacker.done(Request::SET_VRING_NUM, &state(0, u32::from(SIZE)));
    attacker.done(Request::SET_VRING_ADDR, rings);
    let kick = eventfd(0, EventfdFlags::empty()).unwrap();
    let kicked = attacker.wire.demand(Request::SET_VRING_KICK, &words(&[0]), &[borrow(&kick)]);
    assert_eq!(kicked, Some(false));
    scene.ends_with(&attacker.wire, fault);
}

#[test]
fn sizes_and_indices_that_no_ring_has_are_refused() {
    for size in [0, 3, 255, 257, 512, 65_536, u32::MAX] {
        refused(Request::SET_VRING_NUM, &state(0, size), &[], Fault::RingSize);
    }
    refused(Request::SET_VRING_BASE, &state(0, 65_536), &[], Fault::RingSize);
    refused(
        Request::SET_VRING_ADDR,
        &rings(0, 1, USER_START, USER_START, USER_START),
        &[],
        Fault::RingLogged,
    );
}

#[test]
fn queues_that_are_not_there_are_refused() {
    let kick = eventfd(0, EventfdFlags::empty()).unwrap();
    for queue in [4, 255, u32::MAX] {
        for request in [
            Request::SET_VRING_NUM,
            Request::SET_VRING_BASE,
            Request::GET_VRING_BASE,
            Request::SET_VRING_ENABLE,
        ] {
            refused(request, &state(queue, 1), &[], Fault::QueueUnknown);
        }
        let addresses = rings(queue, 0, USER_START, USER_START, USER_START);
        refused(Request::SET_VRING_ADDR, &addresses, &[], Fault::QueueUnknown);
    }
    for request in [Request::SET_VRING_KICK, Request::SET_VRING_CALL, Request::SET_VRING_ERR] {
        refused(request, &words(&[4]), &[borrow(&kick)], Fault::QueueUnknown);
    }
}

#[test]
fn what_a_running_queue_rests_on_does_not_change() {
    let attacks: [(Request, Vec<u8>); 5] = [
        (Request::SET_VRING_NUM, state(1, 128)),
        (Request::SET_VRING_BASE, state(1, 7)),
        (Request::SET_VRING_ADDR, rings(1, 0, USER_START, USER_START + 0x1000, USER_START + 0x2000)),
        (Request::SET_FEATURES, words(&[FEATURES | 1 << 15])),
        (Request::SET_INFLIGHT_FD, words(&[PAGE, 0, 2 | 64 << 16])),
    ];
    for (request, body) in attacks {
        let mut scene = Scene::new();
        let mut attacker = Guest::started(&scene.port);
        attacker.echoes(3);
        let record = sealed(PAGE);
        let fds = [borrow(&record)];
        let fds = if request == Request::SET_INFLIGHT_FD { &fds[..] } else { &[] };
        assert_eq!(attacker.wire.demand(request, &body, fds), Some(false), "{request:?}");
        scene.ends_with(&attacker.wire, Fault::ChangedWhileRunning);
    }
}

#[test]
fn a_broken_queue_is_told_and_starts_anew() {
    let mut scene = Scene::new();
    let mut guest = Guest::started(&scene.port);
    let error = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    assert_eq!(guest.wire.demand(Request::SET_VRING_ERR, &words(&[1]), &[borrow(&error)]), Some(true));
    guest.echoes(3);
    // More chains than the ring has entries.
    guest.claim_available(1, 20_000);
    scene.port.expect(Fault::QueueBroken, 1);
    wait_until("error", || rustix::io::read(&error, &mut [0; 8]).is_ok());
    scene.neighbour_goes_on();
    assert!(guest.wire.send(Request::GET_VRING_BASE, 0, &state(1, 0), &[]));
    assert_eq!(guest.wire.answer().unwrap().0, state(1, 3));
    guest.claim_available(1, 3);
    guest.start_queue(1);
    scene.goes_on(&mut guest);
    assert_eq!(scene.port.faults(Fault::QueueBroken), 1);
}

#[test]
fn an_answer_comes_when_no_lane_uses_the_memory_any_more() {
    let mut port = Port::open("quiet");
    let mut guest = Guest::started(&port);
    guest.echoes(3);
    port.stop_polling();
    // The lanes hold the old setup and are not polled: nobody may say that they are done with it.
    guest.wire.send(Request::GET_VRING_BASE, 0, &state(1, 0), &[]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!has_answer(&guest.wire));
    port.poll();
    assert_eq!(guest.wire.answer().unwrap().0, state(1, 3));
}

fn has_answer(wire: &Wire) -> bool {
    match rustix::net::recv(&wire.0, &mut [0; 4], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((bytes, _)) => bytes > 0,
        Err(error) => {
            assert_eq!(error, rustix::io::Errno::AGAIN);
            false
        }
    }
}

#[test]
fn a_lane_that_stands_still_costs_its_session_and_keeps_its_memory() {
    let mut port = Port::open("stalled");
    let mut guest = Guest::started(&port);
    guest.echoes(3);
    port.stop_polling();
    guest.wire.send(Request::GET_VRING_BASE, 0, &state(1, 0), &[]);
    guest.wire.wait_for_end();
    wait_until("stall", || port.faults(Fault::LaneStalled) > 0);
    port.poll();
    Guest::started(&port).echoes(3);
}

// Messages.

#[test]
fn headers_that_no_frontend_sends_end_the_session() {
    let request = Request::GET_FEATURES as u32;
    let headers = [
        message(request, 0, &[]),
        message(request, 2, &[]),
        message(request, 3, &[]),
        message(request, 1 | 4, &[]),
        message(request, 1 | 16, &[]),
        message(request, 1 | 1 << 31, &[]),
        [request, 1, 4097].map(u32::to_le_bytes).concat(),
        [request, 1, u32::MAX].map(u32::to_le_bytes).concat(),
    ];
    for header in headers {
        let mut scene = Scene::new();
        let attacker = scene.attacker();
        assert!(attacker.wire.send_raw(&header, &[]));
        scene.ends_with(&attacker.wire, Fault::MessageMalformed);
    }
}

#[test]
fn requests_that_are_not_of_a_network_device_end_the_session() {
    let known = [1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 31, 32, 34, 36, 37, 38];
    let unknown = (0..48).chain([u32::MAX]).filter(|request| !known.contains(request));
    for request in unknown {
        let mut scene = Scene::new();
        let attacker = scene.attacker();
        assert!(attacker.wire.send_raw(&message(request, 1, &[0; 8]), &[]));
        scene.ends_with(&attacker.wire, Fault::RequestUnknown);
    }
}

#[test]
fn bodies_of_the_wrong_length_end_the_session() {
    let lengths = [
        (Request::GET_FEATURES, 0),
        (Request::SET_FEATURES, 8),
        (Request::SET_OWNER, 0),
        (Request::SET_MEM_TABLE, 40),
        (Request::SET_VRING_NUM, 8),
        (Request::SET_VRING_ADDR, 40),
        (Request::SET_VRING_BASE, 8),
        (Request::GET_VRING_BASE, 8),
        (Request::SET_VRING_KICK, 8),
        (Request::SET_PROTOCOL_FEATURES, 8),
        (Request::SET_VRING_ENABLE, 8),
        (Request::NET_SET_MTU, 8),
        (Request::GET_INFLIGHT_FD, 24),
        (Request::RESET_DEVICE, 0),
        (Request::ADD_MEM_REG, 40),
    ];
    for (request, right) in lengths {
        let wrong = [right + 1, right + 4096 - 64];
        for length in wrong.into_iter().chain((right > 0).then(|| right - 1)) {
            refused(request, &vec![0; length], &[], Fault::MessageMalformed);
        }
    }
    // A table that says more or fewer regions than it has.
    for count in [0, 2, u64::from(u32::MAX)] {
        let mut body = table(&[RAM]);
        body[..8].copy_from_slice(&count.to_le_bytes());
        refused(Request::SET_MEM_TABLE, &body, &[], Fault::MessageMalformed);
    }
    refused(Request::SET_VRING_ENABLE, &state(0, 2), &[], Fault::MessageMalformed);
    refused(Request::SET_VRING_CALL, &words(&[1 << 9]), &[], Fault::MessageMalformed);
}

#[test]
fn descriptors_too_many_or_too_few_end_the_session() {
    let ram = sealed(RAM_BYTES);
    let many = vec![borrow(&ram); 64];
    let attacks: [(Request, Vec<u8>, usize); 9] = [
        (Request::GET_FEATURES, vec![], 1),
        (Request::SET_VRING_NUM, state(0, 64), 1),
        (Request::SET_MEM_TABLE, table(&[RAM]), 0),
        (Request::SET_MEM_TABLE, table(&[RAM]), 2),
        (Request::SET_MEM_TABLE, table(&[RAM]), 33),
        (Request::GET_FEATURES, vec![], 64),
        (Request::ADD_MEM_REG, region(RAM), 0),
        (Request::SET_VRING_CALL, words(&[0]), 0),
        (Request::SET_VRING_CALL, words(&[0x100]), 1),
    ];
    for (request, body, fds) in attacks {
        refused(request, &body, &many[..fds], Fault::MessageFds);
    }
}

#[test]
fn features_that_were_not_offered_end_the_session() {
    for bit in [0, 7, 17, 26, 33, 34, 40, 63] {
        refused(Request::SET_FEATURES, &words(&[FEATURES | 1 << bit]), &[], Fault::FeaturesForeign);
    }
    for bit in [1, 2, 5, 8, 9, 14, 16, 21, 63] {
        refused(Request::SET_PROTOCOL_FEATURES, &words(&[1 << bit]), &[], Fault::FeaturesForeign);
    }
}

#[test]
fn requests_of_features_that_were_not_negotiated_end_the_session() {
    for request in [
        Request::GET_QUEUE_NUM,
        Request::NET_SET_MTU,
        Request::GET_INFLIGHT_FD,
        Request::SET_INFLIGHT_FD,
        Request::RESET_DEVICE,
        Request::GET_MAX_MEM_SLOTS,
        Request::ADD_MEM_REG,
        Request::REM_MEM_REG,
    ] {
        let mut scene = Scene::new();
        let attacker = Guest::new(&scene.port);
        assert!(attacker.wire.send(request, 0, &[], &[]));
        scene.ends_with(&attacker.wire, Fault::RequestNotNegotiated);
    }
}

#[test]
fn packet_sizes_that_the_port_does_not_have_end_the_session() {
    for mtu in [0, 67, 1501, 65_536, u64::MAX] {
        refused(Request::NET_SET_MTU, &words(&[mtu]), &[], Fault::Mtu);
    }
}

#[test]
fn the_rest_of_a_message_is_not_waited_for() {
    let whole = message(Request::SET_VRING_NUM as u32, 1 | NEED_REPLY, &state(0, 64));
    for bytes in [1, 11, 12, whole.len() - 1] {
        let mut scene = Scene::new();
        let attacker = scene.attacker();
        assert!(attacker.wire.send_raw(&whole[..bytes], &[]));
        scene.ends_with(&attacker.wire, Fault::MessagePartial);
    }
}

#[test]
fn a_message_that_drips_byte_by_byte_is_not_waited_for_either() {
    let mut scene = Scene::new();
    let attacker = scene.attacker();
    let body = vec![0; 4096];
    for byte in message(Request::SET_MEM_TABLE as u32, 1, &body) {
        if !attacker.wire.send_raw(&[byte], &[]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    scene.ends_with(&attacker.wire, Fault::MessagePartial);
}

#[test]
fn a_message_in_pieces_with_its_descriptors_anywhere_is_whole() {
    let mut scene = Scene::new();
    let mut guest = scene.attacker();
    let whole = message(Request::SET_MEM_TABLE as u32, 1 | NEED_REPLY, &table(&[RAM]));
    for (at, chunk) in whole.chunks(7).enumerate() {
        let fd = guest.ram.as_fd();
        let fds: &[BorrowedFd<'_>] = if at == 3 { &[fd] } else { &[] };
        assert!(guest.wire.send_raw(chunk, fds));
    }
    assert_eq!(guest.wire.answer().unwrap().0, words(&[0]));
    guest.start();
    scene.goes_on(&mut guest);
}

#[test]
fn answers_that_nobody_reads_are_not_waited_for() {
    let mut scene = Scene::new();
    let attacker = scene.attacker();
    let request = message(Request::GET_FEATURES as u32, 1, &[]).repeat(500);
    assert!(attacker.wire.send_raw(&request, &[]));
    wait_until("end", || !scene.port.server.status().is_connected);
    scene.ends_with(&attacker.wire, Fault::ReplyUnread);
}

#[test]
fn a_storm_of_messages_is_slowed_down_and_nothing_else() {
    let mut scene = Scene::new();
    let mut guest = Guest::started(&scene.port);
    let storm = message(Request::SET_VRING_ENABLE as u32, 1, &state(0, 1)).repeat(1000);
    assert!(guest.wire.send_raw(&storm, &[]));
    scene.port.expect(Fault::MessageRate, 1);
    scene.goes_on(&mut guest);
}

// Descriptors to interrupt by.

#[test]
fn a_call_or_error_descriptor_that_is_no_eventfd_ends_the_session() {
    let (_end, pipe) = rustix::pipe::pipe().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let files: [OwnedFd; 3] = [pipe, socket.into(), sealed(PAGE).into()];
    for file in &files {
        for request in [Request::SET_VRING_CALL, Request::SET_VRING_ERR] {
            refused(request, &words(&[0]), &[borrow(file)], Fault::CallKind);
        }
    }
}

#[test]
fn full_and_blocking_eventfds_hold_up_nobody() {
    let mut scene = Scene::new();
    let mut guest = Guest::started(&scene.port);
    let full = eventfd(0, EventfdFlags::empty()).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    for queue in [0, 1] {
        for request in [Request::SET_VRING_CALL, Request::SET_VRING_ERR] {
            assert_eq!(guest.wire.demand(request, &words(&[queue]), &[borrow(&full)]), Some(true));
        }
    }
    guest.echoes(100);
    scene.goes_on(&mut guest);
    drop(guest);
    Guest::started(&scene.port).echoes(3);
}

// The record of buffers in flight.

#[test]
fn records_that_lie_about_their_size_are_refused() {
    let record = sealed(PAGE);
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let shape = |queues: u64, entries: u64| queues | entries << 16;
    let fault = Fault::Inflight;
    for body in [
        [PAGE + 1, 0, shape(1, 64)],
        [PAGE, 1, shape(1, 64)],
        [PAGE, u64::MAX, shape(1, 64)],
        [PAGE, 0, shape(65_535, 65_535)],
        [16, 0, shape(1, 64)],
    ] {
        refused(Request::SET_INFLIGHT_FD, &words(&body), &[borrow(&record)], fault);
    }
    refused(Request::SET_INFLIGHT_FD, &words(&[PAGE, 0, shape(1, 64)]), &[borrow(&pipe)], fault);
    for shape in [shape(0, 64), shape(5, 64), shape(1, 0), shape(1, 257)] {
        refused(Request::GET_INFLIGHT_FD, &words(&[0, 0, shape]), &[], fault);
    }
}

// Connections.

#[test]
fn a_second_frontend_is_turned_away_while_the_first_is_served() {
    let mut scene = Scene::new();
    let mut guest = Guest::started(&scene.port);
    Wire::connect(&scene.port.path).wait_for_end();
    scene.port.expect(Fault::ConnectionExtra, 1);
    scene.goes_on(&mut guest);
}

#[test]
fn a_storm_of_connections_is_slowed_down_and_nothing_else() {
    let mut scene = Scene::new();
    for at in 0..300 {
        let wire = Wire::connect(&scene.port.path);
        if at % 2 == 0 {
            wire.send_raw(&[0xff; 12], &[]);
        }
        if at % 10 == 0 {
            // Late enough to be served.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    scene.neighbour_goes_on();
    let sessions = scene.port.server.status().sessions;
    assert!(sessions < 100, "{sessions} of 300 were served");
    Guest::started(&scene.port).echoes(3);
    scene.neighbour_goes_on();
}

#[test]
fn frontends_that_vanish_under_traffic_leave_nothing_behind() {
    let mut scene = Scene::new();
    for _ in 0..5 {
        let mut guest = Guest::started(&scene.port);
        guest.echoes(20);
        (0..20).for_each(|_| guest.send(&[1; 100]));
        drop(guest);
        wait_until("end", || scene.port.server.status().memory_bytes == 0);
        scene.neighbour_goes_on();
    }
}

// Everything at once.

/// A small generator, so that a seed names a run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % sides
    }

    /// A number that is often right and sometimes far off.
    fn number(&mut self, right: u64) -> u64 {
        match self.roll(8) {
            0 => u64::MAX - self.roll(PAGE),
            1 => self.roll(5),
            2 => right.wrapping_add(self.roll(9)).wrapping_sub(4),
            _ => right,
        }
    }

    fn queue(&mut self) -> u32 {
        u32::try_from(self.roll(5)).unwrap()
    }

    fn body(&mut self, request: u32) -> Vec<u8> {
        match request {
            2 => words(&[FEATURES]),
            5 => table(&[[GUEST_START, self.number(RAM_BYTES), self.number(USER_START), self.number(0)]]),
            8 => state(self.queue(), u32::try_from(self.number(64).min(1 << 20)).unwrap()),
            9 => {
                let at = self.number(USER_START);
                rings(
                    self.queue(),
                    0,
                    at,
                    self.number(at.wrapping_add(0x2000)),
                    self.number(at.wrapping_add(0x1000)),
                )
            }
            10 | 11 | 18 => state(self.queue(), u32::try_from(self.roll(3)).unwrap()),
            12..=14 => words(&[u64::from(self.queue())]),
            16 => words(&[1 | 8 | 1 << 12 | 1 << 13 | 1 << 15]),
            20 => words(&[self.number(1500)]),
            31 | 32 => words(&[self.number(PAGE), self.number(0), 2 | 64 << 16]),
            37 | 38 => region([self.number(1 << 32), self.number(PAGE), self.number(1 << 44), 0]),
            _ => vec![0; usize::try_from(self.roll(64)).unwrap()],
        }
    }
}

/// Messages in any order, right and wrong, with whatever descriptors. The port must outlive each session.
#[test]
fn messages_in_any_order_end_in_a_session_or_a_refusal() {
    let usual = [1, 2, 3, 5, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18, 20, 31, 32, 34, 36, 37, 38, 11];
    for seed in 0..60 {
        let mut scene = Scene::new();
        let mut dice = Dice(seed);
        let mut guest = Guest::new(&scene.port);
        let counter = eventfd(0, EventfdFlags::empty()).unwrap();
        if seed % 3 == 0 {
            guest.start();
        } else if seed % 3 == 1 {
            guest.negotiate();
            guest.give_ram();
        }
        for _ in 0..80 {
            let usual_one = usual[usize::try_from(dice.roll(usual.len() as u64)).unwrap()];
            let request = if dice.roll(20) == 0 { u32::try_from(dice.roll(50)).unwrap() } else { usual_one };
            let body = dice.body(request);
            let fits: Option<BorrowedFd<'_>> = match request {
                5 | 32 | 37 => Some(borrow(&guest.ram)),
                12..=14 => Some(borrow(&counter)),
                _ => None,
            };
            let fds = if dice.roll(15) == 0 { vec![borrow(&counter)] } else { fits.into_iter().collect() };
            let flags = 1 | if dice.roll(2) == 0 { NEED_REPLY } else { 0 };
            if !guest.wire.send_raw(&message(request, flags, &body), &fds) {
                break;
            }
        }
        drop(guest);
        scene.neighbour_goes_on();
        wait_until("end of the session", || !scene.port.server.status().is_connected);
        Guest::started(&scene.port).echoes(2);
    }
}
