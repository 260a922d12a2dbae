//! What a configuration of several domains means: edges, observers, copied owners, limits, policies.

use security_domains::{
    Access, Config, DomainId, Findings, Owner, Pins, PolicyAction, ProcessId, RuleAction, ServiceId,
    Violation, parse,
};

const EDGES: &str = include_str!("../examples/edges.toml");

fn accepted(text: &str) -> Config {
    parse(text, "edges.toml").unwrap_or_else(|findings| panic!("{findings}"))
}

fn with(old: &str, new: &str) -> Result<Config, Findings> {
    assert_eq!(EDGES.matches(old).count(), 1, "{old}");
    parse(&EDGES.replace(old, new), "edges.toml")
}

fn refused(old: &str, new: &str) -> String {
    with(old, new).expect_err("it breaks a rule").to_string()
}

#[test]
fn an_edge_covers_a_chain_through_two_domains() {
    let config = accepted(EDGES);
    assert_eq!((config.chains[0].domain, config.chains[1].domain), (DomainId(0), DomainId(1)));
    let [there, back] = &config.edges[..] else { panic!("{:?}", config.edges) };
    assert_eq!((there.from, there.to, there.broadcast), (DomainId(0), DomainId(1), true));
    assert_eq!(there.limit.bits_per_s(), Some(100_000_000));
    assert_eq!((back.from, back.to, back.broadcast), (DomainId(1), DomainId(0), false));
    assert!(back.limit.is_none());
}

#[test]
fn without_its_edge_a_crossing_is_refused_and_the_edge_is_named() {
    let edge = "[[edge]]\nfrom = \"lab\"\nto = \"office\"\n";
    assert_eq!(
        refused(edge, ""),
        "edges.toml:52:18: chain[to-office].path[1] must be a service of domain lab, or there must be an \
         [[edge]] with from = \"lab\" and to = \"office\", got \"filter\"; nearest: \"scrub\""
    );
}

#[test]
fn an_edge_for_some_flows_covers_the_chain_and_judges_each_packet() {
    let some = "from = \"lab\"\nto = \"office\"\nproto = \"tcp\"\nsport = 80\nvlan = 4094\nsmac = \"02:00:00:00:00:01\"";
    let edge = with("from = \"lab\"\nto = \"office\"", some).unwrap().edges.remove(1);
    assert_eq!((edge.flows.proto, edge.flows.vlan), (Some(6), Some(4094)));
    assert_eq!(edge.flows.smac.unwrap().to_string(), "02:00:00:00:00:01");
}

#[test]
fn a_verdict_may_name_what_an_edge_leads_to() {
    let target = |name: &str| format!("name = \"filter\"\nmay_target = [\"{name}\"]");
    assert!(with("name = \"filter\"\n", &(target("lab-link") + "\n")).is_ok());
    let text = EDGES.replace("broadcast = true", "").replace("limit_mbit = 100", "");
    let one_way = text.replace("from = \"office\"\nto = \"lab\"", "from = \"lab\"\nto = \"office\"");
    let finding = parse(&one_way, "edges.toml").unwrap_err().to_string();
    assert!(finding.contains("[[edge]] with from = \"office\" and to = \"lab\""), "{finding}");
}

#[test]
fn a_copied_owner_and_a_copy_observer_have_hidden_domains() {
    let text = EDGES.replace("access = \"observer\" ", "access = \"copy-observer\" ");
    let config = accepted(&text.replace("pinned_buffers_max = 128", "region_mib = 2"));
    let hidden = config.hidden_domains();
    let told: Vec<_> = hidden
        .iter()
        .map(|hidden| {
            (hidden.id.0, hidden.name.as_str(), hidden.parent.0, hidden.region_mib, hidden.observes)
        })
        .collect();
    assert_eq!(told, [(2, "ids0@office", 0, 2, true), (3, "scrub0@lab", 1, 4, false)]);
    assert_eq!(hidden[1].owner, Owner::Process(ProcessId(2)));
    let regions: Vec<u16> = config.endpoints().iter().map(|listing| listing.region.0).collect();
    assert_eq!(regions, [0, 2, 3]);
    let domains: Vec<u16> = config.endpoints().iter().map(|listing| listing.domain.0).collect();
    assert_eq!(domains, [0, 0, 1]);
}

#[test]
fn a_trusted_owner_and_an_observer_work_in_the_region_of_their_domain() {
    let config = accepted(EDGES);
    assert_eq!(config.hidden_domains().len(), 1);
    assert_eq!(config.endpoints()[1].region, DomainId(0));
    assert_eq!(config.processes[0].access, Access::Trusted);
    assert_eq!((config.processes[0].region_mib, config.processes[0].pins), (None, None));
}

#[test]
fn an_observer_is_bounded_by_its_pins() {
    let config = accepted(EDGES);
    assert_eq!(config.processes[1].pins, Some(Pins { buffers_max: 128, ms_max: 100 }));
    assert_eq!(config.processes[1].endpoints[0].quota_buffers, 128);
    assert!(config.services[2].observes && !config.services[0].observes);
    assert_eq!(config.chains[0].observers, [ServiceId(2)]);
}

#[test]
fn pins_lie_between_their_limits() {
    let pins = |buffers: &str, ms: &str| {
        with("pinned_buffers_max = 128", &format!("pinned_buffers_max = {buffers}\npinned_ms_max = {ms}"))
    };
    assert!(pins("1", "1").is_ok());
    assert!(pins("4096", "10000").is_ok());
    for (buffers, ms) in [("0", "1"), ("4097", "1"), ("1", "0"), ("1", "10001")] {
        assert!(pins(buffers, ms).is_err(), "{buffers} {ms}");
    }
}

#[test]
fn observing_alone_keeps_the_chain_of_the_port() {
    let rule = "\n[[rule]]\nport = \"office-link\"\nproto = \"tcp\"\nobserve = \"ids\"\n[[policy]]";
    let config = with("[[policy]]", rule).unwrap();
    assert_eq!(config.rules[0].action, RuleAction::Chain(config.ports[0].chain));
    assert_eq!(config.rules[0].observe, Some(ServiceId(2)));
}

#[test]
fn a_shared_port_goes_to_its_first_domain_and_by_rules_to_the_others() {
    let shared = "domains = [\"office\", \"lab\"]\nchain = \"to-lab\"";
    let rule = "[[rule]]\nport = \"office-link\"\nvlan = 7\nchain = \"to-office\"\n[[policy]]";
    let text = EDGES.replace("domain = \"office\"\nchain = \"to-lab\"", shared).replace("[[policy]]", rule);
    let config = accepted(&text);
    assert_eq!(config.ports[0].domains, [DomainId(0), DomainId(1)]);
    assert!(config.ports[0].is_shared() && !config.ports[1].is_shared());
    assert_eq!(config.ports[0].domain(), DomainId(0));
}

#[test]
fn shares_and_limits_keep_their_limits() {
    for share in ["1", "1000"] {
        assert!(with("share = 3 ", &format!("share = {share} ")).is_ok());
    }
    assert!(with("share = 3 ", "share = 1001 ").is_err());
    for (key, within, beyond) in
        [("limit_pps", ["1", "1000000000"], "1000000001"), ("limit_mbit", ["1", "1000000"], "1000001")]
    {
        for value in within {
            assert!(with("limit_pps = 500000 ", &format!("{key} = {value} ")).is_ok(), "{key} = {value}");
        }
        assert!(with("limit_pps = 500000 ", &format!("{key} = {beyond} ")).is_err(), "{key} = {beyond}");
    }
    assert_eq!(accepted(EDGES).endpoints()[2].endpoint.limit.packets_per_s, Some(400_000));
}

#[test]
fn a_policy_has_defaults_and_may_be_for_one_owner() {
    let policy = &accepted(EDGES).policies[0];
    assert_eq!((policy.violation, policy.action, policy.owner), (Violation::Any, PolicyAction::Detach, None));
    let short = "[[policy]]\nvm = \"scrub0\"\naction = \"throttle\"\nviolation = \"counter\"\n[[policy]]";
    let policy = with("[[policy]]", short).unwrap().policies.remove(0);
    assert_eq!((policy.threshold, policy.window_s, policy.throttle_ms), (100, 10, 1000));
    assert_eq!((policy.violation, policy.owner), (Violation::Counter, Some(Owner::Process(ProcessId(2)))));
}

#[test]
fn the_lab_needs_room_for_copies_and_the_hidden_domain_is_told() {
    let shown: Vec<String> = accepted(EDGES).needs().iter().map(ToString::to_string).collect();
    assert_eq!(
        shown[2],
        "domain scrub0@lab: 1769 buffers of 2368 B in 4 MiB; needs at least 832:\n\
         \u{20}      512  quotas of 1 endpoint\n\
         \u{20}      256  bursts in flight: 1 lcore × 256\n\
         \u{20}       64  copies from other domains: 1 lcore × 64\n\
         \u{20} rings: 2 = 1 endpoint × 1 lcore × 2\n\
         \u{20} hugepages of 2 MiB: 2 = 2 for the region + 0 for control areas (pages = \"hugetlb-or-plain\")"
    );
    let need = &accepted(EDGES).needs()[0];
    assert_eq!((need.quota_buffers, need.crossing_buffers), (512 + 128, 64));
}

#[test]
fn received_frames_of_a_shared_port_wait_elsewhere() {
    let shared = "domains = [\"office\", \"lab\"]\nchain = \"to-lab\"";
    let config = with("domain = \"office\"\nchain = \"to-lab\"", shared).unwrap();
    assert_eq!(config.needs()[2].name, "scrub0@lab", "what is hidden in a domain shares its shared ports");
    for need in &config.needs() {
        let term = need.ports.iter().find(|term| term.port == "office-link").unwrap();
        assert_eq!((term.shared, term.buffers), (true, 512 + 256), "{}", need.name);
    }
    assert!(
        config.needs()[1]
            .to_string()
            .contains("768  shared port office-link: 1 lcore × (512 tx slots + 256 in line)")
    );
}

#[test]
fn a_private_region_holds_its_minimum_pool_exactly() {
    // 1769 buffers of 2368 bytes fit 4 MiB; 256 are for bursts, 64 for copies.
    let quota =
        |quota: u64| with("limit_pps = 400000", &format!("limit_pps = 400000\nquota_buffers = {quota}"));
    assert!(quota(1769 - 256 - 64).is_ok());
    let finding = quota(1769 - 256 - 64 + 1).unwrap_err().to_string();
    assert!(finding.contains("process[scrub0].region_mib must hold at least 1770 buffers"), "{finding}");
}

#[test]
fn a_config_of_several_domains_becomes_json() {
    let json = serde_json::to_value(accepted(EDGES)).unwrap();
    assert_eq!(json["edges"][0]["limit_mbit"], 100);
    assert_eq!(json["edges"][1]["proto"], serde_json::Value::Null);
    assert_eq!(json["processes"][1]["pins"]["pinned_buffers_max"], 128);
    assert_eq!(json["processes"][2]["access"], "copied");
    assert_eq!(json["policies"][0]["action"], "detach");
    assert_eq!(json["domains"][0]["limit_pps"], 500_000);
}

#[test]
fn settings_of_a_function_get_one_finding() {
    for text in [
        include_str!("../examples/firewall-rules.toml"),
        include_str!("../examples/untrusted-rules.toml"),
        include_str!("../examples/router-routes.toml"),
    ] {
        let findings = parse(text, "rules.toml").unwrap_err();
        assert_eq!(findings.len(), 1, "{findings}");
        assert!(findings.to_string().contains("these look like the settings of an NF"), "{findings}");
    }
    let rules_of_a_switch = "[[rule]]\nport = \"client\"\ndrop = true\n";
    let findings = parse(rules_of_a_switch, "rules.toml").unwrap_err().to_string();
    assert!(!findings.contains("settings of an NF") && findings.contains("switch must be"), "{findings}");
}
