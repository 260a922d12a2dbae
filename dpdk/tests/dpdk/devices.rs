//! The virtual devices that the switch is tested with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dpdk::{Mbuf, MbufBurst, Port, PrivatePool, RxFaults, RxPool, RxQueue, TxQueue};

use crate::fixture::{Bench, eal, started};

#[test]
fn frames_go_from_one_capture_file_to_another() {
    let folder = Folder::new("pcap");
    let (from, to) = (folder.at("in"), folder.at("out"));
    let frames: Vec<Vec<u8>> = (0..10_u8).map(|n| vec![n; 60 + usize::from(n) * 100]).collect();
    fs::write(&from, capture(&frames)).unwrap();

    let bench = Bench::new("pcap", 128);
    let device = format!("net_pcap_copy,rx_pcap={from},tx_pcap={to}");
    let (port, mut queues) = started(&device, &bench.pool);
    let mut burst = MbufBurst::<32>::new();
    let mut copied = 0;
    while copied < frames.len() {
        let received = queues.rx[0].burst(&mut burst);
        assert!(received > 0, "the capture has {} frames", frames.len());
        copied += queues.tx[0].burst(&mut burst);
        assert!(burst.is_empty());
    }
    assert_eq!(port.stats().unwrap().rx_packets, 10);
    drop(queues);
    drop(port);
    assert_eq!(frames_of(Path::new(&to)), frames);
    bench.assert_all_home();
}

fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap();
        for word in [0, 0, len, len] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}

fn frames_of(capture: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(capture).unwrap();
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

/// A folder for sockets, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netvm-dpdk-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A frame of an experimental type (IEEE 802: 0x88b5), to itself.
fn marked(fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; 200];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// A marked frame of one segment, or of two: so much of it in front.
fn marked_in(pool: &RxPool, burst: &mut MbufBurst<32>, front_bytes: Option<usize>) -> Option<Mbuf> {
    let mut take = || {
        let taken = match pool {
            RxPool::Region(pool) => pool.take_into(burst, 1),
            RxPool::Private(pool) => pool.take_into(burst, 1),
        };
        taken.then(|| burst.take_first().unwrap())
    };
    let (mut frame, bytes) = (take()?, marked(5));
    let Some(front_bytes) = front_bytes else {
        frame.copy_in(&bytes).unwrap();
        return Some(frame);
    };
    let mut rest = take()?;
    frame.copy_in(&bytes[..front_bytes]).unwrap();
    rest.copy_in(&bytes[front_bytes..]).unwrap();
    frame.append(rest).unwrap();
    assert_eq!((frame.segments(), frame.pkt_len()), (2, 200));
    Some(frame)
}

/// Sends marked frames, every other one of two segments if the driver sends such, until 100 of them have arrived, in the region and unchanged.
fn assert_frames_pass(from: &Port, tx_pool: &RxPool, tx: &mut TxQueue, rx: &mut RxQueue, into: &Bench) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut burst = MbufBurst::<32>::new();
    let (expected, sends_segments) = (marked(5), from.info().sends_segments);
    let (mut passed, mut sent) = (0, 0);
    while passed < 100 {
        assert!(Instant::now() < deadline, "{passed} frames passed; {:?}", rx.faults());
        sent += 1;
        let front_bytes = (sends_segments && sent % 2 == 0).then_some(128);
        if let Some(frame) = marked_in(tx_pool, &mut burst, front_bytes) {
            burst.push(frame).unwrap();
            tx.burst(&mut burst);
            burst.clear();
        }
        rx.burst(&mut burst);
        while let Some(frame) = burst.take_first() {
            let mut got = [0; 256];
            let len = frame.copy_out(0, &mut got);
            if got[12..14] == expected[12..14] {
                assert_eq!(got[..len], expected[..]);
                assert!(into.contains(frame.data_address().addr().get()));
                passed += 1;
            }
        }
    }
    assert_eq!(rx.faults(), RxFaults::default());
}

#[test]
fn devices_that_need_no_privilege_probe() {
    let folder = Folder::new("devices");
    let devices = [
        ("net_null_probe".to_owned(), "net_null"),
        ("net_ring_probe".to_owned(), "net_ring"),
        (format!("net_pcap_probe,tx_pcap={}", folder.at("probe.pcap")), "net_pcap"),
        (
            format!("net_memif_probe,role=server,socket-abstract=no,socket={}", folder.at("memif")),
            "net_memif",
        ),
        (format!("net_vhost_probe,iface={}", folder.at("vhost")), "net_vhost"),
    ];
    for (device, driver) in devices {
        let port = Port::probe(&eal(), &device).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!(port.info().driver, driver);
        assert!(port.info().may_use_region());
    }
}

#[test]
fn frames_pass_between_virtio_user_and_a_region_behind_vhost() {
    let folder = Folder::new("vhost");
    let bench = Bench::new("vhost_pair", 1024);
    let private = PrivatePool::create(&eal(), "vhost_pair_private", 1024, 2048).unwrap();
    let (vhost, mut vhost_queues) =
        started(&format!("net_vhost_pair,iface={}", folder.at("pair")), &bench.pool);
    let device = format!("net_virtio_user_pair,path={},mac=02:00:00:00:00:01", folder.at("pair"));
    let (virtio, mut virtio_queues) = started(&device, &private);
    assert_eq!(virtio.info().driver, "net_virtio_user");
    assert!(!virtio.info().may_use_region());
    assert_frames_pass(
        &virtio,
        &RxPool::from(&private),
        &mut virtio_queues.tx[0],
        &mut vhost_queues.rx[0],
        &bench,
    );
    drop((virtio_queues, vhost_queues));
    drop(virtio);
    drop(vhost);
    bench.assert_all_home();
    assert_eq!(private.available(), 1024);
}

#[test]
fn frames_pass_between_two_memif_ports_over_regions() {
    let folder = Folder::new("memif");
    let (left, right) = (Bench::new("memif_left", 1024), Bench::new("memif_right", 1024));
    let device =
        |name, role| format!("net_memif_{name},role={role},socket-abstract=no,socket={}", folder.at("pair"));
    let (server, mut server_queues) = started(&device("left", "server"), &left.pool);
    let (client, mut client_queues) = started(&device("right", "client"), &right.pool);
    let (tx_pool, tx) = (RxPool::from(&left.pool), &mut server_queues.tx[0]);
    assert_frames_pass(&server, &tx_pool, tx, &mut client_queues.rx[0], &right);
    let (tx_pool, tx) = (RxPool::from(&right.pool), &mut client_queues.tx[0]);
    assert_frames_pass(&client, &tx_pool, tx, &mut server_queues.rx[0], &left);
    drop((server_queues, client_queues));
    drop(client);
    // Not closed: DPDK's own thread takes the server down when the client has gone, and net_memif frees the same
    // memory twice if another thread closes it meanwhile.
    std::mem::forget(server);
    left.assert_all_home();
    right.assert_all_home();
}

#[test]
fn frames_pass_between_a_tap_and_a_packet_socket_on_it_for_root() {
    // SAFETY: no precondition.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: packet sockets and taps need root");
        return;
    }
    // A thread of its own, since it leaves the machine's network for a new one.
    std::thread::spawn(|| {
        // SAFETY: no precondition; changes the calling thread only.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        let (tap, packet) = (Bench::new("tap", 1024), Bench::new("af_packet", 1024));
        let (tap_port, mut tap_queues) = started("net_tap_pair,iface=nvdpdk0", &tap.pool);
        let (packet_port, mut packet_queues) = started("net_af_packet_pair,iface=nvdpdk0", &packet.pool);
        for port in [&tap_port, &packet_port] {
            assert!(port.info().may_use_region(), "{}", port.info().driver);
            port.mac().unwrap();
            assert!(port.link().unwrap().up);
        }
        let (tx_pool, tx) = (RxPool::from(&tap.pool), &mut tap_queues.tx[0]);
        for port in [&tap_port, &packet_port] {
            assert!(port.info().sends_segments, "{}", port.info().driver);
        }
        assert_frames_pass(&tap_port, &tx_pool, tx, &mut packet_queues.rx[0], &packet);
        let (tx_pool, tx) = (RxPool::from(&packet.pool), &mut packet_queues.tx[0]);
        assert_frames_pass(&packet_port, &tx_pool, tx, &mut tap_queues.rx[0], &tap);
        assert!(tap_port.stats().unwrap().tx_packets >= 100);
        drop((tap_queues, packet_queues));
        drop(packet_port);
        drop(tap_port);
        tap.assert_all_home();
        packet.assert_all_home();
    })
    .join()
    .unwrap();
}
