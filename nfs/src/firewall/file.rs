//! Reads the policy from a settings file.

use std::ops::RangeInclusive;
use std::path::Path;

use packet::ipv6::is_extension;
use packet::parse::is_tunnel;
use toml_edit::Value;

use super::policy::Policy;
use super::rule::{Action, Rule};
use crate::settings::{self, Findings, Prefix, Refusal, Table, word};

/// Most rules of a file.
const RULES_MAX: usize = 4096;
const KEYS: [&str; 8] =
    ["default", "arp", "ndp", "fragments", "extension_headers", "tunnels", "other_ethertypes", "rule"];
const RULE_KEYS: [&str; 7] = ["name", "action", "proto", "src", "dst", "sport", "dport"];
const ACTIONS: [(&str, Action); 2] = [("allow", Action::Allow), ("drop", Action::Drop)];

/// Reads the policy file at `path`.
///
/// # Errors
/// All findings.
pub fn load(path: &Path) -> Result<Policy, Findings> {
    settings::load(path, &KEYS, read)
}

/// As [`load`], from a text; `file` names it in findings.
///
/// # Errors
/// All findings.
pub fn parse(file: &str, text: &str) -> Result<Policy, Findings> {
    settings::parse(file, text, &KEYS, read)
}

fn read(root: &Table<'_>) -> Option<Policy> {
    let said = |key: &str| root.optional(key, word(&ACTIONS)).unwrap_or(Action::Drop);
    let tables = root.tables("rule", "name", &RULE_KEYS, RULES_MAX);
    let rules: Vec<Option<Rule>> = tables.iter().map(read_rule).collect();
    for (at, table) in tables.iter().enumerate() {
        let name = |rule: &Option<Rule>| rule.as_ref().map(|rule| rule.name.clone());
        let twin = rules[..at].iter().position(|rule| name(rule).is_some() && name(rule) == name(&rules[at]));
        if let Some(twin) = twin {
            let taken = format!("must be unlike that of the rule in line {}", tables[twin].line());
            table.refuse("name", Refusal::new(taken));
        }
    }
    Some(Policy {
        default: said("default"),
        arp: said("arp"),
        ndp: said("ndp"),
        fragments: said("fragments"),
        extension_headers: said("extension_headers"),
        tunnels: said("tunnels"),
        other_ethertypes: said("other_ethertypes"),
        rules: rules.into_iter().collect::<Option<_>>()?,
    })
}

fn read_rule(table: &Table<'_>) -> Option<Rule> {
    let name = table.needed("name", settings::name);
    let action = table.needed("action", word(&ACTIONS));
    let rule = Rule {
        name: name.clone().unwrap_or_default(),
        action: action.unwrap_or(Action::Drop),
        protocol: table.optional("proto", protocol),
        source: table.optional("src", Prefix::read),
        destination: table.optional("dst", Prefix::read),
        source_ports: table.optional("sport", ports),
        destination_ports: table.optional("dport", ports),
    };
    refuse_contradictions(table, &rule);
    (name.is_some() && action.is_some()).then_some(rule)
}

/// Refuses what could never match, or would not mean what it seems to.
fn refuse_contradictions(table: &Table<'_>, rule: &Rule) {
    if let (Some(source), Some(destination)) = (rule.source, rule.destination)
        && source.is_ipv4() != destination.is_ipv4()
    {
        table.refuse("dst", Refusal::new("must be of the same IP version as src"));
    }
    let has_ports = rule.protocol.is_some_and(|protocol| matches!(protocol, 6 | 17 | 132 | 136));
    for key in ["sport", "dport"] {
        // A proto that was refused already says enough.
        if table.has(key) && !has_ports && (rule.protocol.is_some() || !table.has("proto")) {
            table.refuse(key, Refusal::new("must come with a proto that has ports (tcp, udp, sctp)"));
        }
    }
    let is_ipv4 = rule.source.or(rule.destination).map(|prefix| prefix.is_ipv4());
    match (rule.protocol, is_ipv4) {
        (Some(1), Some(false)) => {
            table.refuse("proto", Refusal::new("must be \"icmpv6\" for IPv6 addresses"))
        }
        (Some(58), Some(true)) => table.refuse("proto", Refusal::new("must be \"icmp\" for IPv4 addresses")),
        _ => {}
    }
}

/// Reads a protocol: a name or a number.
fn protocol(value: &Value) -> Result<u8, Refusal> {
    let named = value.as_str().and_then(|name| match name {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmpv6" => Some(58),
        "sctp" => Some(132),
        _ => None,
    });
    let number = value.as_integer().and_then(|number| u8::try_from(number).ok());
    let found = named.or(number).ok_or_else(|| {
        Refusal::new("must be \"tcp\", \"udp\", \"icmp\", \"icmpv6\", \"sctp\" or a number from 0 to 255")
    })?;
    if is_tunnel(found) {
        return Err(Refusal::new("must not be a tunnel: the key tunnels says what becomes of those"));
    }
    if is_extension(found) {
        return Err(Refusal::new("must not be an IPv6 extension header: the key extension_headers says it"));
    }
    Ok(found)
}

/// Reads a port or a range of ports: `80`, `"80"` or `"1000-2000"`.
fn ports(value: &Value) -> Result<RangeInclusive<u16>, Refusal> {
    const RULE: &str = "must be a port from 0 to 65535 or a range like \"1000-2000\"";
    if let Some(number) = value.as_integer() {
        let port = u16::try_from(number).map_err(|_| Refusal {
            rule: RULE.to_owned(),
            nearest: vec![number.clamp(0, 65535).to_string()],
        })?;
        return Ok(port..=port);
    }
    let text = value.as_str().unwrap_or_default();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok());
    match (port(first).flatten(), port(last).flatten()) {
        (Some(first), Some(last)) if first > last => Err(Refusal {
            rule: "must be a range whose first port is not above its last".to_owned(),
            nearest: vec![format!("\"{last}-{first}\"")],
        }),
        (Some(first), Some(last)) => Ok(first..=last),
        _ => Err(Refusal::new(RULE)),
    }
}
