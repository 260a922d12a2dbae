//! Frames of arbitrary bytes through a router, with time passing between them.
//!
//! No frame leaves its buffer, none is lost, and what is sent on is a sound packet.

use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::Duration;

use nfs::frame::Frame;
use nfs::router::{Exits, InterfaceIndex, Router, Settings, Waiting, file};
use packet::ethernet::Ethernet;
use packet::ipv4::Ipv4;

use crate::{Input, slow_parse};

const FILE: &str = r#"
forward = "next"

[[interface]]
port = "client"
address = "10.1.0.1/24"
mac = "02:00:00:00:01:01"

[[interface]]
port = "server"
address = "10.2.0.1/24"
mac = "02:00:00:00:02:01"
mtu_bytes = 1000

[[route]]
prefix = "10.9.0.0/16"
via = "10.2.0.9"

[[neighbour]]
address = "10.2.0.2"
mac = "02:00:00:00:02:02"
"#;

static SETTINGS: LazyLock<[Settings; 2]> = LazyLock::new(|| {
    let read = |text: &str| file::parse("routes.toml", text).unwrap_or_else(|error| panic!("{error}"));
    [read(FILE), read(&FILE.replace("\"next\"", "\"port\""))]
});

/// The switch's numbers of the two ports.
const PORTS: [u16; 2] = [7, 4];
const BUFFER_BYTES: usize = 2368;
const HEADROOM_BYTES: usize = 128;
const HELD_MAX: usize = 24;
const STEPS_MAX: usize = 64;

/// A frame in a buffer of fixed size, as the switch lends it; a write beside the frame is a panic.
struct Buffer {
    bytes: Box<[u8; BUFFER_BYTES]>,
    start: usize,
    end: usize,
    port: u16,
}

impl Buffer {
    fn new(port: u16, frame: &[u8]) -> Self {
        let (start, end) = (HEADROOM_BYTES, HEADROOM_BYTES + frame.len());
        let mut bytes = Box::new([0xee; BUFFER_BYTES]);
        bytes[start..end].copy_from_slice(frame);
        Self { bytes, start, end, port }
    }
}

impl Frame for Buffer {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    fn ingress_port(&self) -> u16 {
        self.port
    }

    fn grow_front(&mut self, bytes: u16) -> bool {
        let start = self.start.checked_sub(usize::from(bytes));
        self.start = start.unwrap_or(self.start);
        start.is_some()
    }

    fn set_len(&mut self, len_bytes: usize) -> bool {
        let end = self.start + len_bytes;
        let fits = end <= BUFFER_BYTES;
        if fits {
            self.end = end;
        }
        fits
    }
}

/// Counts what leaves.
#[derive(Default)]
struct Ways {
    left: usize,
    made: usize,
    credit: u8,
}

impl Ways {
    /// What every frame on the wire must be.
    fn check(&mut self, frame: &Buffer) {
        self.left += 1;
        let Ok(ethernet) = Ethernet::parse(frame.data()) else { panic!("no frame: {:x?}", frame.data()) };
        let ours = SETTINGS[0].interfaces.iter().any(|interface| interface.mac == ethernet.source());
        assert!(ours, "sent in our name: {:x?}", frame.data());
        assert!(!ethernet.source().is_multicast());
        match ethernet.ethertype() {
            0x0800 => check_packet(ethernet.payload()),
            ethertype => assert_eq!(ethertype, 0x0806, "sends IPv4 and ARP only"),
        }
    }
}

fn check_packet(payload: &[u8]) {
    let Ok(ip) = Ipv4::parse(payload) else { panic!("sends an unsound packet: {payload:x?}") };
    assert_eq!(slow_parse::checksum(&payload[..ip.header_bytes()]), 0, "{payload:x?}");
    assert!(ip.ttl() > 0);
    assert!(ip.destination() != Ipv4Addr::BROADCAST && !ip.destination().is_multicast());
    let is_ours = SETTINGS[0].interfaces.iter().any(|interface| interface.address == ip.source());
    if is_ours && ip.protocol() == 1 && matches!(ip.payload().first(), Some(3 | 11)) {
        assert_eq!(slow_parse::checksum(ip.payload()), 0, "an error has a right checksum");
        assert!(ip.total_bytes() <= 576);
    }
}

impl Exits<Buffer> for Ways {
    fn next(&mut self, frame: Buffer) {
        self.check(&frame);
    }

    fn to_port(&mut self, frame: Buffer, interface: InterfaceIndex) {
        assert!(interface < PORTS.len());
        self.check(&frame);
    }

    fn drop(&mut self, _frame: Buffer) {
        self.left += 1;
    }

    fn make(&mut self, bytes: &[u8]) -> Option<Buffer> {
        self.credit = self.credit.checked_sub(1)?;
        self.made += 1;
        Some(Buffer::new(u16::MAX, bytes))
    }
}

/// Routes frames and lets time pass.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = &SETTINGS[usize::from(input.below(2))];
    let mut router = Router::new(settings.clone(), PORTS.to_vec());
    let mut waiting = Waiting::new(HELD_MAX);
    let mut ways = Ways { credit: input.below(8), ..Ways::default() };
    let (mut now, mut entered) = (Duration::ZERO, 0);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0 => {
                now += Duration::from_millis(u64::from(input.u16()));
                router.tick(now, &mut waiting, &mut ways);
            }
            step => {
                let frame = frame(step, &mut input);
                let port = input.pick(&[PORTS[0], PORTS[0], PORTS[1], 9]).unwrap_or_default();
                router.packet(Buffer::new(port, &frame), now, &mut waiting, &mut ways);
                entered += 1;
            }
        }
        assert_eq!(entered + ways.made, ways.left + waiting.len(), "each frame leaves once or waits");
        assert!(waiting.len() <= HELD_MAX);
    }
}

/// A frame: any bytes, or the bytes as the headers of one that gets further.
fn frame(step: u8, input: &mut Input<'_>) -> Vec<u8> {
    let length = match input.below(16) {
        0 => usize::from(input.u16()) % (BUFFER_BYTES - HEADROOM_BYTES),
        _ => usize::from(input.below(96)),
    };
    let mut frame = input.take(length).to_vec();
    let for_us: &[u8] = match step {
        1 => return frame,
        2 => &[2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 9, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0],
        _ => &[2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 9, 0x08, 0x00, 0x45],
    };
    if frame.len() < 34 {
        frame.resize(34 + usize::from(input.u8()), 0);
    }
    frame[..for_us.len()].copy_from_slice(for_us);
    if step >= 4 {
        let total = u16::try_from(frame.len() - 14).unwrap_or(u16::MAX);
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[26..28].copy_from_slice(&[10, 1]);
        frame[30] = 10;
    }
    if step >= 3 {
        frame[24..26].fill(0);
        let checksum = slow_parse::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}
