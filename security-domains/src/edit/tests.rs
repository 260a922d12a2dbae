use serde_json::json;

use super::*;

const FILE: &str = r#"# The office.
[switch]
name = "s"

[[chain]]
name = "up"      # towards the world
path = ["fw"]

[[rule]]
port = "a"       # first
drop = true

[[vm]]
name = "fw0"
[[vm.endpoint]]
service = "fw"

[[chain]]
name = "down"

[[rule]]
port = "b"       # second
drop = true
"#;

fn rules(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("port = \"")?.split('"').next()).collect()
}

#[test]
fn a_table_that_is_added_stands_behind_its_kind_and_the_rest_stays() {
    let object = json!({ "name": "side", "path": ["fw", "ids"], "observers": null });
    let edited = edit(FILE, "chain", Edit::Add { object: &object, at: None }).unwrap();
    let new = "\n[[chain]]\nname = \"side\"\npath = [\"fw\", \"ids\"]\n";
    assert_eq!(edited, FILE.replace("name = \"down\"\n", &format!("name = \"down\"\n{new}")));
}

#[test]
fn a_table_that_is_replaced_keeps_its_place_and_one_that_is_removed_takes_nothing_with_it() {
    let object = json!({ "name": "up", "egress": "b" });
    let edited = edit(FILE, "chain", Edit::Replace { name: "up", object: &object }).unwrap();
    let old = "name = \"up\"      # towards the world\npath = [\"fw\"]\n";
    assert_eq!(edited, FILE.replace(old, "name = \"up\"\negress = \"b\"\n"));
    let edited = edit(FILE, "chain", Edit::Remove { name: "down" }).unwrap();
    assert_eq!(edited, FILE.replace("\n[[chain]]\nname = \"down\"\n", ""));
}

#[test]
fn a_rule_stands_where_it_is_put_whatever_the_order_of_the_file() {
    let object = json!({ "port": "c", "drop": true });
    for (at, order) in [(0, ["c", "a", "b"]), (1, ["a", "c", "b"]), (2, ["a", "b", "c"])] {
        let edited = edit(FILE, "rule", Edit::Add { object: &object, at: Some(at) }).unwrap();
        assert_eq!(rules(&edited), order, "{edited}");
        assert!(
            edited.contains("# first") && edited.contains("[[vm.endpoint]]\nservice = \"fw\""),
            "{edited}"
        );
    }
    let refused = edit(FILE, "rule", Edit::Add { object: &object, at: Some(3) }).unwrap_err();
    assert_eq!(refused.to_string(), "no rule \"3\"; places are 0 to 2");
}

#[test]
fn endpoints_go_with_their_owner() {
    let object = json!({ "name": "fw1", "endpoint": [{ "service": "fw", "args": ["-v"] }] });
    let edited = edit(FILE, "vm", Edit::Add { object: &object, at: Some(0) }).unwrap();
    let vms = edited.find("[[vm]]").unwrap();
    assert_eq!(
        edited[vms..].trim_end(),
        "[[vm]]\nname = \"fw1\"\n\n[[vm.endpoint]]\nargs = [\"-v\"]\nservice = \"fw\"\n\n\
         [[vm]]\nname = \"fw0\"\n[[vm.endpoint]]\nservice = \"fw\""
    );
    let edited = edit(FILE, "vm", Edit::Remove { name: "fw0" }).unwrap();
    assert!(!edited.contains("vm") && edited.contains("down"), "{edited}");
}

#[test]
fn what_a_text_says_reads_back_into_the_same_text() {
    let said = tables(FILE, "chain");
    assert_eq!(said, [json!({ "name": "up", "path": ["fw"] }), json!({ "name": "down" })]);
    assert_eq!(tables(FILE, "vm"), [json!({ "name": "fw0", "endpoint": [{ "service": "fw" }] })]);
    let edited = edit(FILE, "chain", Edit::Replace { name: "up", object: &said[0] }).unwrap();
    assert_eq!(tables(&edited, "chain"), said);
    assert!(tables(FILE, "edge").is_empty() && tables("=", "chain").is_empty());
}

#[test]
fn tables_in_a_list_are_tables() {
    let text = "rule = [{ port = \"a\", drop = true }]\n";
    let edited = edit(text, "rule", Edit::Remove { name: "0" }).unwrap();
    assert_eq!(edited, "");
    let object = json!({ "port": "b" });
    let edited = edit(text, "rule", Edit::Add { object: &object, at: None }).unwrap();
    assert!(edited.contains("port = \"a\"") && edited.contains("port = \"b\""), "{edited}");
}

#[test]
fn what_is_not_there_is_refused_with_what_may_have_been_meant() {
    let none = json!({});
    for (kind, edited, said) in [
        (
            "chian",
            Edit::Remove { name: "up" },
            "no kind of table \"chian\"; there are: domain, port, service",
        ),
        ("switch", Edit::Remove { name: "s" }, "no kind of table \"switch\""),
        ("chain", Edit::Remove { name: "donw" }, "no chain \"donw\"; nearest: down"),
        ("chain", Edit::Remove { name: "sideways" }, "no chain \"sideways\"; there are: up, down"),
        ("edge", Edit::Remove { name: "0" }, "no edge \"0\"; there are 0, from 0"),
        ("port", Edit::Replace { name: "a", object: &none }, "no port \"a\"; there is none"),
        ("rule", Edit::Remove { name: "2" }, "no rule \"2\"; there are 2, from 0"),
        ("rule", Edit::Remove { name: "-1" }, "no rule \"-1\""),
    ] {
        let refused = edit(FILE, kind, edited).unwrap_err().to_string();
        assert!(refused.starts_with(said), "{refused}");
    }
}

#[test]
fn a_second_one_of_a_name_is_refused() {
    let object = json!({ "name": "up" });
    let refused = edit(FILE, "chain", Edit::Add { object: &object, at: None }).unwrap_err();
    assert_eq!(refused.to_string(), "chain \"up\" is there already; PUT replaces it");
}

#[test]
fn what_no_table_can_be_written_from_is_refused() {
    for (object, said) in [
        (json!([]), "chain must be an object, got []"),
        (json!({ "path": [null] }), "chain.path must be left out, or a value, got null"),
        (json!({ "path": { "a": null } }), "chain.path.a must be left out, or a value, got null"),
    ] {
        let refused = edit(FILE, "chain", Edit::Add { object: &object, at: None }).unwrap_err();
        assert_eq!(refused.to_string(), said);
    }
    let object = json!({});
    assert_eq!(edit("=", "chain", Edit::Add { object: &object, at: None }), Err(EditError::Text));
}

#[test]
fn kinds_without_names_are_those_in_an_order() {
    let without: Vec<_> = kinds().into_iter().filter(|kind| !has_names(kind)).collect();
    assert_eq!(without, ["rule", "edge", "policy"]);
}
