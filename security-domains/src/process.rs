//! A process: NFs that run on the host or in a container; the user starts it.

use serde::Serialize;

use crate::access::{Access, Grant, KEYS, Pins, refuse_untrusted};
use crate::domain::DOMAIN;
use crate::endpoint::{CREDIT, Endpoint, LIMIT, QUOTA, RING_SLOTS, SERVICE};
use crate::form::Form;
use crate::ids::{DomainId, EndpointId};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::scope::{OwnerTables, Scope};

pub(crate) const ENDPOINT: Key = Key {
    name: "endpoint",
    form: Form::Tables { of: &ENDPOINT_TABLE, min: 1, max: 64 },
    presence: Presence::Needed,
    doc: "Its NFs.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[process]]",
    doc: "A host process or container with NFs; the user starts it.",
    keys: &[&NAME, &DOMAIN, KEYS[0], KEYS[1], KEYS[2], KEYS[3], &ENDPOINT],
};
const ENDPOINT_TABLE: Table = Table {
    header: "[[process.endpoint]]",
    doc: "One NF in the process above.",
    keys: &[&SERVICE, &QUOTA, &RING_SLOTS, &CREDIT, &LIMIT.pps, &LIMIT.mbit],
};

/// A host process with NFs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// What it calls itself on the endpoint socket.
    pub name: String,
    /// The domain it belongs to.
    pub domain: DomainId,
    /// What it may do with the packet memory of its domain.
    pub access: Access,
    /// Its private packet memory, if its access gives it any.
    pub region_mib: Option<u32>,
    /// Its references, if it is an observer.
    pub pins: Option<Pins>,
    /// Its NFs; at least one.
    pub endpoints: Vec<Endpoint>,
}

impl Process {
    /// `first_endpoint` is the id of its first endpoint.
    pub(crate) fn read(
        owner: &OwnerTables<'_>,
        name: Option<&str>,
        scope: &Scope<'_>,
        first_endpoint: u16,
    ) -> Option<Self> {
        let domain = owner.cursor.reference(&DOMAIN, &scope.domains.names).map(DomainId);
        let is_untrusted = refuse_untrusted(&owner.cursor, owner.access);
        let grant = Grant::read(&owner.cursor).filter(|_| !is_untrusted);
        let endpoints: Vec<Option<Endpoint>> = (first_endpoint..)
            .zip(&owner.endpoints)
            .map(|(id, cursor)| Endpoint::read(cursor, EndpointId(id), owner, scope))
            .collect();
        let Grant { access, region_mib, pins } = grant?;
        let endpoints = endpoints.into_iter().collect::<Option<_>>();
        Some(Self {
            name: name?.to_owned(),
            domain: domain?,
            access,
            region_mib,
            pins,
            endpoints: endpoints?,
        })
    }
}
