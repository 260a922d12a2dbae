//! The names that one kind of table declares, by position.

use std::collections::BTreeMap;

use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::form::{Form, NAME_BYTES_MAX, is_name, nearest_name};
use crate::key::{Key, Presence};

/// The key that names a table.
pub(crate) const NAME: Key = Key {
    name: "name",
    form: Form::Name,
    presence: Presence::Needed,
    doc: "What others in this file call it.",
};

/// The names of one kind of table; `None` where there is none.
///
/// A name that is illegal or taken has its finding and still stands here, so that what refers to it is not
/// refused as well.
#[derive(Default)]
pub(crate) struct NameTable {
    names: Vec<Option<String>>,
}

/// Tables that must not share a name, and the names taken so far with their lines.
pub(crate) struct NameSpace {
    of: &'static str,
    taken: BTreeMap<String, usize>,
}

impl NameSpace {
    pub(crate) fn new(of: &'static str) -> Self {
        Self { of, taken: BTreeMap::new() }
    }

    fn take(&mut self, cursor: &Cursor<'_>, name: &str) {
        if let Some(line) = self.taken.get(name) {
            let rule = format!("must be unique among the {} of the file (line {line} has it too)", self.of);
            cursor.refuse(&NAME, Kind::Name, rule, self.free_name(name).into_iter().collect());
        } else {
            self.taken.insert(name.to_owned(), cursor.line(&NAME));
        }
    }

    /// `name-2`, or the first number that nobody has.
    fn free_name(&self, name: &str) -> Option<String> {
        (2..=self.taken.len() + 2)
            .map(|number| {
                let ending = format!("-{number}");
                let kept = name.len().min(NAME_BYTES_MAX - ending.len());
                format!("{}{ending}", &name[..kept])
            })
            .find(|candidate| !self.taken.contains_key(candidate))
            .map(|candidate| format!("\"{candidate}\""))
    }
}

impl NameTable {
    /// Reads and checks the name of each table.
    pub(crate) fn gather(cursors: &[Cursor<'_>], space: &mut NameSpace) -> Self {
        let mut names = Vec::with_capacity(cursors.len());
        for cursor in cursors {
            if let Some(name) = read_name(cursor) {
                space.take(cursor, name);
            }
            names.push(cursor.spelt(&NAME).map(str::to_owned));
        }
        Self { names }
    }

    /// Adds the name of a table that is called by two names, its owner's and its own.
    pub(crate) fn push_joint(&mut self, owner: Option<&str>, own: Option<&str>) {
        self.names.push(owner.zip(own).map(|(owner, own)| format!("{owner}.{own}")));
    }

    /// The id of a name.
    pub(crate) fn find(&self, name: &str) -> Option<u16> {
        let position = self.names.iter().position(|known| known.as_deref() == Some(name))?;
        u16::try_from(position).ok()
    }

    /// The name of an id.
    pub(crate) fn name(&self, position: usize) -> Option<&str> {
        self.names.get(position)?.as_deref()
    }

    /// Every legal name, in file order.
    pub(crate) fn known(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().map(String::as_str).filter(|name| name.split('.').all(is_name))
    }
}

/// The name of a table, or a finding.
pub(crate) fn read_name<'d>(cursor: &Cursor<'d>) -> Option<&'d str> {
    let value = cursor.value(&NAME)?;
    let found = value.as_str();
    if let Some(name) = found.filter(|name| is_name(name)) {
        return Some(name);
    }
    let near = found.and_then(nearest_name).map(|near| format!("\"{near}\""));
    cursor.refuse(&NAME, Kind::Value, NAME.form.rule(), near.into_iter().collect());
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_name_stays_within_the_limit() {
        let long = "a".repeat(27);
        let taken = BTreeMap::from([(long.clone(), 1), (format!("{}-2", "a".repeat(25)), 2)]);
        let space = NameSpace { of: "ports", taken };
        assert_eq!(space.free_name(&long), Some(format!("\"{}-3\"", "a".repeat(25))));
    }
}
