//! A security domain: the packet memory that the VMs of one trust group share.

use serde::Serialize;

use crate::cursor::Cursor;
use crate::form::{Form, Number, Step};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::word::words;

/// Bytes in front of the first buffer of a region.
pub const PAGE_BYTES: u64 = 4096;

pub(crate) const REGION_MIB: Key = Key {
    name: "region_mib",
    form: Form::Number(Number::power_of_two(2, 1 << 20)),
    presence: Presence::Needed,
    doc: "Packet memory of the domain; a power of two, because it becomes a PCI BAR.",
};
pub(crate) const STRIDE: Key = Key {
    name: "buffer_stride_bytes",
    // 128 bytes of headroom and 2048 of data at least; buf_len is 16 bits wide.
    form: Form::Number(Number { min: 2240, max: 65_472, step: Step::OddCacheLines }),
    presence: Presence::Number(2368),
    doc: "Distance between buffers; an odd number of cache lines spreads headers over the cache sets.",
};
const PAGES: Key = Key {
    name: "pages",
    form: Form::Word(Pages::WORDS),
    presence: Presence::Word(Pages::Hugetlb.word()),
    doc: "Which pages back the memory of the domain.",
};
/// The key by which ports, VMs and processes say where they belong.
pub(crate) const DOMAIN: Key = Key {
    name: "domain",
    form: Form::Reference(&["domain"]),
    presence: Presence::Needed,
    doc: "The domain it belongs to.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[domain]]",
    doc: "A security domain: VMs that trust each other with packet bytes.",
    keys: &[&NAME, &REGION_MIB, &STRIDE, &PAGES],
};

words! {
    /// Which pages back the memory of a domain.
    Pages {
        /// 2 MiB pages; the switch refuses to start without them.
        Hugetlb = "hugetlb",
        /// Ordinary pages.
        Plain = "plain",
        /// 2 MiB pages where enough are free, ordinary ones otherwise.
        HugetlbOrPlain = "hugetlb-or-plain",
    }
}

/// A security domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Packet memory, a power of two.
    pub region_mib: u32,
    /// Distance between buffers, an odd number of cache lines.
    pub buffer_stride_bytes: u32,
    /// Which pages back its memory.
    pub pages: Pages,
}

impl Domain {
    pub(crate) fn read(cursor: &Cursor<'_>, name: Option<&str>) -> Option<Self> {
        let region_mib = cursor.number(&REGION_MIB);
        let buffer_stride_bytes = cursor.number(&STRIDE);
        let pages = cursor.word(&PAGES).and_then(Pages::from_word);
        Some(Self {
            name: name?.to_owned(),
            region_mib: region_mib?,
            buffer_stride_bytes: buffer_stride_bytes?,
            pages: pages?,
        })
    }

    /// Bytes of the region.
    #[must_use]
    pub fn region_bytes(&self) -> u64 {
        u64::from(self.region_mib) << 20
    }

    /// Buffers that fit behind the first page of the region.
    #[must_use]
    pub fn buffer_count(&self) -> u64 {
        (self.region_bytes() - PAGE_BYTES) / u64::from(self.buffer_stride_bytes)
    }
}
