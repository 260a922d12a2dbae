//! What a hostile frontend does, by name.

use std::str::FromStr;

/// A kind of attack on a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Trick {
    /// Headers, lengths, requests and values that mean nothing.
    MalformedMessages,
    /// Right and wrong messages in any order.
    MessagesInAnyOrder,
    /// The beginning of a message, whose rest does not come or drips.
    PartialMessages,
    /// Connections by the hundred, which vanish or talk nonsense.
    ReconnectStorms,
    /// Tables of memory whose regions overlap.
    OverlappingRegions,
    /// Tables that shrink, change or vanish under running queues.
    VanishingMemory,
    /// Regions and records that claim more than their files have, or wrap.
    LyingSizes,
    /// Regions by the thousand.
    ManyRegions,
    /// Descriptors of files that are no memory, and no eventfd.
    WrongFiles,
    /// Rings that end outside guest memory, and sizes that no ring has.
    RingsOutside,
    /// Files of memory that are truncated while they are in use, or could be.
    Truncation,
    /// Holes that are punched into memory while it is in use.
    PunchedHoles,
    /// Descriptors to interrupt by that are full and block.
    FullEventfds,
    /// Chains that lead in a circle, or out of their table.
    DescriptorLoops,
    /// Indirect tables inside indirect tables, or followed by more.
    NestedIndirect,
    /// Indirect tables of up to 65,535 descriptors without a byte, in every slot of a ring.
    EndlessIndirect,
    /// Indices of available chains that jump.
    AvailableJumps,
    /// Buffers of up to 4 GiB, at addresses that wrap or are nowhere.
    HugeLengths,
    /// Frames whose headers ask for checksums and segments at places that they do not have.
    LyingHeaders,
}

/// Every trick, in the order of their counters.
pub const TRICKS: [Trick; 19] = [
    Trick::MalformedMessages,
    Trick::MessagesInAnyOrder,
    Trick::PartialMessages,
    Trick::ReconnectStorms,
    Trick::OverlappingRegions,
    Trick::VanishingMemory,
    Trick::LyingSizes,
    Trick::ManyRegions,
    Trick::WrongFiles,
    Trick::RingsOutside,
    Trick::Truncation,
    Trick::PunchedHoles,
    Trick::FullEventfds,
    Trick::DescriptorLoops,
    Trick::NestedIndirect,
    Trick::EndlessIndirect,
    Trick::AvailableJumps,
    Trick::HugeLengths,
    Trick::LyingHeaders,
];

impl Trick {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MalformedMessages => "nic_malformed_messages",
            Self::MessagesInAnyOrder => "nic_messages_in_any_order",
            Self::PartialMessages => "nic_partial_messages",
            Self::ReconnectStorms => "nic_reconnect_storms",
            Self::OverlappingRegions => "nic_overlapping_regions",
            Self::VanishingMemory => "nic_vanishing_memory",
            Self::LyingSizes => "nic_lying_sizes",
            Self::ManyRegions => "nic_many_regions",
            Self::WrongFiles => "nic_wrong_files",
            Self::RingsOutside => "nic_rings_outside",
            Self::Truncation => "nic_truncation",
            Self::PunchedHoles => "nic_punched_holes",
            Self::FullEventfds => "nic_full_eventfds",
            Self::DescriptorLoops => "nic_descriptor_loops",
            Self::NestedIndirect => "nic_nested_indirect",
            Self::EndlessIndirect => "nic_endless_indirect",
            Self::AvailableJumps => "nic_available_jumps",
            Self::HugeLengths => "nic_huge_lengths",
            Self::LyingHeaders => "nic_lying_headers",
        }
    }
}

impl FromStr for Trick {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || TRICKS.map(Self::name).join(", ");
        let named = TRICKS.into_iter().find(|trick| trick.name() == text);
        named.ok_or_else(|| format!("{text:?} is no trick of a frontend; there are: {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trick_has_a_counter_and_a_name_of_its_own() {
        for (position, trick) in TRICKS.into_iter().enumerate() {
            assert_eq!(trick as usize, position);
            assert_eq!(trick.name().parse(), Ok(trick));
        }
        assert!("hope".parse::<Trick>().is_err());
    }
}
