//! Reads the router's interfaces, routes and neighbours from a settings file.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use packet::MacAddress;
use toml_edit::Value;

use super::icmp_error::is_host;
use super::interface::Interface;
use super::neighbour::Neighbour;
use super::route::{Hop, RouteTable};
use super::{Forward, Settings};
use crate::settings::{self, Findings, Prefix, Refusal, Table, address_and_prefix, number, text, word};

const KEYS: [&str; 5] = ["forward", "icmp_errors_per_second", "interface", "route", "neighbour"];
const INTERFACE_KEYS: [&str; 4] = ["port", "address", "mac", "mtu_bytes"];
const ROUTE_KEYS: [&str; 2] = ["prefix", "via"];
const NEIGHBOUR_KEYS: [&str; 2] = ["address", "mac"];

const INTERFACES_MAX: usize = 32;
const ROUTES_MAX: usize = 65_536;
/// Less than the table holds, so that there is room to learn.
const NEIGHBOURS_MAX: usize = 512;
const MTU_BYTES_DEFAULT: u16 = 1500;
const ICMP_ERRORS_PER_SECOND_DEFAULT: u32 = 100;

/// Reads the routes file at `path`.
///
/// # Errors
/// All findings.
pub fn load(path: &Path) -> Result<Settings, Findings> {
    settings::load(path, &KEYS, read)
}

/// As [`load`], from a text; `file` names it in findings.
///
/// # Errors
/// All findings.
pub fn parse(file: &str, text: &str) -> Result<Settings, Findings> {
    settings::parse(file, text, &KEYS, read)
}

fn read(root: &Table<'_>) -> Option<Settings> {
    let words = [("next", Forward::Next), ("port", Forward::Port)];
    let forward = root.optional("forward", word(&words)).unwrap_or(Forward::Next);
    let errors = root.optional("icmp_errors_per_second", number(0, 1_000_000));
    let interfaces = read_interfaces(root);
    if interfaces.len() > 2 && forward == Forward::Next {
        let rule = "must be \"port\" with more than two interfaces: a chain cannot know where a route leads";
        root.refuse("forward", Refusal::new(rule));
    }
    if interfaces.is_empty() && !root.has("interface") {
        root.refuse("interface", Refusal::new("must be given at least once, as [[interface]]"));
    }
    // With a refused interface, what is said of its link would be refused for no fault of its own.
    let interfaces: Vec<Interface> = interfaces.into_iter().collect::<Option<_>>()?;
    let routes = read_routes(root, &interfaces);
    let neighbours = read_neighbours(root, &interfaces);
    Some(Settings {
        forward,
        icmp_errors_per_second: errors.unwrap_or(ICMP_ERRORS_PER_SECOND_DEFAULT),
        interfaces,
        routes,
        neighbours,
    })
}

fn read_interfaces(root: &Table<'_>) -> Vec<Option<Interface>> {
    let tables = root.tables("interface", "port", &INTERFACE_KEYS, INTERFACES_MAX);
    let mut interfaces: Vec<Option<Interface>> = Vec::new();
    for table in &tables {
        let interface = read_interface(table);
        if let Some(interface) = &interface {
            for other in interfaces.iter().flatten() {
                refuse_clash(table, interface, other);
            }
        }
        interfaces.push(interface);
    }
    interfaces
}

fn read_interface(table: &Table<'_>) -> Option<Interface> {
    let port = table.needed("port", settings::name);
    let address = table.needed("address", interface_address);
    let mac = table.needed("mac", mac);
    let mtu = table.optional("mtu_bytes", number(576, 9216));
    let (address, mask) = address?;
    let mtu_bytes = mtu.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(MTU_BYTES_DEFAULT);
    let interface = Interface { port: port?, mac: mac?, address, mask, mtu_bytes };
    if !interface.holds_host(address) {
        table.refuse("address", Refusal::new("must not be the first or the last address of its prefix"));
    }
    Some(interface)
}

/// Refuses what two interfaces must not share.
fn refuse_clash(table: &Table<'_>, interface: &Interface, other: &Interface) {
    let unlike = || Refusal::new(format!("must be unlike that of interface[{}]", other.port));
    if interface.port == other.port {
        table.refuse("port", unlike());
    }
    if interface.mac == other.mac {
        table.refuse("mac", unlike());
    }
    if interface.holds(other.address) || other.holds(interface.address) {
        let link = format!("{}/{}", Ipv4Addr::from(other.network()), other.mask.count_ones());
        let rule = format!("must lie on another link than interface[{}], {link}", other.port);
        table.refuse("address", Refusal::new(rule));
    }
}

fn read_routes(root: &Table<'_>, interfaces: &[Interface]) -> RouteTable {
    let mut routes = RouteTable::default();
    for (number, interface) in interfaces.iter().enumerate() {
        routes.insert(interface.network(), interface.mask, Hop { interface: number, via: None });
    }
    for table in root.tables("route", "prefix", &ROUTE_KEYS, ROUTES_MAX) {
        let prefix = table.needed("prefix", ipv4_prefix);
        let via = table.needed("via", neighbour_of(interfaces));
        if let (Some((network, mask)), Some((interface, via))) = (prefix, via)
            && !routes.insert(network, mask, Hop { interface, via: Some(via) })
        {
            table.refuse("prefix", Refusal::new("must be unlike that of any other route or interface"));
        }
    }
    routes
}

fn read_neighbours(root: &Table<'_>, interfaces: &[Interface]) -> Vec<(Neighbour, MacAddress)> {
    let tables = root.tables("neighbour", "address", &NEIGHBOUR_KEYS, NEIGHBOURS_MAX);
    let mut neighbours: Vec<(Neighbour, MacAddress)> = Vec::new();
    for table in tables {
        let neighbour = table.needed("address", neighbour_of(interfaces));
        let mac = table.needed("mac", mac);
        let (Some(neighbour), Some(mac)) = (neighbour, mac) else { continue };
        if neighbours.iter().any(|(known, _)| *known == neighbour) {
            table.refuse("address", Refusal::new("must be unlike that of any other neighbour"));
        }
        neighbours.push((neighbour, mac));
    }
    neighbours
}

/// Reads an address and the prefix around it: "10.1.0.1/24".
fn interface_address(value: &Value) -> Result<(Ipv4Addr, u32), Refusal> {
    let rule = "must be an IPv4 address with its prefix length, like \"10.1.0.1/24\"";
    let text = value.as_str().filter(|text| text.contains('/')).ok_or_else(|| Refusal::new(rule))?;
    match address_and_prefix(text) {
        Ok((IpAddr::V4(address), Prefix::V4 { mask, .. })) if is_host(address) && mask != 0 => {
            Ok((address, mask))
        }
        _ => Err(Refusal::new(rule)),
    }
}

fn ipv4_prefix(value: &Value) -> Result<(u32, u32), Refusal> {
    match Prefix::read(value)? {
        Prefix::V4 { network, mask } => Ok((network, mask)),
        Prefix::V6 { .. } => Err(Refusal::new("must be an IPv4 prefix: this router does not route IPv6")),
    }
}

fn mac(value: &Value) -> Result<MacAddress, Refusal> {
    let is_one_host = |mac: &MacAddress| !mac.is_multicast() && *mac != MacAddress::default();
    text("must be the MAC address of one host, like \"02:00:00:00:01:01\"", |text| {
        text.parse().ok().filter(is_one_host)
    })(value)
}

/// Reads the address of a host on the link of one of the interfaces.
fn neighbour_of(interfaces: &[Interface]) -> impl FnOnce(&Value) -> Result<Neighbour, Refusal> + '_ {
    move |value| {
        let rule = "must be the address of a neighbour: a host on the link of an interface, not the router";
        let found = value.as_str().and_then(|text| text.parse::<Ipv4Addr>().ok()).and_then(|address| {
            let at = interfaces.iter().position(|interface| interface.holds_host(address))?;
            (interfaces[at].address != address).then_some((at, address))
        });
        found.ok_or_else(|| Refusal::new(rule))
    }
}
