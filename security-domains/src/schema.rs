//! The JSON schema of the language, for editors; printed from the tables of keys.

use serde_json::{Map, Value, json};

use crate::form::{CACHE_LINE_BYTES, Form, NAME_BYTES_MAX, Number, Step};
use crate::key::{Key, Presence, Table};
use crate::scope;

/// The JSON schema of a configuration file.
#[must_use]
pub fn schema() -> Value {
    let mut schema = table(&scope::TABLE);
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        object.insert("title".into(), json!("netvm configuration"));
    }
    schema
}

/// The JSON schema of one table of a kind, such as a chain; none if the file has no such tables.
#[must_use]
pub fn schema_of(kind: &str) -> Option<Value> {
    let key = scope::TABLE.keys.iter().find(|key| key.name == kind)?;
    match key.form {
        Form::Tables { of, .. } | Form::Table(of) => Some(table(of)),
        _ => None,
    }
}

fn table(table: &Table) -> Value {
    let properties: Map<String, Value> =
        table.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> = table
        .keys
        .iter()
        .filter(|key| matches!(key.presence, Presence::Needed))
        .map(|key| key.name)
        .collect();
    json!({
        "type": "object",
        "description": table.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(key: &Key) -> Value {
    let mut property = form(&key.form);
    if let Some(object) = property.as_object_mut() {
        object.insert("description".into(), json!(key.doc));
        let default = match key.presence {
            Presence::Number(number) => Some(json!(number)),
            Presence::Word(word) => Some(json!(word)),
            Presence::Flag(flag) => Some(json!(flag)),
            Presence::Needed | Presence::Optional | Presence::Empty => None,
        };
        object.extend(default.map(|default| (String::from("default"), default)));
    }
    property
}

fn form(form: &Form) -> Value {
    match form {
        Form::Name => json!({ "type": "string", "pattern": "^[a-z0-9-]+$", "maxLength": NAME_BYTES_MAX }),
        Form::Reference(nouns) => {
            // The NIC of a VM is a port whose name has two parts.
            let pattern =
                if nouns.contains(&"port") { "^[a-z0-9-]+([.][a-z0-9-]+)?$" } else { "^[a-z0-9-]+$" };
            json!({ "type": "string", "pattern": pattern, "maxLength": NAME_BYTES_MAX })
        }
        Form::Hop => {
            let pattern = "^[a-z0-9-]+([.][a-z0-9-]+>[a-z0-9-]+)?$";
            json!({ "type": "string", "pattern": pattern, "maxLength": 2 * NAME_BYTES_MAX + 1 })
        }
        Form::Text(_) => json!({ "type": "string" }),
        Form::Flag => json!({ "type": "boolean" }),
        Form::Number(number) => self::number(number),
        Form::Word(words) => json!({ "type": "string", "enum": words }),
        Form::List { of, min, max } => {
            json!({ "type": "array", "items": self::form(of), "minItems": min, "maxItems": max })
        }
        Form::Texts(_) => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Form::NumberOrText(number, _) => json!({ "anyOf": [self::number(number), { "type": "string" }] }),
        Form::Table(of) => table(of),
        Form::Tables { of, min, max } => {
            json!({ "type": "array", "items": table(of), "minItems": min, "maxItems": max })
        }
    }
}

fn number(number: &Number) -> Value {
    let Number { min, max, step } = number;
    match step {
        Step::One => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Step::PowerOfTwo => {
            let legal: Vec<u32> =
                (0..32).map(|bit| 1 << bit).filter(|power| (min..=max).contains(&power)).collect();
            json!({ "type": "integer", "enum": legal })
        }
        Step::OddCacheLines => json!({
            "type": "integer",
            "minimum": min,
            "maximum": max,
            "multipleOf": CACHE_LINE_BYTES,
            "not": { "multipleOf": 2 * CACHE_LINE_BYTES },
        }),
    }
}
