//! What the plan of a config says.

use security_domains::parse;
use shm_ring::area::RegionGeometry;
use switch_core::ids::{ChainId, DomainId, EdgeId, EndpointId, PortId};

use super::*;
use crate::control::policy::Action;
use crate::control::violation::ViolationKind;

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

#[test]
fn an_observer_has_references_or_copies_as_its_access_says() {
    let pages = "pages = \"hugetlb-or-plain\"";
    let observer = format!(
        "{pages}\n[[service]]\nname = \"ids\"\n[[process]]\nname = \"ids0\"\ndomain = \"blue\"\n\
         access = \"observer\"\npinned_buffers_max = 101\npinned_ms_max = 7\n[[process.endpoint]]\nservice = \"ids\""
    );
    let planned = |observer: &str| {
        let config = security_domains::parse(&CHAIN_OF_TWO.replace(pages, observer), "test.toml")
            .unwrap_or_else(|findings| panic!("{findings}"));
        let plan = Plan::new(&config, 1).unwrap();
        let observes = |endpoint: &&EndpointPlan| endpoint.datapath.observes;
        let one = plan.endpoints.iter().find(observes).unwrap().datapath;
        let area = plan
            .owners
            .iter()
            .find(|owner| owner.name == "ids0")
            .unwrap()
            .area(RegionGeometry::fit(8 << 20, 2368, 0).unwrap());
        (one.domain, one.references, area.access, area.endpoints[0].references)
    };
    // Two lcores share them.
    let references = ReferenceSpec { count: 50, lifetime_ms: 7 };
    assert_eq!(planned(&observer), (DomainId(0), Some(references), 1, 50));
    let fewer = observer.replace("101", "1");
    assert_eq!(planned(&fewer).1.unwrap().count, 1, "each lcore brings one");
    let copies = observer.replace("\"observer\"", "\"copy-observer\"");
    let copies = copies.replace("pinned_buffers_max = 101\npinned_ms_max = 7\n", "");
    assert_eq!(planned(&copies), (DomainId(1), None, 0, 0));
}

#[test]
fn a_shared_port_is_of_all_its_domains() {
    let pages = "pages = \"hugetlb-or-plain\"";
    let green = format!("{pages}\n[[domain]]\nname = \"green\"\nregion_mib = 8");
    let shared = CHAIN_OF_TWO.replacen("domain = \"blue\"", "domains = [\"blue\", \"green\"]", 1);
    let shared = shared.replace(pages, &green);
    let config =
        security_domains::parse(&shared, "test.toml").unwrap_or_else(|findings| panic!("{findings}"));
    assert_eq!(Plan::new(&config, 1).unwrap().ports[0].domains, [DomainId(0), DomainId(1)]);
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

/// A plain config of two domains: blue with an endpoint of each access, green with one.
const TWO_DOMAINS: &str = r#"
[switch]
name = "demo"
lcores = [0]

[[domain]]
name = "blue"
region_mib = 16
pages = "plain"

[[domain]]
name = "green"
region_mib = 16
pages = "plain"

[[port]]
name = "client"
device = "net_null0"
domain = "blue"
chain = "out"

[[port]]
name = "server"
device = "net_null1"
domain = "green"
chain = "home"

[[service]]
name = "scrub"

[[service]]
name = "forward"

[[chain]]
name = "out"
path = ["scrub", "forward"]
egress = "server"

[[chain]]
name = "home"
path = ["forward"]
egress = "server"

[[edge]]
from = "blue"
to = "green"
proto = "tcp"
limit_mbit = 8

[[process]]
name = "scrub0"
domain = "blue"
access = "copied"
[[process.endpoint]]
service = "scrub"

[[process]]
name = "forward0"
domain = "green"
[[process.endpoint]]
service = "forward"
"#;

/// The forwarding of a config, whatever the datapath can do.
fn drawn(text: &str) -> Result<Forwarding, PlanError> {
    let config = security_domains::parse(text, "test.toml").unwrap_or_else(|findings| panic!("{findings}"));
    forward::forwarding(&Numbered::first(&config), 1)
}

fn ends(forwarding: &Forwarding) -> Vec<(u16, u16)> {
    forwarding.edges().iter().map(|edge| (edge.from.0, edge.to.0)).collect()
}

#[test]
fn an_edge_of_the_config_keeps_its_number_and_its_words() {
    let trusted = TWO_DOMAINS.replace("access = \"copied\"", "");
    let forwarding = drawn(&trusted).unwrap();
    assert_eq!(ends(&forwarding), [(0, 1)]);
    let edge = &forwarding.edges()[0];
    assert_eq!((edge.flows.protocol, edge.broadcast), (Some(6), false));
    assert_eq!(edge.limit.and_then(|limit| limit.bits_per_s), Some(8_000_000));
}

#[test]
fn a_copied_owner_has_a_hidden_domain_with_the_edges_that_packets_take() {
    let forwarding = drawn(TWO_DOMAINS).unwrap();
    // 0 blue, 1 green, 2 scrub0@blue: in from blue, which is implied, and out to green, as the edge says.
    assert_eq!(ends(&forwarding), [(0, 1), (0, 2), (2, 1)]);
    let [_, implied, copied] = forwarding.edges() else { panic!("{:?}", forwarding.edges()) };
    assert!(implied.broadcast && implied.flows.are_for_all() && implied.limit.is_none());
    assert_eq!((copied.flows.protocol, copied.broadcast), (Some(6), false));
    assert_eq!(copied.limit, forwarding.edges()[0].limit);
}

#[test]
fn packets_of_a_copied_owner_come_back_over_an_implied_edge() {
    let home = TWO_DOMAINS.replace(
        "path = [\"scrub\", \"forward\"]\negress = \"server\"",
        "path = [\"scrub\"]\negress = \"client\"",
    );
    assert_eq!(ends(&drawn(&home).unwrap()), [(0, 1), (0, 2), (2, 0)]);
}

#[test]
fn two_copied_neighbours_pass_packets_on_directly() {
    let more = "[[process]]\nname = \"forward1\"\ndomain = \"green\"\naccess = \"copied\"\n\
                [[process.endpoint]]\nservice = \"forward\"\n";
    let text = TWO_DOMAINS.replace("limit_mbit = 8", "") + more;
    let edges = ends(&drawn(&text).unwrap());
    // 3 is forward1@green: an instance beside forward0, met from scrub0@blue and from the port of green.
    assert_eq!(edges, [(0, 1), (0, 2), (1, 3), (2, 1), (2, 3), (3, 1)]);
}

#[test]
fn what_is_hidden_in_a_domain_shares_its_shared_ports() {
    let shared = TWO_DOMAINS.replacen("domain = \"blue\"", "domains = [\"blue\", \"green\"]", 1);
    let forwarding = drawn(&shared).unwrap();
    assert_eq!(forwarding.domains_of(PortId(0)), [DomainId(0), DomainId(1), DomainId(2)]);
    assert_eq!(ends(&forwarding), [(0, 1), (2, 1)]);
}

#[test]
fn what_is_hidden_counts_against_the_limits_of_what_is_declared() {
    let more =
        "[[process]]\nname = \"scrub1\"\ndomain = \"blue\"\n[[process.endpoint]]\nservice = \"scrub\"\n";
    let forwarding = drawn(&(TWO_DOMAINS.to_owned() + more)).unwrap();
    let limited: Vec<_> = forwarding.edges().iter().filter(|edge| edge.limit.is_some()).collect();
    // That from blue, where scrub1 works on the region itself, and its copy from scrub0@blue.
    assert_eq!(limited.iter().map(|edge| edge.from.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(limited.iter().map(|edge| edge.limited_with).collect::<Vec<_>>(), [None, Some(EdgeId(0))]);
    let limited = TWO_DOMAINS.replacen("region_mib = 16", "region_mib = 16\nlimit_pps = 5", 1);
    let domains = domains(&security_domains::parse(&limited, "test.toml").unwrap());
    assert_eq!(domains.iter().map(|domain| domain.limited_with.0).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn a_copied_owner_works_in_its_hidden_domain_and_maps_nothing_else() {
    let config = security_domains::parse(TWO_DOMAINS, "test.toml").unwrap();
    let owners = area::owners(&config);
    assert_eq!(owners.iter().map(|owner| owner.domain.0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(endpoints(&config)[0].datapath.domain, DomainId(2));
    let domains = domains(&config);
    assert_eq!((domains[2].name.as_str(), domains[2].region_bytes), ("scrub0@blue", 4 << 20));
    assert!(owners.iter().all(|owner| !owner.read_only));
}

#[test]
fn a_domain_and_what_is_hidden_in_it_have_one_share() {
    let weights = |text: &str| -> Vec<u16> {
        let config = security_domains::parse(text, "test.toml").unwrap();
        domains(&config).iter().map(|domain| domain.share).collect()
    };
    let thrice = TWO_DOMAINS.replacen("region_mib = 16", "region_mib = 16\nshare = 3", 1);
    assert_eq!(weights(&thrice), [90, 60, 90], "blue and scrub0@blue have 180 together");
    assert_eq!(weights(&thrice.replace("access = \"copied\"", "")), [3, 1]);
}

#[test]
fn limits_reach_the_datapath() {
    let text = TWO_DOMAINS.replacen("name = \"green\"\n", "name = \"green\"\nlimit_pps = 7\n", 1);
    let text = text + "limit_mbit = 2\n";
    let config = security_domains::parse(&text, "test.toml").unwrap();
    let limits: Vec<_> = domains(&config).iter().map(|domain| domain.limit).collect();
    let seven = RateSpec { packets_per_s: Some(7), bits_per_s: None };
    assert_eq!(limits, [None, Some(seven), None]);
    let two_megabits = RateSpec { packets_per_s: None, bits_per_s: Some(2_000_000) };
    assert_eq!(endpoints(&config)[1].datapath.limit, Some(two_megabits));
}

#[test]
fn an_observer_maps_the_region_of_its_domain_read_only() {
    let observer = "[[service]]\nname = \"ids\"\n[[process]]\nname = \"ids0\"\ndomain = \"blue\"\naccess = \"observer\"\n\
                    [[process.endpoint]]\nservice = \"ids\"\n";
    let config = security_domains::parse(&(TWO_DOMAINS.to_owned() + observer), "test.toml").unwrap();
    let owner = &area::owners(&config)[2];
    assert_eq!((owner.domain, owner.read_only), (DomainId(0), true));
}

#[test]
fn a_hidden_region_of_a_domain_with_a_file_is_a_file_beside_it() {
    let text = TWO_DOMAINS.replacen("pages = \"plain\"", "pages = \"plain\"\npath = \"/dev/shm/blue\"", 1);
    let config = security_domains::parse(&text, "test.toml").unwrap();
    let paths: Vec<_> = domains(&config).into_iter().map(|domain| domain.path).collect();
    assert_eq!(paths, [Some("/dev/shm/blue".into()), None, Some("/dev/shm/blue.scrub0.region".into())]);
    assert_eq!(area::owners(&config)[0].path, Some("/dev/shm/blue.scrub0".into()));
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Three domains with a port and a service each, the second service copied, and chains, targets and edges at random.
fn random_config(dice: &mut Dice) -> String {
    let mut text = String::from("[switch]\nname = \"dice\"\nlcores = [0]\n");
    for id in 0..3 {
        let other = (id + 1 + dice.roll(2)) % 3;
        let domains =
            if dice.roll(4) == 0 { format!("\"d{id}\", \"d{other}\"") } else { format!("\"d{id}\"") };
        let open = if dice.roll(3) == 0 { "open" } else { "closed" };
        let target = ["", "\"s0\"", "\"p1\""][usize::try_from(dice.roll(3)).unwrap()];
        let access = if id == 1 { "copied" } else { "trusted" };
        let chain = dice.roll(3);
        text.push_str(&format!(
            "[[domain]]\nname = \"d{id}\"\nregion_mib = 16\n\
             [[port]]\nname = \"p{id}\"\ndevice = \"net_null{id}\"\ndomains = [{domains}]\nchain = \"c{chain}\"\n\
             [[service]]\nname = \"s{id}\"\nwhen_dead = \"{open}\"\nmay_target = [{target}]\n\
             [[process]]\nname = \"q{id}\"\ndomain = \"d{id}\"\naccess = \"{access}\"\n\
             [[process.endpoint]]\nservice = \"s{id}\"\n"
        ));
        let observer = if dice.roll(2) == 0 { "observer" } else { "copy-observer" };
        text.push_str(&format!(
            "[[service]]\nname = \"o{id}\"\n[[process]]\nname = \"r{id}\"\ndomain = \"d{id}\"\naccess = \"{observer}\"\n\
             [[process.endpoint]]\nservice = \"o{id}\"\n"
        ));
        let path: Vec<String> = (0..=dice.roll(3)).map(|_| format!("\"s{}\"", dice.roll(3))).collect();
        let observers = if dice.roll(3) == 0 { path[0].replace('s', "o") } else { String::new() };
        let egress = dice.roll(3);
        text.push_str(&format!(
            "[[chain]]\nname = \"c{id}\"\npath = [{}]\negress = \"p{egress}\"\nobservers = [{observers}]\n",
            path.join(", ")
        ));
        text.push_str(&format!(
            "[[rule]]\nport = \"p{id}\"\nproto = \"udp\"\nchain = \"c{}\"\n",
            dice.roll(3)
        ));
    }
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        if dice.roll(4) > 0 {
            text.push_str(&format!("[[edge]]\nfrom = \"d{from}\"\nto = \"d{to}\"\n"));
        }
    }
    text
}

#[test]
fn every_way_that_the_language_accepts_has_an_edge() {
    let mut dice = Dice(1);
    let mut accepted = 0;
    for _ in 0..1000 {
        let text = random_config(&mut dice);
        let Ok(config) = security_domains::parse(&text, "dice.toml") else { continue };
        accepted += 1;
        if let Err(error) = forward::forwarding(&Numbered::first(&config), 1) {
            panic!("{error}\n{text}");
        }
    }
    assert!((50..950).contains(&accepted), "{accepted} of 1000");
}

#[test]
fn policies_are_taken_over_with_their_owners_and_times() {
    let policies = "pages = \"hugetlb-or-plain\"\n[[policy]]\naction = \"throttle\"\nviolation = \"descriptor\"\n\
                    threshold = 7\nthrottle_ms = 300\n[[policy]]\naction = \"detach\"\nvm = \"rt0\"\ndetach_s = 0\n\
                    [[policy]]\naction = \"kill\"\n";
    let text = CHAIN_OF_TWO.replace("pages = \"hugetlb-or-plain\"", policies);
    let config = security_domains::parse(&text, "test.toml").unwrap_or_else(|findings| panic!("{findings}"));
    let plan = Plan::new(&config, 1).unwrap();
    let [throttle, detach, kill] = &plan.policies[..] else { panic!("{:?}", plan.policies) };
    assert_eq!((throttle.action, throttle.threshold), (Action::Throttle { for_ms: 300 }, 7));
    assert_eq!((throttle.violation, &throttle.owner), (Some(ViolationKind::Descriptor), &None));
    assert_eq!((detach.action, detach.owner.as_deref()), (Action::Detach { for_s: 0 }, Some("rt0")));
    assert_eq!((kill.action, kill.violation, kill.window_s), (Action::Kill { for_s: 10 }, None, 10));
}

/// A plan, and the one for the same file with `old` in place of `new`.
fn next(text: &str, old: &str, new: &str) -> (Plan, Plan) {
    assert_eq!(text.matches(old).count(), 1, "{old}");
    let config = |text: &str| parse(text, "next.toml").unwrap_or_else(|findings| panic!("{findings}"));
    let plan = Plan::new(&config(text), 5).unwrap();
    let next = plan.next(&config(&text.replace(old, new)), &[]).unwrap();
    (plan, next)
}

const TWO_WAYS: &str = r#"
[switch]
name = "next"
lcores = [0]
[[domain]]
name = "blue"
region_mib = 8
[[port]]
name = "in"
device = "net_null0"
domain = "blue"
chain = "up"
paced = true
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
[[process]]
name = "a"
domain = "blue"
[[process.endpoint]]
service = "fw"
[[process.endpoint]]
service = "ids"
"#;

#[test]
fn only_the_ports_whose_packets_go_other_ways_are_held() {
    let (plan, then) = next(TWO_WAYS, r#"path = ["fw", "ids"]"#, r#"path = ["ids"]"#);
    let change = plan.change_to(&then);
    assert_eq!(change.held, [PortId(0)]);
    assert_eq!(change.paced, [(PortId(0), Some(vec![EndpointId(1)]))]);
    assert_eq!((change.shares, change.idle), (None, None));
    assert_eq!(then.unentered(), [ChainId(0)]);
    // The same with a rule in front, and with what is no way.
    let rule = "egress = \"in\"\n[[rule]]\nport = \"out\"\nproto = 6\ndrop = true";
    let (plan, then) = next(TWO_WAYS, "egress = \"in\"", rule);
    assert_eq!(plan.change_to(&then).held, [PortId(1)]);
    let (plan, then) = next(TWO_WAYS, "region_mib = 8", "region_mib = 8\nshare = 7\nlimit_pps = 10");
    let change = plan.change_to(&then);
    assert_eq!((change.held, change.shares), (vec![], Some(vec![7])));
    assert_eq!(change.domain_limits.len(), 1);
}

#[test]
fn packets_on_a_chain_that_led_over_an_edge_which_is_gone_end_there() {
    let text = TWO_WAYS
        .replace(
            "name = \"out\"\ndevice = \"net_null1\"\ndomain = \"blue\"",
            "name = \"out\"\ndevice = \"net_null1\"\ndomain = \"red\"",
        )
        .replace("path = []\negress = \"in\"", "path = []\negress = \"out\"")
        .replace(
            "[[port]]\nname = \"in\"",
            "[[domain]]\nname = \"red\"\nregion_mib = 8\n[[port]]\nname = \"in\"",
        )
        + "[[edge]]\nfrom = \"blue\"\nto = \"red\"\n";
    let config = |text: &str| parse(text, "next.toml").unwrap_or_else(|findings| panic!("{findings}"));
    let plan = Plan::new(&config(&text), 5).unwrap();
    let without = text
        .replace("[[edge]]\nfrom = \"blue\"\nto = \"red\"\n", "")
        .replace("path = [\"fw\", \"ids\"]\negress = \"out\"", "path = [\"fw\", \"ids\"]\negress = \"in\"");
    let then = plan.next(&config(&without), &[]).unwrap();
    assert_eq!(then.unentered(), [ChainId(0)]);
    assert!(then.numbered.config.chains[0].path.is_empty(), "it leads nowhere");
    assert_eq!(then.numbered.config.chains[2].path.len(), 2);
}
