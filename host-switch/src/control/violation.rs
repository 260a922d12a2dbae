//! What a VM or process can do wrong, by name.

use switch_core::Named;
use switch_core::fault::DescFaultKind;

/// The kinds that a policy can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViolationKind {
    /// A descriptor that was refused, or that broke a queue.
    Descriptor,
    /// A ring counter that broke its invariant.
    Counter,
    /// A word of the handshake: attaches that were refused, epochs that never were.
    Epoch,
    /// What was said over `endpoint.sock` or the socket of a NIC, and how the connection ended.
    Control,
}

impl ViolationKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Descriptor, Self::Counter, Self::Epoch, Self::Control];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptor => "descriptor",
            Self::Counter => "counter",
            Self::Epoch => "epoch",
            Self::Control => "control",
        }
    }
}

/// Something an owner did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A descriptor that was refused, and why.
    Descriptor(DescFaultKind),
    /// A peer counter claimed what no ring can hold.
    PeerCounter,
    /// More attaches than its budget.
    AttachTooOften,
    /// An attach with another layout version.
    AttachVersion,
    /// An attach with features that were not offered.
    AttachFeatures,
    /// An attach while too many earlier epochs wait for proof.
    AttachUnproven,
    /// A word about an epoch that is not the one it has, or never was.
    WrongEpoch,
    /// A message that is none of ours.
    MessageMalformed,
    /// A message, or the descriptors with it, beyond the limit.
    MessageTooLong,
    /// A message that this owner may not send, or not now.
    MessageUnexpected,
    /// Its connection ended and its process runs on.
    EndedWithoutExit,
    /// What it wrote into a queue of its NIC broke that queue.
    NicQueue,
    /// A message of its NIC's QEMU that was refused.
    NicMessage,
}

impl Violation {
    const OTHERS: [Self; 12] = [
        Self::PeerCounter,
        Self::AttachTooOften,
        Self::AttachVersion,
        Self::AttachFeatures,
        Self::AttachUnproven,
        Self::WrongEpoch,
        Self::MessageMalformed,
        Self::MessageTooLong,
        Self::MessageUnexpected,
        Self::EndedWithoutExit,
        Self::NicQueue,
        Self::NicMessage,
    ];

    /// Every violation.
    pub fn all() -> impl Iterator<Item = Self> {
        DescFaultKind::ALL.iter().copied().map(Self::Descriptor).chain(Self::OTHERS)
    }

    /// What a policy calls it.
    #[must_use]
    pub const fn kind(self) -> ViolationKind {
        match self {
            Self::Descriptor(_) | Self::NicQueue => ViolationKind::Descriptor,
            Self::PeerCounter => ViolationKind::Counter,
            Self::AttachTooOften
            | Self::AttachVersion
            | Self::AttachFeatures
            | Self::AttachUnproven
            | Self::WrongEpoch => ViolationKind::Epoch,
            Self::MessageMalformed
            | Self::MessageTooLong
            | Self::MessageUnexpected
            | Self::EndedWithoutExit
            | Self::NicMessage => ViolationKind::Control,
        }
    }

    /// The name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptor(kind) => kind.name(),
            Self::PeerCounter => "peer_counter",
            Self::AttachTooOften => "attach_too_often",
            Self::AttachVersion => "attach_version",
            Self::AttachFeatures => "attach_features",
            Self::AttachUnproven => "attach_unproven",
            Self::WrongEpoch => "wrong_epoch",
            Self::MessageMalformed => "message_malformed",
            Self::MessageTooLong => "message_too_long",
            Self::MessageUnexpected => "message_unexpected",
            Self::EndedWithoutExit => "ended_without_exit",
            Self::NicQueue => "nic_queue",
            Self::NicMessage => "nic_message",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = Violation::all().map(Violation::name).collect();
        assert_eq!(names.len(), Violation::all().count());
    }
}
