//! Both sides of every limit.

use security_domains::{Config, parse};

const SMALL: &str = r#"
[switch]
name = "demo"
lcores = [0]
[[domain]]
name = "blue"
region_mib = 16
[[port]]
name = "client"
device = "net_null0"
domain = "blue"
chain = "up"
[[service]]
name = "firewall"
[[chain]]
name = "up"
path = ["firewall"]
egress = "client"
[[rule]]
port = "client"
proto = "tcp"
drop = true
[[vm]]
name = "fw0"
domain = "blue"
kernel = "vmlinuz"
initramfs = "initramfs"
[[vm.endpoint]]
service = "firewall"
nf = "firewall"
"#;

/// The small configuration with one piece of text replaced.
fn with(old: &str, new: &str) -> String {
    assert_eq!(SMALL.matches(old).count(), 1, "{old}");
    SMALL.replace(old, new)
}

fn accepted(text: &str) -> Config {
    parse(text, "small.toml").unwrap_or_else(|findings| panic!("{findings}"))
}

/// The only finding about a text.
fn refused(text: &str) -> String {
    match parse(text, "small.toml") {
        Ok(_) => panic!("accepted: {text}"),
        Err(findings) => {
            assert_eq!(findings.len(), 1, "{findings}");
            findings.to_string()
        }
    }
}

/// Checks values of one key: those within its limits, then those beyond.
fn key(line_before: &str, name: &str, within: &[&str], beyond: &[&str]) {
    for value in within {
        accepted(&with(line_before, &format!("{line_before}\n{name} = {value}")));
    }
    for value in beyond {
        let finding = refused(&with(line_before, &format!("{line_before}\n{name} = {value}")));
        assert!(finding.contains(&format!("{name} must")), "{finding}");
    }
}

const PORT: &str = "chain = \"up\"";
const ENDPOINT: &str = "nf = \"firewall\"";
const VM: &str = "kernel = \"vmlinuz\"";
const RULE: &str = "proto = \"tcp\"";

#[test]
fn the_small_configuration_is_legal() {
    accepted(SMALL);
}

#[test]
fn a_region_is_a_power_of_two_between_its_limits() {
    let small_quota = with(ENDPOINT, "nf = \"firewall\"\nquota_buffers = 1")
        .replace(PORT, "chain = \"up\"\nrx_slots = 32\ntx_slots = 32");
    let sized =
        |region_mib: &str| small_quota.replace("region_mib = 16", &format!("region_mib = {region_mib}"));
    accepted(&sized("2"));
    accepted(&sized("1048576"));
    for region_mib in ["0", "1", "3", "2097152", "-2"] {
        refused(&sized(region_mib));
    }
}

#[test]
fn a_stride_holds_headroom_and_data_room() {
    key(
        "region_mib = 16",
        "buffer_stride_bytes",
        &["2240", "2368", "2496", "9152"],
        &["2112", "2176", "2304", "2367"],
    );
    let large = with("region_mib = 16", "region_mib = 256\nbuffer_stride_bytes = 65472");
    accepted(&large);
    refused(&large.replace("65472", "65536"));
}

#[test]
fn an_mtu_lies_between_its_limits_and_within_the_stride() {
    key(PORT, "mtu_bytes", &["68", "1500", "2218"], &["67", "2219", "9000"]);
    let jumbo = with("region_mib = 16", "region_mib = 32\nbuffer_stride_bytes = 9152")
        .replace(PORT, "chain = \"up\"\nmtu_bytes = 9000");
    accepted(&jumbo);
    refused(&jumbo.replace("9000", "9001"));
    refused(&jumbo.replace("9152", "9024"));
}

#[test]
fn queues_rings_quotas_and_credits_keep_their_limits() {
    key(PORT, "rx_slots", &["32", "2048"], &["16", "33", "16384"]);
    key(PORT, "tx_slots", &["32", "2048"], &["16", "33", "16384"]);
    key(ENDPOINT, "ring_slots", &["8", "32768"], &["4", "9", "65536"]);
    key(ENDPOINT, "quota_buffers", &["1", "4096"], &["0", "32769"]);
    key(ENDPOINT, "credit_buffers", &["0", "512"], &["-1", "513", "32769"]);
    accepted(
        &with(ENDPOINT, "nf = \"firewall\"\nquota_buffers = 32768")
            .replace("region_mib = 16", "region_mib = 128"),
    );
}

#[test]
fn a_vm_has_a_cpu_and_memory() {
    key(VM, "vcpus", &["1", "255"], &["0", "256"]);
    key(VM, "memory_mib", &["64", "1048576"], &["63", "1048577"]);
}

#[test]
fn lcores_are_cpu_numbers() {
    let lcores = |list: &str| with("lcores = [0]", &format!("lcores = {list}"));
    assert_eq!(accepted(&lcores("[1023, 0]")).switch.lcores, [1023, 0]);
    refused(&lcores("[1024]"));
    refused(&lcores("[-1]"));
    refused(&lcores("[0, 0]"));
    let many = |count: u16| format!("{:?}", (0..count).collect::<Vec<_>>());
    accepted(&lcores(&many(64)).replace("region_mib = 16", "region_mib = 512"));
    refused(&lcores(&many(65)));
}

#[test]
fn a_path_has_up_to_32_hops() {
    let path = |hops: usize| with("path = [\"firewall\"]", &format!("path = {:?}", vec!["firewall"; hops]));
    assert_eq!(accepted(&path(1)).chains[0].path.len(), 1);
    assert_eq!(accepted(&path(32)).chains[0].path.len(), 32);
    accepted(&path(0));
    refused(&path(33));
}

#[test]
fn a_name_has_one_to_27_bytes() {
    let named = |name: &str| with("name = \"demo\"", &format!("name = \"{name}\""));
    accepted(&named(&"a".repeat(27)));
    refused(&named(&"a".repeat(28)));
    refused(&named(""));
}

#[test]
fn transport_ports_have_16_bits() {
    key(
        RULE,
        "sport",
        &["0", "65535", "\"0-65535\"", "\"80-80\""],
        &["-1", "65536", "\"0-65536\"", "\"81-80\"", "\"80\"", "\"-\"", "\"+1-2\""],
    );
    key(RULE, "dport", &["0", "65535", "\"1000-2000\""], &["-1", "65536", "\"1000-\""]);
}

#[test]
fn a_protocol_is_a_word_or_a_number() {
    let proto = |value: &str| with(RULE, &format!("proto = {value}"));
    for (value, number) in [("0", 0), ("255", 255), ("\"udp\"", 17), ("\"icmp\"", 1), ("\"icmp6\"", 58)] {
        assert_eq!(accepted(&proto(value)).rules[0].flows.proto, Some(number));
    }
    for value in ["-1", "256", "\"TCP\"", "true"] {
        refused(&proto(value));
    }
}

#[test]
fn a_switch_has_up_to_32_ports() {
    let ports = |count: usize| {
        (1..count).fold(SMALL.replace("region_mib = 16", "region_mib = 128"), |text, number| {
            text + &format!("[[port]]\nname = \"p{number}\"\ndevice = \"net_null{number}\"\ndomain = \"blue\"\nchain = \"up\"\n")
        })
    };
    assert_eq!(accepted(&ports(32)).ports.len(), 32);
    let finding = refused(&ports(33));
    assert!(finding.contains("port must be up to 32 tables [[port]], got a list of 33"), "{finding}");
}

#[test]
fn more_tables_than_ids_are_refused() {
    let rules: String = (0..70_000).map(|number| format!("[[rule]]\nport = \"p{number}\"\n")).collect();
    let findings = parse(&(SMALL.to_owned() + &rules), "small.toml").unwrap_err();
    assert!(findings.iter().any(|finding| finding.key == "rule" && finding.got == "a list of 70001"));
}

#[test]
fn a_file_has_up_to_1024_endpoints() {
    let endpoint = "[[process.endpoint]]\nservice = \"firewall\"\nquota_buffers = 1\n";
    let process = |number: usize, endpoints: usize| {
        format!("[[process]]\nname = \"p{number}\"\ndomain = \"blue\"\n{}", endpoint.repeat(endpoints))
    };
    let full = SMALL.to_owned() + &(0..15).map(|number| process(number, 64)).collect::<String>();
    let config = accepted(&(full.clone() + &process(15, 63)));
    assert_eq!(config.endpoints().last().unwrap().endpoint.id.0, 1023);
    let finding = refused(&(full + &process(15, 64)));
    assert!(finding.contains("process[p15].endpoint must keep the file within 1024 endpoints"), "{finding}");
}

#[test]
fn a_region_holds_the_minimum_pool_exactly() {
    // 7083 buffers of 2368 bytes fit 16 MiB; 1024 are for the port's queues, 256 for bursts.
    let quota =
        |quota_buffers: u64| with(ENDPOINT, &format!("nf = \"firewall\"\nquota_buffers = {quota_buffers}"));
    let config = accepted(&quota(7083 - 1024 - 256));
    let need = &config.needs()[0];
    assert_eq!((need.buffers_available, need.buffers_min), (7083, 7083));
    let finding = refused(&quota(7083 - 1024 - 256 + 1));
    assert!(finding.contains("region_mib must hold at least 7084 buffers"), "{finding}");
    assert!(finding.ends_with("and holds 7083, got 16; nearest: 32"), "{finding}");
}
