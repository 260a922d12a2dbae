//! A rule: which packets of a port take another chain, are shown to an observer, are copied, or are dropped.

use serde::Serialize;

use crate::book::Place;
use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::flow::{DMAC, DPORT, DST, Flows, GROUP, PROTO, SMAC, SPORT, SRC, VLAN};
use crate::form::{Form, Number};
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
    doc: "The chain that matching packets take. Either this or drop; with observe or replicate alone, the port's chain.",
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
const COPIED: Form = Form::Reference(&["chain"]);
const REPLICATE: Key = Key {
    name: "replicate",
    form: Form::List { of: &COPIED, min: 0, max: 8 },
    presence: Presence::Empty,
    doc: "Chains that a copy of each matching packet enters besides, made by the host and counted as replicated.",
};
const REPLICATE_LIMIT: Key = Key {
    name: "replicate_limit_pps",
    form: Form::Number(Number::between(1, 10_000_000)),
    presence: Presence::Number(10_000),
    doc: "Most copies that the rule makes in a second; what is above is not made and counted as replicate_limit.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[rule]]",
    doc: "Which packets of a port take another chain; the first match wins.",
    keys: &[
        &PORT,
        &VLAN,
        &SMAC,
        &DMAC,
        &GROUP,
        &PROTO,
        &SRC,
        &DST,
        &SPORT,
        &DPORT,
        &CHAIN,
        &DROP,
        &OBSERVE,
        &REPLICATE,
        &REPLICATE_LIMIT,
    ],
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
    /// Chains that copies of it enter; never with [`RuleAction::Drop`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicate: Vec<ChainId>,
    /// Most copies in a second, if there are any.
    pub replicate_limit_pps: Option<u32>,
}

impl Rule {
    pub(crate) fn read(cursor: &Cursor<'_>, scope: &Scope<'_>) -> Option<Self> {
        let port = cursor.reference(&PORT, &scope.ports.names).map(PortId);
        let flows = Flows::read(cursor);
        let action = read_action(cursor, scope, port);
        let observe = read_observe(cursor, scope, action);
        let replicate = read_replicate(cursor, scope, port, action);
        let limit = cursor.number(&REPLICATE_LIMIT);
        Some(Self {
            port: port?,
            flows: flows?,
            action: action?,
            observe: observe?,
            replicate_limit_pps: limit
                .map(|limit| replicate.as_ref().is_some_and(|to| !to.is_empty()).then_some(limit))?,
            replicate: replicate?,
        })
    }
}

fn read_action(cursor: &Cursor<'_>, scope: &Scope<'_>, port: Option<PortId>) -> Option<RuleAction> {
    let drop = cursor.flag(&DROP)?;
    match (cursor.has(&CHAIN), drop) {
        (false, true) => return Some(RuleAction::Drop),
        (true, false) => {}
        // The port's own chain, which is checked where the port is read.
        (false, false) if cursor.has(&OBSERVE) || cursor.has(&REPLICATE) => {
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
    scope.chain_starts_at(cursor, &cursor.place(&CHAIN), chain, domains).then_some(RuleAction::Chain(chain))
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

/// The chains of copies, each once and none of them the packet's own.
fn read_replicate(
    cursor: &Cursor<'_>,
    scope: &Scope<'_>,
    port: Option<PortId>,
    action: Option<RuleAction>,
) -> Option<Vec<ChainId>> {
    let copies = cursor.list(&REPLICATE)?;
    if copies.is_empty() && cursor.has(&REPLICATE_LIMIT) {
        let rule = "must come with replicate: it limits the copies";
        cursor.refuse(&REPLICATE_LIMIT, Kind::Conflict, rule, Vec::new());
    }
    let mut chains = Some(Vec::new());
    for (place, value) in copies {
        let found = cursor.resolve(&place, value, &COPIED, &[&scope.chains.names]);
        let chain = found.map(|(_, chain)| ChainId(chain));
        let legal = chain.filter(|&chain| may_copy(cursor, &place, scope, (port, action), chain, &chains));
        match legal {
            Some(chain) => chains.iter_mut().for_each(|chains| chains.push(chain)),
            None => chains = None,
        }
    }
    chains
}

fn may_copy(
    cursor: &Cursor<'_>,
    place: &Place,
    scope: &Scope<'_>,
    (port, action): (Option<PortId>, Option<RuleAction>),
    chain: ChainId,
    before: &Option<Vec<ChainId>>,
) -> bool {
    let refuse = |rule| {
        cursor.refuse_at(place, Kind::Conflict, rule, Vec::new());
        false
    };
    match action {
        Some(RuleAction::Drop) => {
            return refuse("must come without drop: copies are made of what enters a chain");
        }
        Some(RuleAction::Chain(own)) if own == chain => {
            return refuse("must be another chain than the one that the packet takes itself");
        }
        _ => {}
    }
    if before.as_ref().is_some_and(|before| before.contains(&chain)) {
        return refuse("must be listed once");
    }
    let domains = port.map_or(&[][..], |port| &scope.port_domains[port.index()]);
    scope.chain_starts_at(cursor, place, chain, domains)
}
