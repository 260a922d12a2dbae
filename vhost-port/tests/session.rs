//! Frontends that behave: our own, and that of the `vhost` crate.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use common::guest::{FEATURES, GUEST_START, Guest, RAM, RAM_BYTES, SIZE, USER_START, memfd, region, table};
use common::port::{Port, terms};
use common::{Request, borrow, state, wait_until, words};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::SealFlags;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures as Protocol};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vhost_port::features::Features;
use vhost_port::refusal::Fault;
use vmm_sys_util::eventfd::EventFd;

fn no_fault(port: &Port) {
    let faults: Vec<_> = port.server.faults().all().filter(|(_, count)| *count > 0).collect();
    assert_eq!(faults, []);
}

#[test]
fn frames_cross_and_come_back() {
    let port = Port::open("echo");
    let mut guest = Guest::started(&port);
    guest.echoes(300);
    guest.wait_for_interrupt();
    let status = port.server.status();
    assert!(status.is_connected);
    assert_eq!((status.sessions, status.memory_bytes), (1, RAM_BYTES));
    assert_eq!(status.features, Some(Features::from_bits(FEATURES)));
    assert!(
        status.queues[..2].iter().all(|queue| queue.is_running && queue.is_enabled && queue.size == SIZE)
    );
    assert!(status.queues[2..].iter().all(|queue| !queue.is_running));
    no_fault(&port);
}

#[test]
fn a_guest_goes_on_after_its_frontend_has_come_back() {
    let port = Port::open("again");
    let mut guest = Guest::started(&port);
    for session in 1..4 {
        guest.echoes(20);
        assert_eq!(port.server.status().sessions, session);
        guest.reconnect(&port);
    }
    guest.echoes(20);
    no_fault(&port);
}

#[test]
fn a_guest_goes_on_after_the_switch_has_come_back() {
    let port = Port::open("before");
    let mut guest = Guest::started(&port);
    guest.echoes(20);
    drop(port);
    guest.wire.wait_for_end();
    let port = Port::open("after");
    guest.reconnect(&port);
    guest.echoes(20);
    no_fault(&port);
}

#[test]
fn a_queue_that_stops_says_where_and_goes_on_there() {
    let port = Port::open("stop");
    let mut guest = Guest::started(&port);
    for round in 1..4_u32 {
        guest.echoes(10);
        for queue in [0, 1] {
            assert!(guest.wire.send(Request::GET_VRING_BASE, 0, &state(queue, 0), &[]));
            assert_eq!(guest.wire.answer().unwrap().0, state(queue, 10 * round));
        }
        assert!(port.server.status().queues.iter().all(|queue| !queue.is_running));
        guest.start_queue(0);
        guest.start_queue(1);
    }
    guest.echoes(10);
}

#[test]
fn a_queue_that_is_disabled_is_not_touched() {
    let port = Port::open("disabled");
    let mut guest = Guest::started(&port);
    guest.echoes(3);
    guest.done(Request::SET_VRING_ENABLE, &state(1, 0));
    guest.send(&[9; 60]);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(guest.used_index(1), 3);
    guest.done(Request::SET_VRING_ENABLE, &state(1, 1));
    wait_until("the frame", || guest.used_index(1) == 4);
}

/// QEMU 7.2 enables queues before it sets features.
#[test]
fn a_queue_that_is_enabled_before_anything_is_negotiated_works() {
    let port = Port::open("early");
    let mut guest = Guest::new(&port);
    for queue in 0..2 {
        assert!(guest.wire.send(Request::SET_VRING_ENABLE, 0, &state(queue, 1), &[]));
    }
    guest.start();
    guest.echoes(10);
    no_fault(&port);
}

/// QEMU 7.2 adds the same region once for every queue pair, and removes it as often.
#[test]
fn memory_comes_and_goes_by_slots_while_queues_run() {
    let port = Port::open("slots");
    let mut guest = Guest::new(&port);
    guest.negotiate();
    let with = |guest: &Guest, request, claim, file: &File| {
        assert_eq!(guest.wire.demand(request, &region(claim), &[borrow(file)]), Some(true));
    };
    for _ in 0..3 {
        with(&guest, Request::ADD_MEM_REG, RAM, &guest.ram);
    }
    assert_eq!(guest.wire.ask(Request::GET_MAX_MEM_SLOTS), 8);
    guest.start();
    let more = memfd(1 << 20, SealFlags::SHRINK);
    let plugged = [1 << 40, 1 << 20, 1 << 40, 0];
    for round in 0..10 {
        guest.echoes(5);
        with(&guest, Request::ADD_MEM_REG, plugged, &more);
        assert_eq!(port.server.status().memory_bytes, RAM_BYTES + (1 << 20), "round {round}");
        guest.echoes(5);
        with(&guest, Request::REM_MEM_REG, plugged, &more);
        guest.done(Request::REM_MEM_REG, &region(plugged));
    }
    assert_eq!(port.server.status().memory_bytes, RAM_BYTES);
    no_fault(&port);
}

/// The whole table is told anew, as by a frontend without slots, while traffic goes on.
#[test]
fn a_new_table_while_queues_run_changes_nothing_for_them() {
    let port = Port::open("table");
    let mut guest = Guest::started(&port);
    let more = memfd(1 << 20, SealFlags::SHRINK);
    for round in 0..20_u64 {
        guest.echoes(5);
        let plugged = [1 << 40, 1 << 20, (1 + round) << 40, 0];
        let fds = [borrow(&more), borrow(&guest.ram)];
        let done = guest.wire.demand(Request::SET_MEM_TABLE, &table(&[plugged, RAM]), &fds);
        assert_eq!(done, Some(true));
    }
    guest.echoes(5);
    no_fault(&port);
}

#[test]
fn a_reset_device_forgets_all_but_the_memory() {
    let port = Port::open("reset");
    let mut guest = Guest::started(&port);
    guest.echoes(5);
    guest.done(Request::RESET_DEVICE, &[]);
    let status = port.server.status();
    assert!(status.queues.iter().all(|queue| *queue == Default::default()));
    assert_eq!((status.features, status.memory_bytes), (None, RAM_BYTES));
    guest.done(Request::SET_FEATURES, &words(&[FEATURES]));
    guest.start_queue(0);
    guest.start_queue(1);
    guest.echoes(5);
}

#[test]
fn a_closed_port_turns_frontends_away_until_it_opens_again() {
    let port = Port::open("closed");
    let mut guest = Guest::started(&port);
    guest.echoes(3);
    port.server.close();
    guest.wire.wait_for_end();
    common::Wire::connect(&port.path).wait_for_end();
    assert_eq!(port.server.status(), vhost_port::server::Status { sessions: 1, ..Default::default() });
    port.server.reopen();
    guest.reconnect(&port);
    guest.echoes(3);
}

#[test]
fn the_mtu_within_the_limits_of_the_port_is_taken() {
    let port = Port::open("mtu");
    let guest = Guest::new(&port);
    guest.negotiate();
    for mtu in [68, 1500] {
        guest.done(Request::NET_SET_MTU, &words(&[mtu]));
        wait_until("mtu", || port.server.status().mtu_bytes.map(u64::from) == Some(mtu));
    }
}

#[test]
fn what_is_withheld_is_not_on_offer() {
    let withheld = Features::EVENT_INDEX | Features::INDIRECT;
    let port = Port::open_with("withheld", |terms| terms.offer.withheld = withheld);
    let offered = Guest::new(&port).wire.ask(Request::GET_FEATURES);
    assert_eq!(offered & withheld.bits(), 0);
    assert_ne!(terms("all").offer.features().bits() & withheld.bits(), 0);
}

/// Where the backend before this one crashed: it had taken buffers out of order and marked them.
#[test]
fn buffers_in_flight_of_an_earlier_backend_are_served_first() {
    let port = Port::open("inflight");
    let mut guest = Guest::new(&port);
    guest.negotiate();
    // A record as the port itself makes it.
    let shape = 2 | u64::from(SIZE) << 16;
    assert!(guest.wire.send(Request::GET_INFLIGHT_FD, 0, &words(&[0, 0, shape]), &[]));
    let (answer, fd) = guest.wire.answer().unwrap();
    let record = File::from(fd.unwrap());
    assert_eq!(answer[8..], words(&[0, shape])[..]);
    // Three frames; the earlier backend had taken the first two, the second before the first.
    for value in 1..4_u8 {
        guest.send(&[value; 60]);
    }
    let queue_at = 16 + 16 * u64::from(SIZE);
    let entry = |head: u64| queue_at.next_multiple_of(64) + 16 + 16 * head;
    for (head, counter) in [(1, 1_u64), (0, 2)] {
        record.write_all_at(&[1], entry(head)).unwrap();
        record.write_all_at(&counter.to_le_bytes(), entry(head) + 8).unwrap();
    }
    assert_eq!(guest.wire.demand(Request::SET_INFLIGHT_FD, &answer, &[borrow(&record)]), Some(true));
    guest.start();
    let came: Vec<u8> = (0..3).map(|_| guest.wait_for_frame()[0]).collect();
    assert_eq!(came, [2, 1, 3]);
    let is_cleared = |head| {
        let mut mark = [9];
        record.read_exact_at(&mut mark, entry(head)).unwrap();
        mark == [0]
    };
    wait_until("cleared marks", || is_cleared(0) && is_cleared(1));
    guest.echoes(5);
    no_fault(&port);
}

/// The frontend of the `vhost` crate, which knows nothing of us.
#[test]
fn the_frontend_of_the_vhost_crate_sets_up_a_device() {
    let port = Port::open("crate");
    let ram = memfd(RAM_BYTES, SealFlags::SHRINK);
    let mut frontend = Frontend::connect(&port.path, 4).unwrap();
    frontend.set_owner().unwrap();
    let offered = frontend.get_features().unwrap();
    assert_eq!(offered & FEATURES, FEATURES);
    let protocol = frontend.get_protocol_features().unwrap();
    let wanted =
        Protocol::MQ | Protocol::REPLY_ACK | Protocol::CONFIGURE_MEM_SLOTS | Protocol::INFLIGHT_SHMFD;
    assert!(protocol.contains(wanted));
    frontend.set_protocol_features(wanted).unwrap();
    frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(FEATURES).unwrap();
    assert_eq!(frontend.get_queue_num().unwrap(), 2);
    assert_eq!(frontend.get_max_mem_slots().unwrap(), 8);
    let memory = VhostUserMemoryRegionInfo {
        guest_phys_addr: GUEST_START,
        memory_size: RAM_BYTES,
        userspace_addr: USER_START,
        mmap_offset: 0,
        mmap_handle: ram.as_raw_fd(),
    };
    frontend.set_mem_table(&[memory]).unwrap();
    frontend.add_mem_region(&memory).unwrap();
    // The crate takes the number for one of queues; for network devices it is one of pairs.
    for queue in 0..2 {
        frontend.set_vring_num(queue, SIZE).unwrap();
        frontend.set_vring_base(queue, 0).unwrap();
        let at = USER_START + 0x8000 * queue as u64;
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: at,
            avail_ring_addr: at + 0x1000,
            used_ring_addr: at + 0x2000,
            log_addr: None,
        };
        frontend.set_vring_addr(queue, &config).unwrap();
        frontend.set_vring_call(queue, &EventFd::new(0).unwrap()).unwrap();
        frontend.set_vring_err(queue, &EventFd::new(0).unwrap()).unwrap();
        frontend.set_vring_kick(queue, &EventFd::new(0).unwrap()).unwrap();
        frontend.set_vring_enable(queue, true).unwrap();
    }
    wait_until("queues", || port.server.status().queues.iter().filter(|queue| queue.is_running).count() == 2);
    for queue in 0..2 {
        assert_eq!(frontend.get_vring_base(queue).unwrap(), 0);
    }
    no_fault(&port);
}

/// With REPLY_ACK a refusal is told before the session ends.
#[test]
fn a_refusal_is_told_to_who_asked_for_an_answer() {
    let port = Port::open("told");
    let guest = Guest::new(&port);
    guest.negotiate();
    assert_eq!(guest.wire.demand(Request::SET_VRING_NUM, &state(0, 3), &[]), Some(false));
    guest.wire.wait_for_end();
    port.expect(Fault::RingSize, 1);
}

/// A driver without vhost-user's own bit cannot enable queues: they are enabled when they start.
#[test]
fn queues_of_a_frontend_without_protocol_features_start_enabled() {
    let port = Port::open("plain");
    let mut guest = Guest::new(&port);
    let plain = FEATURES & !(1 << 30);
    for (request, body) in [(Request::SET_OWNER, vec![]), (Request::SET_FEATURES, words(&[plain]))] {
        assert!(guest.wire.send(request, 0, &body, &[]));
    }
    assert!(guest.wire.send(Request::SET_MEM_TABLE, 0, &table(&[RAM]), &[borrow(&guest.ram)]));
    let kick = eventfd(0, EventfdFlags::empty()).unwrap();
    for queue in 0..2 {
        assert!(guest.wire.send(Request::SET_VRING_NUM, 0, &state(queue, u32::from(SIZE)), &[]));
        let addresses = guest.ring_addresses(queue, 0x4000 * u64::from(queue));
        assert!(guest.wire.send(Request::SET_VRING_ADDR, 0, &addresses, &[]));
        let index = words(&[u64::from(queue)]);
        assert!(guest.wire.send(Request::SET_VRING_KICK, 0, &index, &[borrow(&kick)]));
    }
    guest.post_receive_buffers();
    guest.echoes(10);
    no_fault(&port);
}
