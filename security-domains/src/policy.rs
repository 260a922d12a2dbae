//! A policy: what the switch does with a VM or process that breaks the rules of its rings.

use serde::Serialize;

use crate::config::Owner;
use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::form::{Form, Number};
use crate::ids::{ProcessId, VmId};
use crate::key::{Key, Presence, Table};
use crate::scope::Scope;
use crate::word::words;

const VIOLATION: Key = Key {
    name: "violation",
    form: Form::Word(Violation::WORDS),
    presence: Presence::Word(Violation::Any.word()),
    doc: "What is counted.",
};
const ACTION: Key = Key {
    name: "action",
    form: Form::Word(PolicyAction::WORDS),
    presence: Presence::Needed,
    doc: "What happens when the threshold is reached.",
};
const THRESHOLD: Key = Key {
    name: "threshold",
    form: Form::Number(Number::between(1, 1_000_000_000)),
    presence: Presence::Number(100),
    doc: "How many violations lead to the action.",
};
const WINDOW_S: Key = Key {
    name: "window_s",
    form: Form::Number(Number::between(1, 3600)),
    presence: Presence::Number(10),
    doc: "Within how many seconds they count together.",
};
const VM: Key = Key {
    name: "vm",
    form: Form::Reference(&["vm", "process"]),
    presence: Presence::Optional,
    doc: "The one VM or process that it is for; left out, each by itself.",
};
const THROTTLE_MS: Key = Key {
    name: "throttle_ms",
    form: Form::Number(Number::between(1, 60_000)),
    presence: Presence::Number(1000),
    doc: "How long its rings are not read; only with action \"throttle\".",
};
const DETACH_S: Key = Key {
    name: "detach_s",
    form: Form::Number(Number::between(0, 86_400)),
    presence: Presence::Number(10),
    doc: "How long it may not attach again; 0: until netvm vm attach. Only with action \"detach\" or \"kill\".",
};
pub(crate) const TABLE: Table = Table {
    header: "[[policy]]",
    doc: "What violations lead to. Without one, bad descriptors are counted and bad counters detach.",
    keys: &[&VIOLATION, &ACTION, &THRESHOLD, &WINDOW_S, &VM, &THROTTLE_MS, &DETACH_S],
};

words! {
    /// What a VM or process can do wrong.
    Violation {
        /// Gave back a descriptor that is illegal or names a buffer that it does not hold.
        Descriptor = "descriptor",
        /// Published a ring counter that cannot be.
        Counter = "counter",
        /// Used an epoch that is not its own.
        Epoch = "epoch",
        /// Sent a control message that is illegal, or too many.
        Control = "control",
        /// Any of these.
        Any = "any",
    }
}

words! {
    /// What a policy does.
    PolicyAction {
        /// Nothing but count.
        Count = "count",
        /// Leaves its rings unread for a while.
        Throttle = "throttle",
        /// Takes its rings away and refuses them for a while.
        Detach = "detach",
        /// Ends it.
        Kill = "kill",
    }
}

/// What the switch does about violations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// What is counted.
    pub violation: Violation,
    /// What happens at the threshold.
    pub action: PolicyAction,
    /// How many violations lead to it.
    pub threshold: u32,
    /// Within how many seconds.
    pub window_s: u16,
    /// For whom; `None`: for each VM and process by itself.
    pub owner: Option<Owner>,
    /// How long a throttled one's rings are not read.
    pub throttle_ms: u16,
    /// How long one that was detached or killed may not attach; 0: until it is told to.
    pub detach_s: u32,
}

impl Policy {
    pub(crate) fn read(cursor: &Cursor<'_>, scope: &Scope<'_>) -> Option<Self> {
        let violation = cursor.word(&VIOLATION).and_then(Violation::from_word);
        let action = cursor.word(&ACTION).and_then(PolicyAction::from_word);
        let threshold = cursor.number(&THRESHOLD);
        let window_s = cursor.number_u16(&WINDOW_S);
        let owner = read_owner(cursor, scope);
        let throttle_ms = cursor.number_u16(&THROTTLE_MS);
        let detach_s = cursor.number(&DETACH_S);
        let belongs = [
            belongs_to(cursor, &THROTTLE_MS, action, &[PolicyAction::Throttle]),
            belongs_to(cursor, &DETACH_S, action, &[PolicyAction::Detach, PolicyAction::Kill]),
        ];
        (belongs == [true; 2]).then_some(())?;
        Some(Self {
            violation: violation?,
            action: action?,
            threshold: threshold?,
            window_s: window_s?,
            owner: owner?,
            throttle_ms: throttle_ms?,
            detach_s: detach_s?,
        })
    }
}

/// `Some(None)`: it is for all. `None`: there is a finding.
fn read_owner(cursor: &Cursor<'_>, scope: &Scope<'_>) -> Option<Option<Owner>> {
    if !cursor.has(&VM) {
        return Some(None);
    }
    let spaces = [&scope.vms.names, &scope.processes.names];
    let owner = match cursor.resolve(&cursor.place(&VM), cursor.value(&VM)?, &VM.form, &spaces)? {
        (0, vm) => Owner::Vm(VmId(vm)),
        (_, process) => Owner::Process(ProcessId(process)),
    };
    Some(Some(owner))
}

/// Refuses a key that means nothing with this action.
fn belongs_to(cursor: &Cursor<'_>, key: &Key, action: Option<PolicyAction>, wanted: &[PolicyAction]) -> bool {
    let Some(action) = action.filter(|action| cursor.has(key) && !wanted.contains(action)) else {
        return true;
    };
    let words: Vec<String> = wanted.iter().map(|action| format!("\"{action}\"")).collect();
    let rule = format!("must come with action = {}: it means nothing to \"{action}\"", words.join(" or "));
    cursor.refuse(key, Kind::Conflict, rule, Vec::new());
    false
}
