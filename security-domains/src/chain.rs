//! A chain: the services that packets visit in order, then the port where they leave.

use serde::Serialize;

use crate::cursor::Cursor;
use crate::form::Form;
use crate::ids::{DomainId, PortId, ServiceId};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::scope::Scope;

const HOP: Form = Form::Reference(&["service"]);
const PATH: Key = Key {
    name: "path",
    form: Form::List { of: &HOP, min: 1, max: 32 },
    presence: Presence::Needed,
    doc: "Services in the order in which packets visit them.",
};
pub(crate) const EGRESS: Key = Key {
    name: "egress",
    form: Form::Reference(&["port"]),
    presence: Presence::Needed,
    doc: "The port where packets leave after the last service.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[chain]]",
    doc: "Services in order, then a port; all in one domain.",
    keys: &[&NAME, &PATH, &EGRESS],
};

/// Services in order, then a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// The domain of its services and of its egress.
    pub domain: DomainId,
    /// Services in the order in which packets visit them; a service may come twice.
    pub path: Vec<ServiceId>,
    /// Where packets leave after the last service.
    pub egress: PortId,
}

impl Chain {
    pub(crate) fn read(cursor: &Cursor<'_>, name: Option<&str>, scope: &Scope<'_>) -> Option<Self> {
        let egress = cursor.reference(&EGRESS, &scope.ports.names).map(PortId);
        let domain = egress.and_then(|port| scope.port_domains[port.index()]);
        let path = read_path(cursor, domain, scope);
        Some(Self { name: name?.to_owned(), domain: domain?, path: path?, egress: egress? })
    }
}

fn read_path(cursor: &Cursor<'_>, domain: Option<DomainId>, scope: &Scope<'_>) -> Option<Vec<ServiceId>> {
    let mut path = Some(Vec::new());
    for (place, value) in cursor.list(&PATH)? {
        let service = cursor.resolve(&place, value, &HOP, &[&scope.services.names]);
        let legal = service.filter(|&(_, service)| {
            let candidates = domain.into_iter().flat_map(|domain| scope.services_of(domain));
            let found = scope.service_domain(service);
            scope.same_domain(cursor, &place, "a service", (found, domain), candidates)
        });
        match legal {
            Some((_, service)) => path.iter_mut().for_each(|path| path.push(ServiceId(service))),
            None => path = None,
        }
    }
    path
}
