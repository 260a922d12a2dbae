//! A rule: which packets of a port take another chain, are shown to an observer, or are dropped.

use serde::Serialize;

use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::flow::{DMAC, DPORT, DST, Flows, PROTO, SMAC, SPORT, SRC, VLAN};
use crate::form::Form;
use crate::ids::{ChainId, PortId, ServiceId};
use crate::key::{Key, Presence, Table};
use crate::scope::Scope;

const PORT: Key = Key {
    name: "port",
    form: Form::Reference(&["port"]),
    presence: Presence::Needed,
    doc: "The port where the packet enters.",
};
const CHAIN: Key = Key {
    name: "chain",
    form: Form::Reference(&["chain"]),
    presence: Presence::Optional,
    doc: "The chain that matching packets take. Either this or drop; with observe alone, the port's chain.",
};
const DROP: Key = Key {
    name: "drop",
    form: Form::Flag,
    presence: Presence::Flag(false),
    doc: "Drops matching packets, counted as rule_drop. Either this or chain.",
};
const OBSERVE: Key = Key {
    name: "observe",
    form: Form::Reference(&["service"]),
    presence: Presence::Optional,
    doc: "The observer service that is shown matching packets.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[rule]]",
    doc: "Which packets of a port take another chain; the first match wins.",
    keys: &[&PORT, &VLAN, &SMAC, &DMAC, &PROTO, &SRC, &DST, &SPORT, &DPORT, &CHAIN, &DROP, &OBSERVE],
};

/// What happens to a matching packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// It takes this chain.
    Chain(ChainId),
    /// It is dropped and counted.
    Drop,
}

/// Which packets of a port take another chain, are shown to an observer, or are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Where the packet enters.
    pub port: PortId,
    /// Which packets.
    #[serde(flatten)]
    pub flows: Flows,
    /// What happens to a packet that matches.
    pub action: RuleAction,
    /// Who is shown a packet that matches; never with [`RuleAction::Drop`].
    pub observe: Option<ServiceId>,
}

impl Rule {
    pub(crate) fn read(cursor: &Cursor<'_>, scope: &Scope<'_>) -> Option<Self> {
        let port = cursor.reference(&PORT, &scope.ports.names).map(PortId);
        let flows = Flows::read(cursor);
        let action = read_action(cursor, scope, port);
        let observe = read_observe(cursor, scope, action);
        Some(Self { port: port?, flows: flows?, action: action?, observe: observe? })
    }
}

fn read_action(cursor: &Cursor<'_>, scope: &Scope<'_>, port: Option<PortId>) -> Option<RuleAction> {
    let drop = cursor.flag(&DROP)?;
    match (cursor.has(&CHAIN), drop) {
        (false, true) => return Some(RuleAction::Drop),
        (true, false) => {}
        // The port's own chain, which is checked where the port is read.
        (false, false) if cursor.has(&OBSERVE) => {
            return scope.chain_at(port?).map(RuleAction::Chain);
        }
        (both, _) => {
            let got = if both { "both" } else { "neither" };
            let rule = "must have either chain or drop = true";
            cursor.refuse_at(&cursor.whole(got), Kind::Conflict, rule, Vec::new());
            return None;
        }
    }
    let chain = ChainId(cursor.reference(&CHAIN, &scope.chains.names)?);
    let domains = port.map_or(&[][..], |port| &scope.port_domains[port.index()]);
    scope.chain_starts_at(cursor, &CHAIN, chain, domains).then_some(RuleAction::Chain(chain))
}

/// `Some(None)`: nobody is shown anything. `None`: there is a finding.
fn read_observe(
    cursor: &Cursor<'_>,
    scope: &Scope<'_>,
    action: Option<RuleAction>,
) -> Option<Option<ServiceId>> {
    if !cursor.has(&OBSERVE) {
        return Some(None);
    }
    let service = ServiceId(cursor.reference(&OBSERVE, &scope.services.names)?);
    let chain = match action? {
        RuleAction::Chain(chain) => chain,
        RuleAction::Drop => {
            let rule = "must come without drop: observers see what enters a chain";
            cursor.refuse(&OBSERVE, Kind::Conflict, rule, Vec::new());
            return None;
        }
    };
    scope.may_observe(cursor, &cursor.place(&OBSERVE), service, chain).then_some(Some(service))
}
