//! The numbers by which lcores and ledger know what configs call by name, over all changes of one run.
//!
//! A config numbers its things by their places in the file. A packet on its way has numbers in its ledger entry, so
//! while the switch runs they must not move: what keeps its name keeps its number, what is new gets one that nobody
//! has, and a config is **renumbered** before anything is planned from it.
//!
//! A chain whose path or egress is another one is a new chain to the lcores. The old one **lingers**: nothing enters
//! it, and packets that were on it go on as they began. One that the new config could not have any more, because a
//! service of it is gone, is **vacant**: its packets end as `no_chain`. Either number is free again when no packet
//! has it.

use std::collections::{BTreeMap, BTreeSet};

use security_domains::{
    Chain, ChainId, Config, DomainId, Edge, Endpoint, Owner, Policy, Port, PortId, ProcessId, Rule,
    RuleAction, Service, ServiceId, Target, VmId, WhenDead,
};

/// Who has which number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    domains: Vec<String>,
    ports: Vec<String>,
    /// A number is its service's for the whole run; none stands for a service now.
    services: Vec<String>,
    chains: Vec<ChainPlace>,
    vms: Vec<String>,
    processes: Vec<String>,
}

/// What a chain's number stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ChainPlace {
    /// The chain of this name.
    Named(String),
    /// One that packets are on and none enters.
    Lingers(Chain),
    /// Nothing; packets on it go nowhere.
    Vacant,
}

/// A config with the numbers of a running switch.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// The config. Chains and services that stand for none have no name.
    pub config: Config,
    /// Whose numbers they are.
    pub numbers: Numbers,
    /// The chains of the config in the order of its file.
    pub chains: Vec<ChainId>,
}

impl Numbered {
    /// A config that a switch starts with keeps its own numbers.
    #[must_use]
    pub fn first(config: &Config) -> Self {
        let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>();
        let chains = config.chains.iter().map(|chain| ChainPlace::Named(chain.name.clone()));
        let numbers = Numbers {
            domains: names(&mut config.domains.iter().map(|domain| &domain.name)),
            ports: names(&mut config.ports.iter().map(|port| &port.name)),
            services: names(&mut config.services.iter().map(|service| &service.name)),
            chains: chains.collect(),
            vms: names(&mut config.vms.iter().map(|vm| &vm.name)),
            processes: names(&mut config.processes.iter().map(|process| &process.name)),
        };
        Self {
            config: config.clone(),
            numbers,
            chains: (0..).map(ChainId).take(config.chains.len()).collect(),
        }
    }

    /// Numbers for the config that follows this one: it has the same domains, ports, VMs and processes, in
    /// whatever order. With `lingering`, chains that are not entered any more are kept for packets that are on
    /// them. `carried` are the chains, among [`Numbered::unentered`], that packets are on.
    #[must_use]
    pub fn then(&self, next: &Config, carried: &[ChainId], lingering: bool) -> Option<Self> {
        let mut numbers = self.numbers.clone();
        let map = Map::new(&mut numbers, next)?;
        let paths: Vec<Chain> = next.chains.iter().map(|chain| map.chain(chain)).collect::<Option<_>>()?;
        let chains = numbers.place_chains(self, &paths, carried, lingering)?;
        let map = Map { chains: chains.clone(), ..map };
        let config = renumber(next, &numbers, &map, paths, self)?;
        Some(Self { config, numbers, chains })
    }

    /// Numbers of chains that nothing enters.
    #[must_use]
    pub fn unentered(&self) -> Vec<ChainId> {
        let places = (0..).map(ChainId).zip(&self.numbers.chains);
        places.filter(|(_, place)| !matches!(place, ChainPlace::Named(_))).map(|(id, _)| id).collect()
    }
}

impl Numbers {
    /// Gives each chain of a config its number; `paths` are those chains, renumbered but for their own.
    fn place_chains(
        &mut self,
        before: &Numbered,
        paths: &[Chain],
        carried: &[ChainId],
        lingering: bool,
    ) -> Option<Vec<ChainId>> {
        let (mut free, mut stays) = (BTreeSet::new(), BTreeMap::new());
        for ((id, place), chain) in (0..).zip(&mut self.chains).zip(&before.config.chains) {
            match place {
                ChainPlace::Named(name) => {
                    let next = paths.iter().find(|next| next.name == *name);
                    if next.is_some_and(|next| (&next.path, next.egress) == (&chain.path, chain.egress)) {
                        stays.insert(name.clone(), ChainId(id));
                    } else {
                        *place = ChainPlace::Lingers(nameless(chain));
                    }
                }
                ChainPlace::Lingers(_) | ChainPlace::Vacant if !carried.contains(&ChainId(id)) => {
                    *place = ChainPlace::Vacant;
                    free.insert(id);
                }
                ChainPlace::Lingers(_) | ChainPlace::Vacant => {}
            }
        }
        if !lingering {
            let lingering = self.chains.iter_mut().filter(|place| matches!(place, ChainPlace::Lingers(_)));
            lingering.for_each(|place| *place = ChainPlace::Vacant);
        }
        let number = |chain: &Chain| {
            if let Some(id) = stays.get(&chain.name) {
                return Some(*id);
            }
            let named = ChainPlace::Named(chain.name.clone());
            if let Some(id) = free.pop_first() {
                self.chains[usize::from(id)] = named;
                return Some(ChainId(id));
            }
            // The last number stands for no chain at all.
            let id = u16::try_from(self.chains.len()).ok().filter(|id| *id < u16::MAX)?;
            self.chains.push(named);
            Some(ChainId(id))
        };
        paths.iter().map(number).collect()
    }
}

fn nameless(chain: &Chain) -> Chain {
    Chain { name: String::new(), observers: Vec::new(), ..chain.clone() }
}

/// From the numbers of a config's file to those of the switch.
struct Map {
    domains: Vec<DomainId>,
    ports: Vec<PortId>,
    services: Vec<ServiceId>,
    chains: Vec<ChainId>,
    vms: Vec<VmId>,
    processes: Vec<ProcessId>,
}

impl Map {
    /// All but the chains; services that are new get a number.
    fn new(numbers: &mut Numbers, next: &Config) -> Option<Self> {
        let find = |known: &[String], name: &String| {
            u16::try_from(known.iter().position(|known| known == name)?).ok()
        };
        let mut services = Vec::with_capacity(next.services.len());
        for service in &next.services {
            if !numbers.services.contains(&service.name) {
                numbers.services.push(service.name.clone());
            }
            services.push(ServiceId(find(&numbers.services, &service.name)?));
        }
        let domain = |domain: &security_domains::Domain| find(&numbers.domains, &domain.name).map(DomainId);
        let port = |port: &Port| find(&numbers.ports, &port.name).map(PortId);
        let vm = |vm: &security_domains::Vm| find(&numbers.vms, &vm.name).map(VmId);
        let process =
            |process: &security_domains::Process| find(&numbers.processes, &process.name).map(ProcessId);
        Some(Self {
            domains: next.domains.iter().map(domain).collect::<Option<_>>()?,
            ports: next.ports.iter().map(port).collect::<Option<_>>()?,
            services,
            chains: Vec::new(),
            vms: next.vms.iter().map(vm).collect::<Option<_>>()?,
            processes: next.processes.iter().map(process).collect::<Option<_>>()?,
        })
    }

    fn owner(&self, owner: Owner) -> Owner {
        match owner {
            Owner::Vm(id) => Owner::Vm(self.vms[id.index()]),
            Owner::Process(id) => Owner::Process(self.processes[id.index()]),
        }
    }

    fn domain(&self, id: DomainId) -> DomainId {
        self.domains[id.index()]
    }

    fn service(&self, id: ServiceId) -> ServiceId {
        self.services[id.index()]
    }

    fn chain(&self, chain: &Chain) -> Option<Chain> {
        // Each field by name: one that is added is not forgotten here.
        let Chain { name, domain, path, egress, observers } = chain;
        Some(Chain {
            name: name.clone(),
            domain: self.domain(*domain),
            path: path.iter().map(|id| self.service(*id)).collect(),
            egress: *self.ports.get(egress.index())?,
            observers: observers.iter().map(|id| self.service(*id)).collect(),
        })
    }

    fn service_table(&self, service: &Service) -> Service {
        let Service { name, domain, observes, may_target, when_dead } = service;
        let target = |target: &Target| match *target {
            Target::Service(id) => Target::Service(self.service(id)),
            Target::Port(id) => Target::Port(self.ports[id.index()]),
        };
        Service {
            name: name.clone(),
            domain: self.domain(*domain),
            observes: *observes,
            may_target: may_target.iter().map(target).collect(),
            when_dead: *when_dead,
        }
    }

    fn port(&self, port: &Port) -> Port {
        let mut numbered = port.clone();
        numbered.domains.iter_mut().for_each(|id| *id = self.domain(*id));
        numbered.chain = self.chains[port.chain.index()];
        if let security_domains::Device::Nic(nic) = &mut numbered.device {
            nic.vm = self.vms[nic.vm.index()];
        }
        numbered
    }

    fn rule(&self, rule: &Rule) -> Rule {
        let Rule { port, flows, action, observe, replicate, replicate_limit_pps } = rule;
        Rule {
            port: self.ports[port.index()],
            flows: *flows,
            action: match *action {
                RuleAction::Chain(id) => RuleAction::Chain(self.chains[id.index()]),
                RuleAction::Drop => RuleAction::Drop,
            },
            observe: observe.map(|id| self.service(id)),
            replicate: replicate.iter().map(|id| self.chains[id.index()]).collect(),
            replicate_limit_pps: *replicate_limit_pps,
        }
    }

    fn edge(&self, edge: &Edge) -> Edge {
        let Edge { from, to, flows, broadcast, limit } = edge;
        Edge {
            from: self.domain(*from),
            to: self.domain(*to),
            flows: *flows,
            broadcast: *broadcast,
            limit: *limit,
        }
    }

    fn policy(&self, policy: &Policy) -> Policy {
        Policy { owner: policy.owner.map(|owner| self.owner(owner)), ..policy.clone() }
    }
}

/// The same config with the numbers of the switch; `chains` have theirs already, but for their places.
fn renumber(
    next: &Config,
    numbers: &Numbers,
    map: &Map,
    chains: Vec<Chain>,
    before: &Numbered,
) -> Option<Config> {
    let nobody = || Service {
        name: String::new(),
        domain: DomainId(0),
        observes: false,
        may_target: Vec::new(),
        when_dead: WhenDead::Closed,
    };
    let mut services: Vec<Service> = numbers.services.iter().map(|_| nobody()).collect();
    for (service, id) in next.services.iter().zip(&map.services) {
        services[id.index()] = map.service_table(service);
    }
    let nowhere = |place: &ChainPlace| match place {
        ChainPlace::Lingers(chain) => chain.clone(),
        ChainPlace::Named(_) | ChainPlace::Vacant => Chain {
            name: String::new(),
            domain: DomainId(0),
            path: Vec::new(),
            egress: PortId(0),
            observers: Vec::new(),
        },
    };
    let mut placed: Vec<Chain> = numbers.chains.iter().map(nowhere).collect();
    for (chain, id) in chains.into_iter().zip(&map.chains) {
        placed[id.index()] = chain;
    }
    let mut vms = placed_by(&next.vms, &map.vms.iter().map(|id| id.index()).collect::<Vec<_>>())?;
    for (vm, known) in vms.iter_mut().zip(&before.config.vms) {
        vm.domain = map.domain(vm.domain);
        vm.nics.iter_mut().for_each(|port| *port = map.ports[port.index()]);
        let running: Vec<Endpoint> = known.endpoints.iter().map(|own| own.endpoint.clone()).collect();
        vm.endpoints = as_running(&running, &vm.endpoints, map, |own| &mut own.endpoint)?;
    }
    let places: Vec<usize> = map.processes.iter().map(|id| id.index()).collect();
    let mut processes = placed_by(&next.processes, &places)?;
    for (process, known) in processes.iter_mut().zip(&before.config.processes) {
        process.domain = map.domain(process.domain);
        process.endpoints = as_running(&known.endpoints, &process.endpoints, map, |own| own)?;
    }
    let ports: Vec<Port> = next.ports.iter().map(|port| map.port(port)).collect();
    Some(Config {
        file: next.file.clone(),
        switch: next.switch.clone(),
        domains: placed_by(&next.domains, &map.domains.iter().map(|id| id.index()).collect::<Vec<_>>())?,
        ports: placed_by(&ports, &map.ports.iter().map(|id| id.index()).collect::<Vec<_>>())?,
        services,
        chains: placed,
        rules: next.rules.iter().map(|rule| map.rule(rule)).collect(),
        edges: next.edges.iter().map(|edge| map.edge(edge)).collect(),
        vms,
        processes,
        policies: next.policies.iter().map(|policy| map.policy(policy)).collect(),
    })
}

/// The endpoints of an owner in the order of its control area, which is that of the file that it started with: each
/// keeps its number and its service. None if they are others.
fn as_running<T: Clone>(
    running: &[Endpoint],
    next: &[T],
    map: &Map,
    endpoint: impl Fn(&mut T) -> &mut Endpoint,
) -> Option<Vec<T>> {
    let mut left: Vec<T> = next.to_vec();
    let placed = running.iter().map(|known| {
        let at = left.iter_mut().position(|own| map.service(endpoint(own).service) == known.service)?;
        let mut own = left.remove(at);
        (endpoint(&mut own).id, endpoint(&mut own).service) = (known.id, known.service);
        Some(own)
    });
    let placed: Option<Vec<T>> = placed.collect();
    placed.filter(|_| left.is_empty())
}

/// Items at other places; none if a place stays empty.
fn placed_by<T: Clone>(items: &[T], places: &[usize]) -> Option<Vec<T>> {
    let mut placed: Vec<Option<T>> = vec![None; items.len()];
    for (item, place) in items.iter().zip(places) {
        *placed.get_mut(*place)? = Some(item.clone());
    }
    placed.into_iter().collect()
}

#[cfg(test)]
mod tests;
