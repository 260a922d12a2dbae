//! A private copy of a packet's headers: every decision about packet bytes is made on one of these.

/// Bytes of a header copy at most: Ethernet, two VLAN tags, an IPv4 header with all options, a TCP header.
pub const HEADER_COPY_BYTES: usize = 128;

/// The first bytes of a frame, copied once into host memory.
#[derive(Clone, Copy, Debug)]
pub struct HeaderCopy {
    /// The bytes; only the first `len_bytes` are of the frame.
    pub bytes: [u8; HEADER_COPY_BYTES],
    /// How many bytes were copied.
    pub len_bytes: u8,
    /// How long the frame is.
    pub frame_bytes: u16,
}

impl Default for HeaderCopy {
    fn default() -> Self {
        Self { bytes: [0; HEADER_COPY_BYTES], len_bytes: 0, frame_bytes: 0 }
    }
}

impl HeaderCopy {
    /// Copies the start of a frame that lies in host-private memory.
    #[must_use]
    pub fn of_frame(frame: &[u8]) -> Self {
        let mut copy = Self::default();
        let count = frame.len().min(HEADER_COPY_BYTES);
        copy.bytes[..count].copy_from_slice(&frame[..count]);
        #[allow(clippy::cast_possible_truncation, reason = "at most 128")]
        {
            copy.len_bytes = count as u8;
        }
        copy.frame_bytes = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        copy
    }

    /// The bytes that were copied.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len_bytes).min(HEADER_COPY_BYTES)]
    }

    /// Reads the headers.
    #[inline]
    #[must_use]
    pub fn parse(&self) -> packet::Parsed {
        packet::parse(self.as_bytes(), usize::from(self.frame_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_no_more_than_it_has_room_for() {
        let frame = [7; 200];
        let copy = HeaderCopy::of_frame(&frame);
        assert_eq!(copy.as_bytes(), &frame[..128]);
        assert_eq!(copy.frame_bytes, 200);
    }

    #[test]
    fn a_length_beyond_the_copy_shows_the_copy_only() {
        let copy = HeaderCopy { len_bytes: 255, ..HeaderCopy::default() };
        assert_eq!(copy.as_bytes().len(), 128);
    }
}
