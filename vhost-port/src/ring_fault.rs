//! What a driver can do wrong with a ring: each of these ends the queue until it is set up anew.

/// A word of a ring, or of a table that it points at, says what no driver may say.
///
/// The queue is broken from then on. To go on behind it would mean to guess what the driver meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// More chains than the ring has entries.
    #[error("avail index claims {claimed} chains pending in a ring of {size}")]
    AvailJump {
        /// Distance that the index implies.
        claimed: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// A chain that starts outside the descriptor table.
    #[error("chain starts at descriptor {head} of {size}")]
    HeadOutside {
        /// What the avail ring says.
        head: u16,
        /// Entries of the table.
        size: u16,
    },
    /// A descriptor whose successor is outside its table.
    #[error("descriptor names {next} of {count} as its next")]
    NextOutside {
        /// What the descriptor says.
        next: u16,
        /// Entries of the table.
        count: u16,
    },
    /// More descriptors than the ring has entries: a loop, or too long by itself.
    #[error("chain is longer than the {limit} descriptors that its ring holds")]
    ChainTooLong {
        /// Entries of the ring.
        limit: u16,
    },
    /// An indirect table inside an indirect table.
    #[error("indirect table inside an indirect table")]
    IndirectNested,
    /// An indirect table, although the feature is off.
    #[error("indirect table without the feature")]
    IndirectUnasked,
    /// An indirect descriptor that goes on after its table.
    #[error("indirect descriptor with a next one")]
    IndirectWithNext,
    /// An indirect table that holds no whole number of descriptors, none, or more than the ring.
    #[error("indirect table of {len_bytes} bytes; allowed are 1 to {limit} descriptors of 16 bytes")]
    IndirectLength {
        /// Its length.
        len_bytes: u32,
        /// Entries of the ring.
        limit: u16,
    },
    /// A buffer to write into where one to read was due, or the other way round.
    #[error("buffer is for the other direction")]
    Direction,
    /// A buffer or table that is not inside one region of the guest's memory.
    #[error("{len_bytes} bytes at {address:#x} are outside the guest's memory")]
    Outside {
        /// Where, by the guest's count.
        address: u64,
        /// Length.
        len_bytes: u32,
    },
    /// A receive buffer without room for the header.
    #[error("receive buffer of {len_bytes} bytes cannot hold the header")]
    NoRoomForHeader {
        /// Length.
        len_bytes: u32,
    },
}

impl RingFault {
    /// How many kinds there are.
    pub const KINDS: usize = 11;

    /// Names of the kinds, in the order of [`RingFault::kind`].
    pub const NAMES: [&str; Self::KINDS] = [
        "avail_jump",
        "head_outside",
        "next_outside",
        "chain_too_long",
        "indirect_nested",
        "indirect_unasked",
        "indirect_with_next",
        "indirect_length",
        "direction",
        "outside_memory",
        "no_room_for_header",
    ];

    /// Which kind it is: a position in [`RingFault::NAMES`].
    #[must_use]
    pub const fn kind(self) -> u8 {
        match self {
            Self::AvailJump { .. } => 0,
            Self::HeadOutside { .. } => 1,
            Self::NextOutside { .. } => 2,
            Self::ChainTooLong { .. } => 3,
            Self::IndirectNested => 4,
            Self::IndirectUnasked => 5,
            Self::IndirectWithNext => 6,
            Self::IndirectLength { .. } => 7,
            Self::Direction => 8,
            Self::Outside { .. } => 9,
            Self::NoRoomForHeader { .. } => 10,
        }
    }
}
