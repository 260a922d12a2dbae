//! Packets held back until their next hop is known. A bounded few: they are buffers of the switch.

use std::collections::{HashMap, VecDeque};

use super::neighbour::Neighbour;

/// Most packets held for one neighbour.
pub const HELD_PER_NEIGHBOUR_MAX: usize = 16;

/// Held packets by neighbour, oldest first. They live no longer than the attach that lent them.
#[derive(Debug)]
pub struct Waiting<B> {
    held: HashMap<Neighbour, VecDeque<B>>,
    count: usize,
    count_max: usize,
}

impl<B> Waiting<B> {
    /// Room for `count_max` packets in all.
    #[must_use]
    pub fn new(count_max: usize) -> Self {
        Self { held: HashMap::new(), count: 0, count_max }
    }

    /// Holds a packet, or gives it back if there is no room.
    pub fn hold(&mut self, neighbour: Neighbour, packet: B) -> Result<(), B> {
        if self.count >= self.count_max {
            return Err(packet);
        }
        let queue = self.held.entry(neighbour).or_default();
        if queue.len() >= HELD_PER_NEIGHBOUR_MAX {
            return Err(packet);
        }
        queue.push_back(packet);
        self.count += 1;
        Ok(())
    }

    /// The oldest packet for a neighbour.
    pub fn take_one(&mut self, neighbour: Neighbour) -> Option<B> {
        let queue = self.held.get_mut(&neighbour)?;
        let packet = queue.pop_front();
        if queue.is_empty() {
            self.held.remove(&neighbour);
        }
        self.count -= usize::from(packet.is_some());
        packet
    }

    /// All packets for a neighbour, oldest first.
    pub fn take_all(&mut self, neighbour: Neighbour) -> VecDeque<B> {
        let queue = self.held.remove(&neighbour).unwrap_or_default();
        self.count -= queue.len();
        queue
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const A: Neighbour = (0, Ipv4Addr::new(10, 0, 0, 1));
    const B: Neighbour = (0, Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn one_neighbour_holds_sixteen_packets_and_gives_them_back_in_order() {
        let mut waiting = Waiting::new(100);
        for number in 0..HELD_PER_NEIGHBOUR_MAX {
            assert_eq!(waiting.hold(A, number), Ok(()));
        }
        assert_eq!(waiting.hold(A, 99), Err(99));
        assert_eq!(waiting.hold(B, 50), Ok(()));
        assert_eq!(waiting.take_one(A), Some(0));
        assert_eq!(waiting.take_all(A), (1..HELD_PER_NEIGHBOUR_MAX).collect::<VecDeque<_>>());
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting.take_one(B), Some(50));
        assert!(waiting.is_empty());
        assert_eq!(waiting.take_one(B), None);
    }

    #[test]
    fn all_neighbours_together_hold_no_more_than_the_limit() {
        let mut waiting = Waiting::new(2);
        assert_eq!(waiting.hold(A, 1), Ok(()));
        assert_eq!(waiting.hold(B, 2), Ok(()));
        assert_eq!(waiting.hold(B, 3), Err(3));
        waiting.take_all(A);
        assert_eq!(waiting.hold(B, 3), Ok(()));
    }
}
