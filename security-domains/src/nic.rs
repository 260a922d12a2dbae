//! A virtio network card of an untrusted VM: a port of the switch, called by its VM and itself.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cursor::{Cursor, quoted};
use crate::finding::Kind;
use crate::form::{Form, NAME_BYTES_MAX, Number};
use crate::ids::{ChainId, PortId, VmId};
use crate::key::{Key, Presence, Table};
use crate::mac::Mac;
use crate::names::NAME;
use crate::port::{self, Device, MTU, Port, read_mtu};
use crate::scope::Scope;
use crate::word::words;

/// Queues as QEMU takes them for a vhost-user back end.
const QUEUE_SLOTS: Form = Form::Number(Number::power_of_two(256, 1024));
const WITHHELD: Form = Form::Word(Withheld::WORDS);

const MAC: Key = Key {
    name: "mac",
    form: Form::Text("a unicast MAC address like 02:00:00:00:00:01"),
    presence: Presence::Optional,
    doc: "Its address; left out, one is derived from the names of switch, VM and NIC.",
};
const CHAIN: Key = Key {
    name: port::CHAIN.name,
    form: port::CHAIN.form,
    presence: Presence::Optional,
    doc: "The chain of what the guest sends and no rule is for; left out where a path says how that goes on (`vm.in>out`).",
};
const QUEUE_PAIRS: Key = Key {
    name: "queue_pairs",
    form: Form::Number(Number::between(1, 8)),
    presence: Presence::Number(1),
    doc: "Queue pairs that it offers; the guest decides how many of them it uses.",
};
const RX_SLOTS: Key = Key {
    name: "rx_slots",
    form: QUEUE_SLOTS,
    presence: Presence::Number(1024),
    doc: "Slots of each queue in which the guest receives.",
};
const TX_SLOTS: Key = Key {
    name: "tx_slots",
    form: QUEUE_SLOTS,
    presence: Presence::Number(1024),
    doc: "Slots of each queue by which the guest sends.",
};
const OFFLOADS: Key = Key {
    name: "offloads",
    form: Form::Flag,
    presence: Presence::Flag(false),
    doc: "Whether the guest may leave checksums to the switch.",
};
const WITHHOLD: Key = Key {
    name: "withhold",
    form: Form::List { of: &WITHHELD, min: 0, max: 3 },
    presence: Presence::Empty,
    doc: "Features that it does not offer, for guests whose drivers fail with them.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[vm.nic]]",
    doc: "A virtio network card of the untrusted VM above: a port of the switch, which others in this file call vm.nic.",
    keys: &[&NAME, &CHAIN, &MAC, &MTU, &QUEUE_PAIRS, &RX_SLOTS, &TX_SLOTS, &OFFLOADS, &WITHHOLD],
};

words! {
    /// A feature of virtio that a NIC may be told not to offer.
    Withheld {
        /// Frames in several receive buffers (`VIRTIO_NET_F_MRG_RXBUF`).
        MrgRxbuf = "mrg_rxbuf",
        /// Notifications by ring position (`VIRTIO_RING_F_EVENT_IDX`).
        EventIdx = "event_idx",
        /// Descriptors in tables of their own (`VIRTIO_RING_F_INDIRECT_DESC`).
        Indirect = "indirect",
    }
}

/// What is special about a port that is a virtio network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Whose.
    pub vm: VmId,
    /// Its name within the VM.
    pub nic: String,
    /// Its address.
    pub mac: Mac,
    /// Queue pairs that it offers.
    pub queue_pairs: u16,
    /// Whether the guest may leave checksums to the switch.
    pub offloads: bool,
    /// Features that it does not offer.
    pub withhold: Vec<Withheld>,
}

/// Addresses that are taken, each with the path of its NIC.
pub(crate) type Macs = BTreeMap<[u8; 6], String>;

/// Which NIC of the file a table is.
#[derive(Clone, Copy)]
pub(crate) struct NicPlace {
    pub(crate) vm: VmId,
    pub(crate) port: PortId,
}

/// The NIC of a table, as the port that it is.
pub(crate) fn read(
    cursor: &Cursor<'_>,
    NicPlace { vm, port: id }: NicPlace,
    scope: &Scope<'_>,
    macs: &mut Macs,
) -> Option<Port> {
    let name = read_name(cursor, id, scope);
    let chain = read_chain(cursor, id, scope);
    let mac = read_mac(cursor, name, scope, macs);
    let mtu_bytes = read_mtu(cursor, id, scope);
    let queue_pairs = cursor.number_u16(&QUEUE_PAIRS);
    let rx_slots = cursor.number_u16(&RX_SLOTS);
    let tx_slots = cursor.number_u16(&TX_SLOTS);
    let offloads = cursor.flag(&OFFLOADS);
    let withhold = read_withhold(cursor);
    let nic = Nic {
        vm,
        nic: cursor.spelt(&NAME)?.to_owned(),
        mac: mac?,
        queue_pairs: queue_pairs?,
        offloads: offloads?,
        withhold: withhold?,
    };
    Some(Port {
        name: name?.to_owned(),
        device: Device::Nic(nic),
        domains: scope.port_domains[id.index()].clone(),
        chain: chain?,
        mtu_bytes: mtu_bytes?,
        paced: false,
        rx_slots: rx_slots?,
        tx_slots: tx_slots?,
    })
}

/// Where packets go on: in the chain that is named, or as the path says in which they come out here.
fn read_chain(cursor: &Cursor<'_>, id: PortId, scope: &Scope<'_>) -> Option<ChainId> {
    let Some(passage) = scope.passages.iter().find(|passage| passage.exit == id) else {
        // A path that is misspelt may be the one that comes out here.
        if !cursor.has(&CHAIN) && !scope.passages_resolve {
            return None;
        }
        return port::read_chain(cursor, id, scope);
    };
    if cursor.has(&CHAIN) {
        let chain = scope.chains.names.name(passage.chain.index()).unwrap_or_default();
        let rule = format!("must be left out: what comes out here goes on in chain {chain}");
        cursor.refuse(&CHAIN, Kind::Conflict, rule, Vec::new());
        return None;
    }
    Some(passage.rest)
}

/// The name of the port. Control areas hold names of ports, so the parts share what one name may have.
fn read_name<'s>(cursor: &Cursor<'_>, id: PortId, scope: &'s Scope<'_>) -> Option<&'s str> {
    let name = scope.ports.names.name(id.index())?;
    if name.len() > NAME_BYTES_MAX {
        let rule = format!(
            "must be so short that {name} has at most {NAME_BYTES_MAX} characters: the port is called by its VM and its NIC"
        );
        cursor.refuse(&NAME, Kind::Conflict, rule, Vec::new());
        return None;
    }
    Some(name)
}

fn read_mac(cursor: &Cursor<'_>, name: Option<&str>, scope: &Scope<'_>, macs: &mut Macs) -> Option<Mac> {
    let mac = if cursor.has(&MAC) {
        let text = cursor.text(&MAC)?;
        let found = Mac::parse(text);
        let Some(mac) = found.filter(|mac| mac.is_unicast()) else {
            let near = found.or_else(|| Mac::nearest(text)).and_then(Mac::nearest_unicast);
            let near = near.map(|near| format!("\"{near}\""));
            cursor.refuse(&MAC, Kind::Value, MAC.form.rule(), near.into_iter().collect());
            return None;
        };
        mac
    } else {
        let switch = scope.switch.as_ref().and_then(|switch| switch.spelt(&NAME)).unwrap_or_default();
        Mac::derived(&format!("{switch}/{}", name?))
    };
    // Two of one name have one derived address, and the finding about their name.
    if let Some(owner) = macs.insert(mac.0, cursor.path().to_owned())
        && (cursor.has(&MAC) || owner != cursor.path())
    {
        let rule = format!("must be an address that no other NIC has ({owner} has {mac})");
        cursor.refuse(&MAC, Kind::Conflict, rule, Vec::new());
        return None;
    }
    Some(mac)
}

fn read_withhold(cursor: &Cursor<'_>) -> Option<Vec<Withheld>> {
    let mut withhold = Some(Vec::new());
    for (place, value) in cursor.list(&WITHHOLD)? {
        let found = value.as_str().unwrap_or_default();
        match Withheld::from_word(found) {
            Some(word) if withhold.as_ref().is_some_and(|list: &Vec<_>| list.contains(&word)) => {
                cursor.refuse_at(&place, Kind::Conflict, "must be listed once", Vec::new());
                withhold = None;
            }
            Some(word) => withhold.iter_mut().for_each(|list| list.push(word)),
            None => {
                let near = crate::nearest::near_enough(found, Withheld::WORDS.iter().copied());
                cursor.refuse_at(&place, Kind::Value, WITHHELD.rule(), quoted(near));
                withhold = None;
            }
        }
    }
    withhold
}
