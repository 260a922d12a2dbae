//! What can be wrong with a plan, or with the tables that a guest finds.

use core::fmt;

use crate::layout::{
    DATA_ROOM_BYTES_MIN, HEADROOM_BYTES, NAME_BYTES, REFERENCES_MAX, REGION_BYTES_MIN, RING_SLOTS_MAX,
    RING_SLOTS_MIN, STRIDE_BYTES_MAX, VERSION_MAJOR,
};

/// Why an area cannot be planned or opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AreaError {
    /// A region must be a power of two: QEMU aborts on any other, a running VM included.
    RegionBytes {
        /// Bytes found.
        region_bytes: u64,
    },
    /// Buffers must be an odd number of cache lines apart, with room for headroom and data.
    Stride {
        /// Bytes found.
        stride_bytes: u32,
    },
    /// Headroom and the least data room must fit into a buffer.
    Headroom {
        /// Bytes found.
        headroom_bytes: u16,
        /// Distance between buffers.
        stride_bytes: u32,
    },
    /// The buffers do not fit into the region.
    Buffers {
        /// Where the last buffer would end.
        end_offset: u64,
        /// What there is.
        region_bytes: u64,
    },
    /// A ring needs a power of two within bounds.
    RingSlots {
        /// Slots asked for or found.
        slots: u32,
    },
    /// More references than a ring may bring.
    References {
        /// References asked for or found.
        count: u32,
    },
    /// More entries than the table's 16-bit count holds.
    TooMany {
        /// Which table.
        table: &'static str,
        /// Entries asked for.
        count: usize,
    },
    /// An endpoint without an lcore, or an lcore named twice.
    Lcores {
        /// Position of the endpoint in the area.
        endpoint: usize,
    },
    /// A name is empty, too long for its field, no UTF-8, or holds a zero byte.
    Name {
        /// Bytes of the name.
        name_bytes: usize,
    },
    /// The mapping is shorter than what must lie in it.
    Mapping {
        /// Bytes mapped.
        mapped_bytes: u64,
        /// Bytes needed.
        needed_bytes: u64,
    },
    /// The first word says that this is something else.
    Magic {
        /// Word found.
        found: u64,
        /// Word expected.
        expected: u64,
    },
    /// Another major version of the layout.
    Version {
        /// What the host wrote.
        host_major: u16,
    },
    /// A struct is shorter than its major version has it, or no multiple of eight bytes.
    EntryBytes {
        /// Which struct.
        what: &'static str,
        /// Bytes found.
        found: u32,
        /// Least bytes.
        expected: usize,
    },
    /// Something lies outside the section of its writer.
    OutsideSection {
        /// Which part.
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// Where the section starts.
        section_start: u64,
        /// Where the section ends.
        section_end: u64,
    },
    /// Something is not aligned.
    Alignment {
        /// Which part.
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// Two parts overlap.
    Overlap {
        /// The earlier part.
        first: &'static str,
        /// The later part.
        second: &'static str,
        /// Where the later one starts.
        offset: u64,
    },
    /// A code that layout version 1 does not know.
    Code {
        /// Which field.
        what: &'static str,
        /// Code found.
        code: u32,
    },
    /// The ring table does not give an endpoint one ring each way for each of its lcores.
    RingTable {
        /// Position of the endpoint in the area.
        endpoint: usize,
    },
    /// Region and control area belong to different domains or different runs of the switch.
    Cookie {
        /// Cookie that the region shows.
        found: u64,
        /// Cookie that the control area names.
        expected: u64,
    },
}

impl fmt::Display for AreaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::RegionBytes { region_bytes } => {
                write!(
                    f,
                    "region of {region_bytes} bytes, must be a power of two of at least {REGION_BYTES_MIN}"
                )
            }
            Self::Stride { stride_bytes } => write!(
                f,
                "buffer stride of {stride_bytes} bytes, must be an odd number of 64-byte cache lines from {} to {STRIDE_BYTES_MAX}",
                super::geometry::STRIDE_BYTES_MIN
            ),
            Self::Headroom { headroom_bytes, stride_bytes } => write!(
                f,
                "headroom of {headroom_bytes} bytes leaves less than {DATA_ROOM_BYTES_MIN} of a {stride_bytes} byte buffer, \
                 the usual headroom is {HEADROOM_BYTES}"
            ),
            Self::Buffers { end_offset, region_bytes } => {
                write!(f, "the buffers end at {end_offset} in a region of {region_bytes} bytes")
            }
            Self::RingSlots { slots } => {
                write!(
                    f,
                    "ring of {slots} slots, must be a power of two from {RING_SLOTS_MIN} to {RING_SLOTS_MAX}"
                )
            }
            Self::References { count } => {
                write!(f, "{count} references of a ring, must be at most {REFERENCES_MAX}")
            }
            Self::TooMany { table, count } => {
                write!(f, "{count} entries in the {table} table, at most {} fit", u16::MAX)
            }
            Self::Lcores { endpoint } => {
                write!(f, "endpoint {endpoint} must name at least one lcore and none of them twice")
            }
            Self::Name { name_bytes } => {
                write!(
                    f,
                    "name of {name_bytes} bytes, must be 1 to {NAME_BYTES} bytes of utf-8 without a zero byte"
                )
            }
            Self::Mapping { mapped_bytes, needed_bytes } => {
                write!(f, "mapping of {mapped_bytes} bytes, {needed_bytes} are needed")
            }
            Self::Magic { found, expected } => {
                write!(f, "memory starts with {found:#018x}, expected {expected:#018x}")
            }
            Self::Version { host_major } => write!(
                f,
                "the host speaks layout version {host_major}, this guest library speaks version {VERSION_MAJOR}"
            ),
            Self::EntryBytes { what, found, expected } => {
                write!(
                    f,
                    "{what} of {found} bytes, layout version {VERSION_MAJOR} has at least {expected}, in eights"
                )
            }
            Self::OutsideSection { what, offset, bytes, section_start, section_end } => write!(
                f,
                "{what} of {bytes} bytes at {offset} is outside its section {section_start}..{section_end}"
            ),
            Self::Alignment { what, offset, align } => {
                write!(f, "{what} at {offset} is not aligned to {align} bytes")
            }
            Self::Overlap { first, second, offset } => {
                write!(f, "{second} at {offset} overlaps the {first} before it")
            }
            Self::Code { what, code } => {
                write!(f, "{what} has code {code}, unknown in layout version {VERSION_MAJOR}")
            }
            Self::RingTable { endpoint } => write!(
                f,
                "the ring table does not give endpoint {endpoint} one ring each way for each of its lcores"
            ),
            Self::Cookie { found, expected } => {
                write!(f, "region shows cookie {found:#018x}, the control area names {expected:#018x}")
            }
        }
    }
}

impl core::error::Error for AreaError {}
