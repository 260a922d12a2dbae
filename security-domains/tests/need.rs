//! What `netvm check` says a domain needs.

use security_domains::parse;

#[test]
fn shows_each_term_of_the_minimum() {
    let config = parse(include_str!("../examples/two-tenants.toml"), "two-tenants.toml").unwrap();
    let shown: Vec<String> = config.needs().iter().map(ToString::to_string).collect();
    assert_eq!(
        shown[1],
        "domain green: 13441 buffers of 2496 B in 32 MiB; needs at least 5632:\n\
         \u{20}     2048  port green-in: 2 lcores × (512 rx + 512 tx slots)\n\
         \u{20}     2048  port green-out: 2 lcores × (512 rx + 512 tx slots)\n\
         \u{20}     1024  quotas of 1 endpoint\n\
         \u{20}      512  bursts in flight: 2 lcores × 256\n\
         \u{20} rings: 4 = 1 endpoint × 2 lcores × 2\n\
         \u{20} hugepages of 2 MiB: 16 = 16 for the region + 0 for control areas (pages = \"hugetlb-or-plain\")"
    );
}

#[test]
fn plain_pages_need_no_hugepages() {
    let text = include_str!("../examples/demo.toml").replace("hugetlb-or-plain", "plain");
    let need = &parse(&text, "demo.toml").unwrap().needs()[0];
    assert_eq!(need.hugepages_2mib, 0);
}

#[test]
fn control_areas_take_hugepages_only_as_files() {
    let text = include_str!("../examples/demo.toml");
    let need = &parse(text, "demo.toml").unwrap().needs()[0];
    assert_eq!((need.region_hugepages, need.control_hugepages, need.rings), (16, 0, 6));
    assert_eq!(need.region_mib_min(), Some(32));

    let text = text.replacen("pages = ", "path = \"/dev/hugepages/netvm-blue\"\npages = ", 1);
    let need = &parse(&text, "demo.toml").unwrap().needs()[0];
    assert_eq!((need.hugepages_2mib, need.control_hugepages), (19, 3));
}

#[test]
fn findings_and_configurations_become_json() {
    let config = parse(include_str!("../examples/demo.toml"), "demo.toml").unwrap();
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(json["switch"]["idle"], "sleep");
    assert_eq!(json["chains"][0]["path"], serde_json::json!([0, 1]));
    assert_eq!(json["vms"][1]["endpoints"][0]["id"], 1);
    let findings = parse("[switch]\nname = 1\n", "a.toml").unwrap_err();
    let json = serde_json::to_value(&findings).unwrap();
    assert_eq!(json[0]["key"], "domain");
    assert_eq!((&json[2]["line"], &json[2]["kind"]), (&2.into(), &"value".into()));
}
