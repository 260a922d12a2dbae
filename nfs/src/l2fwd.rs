//! Rewrites the MAC addresses of frames.

use packet::MacAddress;
use packet::ethernet::EthernetMut;

/// What becomes of the MAC addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Source and destination change places.
    Swap,
    /// New ones; `None` leaves one as it is.
    Set {
        /// To whom.
        destination: Option<MacAddress>,
        /// From whom.
        source: Option<MacAddress>,
    },
}

impl Rewrite {
    /// Rewrites a frame in place. False, and nothing changed, for a frame without an Ethernet header, and for a
    /// swap that would make a group the sender.
    pub fn apply(self, frame: &mut [u8]) -> bool {
        let Ok(mut ethernet) = EthernetMut::parse(frame) else { return false };
        match self {
            Self::Swap if ethernet.as_view().destination().is_multicast() => return false,
            Self::Swap => ethernet.swap_addresses(),
            Self::Set { destination, source } => {
                if let Some(destination) = destination {
                    ethernet.set_destination(destination);
                }
                if let Some(source) = source {
                    ethernet.set_source(source);
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddress = MacAddress([2, 0, 0, 0, 0, 0xa]);

    fn frame() -> Vec<u8> {
        vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 99]
    }

    fn rewritten(rewrite: Rewrite) -> Vec<u8> {
        let mut frame = frame();
        assert!(rewrite.apply(&mut frame));
        frame
    }

    #[test]
    fn a_swap_changes_the_places_and_nothing_else() {
        assert_eq!(rewritten(Rewrite::Swap), [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 99]);
    }

    #[test]
    fn only_the_addresses_that_are_given_are_set() {
        let set = |destination, source| rewritten(Rewrite::Set { destination, source });
        assert_eq!(set(Some(A), None), [2, 0, 0, 0, 0, 0xa, 2, 0, 0, 0, 0, 1, 8, 0, 99]);
        assert_eq!(set(None, Some(A)), [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0xa, 8, 0, 99]);
        assert_eq!(set(None, None), frame());
    }

    #[test]
    fn a_broadcast_is_not_swapped_because_a_group_sends_nothing() {
        let mut broadcast = [vec![0xff; 6], frame()[6..].to_vec()].concat();
        let before = broadcast.clone();
        assert!(!Rewrite::Swap.apply(&mut broadcast));
        assert_eq!(broadcast, before);
    }

    #[test]
    fn a_frame_one_byte_short_of_a_header_is_left_alone() {
        assert!(!Rewrite::Swap.apply(&mut frame()[..13]));
        assert!(Rewrite::Swap.apply(&mut frame()[..14]));
    }
}
