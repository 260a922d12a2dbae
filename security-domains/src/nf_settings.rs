//! Tells the settings file of an NF, handed to the switch by mistake, from a configuration with findings.

use toml_edit::{Item, Table};

use crate::book::{Book, Place};
use crate::finding::Kind;

/// Keys at the top of the rules of a firewall and the routes of a router that no configuration has.
const NF_KEYS: [&str; 6] =
    ["default", "forward", "interface", "route", "neighbour", "icmp_errors_per_second"];

/// Whether these are the settings of an NF; writes down one finding that says so.
pub(crate) fn refuse(book: &Book<'_>, document: &Table, known: &[&str]) -> bool {
    let named = |name: &str| document.get(name);
    if known.iter().any(|&key| key != "rule" && named(key).is_some()) {
        return false;
    }
    let is_nf = NF_KEYS.iter().any(|key| named(key).is_some()) || named("rule").is_some_and(has_action);
    let Some((first, _)) = document.iter().next().filter(|_| is_nf) else { return false };
    let span = document.key(first).and_then(toml_edit::Key::span).unwrap_or_default();
    let found: Vec<&str> = document.iter().map(|(name, _)| name).filter(|name| is_word(name)).collect();
    let place = Place { path: String::from("the file"), span, got: found.join(", ") };
    let rule = "must be a configuration of the switch, with [switch] and [[domain]]; these look like the settings of an NF, which a [[vm.endpoint]] takes by files and args";
    book.refuse(&place, Kind::Value, rule, Vec::new());
    true
}

/// The rules of a firewall say allow or drop by a key that rules of the switch do not have.
fn has_action(rules: &Item) -> bool {
    rules.as_array_of_tables().is_some_and(|rules| rules.iter().any(|rule| rule.contains_key("action")))
}

fn is_word(name: &str) -> bool {
    name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'))
}
