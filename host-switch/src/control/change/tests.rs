use std::sync::Barrier;

use serde_json::json;

use super::*;
use crate::control::request::ConfigRequest;

const FILE: &str = r#"
[switch]
name = "s"
lcores = [0]
[[domain]]
name = "blue"
region_mib = 8
[[port]]
name = "in"
device = "net_null0"
domain = "blue"
chain = "up"
[[port]]
name = "out"
device = "net_null1"
domain = "blue"
chain = "down"
[[service]]
name = "fw"
[[chain]]
name = "up"
path = ["fw"]
egress = "out"
[[chain]]
name = "down"
path = []
egress = "in"
[[process]]
name = "a"
domain = "blue"
[[process.endpoint]]
service = "fw"
"#;

/// Lcores that note what they were told.
#[derive(Clone, Default)]
struct Noted {
    changes: Arc<Mutex<Vec<DatapathChange>>>,
    asked: Arc<Mutex<Vec<Vec<ChainId>>>>,
    policies: Arc<Mutex<usize>>,
}

impl Adopters for Noted {
    fn change(&self, change: DatapathChange) -> Result<Changed, String> {
        self.changes.lock().unwrap().push(change);
        Ok(Changed { overtaken: 3, ..Changed::default() })
    }
    fn carried(&self, chains: &[ChainId]) -> Result<Vec<ChainId>, String> {
        self.asked.lock().unwrap().push(chains.to_vec());
        Ok(Vec::new())
    }
    fn judge_by(&self, policies: &[Policy]) -> Result<(), String> {
        *self.policies.lock().unwrap() = policies.len();
        Ok(())
    }
}

fn running() -> (Changes, Noted) {
    let config = security_domains::parse_text_as(FILE, "/etc/s.toml".as_ref(), "s.toml").unwrap();
    let plan = Arc::new(Plan::new(&config, 1).unwrap());
    let noted = Noted::default();
    (Changes::new(config, FILE.to_owned(), plan, Box::new(noted.clone())), noted)
}

fn whole(old: &str, new: &str) -> Wish {
    assert!(FILE.contains(old), "{old}");
    Wish::Config(ConfigRequest { file: "/etc/s.toml".into(), text: FILE.replace(old, new) })
}

/// Refused, with nothing changed anywhere; the error.
fn refused(changes: &Changes, noted: &Noted, wish: &Wish, options: Options) -> ChangeError {
    let before = (changes.text(), Arc::clone(&changes.running().plan));
    let error = changes.apply(wish, options).unwrap_err();
    assert_eq!(changes.text(), before.0);
    assert!(Arc::ptr_eq(&changes.running().plan, &before.1));
    assert!(noted.changes.lock().unwrap().is_empty(), "an lcore was told of a refused change");
    error
}

const NOW: Options = Options { dry_run: false, generation: None, at: None };

#[test]
fn another_path_is_taken_up_by_the_lcores_and_runs_then() {
    let (changes, noted) = running();
    let applied = changes.apply(&whole("path = [\"fw\"]", "path = []"), NOW).unwrap();
    assert!(applied.applied && applied.generation == 2 && applied.overtaken == 3);
    assert_eq!(applied.difference.to_string(), "~ chain up: path [\"fw\"] -> []");
    assert_eq!(noted.changes.lock().unwrap().len(), 1);
    assert_eq!(changes.text().text, FILE.replace("path = [\"fw\"]", "path = []"));
    assert_eq!(changes.running().config.chains[0].path, []);
    // The chain of before has a number still; before the next change, the lcores are asked about it.
    assert!(noted.asked.lock().unwrap().is_empty());
    changes.apply(&whole("path = [\"fw\"]", "path = [\"fw\"]"), NOW).unwrap();
    assert_eq!(*noted.asked.lock().unwrap(), [[ChainId(0)]]);
}

#[test]
fn a_dry_run_says_all_and_changes_nothing() {
    let (changes, noted) = running();
    let dry = Options { dry_run: true, ..NOW };
    let said = changes.apply(&whole("path = [\"fw\"]", "path = []"), dry).unwrap();
    assert!(!said.applied && said.generation == 1 && said.difference.lines.len() == 1);
    let said = changes.apply(&whole("region_mib = 8", "region_mib = 16"), dry).unwrap();
    assert!(!said.applied && said.difference.needs_restart());
    assert_eq!(changes.text().text, FILE);
    assert!(noted.changes.lock().unwrap().is_empty());
}

#[test]
fn a_file_with_one_thing_that_needs_a_restart_changes_nothing() {
    let (changes, noted) = running();
    let text = FILE.replace("path = [\"fw\"]", "path = []").replace("region_mib = 8", "region_mib = 16");
    let wish = Wish::Config(ConfigRequest { file: "/etc/s.toml".into(), text });
    let error = refused(&changes, &noted, &wish, NOW);
    assert_eq!(error.code(), 409);
    assert_eq!(
        error.to_string(),
        "this takes a restart of the switch; nothing was changed\n\
         ~ domain blue: region_mib 8 -> 16 (needs a restart: the region is laid out when the switch starts)\n\
         ~ chain up: path [\"fw\"] -> []"
    );
    assert_eq!(error.answer().difference.unwrap().lines.len(), 2);
}

#[test]
fn a_file_that_breaks_rules_is_refused_with_every_place() {
    let (changes, noted) = running();
    let wish = whole("path = [\"fw\"]\negress = \"out\"", "path = [\"fv\"]\negress = \"ouz\"");
    let error = refused(&changes, &noted, &wish, NOW);
    assert_eq!(error.code(), 422);
    let said = error.to_string();
    assert!(
        said.starts_with("2 findings; nothing was changed\n/etc/s.toml:22:9: chain[up].path[0] must"),
        "{said}"
    );
    assert!(said.contains("\n/etc/s.toml:23:10: chain[up].egress must"), "{said}");
    assert_eq!(error.answer().findings.unwrap()[1]["line"], 23);
}

#[test]
fn one_object_is_changed_as_a_file_is() {
    let (changes, noted) = running();
    let object = json!({ "port": "in", "proto": 17, "drop": true });
    let applied = changes.apply(&Wish::Add { kind: "rule", object: object.clone() }, NOW).unwrap();
    assert_eq!(applied.difference.to_string(), "+ rule[0]: drop true, port \"in\", proto 17");
    let first = Options { at: Some(0), ..NOW };
    let other = json!({ "port": "in", "proto": 6, "drop": true });
    changes.apply(&Wish::Add { kind: "rule", object: other }, first).unwrap();
    assert_eq!(security_domains::tables(&changes.text().text, "rule")[1], object);
    assert_eq!(noted.changes.lock().unwrap()[1].held, [switch_core::ids::PortId(0)]);
    let replace = Wish::Replace {
        kind: "chain",
        name: "up".into(),
        object: json!({ "name": "up", "path": [], "egress": "out" }),
    };
    assert_eq!(changes.apply(&replace, NOW).unwrap().generation, 4);
    changes.apply(&Wish::Remove { kind: "rule", name: "1".into() }, NOW).unwrap();
    assert_eq!(security_domains::tables(&changes.text().text, "rule").len(), 1);
    // What is written in files was not.
    let back = changes.apply(&whole("fw", "fw"), NOW).unwrap();
    assert_eq!(back.difference.lines.len(), 2);
}

#[test]
fn one_object_that_breaks_a_rule_is_refused() {
    let (changes, noted) = running();
    let refused = |wish: &Wish| refused(&changes, &noted, wish, NOW);
    let error = refused(&Wish::Remove { kind: "chain", name: "up".into() });
    let said = error.to_string();
    assert!(said.contains("the running config with this change:12:9: port[in].chain must"), "{said}");
    let error = refused(&Wish::Remove { kind: "chain", name: "upp".into() });
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        (404, "no chain \"upp\"; nearest: up; nothing was changed")
    );
    let error = refused(&Wish::Add { kind: "chain", object: json!({ "name": "up" }) });
    assert_eq!(error.code(), 409);
    let error = refused(&Wish::Add {
        kind: "port",
        object: json!({ "name": "x", "device": "net_null9", "rx_slots": 64, "tx_slots": 64, "domain": "blue", "chain": "up" }),
    });
    assert!(matches!(error, ChangeError::Restart(_)), "{error}");
    let relative = Wish::Config(ConfigRequest { file: "s.toml".into(), text: FILE.to_owned() });
    assert_eq!(refused(&relative).code(), 400);
}

#[test]
fn who_knows_an_older_generation_is_refused_with_the_present_one() {
    let (changes, noted) = running();
    let wish = whole("path = [\"fw\"]", "path = []");
    let error = refused(&changes, &noted, &wish, Options { generation: Some(2), ..NOW });
    assert_eq!((error.code(), error.answer().generation), (409, Some(1)));
    assert!(changes.apply(&wish, Options { generation: Some(1), ..NOW }).unwrap().applied);
}

#[test]
fn of_many_who_know_the_same_generation_one_succeeds() {
    let (changes, noted) = running();
    let wish = whole("path = [\"fw\"]", "path = []");
    let start = Barrier::new(8);
    let apply = || {
        start.wait();
        changes.apply(&wish, Options { generation: Some(1), ..NOW }).is_ok()
    };
    let done: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(apply)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(done.iter().filter(|done| **done).count(), 1);
    assert_eq!((noted.changes.lock().unwrap().len(), changes.text().generation), (1, 2));
}

#[test]
fn policies_go_to_the_keeper() {
    let (changes, noted) = running();
    let policy = json!({ "violation": "epoch", "action": "count" });
    let applied = changes.apply(&Wish::Add { kind: "policy", object: policy }, NOW).unwrap();
    assert_eq!(applied.difference.lines.len(), 1);
    assert_eq!(*noted.policies.lock().unwrap(), 1);
}
