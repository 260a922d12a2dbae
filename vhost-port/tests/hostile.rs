//! Frontends and guests that mean harm: each attack is refused by name, harms its own port only, and whoever
//! connects next is served.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::guest::{FEATURES, Guest, RAM_BYTES, SIZE, USER_START, memfd, rings};
use common::port::{Port, terms};
use common::{NEED_REPLY, Request, borrow, message, state, words};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::SealFlags;
use vhost_port::refusal::Fault;

const PAGE: u64 = 4096;

/// After an attack: the session is over, its fault is counted, and the port serves the next frontend.
fn port_goes_on(port: &Port, attacker: &Guest, fault: Fault) {
    attacker.wire.wait_for_end();
    port.expect(fault, 1);
    Guest::started(port).echoes(3);
}

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
        let port = Port::open("ring");
        let guest = Guest::new(&port);
        guest.negotiate();
        guest.give_ram();
        guest.done(Request::SET_VRING_NUM, &state(0, u32::from(SIZE)));
        guest.done(Request::SET_VRING_ADDR, &rings(0, 0, descriptors, used, available));
        let kick = eventfd(0, EventfdFlags::empty()).unwrap();
        let kicked = guest.wire.demand(Request::SET_VRING_KICK, &words(&[0]), &[borrow(&kick)]);
        assert_eq!(kicked, Some(false), "{descriptors:#x} {used:#x} {available:#x}");
        port_goes_on(&port, &guest, Fault::RingOutside);
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
        let port = Port::open("change");
        let mut guest = Guest::started(&port);
        guest.echoes(3);
        let record = memfd(PAGE, SealFlags::SHRINK);
        let fds = [borrow(&record)];
        let fds = if request == Request::SET_INFLIGHT_FD { &fds[..] } else { &[] };
        assert_eq!(guest.wire.demand(request, &body, fds), Some(false), "{request:?}");
        port_goes_on(&port, &guest, Fault::ChangedWhileRunning);
    }
}

#[test]
fn an_answer_comes_when_no_lane_uses_the_memory_any_more() {
    let mut port = Port::still(terms("quiet"));
    port.poll();
    let mut guest = Guest::started(&port);
    guest.echoes(3);
    port.stop_polling();
    // The lanes hold the old setup and are not polled: nobody may say that they are done with it.
    guest.wire.send(Request::GET_VRING_BASE, 0, &state(1, 0), &[]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let peeked = rustix::net::recv(
        &guest.wire.0,
        &mut [0; 4],
        rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
    );
    assert_eq!(peeked.unwrap_err(), rustix::io::Errno::AGAIN);
    port.poll();
    assert_eq!(guest.wire.answer().unwrap().0, state(1, 3));
}

#[test]
fn the_rest_of_a_message_is_not_waited_for() {
    let whole = message(Request::SET_VRING_NUM as u32, 1 | NEED_REPLY, &state(0, 64));
    for bytes in [1, 11, 12, whole.len() - 1] {
        let port = Port::open("partial");
        let attacker = Guest::new(&port);
        attacker.negotiate();
        assert!(attacker.wire.send_raw(&whole[..bytes], &[]));
        port_goes_on(&port, &attacker, Fault::MessagePartial);
    }
}
