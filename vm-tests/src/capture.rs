//! Captures: frames written for the switch to play, and read back after it recorded them.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

use crate::Scene;
use crate::random::Random;

/// Writes frames as an Ethernet capture.
///
/// # Panics
/// If the file cannot be written.
pub fn write(path: &Path, frames: &[Vec<u8>]) {
    let file = File::create(path).unwrap_or_else(|err| panic!("cannot write {}: {err}", path.display()));
    let mut writer = PcapWriter::new(BufWriter::new(file)).expect("the header of a capture");
    for (at, frame) in frames.iter().enumerate() {
        let length = u32::try_from(frame.len()).expect("a frame");
        let time = Duration::from_micros(at as u64);
        writer.write_packet(&PcapPacket::new(time, length, frame)).expect("a frame of a capture");
    }
}

/// Writes the captures that [`crate::config::CAPTURES`] plays: `frames` towards the server, none back.
///
/// # Panics
/// If a file cannot be written.
pub fn prepare(scene: &Scene, frames: &[Vec<u8>]) {
    write(&scene.dir.join("in.pcap"), frames);
    write(&scene.dir.join("none.pcap"), &[]);
}

/// Reads the frames of a capture.
///
/// # Panics
/// If the file is no capture.
#[must_use]
pub fn read(path: &Path) -> Vec<Vec<u8>> {
    let file = File::open(path).unwrap_or_else(|err| panic!("cannot read {}: {err}", path.display()));
    let mut reader = PcapReader::new(BufReader::new(file)).expect("the header of a capture");
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_packet() {
        frames.push(frame.expect("a frame of a capture").data.into_owned());
    }
    frames
}

/// UDP frames of `flows` flows, 60 to 1514 bytes, each with its number in flow and file in the payload.
#[must_use]
pub fn udp_frames(count: usize, flows: u8, seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::seeded(seed);
    (0..count)
        .map(|number| {
            let flow = u8::try_from(random.below(u64::from(flows))).unwrap_or(0);
            let payload = 18 + usize::try_from(random.below(1455)).unwrap_or(0);
            udp_frame(flow, number, payload)
        })
        .collect()
}

/// One frame: Ethernet, IPv4 with a right checksum, UDP without one.
fn udp_frame(flow: u8, number: usize, payload_bytes: usize) -> Vec<u8> {
    let ip_bytes = u16::try_from(28 + payload_bytes).expect("a payload within the MTU");
    let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00];
    let mut ip = vec![0x45, 0];
    ip.extend(ip_bytes.to_be_bytes());
    ip.extend(u16::try_from(number & 0xffff).unwrap_or(0).to_be_bytes());
    ip.extend([0x40, 0, 64, 17, 0, 0, 10, 1, 0, flow, 10, 2, 0, 2]);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend((1000 + u16::from(flow)).to_be_bytes());
    frame.extend(9_u16.to_be_bytes());
    frame.extend((ip_bytes - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((number as u64).to_be_bytes());
    frame.extend((8..payload_bytes).map(|at| u8::try_from((at + number) & 0xff).unwrap_or(0)));
    frame
}

/// The Internet checksum of a header of even length.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 =
        header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// The flow of a frame made here: the last byte of its source address.
#[must_use]
pub fn flow_of(frame: &[u8]) -> u8 {
    frame[29]
}
