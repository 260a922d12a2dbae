//! One test's own corner of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lab::artifacts::Artifacts;
use lab::child::tail;
use lab::hugepages;
use lab::journal::{Change, Journal};
use lab::namespace::Namespace;
use lab::status::Status;
use lab::switch::Switch;
use lab::transfer::{Download, HttpServer, Payload};

/// For DPDK's own memory and a small region.
const HUGEPAGES: u64 = 96;

static SCENES: AtomicU32 = AtomicU32::new(0);

/// Names, folders and a journal for one test. Dropped last, it undoes everything and, if the test failed,
/// shows the end of every log.
pub struct Scene {
    /// Where the built programs are.
    pub artifacts: Artifacts,
    /// The journal of this test.
    pub journal: Journal,
    /// A folder for configs, logs and files; it goes with the scene.
    pub dir: PathBuf,
    /// Short and unlike that of any other scene: 10 characters at most.
    pub id: String,
}

impl Scene {
    /// Prepares a scene with free hugepages.
    ///
    /// # Panics
    /// If this is not root, or the programs are not built.
    #[must_use]
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make network namespaces and need root");
        let number = SCENES.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}n{number}", std::process::id() % 1_000_000);
        let journal = Journal::open(&id).expect("a journal");
        let dir = PathBuf::from("/run/netvm-lab").join(&id);
        journal.note(Change::Directory(dir.clone())).expect("a note");
        fs::create_dir_all(&dir).expect("a folder");
        hugepages::ensure_free(HUGEPAGES, &journal).expect("hugepages");
        let artifacts = Artifacts::from_env().expect("built programs");
        Self { artifacts, journal, dir, id }
    }

    /// Writes a config; `NAME` in it becomes the switch's name and `ID` the scene's.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn config(&self, text: &str) -> PathBuf {
        let path = self.dir.join("config.toml");
        let text = text
            .replace("NAME", &self.switch_name())
            .replace("ID", &self.id)
            .replace("DIR", &self.dir.display().to_string())
            .replace("KERNEL", &self.artifacts.kernel().display().to_string())
            .replace("INITRAMFS", &self.artifacts.initramfs().display().to_string());
        fs::write(&path, text).expect("a config");
        path
    }

    /// What the switch of this scene is called.
    #[must_use]
    pub fn switch_name(&self) -> String {
        format!("test-{}", self.id)
    }

    /// Starts a switch with this config.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn switch(&self, config: &str) -> Switch {
        let config = self.config(config);
        Switch::start(&self.switch_name(), &config, &self.artifacts, &self.dir, &self.journal)
            .unwrap_or_else(|err| panic!("{err}"))
    }

    /// A host: a namespace whose cable ends at interface `ID` + `suffix` in the root namespace.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn host(&self, suffix: &str, address: &str, gateway: Option<&str>) -> Namespace {
        let namespace =
            Namespace::create(&format!("nv-{}{suffix}", self.id), &self.journal).expect("a namespace");
        namespace.cable(&format!("{}{suffix}", self.id), address, 1500).expect("a cable");
        if let Some(gateway) = gateway {
            namespace.ip(&["route", "add", "default", "via", gateway]).expect("a route");
        }
        namespace
    }

    /// Hosts "c" (10.1.0.2) and "s" (10.1.0.3) on one subnet.
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn hosts(&self) -> (Namespace, Namespace) {
        (self.host("c", "10.1.0.2/24", None), self.host("s", "10.1.0.3/24", None))
    }

    /// The same hosts, knowing each other without ARP, for a flood whose order is checked while its chain dies.
    ///
    /// While a chain is dead, ARP fails; when it answers again, Linux sends what waited for the answer beside
    /// what the sender sends meanwhile, and so reorders a flow before any switch sees it.
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn introduced_hosts(&self) -> (Namespace, Namespace) {
        let (client, server) = self.hosts();
        client.know("10.1.0.3", &server.mac().expect("a cable")).expect("a neighbour");
        server.know("10.1.0.2", &client.mac().expect("a cable")).expect("a neighbour");
        (client, server)
    }

    /// Transfers 16 MiB over TCP from `server`, which has `address`, to `client`; the hashes must be equal.
    ///
    /// # Panics
    /// If it does not arrive within two minutes, or as something else.
    pub fn assert_a_file_crosses(&self, client: &Namespace, server: &Namespace, address: &str) {
        let limit = Duration::from_secs(120);
        let payload = Payload::write(&self.dir, "payload.bin", 16 << 20, 1).expect("a payload");
        let _http = HttpServer::start(server, &self.dir, &self.dir, &self.journal).expect("a server");
        let into = self.dir.join("received.bin");
        let downloaded =
            Download::start(client, address, &payload.name, &into, limit, &self.dir, &self.journal)
                .and_then(|download| download.finish(limit))
                .unwrap_or_else(|err| panic!("{err}"));
        assert_eq!((downloaded.bytes, downloaded.sha256), (payload.bytes, payload.sha256));
    }

    /// Lines of a log of this scene.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default()
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_logs(&self.dir);
        }
        for problem in self.journal.undo_all() {
            eprintln!("warning: {problem}");
        }
    }
}

fn show_logs(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "log") {
            eprintln!("--- the end of {}:\n{}", path.display(), tail(&path, 40));
        }
    }
}

/// Asserts promise 6: in each domain the terms, added up here, make the whole.
///
/// # Panics
/// If they do not.
pub fn assert_conserved(status: &Status) {
    for (domain, buffers) in &status.buffers {
        assert_eq!(buffers.accounted(), buffers.total, "domain {domain}: {buffers:?}");
    }
}

/// Waits until nothing is held by the endpoint of `owner` and nothing is quarantined.
///
/// # Panics
/// If that does not come about within half a minute.
pub fn wait_all_home(switch: &mut Switch, owner: &str) -> Status {
    switch
        .wait_for(&format!("the buffers of {owner} to come home"), Duration::from_secs(30), |status| {
            status.endpoint_of(owner).is_some_and(|endpoint| endpoint.held == 0)
                && status.buffers.values().all(|buffers| buffers.quarantined == 0)
        })
        .unwrap_or_else(|err| panic!("{err}"))
}
