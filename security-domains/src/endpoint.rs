//! What every endpoint has, in a VM or in a process: its service and what it may hold.

use serde::Serialize;

use crate::access::{Access, PINNED_BUFFERS};
use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::form::{Form, Number};
use crate::ids::{EndpointId, ServiceId};
use crate::key::{Key, Presence};
use crate::limit::{Limit, LimitKeys};
use crate::scope::{OwnerTables, Scope};

pub(crate) const SERVICE: Key = Key {
    name: "service",
    form: Form::Reference(&["service"]),
    presence: Presence::Needed,
    doc: "The service that it is an instance of.",
};
pub(crate) const QUOTA: Key = Key {
    name: "quota_buffers",
    form: Form::Number(Number::between(1, 32_768)),
    presence: Presence::Number(512),
    doc: "Most buffers that it holds at once; each lcore lends it an even part.",
};
pub(crate) const RING_SLOTS: Key = Key {
    name: "ring_slots",
    form: Form::Number(Number::power_of_two(8, 32_768)),
    presence: Presence::Number(1024),
    doc: "Slots of each ring; a ring back to the host has at least as many as the quota.",
};
pub(crate) const CREDIT: Key = Key {
    name: "credit_buffers",
    form: Form::Number(Number::between(0, 32_768)),
    presence: Presence::Number(0),
    doc: "Empty buffers that it is lent at once, to make packets of its own; at most its quota.",
};

pub(crate) const LIMIT: LimitKeys = LimitKeys::new(
    "Most packets that it gives back in a second, drops aside; what is above is dropped as endpoint_rate.",
    "Most megabits that it gives back in a second, drops aside; what is above is dropped as endpoint_rate.",
);

/// One NF thread: its service and what it may hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Counted through the VMs in file order, then through the processes.
    pub id: EndpointId,
    /// The service that it is an instance of.
    pub service: ServiceId,
    /// Most buffers that it holds, or as an observer has references to, at once; it bounds each ring back to
    /// the host.
    pub quota_buffers: u32,
    /// Slots of each ring.
    pub ring_slots: u32,
    /// Empty buffers that it is lent at once.
    pub credit_buffers: u32,
    /// How much it may give back.
    #[serde(flatten)]
    pub limit: Limit,
}

impl Endpoint {
    pub(crate) fn read(
        cursor: &Cursor<'_>,
        id: EndpointId,
        owner: &OwnerTables<'_>,
        scope: &Scope<'_>,
    ) -> Option<Self> {
        let service = read_service(cursor, owner, scope);
        let quota_buffers = read_quota(cursor, owner);
        let ring_slots = cursor.number(&RING_SLOTS);
        let credit_buffers = read_credit(cursor, quota_buffers);
        let limit = Limit::read(cursor, &LIMIT);
        if owner.access.is_some_and(Access::observes) {
            refuse_giving(cursor)?;
        }
        Some(Self {
            id,
            service: service?,
            quota_buffers: quota_buffers?,
            ring_slots: ring_slots?,
            credit_buffers: credit_buffers?,
            limit: limit?,
        })
    }
}

fn read_service(cursor: &Cursor<'_>, owner: &OwnerTables<'_>, scope: &Scope<'_>) -> Option<ServiceId> {
    let service = cursor.reference(&SERVICE, &scope.services.names)?;
    let home = scope.service_homes[usize::from(service)].as_ref();
    if let (Some(home), Some(domain)) = (home, owner.domain)
        && let Some(found) = home.domain
        && found != domain
    {
        let rule = format!(
            "must be a service of domain {}, not of {} as {} makes it: all endpoints of a service are in one domain",
            scope.domain_name(domain),
            scope.domain_name(found),
            home.first_owner,
        );
        let near = crate::cursor::quoted(scope.services_of(domain, home.observes).take(2));
        cursor.refuse(&SERVICE, Kind::Conflict, rule, near);
        return None;
    }
    let observes = owner.access.map(Access::observes);
    if let (Some(home), Some(observes)) = (home, observes)
        && home.observes != observes
    {
        let [wanted, found] = if observes { ["observers", "others"] } else { ["others", "observers"] };
        let rule = format!(
            "must be a service of {wanted}, not of {found} as {} makes it: the NFs of a service either all observe or none",
            home.first_owner,
        );
        cursor.refuse(&SERVICE, Kind::Conflict, rule, Vec::new());
        return None;
    }
    Some(ServiceId(service))
}

/// An observer holds no buffer; its references have a limit of their own, which bounds its rings likewise.
fn read_quota(cursor: &Cursor<'_>, owner: &OwnerTables<'_>) -> Option<u32> {
    if owner.access != Some(Access::Observer) {
        return cursor.number(&QUOTA);
    }
    if cursor.has(&QUOTA) {
        let rule = format!("must be left out: {} bounds what an observer has", PINNED_BUFFERS.name);
        cursor.refuse(&QUOTA, Kind::Conflict, rule, Vec::new());
        return None;
    }
    owner.cursor.peek_number(&PINNED_BUFFERS)
}

/// Refuses the keys that are about packets which an observer never sends.
fn refuse_giving(cursor: &Cursor<'_>) -> Option<()> {
    let mut legal = true;
    for key in [&CREDIT, &LIMIT.pps, &LIMIT.mbit] {
        if cursor.has(key) {
            let rule = "must be left out: what an observer gives back goes nowhere";
            cursor.refuse(key, Kind::Conflict, rule, Vec::new());
            legal = false;
        }
    }
    legal.then_some(())
}

fn read_credit(cursor: &Cursor<'_>, quota_buffers: Option<u32>) -> Option<u32> {
    let credit_buffers = cursor.number(&CREDIT)?;
    let Some(quota_buffers) = quota_buffers else { return Some(credit_buffers) };
    if credit_buffers > quota_buffers {
        let rule = format!("must be at most {} ({quota_buffers})", QUOTA.name);
        cursor.refuse(&CREDIT, Kind::Conflict, rule, vec![quota_buffers.to_string()]);
        return None;
    }
    Some(credit_buffers)
}
