//! One table of a configuration file written anew, taken out, or added; the rest of the text stays as it is.
//!
//! Whether the outcome is a legal configuration is not asked here: it is read and checked like any other.

use serde_json::{Map, Value as Json};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use crate::form::Form;
use crate::key::Presence;
use crate::scope;

/// What becomes of one table.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'e> {
    /// One more; behind the others of its kind, or at a place among them.
    Add {
        /// Its keys.
        object: &'e Json,
        /// Its place from 0.
        at: Option<usize>,
    },
    /// Other keys in its place.
    Replace {
        /// Which: a name, or the place from 0 of what has none.
        name: &'e str,
        /// Its keys.
        object: &'e Json,
    },
    /// None any more.
    Remove {
        /// Which: a name, or the place from 0 of what has none.
        name: &'e str,
    },
}

/// Why a text is not edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// There are no such tables.
    #[error("no kind of table {kind:?}; there are: {known}")]
    NoKind {
        /// As given.
        kind: String,
        /// Those that there are.
        known: String,
    },
    /// Nothing of this name, or at this place.
    #[error("no {kind} {name:?}; {nearest}")]
    NoTable {
        /// Of what.
        kind: String,
        /// As given.
        name: String,
        /// What may have been meant.
        nearest: String,
    },
    /// There is one of this name.
    #[error("{kind} {name:?} is there already; PUT replaces it")]
    Taken {
        /// What it is.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Not what a table can be written from.
    #[error("{key} must be {rule}, got {got}")]
    Object {
        /// Where.
        key: String,
        /// What is allowed.
        rule: &'static str,
        /// What was found.
        got: String,
    },
    /// The text is no configuration; its own reading says why.
    #[error("the configuration is no TOML")]
    Text,
}

/// Kinds of tables that a file may have several of, by the names of their keys.
#[must_use]
pub fn kinds() -> Vec<&'static str> {
    let several = scope::TABLE.keys.iter().filter(|key| matches!(key.form, Form::Tables { .. }));
    several.map(|key| key.name).collect()
}

/// Whether tables of this kind have names.
#[must_use]
pub fn has_names(kind: &str) -> bool {
    let names = |table: &crate::key::Table| {
        table.keys.iter().any(|key| key.name == "name" && matches!(key.presence, Presence::Needed))
    };
    scope::TABLE.keys.iter().any(|key| match key.form {
        Form::Tables { of, .. } => key.name == kind && names(of),
        _ => false,
    })
}

/// The tables of a kind as the text says them, in its order; none if the text is none or has none.
#[must_use]
pub fn tables(text: &str, kind: &str) -> Vec<Json> {
    let Ok(document) = text.parse::<DocumentMut>() else { return Vec::new() };
    let item = document.get(kind).cloned().unwrap_or_default();
    match item.into_array_of_tables() {
        Ok(tables) => tables.iter().map(|table| said(table)).collect(),
        Err(_) => Vec::new(),
    }
}

fn said(table: &dyn TableLike) -> Json {
    let of_item = |item: &Item| match item {
        Item::Value(value) => said_value(value),
        Item::Table(table) => said(table),
        Item::ArrayOfTables(tables) => tables.iter().map(|table| said(table)).collect(),
        Item::None => Json::Null,
    };
    Json::Object(table.iter().map(|(key, item)| (key.to_owned(), of_item(item))).collect())
}

fn said_value(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::from(text.value().as_str()),
        Value::Integer(number) => Json::from(*number.value()),
        Value::Float(number) => Json::from(*number.value()),
        Value::Boolean(flag) => Json::from(*flag.value()),
        Value::Datetime(time) => Json::from(time.value().to_string()),
        Value::Array(list) => list.iter().map(said_value).collect(),
        Value::InlineTable(table) => said(table),
    }
}

/// The text with one of its tables edited.
///
/// # Errors
/// If there is no such table to edit, or the object is none that a table can be written from.
pub fn edit(text: &str, kind: &str, edit: Edit<'_>) -> Result<String, EditError> {
    if !kinds().contains(&kind) {
        return Err(EditError::NoKind { kind: kind.to_owned(), known: kinds().join(", ") });
    }
    let mut document: DocumentMut = text.parse().map_err(|_| EditError::Text)?;
    let after = last_position(document.as_table()) + 1;
    let item = document.as_table_mut().entry(kind).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    // As inline tables in a list, they are the same to the language.
    let mut tables = std::mem::take(item).into_array_of_tables().map_err(|_| EditError::Text)?;
    match edit {
        Edit::Add { object, at } => add(&mut tables, kind, object, at, after)?,
        Edit::Replace { name, object } => {
            let at = find(&tables, kind, name)?;
            let mut new = table(object, kind)?;
            if let Some(old) = tables.get_mut(at) {
                new.set_position(old.position());
                *new.decor_mut() = old.decor().clone();
                *old = new;
            }
        }
        Edit::Remove { name } => {
            let at = find(&tables, kind, name)?;
            tables.remove(at);
        }
    }
    if tables.is_empty() {
        document.as_table_mut().remove(kind);
    } else {
        document.as_table_mut()[kind] = Item::ArrayOfTables(tables);
    }
    Ok(document.to_string())
}

fn add(
    tables: &mut ArrayOfTables,
    kind: &str,
    object: &Json,
    at: Option<usize>,
    after: isize,
) -> Result<(), EditError> {
    let new = table(object, kind)?;
    if let Some(name) = name_of(&new).filter(|_| has_names(kind))
        && tables.iter().any(|table| name_of(table) == Some(name))
    {
        return Err(EditError::Taken { kind: kind.to_owned(), name: name.to_owned() });
    }
    let count = tables.len();
    let Some(at) = at.filter(|at| *at != count) else {
        tables.push(new);
        return Ok(());
    };
    if at > count {
        return Err(EditError::NoTable {
            kind: kind.to_owned(),
            name: at.to_string(),
            nearest: format!("places are 0 to {count}"),
        });
    }
    tables.insert(at, new);
    // A text is written in the order of its parts' places, and a place between two there is none: behind the rest,
    // all of this kind stand in their order.
    for (place, table) in (after..).zip(tables.iter_mut()) {
        table.set_position(Some(place));
        forget_positions(table);
    }
    Ok(())
}

/// The last place of a table in the text.
fn last_position(table: &Table) -> isize {
    let of_item = |item: &Item| match item {
        Item::Table(table) => last_position(table),
        Item::ArrayOfTables(tables) => tables.iter().map(last_position).max().unwrap_or(0),
        Item::None | Item::Value(_) => 0,
    };
    let within = table.iter().map(|(_, item)| of_item(item)).max().unwrap_or(0);
    within.max(table.position().unwrap_or(0))
}

/// Tables within a table stand behind it.
fn forget_positions(table: &mut Table) {
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(table) => {
                table.set_position(None);
                forget_positions(table);
            }
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| {
                table.set_position(None);
                forget_positions(table);
            }),
            Item::None | Item::Value(_) => {}
        }
    }
}

fn find(tables: &ArrayOfTables, kind: &str, name: &str) -> Result<usize, EditError> {
    let refused = |nearest| EditError::NoTable { kind: kind.to_owned(), name: name.to_owned(), nearest };
    if !has_names(kind) {
        let place = name.parse().ok().filter(|place: &usize| *place < tables.len());
        return place.ok_or_else(|| refused(format!("there are {}, from 0", tables.len())));
    }
    let known: Vec<&str> = tables.iter().filter_map(name_of).collect();
    known.iter().position(|known| *known == name).ok_or_else(|| {
        let near = crate::nearest::near_enough(name, known.iter().copied());
        refused(match (near.as_slice(), known.as_slice()) {
            (_, []) => "there is none".to_owned(),
            ([], known) => format!("there are: {}", known.join(", ")),
            (near, _) => format!("nearest: {}", near.join(" or ")),
        })
    })
}

fn name_of(table: &Table) -> Option<&str> {
    table.get("name")?.as_str()
}

/// A table out of a JSON object; a key that is null is left out.
fn table(object: &Json, path: &str) -> Result<Table, EditError> {
    let Json::Object(object) = object else { return Err(refuse(path, "an object", object)) };
    let mut table = Table::new();
    let mut keys: Vec<_> = object.iter().filter(|(_, value)| !value.is_null()).collect();
    // As people write it: the name in front, tables of its own behind.
    keys.sort_by_key(|(key, value)| (key.as_str() != "name", is_tables(value)));
    for (key, value) in keys {
        let path = format!("{path}.{key}");
        let item = match value {
            Json::Array(list) if is_tables(value) => {
                let tables: Result<ArrayOfTables, _> =
                    list.iter().map(|each| self::table(each, &path)).collect();
                Item::ArrayOfTables(tables?)
            }
            _ => Item::Value(self::value(value, &path)?),
        };
        table.insert(key, item);
    }
    Ok(table)
}

fn is_tables(value: &Json) -> bool {
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Json::is_object))
}

fn value(json: &Json, path: &str) -> Result<Value, EditError> {
    Ok(match json {
        Json::Bool(flag) => Value::from(*flag),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => return Err(refuse(path, "a number of 64 bits", json)),
        },
        Json::Array(list) => {
            let list: Result<Array, _> = list.iter().map(|each| value(each, path)).collect();
            Value::from(list?)
        }
        Json::Object(object) => Value::from(inline(object, path)?),
        Json::Null => return Err(refuse(path, "left out, or a value", json)),
    })
}

fn inline(object: &Map<String, Json>, path: &str) -> Result<InlineTable, EditError> {
    let mut table = InlineTable::new();
    for (key, json) in object {
        table.insert(key, value(json, &format!("{path}.{key}"))?);
    }
    Ok(table)
}

fn refuse(key: &str, rule: &'static str, got: &Json) -> EditError {
    let mut got: String = got.to_string().chars().take(60).collect();
    if got.len() >= 60 {
        got.push('…');
    }
    EditError::Object { key: crate::source::printable(key), rule, got }
}

#[cfg(test)]
mod tests;
