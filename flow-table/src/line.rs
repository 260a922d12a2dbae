//! The lines of a table's memory.

use bytemuck::{Pod, Zeroable};

use crate::key::{Direction, Key};

/// 64 bytes at an address that is a multiple of 64: what memory for a table is counted in.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([u64; 8]);

/// One slot: the flow's key, and what changes with each of its packets.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct FlowLine {
    pub key: Key,
    /// The low 32 bits of the clock.
    pub last_seen_ms: u32,
    /// Since the account was last brought up to date.
    pub bytes: u32,
    /// By direction; 0: none.
    pub decisions: [u32; 2],
    /// Low 8 bits: flags. Above: the slot's generation, which outlives the flow.
    word: u32,
    /// Since the account was last brought up to date.
    pub packets: u16,
    /// In which the decisions were taken.
    pub epoch: u16,
}

/// Packets after which a flow's account is brought up to date, so that neither counter of the line wraps: none
/// is longer than 65,535 bytes.
pub(crate) const ACCOUNT_PACKETS: u16 = 1 << 15;

/// Which end sent the first packet.
const OPENED_BY_HIGHER: u32 = 1;
/// The other end has spoken.
const REPLIED: u32 = 1 << 1;
/// And then the first one again.
const ANSWERED: u32 = 1 << 2;
/// It is in its second bucket.
const SPILLED: u32 = 1 << 3;
const FLAG_BITS: u32 = 8;
const GENERATION_MAX: u32 = u32::MAX >> FLAG_BITS;

impl FlowLine {
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        self.word >> FLAG_BITS
    }

    /// The next generation, never 0; the flags are gone.
    pub const fn renew(&mut self) {
        let generation = self.generation();
        let next = if generation == GENERATION_MAX { 1 } else { generation + 1 };
        self.word = next << FLAG_BITS;
    }

    pub fn open(&mut self, by: Direction, is_spilled: bool) {
        let flags = [
            if by == Direction::FromHigher { OPENED_BY_HIGHER } else { 0 },
            if is_spilled { SPILLED } else { 0 },
        ];
        self.word = self.generation() << FLAG_BITS | flags[0] | flags[1];
    }

    pub const fn opener(&self) -> Direction {
        if self.word & OPENED_BY_HIGHER == 0 { Direction::FromLower } else { Direction::FromHigher }
    }

    #[inline(always)]
    pub const fn is_answered(&self) -> bool {
        self.word & ANSWERED != 0
    }

    pub const fn has_reply(&self) -> bool {
        self.word & REPLIED != 0
    }

    pub const fn is_spilled(&self) -> bool {
        self.word & SPILLED != 0
    }

    /// Notes a packet of an unanswered flow; whether it answers it.
    pub fn advance(&mut self, direction: Direction) -> bool {
        if direction != self.opener() {
            self.word |= REPLIED;
            return false;
        }
        if self.has_reply() {
            self.word |= ANSWERED;
        }
        self.has_reply()
    }
}

/// What of a slot is looked at once in a while.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Account {
    pub packets: u64,
    pub bytes: u64,
    pub first_seen_ms: u64,
    /// Slots of the unanswered flows entered before and after, or [`NOBODY`].
    pub older: u32,
    pub younger: u32,
    /// By hop; [`UNPINNED`] where there is none.
    pub pins: [u16; PINS],
}

/// No slot.
pub(crate) const NOBODY: u32 = u32::MAX;
/// No instance.
pub(crate) const UNPINNED: u16 = u16::MAX;
/// Hops of a flow that can be pinned to an instance.
pub const PINS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_has_64_bytes() {
        assert_eq!(
            [
                size_of::<Line>(),
                size_of::<FlowLine>(),
                size_of::<Account>(),
                size_of::<crate::bucket::Bucket>()
            ],
            [64; 4]
        );
    }

    #[test]
    fn a_generation_wraps_to_one_and_keeps_no_flags() {
        let mut line = FlowLine { word: GENERATION_MAX << FLAG_BITS | ANSWERED, ..FlowLine::zeroed() };
        line.renew();
        assert_eq!((line.generation(), line.is_answered()), (1, false));
    }

    #[test]
    fn a_flow_is_answered_by_the_third_leg_and_not_before() {
        let (own, other) = (Direction::FromHigher, Direction::FromLower);
        let mut line = FlowLine::zeroed();
        line.open(own, false);
        assert!(!line.advance(own), "the opener goes on without a reply");
        assert!(!line.advance(other) && line.has_reply() && !line.is_answered());
        assert!(!line.advance(other), "the other end goes on by itself");
        assert!(line.advance(own) && line.is_answered());
    }

    #[test]
    fn the_counters_of_a_line_hold_until_the_account_is_due() {
        assert!(u32::from(ACCOUNT_PACKETS) * u32::from(u16::MAX) < u32::MAX - u32::from(u16::MAX));
    }
}
