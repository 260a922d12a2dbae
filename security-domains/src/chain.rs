//! A chain: the services that packets visit in order, then the port where they leave.

use serde::Serialize;
use toml_edit::Value;

use crate::book::Place;
use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::form::Form;
use crate::ids::{ChainId, DomainId, PortId, ServiceId};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::passage;
use crate::scope::{Scope, Whence};

const HOP: Form = Form::Hop;
const OBSERVER: Form = Form::Reference(&["service"]);
pub(crate) const PATH: Key = Key {
    name: "path",
    form: Form::List { of: &HOP, min: 0, max: 32 },
    presence: Presence::Needed,
    doc: "Services in the order in which packets visit them; from one domain to the next over an edge. `vm.in>out` leads through an untrusted VM, in by one of its NICs and out by another. Empty: straight to the egress.",
};
pub(crate) const EGRESS: Key = Key {
    name: "egress",
    form: Form::Reference(&["port"]),
    presence: Presence::Needed,
    doc: "The port where packets leave after the last service.",
};
const OBSERVERS: Key = Key {
    name: "observers",
    form: Form::List { of: &OBSERVER, min: 0, max: 8 },
    presence: Presence::Empty,
    doc: "Observer services that are shown each packet that enters the chain.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[chain]]",
    doc: "Services in order, then a port.",
    keys: &[&NAME, &PATH, &EGRESS, &OBSERVERS],
};

/// Services in order, then a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// The domain of its first service, or else of its egress: where its packets start.
    pub domain: DomainId,
    /// Services in the order in which packets visit them; a service may come twice.
    pub path: Vec<ServiceId>,
    /// Where packets leave after the last service.
    pub egress: PortId,
    /// Observer services that are shown each packet that enters, of the domain where it starts.
    pub observers: Vec<ServiceId>,
}

/// A part of a path: services, and the NIC behind it where packets go through an untrusted VM.
#[derive(Default)]
struct Stretch {
    path: Vec<ServiceId>,
    /// Where it leads: into a VM, and out of it.
    through: Option<(PortId, PortId)>,
}

impl Chain {
    /// The chain of a table, and one behind each of its passages.
    pub(crate) fn read(
        cursor: &Cursor<'_>,
        id: ChainId,
        name: Option<&str>,
        scope: &Scope<'_>,
    ) -> Option<Vec<Self>> {
        let (stretches, last) = read_path(cursor, id, scope);
        let egress = read_egress(cursor, &last, scope);
        let observers = read_observers(cursor, id, scope);
        let (name, egress, mut observers) = (name?, egress?, observers?);
        let mut domain = Some(scope.chain_domains[id.index()]?);
        let mut next_name = name.to_owned();
        let mut chains = Vec::new();
        for Stretch { path, through } in stretches? {
            let egress = through.map_or(egress, |(entry, _)| entry);
            let starts = || match path.first() {
                Some(service) => scope.service_domain(service.0),
                None => scope.port_domains[egress.index()].first().copied(),
            };
            let own_name = through.map(|(_, exit)| passage::rest_name(name, exit, scope));
            let domain = domain.take().or_else(starts)?;
            let name = std::mem::replace(&mut next_name, own_name.unwrap_or_default());
            chains.push(Self { name, domain, path, egress, observers: std::mem::take(&mut observers) });
        }
        Some(chains)
    }
}

/// The path, part by part, and whence packets come that have passed or skipped its last hop.
fn read_path<'s>(
    cursor: &Cursor<'_>,
    id: ChainId,
    scope: &'s Scope<'_>,
) -> (Option<Vec<Stretch>>, Vec<Whence<'s>>) {
    let mut walk = Walk { cursor, scope, stretches: Some(vec![Stretch::default()]), before: Vec::new() };
    let Some(values) = cursor.list(&PATH) else { return (None, Vec::new()) };
    for (position, (place, value)) in values.into_iter().enumerate() {
        match value.as_str().filter(|text| passage::is_passage(text)) {
            Some(text) => walk.go_through((id, position), &place, text),
            None => walk.visit(&place, value),
        }
    }
    (walk.stretches, walk.before)
}

/// A walk along a path.
struct Walk<'w, 's, 'd> {
    cursor: &'w Cursor<'w>,
    scope: &'s Scope<'d>,
    /// None behind the first finding.
    stretches: Option<Vec<Stretch>>,
    /// Whence packets come.
    before: Vec<Whence<'s>>,
}

impl Walk<'_, '_, '_> {
    /// A hop through an untrusted VM.
    fn go_through(&mut self, at: (ChainId, usize), place: &Place, text: &str) {
        let Self { cursor, scope, .. } = *self;
        let found = passage::read(cursor, at, (place, text), scope);
        let legal = found.filter(|passage| {
            let to = &scope.port_domains[passage.entry.index()];
            leads(cursor, place, "a port", (&self.before, to, scope), |domain| scope.ports_of(domain))
        });
        match (legal, &mut self.stretches) {
            (Some(passage), Some(stretches)) => {
                stretches.iter_mut().last().into_iter().for_each(|stretch| {
                    stretch.through = Some((passage.entry, passage.exit));
                });
                stretches.push(Stretch::default());
            }
            _ => self.stretches = None,
        }
        let domain = found.and_then(|found| scope.port_domains[found.exit.index()].first().copied());
        self.before = vec![Whence { domain, skipped: None }];
    }

    /// A service.
    fn visit(&mut self, place: &Place, value: &Value) {
        let Self { cursor, scope, .. } = *self;
        let service =
            cursor.resolve(place, value, &HOP, &[&scope.services.names]).map(|(_, service)| service);
        let here = service.and_then(|service| scope.service_domain(service));
        let legal = service.filter(|&service| {
            let way = (&self.before[..], here.as_slice(), scope);
            scope.is_hop(cursor, place, service)
                && leads(cursor, place, "a service", way, |domain| scope.hops_of(domain))
        });
        match (legal, self.stretches.as_mut().and_then(|stretches| stretches.last_mut())) {
            (Some(service), Some(stretch)) => stretch.path.push(ServiceId(service)),
            _ => self.stretches = None,
        }
        let before = std::mem::take(&mut self.before);
        if let Some(open) = service.filter(|&service| scope.fails_open(service)) {
            let skipped = scope.services.names.name(usize::from(open));
            self.before = before.into_iter().map(|whence| Whence { skipped, ..whence }).collect();
        }
        self.before.push(Whence { domain: here, skipped: None });
    }
}

/// Whether packets get from each of these places to the next; a finding if not. `candidates` of a domain could be it.
fn leads<'n, C: Iterator<Item = &'n str>>(
    cursor: &Cursor<'_>,
    place: &Place,
    thing: &str,
    (before, to, scope): (&[Whence<'_>], &[DomainId], &Scope<'_>),
    candidates: impl Fn(DomainId) -> C,
) -> bool {
    before.iter().all(|&whence| {
        let candidates = whence.domain.into_iter().flat_map(&candidates);
        scope.leads(cursor, place, thing, (whence, to), candidates)
    })
}

fn read_egress(cursor: &Cursor<'_>, last: &[Whence<'_>], scope: &Scope<'_>) -> Option<PortId> {
    let egress = PortId(cursor.reference(&EGRESS, &scope.ports.names)?);
    let to = &scope.port_domains[egress.index()];
    let place = cursor.place(&EGRESS);
    leads(cursor, &place, "a port", (last, to, scope), |domain| scope.ports_of(domain)).then_some(egress)
}

fn read_observers(cursor: &Cursor<'_>, id: ChainId, scope: &Scope<'_>) -> Option<Vec<ServiceId>> {
    let mut observers = Some(Vec::new());
    for (place, value) in cursor.list(&OBSERVERS)? {
        let service = cursor.resolve(&place, value, &OBSERVER, &[&scope.services.names]);
        let legal = service
            .map(|(_, service)| ServiceId(service))
            .filter(|&service| scope.may_observe(cursor, &place, service, id));
        let Some(service) = legal else {
            observers = None;
            continue;
        };
        if observers.as_ref().is_some_and(|list: &Vec<ServiceId>| list.contains(&service)) {
            cursor.refuse_at(&place, Kind::Conflict, "must be listed once", Vec::new());
            observers = None;
        }
        observers.iter_mut().for_each(|list| list.push(service));
    }
    observers
}
