//! The virtual devices that the switch is tested with.

use std::fs;
use std::path::Path;

use dpdk::{MbufBurst, Port, PrivatePool};

use crate::fixture::{Bench, eal, started};

#[test]
fn frames_go_from_one_capture_file_to_another() {
    let folder = std::env::temp_dir().join(format!("netvm-dpdk-pcap-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (from, to) = (folder.join("in.pcap"), folder.join("out.pcap"));
    let frames: Vec<Vec<u8>> = (0..10_u8).map(|n| vec![n; 60 + usize::from(n) * 100]).collect();
    fs::write(&from, capture(&frames)).unwrap();

    let bench = Bench::new("pcap", 128);
    let device = format!("net_pcap_copy,rx_pcap={},tx_pcap={}", from.display(), to.display());
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
    assert_eq!(frames_of(&to), frames);
    bench.assert_all_home();
    fs::remove_dir_all(&folder).unwrap();
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

#[test]
fn devices_that_need_no_privilege_probe() {
    let folder = std::env::temp_dir().join(format!("netvm-dpdk-devices-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let at = folder.display();
    let devices = [
        ("net_null_probe".to_owned(), "net_null"),
        ("net_ring_probe".to_owned(), "net_ring"),
        (format!("net_pcap_probe,tx_pcap={at}/probe.pcap"), "net_pcap"),
        (format!("net_memif_probe,role=server,socket-abstract=no,socket={at}/memif.sock"), "net_memif"),
        (format!("net_vhost_probe,iface={at}/vhost.sock"), "net_vhost"),
    ];
    for (device, driver) in devices {
        let port = Port::probe(&eal(), &device).unwrap_or_else(|err| panic!("{err}"));
        assert!(port.info().driver.starts_with(driver), "{device}: {}", port.info().driver);
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn devices_of_the_kernel_probe_for_root() {
    // SAFETY: no precondition.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: packet sockets and taps need root");
        return;
    }
    for (device, driver) in
        [("net_af_packet_probe,iface=lo", "net_af_packet"), ("net_tap_probe,iface=nvdpdkprobe", "net_tap")]
    {
        let port = Port::probe(&eal(), device).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!(port.info().driver, driver);
        assert!(port.info().may_use_region());
        port.mac().unwrap();
        port.link().unwrap();
    }
}

#[test]
fn frames_pass_between_virtio_user_and_vhost() {
    let folder = std::env::temp_dir().join(format!("netvm-dpdk-vhost-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("vhost.sock");
    let bench = Bench::new("vhost_pair", 1024);
    let private = PrivatePool::create(&eal(), "vhost_pair_private", 1024, 2048).unwrap();
    let (vhost, mut vhost_queues) =
        started(&format!("net_vhost_pair,iface={}", socket.display()), &bench.pool);
    let device = format!("net_virtio_user_pair,path={},mac=02:00:00:00:00:01", socket.display());
    let (virtio, mut virtio_queues) = started(&device, &private);
    let mut burst = MbufBurst::<32>::new();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let mut passed = 0;
    while passed < 100 {
        assert!(std::time::Instant::now() < deadline, "{passed} frames passed");
        if private.take_into(&mut burst, 1) {
            let mut frame = burst.take_first().unwrap();
            frame.copy_in(&[5; 200]).unwrap();
            burst.push(frame).unwrap();
            virtio_queues.tx[0].burst(&mut burst);
            burst.clear();
        }
        vhost_queues.rx[0].burst(&mut burst);
        while let Some(frame) = burst.take_first() {
            let mut got = [0; 256];
            assert_eq!(frame.copy_out(0, &mut got), 200);
            assert_eq!(got[..200], [5; 200]);
            passed += 1;
        }
    }
    drop((virtio_queues, vhost_queues));
    drop(virtio);
    drop(vhost);
    bench.assert_all_home();
    assert_eq!(private.available(), 1024);
    fs::remove_dir_all(&folder).unwrap();
}
