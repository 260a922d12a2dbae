//! Two domains on one switch, with processes in them: what an edge carries, what it does not, and a function that
//! works on copies.

use std::time::Duration;

use lab::child::Child;
use lab::status::Status;
use lab::switch::Switch;
use lab::transfer::ping;
use vm_tests::config::{CABLES, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;
use vm_tests::{Scene, config};

const SERVER: &str = "10.1.0.3";

/// Client and blue-forwarder in domain "blue", green-forwarder and server in domain "green". `edges` are the edges,
/// `green_process` further lines of the process in green.
fn two_domains(edges: &str, green_process: &str) -> String {
    let domains = r#"
[switch]
name = "NAME"
lcores = [0]

[[domain]]
name = "blue"
region_mib = 16
pages = "hugetlb-or-plain"

[[domain]]
name = "green"
region_mib = 16
pages = "hugetlb-or-plain"

[[port]]
name = "client"
device = "net_af_packet0,iface=IDc"
domain = "blue"
chain = "upstream"

[[port]]
name = "server"
device = "net_af_packet1,iface=IDs"
domain = "green"
chain = "downstream"
"#;
    let processes = format!(
        "[[process]]\nname = \"blue0\"\ndomain = \"blue\"\n[[process.endpoint]]\nservice = \"blue-forwarder\"\n\
         [[process]]\nname = \"green0\"\ndomain = \"green\"\n{green_process}\n\
         [[process.endpoint]]\nservice = \"green-forwarder\"\n"
    );
    [
        domains,
        &config::service("blue-forwarder", ""),
        &config::service("green-forwarder", ""),
        &config::there_and_back(&["blue-forwarder", "green-forwarder"]),
        edges,
        &processes,
    ]
    .concat()
}

const THERE: &str = "\n[[edge]]\nfrom = \"blue\"\nto = \"green\"\n";
const BACK: &str = "\n[[edge]]\nfrom = \"green\"\nto = \"blue\"\n";
const BROADCAST: &str = "broadcast = true\n";

/// Starts both forwarders, which run until they are dropped.
fn start_forwarders(switch: &mut Switch) -> Vec<Child> {
    let start = |name| switch.start_process(name, "forwarder", &[]).unwrap_or_else(|err| panic!("{err}"));
    let forwarders = ["blue0", "green0"].map(start);
    switch.wait_attached(&["blue0", "green0"], Duration::from_secs(20)).unwrap_or_else(|err| panic!("{err}"));
    forwarders.into()
}

/// Bytes copied from one domain into another.
fn carried(status: &Status, from: &str, to: &str) -> u64 {
    let edges = status.edges.iter().filter(|edge| edge.from == from && edge.to == to);
    edges.map(|edge| edge.bytes).sum()
}

#[test]
fn a_file_crosses_from_domain_to_domain_over_edges() {
    let scene = Scene::new();
    let (client, server) = scene.hosts();
    let mut switch = scene.switch(&two_domains(&[THERE, BROADCAST, BACK, BROADCAST].concat(), ""));
    let _forwarders = start_forwarders(&mut switch);
    assert_eq!(ping(&client, SERVER, 20, 20).unwrap().answered, 20);
    scene.assert_a_file_crosses(&client, &server, SERVER);
    let status = switch.status().unwrap();
    assert_eq!(status.dropped("domain_edge_denied"), 0, "{:?}", status.drops);
    // The file comes from green: its bytes are counted on the way back.
    assert!(carried(&status, "green", "blue") > 16 << 20, "{:?}", status.edges);
    assert_conserved(&status);
    switch.stop().unwrap();
}

#[test]
fn a_function_that_works_on_copies_is_the_same_program() {
    let scene = Scene::new();
    let (client, server) = scene.hosts();
    let mut switch =
        scene.switch(&two_domains(&[THERE, BROADCAST, BACK, BROADCAST].concat(), "access = \"copied\""));
    let _forwarders = start_forwarders(&mut switch);
    scene.assert_a_file_crosses(&client, &server, SERVER);
    let status = switch.status().unwrap();
    assert!(status.endpoint_of("green0").unwrap().returned > 10_000);
    // From the port of green into the private region by a copy, and from there into blue by another.
    assert!(carried(&status, "green", "green0@green") > 16 << 20, "{:?}", status.edges);
    assert!(carried(&status, "green0@green", "blue") > 16 << 20, "{:?}", status.edges);
    assert_eq!(carried(&status, "green", "blue"), 0, "{:?}", status.edges);
    assert_conserved(&status);
    switch.stop().unwrap();
}

#[test]
fn what_no_edge_is_for_is_dropped_by_name() {
    let scene = Scene::new();
    // Neighbours know each other: nothing but echoes is sent.
    let (client, _server) = scene.introduced_hosts();
    let mut switch = scene.switch(&two_domains(&[THERE, "proto = \"tcp\"\n", BACK].concat(), ""));
    let _forwarders = start_forwarders(&mut switch);
    assert_eq!(ping(&client, SERVER, 10, 20).unwrap().answered, 0);
    let status = switch.status().unwrap();
    assert!(status.dropped("domain_edge_denied") >= 10, "{:?}", status.drops);
    assert_eq!(status.endpoint_of("green0").unwrap().returned, 0, "nothing got into green");
    assert_conserved(&status);
    switch.stop().unwrap();
}

#[test]
fn broadcast_stays_where_the_edge_does_not_say_so() {
    let scene = Scene::new();
    let (client, _server) = scene.hosts();
    let mut switch = scene.switch(&two_domains(&[THERE, BACK].concat(), ""));
    let _forwarders = start_forwarders(&mut switch);
    assert_eq!(ping(&client, SERVER, 3, 20).unwrap().answered, 0, "nobody hears who asks for an address");
    let status = switch.status().unwrap();
    assert!(status.dropped("domain_edge_denied") > 0, "{:?}", status.drops);
    assert_eq!(status.endpoint_of("green0").unwrap().returned, 0, "nothing got into green");
    switch.stop().unwrap();
}

#[test]
fn a_vm_that_works_on_copies_runs_the_same_image() {
    let scene = Scene::new();
    let (client, server) = scene.hosts();
    let vm = config::vm("scrub0", "scrub", "forwarder", "");
    let copied = vm.replace("domain = \"blue\"", "domain = \"blue\"\naccess = \"copied\"");
    let text = [
        SWITCH_AND_DOMAIN,
        CABLES,
        &config::service("scrub", ""),
        &config::there_and_back(&["scrub"]),
        &copied,
    ];
    let mut switch = scene.switch(&text.concat());
    let _vm = switch.boot("scrub0").unwrap();
    switch.wait_attached(&["scrub0"], Duration::from_secs(120)).unwrap_or_else(|err| panic!("{err}"));
    scene.assert_a_file_crosses(&client, &server, SERVER);
    let status = switch.status().unwrap();
    assert!(carried(&status, "blue", "scrub0@blue") > 16 << 20, "{:?}", status.edges);
    assert!(carried(&status, "scrub0@blue", "blue") > 16 << 20, "{:?}", status.edges);
    assert_conserved(&status);
    switch.stop().unwrap();
}

#[test]
fn a_shared_port_sorts_flows_into_their_domains() {
    let scene = Scene::new();
    let (client, server) = scene.hosts();
    let shared = "domains = [\"blue\", \"green\"]";
    let ports = CABLES.replace("domain = \"blue\"", shared);
    let green = "\n[[domain]]\nname = \"green\"\nregion_mib = 16\npages = \"hugetlb-or-plain\"\n";
    let echoes = |port: &str, chain: &str| {
        format!("\n[[rule]]\nport = \"{port}\"\nproto = \"icmp\"\nchain = \"{chain}\"\n")
    };
    let green_process = config::process("green0", "green-forwarder", "").replace("\"blue\"", "\"green\"");
    let text = [
        SWITCH_AND_DOMAIN,
        green,
        &ports,
        &config::service("blue-forwarder", ""),
        &config::service("green-forwarder", ""),
        &config::there_and_back(&["blue-forwarder"]),
        &config::chain("green-upstream", &["green-forwarder"], "server"),
        &config::chain("green-downstream", &["green-forwarder"], "client"),
        &echoes("client", "green-upstream"),
        &echoes("server", "green-downstream"),
        &config::process("blue0", "blue-forwarder", ""),
        &green_process,
    ];
    let mut switch = scene.switch(&text.concat());
    let _forwarders = start_forwarders(&mut switch);
    assert_eq!(ping(&client, SERVER, 20, 20).unwrap().answered, 20);
    scene.assert_a_file_crosses(&client, &server, SERVER);
    let status = switch.status().unwrap();
    let returned = |owner: &str| status.endpoint_of(owner).unwrap().returned;
    assert_eq!(returned("green0"), 40, "the echoes, there and back, and nothing else");
    assert!(returned("blue0") > 10_000);
    assert_conserved(&status);
    switch.stop().unwrap();
}
