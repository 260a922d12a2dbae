//! The committed schema and the README say what the code says.
//!
//! `UPDATE=1 cargo test -p security-domains` writes both anew.

use std::path::Path;

const TABLES_BEGIN: &str = "<!-- tables of keys: printed by the tests -->\n";
const TABLES_END: &str = "<!-- end of the tables of keys -->\n";

fn keep(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, wanted).expect("the crate's folder can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == wanted, "{name} is out of date: run UPDATE=1 cargo test -p security-domains");
}

#[test]
fn the_committed_schema_is_the_schema_of_the_code() {
    let schema = serde_json::to_string_pretty(&security_domains::schema()).unwrap();
    keep("schema.json", &format!("{schema}\n"));
}

#[test]
fn the_readme_shows_the_keys_of_the_code() {
    let readme = include_str!("../README.md");
    let (before, rest) = readme.split_once(TABLES_BEGIN).unwrap();
    let (_, after) = rest.split_once(TABLES_END).unwrap();
    let tables = security_domains::key_tables();
    keep("README.md", &format!("{before}{TABLES_BEGIN}{tables}{TABLES_END}{after}"));
}

#[test]
fn the_schema_knows_every_key_of_the_examples() {
    for text in [
        include_str!("../examples/demo.toml"),
        include_str!("../examples/process-forwarder.toml"),
        include_str!("../examples/two-tenants.toml"),
        include_str!("../examples/edges.toml"),
    ] {
        let document = toml_edit::Document::parse(text).unwrap();
        for (key, item) in document.as_table() {
            known(&security_domains::schema(), key, item);
        }
    }
}

#[test]
fn the_readme_is_true() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    if let Err(findings) = security_domains::parse(example, "README.md") {
        panic!("{findings}");
    }
    let shown: Vec<&str> = include_str!("../refused/many-at-once.txt").lines().take(3).collect();
    assert!(readme.contains(&shown.join("\n")));
    let tenants = include_str!("../examples/two-tenants.toml");
    let need = &security_domains::parse(tenants, "two-tenants.toml").unwrap().needs()[1];
    assert!(readme.contains(&need.to_string()), "{need}");
}

fn known(schema: &serde_json::Value, key: &str, item: &toml_edit::Item) {
    let property = &schema["properties"][key];
    assert!(property.is_object(), "{key} is not in the schema");
    if let Some(tables) = item.as_array_of_tables() {
        for (key, item) in tables.iter().flatten() {
            known(&property["items"], key, item);
        }
    } else if let Some(table) = item.as_table() {
        for (key, item) in table {
            known(property, key, item);
        }
    }
}
