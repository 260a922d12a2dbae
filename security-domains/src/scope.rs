//! Everything that a name can refer to: the tables of the document, their names, and whose domain is what.

use crate::access::Access;
use crate::book::Place;
use crate::config::Owner;
use crate::cursor::{Cursor, quoted};
use crate::domain;
use crate::finding::Kind;
use crate::ids::{ChainId, DomainId, PortId, ServiceId, VmId};
use crate::key::{Key, Presence, Table};
use crate::names::{NameSpace, NameTable};
use crate::nic::NicPlace;
use crate::passage::{self, Passage};
use crate::{chain, edge, endpoint, policy, port, process, rule, service, switch, vm};

macro_rules! tables {
    ($name:ident, $key:literal, $table:expr, $min:literal..=$max:literal, $doc:literal) => {
        const $name: Key = Key {
            name: $key,
            form: crate::form::Form::Tables { of: &$table, min: $min, max: $max },
            presence: if $min > 0 { Presence::Needed } else { Presence::Empty },
            doc: $doc,
        };
    };
}

const SWITCH: Key = Key {
    name: "switch",
    form: crate::form::Form::Table(&switch::TABLE),
    presence: Presence::Needed,
    doc: "The switch process.",
};
tables!(DOMAIN, "domain", domain::TABLE, 1..=64, "Security domains.");
// DPDK is built for 32 ports.
tables!(PORT, "port", port::TABLE, 0..=32, "Edges of the switch.");
tables!(SERVICE, "service", service::TABLE, 0..=256, "Named roles that NFs fill.");
tables!(CHAIN, "chain", chain::TABLE, 0..=256, "Services in the order in which packets visit them.");
tables!(RULE, "rule", rule::TABLE, 0..=4096, "Which packets take another chain; the first match wins.");
tables!(EDGE, "edge", edge::TABLE, 0..=4096, "Packets that may cross from one domain into another.");
tables!(VM, "vm", vm::TABLE, 0..=256, "Guests.");
tables!(PROCESS, "process", process::TABLE, 0..=256, "NFs that run as host processes.");
tables!(POLICY, "policy", policy::TABLE, 0..=64, "What violations lead to.");

/// Endpoints of all VMs and processes together: lcores keep them as bits of a fixed set.
const ENDPOINTS_MAX: usize = 1024;

/// The document.
pub(crate) const TABLE: Table = Table {
    header: "",
    doc: "A configuration of the switch.",
    keys: &[&SWITCH, &DOMAIN, &PORT, &SERVICE, &CHAIN, &RULE, &EDGE, &VM, &PROCESS, &POLICY],
};

/// The tables of one kind and their names.
pub(crate) struct Named<'d> {
    pub(crate) cursors: Vec<Cursor<'d>>,
    pub(crate) names: NameTable,
}

impl<'d> Named<'d> {
    fn gather(root: &Cursor<'d>, key: &Key, space: &mut NameSpace) -> Self {
        let cursors = root.many(key);
        let names = NameTable::gather(&cursors, space);
        Self { cursors, names }
    }

    /// Each table with its name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Cursor<'d>, Option<&str>)> {
        self.cursors.iter().enumerate().map(|(position, cursor)| (cursor, self.names.name(position)))
    }
}

/// A VM or process and its endpoints.
pub(crate) struct OwnerTables<'d> {
    pub(crate) cursor: Cursor<'d>,
    pub(crate) endpoints: Vec<Cursor<'d>>,
    pub(crate) domain: Option<DomainId>,
    pub(crate) access: Option<Access>,
}

/// What the first endpoint of a service decides: its domain, and whether it observes.
pub(crate) struct ServiceHome {
    pub(crate) domain: Option<DomainId>,
    pub(crate) observes: bool,
    pub(crate) first_owner: String,
}

/// Where packets come from, and the service that they skipped on the way because it fails open.
#[derive(Clone, Copy)]
pub(crate) struct Whence<'n> {
    pub(crate) domain: Option<DomainId>,
    pub(crate) skipped: Option<&'n str>,
}

/// What names refer to.
pub(crate) struct Scope<'d> {
    pub(crate) switch: Option<Cursor<'d>>,
    pub(crate) domains: Named<'d>,
    pub(crate) ports: Named<'d>,
    pub(crate) services: Named<'d>,
    pub(crate) chains: Named<'d>,
    pub(crate) rules: Vec<Cursor<'d>>,
    pub(crate) edges: Vec<Cursor<'d>>,
    pub(crate) policies: Vec<Cursor<'d>>,
    pub(crate) vms: Named<'d>,
    pub(crate) processes: Named<'d>,
    pub(crate) vm_tables: Vec<OwnerTables<'d>>,
    pub(crate) process_tables: Vec<OwnerTables<'d>>,
    /// The NICs of VMs, which are the last of the ports.
    pub(crate) nics: Vec<NicPlace>,
    /// The hops of paths that lead through untrusted VMs.
    pub(crate) passages: Vec<Passage>,
    /// Whether that is all of them.
    pub(crate) passages_resolve: bool,
    /// Domains of each port, the one for unmatched packets first; none where they are not known.
    pub(crate) port_domains: Vec<Vec<DomainId>>,
    /// From which domain into which one an edge is drawn.
    edge_domains: Vec<(DomainId, DomainId)>,
    /// Domain of each chain: that of its first service, or of its egress if it has none.
    pub(crate) chain_domains: Vec<Option<DomainId>>,
    /// Domain of each service: that of its first endpoint. `None`: nobody provides it.
    pub(crate) service_homes: Vec<Option<ServiceHome>>,
    /// Whether every endpoint names a service that exists.
    pub(crate) endpoints_resolve: bool,
}

impl<'d> Scope<'d> {
    pub(crate) fn gather(root: &Cursor<'d>) -> Self {
        let switch = root.one(&SWITCH);
        let domains = Named::gather(root, &DOMAIN, &mut NameSpace::new("domains"));
        // A verdict names services and ports alike; the endpoint socket names VMs and processes alike.
        let mut targets = NameSpace::new("ports and services");
        let mut ports = Named::gather(root, &PORT, &mut targets);
        let services = Named::gather(root, &SERVICE, &mut targets);
        let chains = Named::gather(root, &CHAIN, &mut NameSpace::new("chains"));
        let mut owners = NameSpace::new("VMs and processes");
        let vms = Named::gather(root, &VM, &mut owners);
        let processes = Named::gather(root, &PROCESS, &mut owners);

        let declared = ports.cursors.len();
        let nics = gather_nics(&vms, &mut ports);
        let passages = passage::gather(&chains, &ports, declared);
        let hops = chains.cursors.iter().flat_map(|cursor| cursor.peek_texts(&chain::PATH)).flatten();
        let passages_resolve = hops.filter(|text| passage::is_passage(text)).count() == passages.len();
        let vm_tables = owner_tables(&vms, &vm::ENDPOINT, &domains);
        let process_tables = owner_tables(&processes, &process::ENDPOINT, &domains);
        refuse_too_many_endpoints(&vm_tables, &process_tables);
        // A NIC has no such keys: it is of the domain of its VM.
        let mut port_domains: Vec<Vec<DomainId>> =
            ports.cursors.iter().map(|cursor| port_domains(cursor, &domains)).collect();
        for nic in &nics {
            port_domains[nic.port.index()] = vm_tables[nic.vm.index()].domain.into_iter().collect();
        }
        let edges = root.many(&EDGE);
        let edge_domains = edges.iter().filter_map(|cursor| edge_domains(cursor, &domains)).collect();
        let service_homes = service_homes(&services, vm_tables.iter().chain(&process_tables));
        let chain_domain = |cursor: &Cursor<'d>| {
            if cursor.is_empty_list(&chain::PATH) {
                let egress = cursor.peek_reference(&chain::EGRESS, &ports.names)?;
                return port_domains[usize::from(egress)].first().copied();
            }
            let first = (*cursor.peek_texts(&chain::PATH).first()?)?;
            if let Some((entry, _)) = first.split_once(passage::THROUGH) {
                return port_domains[usize::from(ports.names.find(entry)?)].first().copied();
            }
            service_homes[usize::from(services.names.find(first)?)].as_ref()?.domain
        };
        let chain_domains = chains.cursors.iter().map(chain_domain).collect();
        let endpoints_resolve = vm_tables
            .iter()
            .chain(&process_tables)
            .flat_map(|owner| &owner.endpoints)
            .all(|cursor| cursor.peek_reference(&endpoint::SERVICE, &services.names).is_some());
        Self {
            switch,
            domains,
            ports,
            services,
            chains,
            rules: root.many(&RULE),
            edges,
            policies: root.many(&POLICY),
            vms,
            processes,
            vm_tables,
            process_tables,
            nics,
            passages,
            passages_resolve,
            port_domains,
            edge_domains,
            chain_domains,
            service_homes,
            endpoints_resolve,
        }
    }

    /// The chain of packets that enter by a port and match no rule, if the file names one that there is.
    pub(crate) fn chain_at(&self, port: PortId) -> Option<ChainId> {
        let passage = self.passages.iter().find(|passage| passage.exit == port);
        let named = || self.ports.cursors[port.index()].peek_reference(&port::CHAIN, &self.chains.names);
        passage.map(|passage| passage.rest).or_else(|| named().map(ChainId))
    }

    /// The names of all NICs of VMs.
    pub(crate) fn nic_names(&self) -> impl Iterator<Item = &str> {
        self.nics.iter().filter_map(|nic| self.ports.names.name(nic.port.index()))
    }

    /// Domain of a service, where it is known.
    pub(crate) fn service_domain(&self, service: u16) -> Option<DomainId> {
        self.service_homes[usize::from(service)].as_ref()?.domain
    }

    /// The table of a VM or process.
    pub(crate) fn owner_cursor(&self, owner: Owner) -> &Cursor<'d> {
        match owner {
            Owner::Vm(id) => &self.vms.cursors[id.index()],
            Owner::Process(id) => &self.processes.cursors[id.index()],
        }
    }

    /// Name of a domain; domains that others refer to have one.
    pub(crate) fn domain_name(&self, domain: DomainId) -> &str {
        self.domains.names.name(domain.index()).unwrap_or_default()
    }

    /// Whether a packet gets from a domain to a thing: the thing is there, or an edge leads to it (to its
    /// first domain). A finding if not, silence if either is unknown.
    pub(crate) fn leads<'n>(
        &self,
        cursor: &Cursor<'_>,
        place: &Place,
        thing: &str,
        (whence, to): (Whence<'_>, &[DomainId]),
        candidates: impl Iterator<Item = &'n str>,
    ) -> bool {
        let (Some(from), Some(&first)) = (whence.domain, to.first()) else { return true };
        if to.contains(&from) || self.edge_domains.contains(&(from, first)) {
            return true;
        }
        let (from, first) = (self.domain_name(from), self.domain_name(first));
        let skipped = whence
            .skipped
            .map(|name| format!(" (while nobody serves {name}, packets skip it)"))
            .unwrap_or_default();
        let rule = format!(
            "must be {thing} of domain {from}{skipped}, or there must be an [[edge]] with from = \"{from}\" and to = \"{first}\""
        );
        cursor.refuse_at(place, Kind::Conflict, rule, quoted(candidates.take(2)));
        false
    }

    /// Whether packets that enter one of these domains get to the start of a chain, from the first over an
    /// edge; a finding if not.
    pub(crate) fn chain_starts_at(
        &self,
        cursor: &Cursor<'_>,
        place: &Place,
        chain: ChainId,
        domains: &[DomainId],
    ) -> bool {
        let mut skipped = None;
        for to in self.entries_of(chain) {
            if !domains.iter().any(|domain| to.1.contains(domain)) {
                let whence = Whence { domain: domains.first().copied(), skipped };
                let candidates = domains.iter().flat_map(|&domain| self.chains_of(domain));
                if !self.leads(cursor, place, "a chain", (whence, &to.1), candidates) {
                    return false;
                }
            }
            skipped = to.0.or(skipped);
        }
        true
    }

    /// Where packets may enter a chain: its first service, each one behind services that all fail open, and
    /// its egress if all do. Each with the name of the service and its domains.
    fn entries_of(&self, chain: ChainId) -> Vec<(Option<&str>, Vec<DomainId>)> {
        let cursor = &self.chains.cursors[chain.index()];
        let path = cursor.peek_texts(&chain::PATH);
        let mut entries = Vec::new();
        if path.is_empty() && !cursor.is_empty_list(&chain::PATH) {
            return entries;
        }
        for text in path {
            let text = text.unwrap_or_default();
            // Nobody skips an untrusted VM.
            if let Some((entry, _)) = text.split_once(passage::THROUGH) {
                let port =
                    self.ports.names.find(entry).map(|port| self.port_domains[usize::from(port)].clone());
                entries.extend(port.map(|domains| (None, domains)));
                return entries;
            }
            let Some(service) = self.services.names.find(text) else { return Vec::new() };
            let name = self.services.names.name(usize::from(service));
            entries.push((name, self.service_domain(service).into_iter().collect()));
            if !self.fails_open(service) {
                return entries;
            }
        }
        let egress = cursor.peek_reference(&chain::EGRESS, &self.ports.names);
        entries.extend(egress.map(|port| (None, self.port_domains[usize::from(port)].clone())));
        entries
    }

    /// Whether packets skip a service while nobody serves it.
    pub(crate) fn fails_open(&self, service: u16) -> bool {
        let spelt = self.services.cursors[usize::from(service)].spelt(&service::WHEN_DEAD);
        spelt == Some(service::WhenDead::Open.word())
    }

    /// Whether a service observes.
    pub(crate) fn observes(&self, service: u16) -> bool {
        self.service_homes[usize::from(service)].as_ref().is_some_and(|home| home.observes)
    }

    /// Whether packets that go to a service come back; a finding if not.
    pub(crate) fn is_hop(&self, cursor: &Cursor<'_>, place: &Place, service: u16) -> bool {
        let is_hop = !self.observes(service);
        if !is_hop {
            let rule = "must be a service whose packets come back, not one of observers";
            cursor.refuse_at(place, Kind::Conflict, rule, Vec::new());
        }
        is_hop
    }

    /// Whether a service may be shown the packets of a chain; a finding if not.
    pub(crate) fn may_observe(
        &self,
        cursor: &Cursor<'_>,
        place: &Place,
        service: ServiceId,
        chain: ChainId,
    ) -> bool {
        let Some(home) = &self.service_homes[service.index()] else { return true };
        let start = self.chain_domains[chain.index()];
        let candidates = || start.into_iter().flat_map(|domain| self.services_of(domain, true)).take(2);
        if !home.observes {
            let rule = "must be a service of observers (access = \"observer\" or \"copy-observer\")";
            cursor.refuse_at(place, Kind::Conflict, rule, quoted(candidates()));
            return false;
        }
        if let (Some(start), Some(found)) = (start, home.domain)
            && start != found
        {
            let rule = format!(
                "must be an observer service of domain {}, where the chain starts, not of {}",
                self.domain_name(start),
                self.domain_name(found),
            );
            cursor.refuse_at(place, Kind::Conflict, rule, quoted(candidates()));
            return false;
        }
        true
    }

    /// The services of a domain that may be hops.
    pub(crate) fn hops_of(&self, domain: DomainId) -> impl Iterator<Item = &str> {
        self.services_of(domain, false)
    }

    /// The services of a domain, those that may be hops or those that observe.
    pub(crate) fn services_of(&self, domain: DomainId, observes: bool) -> impl Iterator<Item = &str> {
        let of_domain = move |&position: &usize| {
            let home = self.service_homes[position].as_ref();
            home.is_some_and(|home| home.domain == Some(domain) && home.observes == observes)
        };
        (0..self.service_homes.len())
            .filter(of_domain)
            .filter_map(|position| self.services.names.name(position))
    }

    /// The chains that start in a domain.
    pub(crate) fn chains_of(&self, domain: DomainId) -> impl Iterator<Item = &str> {
        (0..self.chain_domains.len())
            .filter(move |&position| self.chain_domains[position] == Some(domain))
            .filter_map(|position| self.chains.names.name(position))
    }

    /// The ports of a domain, shared or not.
    pub(crate) fn ports_of(&self, domain: DomainId) -> impl Iterator<Item = &str> {
        (0..self.port_domains.len())
            .filter(move |&position| self.port_domains[position].contains(&domain))
            .filter_map(|position| self.ports.names.name(position))
    }
}

/// Adds the NICs of every VM to the ports.
fn gather_nics<'d>(vms: &Named<'d>, ports: &mut Named<'d>) -> Vec<NicPlace> {
    let mut places = Vec::new();
    for (vm, cursor) in (0..).map(VmId).zip(&vms.cursors) {
        let nics = cursor.many(&vm::NIC);
        let names = NameTable::gather(&nics, &mut NameSpace::new("NICs of the VM"));
        for (position, nic) in nics.into_iter().enumerate() {
            ports.names.push_joint(vms.names.name(vm.index()), names.name(position));
            // The limits of the tables keep the count within 16 bits.
            places
                .push(NicPlace { vm, port: PortId(u16::try_from(ports.cursors.len()).unwrap_or(u16::MAX)) });
            ports.cursors.push(nic);
        }
    }
    places
}

fn owner_tables<'d>(owners: &Named<'d>, endpoint: &Key, domains: &Named<'d>) -> Vec<OwnerTables<'d>> {
    let tables = |cursor: &Cursor<'d>| OwnerTables {
        cursor: cursor.clone(),
        endpoints: cursor.many(endpoint),
        domain: cursor.peek_reference(&domain::DOMAIN, &domains.names).map(DomainId),
        access: Access::peek(cursor),
    };
    owners.cursors.iter().map(tables).collect()
}

fn port_domains(cursor: &Cursor<'_>, domains: &Named<'_>) -> Vec<DomainId> {
    let one = cursor.peek_reference(&port::DOMAIN, &domains.names);
    let ids = one.map_or_else(|| cursor.peek_references(&port::DOMAINS, &domains.names), |one| vec![one]);
    ids.into_iter().map(DomainId).collect()
}

fn edge_domains(cursor: &Cursor<'_>, domains: &Named<'_>) -> Option<(DomainId, DomainId)> {
    let end = |key| cursor.peek_reference(key, &domains.names).map(DomainId);
    Some((end(&edge::FROM)?, end(&edge::TO)?))
}

/// Writes down which VM or process takes the count of endpoints beyond the limit.
fn refuse_too_many_endpoints(vms: &[OwnerTables<'_>], processes: &[OwnerTables<'_>]) {
    let owners = vms.iter().map(|owner| (owner, &vm::ENDPOINT));
    let owners = owners.chain(processes.iter().map(|owner| (owner, &process::ENDPOINT)));
    let mut count = 0;
    for (owner, key) in owners {
        let within = count <= ENDPOINTS_MAX;
        count += owner.endpoints.len();
        if within && count > ENDPOINTS_MAX {
            let rule =
                format!("must keep the file within {ENDPOINTS_MAX} endpoints, which it takes to {count}");
            owner.cursor.refuse(key, Kind::Conflict, rule, Vec::new());
        }
    }
}

fn service_homes<'s, 'd: 's>(
    services: &Named<'d>,
    owners: impl Iterator<Item = &'s OwnerTables<'d>>,
) -> Vec<Option<ServiceHome>> {
    let mut homes: Vec<Option<ServiceHome>> = services.cursors.iter().map(|_| None).collect();
    for owner in owners {
        for cursor in &owner.endpoints {
            let Some(service) = cursor.peek_reference(&endpoint::SERVICE, &services.names) else { continue };
            homes[usize::from(service)].get_or_insert_with(|| ServiceHome {
                domain: owner.domain,
                observes: owner.access.is_some_and(Access::observes),
                first_owner: owner.cursor.path().to_owned(),
            });
        }
    }
    homes
}
