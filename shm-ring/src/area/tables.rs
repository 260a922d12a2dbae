//! A guest's private copy of header and tables, checked in full before anything is used.
//!
//! Arithmetic is in u64 and saturates: an end that would wrap becomes one that is refused.

use alloc::vec::Vec;

use super::mapping::{Mapping, Plain};
use super::plan::TargetKind;
use super::{AreaError, RegionGeometry};
use crate::layout::{
    CACHE_LINE_BYTES, CONTROL_MAGIC, COUNTER_LINE_BYTES, ControlHeader, DESC_BYTES, Direction, EndpointEntry,
    EndpointFacts, GuestWords, NAME_BYTES, PAGE_BYTES, REFERENCES_MAX, RING_SLOTS_MAX, RING_SLOTS_MIN,
    RingEntry, TargetEntry, VERSION_MAJOR, unpad_name,
};

/// Copies of what the host wrote, checked.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) header: ControlHeader,
    pub(super) region: RegionGeometry,
    pub(super) endpoints: Vec<EndpointFacts>,
    pub(super) rings: Vec<RingEntry>,
    pub(super) targets: Vec<TargetEntry>,
}

impl Tables {
    /// Copies header and tables once and checks the copy.
    pub(super) fn copy_and_check(mapping: &Mapping<'_>) -> Result<Self, AreaError> {
        // Acquire: header and tables are visible once the magic is. Pairs with the Release in `HostArea::create`.
        let found = mapping.word(0)?.load(core::sync::atomic::Ordering::Acquire);
        if found != CONTROL_MAGIC {
            return Err(AreaError::Magic { found, expected: CONTROL_MAGIC });
        }
        let header: ControlHeader = mapping.copy(0)?;
        check_header(&header, mapping.bytes())?;
        let endpoints = copy_table(
            mapping,
            header.endpoint_table_offset,
            header.endpoint_count,
            header.endpoint_entry_bytes,
        )?;
        let rings =
            copy_table(mapping, header.ring_table_offset, header.ring_count, header.ring_entry_bytes)?;
        let targets =
            copy_table(mapping, header.target_table_offset, header.target_count, header.target_entry_bytes)?;
        let region = RegionGeometry::from_header(&header)?;
        let tables = Self { header, region, endpoints, rings, targets };
        tables.check_places()?;
        tables.check_endpoints()?;
        tables.check_targets()?;
        Ok(tables)
    }

    /// Every part lies in the section of its writer, aligned, and no two overlap.
    fn check_places(&self) -> Result<(), AreaError> {
        let header = &self.header;
        let mut places = Places { header, taken: Vec::new() };
        places.host("header", 0, header.header_bytes.into(), 8)?;
        let table = |count: u16, entry_bytes: u16| u64::from(count) * u64::from(entry_bytes);
        let endpoint_table_bytes = table(header.endpoint_count, header.endpoint_entry_bytes);
        places.host("endpoint table", header.endpoint_table_offset.into(), endpoint_table_bytes, 8)?;
        let ring_table_bytes = table(header.ring_count, header.ring_entry_bytes);
        places.host("ring table", header.ring_table_offset.into(), ring_table_bytes, 8)?;
        let target_table_bytes = table(header.target_count, header.target_entry_bytes);
        places.host("target table", header.target_table_offset.into(), target_table_bytes, 8)?;
        for endpoint in &self.endpoints {
            let words_bytes = u64::from(header.guest_words_bytes);
            places.guest("guest words", endpoint.guest_words_offset, words_bytes, CACHE_LINE_BYTES.into())?;
        }
        for ring in &self.rings {
            places.ring(ring)?;
        }
        places.check_overlap()
    }

    /// The rings of each endpoint name it and pair up; no ring belongs to nobody.
    fn check_endpoints(&self) -> Result<(), AreaError> {
        let mut owned_rings = 0;
        for (position, endpoint) in self.endpoints.iter().enumerate() {
            check_name(&endpoint.service_name)?;
            let wrong = AreaError::RingTable { endpoint: position };
            let rings = self.rings_of(position).ok_or(wrong.clone())?;
            owned_rings += rings.len();
            let pairs_up = |ring: &RingEntry| {
                usize::from(ring.endpoint) == position
                    && rings.iter().filter(|other| other.lcore == ring.lcore).count() == 2
                    && rings
                        .iter()
                        .any(|other| other.lcore == ring.lcore && other.direction != ring.direction)
            };
            if rings.is_empty() || !rings.iter().all(pairs_up) {
                return Err(wrong);
            }
        }
        // Rings name their endpoint and endpoints' ranges hold only their own, so ranges cannot overlap.
        if owned_rings != self.rings.len() {
            return Err(AreaError::RingTable { endpoint: self.endpoints.len() });
        }
        Ok(())
    }

    fn check_targets(&self) -> Result<(), AreaError> {
        for target in &self.targets {
            if TargetKind::from_code(target.kind).is_none() {
                return Err(AreaError::Code { what: "target kind", code: target.kind.into() });
            }
            check_name(&target.name)?;
        }
        Ok(())
    }

    /// The entries of an endpoint's rings, if its range lies in the table.
    pub(super) fn rings_of(&self, endpoint: usize) -> Option<&[RingEntry]> {
        let EndpointFacts { first_ring, ring_count, .. } = *self.endpoints.get(endpoint)?;
        let first = usize::from(first_ring);
        self.rings.get(first..first + usize::from(ring_count))
    }
}

fn check_header(header: &ControlHeader, mapped_bytes: u64) -> Result<(), AreaError> {
    if header.version_major != VERSION_MAJOR {
        return Err(AreaError::Version { host_major: header.version_major });
    }
    for (what, found, expected) in [
        ("control header", header.header_bytes, size_of::<ControlHeader>()),
        ("endpoint entry", header.endpoint_entry_bytes.into(), size_of::<EndpointEntry>()),
        ("ring entry", header.ring_entry_bytes.into(), size_of::<RingEntry>()),
        ("target entry", header.target_entry_bytes.into(), size_of::<TargetEntry>()),
        ("guest words", header.guest_words_bytes, size_of::<GuestWords>()),
    ] {
        if (found as usize) < expected || !found.is_multiple_of(8) {
            return Err(AreaError::EntryBytes { what, found, expected });
        }
    }
    if header.control_bytes > mapped_bytes {
        return Err(AreaError::Mapping { mapped_bytes, needed_bytes: header.control_bytes });
    }
    let (offset, align) = (header.guest_section_offset, PAGE_BYTES as u64);
    if !offset.is_multiple_of(align) {
        return Err(AreaError::Alignment { what: "guest section", offset, align });
    }
    if offset > header.control_bytes {
        return Err(AreaError::OutsideSection {
            what: "guest section",
            offset,
            bytes: 0,
            section_start: 0,
            section_end: header.control_bytes,
        });
    }
    if header.access > 1 {
        return Err(AreaError::Code { what: "access", code: header.access.into() });
    }
    Ok(())
}

fn copy_table<T: Plain>(
    mapping: &Mapping<'_>,
    table_offset: u32,
    count: u16,
    entry_bytes: u16,
) -> Result<Vec<T>, AreaError> {
    (0..u64::from(count))
        .map(|entry| mapping.copy(u64::from(table_offset) + entry * u64::from(entry_bytes)))
        .collect()
}

fn check_name(field: &[u8; NAME_BYTES]) -> Result<(), AreaError> {
    let name_bytes = field.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
    unpad_name(field).map(|_| ()).ok_or(AreaError::Name { name_bytes })
}

/// The parts found so far.
struct Places<'t> {
    header: &'t ControlHeader,
    taken: Vec<(u64, u64, &'static str)>,
}

impl Places<'_> {
    fn host(&mut self, what: &'static str, offset: u64, bytes: u64, align: u64) -> Result<(), AreaError> {
        self.take(what, offset, bytes, align, 0, self.header.guest_section_offset)
    }

    fn guest(&mut self, what: &'static str, offset: u64, bytes: u64, align: u64) -> Result<(), AreaError> {
        self.take(what, offset, bytes, align, self.header.guest_section_offset, self.header.control_bytes)
    }

    fn take(
        &mut self,
        what: &'static str,
        offset: u64,
        bytes: u64,
        align: u64,
        section_start: u64,
        section_end: u64,
    ) -> Result<(), AreaError> {
        if !offset.is_multiple_of(align) {
            return Err(AreaError::Alignment { what, offset, align });
        }
        let end = offset.saturating_add(bytes);
        if offset < section_start || end > section_end {
            return Err(AreaError::OutsideSection { what, offset, bytes, section_start, section_end });
        }
        self.taken.push((offset, end, what));
        Ok(())
    }

    fn ring(&mut self, ring: &RingEntry) -> Result<(), AreaError> {
        if !ring.slots.is_power_of_two() || !(RING_SLOTS_MIN..=RING_SLOTS_MAX).contains(&ring.slots) {
            return Err(AreaError::RingSlots { slots: ring.slots });
        }
        if ring.class != 0 {
            return Err(AreaError::Code { what: "traffic class", code: ring.class.into() });
        }
        let line = COUNTER_LINE_BYTES as u64;
        let descriptors_bytes = u64::from(ring.slots) * DESC_BYTES as u64;
        let align = u64::from(CACHE_LINE_BYTES);
        match Direction::from_code(ring.direction) {
            Some(Direction::HostToGuest) => {
                self.host("produced", ring.produced_offset, line, line)?;
                self.host("descriptors", ring.descriptors_offset, descriptors_bytes, align)?;
                self.references(ring)?;
                self.guest("consumed", ring.consumed_offset, line, line)
            }
            Some(Direction::GuestToHost) if ring.reference_count > 0 => {
                Err(AreaError::References { count: ring.reference_count })
            }
            Some(Direction::GuestToHost) => {
                self.guest("produced", ring.produced_offset, line, line)?;
                self.guest("descriptors", ring.descriptors_offset, descriptors_bytes, align)?;
                self.host("consumed", ring.consumed_offset, line, line)
            }
            None => Err(AreaError::Code { what: "ring direction", code: ring.direction.into() }),
        }
    }

    fn references(&mut self, ring: &RingEntry) -> Result<(), AreaError> {
        let RingEntry { reference_count: count, references_offset, .. } = *ring;
        match count {
            0 => Ok(()),
            1..=REFERENCES_MAX => {
                let words_bytes = u64::from(count) * size_of::<u32>() as u64;
                self.host("words of references", references_offset, words_bytes, CACHE_LINE_BYTES.into())
            }
            _ => Err(AreaError::References { count }),
        }
    }

    fn check_overlap(mut self) -> Result<(), AreaError> {
        self.taken.sort_unstable();
        for pair in self.taken.windows(2) {
            let ((_, first_end, first), (offset, _, second)) = (pair[0], pair[1]);
            if offset < first_end {
                return Err(AreaError::Overlap { first, second, offset });
            }
        }
        Ok(())
    }
}
