//! Paths through untrusted VMs: `nat0.in>out`.

use security_domains::{ChainId, Config, parse};

/// A router that nobody trusts between a firewall and a server, both ways.
const ROUTED: &str = r#"
[switch]
name = "routed"
lcores = [0]

[[domain]]
name = "blue"
region_mib = 16

[[port]]
name = "client"
device = "net_null0"
domain = "blue"
chain = "up"

[[port]]
name = "server"
device = "net_null1"
domain = "blue"
chain = "down"

[[service]]
name = "firewall"

[[service]]
name = "cache"

[[chain]]
name = "up"
path = ["firewall", "nat0.in>out", "cache"]
egress = "server"

[[chain]]
name = "down"
path = ["nat0.out>in", "firewall"]
egress = "client"

[[process]]
name = "fw0"
domain = "blue"
[[process.endpoint]]
service = "firewall"

[[process]]
name = "cache0"
domain = "blue"
[[process.endpoint]]
service = "cache"

[[vm]]
name = "nat0"
domain = "blue"
access = "untrusted"
disk = "nat0.raw"
[[vm.nic]]
name = "in"
[[vm.nic]]
name = "out"
"#;

/// Name, services and egress of each chain.
fn shape(config: &Config) -> Vec<(String, Vec<&str>, &str)> {
    let shape = |chain: &security_domains::Chain| {
        let path = chain.path.iter().map(|service| config.services[service.index()].name.as_str()).collect();
        (chain.name.clone(), path, config.ports[chain.egress.index()].name.as_str())
    };
    config.chains.iter().map(shape).collect()
}

fn refused(old: &str, new: &str) -> String {
    assert_eq!(ROUTED.matches(old).count(), 1, "{old}");
    parse(&ROUTED.replace(old, new), "routed.toml").expect_err("a finding").to_string()
}

#[test]
fn a_path_through_a_vm_is_a_chain_into_it_and_one_out_of_it() {
    let config = parse(ROUTED, "routed.toml").unwrap_or_else(|findings| panic!("{findings}"));
    let wanted = [
        ("up", vec!["firewall"], "nat0.in"),
        ("down", vec![], "nat0.out"),
        ("up@nat0.out", vec!["cache"], "server"),
        ("down@nat0.in", vec!["firewall"], "client"),
    ];
    let wanted: Vec<_> = wanted.into_iter().map(|(name, path, end)| (name.to_owned(), path, end)).collect();
    assert_eq!(shape(&config), wanted);
    let chain_of = |port: &str| config.port_named(port).unwrap().1.chain;
    assert_eq!(["client", "server", "nat0.out", "nat0.in"].map(chain_of), [0, 1, 2, 3].map(ChainId));
}

#[test]
fn a_path_may_lead_through_one_vm_after_another_and_begin_and_end_with_one() {
    let second = "\n[[vm]]\nname = \"ids0\"\ndomain = \"blue\"\naccess = \"untrusted\"\ndisk = \"ids0.raw\"\n\
                  [[vm.nic]]\nname = \"a\"\nchain = \"down\"\n[[vm.nic]]\nname = \"b\"\n";
    let text =
        ROUTED.replace("[\"firewall\", \"nat0.in>out\", \"cache\"]", "[\"ids0.a>b\", \"nat0.in>out\"]");
    let text = text.replace("[\"nat0.out>in\", \"firewall\"]", "[\"nat0.out>in\", \"firewall\", \"cache\"]");
    let config = parse(&[text.as_str(), second].concat(), "routed.toml")
        .unwrap_or_else(|findings| panic!("{findings}"));
    let shape = shape(&config);
    assert_eq!(shape[0], ("up".to_owned(), vec![], "ids0.a"));
    assert_eq!(shape[2], ("up@ids0.b".to_owned(), vec![], "nat0.in"));
    assert_eq!(shape[3], ("up@nat0.out".to_owned(), vec![], "server"));
    assert_eq!(config.port_named("ids0.b").unwrap().1.chain, ChainId(2));
}

#[test]
fn observers_of_a_path_are_shown_what_enters_and_not_what_comes_out_again() {
    let ids = "observers = [\"watch\"]\n\n[[chain]]\nname = \"down\"";
    let owner = "\n[[service]]\nname = \"watch\"\n[[process]]\nname = \"ids\"\ndomain = \"blue\"\n\
                 access = \"observer\"\n[[process.endpoint]]\nservice = \"watch\"\n";
    let text = ROUTED.replace("[[chain]]\nname = \"down\"", ids);
    let config = parse(&[text.as_str(), owner].concat(), "routed.toml")
        .unwrap_or_else(|findings| panic!("{findings}"));
    let counts: Vec<usize> = config.chains.iter().map(|chain| chain.observers.len()).collect();
    assert_eq!(counts, [1, 0, 0, 0]);
}

#[test]
fn what_is_no_way_through_a_vm_is_refused() {
    for wrong in [
        "nat0.in>in",
        "nat0.in>uot",
        "nat1.in>out",
        "client>server",
        "in>out",
        "nat0.in>",
        ">",
        "nat0.in>out>in",
    ] {
        let text = refused("nat0.in>out", wrong);
        assert!(text.contains("chain[up].path[1] must be vm.in>out: two NICs of one untrusted VM"), "{text}");
    }
    assert!(refused("nat0.in>out", "nat0.in>uot").contains("nearest: \"nat0.in>out\""));
}

#[test]
fn a_nic_that_a_path_comes_out_by_has_no_chain_of_its_own_and_no_other_path() {
    let text = refused("name = \"out\"\n", "name = \"out\"\nchain = \"up\"\n");
    assert!(text.contains("chain must be left out: what comes out here goes on in chain up"), "{text}");
    let text = refused("\"nat0.out>in\", \"firewall\"", "\"nat0.in>out\", \"firewall\"");
    assert!(
        text.contains("must come out by a NIC of its own (what comes out by nat0.out goes on in chain up)"),
        "{text}"
    );
    // And one that no path comes out by needs a chain.
    let text = refused("\"nat0.out>in\", \"firewall\"", "\"firewall\"");
    assert!(text.contains("chain must be the name of a chain, got nothing"), "{text}");
}

#[test]
fn an_edge_is_asked_for_on_both_sides_of_a_vm_of_another_domain() {
    let red = "domain = \"red\"\naccess = \"untrusted\"";
    let text = ROUTED.replace("domain = \"blue\"\naccess = \"untrusted\"", red);
    let text = text.replace(
        "[[port]]\nname = \"client\"",
        "[[domain]]\nname = \"red\"\nregion_mib = 16\n\n[[port]]\nname = \"client\"",
    );
    let text = parse(&text, "routed.toml").unwrap_err().to_string();
    assert!(
        text.contains("chain[up].path[1] must be a port of domain blue, or there must be an [[edge]]"),
        "{text}"
    );
    assert!(
        text.contains("chain[up].path[2] must be a service of domain red, or there must be an [[edge]]"),
        "{text}"
    );
}
