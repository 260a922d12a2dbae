//! A service: a named role; endpoints are its instances.

use serde::Serialize;

use crate::cursor::Cursor;
use crate::finding::Kind;
use crate::form::Form;
use crate::ids::{DomainId, PortId, ServiceId};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::scope::{Scope, Whence};
use crate::word::words;

const TARGET: Form = Form::Reference(&["service", "port"]);
const MAY_TARGET: Key = Key {
    name: "may_target",
    form: Form::List { of: &TARGET, min: 0, max: 64 },
    presence: Presence::Empty,
    doc: "Services and ports that its NFs may name in a verdict, besides next and drop.",
};
pub(crate) const WHEN_DEAD: Key = Key {
    name: "when_dead",
    form: Form::Word(WhenDead::WORDS),
    presence: Presence::Word(WhenDead::Closed.word()),
    doc: "What happens to packets while no instance is attached.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[service]]",
    doc: "A named role; its endpoints, all in one domain, are its instances.",
    keys: &[&NAME, &MAY_TARGET, &WHEN_DEAD],
};

words! {
    /// What happens to packets of a service while no instance is attached.
    WhenDead {
        /// They are dropped and counted as `service_dead`.
        Closed = "closed",
        /// They skip this hop.
        Open = "open",
    }
}

/// What an NF may name in a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A service.
    Service(ServiceId),
    /// A port.
    Port(PortId),
}

/// A named role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The domain of all its endpoints.
    pub domain: DomainId,
    /// Whether its NFs only look: it is no hop of a chain.
    pub observes: bool,
    /// What its NFs may name in a verdict, besides next and drop.
    pub may_target: Vec<Target>,
    /// What happens to its packets while no instance is attached.
    pub when_dead: WhenDead,
}

impl Service {
    pub(crate) fn read(
        cursor: &Cursor<'_>,
        id: ServiceId,
        name: Option<&str>,
        scope: &Scope<'_>,
    ) -> Option<Self> {
        let domain = read_domain(cursor, id, name, scope);
        let observes = scope.observes(id.0);
        let may_target = read_targets(cursor, domain, scope);
        if observes && may_target.as_ref().is_some_and(|targets| !targets.is_empty()) {
            let rule = "must be left out: what an observer says moves no packet";
            cursor.refuse(&MAY_TARGET, Kind::Conflict, rule, Vec::new());
            return None;
        }
        let when_dead = cursor.word(&WHEN_DEAD).and_then(WhenDead::from_word);
        Some(Self {
            name: name?.to_owned(),
            domain: domain?,
            observes,
            may_target: may_target?,
            when_dead: when_dead?,
        })
    }
}

fn read_domain(
    cursor: &Cursor<'_>,
    id: ServiceId,
    name: Option<&str>,
    scope: &Scope<'_>,
) -> Option<DomainId> {
    let home = &scope.service_homes[id.index()];
    // An endpoint with a misspelt service may be the one that is missing here.
    if home.is_none() && name.is_some() && scope.endpoints_resolve {
        let rule = "must be named by at least one [[vm.endpoint]] or [[process.endpoint]]";
        cursor.refuse_at(&cursor.whole("none"), Kind::Conflict, rule, Vec::new());
    }
    home.as_ref().and_then(|home| home.domain)
}

fn read_targets(cursor: &Cursor<'_>, domain: Option<DomainId>, scope: &Scope<'_>) -> Option<Vec<Target>> {
    let mut targets = Some(Vec::new());
    for (place, value) in cursor.list(&MAY_TARGET)? {
        let spaces = [&scope.services.names, &scope.ports.names];
        let target = match cursor.resolve(&place, value, &TARGET, &spaces) {
            Some((0, service)) => Target::Service(ServiceId(service)),
            Some((_, port)) => Target::Port(PortId(port)),
            None => {
                targets = None;
                continue;
            }
        };
        let candidates =
            domain.into_iter().flat_map(|domain| scope.hops_of(domain).chain(scope.ports_of(domain)));
        let home;
        let (is_hop, to): (bool, &[DomainId]) = match target {
            Target::Service(service) => {
                home = scope.service_domain(service.0);
                (scope.is_hop(cursor, &place, service.0), home.as_slice())
            }
            Target::Port(port) => (true, &scope.port_domains[port.index()]),
        };
        let reachable = is_hop
            && scope.leads(
                cursor,
                &place,
                "a service or port",
                (Whence { domain, skipped: None }, to),
                candidates,
            );
        if targets.as_ref().is_some_and(|list| list.contains(&target)) {
            cursor.refuse_at(&place, Kind::Conflict, "must be listed once", Vec::new());
            targets = None;
        } else if reachable {
            targets.iter_mut().for_each(|list| list.push(target));
        } else {
            targets = None;
        }
    }
    targets
}
