//! A port: an edge of the switch, with the device behind it and the chain that its packets take.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cursor::Cursor;
use crate::domain::STRIDE;
use crate::finding::Kind;
use crate::form::{Form, Number};
use crate::ids::{ChainId, DomainId, PortId};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::nic::Nic;
use crate::scope::Scope;

/// Bytes in front of the data of a received packet.
pub const HEADROOM_BYTES: u32 = 128;
/// Bytes of a frame beyond its MTU: an Ethernet header and two VLAN tags.
pub const FRAME_HEADER_BYTES: u32 = 22;

/// Descriptor rings as real NICs take them.
const QUEUE_SLOTS: Form = Form::Number(Number::power_of_two(32, 8192));

const DEVICE: Key = Key {
    name: "device",
    form: Form::Text("a DPDK virtual device (net_name,arguments) or a PCI address (0000:01:00.0)"),
    presence: Presence::Needed,
    doc: "The device behind it: a DPDK virtual device with its arguments, or a PCI address.",
};
/// An exclusive port says `domain`, a shared one `domains`.
pub(crate) const DOMAIN: Key = Key {
    name: "domain",
    form: Form::Reference(&["domain"]),
    presence: Presence::Optional,
    doc: "The domain it belongs to. Either this or domains.",
};
const ONE_DOMAIN: Form = Form::Reference(&["domain"]);
pub(crate) const DOMAINS: Key = Key {
    name: "domains",
    form: Form::List { of: &ONE_DOMAIN, min: 1, max: 64 },
    presence: Presence::Optional,
    doc: "The domains that share it; packets that match no rule go to the first. Either this or domain.",
};
pub(crate) const CHAIN: Key = Key {
    name: "chain",
    form: Form::Reference(&["chain"]),
    presence: Presence::Needed,
    doc: "The chain of packets that enter here and match no rule.",
};
pub(crate) const MTU: Key = Key {
    name: "mtu_bytes",
    form: Form::Number(Number::between(68, 9000)),
    presence: Presence::Number(1500),
    doc: "Largest IP packet; with 22 bytes of headers it fits a buffer behind 128 bytes of headroom.",
};
const PACED: Key = Key {
    name: "paced",
    form: Form::Flag,
    presence: Presence::Flag(false),
    doc: "Polled only while its chain is attached and the first ring has room.",
};
const RX_SLOTS: Key = Key {
    name: "rx_slots",
    form: QUEUE_SLOTS,
    presence: Presence::Number(512),
    doc: "Receive descriptors of each lcore's queue.",
};
const TX_SLOTS: Key = Key {
    name: "tx_slots",
    form: QUEUE_SLOTS,
    presence: Presence::Number(512),
    doc: "Transmit descriptors of each lcore's queue.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[port]]",
    doc: "An edge of the switch.",
    keys: &[&NAME, &DEVICE, &DOMAIN, &DOMAINS, &CHAIN, &MTU, &PACED, &RX_SLOTS, &TX_SLOTS],
};

/// An edge of the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// What is behind it.
    pub device: Device,
    /// To whom it belongs; with several, its packets are copied once into the region of one of them.
    pub domains: Vec<DomainId>,
    /// What enters here takes this chain, unless a rule says otherwise.
    pub chain: ChainId,
    /// Largest IP packet.
    pub mtu_bytes: u16,
    /// Polled only while its chain is attached and the first ring has room.
    pub paced: bool,
    /// Receive descriptors of each lcore's queue.
    pub rx_slots: u16,
    /// Transmit descriptors of each lcore's queue.
    pub tx_slots: u16,
}

/// What is behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Device {
    /// A device of DPDK: `net_…` with arguments, or a PCI address.
    Dpdk(String),
    /// The virtio network card of an untrusted VM.
    Nic(Nic),
}

/// Devices that are taken, each with the path of its port.
pub(crate) type Devices = BTreeMap<String, String>;

impl Port {
    pub(crate) fn read(
        cursor: &Cursor<'_>,
        id: PortId,
        name: Option<&str>,
        scope: &Scope<'_>,
        devices: &mut Devices,
    ) -> Option<Self> {
        let device = read_device(cursor, devices);
        let domains = read_domains(cursor, scope);
        let chain = read_chain(cursor, id, scope);
        let mtu_bytes = read_mtu(cursor, id, scope);
        let paced = cursor.flag(&PACED);
        let rx_slots = cursor.number_u16(&RX_SLOTS);
        let tx_slots = cursor.number_u16(&TX_SLOTS);
        Some(Self {
            name: name?.to_owned(),
            device: Device::Dpdk(device?),
            domains: domains?,
            chain: chain?,
            mtu_bytes: mtu_bytes?,
            paced: paced?,
            rx_slots: rx_slots?,
            tx_slots: tx_slots?,
        })
    }
}

impl Port {
    /// The domain where packets go that match no rule; that of the whole port unless it is shared.
    #[must_use]
    pub fn domain(&self) -> DomainId {
        self.domains[0]
    }

    /// What is special about it if it is a virtio network card.
    #[must_use]
    pub fn nic(&self) -> Option<&Nic> {
        match &self.device {
            Device::Dpdk(_) => None,
            Device::Nic(nic) => Some(nic),
        }
    }

    /// Whether several domains have it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.domains.len() > 1
    }
}

fn read_domains(cursor: &Cursor<'_>, scope: &Scope<'_>) -> Option<Vec<DomainId>> {
    if !cursor.has(&DOMAINS) {
        if !cursor.has(&DOMAIN) {
            let rule = "must have either domain or domains";
            cursor.refuse_at(&cursor.whole("neither"), Kind::Conflict, rule, Vec::new());
        }
        return cursor.reference(&DOMAIN, &scope.domains.names).map(|domain| vec![DomainId(domain)]);
    }
    if cursor.has(&DOMAIN) {
        let rule = "must be left out where domain is given";
        cursor.refuse(&DOMAINS, Kind::Conflict, rule, Vec::new());
        return None;
    }
    let mut domains = Some(Vec::new());
    for (place, value) in cursor.list(&DOMAINS)? {
        let found = cursor.resolve(&place, value, &ONE_DOMAIN, &[&scope.domains.names]);
        let domain = found.map(|(_, domain)| DomainId(domain));
        if domain.is_some_and(|domain| domains.as_ref().is_some_and(|list: &Vec<_>| list.contains(&domain))) {
            cursor.refuse_at(&place, Kind::Conflict, "must be listed once", Vec::new());
            domains = None;
        }
        match domain {
            Some(domain) => domains.iter_mut().for_each(|list| list.push(domain)),
            None => domains = None,
        }
    }
    domains
}

pub(crate) fn read_chain(cursor: &Cursor<'_>, id: PortId, scope: &Scope<'_>) -> Option<ChainId> {
    let chain = ChainId(cursor.reference(&CHAIN, &scope.chains.names)?);
    let first = scope.port_domains[id.index()].get(..1).unwrap_or_default();
    scope.chain_starts_at(cursor, &cursor.place(&CHAIN), chain, first).then_some(chain)
}

pub(crate) fn read_mtu(cursor: &Cursor<'_>, id: PortId, scope: &Scope<'_>) -> Option<u16> {
    let mtu_bytes = cursor.number(&MTU)?;
    for &domain in &scope.port_domains[id.index()] {
        let stride_bytes = scope.domains.cursors[domain.index()].peek_number(&STRIDE)?;
        let room_bytes = stride_bytes - HEADROOM_BYTES - FRAME_HEADER_BYTES;
        if mtu_bytes > room_bytes {
            let rule = format!(
                "must be at most {room_bytes} in domain {}: {} of {stride_bytes}, less {HEADROOM_BYTES} of headroom and {FRAME_HEADER_BYTES} of frame headers",
                scope.domain_name(domain),
                STRIDE.name,
            );
            cursor.refuse(&MTU, Kind::Conflict, rule, vec![room_bytes.to_string()]);
            return None;
        }
    }
    u16::try_from(mtu_bytes).ok()
}

fn read_device(cursor: &Cursor<'_>, devices: &mut Devices) -> Option<String> {
    let device = cursor.text(&DEVICE)?;
    let (name, arguments) = device.split_once(',').unwrap_or((device, ""));
    if !is_pci_address(name) && !is_virtual_device(name) {
        let near = nearest_device(name, &device[name.len()..]).map(|near| format!("\"{near}\""));
        cursor.refuse(&DEVICE, Kind::Value, DEVICE.form.rule(), near.into_iter().collect());
        return None;
    }
    let interface = arguments.split(',').find(|argument| argument.starts_with("iface="));
    let driver = name.trim_end_matches(|character: char| character.is_ascii_digit());
    let claims =
        [Some(name.to_ascii_lowercase()), interface.map(|interface| format!("{driver} {interface}"))];
    for claim in claims.into_iter().flatten() {
        if let Some(owner) = devices.insert(claim, cursor.path().to_owned()) {
            let rule = format!("must be a device that no other port has ({owner} has it)");
            cursor.refuse(&DEVICE, Kind::Conflict, rule, Vec::new());
            return None;
        }
    }
    Some(device.to_owned())
}

/// `0000:01:00.0`: domain, bus, device, function.
fn is_pci_address(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() == 12
        && bytes.iter().enumerate().all(|(position, byte)| match position {
            4 | 7 => *byte == b':',
            10 => *byte == b'.',
            11 => matches!(byte, b'0'..=b'7'),
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_virtual_device(name: &str) -> bool {
    name.strip_prefix("net_").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    })
}

/// Beginnings of interface names: an operator who writes one wants that interface, not a DPDK driver.
const INTERFACES: [&str; 7] = ["eth", "en", "wl", "veth", "br", "bond", "nv-"];

fn nearest_device(name: &str, arguments: &str) -> Option<String> {
    if arguments.is_empty() && INTERFACES.iter().any(|start| name.starts_with(start)) {
        return Some(format!("net_af_packet0,iface={name}"));
    }
    [format!("0000:{name}"), format!("net_{name}"), name.to_ascii_lowercase().replace('-', "_")]
        .into_iter()
        .find(|candidate| is_pci_address(candidate) || is_virtual_device(candidate))
        .map(|near| near + arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_pci_addresses_from_virtual_devices() {
        assert!(is_pci_address("0000:01:00.0"));
        assert!(is_pci_address("0000:FF:1f.7"));
        assert!(!is_pci_address("0000:01:00.8"));
        assert!(!is_pci_address("01:00.0"));
        assert!(is_virtual_device("net_af_packet0"));
        assert!(!is_virtual_device("net_"));
        assert!(!is_virtual_device("eth0"));
    }

    #[test]
    fn completes_a_device_name() {
        assert_eq!(nearest_device("01:00.0", ",x=1").as_deref(), Some("0000:01:00.0,x=1"));
        assert_eq!(nearest_device("tap0", "").as_deref(), Some("net_tap0"));
        assert_eq!(nearest_device("net-tap0", "").as_deref(), Some("net_tap0"));
        assert_eq!(nearest_device("enp1s0", "").as_deref(), Some("net_af_packet0,iface=enp1s0"));
        assert_eq!(nearest_device("ΩΩ", ""), None);
    }
}
