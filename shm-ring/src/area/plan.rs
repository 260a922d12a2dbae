//! Where everything goes in a control area that the host is about to create.

use alloc::string::String;
use alloc::vec::Vec;

use super::{AreaError, RegionGeometry};
use crate::layout::{
    CACHE_LINE_BYTES, CONTROL_BYTES_MIN, CONTROL_MAGIC, COUNTER_LINE_BYTES, ControlHeader, DESC_BYTES,
    Direction, EndpointEntry, EndpointFacts, GuestWords, NAME_BYTES, PAGE_BYTES, REFERENCES_MAX,
    RING_SLOTS_MAX, RING_SLOTS_MIN, RingEntry, TargetEntry, VERSION_MAJOR, VERSION_MINOR,
};

/// What a control area is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaSpec {
    /// The region whose buffers the rings name.
    pub region: RegionGeometry,
    /// See [`ControlHeader::access`].
    pub access: u16,
    /// Feature bits offered.
    pub features_offered: u64,
    /// In the order in which both sides count them.
    pub endpoints: Vec<EndpointSpec>,
    /// What the endpoints may name in verdicts.
    pub targets: Vec<TargetSpec>,
}

/// One endpoint of a control area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The switch's number for it.
    pub endpoint_id: u16,
    /// The service it is an instance of.
    pub service_id: u16,
    /// Name of the service, 1 to [`NAME_BYTES`] bytes.
    pub service_name: String,
    /// Most buffers it may hold at once.
    pub quota_buffers: u32,
    /// Empty buffers it may be lent at once.
    pub credit_buffers: u32,
    /// References that each of its queue pairs may bring at once: of an observer; else 0.
    pub references: u32,
    /// Slots wanted for each ring; rounded up to a power of two.
    pub ring_slots: u32,
    /// One queue pair for each.
    pub lcores: Vec<u16>,
}

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TargetKind {
    /// Named by the verdict `ToService`.
    Service = 1,
    /// Named by the verdict `ToPort`.
    Port = 2,
}

impl TargetKind {
    /// The kind with this code, if there is one.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Service),
            2 => Some(Self::Port),
            _ => None,
        }
    }
}

/// A service or port that verdicts may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// Service or port.
    pub kind: TargetKind,
    /// The id that goes into a descriptor's `aux`.
    pub id: u16,
    /// Its name, 1 to [`NAME_BYTES`] bytes.
    pub name: String,
}

/// A finished plan: the header and tables of a control area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaLayout {
    header: ControlHeader,
    endpoints: Vec<EndpointFacts>,
    rings: Vec<RingEntry>,
    targets: Vec<TargetEntry>,
}

impl AreaLayout {
    /// Lays out a control area.
    ///
    /// Rings towards the guest have `ring_slots` slots, rings back at least `quota_buffers` and `references`, so
    /// that an honest guest can always give back what it has.
    ///
    /// # Errors
    /// Naming the figure that breaks a rule of the layout.
    pub fn plan(spec: &AreaSpec) -> Result<Self, AreaError> {
        spec.region.check()?;
        if spec.access > 1 {
            return Err(AreaError::Code { what: "access", code: u32::from(spec.access) });
        }
        let mut host = Cursor { next: size_of::<ControlHeader>() as u64 };
        let endpoint_count = count16("endpoint", spec.endpoints.len())?;
        let endpoint_table = host.take(u64::from(endpoint_count) * size_of::<EndpointEntry>() as u64, 8);
        let pairs: usize = spec.endpoints.iter().map(|endpoint| endpoint.lcores.len()).sum();
        let ring_count = count16("ring", pairs.saturating_mul(2))?;
        let ring_table = host.take(u64::from(ring_count) * size_of::<RingEntry>() as u64, 8);
        let target_count = count16("target", spec.targets.len())?;
        let target_table = host.take(u64::from(target_count) * size_of::<TargetEntry>() as u64, 8);

        let mut endpoints = plan_endpoints(&spec.endpoints)?;
        let mut rings = plan_rings(&spec.endpoints)?;
        place_rings(&mut rings, &mut host, Direction::HostToGuest);
        place_references(&mut rings, &mut host);
        let guest_section_offset = host.next.next_multiple_of(PAGE_BYTES as u64);
        let mut guest = Cursor { next: guest_section_offset };
        for endpoint in &mut endpoints {
            endpoint.guest_words_offset =
                guest.take(size_of::<GuestWords>() as u64, u64::from(CACHE_LINE_BYTES));
        }
        place_rings(&mut rings, &mut guest, Direction::GuestToHost);

        let header = ControlHeader {
            magic: CONTROL_MAGIC,
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            header_bytes: entry_bytes::<ControlHeader>().into(),
            control_bytes: guest.next.next_multiple_of(PAGE_BYTES as u64),
            features_offered: spec.features_offered,
            guest_section_offset,
            region_bytes: spec.region.region_bytes,
            region_cookie: spec.region.cookie,
            buffers_offset: spec.region.buffers_offset,
            buffer_stride_bytes: spec.region.buffer_stride_bytes,
            buffer_count: spec.region.buffer_count,
            headroom_bytes: spec.region.headroom_bytes,
            access: spec.access,
            endpoint_table_offset: table_offset(endpoint_table),
            ring_table_offset: table_offset(ring_table),
            target_table_offset: table_offset(target_table),
            endpoint_count,
            endpoint_entry_bytes: entry_bytes::<EndpointEntry>(),
            ring_count,
            ring_entry_bytes: entry_bytes::<RingEntry>(),
            target_count,
            target_entry_bytes: entry_bytes::<TargetEntry>(),
            guest_words_bytes: entry_bytes::<GuestWords>().into(),
            reserved: [0; 24],
        };
        Ok(Self { header, endpoints, rings, targets: plan_targets(&spec.targets)? })
    }

    /// Bytes to map: a power of two, since it becomes a PCI BAR.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.header.control_bytes.next_power_of_two().max(CONTROL_BYTES_MIN)
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &ControlHeader {
        &self.header
    }

    /// The endpoint table, without the words that change at run time.
    #[must_use]
    pub fn endpoints(&self) -> &[EndpointFacts] {
        &self.endpoints
    }

    /// The ring table.
    #[must_use]
    pub fn rings(&self) -> &[RingEntry] {
        &self.rings
    }

    /// The target table.
    #[must_use]
    pub fn targets(&self) -> &[TargetEntry] {
        &self.targets
    }
}

/// Gives out one section of the area from front to back.
struct Cursor {
    next: u64,
}

impl Cursor {
    fn take(&mut self, bytes: u64, align: u64) -> u64 {
        // Tables of 2¹⁶ entries and rings of 2¹⁵ slots stay far below 2⁶⁴.
        let start = self.next.next_multiple_of(align);
        self.next = start + bytes;
        start
    }
}

fn count16(table: &'static str, count: usize) -> Result<u16, AreaError> {
    u16::try_from(count).map_err(|_| AreaError::TooMany { table, count })
}

/// Three tables of at most 2¹⁶ entries of at most 128 bytes start below 2³².
#[allow(
    clippy::cast_possible_truncation,
    reason = "three tables of 2^16 entries of 128 bytes end below 2^25"
)]
fn table_offset(offset: u64) -> u32 {
    offset as u32
}

#[allow(clippy::cast_possible_truncation, reason = "no struct of the layout is longer than 512 bytes")]
const fn entry_bytes<T>() -> u16 {
    assert!(size_of::<T>() <= 512);
    size_of::<T>() as u16
}

fn plan_endpoints(specs: &[EndpointSpec]) -> Result<Vec<EndpointFacts>, AreaError> {
    let mut first_ring = 0;
    let mut endpoints = Vec::with_capacity(specs.len());
    for (endpoint, spec) in specs.iter().enumerate() {
        let mut lcores = spec.lcores.clone();
        lcores.sort_unstable();
        if lcores.is_empty() || lcores.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(AreaError::Lcores { endpoint });
        }
        let ring_count = count16("ring", lcores.len().saturating_mul(2))?;
        endpoints.push(EndpointFacts {
            endpoint_id: spec.endpoint_id,
            service_id: spec.service_id,
            first_ring,
            ring_count,
            quota_buffers: spec.quota_buffers,
            credit_buffers: spec.credit_buffers,
            guest_words_offset: 0,
            service_name: pad_name(&spec.service_name)?,
            reserved0: 0,
        });
        // The total has passed `count16` already.
        first_ring = first_ring.saturating_add(ring_count);
    }
    Ok(endpoints)
}

/// The rings in table order, not placed yet.
fn plan_rings(specs: &[EndpointSpec]) -> Result<Vec<RingEntry>, AreaError> {
    let mut rings = Vec::new();
    for (endpoint, spec) in specs.iter().enumerate() {
        if spec.references > REFERENCES_MAX {
            return Err(AreaError::References { count: spec.references });
        }
        let towards_guest = round_slots(spec.ring_slots)?;
        let back = round_slots(spec.ring_slots.max(spec.quota_buffers).max(spec.references))?;
        for &lcore in &spec.lcores {
            for (direction, slots) in
                [(Direction::HostToGuest, towards_guest), (Direction::GuestToHost, back)]
            {
                rings.push(RingEntry {
                    direction: direction as u8,
                    class: 0,
                    endpoint: count16("endpoint", endpoint)?,
                    lcore,
                    reserved0: 0,
                    slots,
                    doorbell_id: u32::MAX,
                    produced_offset: 0,
                    consumed_offset: 0,
                    descriptors_offset: 0,
                    metadata_offset: 0,
                    references_offset: 0,
                    reference_count: if direction == Direction::HostToGuest { spec.references } else { 0 },
                    reserved1: 0,
                });
            }
        }
    }
    Ok(rings)
}

fn round_slots(slots: u32) -> Result<u32, AreaError> {
    let rounded = slots.checked_next_power_of_two().unwrap_or(u32::MAX);
    if slots == 0 || rounded > RING_SLOTS_MAX {
        return Err(AreaError::RingSlots { slots });
    }
    Ok(rounded.max(RING_SLOTS_MIN))
}

/// Places in one section what its writer writes of each ring: the producer's counter and descriptors of the
/// rings of direction `produced_here`, the consumer's counter of the others. Counters first, so that they
/// share pages with each other, not with descriptors.
fn place_rings(rings: &mut [RingEntry], section: &mut Cursor, produced_here: Direction) {
    let line = COUNTER_LINE_BYTES as u64;
    for ring in rings.iter_mut() {
        let counter = section.take(line, line);
        if ring.direction == produced_here as u8 {
            ring.produced_offset = counter;
        } else {
            ring.consumed_offset = counter;
        }
    }
    for ring in rings.iter_mut().filter(|ring| ring.direction == produced_here as u8) {
        ring.descriptors_offset = section.take(u64::from(ring.slots) * DESC_BYTES as u64, line);
    }
}

/// Places the words of references; those of each lcore on lines of their own.
fn place_references(rings: &mut [RingEntry], host: &mut Cursor) {
    for ring in rings.iter_mut().filter(|ring| ring.reference_count > 0) {
        let words_bytes = u64::from(ring.reference_count) * size_of::<u32>() as u64;
        ring.references_offset = host.take(words_bytes, COUNTER_LINE_BYTES as u64);
    }
}

fn plan_targets(specs: &[TargetSpec]) -> Result<Vec<TargetEntry>, AreaError> {
    specs
        .iter()
        .map(|spec| {
            Ok(TargetEntry { kind: spec.kind as u8, reserved: 0, id: spec.id, name: pad_name(&spec.name)? })
        })
        .collect()
}

fn pad_name(name: &str) -> Result<[u8; NAME_BYTES], AreaError> {
    let name_bytes = name.len();
    let mut padded = [0; NAME_BYTES];
    match padded.get_mut(..name_bytes) {
        Some(field) if name_bytes > 0 && !name.bytes().any(|byte| byte == 0) => {
            field.copy_from_slice(name.as_bytes());
            Ok(padded)
        }
        _ => Err(AreaError::Name { name_bytes }),
    }
}
