//! A table of the document while it is read: each look at a key checks it and writes down what is wrong.

use std::ops::Range;

use toml_edit::{Item, TableLike, Value};

use crate::book::{Book, Place};
use crate::finding::Kind;
use crate::form::{Form, is_name};
use crate::key::{Key, Presence, Table};
use crate::names::{NAME, NameTable};
use crate::nearest::{near_enough, nearest};
use crate::source::printable;

/// A table as the parser gives it; one that the file never heads has no span.
type SpannedTable<'d> = (&'d dyn TableLike, Option<Range<usize>>);

/// A table of the document and the keys that it may have.
#[derive(Clone)]
pub(crate) struct Cursor<'d> {
    book: &'d Book<'d>,
    spec: &'static Table,
    table: &'d dyn TableLike,
    span: Range<usize>,
    path: String,
}

impl<'d> Cursor<'d> {
    /// The document itself.
    pub(crate) fn root(book: &'d Book<'d>, spec: &'static Table, table: &'d dyn TableLike) -> Self {
        let root = Self { book, spec, table, span: 0..0, path: String::new() };
        root.refuse_unknown_keys();
        root
    }

    /// What findings about this table start with: `domain[blue]`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The line on which a key stands.
    pub(crate) fn line(&self, key: &Key) -> usize {
        self.book.line(&self.place(key))
    }

    fn key_path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn refuse_unknown_keys(&self) {
        let known = || self.spec.keys.iter().map(|key| key.name);
        for (name, _) in self.table.iter() {
            if known().any(|key| key == name) {
                continue;
            }
            let span = self.table.key(name).and_then(toml_edit::Key::span).unwrap_or(self.span.clone());
            let name = printable(name);
            let place = Place { path: self.key_path(&name), span, got: name.clone() };
            let near = near_enough(&name, known());
            let owner = if self.spec.header.is_empty() { "the file" } else { self.spec.header };
            let rule = if near.is_empty() {
                format!("must be a key of {owner} ({})", known().collect::<Vec<_>>().join(", "))
            } else {
                format!("must be a key of {owner}")
            };
            self.book.refuse(&place, Kind::UnknownKey, rule, near.into_iter().map(str::to_owned).collect());
        }
    }

    fn item(&self, key: &Key) -> Option<&'d Item> {
        self.table.get(key.name).filter(|item| !item.is_none())
    }

    /// Where the value of a key stands; the head of the table when it is missing.
    pub(crate) fn place(&self, key: &Key) -> Place {
        let path = self.key_path(key.name);
        let Some(item) = self.item(key) else {
            return Place { path, span: self.span.clone(), got: String::from("nothing") };
        };
        let key_span = || self.table.key(key.name).and_then(toml_edit::Key::span);
        let span = item.span().or_else(key_span).unwrap_or(self.span.clone());
        let got = match item {
            Item::Value(_) => self.book.excerpt(&span),
            Item::ArrayOfTables(tables) => format!("a list of {}", tables.len()),
            Item::Table(_) | Item::None => String::from("a table"),
        };
        Place { path, span, got }
    }

    /// The table as a whole.
    pub(crate) fn whole(&self, got: &str) -> Place {
        Place { path: self.path.clone(), span: self.span.clone(), got: got.to_owned() }
    }

    /// Writes down that the value of a key breaks a rule.
    pub(crate) fn refuse(&self, key: &Key, kind: Kind, rule: impl Into<String>, nearest: Vec<String>) {
        self.book.refuse(&self.place(key), kind, rule, nearest);
    }

    /// Writes down that a value breaks a rule.
    pub(crate) fn refuse_at(&self, place: &Place, kind: Kind, rule: impl Into<String>, nearest: Vec<String>) {
        self.book.refuse(place, kind, rule, nearest);
    }

    fn refuse_form(&self, key: &Key, nearest: Vec<String>) {
        self.refuse(key, Kind::Value, key.form.rule(), nearest);
    }

    /// The value of a key; a finding if it is a table, or missing and needed.
    pub(crate) fn value(&self, key: &Key) -> Option<&'d Value> {
        match self.item(key) {
            Some(Item::Value(value)) => Some(value),
            Some(_) => {
                self.refuse_form(key, Vec::new());
                None
            }
            None => {
                if matches!(key.presence, Presence::Needed) {
                    self.refuse_form(key, Vec::new());
                }
                None
            }
        }
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        self.item(key).is_some()
    }

    /// A number that is legal in the form of its key, or its default.
    pub(crate) fn number(&self, key: &Key) -> Option<u32> {
        let Form::Number(number) = key.form else { unreachable!("{} is not a number", key.name) };
        if let Presence::Number(default) = key.presence
            && !self.has(key)
        {
            return Some(default);
        }
        let found = self.value(key)?;
        if let Some(legal) = found.as_integer().and_then(|found| number.check(found)) {
            return Some(legal);
        }
        let meant = found.as_integer().or_else(|| found.as_str().and_then(|text| text.trim().parse().ok()));
        let near = meant.map(|meant| number.nearest(meant)).unwrap_or_default();
        self.refuse_form(key, near.iter().map(u32::to_string).collect());
        None
    }

    /// As [`Self::number`]; `Some(None)` where the key is missing.
    pub(crate) fn optional_number(&self, key: &Key) -> Option<Option<u32>> {
        if self.has(key) { self.number(key).map(Some) } else { Some(None) }
    }

    /// A number whose form keeps it within 16 bits.
    pub(crate) fn number_u16(&self, key: &Key) -> Option<u16> {
        self.number(key).and_then(|number| u16::try_from(number).ok())
    }

    /// The number of a key if it is legal; no finding otherwise.
    pub(crate) fn peek_number(&self, key: &Key) -> Option<u32> {
        match (&key.form, key.presence, self.item(key)) {
            (Form::Number(number), _, Some(item)) => item.as_integer().and_then(|found| number.check(found)),
            (_, Presence::Number(default), None) => Some(default),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, key: &Key) -> Option<bool> {
        if let Presence::Flag(default) = key.presence
            && !self.has(key)
        {
            return Some(default);
        }
        let found = self.value(key)?.as_bool();
        if found.is_none() {
            self.refuse_form(key, Vec::new());
        }
        found
    }

    /// A string that is not empty and holds no control characters.
    pub(crate) fn text(&self, key: &Key) -> Option<&'d str> {
        let found = self.value(key)?.as_str().filter(|text| is_text(text));
        if found.is_none() {
            self.refuse_form(key, Vec::new());
        }
        found
    }

    /// One of the words of its key, or its default.
    pub(crate) fn word(&self, key: &Key) -> Option<&'d str> {
        let Form::Word(words) = key.form else { unreachable!("{} is not a word", key.name) };
        if let Presence::Word(default) = key.presence
            && !self.has(key)
        {
            return Some(default);
        }
        let found = self.value(key)?.as_str();
        if found.is_some_and(|found| words.contains(&found)) {
            return found;
        }
        let near = found.map(|found| quoted(nearest(found, words.iter().copied()))).unwrap_or_default();
        self.refuse_form(key, near);
        None
    }

    /// The values of a list with their places; a finding when there are too few or too many.
    pub(crate) fn list(&self, key: &Key) -> Option<Vec<(Place, &'d Value)>> {
        let Form::List { min, max, .. } = key.form else { unreachable!("{} is not a list", key.name) };
        if matches!(key.presence, Presence::Empty) && !self.has(key) {
            return Some(Vec::new());
        }
        let found = self.value(key)?.as_array().filter(|list| (min..=max).contains(&list.len()));
        let Some(found) = found else {
            self.refuse_form(key, Vec::new());
            return None;
        };
        let whole = self.place(key);
        let placed = |(position, value): (usize, &'d Value)| {
            let span = value.span().unwrap_or(whole.span.clone());
            let got = self.book.excerpt(&span);
            (Place { path: format!("{}[{position}]", whole.path), span, got }, value)
        };
        Some(found.iter().enumerate().map(placed).collect())
    }

    /// The strings of a list.
    pub(crate) fn texts(&self, key: &Key) -> Option<Vec<String>> {
        let Form::List { of, .. } = key.form else { unreachable!("{} is not a list", key.name) };
        let mut texts = Some(Vec::new());
        for (place, value) in self.list(key)? {
            match value.as_str().filter(|text| !text.contains('\0')) {
                Some(text) => texts.iter_mut().for_each(|texts| texts.push(text.to_owned())),
                None => {
                    self.refuse_at(&place, Kind::Value, of.rule(), Vec::new());
                    texts = None;
                }
            }
        }
        texts
    }

    /// The strings of a table, in file order, with their places; `None` for what is not a string.
    pub(crate) fn text_table(&self, key: &Key) -> Option<Vec<(Place, &'d str, Option<&'d str>)>> {
        let Some(item) = self.item(key) else { return Some(Vec::new()) };
        let Some(table) = item.as_table_like() else {
            self.refuse_form(key, Vec::new());
            return None;
        };
        let whole = self.place(key);
        let entry = |(name, item): (&'d str, &'d Item)| {
            let span = item.span().unwrap_or(whole.span.clone());
            let got = self.book.excerpt(&span);
            let place = Place { path: format!("{}[{}]", whole.path, printable(name)), span, got };
            (place, name, item.as_str().filter(|text| is_text(text)))
        };
        Some(table.iter().map(entry).collect())
    }

    /// The id that a name of another table stands for.
    pub(crate) fn reference(&self, key: &Key, names: &NameTable) -> Option<u16> {
        match self.value(key) {
            Some(value) => self.resolve(&self.place(key), value, &key.form, &[names]).map(|(_, id)| id),
            None => None,
        }
    }

    /// Which of `spaces` a name belongs to, and its id there.
    pub(crate) fn resolve(
        &self,
        place: &Place,
        value: &Value,
        form: &Form,
        spaces: &[&NameTable],
    ) -> Option<(usize, u16)> {
        let name = value.as_str().unwrap_or_default();
        let found =
            spaces.iter().enumerate().find_map(|(space, names)| names.find(name).map(|id| (space, id)));
        if found.is_none() {
            let near = quoted(nearest(name, spaces.iter().flat_map(|names| names.known())));
            self.refuse_at(place, Kind::Name, form.rule(), near);
        }
        found
    }

    /// The id that a reference stands for, if it stands for one; no finding otherwise.
    pub(crate) fn peek_reference(&self, key: &Key, names: &NameTable) -> Option<u16> {
        names.find(self.spelt(key)?)
    }

    /// Whether the list is there and empty. No finding.
    pub(crate) fn is_empty_list(&self, key: &Key) -> bool {
        self.item(key).and_then(Item::as_array).is_some_and(toml_edit::Array::is_empty)
    }

    /// The ids that the names in a list stand for; none if one of them stands for nothing. No finding.
    pub(crate) fn peek_references(&self, key: &Key, names: &NameTable) -> Vec<u16> {
        let list = self.item(key).and_then(Item::as_array);
        let ids: Option<Vec<u16>> = list
            .map(|list| list.iter().map(|value| names.find(value.as_str()?)).collect())
            .unwrap_or_default();
        ids.unwrap_or_default()
    }

    /// The values of a list that are strings, legal or not. No finding.
    pub(crate) fn peek_texts(&self, key: &Key) -> Vec<Option<&'d str>> {
        let list = self.item(key).and_then(Item::as_array);
        list.map(|list| list.iter().map(Value::as_str).collect()).unwrap_or_default()
    }

    /// The string of a key, legal or not; no finding if there is none.
    pub(crate) fn spelt(&self, key: &Key) -> Option<&'d str> {
        self.item(key)?.as_str()
    }

    /// The table of a key.
    pub(crate) fn one(&self, key: &Key) -> Option<Cursor<'d>> {
        let Form::Table(spec) = key.form else { unreachable!("{} is not a table", key.name) };
        let found = self.item(key).and_then(Item::as_table_like);
        let Some(table) = found else {
            self.refuse_form(key, Vec::new());
            return None;
        };
        let place = self.place(key);
        let cursor = Cursor { book: self.book, spec, table, span: place.span, path: place.path };
        cursor.refuse_unknown_keys();
        Some(cursor)
    }

    /// The tables of a list of tables, whichever way the file writes them.
    pub(crate) fn many(&self, key: &Key) -> Vec<Cursor<'d>> {
        let Form::Tables { of, min, max } = key.form else { unreachable!("{} is no list", key.name) };
        let tables: Option<Vec<SpannedTable<'d>>> = match self.item(key) {
            None => Some(Vec::new()),
            Some(Item::ArrayOfTables(tables)) => {
                Some(tables.iter().map(|table| (table as &dyn TableLike, table.span())).collect())
            }
            Some(Item::Value(Value::Array(array))) => {
                array.iter().map(|v| Some((v.as_inline_table()? as &dyn TableLike, v.span()))).collect()
            }
            Some(_) => None,
        };
        let Some(mut tables) = tables else {
            self.refuse_form(key, Vec::new());
            return Vec::new();
        };
        if !(min..=max).contains(&tables.len()) {
            self.refuse_form(key, Vec::new());
            // Ids have 16 bits: what is beyond the limit is not read.
            tables.truncate(max);
        }
        let mut cursors = Vec::with_capacity(tables.len());
        for (position, (table, span)) in tables.into_iter().enumerate() {
            let span = span.unwrap_or(self.span.clone());
            let mut cursor = Cursor { book: self.book, spec: of, table, span, path: String::new() };
            let name = cursor.spelt(&NAME).filter(|name| is_name(name));
            let label = name.map_or_else(|| position.to_string(), str::to_owned);
            cursor.path = format!("{}[{label}]", self.key_path(key.name));
            cursor.refuse_unknown_keys();
            cursors.push(cursor);
        }
        cursors
    }
}

/// Names as the file spells them.
pub(crate) fn quoted<'w>(words: impl IntoIterator<Item = &'w str>) -> Vec<String> {
    words.into_iter().map(|word| format!("\"{word}\"")).collect()
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}
