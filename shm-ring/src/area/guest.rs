//! The guest's view of a control area: tables copied once, checked, then followed.

use alloc::vec::Vec;
use core::ptr::NonNull;

use super::host::locate_pairs;
use super::mapping::Mapping;
use super::plan::{TargetKind, TargetSpec};
use super::tables::Tables;
use super::{AreaError, RegionGeometry};
use crate::endpoint::{GuestEndpoint, QueuePair};
use crate::layout::{ControlHeader, EndpointEntry, FEATURES_KNOWN, unpad_name};

/// A control area as a guest sees it, checked.
#[derive(Debug)]
pub struct GuestArea<'m> {
    tables: Tables,
    endpoints: Vec<GuestEndpoint<'m>>,
}

impl<'m> GuestArea<'m> {
    /// Copies header and tables once, checks the copy in full, and locates everything by it.
    ///
    /// # Safety
    /// - `mapped_bytes` at `base` are mapped readable and writable and stay in place for `'m`.
    /// - Everyone on this machine who writes these bytes does so atomically.
    ///
    /// # Errors
    /// Naming what was found and what was expected.
    pub unsafe fn open(base: NonNull<u8>, mapped_bytes: usize) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise is the same.
        let mapping = unsafe { Mapping::new(base, mapped_bytes) }?;
        let tables = Tables::copy_and_check(&mapping)?;
        let table = u64::from(tables.header.endpoint_table_offset);
        let mut endpoints = Vec::with_capacity(tables.endpoints.len());
        for (position, facts) in tables.endpoints.iter().enumerate() {
            let entry = table + position as u64 * u64::from(tables.header.endpoint_entry_bytes);
            let rings = tables.rings_of(position).unwrap_or_default();
            endpoints.push(GuestEndpoint::new(
                *facts,
                tables.header.features_offered & FEATURES_KNOWN,
                mapping.host_words(entry + core::mem::offset_of!(EndpointEntry, words) as u64)?,
                mapping.guest_words(facts.guest_words_offset)?,
                locate_pairs(&mapping, rings)?,
            ));
        }
        Ok(Self { tables, endpoints })
    }

    /// The header, as copied.
    #[must_use]
    pub fn header(&self) -> &ControlHeader {
        &self.tables.header
    }

    /// How the region divides into buffers.
    #[must_use]
    pub fn region(&self) -> &RegionGeometry {
        &self.tables.region
    }

    /// How many endpoints this VM or process has.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// The endpoint at a position of the table.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn endpoint(&self, position: usize) -> GuestEndpoint<'m> {
        self.endpoints[position].clone()
    }

    /// The rings between an endpoint and an lcore.
    #[must_use]
    pub fn rings(&self, position: usize, lcore: u16) -> Option<QueuePair<'m>> {
        self.endpoints.get(position)?.pair(lcore).copied()
    }

    /// The lcores that an endpoint has rings with.
    pub fn lcores(&self, position: usize) -> impl Iterator<Item = u16> + use<'_, 'm> {
        self.endpoints.get(position).into_iter().flat_map(GuestEndpoint::queue_pairs).map(|pair| pair.lcore)
    }

    /// What verdicts may name.
    pub fn targets(&self) -> impl Iterator<Item = TargetSpec> + use<'_, 'm> {
        // Kinds and names were checked by `open`, so nothing is left out here.
        self.tables.targets.iter().filter_map(|entry| {
            let kind = TargetKind::from_code(entry.kind)?;
            let name = unpad_name(&entry.name)?.into();
            Some(TargetSpec { kind, id: entry.id, name })
        })
    }
}
