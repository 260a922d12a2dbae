//! A chain: the services that packets visit in order, then the port where they leave.

use serde::Serialize;

use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::form::Form;
use crate::ids::{ChainId, DomainId, PortId, ServiceId};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::scope::{Scope, Whence};

const HOP: Form = Form::Reference(&["service"]);
pub(crate) const PATH: Key = Key {
    name: "path",
    form: Form::List { of: &HOP, min: 0, max: 32 },
    presence: Presence::Needed,
    doc: "Services in the order in which packets visit them; from one domain to the next over an edge. Empty: straight to the egress.",
};
pub(crate) const EGRESS: Key = Key {
    name: "egress",
    form: Form::Reference(&["port"]),
    presence: Presence::Needed,
    doc: "The port where packets leave after the last service.",
};
const OBSERVERS: Key = Key {
    name: "observers",
    form: Form::List { of: &HOP, min: 0, max: 8 },
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

impl Chain {
    pub(crate) fn read(
        cursor: &Cursor<'_>,
        id: ChainId,
        name: Option<&str>,
        scope: &Scope<'_>,
    ) -> Option<Self> {
        let (path, last) = read_path(cursor, scope);
        let egress = read_egress(cursor, &last, scope);
        let observers = read_observers(cursor, id, scope);
        Some(Self {
            name: name?.to_owned(),
            domain: scope.chain_domains[id.index()]?,
            path: path?,
            egress: egress?,
            observers: observers?,
        })
    }
}

/// The path, and whence packets come that have passed or skipped its last service.
fn read_path<'s>(cursor: &Cursor<'_>, scope: &'s Scope<'_>) -> (Option<Vec<ServiceId>>, Vec<Whence<'s>>) {
    let mut path = Some(Vec::new());
    let mut before: Vec<Whence<'s>> = Vec::new();
    for (place, value) in cursor.list(&PATH).unwrap_or_else(|| {
        path = None;
        Vec::new()
    }) {
        let service =
            cursor.resolve(&place, value, &HOP, &[&scope.services.names]).map(|(_, service)| service);
        let here = service.and_then(|service| scope.service_domain(service));
        let legal = service.filter(|&service| {
            scope.is_hop(cursor, &place, service)
                && before.iter().all(|&whence| {
                    let candidates = whence.domain.into_iter().flat_map(|domain| scope.hops_of(domain));
                    scope.leads(cursor, &place, "a service", (whence, here.as_slice()), candidates)
                })
        });
        match legal {
            Some(service) => path.iter_mut().for_each(|path| path.push(ServiceId(service))),
            None => path = None,
        }
        before = match service.filter(|&service| scope.fails_open(service)) {
            Some(open) => {
                let skipped = scope.services.names.name(usize::from(open));
                before.into_iter().map(|whence| Whence { skipped, ..whence }).collect()
            }
            None => Vec::new(),
        };
        before.push(Whence { domain: here, skipped: None });
    }
    (path, before)
}

fn read_egress(cursor: &Cursor<'_>, last: &[Whence<'_>], scope: &Scope<'_>) -> Option<PortId> {
    let egress = PortId(cursor.reference(&EGRESS, &scope.ports.names)?);
    let to = &scope.port_domains[egress.index()];
    let leads = last.iter().all(|&whence| {
        let candidates = whence.domain.into_iter().flat_map(|domain| scope.ports_of(domain));
        scope.leads(cursor, &cursor.place(&EGRESS), "a port", (whence, to), candidates)
    });
    leads.then_some(egress)
}

fn read_observers(cursor: &Cursor<'_>, id: ChainId, scope: &Scope<'_>) -> Option<Vec<ServiceId>> {
    let mut observers = Some(Vec::new());
    for (place, value) in cursor.list(&OBSERVERS)? {
        let service = cursor.resolve(&place, value, &HOP, &[&scope.services.names]);
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
