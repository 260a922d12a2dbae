//! The name of a flow in its table.

use core::num::NonZeroU32;

/// Names one flow until it ends: the slot it is in, and the slot's generation.
///
/// Generations have 24 bits: a name is mistaken for another flow's only after 16.7 million more flows have
/// been in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    pub(crate) slot: u32,
    pub(crate) generation: NonZeroU32,
}
