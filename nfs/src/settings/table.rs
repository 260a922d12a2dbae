//! One table of a settings file while it is read.

use std::ops::Range;

use toml_edit::{Item, TableLike, Value};

use super::book::{Book, Place, printable};

/// Why a value is not taken: the rule, and the nearest values that it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// "must be …".
    pub rule: String,
    /// Nearest legal values; empty when there is none to name.
    pub nearest: Vec<String>,
}

impl Refusal {
    /// A refusal without a suggestion.
    pub fn new(rule: impl Into<String>) -> Self {
        Self { rule: rule.into(), nearest: Vec::new() }
    }
}

/// A table of the file and the keys that it may have. Whatever breaks a rule is written down, and the read
/// as a whole fails at its end; so `None` below means "absent, or refused already".
#[derive(Clone, Debug)]
pub struct Table<'d> {
    book: &'d Book<'d>,
    table: Shown<'d>,
    span: Range<usize>,
    path: String,
}

/// A table as the parser gives it; one that the file never heads has no span.
type SpannedTable<'d> = (&'d dyn TableLike, Option<Range<usize>>);

/// A table that has a `Debug` form without its content.
#[derive(Clone)]
struct Shown<'d>(&'d dyn TableLike);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a table of {} keys", self.0.len())
    }
}

impl<'d> Table<'d> {
    pub(super) fn new(
        book: &'d Book<'d>,
        table: &'d dyn TableLike,
        span: Range<usize>,
        path: String,
        keys: &[&str],
    ) -> Self {
        let table = Self { book, table: Shown(table), span, path };
        table.refuse_unknown_keys(keys);
        table
    }

    fn refuse_unknown_keys(&self, keys: &[&str]) {
        for (name, _) in self.table.0.iter().filter(|(name, _)| !keys.contains(name)) {
            let start = self.key_start(name);
            let name = printable(name);
            let place = Place { key: self.key_path(&name), start, got: name };
            self.book.refuse(place, format!("must be one of the keys {}", keys.join(", ")), Vec::new());
        }
    }

    fn key_start(&self, name: &str) -> usize {
        self.table.0.key(name).and_then(toml_edit::Key::span).map_or(self.span.start, |span| span.start)
    }

    fn key_path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn item(&self, name: &str) -> Option<&'d Item> {
        self.table.0.get(name).filter(|item| !item.is_none())
    }

    fn place(&self, name: &str) -> Place {
        let key = self.key_path(name);
        let Some(item) = self.item(name) else {
            return Place { key, start: self.span.start, got: "nothing".to_owned() };
        };
        match item.span() {
            Some(span) if item.is_value() => Place { key, start: span.start, got: self.book.excerpt(&span) },
            _ => Place { key, start: self.key_start(name), got: "a table".to_owned() },
        }
    }

    /// Writes down that the value of a key, or its absence, breaks a rule.
    pub fn refuse(&self, name: &str, refusal: Refusal) {
        self.book.refuse(self.place(name), refusal.rule, refusal.nearest);
    }

    /// Whether the key is there, legal or not.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.item(name).is_some()
    }

    /// The value of a key that may be absent.
    pub fn optional<T>(&self, name: &str, read: impl FnOnce(&Value) -> Result<T, Refusal>) -> Option<T> {
        let item = self.item(name)?;
        // A table where a value belongs is refused with the rule that the value has.
        let none = Value::InlineTable(toml_edit::InlineTable::new());
        match read(item.as_value().unwrap_or(&none)) {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.refuse(name, refusal);
                None
            }
        }
    }

    /// The value of a key that must be there.
    pub fn needed<T>(&self, name: &str, read: impl FnOnce(&Value) -> Result<T, Refusal>) -> Option<T> {
        if !self.has(name) {
            // Whatever `read` demands, an empty table does not meet it.
            let refusal = read(&Value::InlineTable(toml_edit::InlineTable::new())).err();
            self.refuse(name, refusal.unwrap_or_else(|| Refusal::new("must be given")));
            return None;
        }
        self.optional(name, read)
    }

    /// The tables `[[name]]` with these keys, `count_max` of them at most. A table is shown by its value of
    /// `label`, or else by its number.
    #[must_use]
    pub fn tables(&self, name: &str, label: &str, keys: &[&str], count_max: usize) -> Vec<Table<'d>> {
        let listed: Option<Vec<SpannedTable<'d>>> = match self.item(name) {
            None => Some(Vec::new()),
            Some(Item::ArrayOfTables(tables)) => {
                Some(tables.iter().map(|table| (table as &dyn TableLike, table.span())).collect())
            }
            Some(Item::Value(Value::Array(array))) => {
                array.iter().map(|v| Some((v.as_inline_table()? as &dyn TableLike, v.span()))).collect()
            }
            Some(_) => None,
        };
        let listed = listed.filter(|tables| tables.len() <= count_max);
        let Some(listed) = listed else {
            self.refuse(name, Refusal::new(format!("must be a list of at most {count_max} tables")));
            return Vec::new();
        };
        listed
            .into_iter()
            .enumerate()
            .map(|(position, (table, span))| {
                let shown = table.get(label).and_then(Item::as_str).map(printable);
                let path =
                    format!("{}[{}]", self.key_path(name), shown.unwrap_or_else(|| position.to_string()));
                Table::new(self.book, table, span.unwrap_or(self.span.clone()), path, keys)
            })
            .collect()
    }

    /// The line on which the table starts.
    #[must_use]
    pub fn line(&self) -> usize {
        self.book.position(self.span.start).0
    }
}

/// Reads one of some words.
pub fn word<T: Copy>(words: &[(&str, T)]) -> impl FnOnce(&Value) -> Result<T, Refusal> {
    move |value| {
        let found = value.as_str().and_then(|found| words.iter().find(|(word, _)| *word == found));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let listed: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            Refusal::new(format!("must be {}", listed.join(" or ")))
        })
    }
}

/// Reads a whole number between two limits.
pub fn number(min: u32, max: u32) -> impl FnOnce(&Value) -> Result<u32, Refusal> {
    move |value| {
        let found = value.as_integer();
        let legal = found.and_then(|found| u32::try_from(found).ok()).filter(|n| (min..=max).contains(n));
        legal.ok_or_else(|| Refusal {
            rule: format!("must be a whole number from {min} to {max}"),
            nearest: found.map(|n| n.clamp(min.into(), max.into()).to_string()).into_iter().collect(),
        })
    }
}

/// Reads a string that `parse` understands; `rule` says what that is.
pub fn text<T>(
    rule: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> impl FnOnce(&Value) -> Result<T, Refusal> {
    move |value| value.as_str().and_then(parse).ok_or_else(|| Refusal::new(rule))
}

/// Reads a name: letters, digits, `-` and `_`.
pub fn name(value: &Value) -> Result<String, Refusal> {
    let is_name = |text: &str| {
        (1..=27).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    value
        .as_str()
        .filter(|text| is_name(text))
        .map(str::to_owned)
        .ok_or_else(|| Refusal::new("must be a name of 1 to 27 letters, digits, '-' or '_'"))
}
