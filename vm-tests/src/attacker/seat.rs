//! Where everything of one endpoint lies in its control area: read once, before anything is scribbled over.

use std::mem::offset_of;

use shm_ring::layout::{
    CONTROL_MAGIC, ControlHeader, Direction, EndpointEntry, EndpointFacts, GuestWords, HostWords, RingEntry,
    TargetEntry,
};

use super::memory::Memory;

/// One ring, by offsets.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Of the producer's counter.
    pub produced: usize,
    /// Of the consumer's counter.
    pub consumed: usize,
    /// Of the first slot.
    pub slots_at: usize,
    /// How many slots.
    pub slots: u32,
}

impl Ring {
    /// Where the slot of a position lies.
    #[must_use]
    pub fn slot(&self, position: u32) -> usize {
        self.slots_at + (position & (self.slots - 1)) as usize * 16
    }
}

/// What an endpoint may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// 1 = service, 2 = port.
    pub kind: u8,
    /// Its id.
    pub id: u16,
}

/// Offsets of the words of a handshake: those of [`HostWords`], then those of [`GuestWords`].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each is the field of that name")]
pub struct Words {
    pub epoch: usize,
    pub phase: usize,
    pub answered_nonce: usize,
    pub refusal: usize,
    pub attach_nonce: usize,
    pub version: usize,
    pub features: usize,
    pub confirmed_epoch: usize,
    pub detached_epoch: usize,
    pub reaped_epoch: usize,
    pub draining_epoch: usize,
    pub heartbeat: usize,
    pub counters: usize,
}

/// The first endpoint of a control area, and the region beside it.
#[derive(Clone, Debug)]
pub struct Seat {
    /// The words of the handshake.
    pub words: Words,
    /// From the host.
    pub to_guest: Ring,
    /// To the host.
    pub to_host: Ring,
    /// What verdicts may name.
    pub targets: Vec<Target>,
    /// Where the guest section starts.
    pub guest_section: usize,
    /// Bytes of the region.
    pub region_bytes: usize,
    /// Where buffer 0 starts in the region.
    pub buffers_at: usize,
    /// Distance between buffers.
    pub stride: usize,
    /// Number of buffers.
    pub buffers: u32,
    /// Header and tables as the host wrote them, without the words that change: offset and bytes.
    facts: Vec<(usize, Vec<u8>)>,
}

/// A field of a struct that lies at `at`.
macro_rules! field {
    ($at:expr, $type:ty, $field:ident) => {
        $at + offset_of!($type, $field)
    };
}

impl Words {
    fn at(host: usize, guest: usize) -> Self {
        Self {
            epoch: field!(host, HostWords, epoch),
            phase: field!(host, HostWords, phase),
            answered_nonce: field!(host, HostWords, answered_nonce),
            refusal: field!(host, HostWords, refusal),
            attach_nonce: field!(guest, GuestWords, attach_nonce),
            version: field!(guest, GuestWords, version),
            features: field!(guest, GuestWords, features_accepted),
            confirmed_epoch: field!(guest, GuestWords, confirmed_epoch),
            detached_epoch: field!(guest, GuestWords, detached_epoch),
            reaped_epoch: field!(guest, GuestWords, reaped_epoch),
            draining_epoch: field!(guest, GuestWords, draining_epoch),
            heartbeat: field!(guest, GuestWords, heartbeat),
            counters: field!(guest, GuestWords, counters),
        }
    }
}

impl Seat {
    /// Reads header and tables. `None`: this is no control area, or one without a ring pair.
    #[must_use]
    pub fn read(control: &Memory) -> Option<Self> {
        if control.load64(0) != CONTROL_MAGIC {
            return None;
        }
        let half = |at: usize| control.load16(at);
        let word = |at: usize| control.load32(at) as usize;
        let long = |at: usize| usize::try_from(control.load64(at)).unwrap_or(0);
        let entry = word(field!(0, ControlHeader, endpoint_table_offset));
        let (ring_table, rings) =
            (word(field!(0, ControlHeader, ring_table_offset)), half(field!(0, ControlHeader, ring_count)));
        let (target_table, targets) = (
            word(field!(0, ControlHeader, target_table_offset)),
            half(field!(0, ControlHeader, target_count)),
        );
        let ring = |direction: Direction| {
            let entries =
                (0..usize::from(rings)).map(|position| ring_table + position * size_of::<RingEntry>());
            let at =
                entries.into_iter().find(|at| control.load64(*at).to_le_bytes()[0] == direction as u8)?;
            Some(Ring {
                produced: long(field!(at, RingEntry, produced_offset)),
                consumed: long(field!(at, RingEntry, consumed_offset)),
                slots_at: long(field!(at, RingEntry, descriptors_offset)),
                slots: control.load32(field!(at, RingEntry, slots)),
            })
        };
        let target = |position: usize| {
            let at = target_table + position * size_of::<TargetEntry>();
            let kind = control.load64(at).to_le_bytes()[0];
            Target { kind, id: half(field!(at, TargetEntry, id)) }
        };
        let endpoints = usize::from(half(field!(0, ControlHeader, endpoint_count)));
        let facts = (0..endpoints).map(|position| {
            let at = entry + position * size_of::<EndpointEntry>();
            at..at + size_of::<EndpointFacts>()
        });
        let facts = facts.chain([
            0..size_of::<ControlHeader>(),
            ring_table..ring_table + usize::from(rings) * size_of::<RingEntry>(),
            target_table..target_table + usize::from(targets) * size_of::<TargetEntry>(),
        ]);
        Some(Self {
            words: Words::at(
                field!(entry, EndpointEntry, words),
                long(field!(entry, EndpointFacts, guest_words_offset)),
            ),
            to_guest: ring(Direction::HostToGuest)?,
            to_host: ring(Direction::GuestToHost)?,
            targets: (0..usize::from(targets)).map(target).collect(),
            guest_section: long(field!(0, ControlHeader, guest_section_offset)),
            region_bytes: long(field!(0, ControlHeader, region_bytes)),
            buffers_at: long(field!(0, ControlHeader, buffers_offset)),
            stride: word(field!(0, ControlHeader, buffer_stride_bytes)),
            buffers: control.load32(field!(0, ControlHeader, buffer_count)),
            facts: facts.map(|range| (range.start, control.copy(range))).collect(),
        })
    }

    /// Puts header and tables back, so that whoever comes after this program can read them.
    pub fn restore(&self, control: &Memory) {
        for (at, bytes) in &self.facts {
            control.write(*at, bytes);
        }
    }

    /// Where the data of a received packet starts in the region.
    #[must_use]
    pub fn data_at(&self, index: u32, offset: u16) -> usize {
        self.buffers_at + index as usize * self.stride + usize::from(offset)
    }
}
