//! What a VM or process may do with packet memory.

use serde::Serialize;

use crate::cursor::{Cursor, quoted};
use crate::finding::Kind;
use crate::form::{Form, Number};
use crate::key::{Key, Presence};
use crate::word::words;

pub(crate) const ACCESS: Key = Key {
    name: "access",
    form: Form::Word(Access::WORDS),
    presence: Presence::Word(Access::Trusted.word()),
    doc: "What it may do with the packet memory of its domain.",
};
pub(crate) const REGION_MIB: Key = Key {
    name: "region_mib",
    form: Form::Number(Number::power_of_two(2, 1 << 20)),
    presence: Presence::Number(4),
    doc: "Its private packet memory; only with access \"copied\" or \"copy-observer\".",
};
pub(crate) const PINNED_BUFFERS: Key = Key {
    name: "pinned_buffers_max",
    form: Form::Number(Number::between(1, 4096)),
    presence: Presence::Number(64),
    doc: "Buffers that each endpoint may have references to at once; only with access \"observer\".",
};
const PINNED_MS: Key = Key {
    name: "pinned_ms_max",
    form: Form::Number(Number::between(1, 10_000)),
    presence: Presence::Number(100),
    doc: "How long a reference lasts before it expires; only with access \"observer\".",
};
/// The keys of this file.
pub(crate) const KEYS: [&Key; 4] = [&ACCESS, &REGION_MIB, &PINNED_BUFFERS, &PINNED_MS];

words! {
    /// What a VM or process may do with the packet memory of its domain.
    Access {
        /// Reads and writes it in place.
        Trusted = "trusted",
        /// Maps it read-only and is shown packets by reference; what it says has no effect on them.
        Observer = "observer",
        /// Maps a private region only, and is shown packets by copy.
        CopyObserver = "copy-observer",
        /// Maps a private region only; packets are copied in and out.
        Copied = "copied",
        /// Maps nothing of the switch; a VM with ordinary network cards, whose packets are copied in and out.
        Untrusted = "untrusted",
    }
}

impl Access {
    /// Whether it only looks: its services are no hops of a chain.
    #[must_use]
    pub fn observes(self) -> bool {
        matches!(self, Self::Observer | Self::CopyObserver)
    }

    /// Whether it has a private region instead of that of its domain.
    #[must_use]
    pub fn has_private_region(self) -> bool {
        matches!(self, Self::CopyObserver | Self::Copied)
    }

    /// The access that a table asks for, without a finding.
    pub(crate) fn peek(cursor: &Cursor<'_>) -> Option<Self> {
        if cursor.has(&ACCESS) { Self::from_word(cursor.spelt(&ACCESS)?) } else { Some(Self::Trusted) }
    }
}

/// How many references an observer may have, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pins {
    /// Buffers that each of its endpoints may have references to at once.
    #[serde(rename = "pinned_buffers_max")]
    pub buffers_max: u16,
    /// When a reference expires.
    #[serde(rename = "pinned_ms_max")]
    pub ms_max: u16,
}

impl Pins {
    /// How many of the references each of so many lcores may bring: an equal part, and at least one.
    #[must_use]
    pub fn buffers_of_lcore(self, lcores: usize) -> u16 {
        let lcores = u16::try_from(lcores).unwrap_or(u16::MAX).max(1);
        (self.buffers_max / lcores).max(1)
    }
}

/// The access of an owner with what belongs to it.
pub(crate) struct Grant {
    pub(crate) access: Access,
    pub(crate) region_mib: Option<u32>,
    pub(crate) pins: Option<Pins>,
}

impl Grant {
    pub(crate) fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let access = cursor.word(&ACCESS).and_then(Access::from_word)?;
        let region_mib = private_region(cursor, access);
        let pins = read_pins(cursor, access);
        Some(Self { access, region_mib: region_mib?, pins: pins? })
    }
}

/// Whether a process asks to be untrusted, which is a finding: it has nothing that a network card could be plugged
/// into.
pub(crate) fn refuse_untrusted(cursor: &Cursor<'_>, access: Option<Access>) -> bool {
    if access == Some(Access::Untrusted) {
        let rule = "must be that of an NF: only a VM can be untrusted, with [[vm.nic]]";
        cursor.refuse(&ACCESS, Kind::Conflict, rule, quoted([Access::Copied.word()]));
    }
    access == Some(Access::Untrusted)
}

/// `Some(None)`: it has none. `None`: there is a finding.
fn private_region(cursor: &Cursor<'_>, access: Access) -> Option<Option<u32>> {
    if access.has_private_region() {
        return cursor.number(&REGION_MIB).map(Some);
    }
    let wanted = [Access::Copied, Access::CopyObserver];
    belongs_to(cursor, &REGION_MIB, access, &wanted).then_some(None)
}

fn read_pins(cursor: &Cursor<'_>, access: Access) -> Option<Option<Pins>> {
    if access == Access::Observer {
        let buffers_max = cursor.number_u16(&PINNED_BUFFERS);
        let ms_max = cursor.number_u16(&PINNED_MS);
        return Some(Some(Pins { buffers_max: buffers_max?, ms_max: ms_max? }));
    }
    let left_out =
        [&PINNED_BUFFERS, &PINNED_MS].map(|key| belongs_to(cursor, key, access, &[Access::Observer]));
    (left_out == [true; 2]).then_some(None)
}

/// Refuses a key that means nothing with this access.
pub(crate) fn belongs_to(cursor: &Cursor<'_>, key: &Key, access: Access, wanted: &[Access]) -> bool {
    if !cursor.has(key) {
        return true;
    }
    let words: Vec<String> = wanted.iter().map(|access| format!("\"{access}\"")).collect();
    let rule = format!("must come with access = {}: it means nothing to a {access} one", words.join(" or "));
    cursor.refuse(key, Kind::Conflict, rule, Vec::new());
    false
}
