//! The reference of the language for readers; printed from the tables of keys.

use crate::form::{Form, strip_must_be};
use crate::key::{Key, Presence, Table};
use crate::scope;

/// Every key with its rule and default, as Markdown tables.
#[must_use]
pub fn key_tables() -> String {
    let mut text = String::new();
    write_tables(&scope::TABLE, &mut text);
    text
}

fn write_tables(table: &Table, text: &mut String) {
    if !table.header.is_empty() {
        let rows: String = table.keys.iter().filter_map(|key| row(key)).collect();
        text.push_str(&format!(
            "### `{}`\n{}\n\n| key | value | default | meaning |\n|---|---|---|---|\n{rows}\n",
            table.header, table.doc,
        ));
    }
    for key in table.keys {
        if let Form::Table(of) | Form::Tables { of, .. } = key.form {
            write_tables(of, text);
        }
    }
}

/// Keys that hold tables have a heading of their own instead of a row.
fn row(key: &Key) -> Option<String> {
    if matches!(key.form, Form::Table(_) | Form::Tables { .. }) {
        return None;
    }
    let default = match key.presence {
        Presence::Needed => String::from("needed"),
        Presence::Optional => String::from("none"),
        Presence::Number(number) => number.to_string(),
        Presence::Word(word) => format!("\"{word}\""),
        Presence::Flag(flag) => flag.to_string(),
        Presence::Empty => String::from("empty"),
    };
    let rule = key.form.rule();
    let value = strip_must_be(&rule);
    Some(format!("| `{}` | {value} | {default} | {} |\n", key.name, key.doc))
}
