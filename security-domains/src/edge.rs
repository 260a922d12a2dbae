//! An edge: which packets may cross from one domain into another, by a copy.

use serde::Serialize;

use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::flow::{DMAC, DPORT, DST, Flows, GROUP, PROTO, SMAC, SPORT, SRC, VLAN};
use crate::form::Form;
use crate::ids::DomainId;
use crate::key::{Key, Presence, Table};
use crate::limit::{Limit, LimitKeys};
use crate::scope::Scope;

pub(crate) const FROM: Key = Key {
    name: "from",
    form: Form::Reference(&["domain"]),
    presence: Presence::Needed,
    doc: "The domain that packets leave.",
};
pub(crate) const TO: Key = Key {
    name: "to",
    form: Form::Reference(&["domain"]),
    presence: Presence::Needed,
    doc: "The domain that they enter.",
};
const BROADCAST: Key = Key {
    name: "broadcast",
    form: Form::Flag,
    presence: Presence::Flag(false),
    doc: "Whether frames to broadcast and multicast addresses cross too.",
};
const LIMIT: LimitKeys = LimitKeys::new(
    "Most packets that cross in a second; what is above is dropped as edge_rate.",
    "Most megabits that cross in a second; what is above is dropped as edge_rate.",
);
pub(crate) const TABLE: Table = Table {
    header: "[[edge]]",
    doc: "Packets that may cross from one domain into another; the host copies them. Without one, none does.",
    keys: &[
        &FROM,
        &TO,
        &VLAN,
        &SMAC,
        &DMAC,
        &GROUP,
        &PROTO,
        &SRC,
        &DST,
        &SPORT,
        &DPORT,
        &BROADCAST,
        &LIMIT.pps,
        &LIMIT.mbit,
    ],
};

/// Packets that may cross from one domain into another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The domain that they leave.
    pub from: DomainId,
    /// The domain that they enter.
    pub to: DomainId,
    /// Which packets.
    #[serde(flatten)]
    pub flows: Flows,
    /// Whether frames to group addresses cross too.
    pub broadcast: bool,
    /// How many may cross.
    #[serde(flatten)]
    pub limit: Limit,
}

impl Edge {
    pub(crate) fn read(cursor: &Cursor<'_>, scope: &Scope<'_>) -> Option<Self> {
        let from = cursor.reference(&FROM, &scope.domains.names).map(DomainId);
        let to = cursor.reference(&TO, &scope.domains.names).map(DomainId);
        let flows = Flows::read(cursor);
        let broadcast = cursor.flag(&BROADCAST);
        let limit = Limit::read(cursor, &LIMIT);
        if from.is_some() && from == to {
            let rule = "must be another domain than from: inside a domain nothing crosses";
            cursor.refuse(&TO, Kind::Conflict, rule, Vec::new());
            return None;
        }
        if let (Some(flows), Some(false)) = (&flows, broadcast)
            && flows.group
        {
            let rule =
                "must come with broadcast = true: an edge that is for groups only carries nothing without";
            cursor.refuse(&GROUP, Kind::Conflict, rule, Vec::new());
            return None;
        }
        Some(Self { from: from?, to: to?, flows: flows?, broadcast: broadcast?, limit: limit? })
    }
}
