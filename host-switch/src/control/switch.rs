//! The life of one switch: what is set up in which order, and taken down again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dpdk::{DpdkError, Eal};
use flow_table::Seed;
use security_domains::Config;
use shm_ring::endpoint::HostEndpoint;
use switch_core::ids::{ChainId, DomainId, PortId};
use vhost_port::notifier::Notifier;

use super::api::{Answers, Api};
use super::area::{ControlArea, ControlAreaError};
use super::change::{Adopters, Changes};
use super::eal;
use super::keeper::{Keeper, NewPolicies, View};
use super::lending::RunningDatapath;
use super::nic::{Nic, NicError};
use super::order::{Act, OrderError, Orders};
use super::owner::{Owner, OwnerMemory};
use super::peer::Peer;
use super::policy::Policy;
use super::preflight::{self, Device, PreflightError};
use super::protocol::ClientKind;
use super::report::Sources;
use super::request::{Applied, ChangeError, Options, RunningConfig, Wish};
use super::runtime_dir::{PortClaim, RuntimeDir, RuntimeDirError, claims_root};
use super::served::ServedEndpoint;
use super::status::{Audit, OwnerStatus, Status};
use super::stop::Stop;
use super::uid::UidBlock;
use crate::datapath::{
    Changed, Datapath, DatapathChange, DatapathError, DatapathSpec, DomainSpec, FlowsSpec, NicLanes,
    ShardReport,
};
use crate::plan::{Plan, PlanError};
use crate::region::{LedgerError, LedgerFile, Region, RegionError, ShardMemory, ShardSize};

/// Why a switch does not start, or ends badly.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The config asks for too much.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Name or port are taken, or the runtime directory cannot be used.
    #[error(transparent)]
    RuntimeDir(#[from] RuntimeDirError),
    /// CPUs of lcores and devices of ports, all that are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Preflight(Vec<PreflightError>),
    /// No packet memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// No control area.
    #[error(transparent)]
    ControlArea(#[from] ControlAreaError),
    /// No ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// DPDK does not start.
    #[error(transparent)]
    Dpdk(DpdkError),
    /// DPDK does not start on huge pages that were free a moment ago. It cannot try again in this process.
    #[error("DPDK does not start on huge pages: {0}")]
    DpdkOnHugepages(DpdkError),
    /// Ports or lcores do not start.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// No port for a NIC.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// A part of the host.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The last audit did not balance.
    #[error(
        "buffers are missing or counted twice: {0}; this is a fault of the switch, please report it with its log"
    )]
    Conservation(String),
}

/// Runs a switch until it is told to stop. `text` is what the config was read from. With `no_huge`, DPDK gets ordinary memory whatever is free.
///
/// # Errors
/// If it cannot start, or its buffers do not add up in the end. Nothing is left behind either way.
pub fn run(config: &Config, text: String, run_dir: &Path, no_huge: bool) -> Result<(), SwitchError> {
    let stop = Stop::default();
    stop.on_signals().map_err(io_error("handle signals"))?;
    let plan = Arc::new(Plan::new(config, random_number()?)?);
    let runtime_dir = RuntimeDir::claim(run_dir, &config.switch.name)?;
    let claims = claims_root(run_dir);
    let port_claims = claim_ports(&plan, &claims)?;
    let uids = UidBlock::claim(&claims)?;

    let regions = create_regions(&plan, &runtime_dir)?;
    let eal = start_dpdk(&plan, no_huge)?;
    let sizes: Vec<Vec<ShardSize>> = (0..).take(regions.len()).map(|id| plan.shards(DomainId(id))).collect();
    let mut ledger = LedgerFile::create(&runtime_dir.ledger(), &sizes.concat(), plan.journal_count())?;
    let notifier = Arc::new(Notifier::start().map_err(io_error("start the thread that interrupts guests"))?);
    let (mut nics, lanes) = open_nics(&plan, &runtime_dir, uids.as_ref(), &notifier)?;
    let owners = create_owners(&plan, &runtime_dir, &regions, &ledger, uids.as_ref(), &mut nics)?;
    let words = endpoint_words(&owners);
    let shards = std::mem::take(&mut ledger.shards);
    let spec = datapath_spec(&plan, &regions, shards, lanes, random_seed()?);
    let datapath = Arc::new(Datapath::start(&eal, spec)?);

    let lending = Arc::new(RunningDatapath::new(Arc::clone(&datapath), plan.endpoints.len(), stop.clone()));
    let keeper = Keeper::start(&runtime_dir.endpoint_socket(), owners, lending, Box::new(Peer::of))
        .map_err(io_error("serve endpoint.sock"))?;
    let adopters = RunningSwitch { datapath: Arc::clone(&datapath), policies: keeper.policies() };
    let front = Front {
        name: config.switch.name.clone(),
        started: Instant::now(),
        changes: Changes::new(config.clone(), text, Arc::clone(&plan), Box::new(adopters)),
        datapath: Arc::clone(&datapath),
        view: keeper.view(),
        orders: keeper.orders(),
        words,
        stop: stop.clone(),
    };
    let api =
        Api::start(&runtime_dir.control_socket(), Arc::new(front)).map_err(io_error("serve control.sock"))?;
    log::info!(
        "switch {} runs: {}, {}, {}; `netvm status --switch {}`",
        config.switch.name,
        counted(plan.lcores.len(), "lcore"),
        counted(plan.ports.len(), "port"),
        counted(plan.endpoints.len(), "endpoint"),
        config.switch.name
    );

    let cause = wait(&stop);
    log::info!("switch {} stops: {cause}", config.switch.name);
    keeper.stop();
    api.stop();
    // Keeper and API are gone, and with them every other holder.
    let shards = Arc::into_inner(datapath).map_or(Ok(Vec::new()), Datapath::stop)?;
    drop((port_claims, uids));
    // Files of memory go before the notes of them.
    drop(regions);
    drop(runtime_dir);
    conclude(&plan, &shards)
}

fn start_dpdk(plan: &Plan, no_huge: bool) -> Result<Eal, SwitchError> {
    let options = eal::options(plan, (!no_huge).then(eal::free_hugepages));
    let failed = if options.hugepages { SwitchError::DpdkOnHugepages } else { SwitchError::Dpdk };
    Eal::init(&options).map_err(failed)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn wait(stop: &Stop) -> String {
    loop {
        if let Some(cause) = stop.wait(Duration::from_secs(3600)) {
            return cause;
        }
    }
}

/// Checks the CPU of every lcore and the device of every port, then takes the devices.
fn claim_ports(plan: &Plan, claims: &Path) -> Result<Vec<PortClaim>, SwitchError> {
    let devices = plan.ports.iter().filter_map(|port| Some((port, port.devargs()?)));
    let devices: Vec<_> = devices.map(|(port, devargs)| (port, devargs, Device::parse(devargs))).collect();
    let allowed = rustix::thread::sched_getaffinity(None)
        .map_err(|error| io_error("ask for the CPUs of this process")(error.into()))?;
    let cpus = plan.lcores.iter().filter_map(|lcore| preflight::check_cpu(lcore.cpu?, &allowed).err());
    let wrong: Vec<PreflightError> =
        cpus.chain(devices.iter().filter_map(|(port, _, device)| device.check(&port.name).err())).collect();
    if !wrong.is_empty() {
        return Err(SwitchError::Preflight(wrong));
    }
    let claims = devices.iter().filter_map(|(_, devargs, device)| {
        let identity = device.identity()?;
        Some(PortClaim::take(claims, &identity, devargs))
    });
    Ok(claims.collect::<Result<_, _>>()?)
}

fn create_regions(plan: &Plan, runtime_dir: &RuntimeDir) -> Result<Vec<Arc<Region>>, SwitchError> {
    let create = |domain: &crate::plan::DomainPlan| {
        let crate::plan::DomainPlan { name, region_bytes, buffer_stride_bytes, pages, path, .. } = domain;
        let region = match path {
            None => Region::create(name, *region_bytes, *buffer_stride_bytes, *pages)?,
            Some(path) => Region::create_file(name, *region_bytes, *buffer_stride_bytes, *pages, path)?,
        };
        region.memory().file().map_or(Ok(()), |file| runtime_dir.note_memory(file))?;
        if let Some(why) = region.memory().why_plain() {
            log::warn!("domain {name} gets ordinary pages: {why}; packets move slower");
        }
        Ok(Arc::new(region))
    };
    plan.domains.iter().map(create).collect()
}

fn create_owners(
    plan: &Plan,
    runtime_dir: &RuntimeDir,
    regions: &[Arc<Region>],
    ledger: &LedgerFile,
    uids: Option<&UidBlock>,
    nics: &mut BTreeMap<PortId, Nic>,
) -> Result<Vec<Owner>, SwitchError> {
    // VMs come first, so the position among owners is that among VMs.
    let create = |(position, owner): (usize, &crate::plan::OwnerPlan)| {
        let is_vm = owner.kind == ClientKind::Vm;
        let uid = uids.filter(|_| is_vm).and_then(|uids| uids.of_vm(position));
        let domain = &plan.domains[owner.domain.index()].name;
        let policies = Policy::of_owner(&plan.policies, &owner.name);
        if owner.is_untrusted() {
            let own = owner.nics.iter().filter_map(|port| nics.remove(port)).collect();
            return Ok(Owner::new(owner, domain, None, Vec::new(), policies).with_uid(uid).with_nics(own));
        }
        let region = &regions[owner.domain.index()];
        let area = ControlArea::create(owner, *region.geometry())?;
        area.file().map_or(Ok(()), |file| runtime_dir.note_memory(file))?;
        let endpoints = owner.endpoints().enumerate().map(|(position, id)| {
            let words = area.endpoint(position);
            let lcores = words.queue_pairs().iter().map(|pair| pair.lcore);
            let journal = lcores.map(|lcore| ledger.journal(plan.journal_word(id, lcore))).collect();
            ServedEndpoint::new(id, plan.endpoints[id.index()].name.clone(), words, journal)
        });
        let endpoints = endpoints.collect();
        let memory =
            OwnerMemory::new(owner, area, Arc::clone(region)).map_err(io_error("open a region to read"))?;
        Ok(Owner::new(owner, domain, Some(memory), endpoints, policies).with_uid(uid))
    };
    plan.owners.iter().enumerate().map(create).collect()
}

/// Opens the port of every NIC; what control has of each, and what the lcores have.
fn open_nics(
    plan: &Plan,
    runtime_dir: &RuntimeDir,
    uids: Option<&UidBlock>,
    notifier: &Arc<Notifier>,
) -> Result<(BTreeMap<PortId, Nic>, Vec<NicLanes>), SwitchError> {
    let (mut nics, mut all_lanes) = (BTreeMap::new(), Vec::new());
    for (port, nic) in plan.ports.iter().filter_map(|port| Some((port, port.nic()?))) {
        let owner = plan.owners.iter().position(|owner| owner.nics.contains(&port.id));
        let uid = uids.zip(owner).and_then(|(uids, position)| uids.of_vm(position));
        let (opened, lanes) = Nic::open(port, nic, (runtime_dir.nics(), uid), plan.lcores.len(), notifier)?;
        nics.insert(port.id, opened);
        all_lanes.push(lanes);
    }
    Ok((nics, all_lanes))
}

/// The words of every endpoint, by id.
fn endpoint_words(owners: &[Owner]) -> Vec<HostEndpoint<'static>> {
    let mut endpoints: Vec<&ServedEndpoint> = owners.iter().flat_map(Owner::endpoints).collect();
    endpoints.sort_by_key(|endpoint| endpoint.id());
    endpoints.into_iter().map(|endpoint| endpoint.words().clone()).collect()
}

fn datapath_spec(
    plan: &Plan,
    regions: &[Arc<Region>],
    shards: Vec<ShardMemory>,
    nics: Vec<NicLanes>,
    flow_seed: Seed,
) -> DatapathSpec {
    // The ledger gives the shards in the order asked for: domain by domain, each in the order of lcores.
    let mut shards = shards.into_iter();
    let domains =
        (0..).map(DomainId).zip(&plan.domains).zip(regions).map(|((id, domain), region)| DomainSpec {
            id,
            name: domain.name.clone(),
            region: region.mapping(),
            geometry: *region.geometry(),
            shards: shards.by_ref().take(plan.lcores.len()).collect(),
            share: domain.share,
            limit: domain.limit,
            limited_with: domain.limited_with,
        });
    DatapathSpec {
        domains: domains.collect(),
        lcores: plan.lcores.clone(),
        ports: plan.ports.clone(),
        nics,
        endpoints: plan.endpoints.iter().map(|endpoint| endpoint.datapath).collect(),
        forwarding: Arc::clone(&plan.forwarding),
        flows: plan.flows.map(|limits| FlowsSpec { limits, seed: flow_seed }),
    }
}

/// Says how the buffers stood at the end.
fn conclude(plan: &Plan, shards: &[ShardReport]) -> Result<(), SwitchError> {
    let mut wrong = Vec::new();
    for shard in shards {
        let (domain, lcore) = (&plan.domains[shard.domain.index()].name, shard.lcore.0);
        let findings = shard.findings();
        if findings.is_empty() {
            log::info!(
                "last audit of domain {domain}, lcore {lcore}: all {} buffers accounted for",
                shard.audit.size
            );
        }
        wrong.extend(findings.iter().map(|finding| format!("domain {domain}, lcore {lcore}: {finding}")));
    }
    if wrong.is_empty() { Ok(()) } else { Err(SwitchError::Conservation(wrong.join("; "))) }
}

fn random_seed() -> Result<Seed, SwitchError> {
    let mut words = [0; 8];
    for word in &mut words {
        *word = random_number()?;
    }
    Ok(Seed::new(words))
}

fn random_number() -> Result<u64, SwitchError> {
    let mut bytes = [0; size_of::<u64>()];
    let mut random = File::open("/dev/urandom").map_err(io_error("open /dev/urandom"))?;
    random.read_exact(&mut bytes).map_err(io_error("read /dev/urandom"))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> SwitchError {
    move |source| SwitchError::Io { action, source }
}

/// Those who carry out a change of the config.
struct RunningSwitch {
    datapath: Arc<Datapath>,
    policies: Sender<NewPolicies>,
}

impl Adopters for RunningSwitch {
    fn change(&self, change: DatapathChange) -> Result<Changed, String> {
        self.datapath.change(change).map_err(|error| error.to_string())
    }

    fn carried(&self, chains: &[ChainId]) -> Result<Vec<ChainId>, String> {
        self.datapath.carried(chains).map_err(|error| error.to_string())
    }

    fn judge_by(&self, policies: &[Policy]) -> Result<(), String> {
        let (done, is_done) = channel();
        let gone = |_| OrderError::NoAnswer.to_string();
        self.policies.send((policies.to_vec(), done)).map_err(|_| OrderError::NoAnswer.to_string())?;
        is_done.recv_timeout(KEEPER_PATIENCE).map_err(gone)
    }
}

/// How long the keeper may take to judge by other policies.
const KEEPER_PATIENCE: Duration = Duration::from_secs(5);

/// What the API asks.
struct Front {
    name: String,
    started: Instant,
    changes: Changes,
    datapath: Arc<Datapath>,
    view: Arc<Mutex<View>>,
    orders: Orders,
    words: Vec<HostEndpoint<'static>>,
    stop: Stop,
}

impl Front {
    fn with_sources<T>(&self, build: impl FnOnce(Sources<'_>) -> T) -> Result<T, String> {
        // No change is made meanwhile: counters and names are of one config.
        let running = self.changes.running();
        let counters = self.datapath.counters().map_err(|error| error.to_string())?;
        let shards = self.datapath.audit().map_err(|error| error.to_string())?;
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nf_counters: Vec<_> = self.words.iter().map(HostEndpoint::counters).collect();
        Ok(build(Sources {
            plan: &running.plan,
            counters: &counters,
            shards: &shards,
            view: &view,
            nf_counters: &nf_counters,
        }))
    }
}

impl Answers for Front {
    fn status(&self) -> Result<Status, String> {
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = self.with_sources(|sources| sources.status())?;
        Ok(Status { switch: self.name.clone(), pid: std::process::id(), uptime_ms, ..status })
    }

    fn audit(&self) -> Result<Audit, String> {
        let audit = self.with_sources(|sources| sources.audit())?;
        Ok(Audit { switch: self.name.clone(), ..audit })
    }

    fn config(&self) -> serde_json::Value {
        serde_json::to_value(&self.changes.running().config).unwrap_or_default()
    }

    fn text(&self) -> RunningConfig {
        self.changes.text()
    }

    fn change(&self, wish: &Wish, options: Options) -> Result<Applied, ChangeError> {
        self.changes.apply(wish, options)
    }

    fn order(&self, act: Act, name: &str) -> Result<OwnerStatus, OrderError> {
        self.orders.give(act, name)
    }

    fn stop(&self) {
        self.stop.request("asked to over control.sock");
    }
}
