//! Frames that are valid packets of a protocol.

pub const UDP: u8 = 17;
pub const TCP: u8 = 6;

/// An IPv4 packet of `bytes` bytes on the wire, its payload all `fill`.
pub fn ipv4(protocol: u8, bytes: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; bytes];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame[16..18].copy_from_slice(&u16::try_from(bytes - 14).unwrap().to_be_bytes());
    frame[18..23].copy_from_slice(&[0, 0, 0, 0, 64]);
    frame[PROTOCOL_AT] = protocol;
    frame[24..34].copy_from_slice(&[0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame
}

/// Where a frame of [`ipv4`] names its protocol.
pub const PROTOCOL_AT: usize = 23;
