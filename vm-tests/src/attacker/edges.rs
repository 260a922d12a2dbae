//! Packets for another domain that no edge carries, as many as go.

use std::time::Duration;

use shm_ring::desc::{Desc, Verdict};

use super::device::Device;
use super::kind::Kind;
use super::siege::Siege;
use crate::random::Random;

/// How long to wait for packets.
const LENDING: Duration = Duration::from_millis(5);
/// Packets of a bout that an edge does carry: that none arrives would prove nothing otherwise.
const CARRIED: usize = 4;

/// The port of another domain, and what an edge carries there: UDP to port 7 of one address.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Number of the port.
    pub port: u16,
    /// Frames that the edge does not carry.
    denied: Vec<Vec<u8>>,
    /// One that it carries.
    carried: Vec<u8>,
}

/// The address of the edge's flow.
const ADDRESS: [u8; 4] = [10, 1, 0, 3];
/// Its port.
const DPORT: u16 = 7;
/// A payload that no other traffic of the trial has.
const MARK: &[u8; 24] = b"from the attacked domain";

impl Edge {
    /// The edge to this port.
    #[must_use]
    pub fn to_port(port: u16) -> Self {
        let right = Frame {
            group: false,
            kind: 0x0800,
            version: 0x45,
            fragment: 0,
            protocol: 17,
            address: ADDRESS,
            dport: DPORT,
        };
        let frames = [
            Frame { dport: DPORT - 1, ..right },
            Frame { dport: DPORT + 1, ..right },
            Frame { dport: DPORT << 8, ..right },
            Frame { protocol: 6, ..right },
            Frame { protocol: 1, ..right },
            Frame { address: [10, 1, 0, 2], ..right },
            Frame { address: [10, 1, 0, 255], ..right },
            Frame { group: true, ..right },
            Frame { fragment: 1, ..right },
            Frame { fragment: 0x2000, ..right },
            Frame { fragment: 0x1fff, ..right },
            Frame { version: 0x44, ..right },
            Frame { version: 0x65, ..right },
            Frame { version: 0x4f, ..right },
            Frame { kind: 0x86dd, ..right },
            Frame { kind: 0x0806, ..right },
            Frame { kind: 0x88a8, ..right },
        ];
        Self { port, denied: frames.iter().map(Frame::bytes).collect(), carried: right.bytes() }
    }

    /// A frame that the edge does not carry.
    pub(super) fn denied(&self, random: &mut Random) -> &[u8] {
        &self.denied[random.index(self.denied.len())]
    }

    /// The frame that it carries.
    pub(super) fn carried(&self) -> &[u8] {
        &self.carried
    }

    /// Whether a frame that arrived is one that the edge carries.
    #[must_use]
    pub fn carries(frame: &[u8]) -> bool {
        let Some((link, ip)) = frame.split_at_checked(14) else { return false };
        let half = |at: usize| ip.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let header = ip.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4);
        link[0] & 1 == 0
            && link[12..] == [0x08, 0x00]
            && ip.first().is_some_and(|byte| byte >> 4 == 4)
            && header >= 20
            && half(6).is_some_and(|fragment| fragment & 0x3fff == 0)
            && ip.get(9) == Some(&17)
            && ip.get(16..20) == Some(&ADDRESS)
            && half(header + 2) == Some(DPORT)
    }
}

/// What differs between the frames.
#[derive(Clone, Copy, Debug)]
struct Frame {
    group: bool,
    kind: u16,
    version: u8,
    fragment: u16,
    protocol: u8,
    address: [u8; 4],
    dport: u16,
}

impl Frame {
    /// Ethernet, IPv4 and UDP or what looks like it; a multiple of eight bytes.
    fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![u8::from(self.group) | 2, 0, 0, 0, 9, 3, 2, 0, 0, 0, 9, 9];
        frame.extend(self.kind.to_be_bytes());
        frame.extend([self.version, 0, 0, 58, 0, 0]);
        frame.extend(self.fragment.to_be_bytes());
        frame.extend([64, self.protocol, 0, 0, 10, 9, 0, 9]);
        frame.extend(self.address);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend(9_u16.to_be_bytes());
        frame.extend(self.dport.to_be_bytes());
        frame.extend([0, 38, 0, 0]);
        frame.extend(MARK);
        frame.resize(72, 0);
        frame
    }
}

/// The Internet checksum of a header of even length.
fn checksum(header: &[u8]) -> u16 {
    let words = header.as_chunks::<2>().0;
    let mut sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

impl Siege<'_> {
    /// See [`Kind::DeniedEdges`].
    pub(super) fn flood_edges(&mut self) {
        let Some(edge) = self.edge.clone() else { return };
        let mut carried = CARRIED;
        while !self.is_bout_over() && !self.is_over() && self.attach() {
            let Some(session) = &mut self.session else { return };
            if !session.take(&self.device, 32, LENDING) {
                self.ended.push(session.epoch);
                self.session = None;
                continue;
            }
            let mut denied = 0;
            let mut descs = std::mem::take(&mut session.loans);
            for desc in &mut descs {
                let frame = if carried > 0 { edge.carried() } else { edge.denied(&mut self.random) };
                denied += u64::from(carried == 0);
                carried = carried.saturating_sub(1);
                *desc = addressed(&self.device, *desc, frame, edge.port);
            }
            if session.give(&self.device, &descs) == descs.len() as u64 {
                self.attempts.add(Kind::DeniedEdges, denied);
            }
        }
    }
}

/// Writes a frame into a lent buffer; the descriptor that sends it to a port.
pub(super) fn addressed(device: &Device, desc: Desc, frame: &[u8], port: u16) -> Desc {
    // Where a word starts: drivers put data at multiples of 64.
    let offset = desc.data_offset_bytes / 8 * 8;
    device.region.write(device.seat.data_at(desc.buffer_index, offset), frame);
    Desc {
        data_offset_bytes: offset,
        data_len_bytes: u16::try_from(frame.len()).unwrap_or(64),
        code: Verdict::ToPort as u8,
        aux: port.into(),
        ..desc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_carries_one_of_the_frames_and_none_of_the_others() {
        let edge = Edge::to_port(3);
        assert!(Edge::carries(edge.carried()));
        for frame in &edge.denied {
            assert!(!Edge::carries(frame), "{frame:x?}");
            assert!(frame.len().is_multiple_of(8));
        }
    }
}
