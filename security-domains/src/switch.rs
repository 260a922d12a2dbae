//! The switch process: its name, its polling threads, how they idle.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::form::{Form, Number};
use crate::key::{Key, Presence, Table};
use crate::names::{NAME, read_name};
use crate::word::words;

const CPU: Number = Number::between(0, 1023);
const LCORES: Key = Key {
    name: "lcores",
    form: Form::List { of: &Form::Number(CPU), min: 1, max: 64 },
    presence: Presence::Needed,
    doc: "CPU numbers; one pinned polling thread each.",
};
const IDLE: Key = Key {
    name: "idle",
    form: Form::Word(Idle::WORDS),
    presence: Presence::Word(Idle::Sleep.word()),
    doc: "What a polling thread does when there is nothing to move.",
};
const FLOWS: Key = Key {
    name: "flows",
    form: Form::Number(Number::between(0, 16_000_000)),
    presence: Presence::Number(0),
    doc: "Flows that each lcore remembers on ports with rules, so that the rules are asked once a flow and not once a packet; 0: none. Each takes 170 bytes.",
};
const FLOW_IDLE_S: Key = Key {
    name: "flow_idle_s",
    form: Form::Number(FLOW_TIME),
    presence: Presence::Number(300),
    doc: "A flow that both ends have confirmed is forgotten when no packet came for so long.",
};
const FLOW_UNANSWERED_S: Key = Key {
    name: "flow_unanswered_s",
    form: Form::Number(FLOW_TIME),
    presence: Presence::Number(30),
    doc: "The same of other flows. At most a quarter are such flows; the oldest of them makes room for a new one.",
};
const FLOW_TIME: Number = Number::between(1, 86_400);
pub(crate) const TABLE: Table = Table {
    header: "[switch]",
    doc: "The switch process.",
    keys: &[&NAME, &LCORES, &IDLE, &FLOWS, &FLOW_IDLE_S, &FLOW_UNANSWERED_S],
};

words! {
    /// What a polling thread does when there is nothing to move.
    Idle {
        /// Polls on: the shortest latency, a whole CPU.
        Spin = "spin",
        /// Gives the CPU to whoever is ready.
        Yield = "yield",
        /// Sleeps for moments that grow with the silence.
        Sleep = "sleep",
    }
}

/// The switch process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// Names the runtime directory; one switch process a name.
    pub name: String,
    /// CPU of each lcore; an lcore's id is its position here.
    pub lcores: Vec<u16>,
    /// What a polling thread does when there is nothing to move.
    pub idle: Idle,
    /// Flows that each lcore remembers; 0: none.
    pub flows: u32,
    /// How long an answered one stays without packets.
    pub flow_idle_s: u32,
    /// How long another one does.
    pub flow_unanswered_s: u32,
}

impl Switch {
    pub(crate) fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let name = read_name(cursor);
        let lcores = read_lcores(cursor);
        let idle = cursor.word(&IDLE).and_then(Idle::from_word);
        let flows = cursor.number(&FLOWS);
        let flow_idle_s = cursor.number(&FLOW_IDLE_S);
        let flow_unanswered_s = cursor.number(&FLOW_UNANSWERED_S);
        Some(Self {
            name: name?.to_owned(),
            lcores: lcores?,
            idle: idle?,
            flows: flows?,
            flow_idle_s: flow_idle_s?,
            flow_unanswered_s: flow_unanswered_s?,
        })
    }
}

fn read_lcores(cursor: &Cursor<'_>) -> Option<Vec<u16>> {
    let mut positions = BTreeMap::new();
    let mut lcores = Some(Vec::new());
    for (position, (place, value)) in cursor.list(&LCORES)?.into_iter().enumerate() {
        let found = value.as_integer();
        let Some(cpu) = found.and_then(|found| CPU.check(found)).and_then(|cpu| u16::try_from(cpu).ok())
        else {
            let near = found.map(|found| CPU.nearest(found)).unwrap_or_default();
            cursor.refuse_at(
                &place,
                Kind::Value,
                Form::Number(CPU).rule(),
                near.iter().map(u32::to_string).collect(),
            );
            lcores = None;
            continue;
        };
        if let Some(first) = positions.insert(cpu, position) {
            let rule = format!("must be a CPU that no other lcore has (lcores[{first}] has it)");
            cursor.refuse_at(&place, Kind::Conflict, rule, Vec::new());
            lcores = None;
            continue;
        }
        lcores.iter_mut().for_each(|list| list.push(cpu));
    }
    lcores
}
