//! The directory of one running switch: its lock, its sockets, its ledger.
//!
//! The lock is an `flock`, so the kernel lets go of it however the process ends; files that a killed switch
//! left behind are removed by the next one of the same name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::region::FileIdentity;

/// Where runtime directories live unless the operator says otherwise.
pub const ROOT_DEFAULT: &str = "/run/netvm";

const LOCK: &str = "lock";
const CONTROL_SOCKET: &str = "control.sock";
const ENDPOINT_SOCKET: &str = "endpoint.sock";
const LEDGER: &str = "ledger";
/// Which files elsewhere hold memory of this switch: one [`FileIdentity`] a line.
const MEMORY: &str = "memory";
/// What a switch leaves behind when it is killed, besides the logs of its VMs.
const FILES: [&str; 5] = [LOCK, CONTROL_SOCKET, ENDPOINT_SOCKET, LEDGER, MEMORY];

/// Why a switch cannot take its runtime directory.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// The lock is held.
    #[error(
        "switch {name} already runs as process {pid}; stop it (`netvm stop --switch {name}`) or choose another switch.name"
    )]
    AlreadyRuns {
        /// Name of the switch.
        name: String,
        /// Who holds the lock, as written into it.
        pid: String,
    },
    /// Somebody else holds a port.
    #[error(
        "port device {device} is already bound by process {pid}; stop that switch or give this port another device"
    )]
    PortBound {
        /// The device as the config names it.
        device: String,
        /// Who holds it.
        pid: String,
    },
    /// Every block of users is taken.
    #[error("{blocks} switches run on this host, and each has users for its VMs; stop one of them first")]
    NoUids {
        /// Most switches at a time.
        blocks: u32,
    },
    /// The directory cannot be used.
    #[error(
        "cannot use runtime directory {path}: {source}; run as root, or choose another with --run-dir PATH"
    )]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory is somebody else's, or for something else: what is in it would be removed.
    #[error(
        "{path} {what}, so it is no runtime directory of a switch; choose another switch.name or --run-dir PATH"
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// A claimed runtime directory. Dropping it removes everything in it.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    nics: NicSockets,
    /// Held for the flock.
    _lock: Lock,
}

impl RuntimeDir {
    /// Claims `root/name` for this process and removes what an earlier switch left in it.
    ///
    /// # Errors
    /// If another process holds it, or the directory cannot be made.
    pub fn claim(root: &Path, name: &str) -> Result<Self, RuntimeDirError> {
        let path = root.join(name);
        make_dir(root, 0o755)?;
        make_dir(&path, 0o700)?;
        check_ours(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(at(&path))?;
        let lock = match Lock::take(&path.join(LOCK)).map_err(at(&path))? {
            Ok(lock) => lock,
            Err(pid) => return Err(RuntimeDirError::AlreadyRuns { name: name.to_owned(), pid }),
        };
        let nics = NicSockets::of_switch(root, name);
        let claimed = Self { path, nics, _lock: lock };
        claimed.remove_memory();
        claimed.nics.remove().map_err(at(&claimed.nics.folder))?;
        claimed.remove_files().map_err(at(&claimed.path))?;
        Ok(claimed)
    }

    /// The socket of the HTTP API.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path.join(CONTROL_SOCKET)
    }

    /// The socket where processes and `netvm boot` fetch their memory.
    #[must_use]
    pub fn endpoint_socket(&self) -> PathBuf {
        self.path.join(ENDPOINT_SOCKET)
    }

    /// The host-private file of ledger shards.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.path.join(LEDGER)
    }

    /// Where the NICs of untrusted VMs connect.
    #[must_use]
    pub fn nics(&self) -> &NicSockets {
        &self.nics
    }

    /// Writes down a file that this switch has made elsewhere, so that the next one removes it should this one
    /// be killed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_memory(&self, file: &FileIdentity) -> Result<(), RuntimeDirError> {
        let path = self.path.join(MEMORY);
        let mut line = serde_json::to_vec(file).map_err(|error| at(&path)(error.into()))?;
        line.push(b'\n');
        let mut notes =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(at(&path))?;
        notes.write_all(&line).map_err(at(&path))
    }

    /// Removes the memory of a switch that was killed. Who still maps it keeps what it maps; nobody else finds it.
    fn remove_memory(&self) {
        let Ok(notes) = fs::read_to_string(self.path.join(MEMORY)) else { return };
        // A line cut short by the kill says too little to prove anything.
        for file in notes.lines().filter_map(|line| serde_json::from_str::<FileIdentity>(line).ok()) {
            let path = file.path().display();
            match file.remove() {
                Ok(true) => log::info!("{path} was left by a switch that was killed: removed"),
                Ok(false) => {}
                Err(error) => log::warn!("{path} was left by a switch that was killed, and stays: {error}"),
            }
        }
    }

    fn remove_files(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != LOCK {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Where the NICs of untrusted VMs connect to a switch.
///
/// A folder of its own beside the runtime directory, which only its owner may enter: QEMU connects as the user of
/// its VM, again whenever the switch was gone. That user can enter this folder, list nothing in it, and connect to
/// the sockets that are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicSockets {
    folder: PathBuf,
}

impl NicSockets {
    /// Those of the switch of this name.
    #[must_use]
    pub fn of_switch(root: &Path, name: &str) -> Self {
        // No switch is called so: names have no dots.
        Self { folder: root.join(format!("{name}.nics")) }
    }

    /// The socket of the NIC that is called so, `vm.nic`.
    #[must_use]
    pub fn path(&self, port: &str) -> PathBuf {
        self.folder.join(format!("{port}.sock"))
    }

    /// Listens for a NIC, whose QEMU runs as `uid`, or as our own user.
    ///
    /// # Errors
    /// If the folder or the socket cannot be made.
    pub fn listen(&self, port: &str, uid: Option<u32>) -> Result<UnixListener, RuntimeDirError> {
        make_dir(&self.folder, 0o711)?;
        check_owner(&self.folder)?;
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o711)).map_err(at(&self.folder))?;
        let path = self.path(port);
        let listener = UnixListener::bind(&path).map_err(at(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(at(&path))?;
        if let Some(uid) = uid {
            self.give(port, uid)?;
        }
        Ok(listener)
    }

    /// Lets this user connect to the socket of a NIC, and nobody else but root.
    ///
    /// # Errors
    /// If the socket cannot be given away.
    pub fn give(&self, port: &str, uid: u32) -> Result<(), RuntimeDirError> {
        let path = self.path(port);
        std::os::unix::fs::lchown(&path, Some(uid), Some(uid)).map_err(at(&path))
    }

    /// Removes the sockets and their folder, if they are there.
    fn remove(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            // Nothing else is ever made there.
            if path.extension().is_some_and(|ending| ending == "sock") {
                fs::remove_file(path)?;
            }
        }
        fs::remove_dir(&self.folder)
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        if let Err(error) = self.nics.remove() {
            log::warn!("{} stays behind: {error}; the next switch cleans it", self.nics.folder.display());
        }
        // The lock goes last: until then nobody else can be between its own files and our removal.
        let removed = self
            .remove_files()
            .and_then(|()| fs::remove_file(self.path.join(LOCK)))
            .and_then(|()| fs::remove_dir(&self.path));
        if let Err(error) = removed {
            log::warn!(
                "runtime directory {} stays behind: {error}; the next switch cleans it",
                self.path.display()
            );
        }
    }
}

/// Where claims on things of the whole host are made: one place, whatever runtime directory a switch has. Who is
/// not root can use neither real devices nor that place, and claims among its own.
#[must_use]
pub fn claims_root(run_dir: &Path) -> PathBuf {
    if rustix::process::geteuid().is_root() { ROOT_DEFAULT.into() } else { run_dir.to_owned() }
}

/// A file that stands for something of the whole host, and is gone with the claim.
#[derive(Debug)]
struct Claim {
    path: PathBuf,
    _lock: Lock,
}

impl Claim {
    /// The claim, or the process that has it.
    fn take(root: &Path, folder: &str, name: &str) -> Result<Result<Self, String>, RuntimeDirError> {
        let folder = root.join(folder);
        make_dir(root, 0o755)?;
        make_dir(&folder, 0o700)?;
        let path = folder.join(name);
        let lock = match Lock::take(&path) {
            // Another one has removed the folder with the last claim in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dir(&folder, 0o700)?;
                Lock::take(&path)
            }
            other => other,
        };
        Ok(lock.map_err(at(&path))?.map(|lock| Self { path, _lock: lock }))
    }
}

/// The claim of one switch on a port device, so that two switches never poll the same one.
#[derive(Debug)]
pub struct PortClaim {
    _claim: Claim,
}

/// The claim of one switch on a block of users for its VMs.
#[derive(Debug)]
pub struct UidClaim {
    _claim: Claim,
}

impl UidClaim {
    /// Claims the first free block of so many.
    ///
    /// # Errors
    /// If there is none, or the folder cannot be used.
    pub fn take(root: &Path, blocks: u32) -> Result<(u32, Self), RuntimeDirError> {
        for block in 0..blocks {
            if let Ok(claim) = Claim::take(root, ".uids", &block.to_string())? {
                return Ok((block, Self { _claim: claim }));
            }
        }
        Err(RuntimeDirError::NoUids { blocks })
    }
}

impl PortClaim {
    /// Claims `identity` (what the device really is, see [`super::preflight`]) for this process.
    ///
    /// # Errors
    /// If another process holds it.
    pub fn take(root: &Path, identity: &str, device: &str) -> Result<Self, RuntimeDirError> {
        match Claim::take(root, ".ports", identity)? {
            Ok(claim) => Ok(Self { _claim: claim }),
            Err(pid) => Err(RuntimeDirError::PortBound { device: device.to_owned(), pid }),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("claim {} stays behind: {error}; it binds nobody", self.path.display());
        }
        // Gone with the last claim; the folder stays while another switch has one.
        _ = self.path.parent().map(fs::remove_dir);
    }
}

/// A file that this process holds an exclusive flock on.
#[derive(Debug)]
struct Lock {
    _file: File,
}

impl Lock {
    /// The lock, or the process id that its holder wrote into it.
    fn take(path: &Path) -> io::Result<Result<Self, String>> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Ok(Err(holder_of(&mut file)));
            }
            // Between open and flock the former holder may have removed the file; then we locked nothing.
            if fs::metadata(path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino())) {
                file.set_len(0)?;
                file.write_all(std::process::id().to_string().as_bytes())?;
                return Ok(Ok(Self { _file: file }));
            }
        }
    }
}

fn holder_of(file: &mut File) -> String {
    let mut pid = String::new();
    match file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut pid)) {
        Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
        _ => "(unknown)".to_owned(),
    }
}

/// Whether everything in a directory may be removed: it is a real one of this user, and holds nothing that a
/// switch and its VMs do not leave behind.
fn check_ours(path: &Path) -> Result<(), RuntimeDirError> {
    check_owner(path)?;
    let not_ours = |what: String| Err(RuntimeDirError::NotOurs { path: path.to_owned(), what });
    for entry in fs::read_dir(path).map_err(at(path))? {
        let name = entry.map_err(at(path))?.file_name();
        let is_known = name.to_str().is_some_and(|name| FILES.contains(&name) || name.ends_with(".log"));
        if !is_known {
            return not_ours(format!("holds {}", Path::new(&name).display()));
        }
    }
    Ok(())
}

/// Whether a path is a real directory of this user.
fn check_owner(path: &Path) -> Result<(), RuntimeDirError> {
    let not_ours = |what: String| Err(RuntimeDirError::NotOurs { path: path.to_owned(), what });
    let about = fs::symlink_metadata(path).map_err(at(path))?;
    if !about.is_dir() {
        return not_ours("is not a directory".to_owned());
    }
    if about.uid() != rustix::process::geteuid().as_raw() {
        return not_ours(format!("belongs to user {}", about.uid()));
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> Result<(), RuntimeDirError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(at(path)),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RuntimeDirError + use<> {
    let path = path.to_owned();
    move |source| RuntimeDirError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(test: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("netvm-runtime-{}-{test}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        root
    }

    #[test]
    fn a_second_claim_names_the_process_that_holds_the_first() {
        let root = root("second");
        let first = RuntimeDir::claim(&root, "blue").unwrap();
        let text = RuntimeDir::claim(&root, "blue").unwrap_err().to_string();
        assert!(text.contains(&format!("already runs as process {}", std::process::id())), "{text}");
        drop(first);
        RuntimeDir::claim(&root, "blue").unwrap();
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_claim_removes_what_a_killed_switch_left() {
        let root = root("stale");
        fs::create_dir_all(root.join("blue")).unwrap();
        fs::write(root.join("blue/control.sock"), "").unwrap();
        fs::write(root.join("blue/lock"), "1").unwrap();
        let claimed = RuntimeDir::claim(&root, "blue").unwrap();
        assert!(!claimed.control_socket().exists());
        drop(claimed);
        assert!(!root.join("blue").exists());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_directory_with_other_files_is_no_runtime_directory_and_keeps_them() {
        let root = root("foreign");
        fs::create_dir_all(root.join("blue")).unwrap();
        fs::write(root.join("blue/thesis.tex"), "").unwrap();
        let text = RuntimeDir::claim(&root, "blue").unwrap_err().to_string();
        assert!(text.contains("blue holds thesis.tex, so it is no runtime directory"), "{text}");
        assert!(root.join("blue/thesis.tex").exists());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_a_runtime_directory_is_not_followed() {
        let root = root("link");
        fs::create_dir_all(root.join("elsewhere")).unwrap();
        fs::write(root.join("elsewhere/fw0.serial.log"), "").unwrap();
        std::os::unix::fs::symlink("elsewhere", root.join("blue")).unwrap();
        let text = RuntimeDir::claim(&root, "blue").unwrap_err().to_string();
        assert!(text.contains("blue is not a directory"), "{text}");
        assert!(root.join("elsewhere/fw0.serial.log").exists());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_socket_of_a_nic_is_its_own_users_and_goes_with_the_switch() {
        let root = root("nics");
        let claimed = RuntimeDir::claim(&root, "blue").unwrap();
        let _listener = claimed.nics().listen("web0.eth0", None).unwrap();
        let socket = NicSockets::of_switch(&root, "blue").path("web0.eth0");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o711));
        drop(claimed);
        assert!(!root.join("blue.nics").exists());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_claim_removes_the_sockets_of_nics_that_a_killed_switch_left() {
        let root = root("stale-nics");
        fs::create_dir_all(root.join("blue.nics")).unwrap();
        fs::write(root.join("blue.nics/web0.eth0.sock"), "").unwrap();
        let claimed = RuntimeDir::claim(&root, "blue").unwrap();
        claimed.nics().listen("web0.eth0", None).unwrap();
        drop(claimed);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_port_has_one_switch_at_a_time() {
        let root = root("port");
        let first = PortClaim::take(&root, "iface-7-eth0", "net_af_packet0,iface=eth0").unwrap();
        let text =
            PortClaim::take(&root, "iface-7-eth0", "net_af_packet0,iface=eth0").unwrap_err().to_string();
        assert!(text.contains("net_af_packet0,iface=eth0 is already bound by process"), "{text}");
        drop(first);
        PortClaim::take(&root, "iface-7-eth0", "net_af_packet0,iface=eth0").unwrap();
        fs::remove_dir_all(&root).unwrap();
    }
}
