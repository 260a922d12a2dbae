//! What the promises and the threat model name is there: tests, sabotage features, files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backquotes in both documents.
fn quoted() -> BTreeSet<String> {
    let documents = [text("docs/promises.md"), text("docs/threat-model.md")].concat();
    documents.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The text of every Rust file and manifest of the workspace.
fn sources(folder: &Path, found: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "target" | "corpus" | "refused") && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") || name == "Cargo.toml" {
            found.push_str(&std::fs::read_to_string(&path).expect("a text"));
        }
    }
}

/// Three words and more: no other name in these documents is that long.
fn is_test_name(word: &str) -> bool {
    word.matches('_').count() >= 3
        && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[test]
fn every_test_and_feature_that_a_promise_names_exists() {
    let mut all = String::new();
    sources(&workspace(), &mut all);
    let quoted = quoted();
    let tests: Vec<&String> = quoted.iter().filter(|word| is_test_name(word)).collect();
    assert!(tests.len() >= 30, "{tests:?}");
    let missing: Vec<&&String> = tests.iter().filter(|name| !all.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
    let features = quoted.iter().filter(|word| word.starts_with("sabotage-") && word.is_ascii());
    let missing: Vec<&String> = features.filter(|name| !all.contains(&format!("\n{name} = "))).collect();
    assert!(missing.is_empty(), "no such features: {missing:?}");
}

#[test]
fn every_file_that_a_promise_names_exists() {
    let files = quoted().into_iter().filter(|word| word.contains('/') && !word.contains(' '));
    let missing: Vec<String> = files.filter(|path| !workspace().join(path).exists()).collect();
    assert!(missing.is_empty(), "no such files: {missing:?}");
}
