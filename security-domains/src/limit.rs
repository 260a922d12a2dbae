//! A rate limit: packets and bits that may pass in a second.

use serde::Serialize;

use crate::cursor::Cursor;
use crate::form::{Form, Number};
use crate::key::{Key, Presence};

const PPS: Form = Form::Number(Number::between(1, 1_000_000_000));
const MBIT: Form = Form::Number(Number::between(1, 1_000_000));

/// The two keys of a limit; what is dropped by it depends on the table.
pub(crate) struct LimitKeys {
    pub(crate) pps: Key,
    pub(crate) mbit: Key,
}

impl LimitKeys {
    pub(crate) const fn new(pps_doc: &'static str, mbit_doc: &'static str) -> Self {
        Self {
            pps: Key { name: "limit_pps", form: PPS, presence: Presence::Optional, doc: pps_doc },
            mbit: Key { name: "limit_mbit", form: MBIT, presence: Presence::Optional, doc: mbit_doc },
        }
    }
}

/// What may pass in a second; shared evenly by the lcores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Packets in a second; `None`: any number.
    #[serde(rename = "limit_pps")]
    pub packets_per_s: Option<u32>,
    /// Megabits (10⁶ bits) in a second; `None`: any number.
    #[serde(rename = "limit_mbit")]
    pub mbit_per_s: Option<u32>,
}

impl Limit {
    pub(crate) fn read(cursor: &Cursor<'_>, keys: &LimitKeys) -> Option<Self> {
        let packets_per_s = cursor.optional_number(&keys.pps);
        let mbit_per_s = cursor.optional_number(&keys.mbit);
        Some(Self { packets_per_s: packets_per_s?, mbit_per_s: mbit_per_s? })
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.packets_per_s.is_none() && self.mbit_per_s.is_none()
    }

    /// Bits in a second.
    #[must_use]
    pub fn bits_per_s(&self) -> Option<u64> {
        self.mbit_per_s.map(|mbit| u64::from(mbit) * 1_000_000)
    }
}
