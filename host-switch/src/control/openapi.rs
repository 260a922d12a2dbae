//! The OpenAPI document: the calls of [`super::api::calls`], with the schemas of what they take and answer.
//!
//! Answers are described by the types that they are written from, objects of the config by the tables of keys that
//! the language is checked by. Nothing is described twice.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::api::{Call, What, calls, plural};
use super::order::Act;
use super::request::{Applied, ConfigRequest, PARAMETERS, RunningConfig};
use super::status::{ApiError, Audit, OwnerStatus, Status};

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut schemas = SchemaSettings::openapi3().into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for Call { what, path } in calls() {
        let (method, operation) = operation(what, &path, &mut schemas);
        if let Value::Object(methods) = paths.entry(path).or_insert_with(|| json!({})) {
            methods.insert(method.to_owned(), operation);
        }
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "netvm",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP over the Unix socket control.sock in the runtime directory of a switch. \
                            A change of the config is made whole or not at all.",
        },
        "paths": paths,
        "components": { "schemas": schemas.take_definitions(true) },
    })
}

/// Its method, and what there is to say of it.
fn operation(what: What, path: &str, schemas: &mut SchemaGenerator) -> (&'static str, Value) {
    let error = schemas.subschema_for::<ApiError>().to_value();
    let (method, summary, answer) = describe(what, schemas);
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters(what, path),
        "responses": {
            "200": { "description": "It is so.", "content": content(answer) },
            "default": { "description": "It is not done, and why.", "content": content(error) },
        },
    });
    if let Some(body) = body(what, schemas) {
        operation["requestBody"] = json!({ "required": true, "content": content(body) });
    }
    (method, operation)
}

fn content(schema: Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

/// Method, summary, and the schema of the answer.
fn describe(what: What, schemas: &mut SchemaGenerator) -> (&'static str, String, Value) {
    let any = || json!({ "type": "object" });
    match what {
        What::Status => {
            ("get", "Everything at a glance.".to_owned(), schemas.subschema_for::<Status>().to_value())
        }
        What::Audit => {
            ("get", "The buffers, each counted anew.".to_owned(), schemas.subschema_for::<Audit>().to_value())
        }
        What::Config => ("get", "The config that runs, checked, with every default.".to_owned(), any()),
        What::Text => (
            "get",
            "The config that runs, as a text.".to_owned(),
            schemas.subschema_for::<RunningConfig>().to_value(),
        ),
        What::Apply => ("put", "Apply another config.".to_owned(), applied(schemas)),
        What::OpenApi => ("get", "This document.".to_owned(), any()),
        What::Stop => ("post", "Stop the switch.".to_owned(), any()),
        What::Order => (
            "post",
            "Take a VM or process out, let it in again, or end it.".to_owned(),
            schemas.subschema_for::<OwnerStatus>().to_value(),
        ),
        What::List(kind) => (
            "get",
            format!("The {} of the config.", plural(kind)),
            json!({ "type": "array", "items": object(kind) }),
        ),
        What::Show(kind) => ("get", format!("One {kind} of the config."), object(kind)),
        What::Add(kind) => ("post", format!("Add a {kind}."), applied(schemas)),
        What::Replace(kind) => ("put", format!("Put another {kind} in the place of one."), applied(schemas)),
        What::Remove(kind) => ("delete", format!("Remove a {kind}."), applied(schemas)),
    }
}

fn applied(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<Applied>().to_value()
}

/// One table, as the language describes it.
fn object(kind: &str) -> Value {
    security_domains::schema_of(kind).unwrap_or_default()
}

fn body(what: What, schemas: &mut SchemaGenerator) -> Option<Value> {
    match what {
        What::Apply => Some(schemas.subschema_for::<ConfigRequest>().to_value()),
        What::Add(kind) | What::Replace(kind) => Some(object(kind)),
        _ => None,
    }
}

fn parameters(what: What, path: &str) -> Vec<Value> {
    let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| {
            let schema = match name {
                "act" => json!({ "type": "string", "enum": Act::ALL.map(Act::name) }),
                "place" => json!({ "type": "integer", "minimum": 0 }),
                _ => json!({ "type": "string" }),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    if matches!(what, What::Apply | What::Add(_) | What::Replace(_) | What::Remove(_)) {
        parameters.extend(PARAMETERS.iter().map(|(name, meaning)| {
            let kind = if *name == "dry_run" { "boolean" } else { "integer" };
            json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": kind } })
        }));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described_and_every_reference_leads_somewhere() {
        let document = document();
        for Call { what, path } in calls() {
            assert!(document["paths"][&path].is_object(), "{what:?} {path}");
        }
        let operations: usize =
            document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(operations, calls().len());
        let text = document.to_string();
        let references: Vec<&str> =
            text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(references.len() > 10);
        for reference in references {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
        let chain = &document["paths"]["/v1/chains"]["post"];
        let keys = &chain["requestBody"]["content"]["application/json"]["schema"]["properties"];
        assert!(keys["path"]["description"].as_str().unwrap().starts_with("Services in the order"));
        let names: Vec<_> = chain["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["dry_run", "generation", "at"]);
    }
}
