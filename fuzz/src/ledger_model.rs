//! A second bookkeeper of a shard: slow, and written from the rules instead of the code.

use shm_ring::desc::{Desc, Kind};
use switch_core::frame::FrameLimits;
use switch_core::ledger::PacketPath;

/// First index of the shard.
pub const FIRST: u32 = 64;
/// Buffers of the shard.
pub const SIZE: usize = 12;
/// Endpoints that hold buffers of it.
pub const ENDPOINTS: u16 = 3;
/// What frames may look like there.
pub const LIMITS: FrameLimits =
    FrameLimits { stride_bytes: 2368, frame_bytes_min: 14, frame_bytes_max: 1600 };

/// One loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// To whom.
    pub endpoint: u16,
    /// With a packet or empty.
    pub kind: Kind,
    /// How far the packet had come.
    pub path: PacketPath,
}

/// Who has a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The free list.
    Pool,
    /// A driver.
    Pmd,
    /// The lcore.
    Lcore,
    /// An endpoint.
    Endpoint(Lent),
    /// Nobody, until it is proved that the endpoint has ended.
    Quarantined(Lent),
    /// Nobody but observers, who look at what was in it.
    Pinned,
}

/// All buffers of the shard.
#[derive(Debug)]
pub struct Model {
    /// Holder and generation of each.
    pub buffers: [(Holder, u16); SIZE],
    /// How many observers look at each.
    pub observers: [u16; SIZE],
}

impl Default for Model {
    fn default() -> Self {
        Self { buffers: [(Holder::Pool, 0); SIZE], observers: [0; SIZE] }
    }
}

impl Model {
    /// The buffer with this index, if it is of this shard.
    pub fn at(&mut self, index: u32) -> Option<&mut (Holder, u16)> {
        self.buffers.get_mut(local(index)?)
    }

    /// How many observers look at the buffer with this index, if it is of this shard.
    pub fn observers_of(&mut self, index: u32) -> Option<&mut u16> {
        self.observers.get_mut(local(index)?)
    }

    /// Whether the buffer is in this state.
    pub fn is(&mut self, index: u32, wanted: Holder) -> bool {
        self.at(index).is_some_and(|(holder, _)| *holder == wanted)
    }

    /// How many buffers have such a holder.
    #[must_use]
    pub fn count(&self, is_counted: impl Fn(&Holder) -> bool) -> u32 {
        self.buffers.iter().map(|(holder, _)| u32::from(is_counted(holder))).sum()
    }

    /// How many buffers an endpoint is charged for.
    #[must_use]
    pub fn held_by(&self, endpoint: u16) -> u32 {
        self.count(|holder| {
            matches!(holder, Holder::Endpoint(lent) | Holder::Quarantined(lent) if lent.endpoint == endpoint)
        })
    }

    /// The loans of an endpoint as it was told them: index, generation, loan.
    pub fn loans(&self, endpoint: u16) -> impl Iterator<Item = (u32, u16, Lent)> + '_ {
        (FIRST..).zip(&self.buffers).filter_map(move |(index, (holder, generation))| match holder {
            Holder::Endpoint(lent) if lent.endpoint == endpoint => Some((index, *generation, *lent)),
            _ => None,
        })
    }

    /// The loan that a descriptor ends, if this endpoint may end it with these very words.
    pub fn ends(&mut self, endpoint: u16, desc: &Desc) -> Option<Lent> {
        let (Holder::Endpoint(lent), generation) = *self.at(desc.buffer_index)? else { return None };
        let is_theirs = lent.endpoint == endpoint && generation == desc.generation;
        let goes_on = match desc.code {
            0x11..=0x13 => true,
            0x14 => false,
            0x15 if lent.kind == Kind::Empty => false,
            _ => return None,
        };
        let (offset, bytes) = (u64::from(desc.data_offset_bytes), u64::from(desc.data_len_bytes));
        let is_inside = offset + bytes <= u64::from(LIMITS.stride_bytes);
        let is_frame =
            (u64::from(LIMITS.frame_bytes_min)..=u64::from(LIMITS.frame_bytes_max)).contains(&bytes);
        (is_theirs && desc.flags == 0 && is_inside && (is_frame || !goes_on)).then_some(lent)
    }

    /// The buffer comes home from an endpoint.
    pub fn come_home(&mut self, index: u32) {
        if let Some((holder, generation)) = self.at(index) {
            *holder = Holder::Lcore;
            *generation = generation.wrapping_add(1);
        }
    }
}

fn local(index: u32) -> Option<usize> {
    usize::try_from(u64::from(index).checked_sub(u64::from(FIRST))?).ok()
}
