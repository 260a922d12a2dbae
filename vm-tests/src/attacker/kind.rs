//! What kinds of attack there are, and how often each was tried.

use std::collections::BTreeMap;
use std::str::FromStr;

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// Lines of 64 random bytes anywhere in the control area, the host's section and the tables included.
    ScribbleControl,
    /// Lines of 64 random bytes anywhere in the region: free buffers, buffers of drivers, of others, its header.
    ScribbleRegion,
    /// Counters of the own rings beyond what the ring holds, behind what was consumed, at every edge.
    AbsurdCounters,
    /// Descriptors of lent buffers with one or two fields that lie, at every boundary.
    ForgedDescriptors,
    /// A buffer that was given back a moment ago, once more.
    DoubleReturn,
    /// Buffers that were never lent to it.
    UnheldBuffers,
    /// Buffers of an attach that it has ended itself, before and after the next one.
    ReturnAfterDetach,
    /// Words of the handshake that claim other epochs.
    EpochFlips,
    /// Descriptors that another thread changes while the host reads them.
    DescriptorRaces,
    /// Packets whose headers another thread changes after they were given back.
    PacketRaces,
    /// Holes punched into the files of its memory, and tries to shrink, grow and seal them.
    PunchedHoles,
    /// Wishes to attach, one after the other, with right and wrong versions and features.
    AttachStorm,
    /// Messages on endpoint.sock that are malformed, too long, in the wrong order or of others' names.
    ControlFlood,
    /// Verdicts that name ports and services which it may not name.
    DeniedTargets,
    /// Packets for a port of another domain that no edge carries.
    DeniedEdges,
    /// Pages of everything that it can map, searched for what others keep secret.
    CanarySearch,
}

/// Every kind, in the order of their counters.
pub const KINDS: [Kind; 16] = [
    Kind::ScribbleControl,
    Kind::ScribbleRegion,
    Kind::AbsurdCounters,
    Kind::ForgedDescriptors,
    Kind::DoubleReturn,
    Kind::UnheldBuffers,
    Kind::ReturnAfterDetach,
    Kind::EpochFlips,
    Kind::DescriptorRaces,
    Kind::PacketRaces,
    Kind::PunchedHoles,
    Kind::AttachStorm,
    Kind::ControlFlood,
    Kind::DeniedTargets,
    Kind::DeniedEdges,
    Kind::CanarySearch,
];

impl Kind {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ScribbleControl => "scribble_control",
            Self::ScribbleRegion => "scribble_region",
            Self::AbsurdCounters => "absurd_counters",
            Self::ForgedDescriptors => "forged_descriptors",
            Self::DoubleReturn => "double_return",
            Self::UnheldBuffers => "unheld_buffers",
            Self::ReturnAfterDetach => "return_after_detach",
            Self::EpochFlips => "epoch_flips",
            Self::DescriptorRaces => "descriptor_races",
            Self::PacketRaces => "packet_races",
            Self::PunchedHoles => "punched_holes",
            Self::AttachStorm => "attach_storm",
            Self::ControlFlood => "control_flood",
            Self::DeniedTargets => "denied_targets",
            Self::DeniedEdges => "denied_edges",
            Self::CanarySearch => "canary_search",
        }
    }

    /// Whether only a process can do it: a guest has no socket, and no files.
    #[must_use]
    pub const fn needs_socket(self) -> bool {
        matches!(self, Self::ControlFlood | Self::PunchedHoles)
    }

    /// Whether it takes an attach to do it.
    #[must_use]
    pub const fn needs_attach(self) -> bool {
        !self.ends_the_attach()
            && !matches!(self, Self::ScribbleRegion | Self::ControlFlood | Self::CanarySearch)
    }

    /// Whether the switch lets go of an endpoint that does it.
    #[must_use]
    pub const fn ends_the_attach(self) -> bool {
        matches!(
            self,
            Self::ScribbleControl
                | Self::AbsurdCounters
                | Self::PunchedHoles
                | Self::EpochFlips
                | Self::AttachStorm
        )
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || KINDS.map(Self::name).join(", ");
        let named = KINDS.into_iter().find(|kind| kind.name() == text);
        named.ok_or_else(|| format!("{text:?} is no kind of attack; there are: {}", names()))
    }
}

/// Attempts by kind.
#[derive(Clone, Debug, Default)]
pub struct Attempts([u64; KINDS.len()]);

impl Attempts {
    /// Counts on.
    pub fn add(&mut self, kind: Kind, attempts: u64) {
        self.0[kind as usize] += attempts;
    }

    /// How many of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// By name.
    #[must_use]
    pub fn named(&self) -> BTreeMap<String, u64> {
        KINDS.iter().map(|kind| (kind.name().to_owned(), self.of(*kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_counter_and_a_name_of_its_own() {
        let mut attempts = Attempts::default();
        for (position, kind) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, position);
            attempts.add(*kind, 1);
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        assert!("hope".parse::<Kind>().is_err());
        assert_eq!(attempts.named().into_values().collect::<Vec<_>>(), [1; KINDS.len()]);
    }
}
