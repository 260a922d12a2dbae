//! What goes wrong, by name.

use std::ptr::with_exposed_provenance_mut;
use std::sync::Arc;

use dpdk::{
    DpdkError, Eal, EalOptions, ExternalMemory, GeometryFault, MbufBurst, Pool, PoolGeometry, Port, RxFaults,
};
use dpdk_sys::rte_mbuf;

use crate::fixture::{Bench, STRIDE, eal, geometry, map, settings, started};

#[test]
fn wrong_device_arguments_name_the_device_and_the_reason() {
    for device in
        ["net_af_packet_wrong,iface=nosuchiface0", "net_nosuchdriver0", "net_pcap_wrong,rx_pcap=/nonexistent"]
    {
        let Err(DpdkError::Call { call, asked, errno, .. }) = Port::probe(&eal(), device) else {
            panic!("{device} was accepted")
        };
        assert_eq!(call, "rte_dev_probe");
        assert!(asked.contains(device), "{asked}");
        assert!(errno.0 > 0, "{device}: {errno}");
    }
}

#[test]
fn a_pci_device_that_the_eal_was_not_told_of_is_refused_by_name() {
    let refused = Port::probe(&eal(), "01:00.0,arg=1").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "PCI device 0000:01:00.0 was not among the PCI devices given to the EAL at start"
    );
}

#[test]
fn the_eal_starts_once() {
    eal();
    assert!(matches!(Eal::init(&EalOptions::default()), Err(DpdkError::EalTwice)));
}

#[test]
fn the_linked_release_is_22_11_or_newer() {
    let version = dpdk::version();
    let release = version.strip_prefix("DPDK ").unwrap().split('-').next().unwrap().to_owned();
    let numbers: Vec<u32> = release.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(numbers[..2] >= [22, 11][..], "{version}");
}

#[test]
fn text_with_a_zero_byte_is_refused() {
    let refused = Port::probe(&eal(), "net_null\0x").unwrap_err();
    assert!(matches!(refused, DpdkError::ZeroByte { what: "device", .. }));
}

#[test]
fn one_port_has_one_owner_and_its_name_is_free_after_it() {
    let port = Port::probe(&eal(), "net_null_once").unwrap();
    assert!(matches!(Port::probe(&eal(), "net_null_once"), Err(DpdkError::PortTwice { .. })));
    drop(port);
    Port::probe(&eal(), "net_null_once").unwrap();
}

#[test]
fn settings_beyond_the_driver_are_refused_with_its_bounds() {
    let bench = Bench::new("settings", 64);
    let mut port = Port::probe(&eal(), "net_null_settings").unwrap();
    let good = settings(&bench.pool);
    assert!(matches!(port.start(), Err(DpdkError::PortState { .. })));

    let none = dpdk::PortSettings { rx_pools: vec![], ..good.clone() };
    assert!(matches!(port.configure(&none), Err(DpdkError::QueueCount { asked: 0, .. })));
    let many = dpdk::PortSettings { tx_queues: port.info().tx_queues_max + 1, ..good.clone() };
    assert!(matches!(port.configure(&many), Err(DpdkError::QueueCount { .. })));
    let no_slots = dpdk::PortSettings { rx_slots: 0, ..good.clone() };
    assert!(matches!(port.configure(&no_slots), Err(DpdkError::Slots { nearest: 1, .. })));
    let tiny = dpdk::PortSettings { mtu_bytes: 1, ..good.clone() };
    assert!(matches!(port.configure(&tiny), Err(DpdkError::Mtu { asked: 1, .. })));

    // A buffer has room for 2240 bytes; 22 of them are Ethernet header, VLAN tag and checksum.
    let longest = u16::try_from(STRIDE).unwrap() - 128 - 22;
    let fits = dpdk::PortSettings { mtu_bytes: longest, ..good.clone() };
    port.configure(&fits).unwrap();
    let longer = dpdk::PortSettings { mtu_bytes: longest + 1, ..good };
    let refused = port.configure(&longer).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "port net_null_settings: a frame of mtu_bytes 2219 takes up to 2241 bytes, but a buffer of its pool \
         has room for 2240; lower the MTU or enlarge buffer_stride_bytes"
    );
}

#[test]
fn a_port_does_not_stop_under_a_polling_thread() {
    let bench = Bench::new("stop", 256);
    let (mut port, queues) = started("net_null_stop", &bench.pool);
    assert!(matches!(port.stop(), Err(DpdkError::QueuesInUse { queues: 2, .. })));
    drop(queues.rx);
    assert!(matches!(port.stop(), Err(DpdkError::QueuesInUse { queues: 1, .. })));
    drop(queues.tx);
    port.stop().unwrap();
    assert!(matches!(port.stop(), Err(DpdkError::PortState { .. })));
    port.configure(&settings(&bench.pool)).unwrap();
    drop(port.start().unwrap());
}

#[test]
fn a_region_that_dpdk_cannot_use_is_refused() {
    let base = map(1 << 21);
    let make = |name: &str, geometry: PoolGeometry| {
        let list = Bench::new(&format!("{name}_x"), 1).list;
        // SAFETY: mapped and never unmapped; all refused before anything uses it.
        unsafe { Pool::over_region(&eal(), name, base, geometry, Box::new(crate::fixture::Handle::of(list))) }
    };
    let good = geometry(8);
    let bad = [
        ("headroom", PoolGeometry { headroom_bytes: 64, ..good }),
        ("short", PoolGeometry { stride_bytes: 2112, ..good }),
        ("odd", PoolGeometry { stride_bytes: 2369, ..good }),
        ("long", PoolGeometry { stride_bytes: 65_536, ..good }),
        ("empty", PoolGeometry { count: 0, ..good }),
        ("wrap", PoolGeometry { first_index: u32::MAX - 3, ..good }),
        ("shifted", PoolGeometry { offset_first_bytes: 4097, ..good }),
    ];
    for (name, geometry) in bad {
        let Err(DpdkError::Geometry { pool, fault }) = make(name, geometry) else {
            panic!("{name} was accepted")
        };
        assert_eq!(pool, name);
        match name {
            "headroom" => assert_eq!(fault, GeometryFault::Headroom { found: 64, needed: 128 }),
            "short" => assert_eq!(fault, GeometryFault::Stride { found: 2112, min: 2176, max: 65_472 }),
            _ => {}
        }
    }
    let least = make("least", PoolGeometry { stride_bytes: 2176, count: 1, ..good });
    assert!(least.is_ok());
}

#[test]
fn an_exhausted_pool_receives_nothing_and_loses_nothing() {
    let bench = Bench::new("exhausted", 40);
    let (port, mut queues) = started("net_null_exhausted", &bench.pool);
    let mut first = MbufBurst::<32>::new();
    assert_eq!(queues.rx[0].burst(&mut first), 32);
    let mut second = MbufBurst::<32>::new();
    assert_eq!(queues.rx[0].burst(&mut second), 0, "8 are left, and the driver asks for 32");
    assert_eq!(bench.list.len(), 8);
    drop(first);
    assert_eq!(queues.rx[0].burst(&mut second), 32);
    drop((queues, second));
    drop(port);
    bench.assert_all_home();
}

#[test]
fn a_take_beyond_one_chunk_is_all_or_nothing() {
    let bench = Bench::new("all_or_nothing", 100);
    let mut burst = MbufBurst::<128>::new();
    assert!(!bench.pool.take_into(&mut burst, 101));
    assert!(burst.is_empty());
    bench.assert_all_home();
    assert!(bench.pool.take_into(&mut burst, 100));
    drop(burst);
    bench.assert_all_home();
}

#[test]
fn a_frame_of_another_pool_is_kept_from_the_caller_and_goes_home() {
    let here = Bench::new("here", 64);
    let elsewhere = Bench::new("elsewhere", 64);
    let (port, mut queues) = started("net_ring_mixed", &here.pool);
    let mut burst = MbufBurst::<8>::new();
    assert!(here.pool.take_into(&mut burst, 2));
    assert!(elsewhere.pool.take_into(&mut burst, 3));
    assert!(here.pool.take_into(&mut burst, 1));
    assert_eq!(queues.tx[0].burst(&mut burst), 6);
    assert_eq!(queues.rx[0].burst(&mut burst), 3);
    assert_eq!(queues.rx[0].faults(), RxFaults { foreign_pool: 3, moved_buffer: 0 });
    while let Some(frame) = burst.take_first() {
        assert!(here.pool.index_of(&frame).is_some());
    }
    elsewhere.assert_all_home();
    here.assert_all_home();
    drop(queues);
    drop(port);
}

#[test]
fn receiving_sets_the_external_flag_again_and_keeps_back_a_moved_buffer() {
    let bench = Bench::new("moved", 64);
    let (port, mut queues) = started("net_ring_moved", &bench.pool);
    let mut burst = MbufBurst::<8>::new();
    assert!(bench.pool.take_into(&mut burst, 2));
    let (plain, moved) = (burst.take_first().unwrap(), burst.take_first().unwrap());
    let header = |frame: &dpdk::Mbuf| with_exposed_provenance_mut::<rte_mbuf>(frame.header_address());
    // SAFETY: a header that we hold; what a driver that overwrites the flags does.
    unsafe { (*header(&plain)).ol_flags = 0 };
    // SAFETY: a header that we hold; what a broken driver would do.
    unsafe { (*header(&moved)).buf_addr = std::ptr::null_mut() };
    burst.push(plain).unwrap();
    burst.push(moved).unwrap();
    assert_eq!(queues.tx[0].burst(&mut burst), 2);
    assert_eq!(queues.rx[0].burst(&mut burst), 1);
    assert_eq!(queues.rx[0].faults(), RxFaults { foreign_pool: 0, moved_buffer: 1 });
    assert_eq!(burst.take_first().unwrap().ol_flags(), dpdk_sys::NETVM_MBUF_F_EXTERNAL);
    bench.assert_all_home();
    let mut all = MbufBurst::<64>::new();
    assert!(bench.pool.take_into(&mut all, 64));
    while let Some(frame) = all.take_first() {
        assert!(bench.contains(frame.data_address().addr().get()), "the header was put right");
    }
    drop(queues);
    drop(port);
}

#[test]
fn memory_is_registered_once_and_can_be_again_when_it_was_let_go() {
    let len = 1 << 21;
    let base = map(len);
    // SAFETY: mapped and never unmapped.
    let register = |page_bytes| unsafe { ExternalMemory::register(&eal(), base, len, page_bytes) };
    assert!(matches!(register(len * 2), Err(DpdkError::Call { call: "rte_extmem_register", .. })));
    assert!(register(0).is_err());
    let memory = Arc::new(register(4096).unwrap());
    assert!(matches!(register(4096), Err(DpdkError::Call { errno: dpdk::Errno(libc::EEXIST), .. })));

    let mut port = Port::probe(&eal(), "net_null_no_dma").unwrap();
    port.dma_map(&memory).unwrap();
    drop(memory);
    assert!(register(4096).is_err(), "the port keeps it registered");
    drop(port);
    register(4096).unwrap();
}

#[test]
fn a_thread_is_pinned_to_a_cpu_that_exists_and_registered_once() {
    let thread = std::thread::spawn(|| {
        let refused = dpdk::pin_current_thread(100_000).unwrap_err();
        assert!(refused.to_string().starts_with("thread cannot be pinned to CPU 100000: "), "{refused}");
        dpdk::pin_current_thread(0).unwrap();
        let registered = eal().register_thread().unwrap();
        assert!(registered.id() < dpdk_sys::RTE_MAX_LCORE);
        assert!(matches!(eal().register_thread(), Err(DpdkError::RegisteredTwice { .. })));
        drop(registered);
        drop(eal().register_thread().unwrap());
    });
    thread.join().unwrap();
}

#[test]
fn a_second_pool_of_a_name_is_refused_by_name_and_gives_its_free_list_up() {
    let bench = Bench::new("taken_name", 8);
    let other = Bench::new("other_name", 8);
    let handle = Box::new(crate::fixture::Handle::of(Arc::clone(&other.list)));
    let base = std::ptr::NonNull::new(with_exposed_provenance_mut::<u8>(bench.base)).unwrap();
    // SAFETY: mapped and never unmapped; refused before anything uses it.
    let refused = unsafe { Pool::over_region(&eal(), "taken_name", base, geometry(8), handle) };
    let Err(DpdkError::Call { call, asked, errno, .. }) = refused else { panic!("two pools of a name") };
    assert_eq!((call, errno), ("rte_mempool_create_empty", dpdk::Errno(libc::EEXIST)));
    assert_eq!(asked, "pool taken_name of 8 buffers");
    assert_eq!(Arc::strong_count(&other.list), 2, "its own pool's, and the test's");
    bench.assert_all_home();
}
