//! Which packets are meant: the headers that a rule or an edge asks for.

use std::fmt;

use serde::{Serialize, Serializer};
use toml_edit::Value;

use crate::cursor::{Cursor, quoted};
use crate::finding::Kind;
use crate::form::{Form, Number};
use crate::key::{Key, Presence};
use crate::mac::Mac;
use crate::nearest::nearest;
use crate::prefix::Prefix;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const PROTOCOLS: [(&str, u8); 4] = [("tcp", TCP), ("udp", UDP), ("icmp", ICMP), ("icmp6", ICMP6)];

pub(crate) const PROTO: Key = Key {
    name: "proto",
    form: Form::NumberOrText(Number::between(0, 255), "one of \"tcp\", \"udp\", \"icmp\", \"icmp6\""),
    presence: Presence::Optional,
    doc: "The IP protocol, as a word or its number.",
};
pub(crate) const SRC: Key = Key {
    name: "src",
    form: Form::Text("an IPv4 or IPv6 prefix like 10.0.0.0/8 or 2001:db8::/32"),
    presence: Presence::Optional,
    doc: "Prefix of the source address; host bits zero.",
};
pub(crate) const DST: Key = Key {
    name: "dst",
    form: SRC.form,
    presence: Presence::Optional,
    doc: "Prefix of the destination address; host bits zero.",
};
const PORTS: Form = Form::NumberOrText(Number::between(0, 65_535), "a range \"first-last\"");
pub(crate) const SPORT: Key = Key {
    name: "sport",
    form: PORTS,
    presence: Presence::Optional,
    doc: "Source port or range of ports; needs proto tcp or udp.",
};
pub(crate) const DPORT: Key = Key {
    name: "dport",
    form: PORTS,
    presence: Presence::Optional,
    doc: "Destination port or range of ports; needs proto tcp or udp.",
};
pub(crate) const VLAN: Key = Key {
    name: "vlan",
    form: Form::Number(Number::between(1, 4094)),
    presence: Presence::Optional,
    doc: "VLAN id of the outermost tag.",
};
pub(crate) const SMAC: Key = Key {
    name: "smac",
    form: Form::Text("a MAC address like 02:00:00:00:00:01"),
    presence: Presence::Optional,
    doc: "Source MAC address.",
};
pub(crate) const GROUP: Key = Key {
    name: "group",
    form: Form::Flag,
    presence: Presence::Flag(false),
    doc: "Frames to broadcast and multicast addresses only.",
};
pub(crate) const DMAC: Key =
    Key { name: "dmac", form: SMAC.form, presence: Presence::Optional, doc: "Destination MAC address." };

/// Transport ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// Lowest port that matches.
    pub first: u16,
    /// Highest port that matches.
    pub last: u16,
}

/// Which packets are meant. A field that is `None` matches all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flows {
    /// Frames to group addresses only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub group: bool,
    /// The VLAN id of the outermost tag.
    pub vlan: Option<u16>,
    /// The source MAC address.
    pub smac: Option<Mac>,
    /// The destination MAC address.
    pub dmac: Option<Mac>,
    /// The IP protocol.
    pub proto: Option<u8>,
    /// The source address.
    pub src: Option<Prefix>,
    /// The destination address. Same family as `src`.
    pub dst: Option<Prefix>,
    /// The source port. Only with TCP or UDP.
    pub sport: Option<PortRange>,
    /// The destination port. Only with TCP or UDP.
    pub dport: Option<PortRange>,
}

impl Flows {
    /// Reads the keys of this file, which the table of the cursor has.
    pub(crate) fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let group = cursor.flag(&GROUP);
        let vlan = cursor.optional_number(&VLAN);
        let smac = optional(cursor, &SMAC, read_mac);
        let dmac = optional(cursor, &DMAC, read_mac);
        let proto = optional(cursor, &PROTO, read_proto);
        let src = optional(cursor, &SRC, read_prefix);
        let dst = optional(cursor, &DST, read_prefix);
        let sport = optional(cursor, &SPORT, read_ports);
        let dport = optional(cursor, &DPORT, read_ports);
        let matched = one_family(cursor, src?, dst?, proto?) & ports_have_proto(cursor, proto?);
        matched.then_some(())?;
        Some(Self {
            group: group?,
            // The form of the key keeps it within 12 bits.
            vlan: vlan?.and_then(|vlan| u16::try_from(vlan).ok()),
            smac: smac?,
            dmac: dmac?,
            proto: proto?,
            src: src?,
            dst: dst?,
            sport: sport?,
            dport: dport?,
        })
    }
}

/// `Some(None)`: the key is missing. `None`: there is a finding.
fn optional<T>(
    cursor: &Cursor<'_>,
    key: &Key,
    read: fn(&Cursor<'_>, &Key, &Value) -> Option<T>,
) -> Option<Option<T>> {
    if !cursor.has(key) {
        return Some(None);
    }
    read(cursor, key, cursor.value(key)?).map(Some)
}

fn read_proto(cursor: &Cursor<'_>, key: &Key, value: &Value) -> Option<u8> {
    let number = value.as_integer().and_then(|number| u8::try_from(number).ok());
    let word = value.as_str().unwrap_or_default();
    let named = PROTOCOLS.iter().find(|(name, _)| *name == word).map(|&(_, number)| number);
    let proto = number.or(named);
    if proto.is_none() {
        let near = quoted(nearest(word, PROTOCOLS.iter().map(|(name, _)| *name)));
        cursor.refuse(key, Kind::Value, key.form.rule(), if word.is_empty() { Vec::new() } else { near });
    }
    proto
}

fn read_prefix(cursor: &Cursor<'_>, key: &Key, _: &Value) -> Option<Prefix> {
    Prefix::parse(cursor.text(key)?)
        .map_err(|error| {
            let near = error.nearest.map(|prefix| format!("\"{prefix}\""));
            cursor.refuse(key, Kind::Value, error.rule, near.into_iter().collect());
        })
        .ok()
}

fn read_ports(cursor: &Cursor<'_>, key: &Key, value: &Value) -> Option<PortRange> {
    let single = value.as_integer().and_then(|port| u16::try_from(port).ok());
    let (first, last) = match (single, value.as_str().and_then(parse_range)) {
        (Some(port), _) => (port, port),
        (None, Some(range)) => range,
        (None, None) => {
            cursor.refuse(key, Kind::Value, key.form.rule(), Vec::new());
            return None;
        }
    };
    if first > last {
        let rule = "must be a range whose first port is not above its last";
        cursor.refuse(key, Kind::Value, rule, vec![format!("\"{last}-{first}\"")]);
        return None;
    }
    Some(PortRange { first, last })
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    Some((port(first)?, port(last)?))
}

fn read_mac(cursor: &Cursor<'_>, key: &Key, _: &Value) -> Option<Mac> {
    let text = cursor.text(key)?;
    let mac = Mac::parse(text);
    if mac.is_none() {
        let near = Mac::nearest(text).map(|near| format!("\"{near}\""));
        cursor.refuse(key, Kind::Value, key.form.rule(), near.into_iter().collect());
    }
    mac
}

/// A rule that mixes IPv4 and IPv6 would never match, and look as if it did.
fn one_family(cursor: &Cursor<'_>, src: Option<Prefix>, dst: Option<Prefix>, proto: Option<u8>) -> bool {
    if let (Some(src), Some(dst)) = (src, dst)
        && src.is_ipv4() != dst.is_ipv4()
    {
        let rule = format!("must be of the same IP version as src ({src})");
        cursor.refuse(&DST, Kind::Conflict, rule, Vec::new());
        return false;
    }
    let mismatch = match (src.or(dst).map(|prefix| prefix.is_ipv4()), proto) {
        (Some(true), Some(ICMP6)) => Some(("IPv4", "\"icmp\"")),
        (Some(false), Some(ICMP)) => Some(("IPv6", "\"icmp6\"")),
        _ => None,
    };
    if let Some((version, near)) = mismatch {
        let rule = format!("must be a protocol of {version}, as the prefixes are");
        cursor.refuse(&PROTO, Kind::Conflict, rule, vec![near.to_owned()]);
    }
    mismatch.is_none()
}

fn ports_have_proto(cursor: &Cursor<'_>, proto: Option<u8>) -> bool {
    if matches!(proto, Some(TCP | UDP)) {
        return true;
    }
    let mut legal = true;
    for key in [&SPORT, &DPORT] {
        if cursor.has(key) {
            let rule = "must come with proto = \"tcp\" or \"udp\": other protocols have no ports";
            cursor.refuse(key, Kind::Conflict, rule, Vec::new());
            legal = false;
        }
    }
    legal
}

impl PortRange {
    /// Whether a port lies within.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
