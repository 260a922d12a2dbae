//! A frame that is rewritten in place: a packet of the rings, or a plain buffer in a test.

use guest_netlib::Packet;

/// A frame in a buffer with room around it.
pub trait Frame {
    /// The frame, from its Ethernet header on.
    fn data(&self) -> &[u8];

    /// The frame, to change in place.
    fn data_mut(&mut self) -> &mut [u8];

    /// The switch's number of the port where it was received.
    fn ingress_port(&self) -> u16;

    /// Lengthens the frame at its front by bytes that the caller writes. False, and nothing changed, without
    /// room.
    fn grow_front(&mut self, bytes: u16) -> bool;

    /// Cuts the frame to `len_bytes`, or lengthens it at its end by bytes that the caller writes. False, and
    /// nothing changed, without room.
    fn set_len(&mut self, len_bytes: usize) -> bool;
}

impl Frame for Packet<'_> {
    fn data(&self) -> &[u8] {
        Packet::data(self)
    }

    fn data_mut(&mut self) -> &mut [u8] {
        Packet::data_mut(self)
    }

    fn ingress_port(&self) -> u16 {
        Packet::ingress_port(self)
    }

    fn grow_front(&mut self, bytes: u16) -> bool {
        Packet::grow_front(self, bytes).is_ok()
    }

    fn set_len(&mut self, len_bytes: usize) -> bool {
        let change = |bytes: usize| u16::try_from(bytes).ok();
        match len_bytes.checked_sub(self.len()) {
            Some(more) => change(more).is_some_and(|more| self.grow_back(more).is_ok()),
            None => change(self.len() - len_bytes).is_some_and(|less| self.shrink_back(less).is_ok()),
        }
    }
}
