//! Frames of arbitrary bytes before a firewall.

use std::net::IpAddr;
use std::sync::LazyLock;

use nfs::firewall::{Action, Judgement, Policy, Reason, Rule, Tally, file};
use nfs::monitor::Monitor;

use crate::slow_parse::{self, Hidden, Reading};

const POLICY: &str = r#"
default = "allow"
arp = "allow"
ndp = "allow"
fragments = "allow"
tunnels = "allow"

[[rule]]
name = "guarded"
action = "drop"
dst = "10.2.0.64/26"

[[rule]]
name = "no-telnet"
action = "drop"
proto = "tcp"
dport = "20-23"

[[rule]]
name = "inside"
action = "allow"
src = "10.1.0.0/24"

[[rule]]
name = "documentation"
action = "drop"
src = "2001:db8::/32"
"#;

static POLICIES: LazyLock<[Policy; 2]> = LazyLock::new(|| {
    let read = |text: &str| file::parse("policy.toml", text).unwrap_or_else(|error| panic!("{error}"));
    [read(POLICY), read(&POLICY.replace("= \"allow\"\narp", "= \"drop\"\narp"))]
});

/// Judges a frame by its first bytes: a second judge, with a second reading, says the same. Nothing that a rule
/// drops by address is allowed by hiding its ports.
pub fn run(data: &[u8]) {
    let start = &data[..data.len().min(128)];
    for policy in POLICIES.iter() {
        let judgement = policy.judge(start, data.len());
        let reading = slow_parse::read(start, data.len());
        let action = judge(policy, start, &reading);
        assert_eq!(judgement.action, action, "{judgement:?} of {reading:?}");
        let mut tally = Tally::new(policy);
        tally.count(judgement, data.len());
        assert_eq!(tally.shown().iter().sum::<u64>(), 1, "one packet is counted once: {judgement:?}");
        let Judgement { reason, .. } = judgement;
        let (allowed, dropped) = tally.of(reason);
        assert_eq!(allowed.packets + dropped.packets, 1);
        assert!(reason != Reason::Malformed || action == Action::Drop, "{reading:?}");
    }
    let mut monitor = Monitor::new(1);
    monitor.count(start, data.len(), std::time::Duration::ZERO);
    assert_eq!(monitor.total().packets, 1);
    assert!(monitor.flow_count() <= 1);
}

fn judge(policy: &Policy, start: &[u8], reading: &Reading) -> Action {
    match *reading {
        Reading::Malformed | Reading::Encapsulated(_) => Action::Drop,
        Reading::NotIp(0x0806) => policy.arp,
        Reading::NotIp(_) => policy.other_ethertypes,
        Reading::Flowless(Hidden::Truncated, ..) => Action::Drop,
        Reading::Flowless(hidden, source, destination) => {
            let drops = |rule: &Rule| {
                let only_addresses = rule.protocol.is_none()
                    && rule.source_ports.is_none()
                    && rule.destination_ports.is_none();
                rule.action == Action::Drop && only_addresses && is_between(rule, source, destination)
            };
            let otherwise = match hidden {
                Hidden::Fragment => policy.fragments,
                Hidden::Extension => policy.extension_headers,
                _ => policy.tunnels,
            };
            if policy.rules.iter().any(drops) { Action::Drop } else { otherwise }
        }
        Reading::Flow(flow) if flow.protocol == 58 && matches!(flow.icmp_kind, Some(133..=137)) => {
            let is_of_this_link = flow.source.is_ipv6() && hop_limit(start) == Some(255);
            if is_of_this_link { policy.ndp } else { Action::Drop }
        }
        Reading::Flow(flow) => {
            let (sport, dport) = flow.ports;
            let matches = |rule: &&Rule| {
                rule.protocol.is_none_or(|protocol| protocol == flow.protocol)
                    && is_between(rule, flow.source, flow.destination)
                    && rule.source_ports.as_ref().is_none_or(|ports| ports.contains(&sport))
                    && rule.destination_ports.as_ref().is_none_or(|ports| ports.contains(&dport))
            };
            policy.rules.iter().find(matches).map_or(policy.default, |rule| rule.action)
        }
    }
}

/// Whether both addresses are in the rule's prefixes, bit by bit.
fn is_between(rule: &Rule, source: IpAddr, destination: IpAddr) -> bool {
    let is_in = |prefix: Option<(IpAddr, u8)>, address: IpAddr| {
        let Some((network, length)) = prefix else { return true };
        let (network, address) = (bits(network), bits(address));
        network.len() == address.len() && network[..length.into()] == address[..length.into()]
    };
    let parts = |prefix: Option<nfs::settings::Prefix>| {
        let shown = prefix?.to_string();
        let (address, length) = shown.split_once('/')?;
        Some((address.parse().ok()?, length.parse().ok()?))
    };
    is_in(parts(rule.source), source) && is_in(parts(rule.destination), destination)
}

fn bits(address: IpAddr) -> Vec<bool> {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    octets.iter().flat_map(|octet| (0..8).map(move |bit| octet >> (7 - bit) & 1 == 1)).collect()
}

/// The hop limit of the IPv6 packet behind at most two tags.
fn hop_limit(start: &[u8]) -> Option<u8> {
    let is_tag = |at: usize| matches!(start.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    let tags = usize::from(is_tag(12)) + usize::from(is_tag(12) && is_tag(16));
    start.get(14 + 4 * tags + 7).copied()
}
