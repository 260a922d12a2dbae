//! Another config for a running switch, as an operator gives it. Needs libdpdk, no hugepages, no root, no devices.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod cli;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cli::{Lab, Said};
use serde_json::Value;

fn text_of(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

/// A switch that runs, and its file.
fn running(lab: &Lab, name: &str) -> (cli::Switch, PathBuf) {
    let file = lab.config(name, &["net_null0"]);
    (lab.switch(&file), file)
}

/// The same file with another text.
fn apply(lab: &Lab, name: &str, text: &str, more: &[&str]) -> Said {
    let file = lab.write_config(&format!("{name}-next"), text);
    lab.netvm(&[&["apply", file.to_str().unwrap()], more].concat())
}

fn api(lab: &Lab, arguments: &[&str]) -> (bool, Value) {
    let said = lab.netvm(&[&["api"], arguments].concat());
    (said.good, serde_json::from_str(&said.output).unwrap_or_default())
}

/// Everything that a refused change must leave as it is, to the byte.
fn shown(lab: &Lab) -> [String; 2] {
    [["api", "GET", "/v1/config"], ["api", "GET", "/v1/config/text"]].map(|call| lab.netvm(&call).output)
}

fn dropped(lab: &Lab, reason: &str) -> u64 {
    let status: Value = serde_json::from_str(&lab.netvm(&["status", "--json"]).output).unwrap();
    status["drops"]["blue"][reason].as_u64().unwrap()
}

/// Whether more and more packets are dropped so.
fn is_dropping(lab: &Lab, reason: &str) -> bool {
    let before = dropped(lab, reason);
    std::thread::sleep(Duration::from_millis(50));
    dropped(lab, reason) > before
}

#[test]
fn a_rule_holds_as_soon_as_it_is_applied_and_no_longer() {
    let lab = Lab::new();
    let (_switch, file) = running(&lab, "rules");
    // Nobody serves the chain, so what enters it is dropped; the port plays frames for ever.
    assert!(is_dropping(&lab, "service_dead"));
    assert_eq!(dropped(&lab, "rule_drop"), 0);
    let ruled = text_of(&file) + "[[rule]]\nport = \"port0\"\ndrop = true\n";

    let said = apply(&lab, "rules", &ruled, &["--dry-run"]);
    assert!(
        said.good && said.output == "+ rule[0]: drop true, port \"port0\"\ndry run: nothing was changed\n",
        "{said:?}"
    );
    assert_eq!(lab.netvm(&["config"]).output, text_of(&file));

    let said = apply(&lab, "rules", &ruled, &[]);
    assert!(said.good && said.output.contains("\napplied: generation 2"), "{said:?}");
    let dead = dropped(&lab, "service_dead");
    assert!(is_dropping(&lab, "rule_drop"));
    assert_eq!(dropped(&lab, "service_dead"), dead, "a packet has met the old tables");
    assert_eq!(lab.netvm(&["config"]).output, ruled);

    let (good, applied) = api(&lab, &["DELETE", "/v1/rules/0?generation=2"]);
    assert!(
        good && applied["generation"] == 3 && applied["difference"][0]["change"] == "removed",
        "{applied}"
    );
    let ruled = dropped(&lab, "rule_drop");
    assert!(is_dropping(&lab, "service_dead"));
    assert_eq!(dropped(&lab, "rule_drop"), ruled);
    let audit = lab.netvm(&["audit"]);
    assert!(audit.good, "{audit:?}");
    assert!(lab.netvm(&["stop"]).good);
}

#[test]
fn a_refused_file_leaves_everything_as_it_is_and_says_why() {
    let lab = Lab::new();
    let (_switch, file) = running(&lab, "refused");
    let (text, before) = (text_of(&file), shown(&lab));
    for (old, new, why) in [
        (
            "path = [\"forwarder\"]",
            "path = [\"forwarde\"]",
            "-next.toml:17:9: chain[way].path[0] must be the name of a service",
        ),
        (
            "region_mib = 8",
            "region_mib = 16",
            "~ domain blue: region_mib 8 -> 16 (needs a restart: the region is laid out",
        ),
        ("lcores = [0]", "lcores = [", "-next.toml:"),
    ] {
        // Something in it could be done; it is not.
        let text = text.replace(old, new) + "[[rule]]\nport = \"port0\"\ndrop = true\n";
        for more in [&[][..], &["--json"]] {
            let said = apply(&lab, "refused", &text, more);
            let where_said = if more.is_empty() { &said.errors } else { &said.output };
            assert!(!said.good && where_said.contains("nothing was changed"), "{said:?}");
            assert!(!more.is_empty() || where_said.contains(why), "{said:?}");
        }
    }
    let (good, refused) = api(&lab, &["DELETE", "/v1/chains/way"]);
    assert!(!good && refused["findings"][0]["key"] == "port[port0].chain", "{refused}");
    let (good, refused) = api(&lab, &["POST", "/v1/rules?generation=9", "--data", "{}"]);
    assert!(!good && refused["generation"] == 1, "{refused}");
    assert_eq!(shown(&lab), before);
    assert_eq!(dropped(&lab, "rule_drop"), 0);
}

#[test]
fn of_many_who_change_the_same_generation_one_succeeds() {
    let lab = Lab::new();
    let (_switch, _) = running(&lab, "many");
    let rule = "{\"port\": \"port0\", \"drop\": true}";
    let call = ["api", "POST", "/v1/rules?generation=1", "--data", rule];
    let children: Vec<_> =
        (0..6).map(|_| lab.command(&call).stdout(std::process::Stdio::null()).spawn().unwrap()).collect();
    let good =
        children.into_iter().filter_map(|mut child| child.wait().unwrap().success().then_some(())).count();
    assert_eq!(good, 1);
    let (_, rules) = api(&lab, &["GET", "/v1/rules"]);
    assert_eq!(rules.as_array().unwrap().len(), 1, "{rules}");
}

#[test]
fn ten_changes_in_a_row_leave_a_switch_that_counts_right() {
    let lab = Lab::new();
    let (_switch, file) = running(&lab, "often");
    let started = Instant::now();
    let other = text_of(&file).replace("path = [\"forwarder\"]", "path = []");
    for round in 0..10 {
        let text = if round % 2 == 0 { other.clone() } else { text_of(&file) };
        let said = apply(&lab, "often", &text, &[]);
        assert!(said.good, "{said:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(lab.netvm(&["audit"]).good);
    assert!(is_dropping(&lab, "service_dead"));
    let (_, running) = api(&lab, &["GET", "/v1/config/text"]);
    assert_eq!(running["generation"], 11);
}

#[test]
fn the_document_about_the_calls_needs_no_switch() {
    let said = cli::netvm(&["api", "--openapi"]);
    let document: Value = serde_json::from_str(&said.output).unwrap();
    assert!(said.good && document["openapi"] == "3.0.3");
    assert!(document["paths"]["/v1/rules/{place}"]["delete"].is_object());
}
