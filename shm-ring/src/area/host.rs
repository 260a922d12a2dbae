//! The host's view of a control area: it follows its own plan and reads no table back.

use alloc::vec::Vec;
use core::ptr::NonNull;

use super::AreaError;
use super::mapping::Mapping;
use super::plan::AreaLayout;
use crate::endpoint::{HostEndpoint, QueuePair};
use crate::layout::{ControlHeader, Direction, EndpointEntry, RingEntry};
use crate::reference::ReferenceTable;
use crate::ring::RingMemory;
use crate::sync::Ordering;

/// A control area as its host sees it. Everything was located by the host's own plan.
#[derive(Debug)]
pub struct HostArea<'m> {
    endpoints: Vec<HostEndpoint<'m>>,
}

impl<'m> HostArea<'m> {
    /// Writes header and tables of a new control area, the magic last, and everything else to zero.
    ///
    /// # Safety
    /// - `mapped_bytes` at `base` are mapped writable and stay in place for `'m`.
    /// - Everyone on this machine who writes these bytes does so atomically.
    ///
    /// # Errors
    /// If the mapping is shorter than [`AreaLayout::bytes`] or not aligned to a page.
    pub unsafe fn create(
        base: NonNull<u8>,
        mapped_bytes: usize,
        layout: &AreaLayout,
    ) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise is the same.
        let mapping = unsafe { Mapping::new(base, mapped_bytes) }?;
        let area = Self::locate(&mapping, layout)?;
        let header = layout.header();
        mapping.zero(0, layout.bytes())?;
        for (offset, facts) in endpoint_offsets(layout).zip(layout.endpoints()) {
            mapping.write(offset, facts)?;
        }
        for (position, ring) in (0u64..).zip(layout.rings()) {
            let offset = u64::from(header.ring_table_offset) + position * size_of_val(ring) as u64;
            mapping.write(offset, ring)?;
        }
        for (position, target) in (0u64..).zip(layout.targets()) {
            let offset = u64::from(header.target_table_offset) + position * size_of_val(target) as u64;
            mapping.write(offset, target)?;
        }
        mapping.write(0, &ControlHeader { magic: 0, ..*header })?;
        // Release: header and tables are visible to whoever sees the magic. Pairs with the Acquire in
        // `Tables::copy_and_check`.
        mapping.word(0)?.store(header.magic, Ordering::Release);
        Ok(area)
    }

    /// Takes over a control area that an earlier process of this host created by the same plan. Nothing in
    /// it is read or changed; the plan comes from the host's own records, never from the area.
    ///
    /// # Safety
    /// As for [`HostArea::create`].
    ///
    /// # Errors
    /// As for [`HostArea::create`].
    pub unsafe fn adopt(
        base: NonNull<u8>,
        mapped_bytes: usize,
        layout: &AreaLayout,
    ) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise is the same.
        let mapping = unsafe { Mapping::new(base, mapped_bytes) }?;
        Self::locate(&mapping, layout)
    }

    fn locate(mapping: &Mapping<'m>, layout: &AreaLayout) -> Result<Self, AreaError> {
        if mapping.bytes() < layout.bytes() {
            return Err(AreaError::Mapping { mapped_bytes: mapping.bytes(), needed_bytes: layout.bytes() });
        }
        let mut endpoints = Vec::with_capacity(layout.endpoints().len());
        for (offset, facts) in endpoint_offsets(layout).zip(layout.endpoints()) {
            let first = usize::from(facts.first_ring);
            let rings = &layout.rings()[first..first + usize::from(facts.ring_count)];
            endpoints.push(HostEndpoint::new(
                mapping.host_words(offset + core::mem::offset_of!(EndpointEntry, words) as u64)?,
                mapping.guest_words(facts.guest_words_offset)?,
                locate_pairs(mapping, rings)?,
            ));
        }
        Ok(Self { endpoints })
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// The endpoint at a position of the plan.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn endpoint(&self, position: usize) -> HostEndpoint<'m> {
        self.endpoints[position].clone()
    }

    /// The ring from an lcore to the endpoint at a position of the plan.
    #[must_use]
    pub fn host_to_guest(&self, position: usize, lcore: u16) -> Option<RingMemory<'m>> {
        Some(self.endpoints.get(position)?.pair(lcore)?.host_to_guest)
    }

    /// The ring back to an lcore from the endpoint at a position of the plan.
    #[must_use]
    pub fn guest_to_host(&self, position: usize, lcore: u16) -> Option<RingMemory<'m>> {
        Some(self.endpoints.get(position)?.pair(lcore)?.guest_to_host)
    }
}

fn endpoint_offsets(layout: &AreaLayout) -> impl Iterator<Item = u64> {
    let table = u64::from(layout.header().endpoint_table_offset);
    (0u64..).map(move |position| table + position * size_of::<EndpointEntry>() as u64)
}

/// The rings of one endpoint by lcore. The table is the caller's own or has been checked: one each way.
pub(super) fn locate_pairs<'m>(
    mapping: &Mapping<'m>,
    rings: &[RingEntry],
) -> Result<Vec<QueuePair<'m>>, AreaError> {
    let locate = |ring: &RingEntry| -> Result<RingMemory<'m>, AreaError> {
        Ok(RingMemory::new(
            mapping.counter_line(ring.produced_offset)?,
            mapping.counter_line(ring.consumed_offset)?,
            mapping.slots(ring.descriptors_offset, ring.slots)?,
        ))
    };
    let mut pairs = Vec::with_capacity(rings.len() / 2);
    for towards_guest in rings.iter().filter(|ring| ring.direction == Direction::HostToGuest as u8) {
        let is_way_back = |ring: &&RingEntry| {
            ring.direction == Direction::GuestToHost as u8 && ring.lcore == towards_guest.lcore
        };
        let endpoint = usize::from(towards_guest.endpoint);
        let back = rings.iter().find(is_way_back).ok_or(AreaError::RingTable { endpoint })?;
        pairs.push(QueuePair {
            lcore: towards_guest.lcore,
            host_to_guest: locate(towards_guest)?,
            guest_to_host: locate(back)?,
            references: ReferenceTable::new(
                mapping.references(towards_guest.references_offset, towards_guest.reference_count)?,
            ),
        });
    }
    Ok(pairs)
}
