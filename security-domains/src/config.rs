//! A whole configuration, checked: what `netvm` runs from.

use std::path::{Path, PathBuf};

use serde::Serialize;
use toml_edit::Document;

use crate::access::Pins;
use crate::book::Book;
use crate::chain::Chain;
use crate::cursor::Cursor;
use crate::domain::{Domain, Files};
use crate::edge::Edge;
use crate::endpoint::Endpoint;
use crate::finding::Findings;
use crate::ids::{ChainId, DomainId, PortId, ProcessId, ServiceId, VmId};
use crate::need::DomainNeed;
use crate::nic::{self, Macs};
use crate::policy::Policy;
use crate::port::{Devices, Port};
use crate::process::Process;
use crate::rule::Rule;
use crate::scope::{self, OwnerTables, Scope};
use crate::service::Service;
use crate::source::Source;
use crate::switch::Switch;
use crate::vm::Vm;
use crate::{access, domain, nf_settings, passage};

/// A checked configuration. Ids are positions in these lists, which are in file order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// The switch process.
    pub switch: Switch,
    /// Security domains.
    pub domains: Vec<Domain>,
    /// Edges of the switch: those of `[[port]]`, then the NICs of untrusted VMs.
    pub ports: Vec<Port>,
    /// Named roles.
    pub services: Vec<Service>,
    /// Services in order: those of the file, then what packets take that come out of an untrusted VM in a path.
    pub chains: Vec<Chain>,
    /// Which packets take another chain; the first match wins.
    pub rules: Vec<Rule>,
    /// Which packets may cross from one domain into another; the first match wins.
    pub edges: Vec<Edge>,
    /// Guests.
    pub vms: Vec<Vm>,
    /// NFs as host processes.
    pub processes: Vec<Process>,
    /// What violations lead to.
    pub policies: Vec<Policy>,
}

/// Whose endpoint it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A VM's.
    Vm(VmId),
    /// A process's.
    Process(ProcessId),
}

/// An endpoint with its surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointListing<'c> {
    /// Its id, service, quota and rings.
    #[serde(flatten)]
    pub endpoint: &'c Endpoint,
    /// Whose it is.
    pub owner: Owner,
    /// The owner's name.
    pub owner_name: &'c str,
    /// Its position among the owner's endpoints, and in the owner's control area.
    pub position: u16,
    /// The owner's domain.
    pub domain: DomainId,
    /// The domain whose region it works in: the owner's, or its hidden one.
    pub region: DomainId,
    /// `owner/service`; with `#position` behind it if the owner has that service twice.
    pub name: String,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// All findings, or the one that the file cannot be read ([`Findings::is_unreadable`]).
pub fn load(path: &Path) -> Result<Config, Findings> {
    let file = path.to_string_lossy();
    let bytes = std::fs::read(path).map_err(|error| Findings::unreadable(&file, &error))?;
    read_bytes(&bytes, path, &file)
}

/// As [`load`], with the text of the file.
///
/// # Errors
/// As [`load`].
pub fn load_text(path: &Path) -> Result<(Config, String), Findings> {
    let file = path.to_string_lossy();
    let bytes = std::fs::read(path).map_err(|error| Findings::unreadable(&file, &error))?;
    let config = read_bytes(&bytes, path, &file)?;
    // It was read as text just now.
    Ok((config, String::from_utf8_lossy(&bytes).into_owned()))
}

/// As [`parse`], of a text that findings call something else than the file that its paths count from.
///
/// # Errors
/// All findings.
pub fn parse_text_as(text: &str, path: &Path, called: &str) -> Result<Config, Findings> {
    read(text, path, called)
}

/// As [`load`], of bytes that were read already; relative paths in them count from the folder of `file_name`.
///
/// # Errors
/// All findings.
pub fn parse_bytes(bytes: &[u8], file_name: &str) -> Result<Config, Findings> {
    read_bytes(bytes, Path::new(file_name), file_name)
}

fn read_bytes(bytes: &[u8], path: &Path, file: &str) -> Result<Config, Findings> {
    let (text, broken) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            (std::str::from_utf8(valid).unwrap_or_default(), rest.first())
        }
    };
    if let Some(&byte) = broken {
        let book = Book::new(Source::new(file, text));
        book.refuse_encoding(byte);
        return Err(Findings::sorted(book.into_findings()));
    }
    read(text, path, file)
}

/// Checks the text of a configuration file; relative paths in it count from the folder of `file_name`.
///
/// # Errors
/// All findings.
pub fn parse(text: &str, file_name: &str) -> Result<Config, Findings> {
    read(text, Path::new(file_name), file_name)
}

fn read(text: &str, path: &Path, file: &str) -> Result<Config, Findings> {
    let book = Book::new(Source::new(file, text));
    let config = match Document::parse(text) {
        Ok(document) => read_document(&book, &document, path),
        Err(error) => {
            book.refuse_syntax(&error);
            None
        }
    };
    match (config, book.into_findings()) {
        (Some(config), findings) if findings.is_empty() => Ok(config),
        (_, findings) => {
            assert!(!findings.is_empty(), "a configuration is refused for a reason");
            Err(Findings::sorted(findings))
        }
    }
}

fn read_document<'d>(book: &'d Book<'d>, document: &'d Document<&str>, path: &Path) -> Option<Config> {
    let known: Vec<&str> = scope::TABLE.keys.iter().map(|key| key.name).collect();
    if nf_settings::refuse(book, document.as_table(), &known) {
        return None;
    }
    let root = Cursor::root(book, &scope::TABLE, document.as_table());
    let scope = Scope::gather(&root);
    let config = read_tables(&scope, path)?;
    let hidden = config.hidden_domains();
    let declared = scope.domains.cursors.iter().map(|cursor| (cursor, &domain::REGION_MIB));
    let private = hidden.iter().map(|hidden| (scope.owner_cursor(hidden.owner), &access::REGION_MIB));
    for (need, (cursor, key)) in config.needs().iter().zip(declared.chain(private)) {
        need.check(cursor, key);
    }
    Some(config)
}

/// Reads every table, so that every finding is made, before the first refused one ends the reading.
fn read_tables(scope: &Scope<'_>, path: &Path) -> Option<Config> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let switch = scope.switch.as_ref().map(Switch::read);
    let mut files = Files::new();
    let domains = all(scope.domains.iter().map(|(cursor, name)| Domain::read(cursor, name, &mut files)));
    let mut devices = Devices::new();
    let declared = scope.ports.cursors.len() - scope.nics.len();
    let ports = all((0..)
        .zip(scope.ports.iter())
        .take(declared)
        .map(|(id, (cursor, name))| Port::read(cursor, PortId(id), name, scope, &mut devices)));
    let mut macs = Macs::new();
    let nics = all(scope
        .nics
        .iter()
        .map(|place| nic::read(&scope.ports.cursors[place.port.index()], *place, scope, &mut macs)));
    let services = all((0..)
        .zip(scope.services.iter())
        .map(|(id, (cursor, name))| Service::read(cursor, ServiceId(id), name, scope)));
    let chains = all((0..)
        .zip(scope.chains.iter())
        .map(|(id, (cursor, name))| Chain::read(cursor, ChainId(id), name, scope)))
    .map(passage::in_order);
    let rules = all(scope.rules.iter().map(|cursor| Rule::read(cursor, scope)));
    let edges = all(scope.edges.iter().map(|cursor| Edge::read(cursor, scope)));
    let policies = all(scope.policies.iter().map(|cursor| Policy::read(cursor, scope)));
    let mut next_endpoint = 0;
    let vms = all((0..).map(VmId).zip(scope.vm_tables.iter().zip(scope.vms.iter())).map(
        |(id, (owner, (_, name)))| {
            Vm::read(owner, (id, name), scope, take_ids(&mut next_endpoint, owner), folder)
        },
    ));
    let processes =
        all(scope.process_tables.iter().zip(scope.processes.iter()).map(|(owner, (_, name))| {
            Process::read(owner, name, scope, take_ids(&mut next_endpoint, owner))
        }));
    Some(Config {
        file: path.to_owned(),
        switch: switch??,
        domains: domains?,
        ports: ports.zip(nics).map(|(ports, nics)| [ports, nics].concat())?,
        services: services?,
        chains: chains?,
        rules: rules?,
        edges: edges?,
        vms: vms?,
        processes: processes?,
        policies: policies?,
    })
}

/// Unlike collecting an `Option`, asks for every element before it gives up.
fn all<T>(read: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = read.collect();
    read.into_iter().collect()
}

/// The id of an owner's first endpoint. The limits of the tables keep the count within 16 bits.
fn take_ids(next: &mut u16, owner: &OwnerTables<'_>) -> u16 {
    let first = *next;
    *next = first.saturating_add(u16::try_from(owner.endpoints.len()).unwrap_or(u16::MAX));
    first
}

impl Config {
    /// Every endpoint in the order of its id, with its owner, domain, service and quota.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointListing<'_>> {
        let hidden = self.hidden_domains();
        let places = |owner, domain| {
            let private = hidden.iter().find(|hidden| hidden.owner == owner);
            (owner, domain, private.map_or(domain, |hidden| hidden.id))
        };
        let vms = (0..).zip(&self.vms).flat_map(|(id, vm)| {
            let own: Vec<&Endpoint> = vm.endpoints.iter().map(|endpoint| &endpoint.endpoint).collect();
            self.listings(places(Owner::Vm(VmId(id)), vm.domain), &vm.name, own)
        });
        let processes = (0..).zip(&self.processes).flat_map(|(id, process)| {
            let own = process.endpoints.iter().collect();
            self.listings(places(Owner::Process(ProcessId(id)), process.domain), &process.name, own)
        });
        vms.chain(processes).collect()
    }

    fn listings<'c>(
        &'c self,
        (owner, domain, region): (Owner, DomainId, DomainId),
        owner_name: &'c str,
        own: Vec<&'c Endpoint>,
    ) -> Vec<EndpointListing<'c>> {
        let listing = |(position, endpoint): (u16, &&'c Endpoint)| {
            let twice = own.iter().filter(|other| other.service == endpoint.service).count() > 1;
            let service = &self.services[endpoint.service.index()].name;
            let name = if twice {
                format!("{owner_name}/{service}#{position}")
            } else {
                format!("{owner_name}/{service}")
            };
            EndpointListing { endpoint, owner, owner_name, position, domain, region, name }
        };
        (0..).zip(&own).map(listing).collect()
    }

    /// How many references the endpoints of an owner may have, if it observes by reference.
    #[must_use]
    pub fn pins(&self, owner: Owner) -> Option<Pins> {
        match owner {
            Owner::Vm(id) => self.vms.get(id.index())?.pins,
            Owner::Process(id) => self.processes.get(id.index())?.pins,
        }
    }

    /// What each domain needs at least, in the order of their ids: the declared ones, then the hidden ones.
    #[must_use]
    pub fn needs(&self) -> Vec<DomainNeed> {
        DomainNeed::all(self)
    }

    /// The folder that relative paths in the file count from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }
}

macro_rules! lookups {
    ($($(#[$doc:meta])* $method:ident in $list:ident gives $id:ident, $item:ident;)+) => {
        impl Config {$(
            $(#[$doc])*
            #[must_use]
            pub fn $method(&self, name: &str) -> Option<($id, &$item)> {
                (0..).map($id).zip(&self.$list).find(|(_, item)| item.name == name)
            }
        )+}
    };
}

lookups! {
    /// The domain of this name.
    domain_named in domains gives DomainId, Domain;
    /// The port of this name.
    port_named in ports gives PortId, Port;
    /// The service of this name.
    service_named in services gives ServiceId, Service;
    /// The chain of this name.
    chain_named in chains gives ChainId, Chain;
    /// The VM of this name.
    vm_named in vms gives VmId, Vm;
    /// The process of this name.
    process_named in processes gives ProcessId, Process;
}
