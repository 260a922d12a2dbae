//! What a config says, thing by thing and in names: what two configs are compared by.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use security_domains::{Config, Owner};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Kinds of things, in the order in which a difference lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The switch process.
    Switch,
    /// A security domain.
    Domain,
    /// A port; the NICs of untrusted VMs, too.
    Port,
    /// A VM, but for its endpoints and NICs.
    Vm,
    /// A process, but for its endpoints.
    Process,
    /// An NF of a VM or process.
    Endpoint,
    /// A named role.
    Service,
    /// Services in order, then a port.
    Chain,
    /// Which packets take another chain; the order counts.
    Rule,
    /// Which packets may cross; the order counts.
    Edge,
    /// What violations lead to; the order counts.
    Policy,
}

impl Kind {
    /// Its name, which is that of its table in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Domain => "domain",
            Self::Port => "port",
            Self::Vm => "vm",
            Self::Process => "process",
            Self::Endpoint => "endpoint",
            Self::Service => "service",
            Self::Chain => "chain",
            Self::Rule => "rule",
            Self::Edge => "edge",
            Self::Policy => "policy",
        }
    }

    /// Whether things of this kind have no names, but an order.
    #[must_use]
    pub const fn is_ordered(self) -> bool {
        matches!(self, Self::Rule | Self::Edge | Self::Policy)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that a config says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name, or its place among those of its kind.
    pub name: String,
    /// What is said of it, defaults included; what is left out for good is not there.
    pub keys: BTreeMap<String, Value>,
}

/// Everything that a config says, kind by kind, each in the order of the file.
#[must_use]
pub fn objects(config: &Config) -> Vec<Object> {
    let names = Names { config };
    let mut objects = vec![names.object(Kind::Switch, &config.switch.name, &config.switch)];
    objects.extend(config.domains.iter().map(|each| names.object(Kind::Domain, &each.name, each)));
    objects.extend(config.ports.iter().map(|each| names.object(Kind::Port, &each.name, each)));
    objects.extend(config.vms.iter().map(|each| names.object(Kind::Vm, &each.name, each)));
    objects.extend(config.processes.iter().map(|each| names.object(Kind::Process, &each.name, each)));
    objects.extend(names.endpoints());
    objects.extend(config.services.iter().map(|each| names.object(Kind::Service, &each.name, each)));
    objects.extend(config.chains.iter().map(|each| names.object(Kind::Chain, &each.name, each)));
    objects.extend(names.ordered(Kind::Rule, &config.rules));
    objects.extend(names.ordered(Kind::Edge, &config.edges));
    objects.extend(names.ordered(Kind::Policy, &config.policies));
    objects
}

/// Keys whose values are numbers of things, and of what.
const NUMBERS: [(&str, Kind); 10] = [
    ("domain", Kind::Domain),
    ("domains", Kind::Domain),
    ("from", Kind::Domain),
    ("to", Kind::Domain),
    ("chain", Kind::Chain),
    ("egress", Kind::Port),
    ("observers", Kind::Service),
    ("observe", Kind::Service),
    ("path", Kind::Service),
    ("replicate", Kind::Chain),
];

struct Names<'c> {
    config: &'c Config,
}

impl Names<'_> {
    fn object(&self, kind: Kind, name: &str, said: &impl Serialize) -> Object {
        let keys = match serde_json::to_value(said) {
            Ok(Value::Object(keys)) => keys,
            Ok(_) | Err(_) => Map::new(),
        };
        let mut object = Object { kind, name: name.to_owned(), keys: BTreeMap::new() };
        for (key, value) in keys {
            for (key, value) in self.spell(kind, &key, value) {
                // What is nothing by default is not said.
                if !value.is_null() {
                    object.keys.insert(key, value);
                }
            }
        }
        object
    }

    fn ordered<T: Serialize>(&self, kind: Kind, list: &[T]) -> Vec<Object> {
        let object = |(place, each): (usize, &T)| self.object(kind, &place.to_string(), each);
        list.iter().enumerate().map(object).collect()
    }

    fn endpoints(&self) -> Vec<Object> {
        let listings = self.config.endpoints();
        let said = |listing: &security_domains::EndpointListing<'_>| {
            let mut object = self.object(Kind::Endpoint, &listing.name, listing.endpoint);
            if let Owner::Vm(id) = listing.owner
                && let Some(own) = self.config.vms[id.index()].endpoints.get(usize::from(listing.position))
            {
                let boot = self.object(Kind::Endpoint, &listing.name, own);
                object.keys.extend(boot.keys);
            }
            object
        };
        listings.iter().map(said).collect()
    }

    /// A key as the file says it: by names, without what follows from the rest of the file.
    fn spell(&self, kind: Kind, key: &str, value: Value) -> Vec<(String, Value)> {
        let one = |value| vec![(key.to_owned(), value)];
        match (kind, key) {
            // A name names; ids and what is counted by them are the file's order; these follow from other tables.
            (Kind::Switch, "name") => one(value),
            (_, "name") | (Kind::Endpoint, "id") => Vec::new(),
            (Kind::Service, "domain" | "observes") | (Kind::Chain, "domain") => Vec::new(),
            (Kind::Vm | Kind::Process, "endpoints" | "nics") => Vec::new(),
            (Kind::Vm, "pins") | (Kind::Process, "pins") => nested(value),
            (Kind::Vm, "kernel" | "initramfs" | "disk") | (Kind::Domain, "path") => one(absolute(value)),
            (Kind::Vm | Kind::Endpoint, "files") => one(files(value)),
            (Kind::Port, "device") if value.is_object() => {
                nested(value).into_iter().filter(|(key, _)| key != "vm" && key != "nic").collect()
            }
            (Kind::Rule, "port") => one(self.name_of(Kind::Port, &value)),
            (Kind::Endpoint, "service") => one(self.name_of(Kind::Service, &value)),
            (Kind::Rule, "action") => self.action(&value),
            (Kind::Service, "may_target") => one(self.each(&value, |target| self.target(target))),
            (Kind::Policy, "owner") => vec![("vm".to_owned(), self.target(&value))],
            _ => match NUMBERS.iter().find(|(named, _)| *named == key) {
                Some((_, of)) => one(self.each(&value, |id| self.name_of(*of, id))),
                None => one(value),
            },
        }
    }

    /// Does so to each of a list, or to the one.
    fn each(&self, value: &Value, spell: impl Fn(&Value) -> Value) -> Value {
        match value {
            Value::Array(list) => list.iter().map(spell).collect(),
            Value::Null => Value::Null,
            one => spell(one),
        }
    }

    fn name_of(&self, kind: Kind, id: &Value) -> Value {
        let position = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let config = self.config;
        let name = position.and_then(|at| match kind {
            Kind::Domain => config.domains.get(at).map(|each| &each.name),
            Kind::Port => config.ports.get(at).map(|each| &each.name),
            Kind::Service => config.services.get(at).map(|each| &each.name),
            Kind::Chain => config.chains.get(at).map(|each| &each.name),
            Kind::Vm => config.vms.get(at).map(|each| &each.name),
            Kind::Process => config.processes.get(at).map(|each| &each.name),
            Kind::Switch | Kind::Endpoint | Kind::Rule | Kind::Edge | Kind::Policy => None,
        });
        name.map_or(Value::Null, |name| json!(name))
    }

    /// `{"service": 3}` and its like.
    fn target(&self, target: &Value) -> Value {
        let Some((kind, id)) = target.as_object().and_then(|target| target.iter().next()) else {
            return Value::Null;
        };
        let kind = match kind.as_str() {
            "service" => Kind::Service,
            "port" => Kind::Port,
            "vm" => Kind::Vm,
            "process" => Kind::Process,
            _ => return Value::Null,
        };
        self.name_of(kind, id)
    }

    /// What a rule does, by the key that the file says it with.
    fn action(&self, action: &Value) -> Vec<(String, Value)> {
        match action.get("chain") {
            Some(chain) => vec![("chain".to_owned(), self.name_of(Kind::Chain, chain))],
            None => vec![("drop".to_owned(), json!(true))],
        }
    }
}

fn nested(value: Value) -> Vec<(String, Value)> {
    match value {
        Value::Object(keys) => keys.into_iter().collect(),
        _ => Vec::new(),
    }
}

/// A path, wherever the one who wrote it stood.
fn absolute(value: Value) -> Value {
    let absolute = |path: &str| std::path::absolute(Path::new(path)).ok();
    match value.as_str().and_then(absolute) {
        Some(path) => json!(path),
        None => value,
    }
}

/// The files of a guest by their paths there.
fn files(value: Value) -> Value {
    let Value::Array(files) = value else { return value };
    let file = |file: &Value| {
        let guest_path = file.get("guest_path")?.as_str()?.to_owned();
        Some((guest_path, absolute(file.get("host_path")?.clone())))
    };
    Value::Object(files.iter().filter_map(file).collect())
}
