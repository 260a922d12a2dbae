//! The demo: two hosts in namespaces, a switch, and a chain of VMs (or processes) between them.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::artifacts::Artifacts;
use lab::child::Child;
use lab::error::LabError;
use lab::hugepages;
use lab::journal::{Change, Journal};
use lab::namespace::Namespace;
use lab::status::Status;
use lab::switch::Switch;
use lab::transfer::{Download, HttpServer, Payload, ping};

use crate::error::XtaskError;
use crate::packages;
use crate::product;
use crate::summary::Summary;
use crate::table;
use crate::workspace::Workspace;

/// Hugepages that the switch's regions and the mbuf headers take.
const HUGEPAGES: u64 = 192;
/// How long one VM may take from its start to its first packet, on a loaded machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// How long the file transfer may take.
const TRANSFER_LIMIT: Duration = Duration::from_secs(100);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask demo --json | tail -n 1\n\n\
    Installs missing Debian packages (see `cargo xtask setup --check`); they stay. Makes three network\n\
    namespaces (two with --processes), raises the number of hugepages and writes below /run; all of that is\n\
    undone at the end.")]
pub struct Options {
    /// Print the summary as one JSON object in the last line
    #[arg(long)]
    json: bool,
    /// Size of the file to transfer, in MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    file_mib: u64,
    /// Run one forwarder as a host process instead of the VMs
    #[arg(long)]
    processes: bool,
}

/// One way to fill the space between the two hosts.
struct Cast {
    config: PathBuf,
    switch: &'static str,
    server_address: &'static str,
    client: Host,
    server: Host,
    /// A third host whose traffic a monitor counts.
    span: Option<Host>,
    vms: &'static [&'static str],
    processes: &'static [(&'static str, &'static str)],
}

/// One host: the port of its cable, its address, its gateway if any.
struct Host {
    port: &'static str,
    address: &'static str,
    gateway: Option<&'static str>,
}

impl Cast {
    fn vms(root: &Path) -> Self {
        Self {
            config: root.join("security-domains/examples/demo.toml"),
            switch: "demo",
            server_address: "10.2.0.2",
            client: Host { port: "nv-client", address: "10.1.0.2/24", gateway: Some("10.1.0.1") },
            server: Host { port: "nv-server", address: "10.2.0.2/24", gateway: Some("10.2.0.1") },
            span: Some(Host { port: "nv-span", address: "10.3.0.2/24", gateway: None }),
            vms: &["fw0", "rt0", "mon0"],
            processes: &[],
        }
    }

    fn processes(root: &Path) -> Self {
        Self {
            config: root.join("security-domains/examples/process-forwarder.toml"),
            switch: "forwarder",
            server_address: "10.1.0.3",
            client: Host { port: "nv-left", address: "10.1.0.2/24", gateway: None },
            server: Host { port: "nv-right", address: "10.1.0.3/24", gateway: None },
            span: None,
            vms: &[],
            processes: &[("fwd0", "forwarder")],
        }
    }
}

/// `cargo xtask demo`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<(), XtaskError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::NotRoot.into());
    }
    packages::ensure()?;
    let artifacts = product::programs(workspace)?;
    let cast = if options.processes {
        Cast::processes(workspace.root())
    } else {
        product::image(workspace)?;
        Cast::vms(workspace.root())
    };
    let journal = Journal::open("demo")?;
    journal.undo_on_signal()?;
    let played = play(&cast, options, &artifacts, &journal);
    for problem in journal.undo_all() {
        eprintln!("warning: {problem}");
    }
    let summary = played?;
    println!("\n{}", summary.text());
    if options.json {
        let line = serde_json::to_string(&summary)
            .map_err(|err| LabError::Status { what: format!("summary: {err}") })?;
        println!("{line}");
    }
    summary.complaint().map_or(Ok(()), |complaint| Err(XtaskError::Demo(complaint)))
}

/// Sets the scene, moves the traffic, and returns what was seen. The scene falls with this function.
fn play(
    cast: &Cast,
    options: &Options,
    artifacts: &Artifacts,
    journal: &Journal,
) -> Result<Summary, XtaskError> {
    let stage = Stage::set(cast, journal)?;
    let mut switch = Switch::start(cast.switch, &cast.config, artifacts, &stage.log_dir, journal)?;
    let mut summary = empty_summary();
    let mut _functions = Vec::new();
    for (name, nf) in cast.processes {
        _functions.push(switch.start_process(name, nf, &[])?);
    }
    let owners: Vec<&str> = cast.processes.iter().map(|(name, _)| *name).collect();
    switch.wait_attached(&owners, Duration::from_secs(20))?;
    let vms = boot(&mut switch, cast.vms, &mut summary)?;

    let _watched = stage.talk_into_the_span(journal)?;
    println!("20 pings from client to server");
    let pings = ping(&stage.client, cast.server_address, 20, 100)?;
    (summary.pings_sent, summary.pings_answered) = (pings.sent, pings.answered);
    transfer(cast, options, &stage, &mut switch, journal, &mut summary)?;
    summary.account(&switch.status()?);

    for vm in vms {
        vm.stop(Duration::from_secs(20))?;
    }
    drop(_functions);
    switch.stop()?;
    Ok(summary)
}

fn empty_summary() -> Summary {
    Summary {
        accelerator: "none".to_owned(),
        boot_ms: BTreeMap::new(),
        tcp_bytes: 0,
        tcp_sha256_ok: false,
        tcp_seconds: 0.0,
        pings_sent: 0,
        pings_answered: 0,
        packets_per_hop: BTreeMap::new(),
        copies_in_trusted_chain: 0,
        buffers_total: 0,
        buffers_accounted: 0,
        buffers: BTreeMap::new(),
        drops: BTreeMap::new(),
    }
}

/// The hosts and a place for files.
struct Stage {
    client: Namespace,
    server: Namespace,
    span: Option<Namespace>,
    log_dir: PathBuf,
    files: PathBuf,
}

impl Stage {
    fn set(cast: &Cast, journal: &Journal) -> Result<Self, XtaskError> {
        let home = PathBuf::from(format!("/run/netvm-lab/demo-{}", std::process::id()));
        let files = home.join("files");
        journal.note(Change::Directory(home.clone()))?;
        std::fs::create_dir_all(&files).map_err(LabError::file("make", &files))?;
        let free = hugepages::ensure_free(HUGEPAGES, journal)?;
        println!("{free} hugepages of 2 MiB are free");
        let host = |name: &str, host: &Host| -> Result<Namespace, LabError> {
            let namespace = Namespace::create(name, journal)?;
            namespace.cable(host.port, host.address, 1500)?;
            if let Some(gateway) = host.gateway {
                namespace.ip(&["route", "add", "default", "via", gateway])?;
            }
            Ok(namespace)
        };
        let client = host("nv-demo-client", &cast.client)?;
        let server = host("nv-demo-server", &cast.server)?;
        let span = cast.span.as_ref().map(|span| host("nv-demo-span", span)).transpose()?;
        Ok(Self { client, server, span, log_dir: home, files })
    }

    /// Gives the monitor something to count: pings to an address that nobody has.
    fn talk_into_the_span(&self, journal: &Journal) -> Result<Option<Child>, XtaskError> {
        let Some(span) = &self.span else { return Ok(None) };
        span.ip(&["neigh", "add", "10.3.0.1", "lladdr", "02:00:00:00:03:01", "dev", "eth0"])?;
        let mut command = span.command("ping");
        command.args(["-q", "-i", "0.02", "10.3.0.1"]);
        Ok(Some(Child::spawn("span", command, &self.log_dir, journal)?))
    }
}

/// Boots the VMs, at most as many at a time as there are cores.
fn boot(switch: &mut Switch, vms: &[&str], summary: &mut Summary) -> Result<Vec<Child>, XtaskError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut running = Vec::new();
    for group in vms.chunks(cores) {
        let started = Instant::now();
        println!("booting {}", group.join(" and "));
        for vm in group {
            running.push(switch.boot(vm)?);
        }
        let mut waiting: Vec<&str> = group.to_vec();
        while !waiting.is_empty() {
            for vm in &mut running {
                vm.check_alive()?;
            }
            let left = BOOT_LIMIT.saturating_sub(started.elapsed());
            let status = switch.wait_for(&format!("{} to attach", waiting.join(", ")), left, |status| {
                waiting.iter().any(|vm| attached(status, vm))
            })?;
            waiting.retain(|vm| {
                let there = attached(&status, vm);
                if there {
                    let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    println!("{vm} attached after {took} ms");
                    summary.boot_ms.insert((*vm).to_owned(), took);
                }
                !there
            });
            if let Some(vm) = status.vms.iter().find(|vm| group.contains(&vm.name.as_str())) {
                summary.accelerator.clone_from(&vm.accelerator);
            }
        }
    }
    Ok(running)
}

fn attached(status: &Status, owner: &str) -> bool {
    status.endpoint_of(owner).is_some_and(|endpoint| endpoint.phase == "attached")
}

/// Moves the file and shows the table meanwhile.
fn transfer(
    cast: &Cast,
    options: &Options,
    stage: &Stage,
    switch: &mut Switch,
    journal: &Journal,
    summary: &mut Summary,
) -> Result<(), XtaskError> {
    let payload = Payload::write(&stage.files, "payload.bin", options.file_mib << 20, 0x6e65_7476_6d00)?;
    let mut server = HttpServer::start(&stage.server, &stage.files, &stage.log_dir, journal)?;
    println!("transferring {} MiB over TCP", options.file_mib);
    let mut download = Download::start(
        &stage.client,
        cast.server_address,
        &payload.name,
        &stage.log_dir.join("received.bin"),
        TRANSFER_LIMIT,
        &stage.log_dir,
        journal,
    )?;
    let mut screen = Screen::default();
    let mut before = (Instant::now(), switch.status()?);
    while !download.is_done()? {
        std::thread::sleep(Duration::from_millis(1000));
        server.check_alive()?;
        let now = (Instant::now(), switch.status()?);
        let note = format!("{} of {} MiB", download.bytes_so_far() >> 20, options.file_mib);
        screen.show(&table::render(&before.1, &now.1, now.0 - before.0, &note));
        before = now;
    }
    let downloaded = download.finish(Duration::from_secs(5))?;
    summary.tcp_bytes = downloaded.bytes;
    summary.tcp_seconds = downloaded.took.as_secs_f64();
    summary.tcp_sha256_ok = downloaded.sha256 == payload.sha256;
    Ok(())
}

/// Draws the table over the one before, on a terminal; one after the other elsewhere.
#[derive(Default)]
struct Screen {
    lines_shown: usize,
}

impl Screen {
    fn show(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        if out.is_terminal() && self.lines_shown > 0 {
            // Up, and clear to the end of the screen.
            let _unseen = write!(out, "\x1b[{}A\x1b[J", self.lines_shown);
        }
        let _unseen = write!(out, "{text}").and_then(|()| out.flush());
        self.lines_shown = text.lines().count();
    }
}
