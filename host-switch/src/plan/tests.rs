//! What the plan of a config says.

use switch_core::ids::{DomainId, EndpointId};

use super::*;

const CHAIN_OF_TWO: &str = r#"
[switch]
name = "demo"
lcores = [2, 5]

[[domain]]
name = "blue"
region_mib = 32
pages = "hugetlb-or-plain"

[[port]]
name = "client"
device = "net_null0"
domain = "blue"
chain = "upstream"
paced = true

[[port]]
name = "server"
device = "net_null1"
domain = "blue"
chain = "downstream"

[[service]]
name = "firewall"
may_target = ["client"]

[[service]]
name = "router"

[[chain]]
name = "upstream"
path = ["firewall", "router"]
egress = "server"

[[chain]]
name = "downstream"
path = ["router"]
egress = "client"

[[process]]
name = "fw0"
domain = "blue"
[[process.endpoint]]
service = "firewall"
quota_buffers = 700

[[process]]
name = "rt0"
domain = "blue"
[[process.endpoint]]
service = "router"
[[process.endpoint]]
service = "router"
"#;

fn plan() -> Plan {
    let config =
        security_domains::parse(CHAIN_OF_TWO, "test.toml").unwrap_or_else(|findings| panic!("{findings}"));
    Plan::new(&config, 1).unwrap()
}

/// What the plan of a changed config refuses.
fn refused(old: &str, new: &str) -> String {
    assert_eq!(CHAIN_OF_TWO.matches(old).count(), 1, "{old}");
    let text = CHAIN_OF_TWO.replace(old, new);
    let config = security_domains::parse(&text, "test.toml").unwrap_or_else(|findings| panic!("{findings}"));
    Plan::new(&config, 1).unwrap_err().to_string()
}

#[test]
fn refuses_by_name_what_the_datapath_cannot_do() {
    let pages = "pages = \"hugetlb-or-plain\"";
    let observer = "name = \"rt0\"\naccess = \"copied\"\nregion_mib = 8";
    let green = format!("{pages}\n[[domain]]\nname = \"green\"\nregion_mib = 2");
    let edge = format!("{green}\n[[edge]]\nfrom = \"blue\"\nto = \"green\"");
    let policy = format!("{pages}\n[[policy]]\naction = \"kill\"");
    for (old, new, message) in [
        (
            pages,
            &*format!("{pages}\nshare = 2"),
            "domain[blue].share: this version has no shares of domains yet",
        ),
        (
            pages,
            &*format!("{pages}\nlimit_pps = 9"),
            "domain[blue]: limit_pps, limit_mbit: this version has no rate limits yet",
        ),
        (pages, &*edge, "edge[0]: this version has no edges between domains yet"),
        (pages, &*policy, "policy[0]: this version has no policies against violations yet"),
        ("name = \"rt0\"", observer, "process[rt0].access: this version has no access \"copied\" yet"),
        (
            "quota_buffers = 700",
            "limit_mbit = 5",
            "the endpoint fw0/firewall: limit_pps, limit_mbit: this version has no rate limits yet",
        ),
    ] {
        assert_eq!(refused(old, new), message);
    }
}

#[test]
fn lcores_are_numbered_by_position_and_pinned_to_their_cpu() {
    let lcores = plan().lcores;
    assert_eq!(lcores.iter().map(|l| (l.id.0, l.cpu)).collect::<Vec<_>>(), [(0, Some(2)), (1, Some(5))]);
}

#[test]
fn shards_cover_every_buffer_of_a_domain_once() {
    let plan = plan();
    let shards = plan.shards(DomainId(0));
    assert_eq!(shards[0].first, 0);
    assert_eq!(shards[1].first, shards[0].count);
    assert_eq!(shards.iter().map(|shard| shard.count).sum::<u32>(), plan.domains[0].buffer_count);
}

#[test]
fn a_paced_port_waits_for_every_endpoint_of_its_chain() {
    let ports = plan().ports;
    assert_eq!(ports[0].paced, Some(vec![EndpointId(0), EndpointId(1), EndpointId(2)]));
    assert_eq!(ports[1].paced, None);
}

#[test]
fn every_endpoint_has_a_queue_pair_with_every_lcore() {
    let plan = plan();
    let geometry = shm_ring::area::RegionGeometry::fit(32 << 20, 2368, 9).unwrap();
    let layout = AreaLayout::plan(&plan.owners[1].area(geometry)).unwrap();
    assert_eq!(layout.endpoints().len(), 2);
    assert_eq!(layout.rings().len(), 2 * 2 * 2);
    assert_eq!(layout.header().region_cookie, 9);
}

#[test]
fn the_ring_back_holds_the_whole_quota() {
    let plan = plan();
    let geometry = shm_ring::area::RegionGeometry::fit(32 << 20, 2368, 9).unwrap();
    let mut area = plan.owners[0].area(geometry);
    area.endpoints[0].ring_slots = 64;
    let slots: Vec<u32> = AreaLayout::plan(&area).unwrap().rings().iter().map(|ring| ring.slots).collect();
    assert_eq!(slots, [64, 1024, 64, 1024]);
}

#[test]
fn an_area_names_what_its_services_may_target() {
    let plan = plan();
    let geometry = shm_ring::area::RegionGeometry::fit(32 << 20, 2368, 9).unwrap();
    assert_eq!(plan.owners[0].area(geometry).targets[0].name, "client");
    assert_eq!(plan.owners[1].area(geometry).targets, []);
}

#[test]
fn journal_words_are_apart() {
    let plan = plan();
    let mut words: Vec<usize> = (0..3)
        .flat_map(|e| (0..2).map(move |l| (e, l)))
        .map(|(e, l)| plan.journal_word(EndpointId(e), l))
        .collect();
    words.dedup();
    assert_eq!(words, (0..plan.journal_count()).collect::<Vec<_>>());
}
