//! The difference between two configs, as data: what is new, gone or other, and what each takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use schemars::JsonSchema;
use security_domains::Config;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::effect::Effect;
use super::objects::{Kind, Object, objects};

/// Everything that two configs do not both say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Difference {
    /// One for each thing, kind by kind.
    pub lines: Vec<Line>,
}

/// One thing that is new, gone or other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// Which of the three.
    pub change: Change,
    /// What it is.
    pub kind: Kind,
    /// Its name. Of what has none, its place from 0: in the running config if it is gone, else in the new one.
    pub name: String,
    /// What is said of it otherwise than before; all that is said of it if it is new or gone.
    pub keys: Vec<KeyChange>,
    /// What it takes, by the key that takes most.
    #[serde(flatten)]
    pub effect: Effect,
}

/// What became of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It stays, and something of it is other.
    Changed,
}

/// One key of a thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyChange {
    /// As the file spells it.
    pub key: String,
    /// What was said before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// What is said now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

impl Difference {
    /// What `new` says and `old` does not, and the other way round.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let (old, new) = (by_kind(objects(old)), by_kind(objects(new)));
        let kinds: BTreeSet<Kind> = old.keys().chain(new.keys()).copied().collect();
        let lines = kinds.into_iter().flat_map(|kind| {
            let of = |all: &BTreeMap<Kind, Vec<Object>>| all.get(&kind).cloned().unwrap_or_default();
            match kind {
                // There is one, and its name is a key like others.
                Kind::Switch => ordered(&of(&old), &of(&new)),
                kind if kind.is_ordered() => ordered(&of(&old), &of(&new)),
                _ => named(&of(&old), &of(&new)),
            }
        });
        Self { lines: lines.collect() }
    }

    /// Whether both say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether a running switch cannot do it.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        self.lines.iter().any(|line| line.effect.needs_restart())
    }
}

fn by_kind(objects: Vec<Object>) -> BTreeMap<Kind, Vec<Object>> {
    let mut kinds: BTreeMap<Kind, Vec<Object>> = BTreeMap::new();
    for object in objects {
        kinds.entry(object.kind).or_default().push(object);
    }
    kinds
}

/// Things with names: those that are gone in the order of the old file, the others in that of the new one.
fn named(old: &[Object], new: &[Object]) -> Vec<Line> {
    let find = |list: &'_ [Object], name: &str| list.iter().find(|object| object.name == name).cloned();
    let gone = old.iter().filter(|object| find(new, &object.name).is_none());
    let mut lines: Vec<Line> = gone.map(|object| Line::one(Change::Removed, object)).collect();
    lines.extend(new.iter().filter_map(|object| match find(old, &object.name) {
        Some(before) => Line::changed(&before, object),
        None => Some(Line::one(Change::Added, object)),
    }));
    lines
}

/// Things in an order: the longest sequence that both have stays, and what lies between is paired.
fn ordered(old: &[Object], new: &[Object]) -> Vec<Line> {
    let mut lines = Vec::new();
    let (mut from, mut to) = (0, 0);
    let ends = [(old.len(), new.len())];
    for (next_from, next_to) in common(old, new).into_iter().chain(ends) {
        let (gone, come) = (&old[from..next_from], &new[to..next_to]);
        for at in 0..gone.len().max(come.len()) {
            lines.extend(match (gone.get(at), come.get(at)) {
                (Some(before), Some(object)) => Line::changed(before, object),
                (Some(before), None) => Some(Line::one(Change::Removed, before)),
                (None, Some(object)) => Some(Line::one(Change::Added, object)),
                (None, None) => None,
            });
        }
        (from, to) = (next_from + 1, next_to + 1);
    }
    lines
}

/// The places of a longest sequence that two lists have in common.
fn common(old: &[Object], new: &[Object]) -> Vec<(usize, usize)> {
    let is_same = |(one, other): &(&Object, &Object)| one.keys == other.keys;
    let front = old.iter().zip(new).take_while(is_same).count();
    let (old_rest, new_rest) = (&old[front..], &new[front..]);
    let back = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(is_same).count();
    let (old_rest, new_rest) = (&old_rest[..old_rest.len() - back], &new_rest[..new_rest.len() - back]);
    let mut places: Vec<(usize, usize)> = (0..front).map(|at| (at, at)).collect();
    places.extend(longest(old_rest, new_rest).into_iter().map(|(one, other)| (front + one, front + other)));
    places.extend((0..back).rev().map(|at| (old.len() - 1 - at, new.len() - 1 - at)));
    places
}

/// By the table of the lengths of what the rests of both have in common.
fn longest(old: &[Object], new: &[Object]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    let mut lengths = vec![0_u16; (old.len() + 1) * width];
    for one in (0..old.len()).rev() {
        for other in (0..new.len()).rev() {
            lengths[one * width + other] = if old[one].keys == new[other].keys {
                lengths[(one + 1) * width + other + 1] + 1
            } else {
                lengths[(one + 1) * width + other].max(lengths[one * width + other + 1])
            };
        }
    }
    let (mut places, mut one, mut other) = (Vec::new(), 0, 0);
    while one < old.len() && other < new.len() {
        if old[one].keys == new[other].keys {
            places.push((one, other));
            (one, other) = (one + 1, other + 1);
        } else if lengths[(one + 1) * width + other] >= lengths[one * width + other + 1] {
            one += 1;
        } else {
            other += 1;
        }
    }
    places
}

impl Line {
    fn one(change: Change, object: &Object) -> Self {
        let key = |(key, value): (&String, &Value)| match change {
            Change::Removed => KeyChange { key: key.clone(), from: Some(value.clone()), to: None },
            Change::Added | Change::Changed => {
                KeyChange { key: key.clone(), from: None, to: Some(value.clone()) }
            }
        };
        Self {
            change,
            kind: object.kind,
            name: object.name.clone(),
            keys: object.keys.iter().map(key).collect(),
            effect: Effect::of_object(object.kind),
        }
    }

    /// None if nothing of it is other.
    fn changed(before: &Object, object: &Object) -> Option<Self> {
        let keys: BTreeSet<&String> = before.keys.keys().chain(object.keys.keys()).collect();
        let keys = keys.into_iter().map(|key| KeyChange {
            key: key.clone(),
            from: before.keys.get(key).cloned(),
            to: object.keys.get(key).cloned(),
        });
        let keys: Vec<KeyChange> = keys.filter(|key| key.from != key.to).collect();
        let effects = keys.iter().map(|key| Effect::of_key(object.kind, &key.key));
        let effect = effects.max_by_key(Effect::weight)?;
        let (kind, name) = (object.kind, object.name.clone());
        Some(Self { change: Change::Changed, kind, name, keys, effect })
    }
}

impl Effect {
    const fn weight(&self) -> u8 {
        match self {
            Self::Live => 0,
            Self::Note(_) => 1,
            Self::Restart(_) => 2,
        }
    }
}

/// A line for each thing: `~ chain upstream: path ["a","b"] -> ["a"]`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, line) in self.lines.iter().enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{line}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed => '~',
        };
        let name = if self.kind.is_ordered() {
            format!("{}[{}]", self.kind, self.name)
        } else {
            format!("{} {}", self.kind, self.name)
        };
        let keys = self.keys.iter().map(|KeyChange { key, from, to }| match (self.change, from, to) {
            (Change::Changed, from, to) => format!("{key} {} -> {}", shown(from), shown(to)),
            (_, from, to) => format!("{key} {}", shown(&from.clone().or(to.clone()))),
        });
        let mut text = format!("{sign} {name}: {}", keys.collect::<Vec<_>>().join(", "));
        match &self.effect {
            Effect::Live => {}
            Effect::Note(note) => write!(text, " ({note})")?,
            Effect::Restart(because) => write!(text, " (needs a restart: {because})")?,
        }
        f.write_str(&text)
    }
}

fn shown(value: &Option<Value>) -> String {
    value.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests;
