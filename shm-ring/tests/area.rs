//! A control area planned and written by the host, opened by a guest, and corrupted in every field.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod memory;

use core::mem::offset_of;
use core::num::NonZeroU64;

use memory::Memory;
use shm_ring::area::{
    Answer, AreaError, AreaLayout, AreaSpec, EndpointSpec, GuestArea, HostArea, HostEndpoint, RegionGeometry,
    TargetKind, TargetSpec, magic_at, read_region_header, write_region_header,
};
use shm_ring::attach::{
    AttachAction, AttachEvent, AttachLimits, AttachMachine, AttachState, GuestEvent, GuestWatch, Handshake,
    HandshakeStep, HostPhase, Refusal,
};
use shm_ring::desc::{Desc, Kind, RawDesc, Verdict};
use shm_ring::layout::{
    CONTROL_MAGIC, ControlHeader, Direction, EndpointEntry, EndpointFacts, GuestCounter, GuestWords,
    REGION_MAGIC, RingEntry, STRIDE_BYTES_DEFAULT, TargetEntry,
};
use shm_ring::ring::{Consumer, Producer};

fn endpoint(name: &str, lcores: &[u16]) -> EndpointSpec {
    EndpointSpec {
        endpoint_id: 4,
        service_id: 9,
        service_name: name.into(),
        quota_buffers: 100,
        credit_buffers: 3,
        references: 0,
        ring_slots: 60,
        lcores: lcores.to_vec(),
    }
}

fn spec() -> AreaSpec {
    AreaSpec {
        region: RegionGeometry::fit(2 << 20, STRIDE_BYTES_DEFAULT, 0x00c0_ffee).unwrap(),
        access: 0,
        features_offered: 0,
        endpoints: vec![endpoint("firewall", &[0, 3]), endpoint("router", &[3])],
        targets: vec![
            TargetSpec { kind: TargetKind::Port, id: 1, name: "client".into() },
            TargetSpec { kind: TargetKind::Service, id: 2, name: "router".into() },
        ],
    }
}

fn created() -> (AreaLayout, Memory) {
    let layout = AreaLayout::plan(&spec()).unwrap();
    let memory = Memory::new(layout.bytes());
    host(&memory, &layout);
    (layout, memory)
}

fn host<'m>(memory: &'m Memory, layout: &AreaLayout) -> HostArea<'m> {
    // SAFETY: the memory outlives the borrow and is written through atomics only.
    unsafe { HostArea::create(memory.base(), memory.bytes(), layout) }.unwrap()
}

fn open(memory: &Memory) -> Result<GuestArea<'_>, AreaError> {
    // SAFETY: as in `host`.
    unsafe { GuestArea::open(memory.base(), memory.bytes()) }
}

#[test]
fn a_guest_finds_what_the_host_planned() {
    let (layout, memory) = created();
    // SAFETY: a page and more of aligned memory.
    assert_eq!(unsafe { magic_at(memory.base()) }, CONTROL_MAGIC);
    let guest = open(&memory).unwrap();
    assert_eq!(guest.header(), layout.header());
    assert_eq!(guest.region(), &spec().region);
    assert_eq!(guest.endpoint_count(), 2);
    assert_eq!(guest.endpoint(0).facts(), &layout.endpoints()[0]);
    assert_eq!(guest.endpoint(0).service_name(), "firewall");
    assert_eq!(guest.endpoint(1).service_name(), "router");
    assert_eq!(guest.lcores(0).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(guest.lcores(1).collect::<Vec<_>>(), [3]);
    assert_eq!(guest.targets().collect::<Vec<_>>(), spec().targets);
    assert!(guest.rings(0, 3).is_some());
    assert!(guest.rings(0, 1).is_none());
    assert!(guest.rings(2, 3).is_none());
}

#[test]
fn an_area_is_a_power_of_two_of_at_least_64_kib() {
    let layout = AreaLayout::plan(&spec()).unwrap();
    assert_eq!(layout.bytes(), 65_536);
    let mut large = spec();
    large.endpoints[0].ring_slots = 32_768;
    let layout = AreaLayout::plan(&large).unwrap();
    assert!(layout.bytes().is_power_of_two());
    assert!(layout.bytes() >= layout.header().control_bytes);
}

#[test]
fn rings_back_hold_the_quota_and_rings_there_the_slots_asked_for() {
    let guest_rings = |direction: Direction| {
        let layout = AreaLayout::plan(&spec()).unwrap();
        let of = layout.rings().iter().filter(|ring| ring.direction == direction as u8);
        of.map(|ring| ring.slots).collect::<Vec<_>>()
    };
    assert_eq!(guest_rings(Direction::HostToGuest), [64, 64, 64]);
    assert_eq!(guest_rings(Direction::GuestToHost), [128, 128, 128]);
}

#[test]
fn plans_rings_of_the_largest_size_and_refuses_one_slot_more() {
    let mut spec = spec();
    spec.endpoints[0].quota_buffers = 32_768;
    assert!(AreaLayout::plan(&spec).is_ok());
    spec.endpoints[0].quota_buffers = 32_769;
    assert_eq!(AreaLayout::plan(&spec), Err(AreaError::RingSlots { slots: 32_769 }));
    spec.endpoints[0].quota_buffers = u32::MAX;
    assert_eq!(AreaLayout::plan(&spec), Err(AreaError::RingSlots { slots: u32::MAX }));
}

#[test]
fn rounds_small_rings_up_to_the_minimum_and_refuses_none() {
    let mut spec = spec();
    spec.endpoints[1].ring_slots = 1;
    spec.endpoints[1].quota_buffers = 1;
    assert_eq!(AreaLayout::plan(&spec).unwrap().rings()[4].slots, 8);
    spec.endpoints[1].ring_slots = 0;
    assert_eq!(AreaLayout::plan(&spec), Err(AreaError::RingSlots { slots: 0 }));
}

#[test]
fn accepts_a_name_of_28_bytes_and_refuses_29_or_none() {
    let mut spec = spec();
    for (name, fits) in [("x".repeat(28), true), ("x".repeat(29), false), (String::new(), false)] {
        spec.targets[0].name = name;
        assert_eq!(AreaLayout::plan(&spec).is_ok(), fits);
    }
    spec.targets[0].name = "a\0b".into();
    assert_eq!(AreaLayout::plan(&spec), Err(AreaError::Name { name_bytes: 3 }));
}

#[test]
fn a_guest_steps_over_what_a_newer_minor_version_added_at_the_end_of_entries() {
    let (layout, memory) = created();
    let header = layout.header();
    // The tables anew, with longer entries, behind everything else of the host's section.
    let entries = [
        (header.endpoint_table_offset, header.endpoint_count, size_of::<EndpointEntry>(), 8),
        (header.ring_table_offset, header.ring_count, size_of::<RingEntry>(), 64),
        (header.target_table_offset, header.target_count, size_of::<TargetEntry>(), 16),
    ];
    let moved = [
        (offset_of!(ControlHeader, endpoint_table_offset), offset_of!(ControlHeader, endpoint_entry_bytes)),
        (offset_of!(ControlHeader, ring_table_offset), offset_of!(ControlHeader, ring_entry_bytes)),
        (offset_of!(ControlHeader, target_table_offset), offset_of!(ControlHeader, target_entry_bytes)),
    ];
    // Behind the last descriptors towards the guest there is room up to the guest's section.
    let last = layout.rings().iter().filter(|ring| ring.direction == Direction::HostToGuest as u8);
    let last = last.map(|ring| ring.descriptors_offset).max().unwrap();
    let mut next = usize::try_from(last).unwrap() + 64 * 16;
    for ((table, count, bytes, more), (offset_at, bytes_at)) in entries.into_iter().zip(moved) {
        memory.poke(offset_at, &u32::try_from(next).unwrap().to_le_bytes());
        memory.poke(bytes_at, &u16::try_from(bytes + more).unwrap().to_le_bytes());
        for entry in 0..usize::from(count) {
            for byte in 0..bytes {
                memory.poke(next + byte, &memory.peek::<1>(table as usize + entry * bytes + byte));
            }
            memory.poke(next + bytes, &vec![0xee; more]);
            next += bytes + more;
        }
    }
    assert!(next <= usize::try_from(header.guest_section_offset).unwrap(), "{next}");
    memory.poke(offset_of!(ControlHeader, header_bytes), &128u32.to_le_bytes());
    let guest = open(&memory).unwrap();
    assert_eq!(guest.endpoint(1).facts(), &layout.endpoints()[1]);
    assert_eq!(guest.lcores(0).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(guest.targets().collect::<Vec<_>>(), spec().targets);
    // The words behind the facts are those of the moved entry.
    memory.poke(next_words(&memory, 1, size_of::<EndpointEntry>() + 8), &77u32.to_le_bytes());
    assert_eq!(guest.endpoint(1).host_epoch(), 77);
}

/// Where the first word of the host stands in an entry of the endpoint table.
fn next_words(memory: &Memory, position: usize, entry_bytes: usize) -> usize {
    let table = memory.peek::<4>(offset_of!(ControlHeader, endpoint_table_offset));
    u32::from_le_bytes(table) as usize + position * entry_bytes + offset_of!(EndpointEntry, words)
}

fn observer(references: u32) -> AreaSpec {
    let mut spec = AreaSpec { access: 1, ..spec() };
    spec.endpoints[0].references = references;
    spec
}

#[test]
fn an_observer_finds_the_words_of_its_references_on_pages_of_the_host() {
    let layout = AreaLayout::plan(&observer(33)).unwrap();
    let memory = Memory::new(layout.bytes());
    let host = host(&memory, &layout).endpoint(0);
    let guest = open(&memory).unwrap();
    let counts = |position| {
        guest.endpoint(position).queue_pairs().iter().map(|pair| pair.references.count()).collect()
    };
    let (observer, other): (Vec<_>, Vec<_>) = (counts(0), counts(1));
    assert_eq!((observer, other), (vec![33, 33], vec![0]));
    // Those of another lcore stand elsewhere.
    host.pair(3).unwrap().references.show(32, 7);
    let (own, others) = (guest.rings(0, 3).unwrap().references, guest.rings(0, 0).unwrap().references);
    assert!(own.holds(32, 7) && own.holds(31, 0) && others.holds(32, 0));
    let split = layout.header().guest_section_offset;
    for ring in layout.rings().iter().filter(|ring| ring.reference_count > 0) {
        assert!(ring.references_offset + 4 * 33 <= split);
    }
}

#[test]
fn plans_as_many_references_as_a_ring_back_can_hold_and_refuses_one_more() {
    let layout = AreaLayout::plan(&observer(32_768)).unwrap();
    assert!(
        layout
            .rings()
            .iter()
            .filter(|ring| ring.endpoint == 0 && ring.direction == 2)
            .all(|ring| ring.slots == 32_768)
    );
    let refused = AreaLayout::plan(&observer(32_769)).unwrap_err();
    assert_eq!(refused.to_string(), "32769 references of a ring, must be at most 32768");
}

#[test]
fn refuses_words_of_references_outside_the_hosts_section() {
    let layout = AreaLayout::plan(&observer(33)).unwrap();
    let memory = Memory::new(layout.bytes());
    host(&memory, &layout);
    let ring =
        |position: usize| layout.header().ring_table_offset as usize + position * size_of::<RingEntry>();
    let split = layout.header().guest_section_offset;
    let count_at = |position| ring(position) + offset_of!(RingEntry, reference_count);
    let offset_at = ring(0) + offset_of!(RingEntry, references_offset);
    let mut cases: Vec<(usize, Vec<u8>)> = Vec::new();
    for offset in [0, 64, split - 64, split, u64::MAX - 127, layout.rings()[0].references_offset + 32] {
        cases.push((offset_at, offset.to_le_bytes().to_vec()));
    }
    cases.push((offset_at, layout.rings()[2].references_offset.to_le_bytes().to_vec()));
    for count in [32_769_u32, u32::MAX] {
        cases.push((count_at(0), count.to_le_bytes().to_vec()));
    }
    // A ring back brings nothing.
    cases.push((count_at(1), 1_u32.to_le_bytes().to_vec()));
    for (at, bytes) in cases {
        let before: [u8; 8] = memory.peek(at);
        memory.poke(at, &bytes);
        assert!(open(&memory).is_err(), "accepted {bytes:x?} at {at}");
        memory.poke(at, &before);
    }
    assert!(open(&memory).is_ok());
}

#[test]
fn refuses_an_endpoint_without_lcores_or_with_one_twice() {
    for lcores in [vec![], vec![1, 2, 1]] {
        let mut spec = spec();
        spec.endpoints[1].lcores = lcores;
        assert_eq!(AreaLayout::plan(&spec), Err(AreaError::Lcores { endpoint: 1 }));
    }
}

#[test]
fn refuses_a_mapping_one_byte_short_on_either_side() {
    let (layout, memory) = created();
    // SAFETY: fewer bytes than there are, on both sides.
    let host = unsafe { HostArea::create(memory.base(), memory.bytes() - 1, &layout) };
    assert_eq!(host.unwrap_err(), AreaError::Mapping { mapped_bytes: 65_535, needed_bytes: 65_536 });
    let in_use = usize::try_from(layout.header().control_bytes).unwrap();
    // SAFETY: no more bytes than there are.
    assert!(unsafe { GuestArea::open(memory.base(), in_use) }.is_ok());
    // SAFETY: as above.
    let guest = unsafe { GuestArea::open(memory.base(), in_use - 1) };
    assert!(matches!(guest.unwrap_err(), AreaError::Mapping { .. }));
    for bytes in [0, 7, 8, 127, 128, 200] {
        // SAFETY: as above.
        assert!(unsafe { GuestArea::open(memory.base(), bytes) }.is_err(), "{bytes}");
    }
}

#[test]
fn names_both_versions_when_it_refuses_one() {
    let (_, memory) = created();
    memory.poke(offset_of!(ControlHeader, version_major), &2u16.to_le_bytes());
    let err = open(&memory).unwrap_err();
    assert_eq!(err.to_string(), "the host speaks layout version 2, this guest library speaks version 1");
}

#[test]
fn accepts_a_newer_minor_version() {
    let (_, memory) = created();
    memory.poke(offset_of!(ControlHeader, version_minor), &9u16.to_le_bytes());
    assert!(open(&memory).is_ok());
}

/// Every field of header and tables that a guest relies on, set to values that must be refused.
#[test]
fn refuses_each_field_that_breaks_the_layout() {
    let (layout, memory) = created();
    let header = layout.header();
    let endpoint1 = header.endpoint_table_offset as usize + size_of::<EndpointEntry>();
    let ring0 = header.ring_table_offset as usize;
    let ring1 = ring0 + size_of::<RingEntry>();
    let target0 = header.target_table_offset as usize;
    let guest_section = header.guest_section_offset;
    let (h2g, g2h) = (layout.rings()[0], layout.rings()[1]);
    macro_rules! at {
        ($base:expr, $type:ty, $field:ident) => {
            ($base + offset_of!($type, $field), concat!(stringify!($type), "::", stringify!($field)))
        };
    }
    let wrap = u64::MAX - 127;
    let mut cases: Vec<((usize, &str), Vec<u8>)> = Vec::new();
    macro_rules! refused {
        ($place:expr, $type:ty: $($value:expr),+) => {
            $(cases.push(($place, <$type>::to_le_bytes($value).to_vec()));)+
        };
    }
    refused!(at!(0, ControlHeader, magic), u64: 0, REGION_MAGIC);
    refused!(at!(0, ControlHeader, version_major), u16: 0, 2, u16::MAX);
    refused!(at!(0, ControlHeader, header_bytes), u32: 0, 120, 127, 129, 136);
    refused!(at!(0, ControlHeader, control_bytes), u64: 0, guest_section - 1, guest_section, 65_537, u64::MAX);
    refused!(at!(0, ControlHeader, guest_section_offset), u64: 0, 64, guest_section + 1, guest_section + 4096,
        1 << 40, u64::MAX - 4095);
    refused!(at!(0, ControlHeader, region_bytes), u64: 0, 1 << 20, (2 << 20) + 1, 3 << 20, u64::MAX);
    refused!(at!(0, ControlHeader, buffers_offset), u64: 0, 4095, 4097, 1 << 21, u64::MAX - 63);
    refused!(at!(0, ControlHeader, buffer_stride_bytes), u32: 0, 2304, 2367, u32::MAX);
    refused!(at!(0, ControlHeader, buffer_count), u32: header.buffer_count + 1, u32::MAX);
    refused!(at!(0, ControlHeader, headroom_bytes), u16: 321, u16::MAX);
    refused!(at!(0, ControlHeader, access), u16: 2);
    for place in [
        at!(0, ControlHeader, endpoint_table_offset),
        at!(0, ControlHeader, ring_table_offset),
        at!(0, ControlHeader, target_table_offset),
    ] {
        refused!(place, u32: 0, 120, u32::try_from(guest_section).unwrap(), 65_536, u32::MAX - 7, u32::MAX);
    }
    refused!(at!(0, ControlHeader, endpoint_count), u16: 1, 3, u16::MAX);
    refused!(at!(0, ControlHeader, ring_count), u16: 0, 5, 7, u16::MAX);
    refused!(at!(0, ControlHeader, target_count), u16: 3, u16::MAX);
    refused!(at!(0, ControlHeader, endpoint_entry_bytes), u16: 0, 120, 127, 129);
    refused!(at!(0, ControlHeader, ring_entry_bytes), u16: 0, 56, 65);
    refused!(at!(0, ControlHeader, target_entry_bytes), u16: 0, 24, 31);
    refused!(at!(0, ControlHeader, guest_words_bytes), u32: 0, 504, 513, 1 << 20);
    refused!(at!(endpoint1, EndpointFacts, first_ring), u16: 0, 3, 5, u16::MAX);
    refused!(at!(endpoint1, EndpointFacts, ring_count), u16: 0, 1, 3, u16::MAX);
    refused!(at!(endpoint1, EndpointFacts, guest_words_offset), u64:
        0, guest_section - 64, guest_section, guest_section + 1, header.control_bytes - 448, u64::MAX - 63);
    refused!(at!(endpoint1, EndpointFacts, service_name), u64: 0, u64::from_le_bytes(*b"a\0b\0\0\0\0\0"), u64::MAX);
    refused!(at!(ring0, RingEntry, direction), u8: 0, 2, 3, u8::MAX);
    refused!(at!(ring0, RingEntry, class), u8: 1);
    refused!(at!(ring0, RingEntry, endpoint), u16: 1, 2, u16::MAX);
    refused!(at!(ring0, RingEntry, lcore), u16: 1, 3);
    refused!(at!(ring0, RingEntry, slots), u32: 0, 4, 63, 65, 65_536, 1 << 31, u32::MAX);
    // Host to guest: produced and descriptors belong to the host's section, consumed to the guest's.
    refused!(at!(ring0, RingEntry, produced_offset), u64:
        0, h2g.produced_offset + 64, h2g.consumed_offset, h2g.descriptors_offset, guest_section, wrap);
    refused!(at!(ring0, RingEntry, consumed_offset), u64:
        0, h2g.consumed_offset + 8, h2g.produced_offset, header.control_bytes, wrap);
    refused!(at!(ring0, RingEntry, descriptors_offset), u64:
        0, h2g.descriptors_offset + 16, guest_section - 64, guest_section, g2h.descriptors_offset, wrap);
    // Guest to host: the other way round.
    refused!(at!(ring1, RingEntry, produced_offset), u64: g2h.consumed_offset, guest_section - 128, wrap);
    refused!(at!(ring1, RingEntry, consumed_offset), u64: g2h.produced_offset, h2g.produced_offset, wrap);
    refused!(at!(ring1, RingEntry, descriptors_offset), u64:
        h2g.descriptors_offset, g2h.descriptors_offset + 8, header.control_bytes - 64, wrap);
    refused!(at!(target0, TargetEntry, kind), u8: 0, 3);
    refused!(at!(target0, TargetEntry, name), u64: 0, u64::MAX);

    for ((offset, field), bytes) in cases {
        let before: [u8; 8] = memory.peek(offset);
        memory.poke(offset, &bytes);
        assert!(open(&memory).is_err(), "accepted {field} = {bytes:x?}");
        memory.poke(offset, &before);
    }
    assert!(open(&memory).is_ok());
}

#[test]
fn errors_name_what_was_found_and_what_was_allowed() {
    let (layout, memory) = created();
    memory.poke(layout.header().ring_table_offset as usize + offset_of!(RingEntry, slots), &[3, 0, 0, 0]);
    let err = open(&memory).unwrap_err();
    assert_eq!(err.to_string(), "ring of 3 slots, must be a power of two from 8 to 32768");
}

#[test]
fn the_host_follows_its_plan_whatever_a_guest_writes_into_the_tables() {
    let (layout, memory) = created();
    // SAFETY: as in `host`.
    let host = unsafe { HostArea::adopt(memory.base(), memory.bytes(), &layout) }.unwrap();
    let section = usize::try_from(layout.header().guest_section_offset).unwrap();
    memory.poke(0, &vec![0xff; section]);
    let rings = Producer::new(host.host_to_guest(0, 3).unwrap(), None);
    assert!(rings.stage(RawDesc { word0: 1, word1: 2 }));
    rings.publish();
    let at = usize::try_from(layout.rings()[2].produced_offset).unwrap();
    assert_eq!(memory.peek::<4>(at), [1, 0, 0, 0]);
    // SAFETY: as in `host`.
    assert!(unsafe { HostArea::adopt(memory.base(), memory.bytes(), &layout) }.is_ok());
}

#[test]
fn words_of_different_writers_never_share_a_page() {
    let (layout, memory) = created();
    let host = host(&memory, &layout);
    let guest = open(&memory).unwrap();
    let section = usize::try_from(layout.header().guest_section_offset).unwrap();
    let snapshot = |from: usize, to: usize| (from..to).map(|at| memory.peek::<1>(at)[0]).collect::<Vec<_>>();

    let guest_part = snapshot(section, memory.bytes());
    host.endpoint(0).reset_rings();
    host.endpoint(0).publish(1, 1);
    host.endpoint(1).refuse(1, Refusal::TooOften);
    let towards = Producer::new(host.host_to_guest(1, 3).unwrap(), None);
    assert!(towards.stage(RawDesc { word0: u64::MAX, word1: u64::MAX }));
    towards.publish();
    assert_eq!(snapshot(section, memory.bytes()), guest_part);

    let host_part = snapshot(0, section);
    let endpoint = guest.endpoint(1);
    endpoint.ask(endpoint.ask_with(5));
    endpoint.confirm(1);
    endpoint.leave(1);
    endpoint.reaped(1);
    endpoint.beat();
    endpoint.counter(GuestCounter::Dropped).add(2);
    endpoint.app_counter(7).unwrap().add(3);
    assert!(endpoint.app_counter(8).is_none());
    let back = Producer::new(guest.rings(1, 3).unwrap().guest_to_host, None);
    assert!(back.stage(RawDesc { word0: u64::MAX, word1: u64::MAX }));
    back.publish();
    assert_eq!(snapshot(0, section), host_part);
    assert_eq!(host.endpoint(1).counters()[2], 2);
    assert_eq!(host.endpoint(1).counters()[15], 3);
}

#[test]
fn a_handshake_and_a_packet_there_and_back() {
    let (layout, memory) = created();
    let host = host(&memory, &layout).endpoint(0);
    let guest = open(&memory).unwrap().endpoint(0);
    let mut watch = GuestWatch::default();
    assert_eq!(host.poll(&mut watch), []);

    let ask = guest.ask_with(77);
    guest.ask(ask);
    assert_eq!(host.poll(&mut watch), [GuestEvent::NonceSeen(ask)]);
    assert_eq!(ask.version_major(), 1);
    assert_eq!(guest.answered(77), None);
    host.reset_rings();
    host.publish(77, 5);
    assert_eq!(guest.answered(77), Some(Answer::Epoch(5)));
    assert_eq!(guest.answered(78), None);
    assert_eq!(guest.phase(), Some(HostPhase::Published));

    guest.confirm(5);
    assert_eq!(host.poll(&mut watch), [GuestEvent::Confirmed(5)]);
    host.set_phase(HostPhase::Attached);
    assert_eq!(guest.phase(), Some(HostPhase::Attached));

    let (host_pair, guest_pair) = (host.queue_pairs()[1], guest.queue_pairs()[1]);
    let lent = Desc {
        buffer_index: 12,
        data_offset_bytes: 128,
        data_len_bytes: 60,
        generation: 3,
        code: Kind::Packet as u8,
        flags: 0,
        aux: 0,
    };
    let lend = Producer::new(host_pair.host_to_guest, None);
    assert!(lend.stage(lent.pack()));
    lend.publish();
    let mut burst = [RawDesc::default(); 4];
    assert_eq!(Consumer::new(guest_pair.host_to_guest).take(&mut burst), Ok(1));
    assert_eq!(burst[0].unpack(), lent);
    let give_back = Producer::new(guest_pair.guest_to_host, None);
    assert!(give_back.stage(Desc { code: Verdict::Next as u8, ..lent }.pack()));
    give_back.publish();
    assert_eq!(Consumer::new(host_pair.guest_to_host).take(&mut burst), Ok(1));
    assert_eq!(burst[0].unpack().code, Verdict::Next as u8);

    guest.beat();
    guest.leave(5);
    assert_eq!(host.poll(&mut watch), [GuestEvent::Left(5), GuestEvent::Beat(1)]);
    guest.reaped(5);
    assert_eq!(host.poll(&mut watch), [GuestEvent::Reaped(5)]);
    assert_eq!(guest.confirmed_epoch(), 5);
}

/// One turn of the host's control thread: events in, what the guest sees out.
fn turn(host: &HostEndpoint<'_>, watch: &mut GuestWatch, machine: &mut AttachMachine) -> Vec<AttachAction> {
    let mut done = Vec::new();
    for event in host.poll(watch) {
        if let Ok(actions) = machine.apply(event.into(), 0) {
            actions.iter().for_each(|action| host.show(action));
            done.extend(actions);
        }
    }
    done
}

#[test]
fn an_nf_attaches_is_replaced_and_its_successor_starts_with_empty_rings() {
    let (layout, memory) = created();
    let host = host(&memory, &layout).endpoint(0);
    let guest = open(&memory).unwrap().endpoint(0);
    let (mut watch, mut machine) = (GuestWatch::default(), AttachMachine::new(0, AttachLimits::default(), 0));
    let nonce = |number| NonZeroU64::new(number).unwrap();
    let raw = RawDesc { word0: 1, word1: 2 };

    let HandshakeStep::Waiting(first) = Handshake::begin(&guest, nonce(70)).step(&guest) else {
        panic!("nobody has answered yet");
    };
    turn(&host, &mut watch, &mut machine);
    assert!(matches!(first.step(&guest), HandshakeStep::Confirmed { epoch: 1 }));
    assert_eq!(turn(&host, &mut watch, &mut machine), [AttachAction::Feed { epoch: 1 }]);
    assert_eq!(guest.phase(), Some(HostPhase::Attached));
    let lend = Producer::new(host.queue_pairs()[0].host_to_guest, None);
    assert!(lend.stage(raw) && lend.stage(raw));
    lend.publish();

    let second = Handshake::begin(&guest, nonce(71));
    let released = turn(&host, &mut watch, &mut machine);
    assert!(released.contains(&AttachAction::ReleaseRings));
    assert_eq!(guest.host_epoch(), 0, "the first NF sees that its epoch is over");
    let HandshakeStep::Waiting(second) = second.step(&guest) else {
        panic!("the lcores have not let go yet");
    };
    for action in machine.apply(AttachEvent::RingsReleased, 0).unwrap() {
        host.show(&action);
    }
    assert!(matches!(second.step(&guest), HandshakeStep::Confirmed { epoch: 2 }));
    assert_eq!(turn(&host, &mut watch, &mut machine), [AttachAction::Feed { epoch: 2 }]);
    let pair = guest.queue_pairs()[0];
    assert_eq!(Consumer::new(pair.host_to_guest).pending(), Ok(0));
    assert_eq!(Producer::new(host.queue_pairs()[0].host_to_guest, None).room(65), Ok(64));
}

#[test]
fn a_switch_that_takes_over_goes_on_serving_and_answers_what_its_predecessor_did_not() {
    let (layout, memory) = created();
    let host = host(&memory, &layout).endpoint(0);
    let guest = open(&memory).unwrap().endpoint(0);
    let (mut watch, mut machine) = (GuestWatch::default(), AttachMachine::new(0, AttachLimits::default(), 0));
    guest.ask(guest.ask_with(70));
    turn(&host, &mut watch, &mut machine);
    guest.confirm(1);
    turn(&host, &mut watch, &mut machine);
    let record = machine.record();

    // SAFETY: as in `host`.
    let adopted = unsafe { HostArea::adopt(memory.base(), memory.bytes(), &layout) }.unwrap().endpoint(0);
    let mut watch = GuestWatch::resume(&record);
    let mut machine = AttachMachine::resume(0, AttachLimits::default(), record, 0);
    assert_eq!(turn(&adopted, &mut watch, &mut machine), []);
    assert_eq!(machine.state(), AttachState::Attached);
    assert_eq!((guest.host_epoch(), guest.phase()), (1, Some(HostPhase::Attached)));

    let record = machine.record();
    guest.ask(guest.ask_with(71));
    let mut watch = GuestWatch::resume(&record);
    let mut machine = AttachMachine::resume(0, AttachLimits::default(), record, 0);
    assert!(turn(&adopted, &mut watch, &mut machine).contains(&AttachAction::ReleaseRings));
}

#[test]
fn a_refused_ask_leaves_the_epoch_in_force_visible() {
    let (layout, memory) = created();
    let host = host(&memory, &layout).endpoint(0);
    let guest = open(&memory).unwrap().endpoint(0);
    host.publish(1, 6);
    host.show(&AttachAction::Refuse { nonce: 2, refusal: Refusal::Version, phase: HostPhase::Attached });
    assert_eq!(guest.answered(2), Some(Answer::Refused(Some(Refusal::Version))));
    assert_eq!((guest.host_epoch(), guest.phase()), (6, Some(HostPhase::Attached)));
    host.publish(3, 7);
    assert_eq!(guest.answered(3), Some(Answer::Epoch(7)));
    host.withdraw(HostPhase::Detached);
    assert_eq!(guest.answered(3), Some(Answer::Refused(None)));
}

#[test]
fn a_refusal_reaches_the_guest_with_its_reason() {
    let (layout, memory) = created();
    let host = host(&memory, &layout).endpoint(1);
    let guest = open(&memory).unwrap().endpoint(1);
    guest.ask(guest.ask_with(3));
    host.refuse(3, Refusal::TooOften);
    assert_eq!(guest.answered(3), Some(Answer::Refused(Some(Refusal::TooOften))));
    assert_eq!(guest.phase(), Some(HostPhase::Refused));
}

#[test]
fn the_guests_words_lie_where_the_table_says() {
    let (layout, memory) = created();
    let guest = open(&memory).unwrap().endpoint(1);
    guest.ask(guest.ask_with(0x0102_0304_0506_0708));
    let at = usize::try_from(layout.endpoints()[1].guest_words_offset).unwrap();
    assert_eq!(memory.peek::<8>(at + offset_of!(GuestWords, attach_nonce)), [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(memory.peek::<4>(at + offset_of!(GuestWords, version)), [0, 0, 1, 0]);
}

#[test]
fn a_region_shows_its_cookie_to_the_right_control_area_only() {
    let region = spec().region;
    let memory = Memory::new(region.region_bytes);
    // SAFETY: two MiB of aligned memory, written through atomics only.
    unsafe { write_region_header(memory.base(), &region) };
    // SAFETY: as above.
    assert_eq!(unsafe { magic_at(memory.base()) }, REGION_MAGIC);
    // SAFETY: as above.
    let read = |expected| unsafe { read_region_header(memory.base(), memory.bytes(), expected) };
    assert_eq!(read(&region).unwrap().region_bytes, region.region_bytes);
    let other = RegionGeometry { cookie: 1, ..region };
    assert_eq!(
        read(&other).unwrap_err().to_string(),
        "region shows cookie 0x0000000000c0ffee, the control area names 0x0000000000000001"
    );
    let longer = RegionGeometry { region_bytes: 4 << 20, ..region };
    assert!(matches!(read(&longer), Err(AreaError::Mapping { .. })));
    assert!(matches!(open(&memory), Err(AreaError::Magic { found: REGION_MAGIC, .. })));
}
