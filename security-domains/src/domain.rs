//! A security domain: the packet memory that the VMs of one trust group share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::form::{Form, Number, Step};
use crate::key::{Key, Presence, Table};
use crate::limit::{Limit, LimitKeys};
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
const PATH: Key = Key {
    name: "path",
    form: Form::Text("an absolute path of a file without `.` or `..` in it"),
    presence: Presence::Optional,
    doc: "A file that the switch makes for the memory of the domain, for launchers other than `netvm boot`; each \
          control area is the file `PATH.OWNER`. On hugetlbfs, unless `pages` allows ordinary ones. A file cannot \
          be sealed: whoever truncates it takes the domain down.",
};
const SHARE: Key = Key {
    name: "share",
    form: Form::Number(Number::between(1, 1000)),
    presence: Presence::Number(1),
    doc: "Its weight where domains compete for an lcore's cycles or for a shared port.",
};
const LIMIT: LimitKeys = LimitKeys::new(
    "Most packets that enter it in a second, from ports, over edges and made in it; what is above is dropped as domain_rate.",
    "Most megabits that enter it in a second, counted likewise; what is above is dropped as domain_rate.",
);
/// The key by which VMs and processes say where they belong.
pub(crate) const DOMAIN: Key = Key {
    name: "domain",
    form: Form::Reference(&["domain"]),
    presence: Presence::Needed,
    doc: "The domain it belongs to.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[domain]]",
    doc: "A security domain: VMs that trust each other with packet bytes.",
    keys: &[&NAME, &REGION_MIB, &STRIDE, &PAGES, &PATH, &SHARE, &LIMIT.pps, &LIMIT.mbit],
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
    /// The file of its memory; `None`: memory without a name, which is sealed.
    pub path: Option<PathBuf>,
    /// Its weight where domains compete.
    pub share: u16,
    /// How much may enter it.
    #[serde(flatten)]
    pub limit: Limit,
}

/// Files that are taken, each with the path of its domain.
pub(crate) type Files = BTreeMap<String, String>;

impl Domain {
    pub(crate) fn read(cursor: &Cursor<'_>, name: Option<&str>, files: &mut Files) -> Option<Self> {
        let region_mib = cursor.number(&REGION_MIB);
        let buffer_stride_bytes = cursor.number(&STRIDE);
        let pages = cursor.word(&PAGES).and_then(Pages::from_word);
        let path = if cursor.has(&PATH) { Some(read_path(cursor, files)) } else { None };
        let share = cursor.number_u16(&SHARE);
        let limit = Limit::read(cursor, &LIMIT);
        Some(Self {
            name: name?.to_owned(),
            region_mib: region_mib?,
            buffer_stride_bytes: buffer_stride_bytes?,
            pages: pages?,
            path: path.map_or(Some(None), |path| path.map(Some))?,
            share: share?,
            limit: limit?,
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
        buffers_in(self.region_mib, self.buffer_stride_bytes)
    }
}

fn read_path(cursor: &Cursor<'_>, files: &mut Files) -> Option<PathBuf> {
    let text = cursor.text(&PATH)?;
    let is_plain = |part: &str| !["", ".", ".."].contains(&part);
    if !text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_plain)) {
        let near = nearest_path(text).map(|near| format!("\"{near}\""));
        cursor.refuse(&PATH, Kind::Value, PATH.form.rule(), near.into_iter().collect());
        return None;
    }
    if let Some((file, owner)) = files.iter().find(|(file, _)| one_folder_one_name(file, text)) {
        let rule = format!(
            "must be another file than {file} of {owner}, also without an ending behind a dot: control areas have those"
        );
        cursor.refuse(&PATH, Kind::Conflict, rule, Vec::new());
        return None;
    }
    files.insert(text.to_owned(), cursor.path().to_owned());
    Some(PathBuf::from(text))
}

/// Whether one of the two is the other, or may be the file of a control area beside it.
fn one_folder_one_name(one: &str, other: &str) -> bool {
    let beside = |file: &str, area: &str| area.strip_prefix(file).is_some_and(|rest| rest.starts_with('.'));
    one == other || beside(one, other) || beside(other, one)
}

/// The path without what changes nothing; from the root folder on.
fn nearest_path(text: &str) -> Option<String> {
    use std::path::Component;
    let named = Path::new(text).components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let near = named.fold(String::new(), |path, name| path + "/" + name);
    (!near.is_empty() && !text.split('/').any(|part| part == "..")).then_some(near)
}

/// Buffers that fit behind the first page of a region.
pub(crate) fn buffers_in(region_mib: u32, buffer_stride_bytes: u32) -> u64 {
    ((u64::from(region_mib) << 20) - PAGE_BYTES) / u64::from(buffer_stride_bytes)
}
