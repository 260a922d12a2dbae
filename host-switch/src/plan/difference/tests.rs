use security_domains::parse;

use super::*;

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
[[service]]
name = "ids"
[[chain]]
name = "up"
path = ["fw", "ids"]
egress = "out"
[[chain]]
name = "down"
path = []
egress = "in"
[[rule]]
port = "in"
proto = 6
chain = "up"
[[rule]]
port = "in"
proto = 17
drop = true
[[process]]
name = "a"
domain = "blue"
[[process.endpoint]]
service = "fw"
[[process]]
name = "b"
domain = "blue"
[[process.endpoint]]
service = "ids"
"#;

fn between(old: &str, new: &str) -> Difference {
    let config = |text: &str| parse(text, "/s.toml").unwrap_or_else(|findings| panic!("{findings}"));
    Difference::between(&config(old), &config(new))
}

/// What becomes of the file when `old` in it is `new`.
fn edited(old: &str, new: &str) -> Difference {
    assert_eq!(FILE.matches(old).count(), 1, "{old}");
    between(FILE, &FILE.replace(old, new))
}

#[test]
fn a_config_does_not_differ_from_itself() {
    assert!(between(FILE, FILE).is_empty());
}

#[test]
fn a_default_that_is_written_out_is_no_difference() {
    let difference =
        edited("name = \"fw\"\n[[service]]", "name = \"fw\"\nwhen_dead = \"closed\"\n[[service]]");
    assert!(difference.is_empty(), "{difference}");
}

#[test]
fn the_order_of_things_with_names_is_no_difference() {
    let (first, second) = ("[[service]]\nname = \"fw\"\n", "[[service]]\nname = \"ids\"\n");
    let swapped = FILE.replace(&format!("{first}{second}"), &format!("{second}{first}"));
    assert_ne!(swapped, FILE);
    assert!(between(FILE, &swapped).is_empty());
}

#[test]
fn another_path_is_shown_by_names_with_before_and_after() {
    let difference = edited("path = [\"fw\", \"ids\"]", "path = [\"ids\"]");
    assert_eq!(difference.to_string(), r#"~ chain up: path ["fw","ids"] -> ["ids"]"#);
    assert!(!difference.needs_restart());
}

#[test]
fn a_new_chain_that_a_port_takes_is_two_lines() {
    let new = FILE.replace("chain = \"down\"", "chain = \"back\"")
        + "[[chain]]\nname = \"back\"\npath = [\"fw\"]\negress = \"in\"\n";
    assert_eq!(
        between(FILE, &new).to_string(),
        "~ port out: chain \"down\" -> \"back\"\n\
         + chain back: egress \"in\", observers [], path [\"fw\"]"
    );
    assert_eq!(between(&new, FILE).lines[1].change, Change::Removed);
}

#[test]
fn a_rule_in_front_of_others_is_one_line() {
    let rule = "[[rule]]\nport = \"in\"\nvlan = 7\ndrop = true\n";
    let first = FILE.find("[[rule]]").unwrap_or_default();
    let new = format!("{}{rule}{}", &FILE[..first], &FILE[first..]);
    let difference = between(FILE, &new);
    assert_eq!(difference.to_string(), "+ rule[0]: drop true, port \"in\", vlan 7");
    let difference = between(&new, FILE);
    assert_eq!(difference.to_string(), "- rule[0]: drop true, port \"in\", vlan 7");
}

#[test]
fn a_rule_at_its_place_with_another_value_is_a_change() {
    let difference = edited("proto = 17", "proto = 1");
    assert_eq!(difference.to_string(), "~ rule[1]: proto 17 -> 1");
}

#[test]
fn rules_that_change_places_are_a_difference() {
    let (first, second) = (
        "[[rule]]\nport = \"in\"\nproto = 6\nchain = \"up\"\n",
        "[[rule]]\nport = \"in\"\nproto = 17\ndrop = true\n",
    );
    let swapped = FILE.replace(&format!("{first}{second}"), &format!("{second}{first}"));
    assert_ne!(swapped, FILE);
    assert_eq!(between(FILE, &swapped).lines.len(), 2);
}

#[test]
fn what_needs_a_restart_says_why() {
    for (old, new, said) in [
        (
            "region_mib = 8",
            "region_mib = 16",
            "~ domain blue: region_mib 8 -> 16 (needs a restart: the region is laid out when the switch starts)",
        ),
        (
            "net_null1",
            "net_null2",
            "~ port out: device \"net_null1\" -> \"net_null2\" (needs a restart: its device is opened with it when the \
             switch starts)",
        ),
        (
            "lcores = [0]",
            "lcores = [1]",
            "~ switch s: lcores [0] -> [1] (needs a restart: threads are started and buffers divided among them when \
             the switch starts)",
        ),
        (
            "name = \"s\"",
            "name = \"t\"",
            "~ switch t: name \"s\" -> \"t\" (needs a restart: its runtime directory is claimed when the switch starts)",
        ),
        (
            "service = \"fw\"",
            "service = \"fw\"\nquota_buffers = 64",
            "~ endpoint a/fw: quota_buffers 512 -> 64 (needs a restart: its rings are laid out with it when the \
             switch starts)",
        ),
    ] {
        let difference = edited(old, new);
        assert_eq!(difference.to_string(), said);
        assert!(difference.needs_restart());
    }
}

#[test]
fn a_limit_and_a_share_need_no_restart() {
    let difference = edited("region_mib = 8", "region_mib = 8\nshare = 3\nlimit_pps = 9");
    assert_eq!(difference.to_string(), "~ domain blue: limit_pps nothing -> 9, share 1 -> 3");
    assert!(!difference.needs_restart());
}

#[test]
fn one_line_that_needs_a_restart_is_enough() {
    let new = FILE.replace("proto = 17", "proto = 1").replace("region_mib = 8", "region_mib = 16");
    let difference = between(FILE, &new);
    assert_eq!(difference.lines.len(), 2);
    assert!(difference.needs_restart());
}

#[test]
fn json_that_was_written_reads_back_the_same() {
    let new = FILE.replace("proto = 17", "vlan = 3").replace("region_mib = 8", "region_mib = 16");
    let difference = between(FILE, &new);
    let text = serde_json::to_string(&difference).unwrap_or_default();
    assert!(text.contains(r#""takes":"restart","because":"the region is laid out"#), "{text}");
    assert_eq!(serde_json::from_str::<Difference>(&text).ok(), Some(difference));
}
