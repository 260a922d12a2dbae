//! What can be wrong with a descriptor that an endpoint gives, and with what the host does to its own ledger.

use thiserror::Error;

use crate::ids::EndpointId;
use crate::named::named_enum;

/// A descriptor that was refused. The ledger is as it was: the endpoint holds what it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DescFault {
    /// The index is not in this shard.
    #[error("index {index} is outside the shard of {size} buffers from {first}")]
    ForeignIndex {
        /// As the endpoint gave it.
        index: u32,
        /// First index of the shard.
        first: u32,
        /// Buffers of the shard.
        size: u32,
    },
    /// The buffer is not lent to anybody.
    #[error("buffer {index} is not lent (state code {state})")]
    NotHeld {
        /// As the endpoint gave it.
        index: u32,
        /// Code of the state in which it is.
        state: u8,
    },
    /// The buffer is lent to another endpoint.
    #[error("buffer {index} is lent to endpoint {holder}")]
    OtherHolder {
        /// As the endpoint gave it.
        index: u32,
        /// Who holds it.
        holder: EndpointId,
    },
    /// The descriptor is of an older loan.
    #[error("generation {given} of buffer {index} is not the current one, {current}")]
    WrongGeneration {
        /// As the endpoint gave it.
        index: u32,
        /// As the endpoint gave it.
        given: u16,
        /// Of the current loan.
        current: u16,
    },
    /// The code is no verdict.
    #[error("code {code:#04x} is no verdict")]
    UnknownCode {
        /// As the endpoint gave it.
        code: u8,
    },
    /// Flag bits that this layout version does not have.
    #[error("flags {flags:#04x} have unknown bits")]
    UnknownFlags {
        /// As the endpoint gave them.
        flags: u8,
    },
    /// A packet came back as an unused empty buffer.
    #[error("buffer {index} was lent with a packet and came back as an unused empty buffer")]
    NotEmpty {
        /// As the endpoint gave it.
        index: u32,
    },
    /// A reference in a slot that there is not.
    #[error("slot {slot} of {count} slots of references")]
    ForeignReference {
        /// As the observer gave it.
        slot: u16,
        /// Slots there are.
        count: u32,
    },
    /// A reference that the observer does not have: given back before, never brought, or to another buffer.
    #[error("slot {slot} brought no reference to buffer {index} that is still to be given back")]
    ReferenceNotHeld {
        /// As the observer gave it.
        slot: u16,
        /// As the observer gave it.
        index: u32,
    },
    /// The descriptor is of an older reference.
    #[error("generation {given} of slot {slot} is not that of the reference it brought last, {current}")]
    ReferenceGeneration {
        /// As the observer gave it.
        slot: u16,
        /// As the observer gave it.
        given: u16,
        /// Of the reference brought last.
        current: u16,
    },
    /// The data would lie past the buffer.
    #[error(
        "{data_len_bytes} bytes of data from offset {data_offset_bytes} end past the buffer of {stride_bytes} bytes"
    )]
    PastBuffer {
        /// As the endpoint gave it.
        data_offset_bytes: u16,
        /// As the endpoint gave it.
        data_len_bytes: u16,
        /// Bytes of a buffer.
        stride_bytes: u32,
    },
    /// Longer than any frame of this domain.
    #[error("a frame of {frame_bytes} bytes, at most {frame_bytes_max} are allowed")]
    FrameTooLong {
        /// As the endpoint gave it.
        frame_bytes: u16,
        /// What is allowed.
        frame_bytes_max: u16,
    },
    /// Shorter than any frame.
    #[error("a frame of {frame_bytes} bytes, at least {frame_bytes_min} are needed")]
    FrameTooShort {
        /// As the endpoint gave it.
        frame_bytes: u16,
        /// What is needed.
        frame_bytes_min: u16,
    },
}

named_enum! {
    /// The kinds of [`DescFault`], to count by.
    pub enum DescFaultKind {
        /// See [`DescFault::ForeignIndex`].
        ForeignIndex = "foreign_index",
        /// See [`DescFault::NotHeld`].
        NotHeld = "not_held",
        /// See [`DescFault::OtherHolder`].
        OtherHolder = "other_holder",
        /// See [`DescFault::WrongGeneration`].
        WrongGeneration = "wrong_generation",
        /// See [`DescFault::UnknownCode`].
        UnknownCode = "unknown_code",
        /// See [`DescFault::UnknownFlags`].
        UnknownFlags = "unknown_flags",
        /// See [`DescFault::NotEmpty`].
        NotEmpty = "not_empty",
        /// See [`DescFault::ForeignReference`].
        ForeignReference = "foreign_reference",
        /// See [`DescFault::ReferenceNotHeld`].
        ReferenceNotHeld = "reference_not_held",
        /// See [`DescFault::ReferenceGeneration`].
        ReferenceGeneration = "reference_generation",
        /// See [`DescFault::PastBuffer`].
        PastBuffer = "past_buffer",
        /// See [`DescFault::FrameTooLong`].
        FrameTooLong = "frame_too_long",
        /// See [`DescFault::FrameTooShort`].
        FrameTooShort = "frame_too_short",
    }
}

impl DescFault {
    /// What to count it under.
    #[must_use]
    pub const fn kind(&self) -> DescFaultKind {
        match self {
            Self::ForeignIndex { .. } => DescFaultKind::ForeignIndex,
            Self::NotHeld { .. } => DescFaultKind::NotHeld,
            Self::OtherHolder { .. } => DescFaultKind::OtherHolder,
            Self::WrongGeneration { .. } => DescFaultKind::WrongGeneration,
            Self::UnknownCode { .. } => DescFaultKind::UnknownCode,
            Self::UnknownFlags { .. } => DescFaultKind::UnknownFlags,
            Self::NotEmpty { .. } => DescFaultKind::NotEmpty,
            Self::ForeignReference { .. } => DescFaultKind::ForeignReference,
            Self::ReferenceNotHeld { .. } => DescFaultKind::ReferenceNotHeld,
            Self::ReferenceGeneration { .. } => DescFaultKind::ReferenceGeneration,
            Self::PastBuffer { .. } => DescFaultKind::PastBuffer,
            Self::FrameTooLong { .. } => DescFaultKind::FrameTooLong,
            Self::FrameTooShort { .. } => DescFaultKind::FrameTooShort,
        }
    }

    /// The name of its counter.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }
}

named_enum! {
    /// An operation that the host asked of its own ledger and that the ledger refused. Any of these above 0
    /// is a bug of the switch; the buffer stays where it was.
    pub enum LedgerFault {
        /// `give` of an index outside the shard.
        GiveForeign = "give_foreign",
        /// `observe` of a buffer that the lcore does not have, or that has as many observers as can be counted.
        ObserveNotLcore = "observe_not_lcore",
        /// `unobserve` of a buffer without an observer.
        UnobserveNone = "unobserve_none",
        /// `give` of a buffer that neither PMD nor lcore has: freed twice, or lent.
        GiveNotOut = "give_not_out",
        /// `received` of a buffer that the PMD does not have.
        ReceivedNotPmd = "received_not_pmd",
        /// `lend` of a buffer that the lcore does not have, or to an endpoint beyond the limit.
        LendNotLcore = "lend_not_lcore",
        /// `send` of a buffer that the lcore does not have.
        SendNotLcore = "send_not_lcore",
        /// The free list named a buffer that is not in the pool.
        StackNotPool = "stack_not_pool",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named::Named;

    #[test]
    fn a_fault_says_what_was_found_and_what_was_allowed() {
        let fault =
            DescFault::PastBuffer { data_offset_bytes: 128, data_len_bytes: 2241, stride_bytes: 2368 };
        assert_eq!(fault.to_string(), "2241 bytes of data from offset 128 end past the buffer of 2368 bytes");
        assert_eq!(fault.name(), "past_buffer");
    }

    #[test]
    fn fault_names_are_unique() {
        let names: std::collections::BTreeSet<_> =
            DescFaultKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), DescFaultKind::COUNT);
    }
}
