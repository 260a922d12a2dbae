//! What code of a guest can do that has broken out of its QEMU: it is a process of that QEMU's user, with that
//! QEMU's files. It runs without QEMU's sandbox here, so it may try more than it could.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::flood::Flood;
use lab::status::Status;
use lab::switch::Switch;
use lab::transfer::ping;
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, fstat, ftruncate};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open, test_kill_process};
use vm_tests::config::{CABLES, RED_AND_CABLES, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;
use vm_tests::{Scene, config};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
const BUSY: Duration = Duration::from_secs(60);
/// File descriptors that are tried of each process.
const FDS: i32 = 128;

/// Domains "blue" and "red", each with a VM between its two hosts.
fn two_domains() -> String {
    let red_vm = config::vm("red-vm", "red-forwarder", "forwarder", "").replace("\"blue\"", "\"red\"");
    [
        SWITCH_AND_DOMAIN,
        RED_AND_CABLES,
        CABLES,
        &config::service("forwarder", ""),
        &config::service("red-forwarder", ""),
        &config::there_and_back(&["forwarder"]),
        &config::chain("red-upstream", &["red-forwarder"], "red-server"),
        &config::chain("red-downstream", &["red-forwarder"], "red-client"),
        &config::vm("blue-vm", "forwarder", "forwarder", ""),
        &red_vm,
    ]
    .concat()
}

/// What the intruder did: each try, and what came of those that worked.
#[derive(Default)]
struct Tries {
    made: u64,
    opened: Vec<String>,
}

impl Tries {
    fn note(&mut self, what: impl FnOnce() -> String, worked: bool) {
        self.made += 1;
        if worked {
            self.opened.push(what());
        }
    }

    fn file(&mut self, path: &Path) {
        self.note(|| format!("{} to read", path.display()), File::open(path).is_ok());
        let writable = File::options().write(true).open(path).is_ok();
        self.note(|| format!("{} to write", path.display()), writable);
    }

    fn process(&mut self, pid: i32) {
        for folder in ["fd", "map_files", "task"] {
            let path = format!("/proc/{pid}/{folder}");
            // What threads there are is told to everybody; what they have open is not.
            let entry = fs::read_dir(&path).ok().and_then(|mut entries| entries.next()?.ok());
            self.note(|| format!("{path} to list"), folder != "task" && entry.is_some());
        }
        let pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        for fd in 0..FDS {
            self.file(Path::new(&format!("/proc/{pid}/fd/{fd}")));
            let taken =
                pidfd.as_ref().is_some_and(|pidfd| pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty()).is_ok());
            self.note(|| format!("/proc/{pid} fd {fd} to take"), taken);
        }
        for file in ["mem", "environ", "pagemap", "auxv", "root/.", "cwd/."] {
            self.file(Path::new(&format!("/proc/{pid}/{file}")));
        }
        let signalled = Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok());
        self.note(|| format!("process {pid} to signal"), signalled);
    }

    fn socket(&mut self, path: &Path) {
        for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
            let connected = socket(AddressFamily::UNIX, kind, None)
                .and_then(|socket| connect(&socket, &SocketAddrUnix::new(path)?))
                .is_ok();
            self.note(|| format!("{} to connect", path.display()), connected);
        }
    }

    /// Takes away what can be taken of memory that this process holds a file of.
    fn memory(&mut self, fd: BorrowedFd<'_>, name: &str) {
        let bytes = u64::try_from(fstat(fd).expect("a file").st_size).expect("a size");
        self.note(|| format!("{name} to shrink"), ftruncate(fd, bytes / 2).is_ok());
        self.note(|| format!("{name} to grow"), ftruncate(fd, bytes * 2).is_ok());
        let grown = fallocate(fd, FallocateFlags::empty(), bytes, 1 << 21).is_ok();
        self.note(|| format!("{name} to extend"), grown);
        for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE, SealFlags::SEAL] {
            self.note(|| format!("{name} to seal"), fcntl_add_seals(fd, seal).is_ok());
        }
        // The kernel allows holes where writing is allowed: all of it goes, and comes back as zeroes where somebody
        // looks.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(fd, hole, 0, bytes).is_ok() {
            println!("HOLE {name}");
        }
    }
}

/// Whether something is memory of the switch, by what its link in `/proc` says.
fn is_memory(link: &Path) -> bool {
    link.to_string_lossy().contains("memfd:netvm-")
}

/// Tries everything that a path, a number or an inherited file leads to, and prints what worked.
#[test]
#[ignore = "the process of code_that_broke_out_of_its_qemu_reaches_nothing_of_another_domain"]
fn intruder() {
    let list = |name: &str| {
        let all = std::env::var(name)?;
        let named = all.split(',').filter(|one| !one.is_empty()).map(str::to_owned);
        Ok::<Vec<String>, std::env::VarError>(named.collect())
    };
    let Ok(strange) = list("NETVM_STRANGE") else { return };
    let mut tries = Tries::default();
    for pid in strange {
        tries.process(pid.parse().unwrap());
    }
    for path in list("NETVM_PATHS").unwrap().iter().map(Path::new) {
        tries.file(path);
        tries.socket(path);
    }
    for fd in list("NETVM_HELD").unwrap() {
        let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
        let link = fs::read_link(&path).unwrap();
        if is_memory(&link) {
            let number = fd.parse().unwrap();
            let held = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
            let held = pidfd_getfd(held, number, PidfdGetfdFlags::empty()).unwrap();
            tries.memory(held.as_fd(), &link.display().to_string());
        }
    }
    if rustix::process::geteuid().is_root() {
        println!("the rest would harm");
    } else {
        for path in list("NETVM_PATHS").unwrap().iter().map(Path::new) {
            tries.note(|| format!("{} to remove", path.display()), fs::remove_file(path).is_ok());
        }
    }
    tries.opened.iter().for_each(|opened| println!("OPENED {opened}"));
    println!("DONE {}", tries.made);
}

/// Everything below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { [below(&path), vec![path]].concat() } else { vec![path] })
        .collect()
}

/// Copies of all files that a process holds, but its standard streams.
fn files_of(pid: u32) -> Vec<OwnedFd> {
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let pidfd = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let numbers = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let numbers = numbers.map(|entry| entry.unwrap().file_name().to_string_lossy().parse::<i32>().unwrap());
    let taken = numbers.filter(|number| *number > 2);
    taken.filter_map(|number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok()).collect()
}

/// Who runs as an own process of this switch: itself, the launchers of VMs, their QEMUs but `own`.
fn strangers(switch: &mut Switch, status: &Status, own: u32, launchers: &[u32]) -> BTreeSet<u32> {
    let vms = status.vms.iter().map(|vm| vm.pid).filter(|pid| *pid != own);
    vms.chain([switch.child().pid()]).chain(launchers.iter().copied()).collect()
}

fn joined<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(",")
}

/// Runs [`intruder`] as this user: what it could open, and in how many tries.
fn intrude(program: &Path, user: u32, environment: &[(&str, String)]) -> (Vec<String>, u64, String) {
    let mut command = Command::new(program);
    command.args(["--exact", "intruder", "--ignored", "--nocapture"]).current_dir("/").stdin(Stdio::null());
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.uid(user).gid(user).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let made = text.lines().find_map(|line| line.strip_prefix("DONE ")?.parse().ok());
    let made = made.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let opened = text.lines().filter_map(|line| line.strip_prefix("OPENED ")).map(str::to_owned);
    (opened.collect(), made, text)
}

fn user_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    user.unwrap().parse().unwrap()
}

#[test]
fn code_that_broke_out_of_its_qemu_reaches_nothing_of_another_domain() {
    let scene = Scene::new();
    let (_client, _server) = scene.hosts();
    let (red_client, red_server) =
        (scene.host("d", "10.5.0.2/24", None), scene.host("t", "10.5.0.3/24", None));
    let mut switch = scene.switch(&two_domains());
    let vms = ["blue-vm", "red-vm"].map(|vm| switch.boot(vm).expect("a boot"));
    switch.wait_attached(&["blue-vm", "red-vm"], BOOT_LIMIT).unwrap_or_else(|err| panic!("{err}"));
    let status = switch.status().unwrap();
    let qemu = status.vms.iter().find(|vm| vm.name == "blue-vm").unwrap().pid;
    let user = user_of(qemu);
    assert!(user >= 1_900_000_000, "{user}");

    // Where another user can run it.
    let folder = std::env::temp_dir().join(format!("netvm-broken-out-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("intruder");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let run_dir = PathBuf::from("/run/netvm").join(scene.switch_name());
    let paths = [below(&run_dir), vec![run_dir]].concat();
    assert!(paths.iter().any(|path| fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())));
    let launchers = vms.each_ref().map(|launcher| launcher.pid());
    let strange = strangers(&mut switch, &status, qemu, &launchers);
    assert!(strange.len() >= 4, "{strange:?}");
    let environment = |held: &[OwnedFd]| {
        [
            ("NETVM_STRANGE", joined(&strange)),
            ("NETVM_PATHS", joined(paths.iter().map(|path| path.display()))),
            ("NETVM_HELD", joined(held.iter().map(AsRawFd::as_raw_fd))),
        ]
    };

    // The same tries by root lead somewhere, each kind of them.
    let (as_root, _, text) = intrude(&program, 0, &environment(&[]));
    for what in
        ["/fd to list", "/fd/", "to take", "/mem to write", "to signal", "to connect", "ledger to write"]
    {
        assert!(as_root.iter().any(|opened| opened.contains(what)), "{what}: {text}");
    }

    let flood = Flood::start(&red_client, &red_server, Ipv4Addr::new(10, 5, 0, 3), 9000, 1_000).unwrap();
    let held = files_of(qemu);
    for file in &held {
        // It inherits them.
        fcntl_setfd(file, FdFlags::empty()).unwrap();
    }
    let (as_vm, made, text) = intrude(&program, user, &environment(&held));
    drop(held);
    fs::remove_dir_all(&folder).unwrap();
    println!("{made} tries");
    assert_eq!(as_vm, Vec::<String>::new());
    let holes: Vec<&str> = text.lines().filter(|line| line.starts_with("HOLE ")).collect();
    for memory in ["memfd:netvm-control-blue-vm", "memfd:netvm-region-blue"] {
        assert!(holes.iter().any(|hole| hole.contains(memory)), "{memory}: {text}");
    }
    assert!(holes.iter().all(|hole| hole.contains("blue")), "{holes:?}");

    // The memory of blue is gone while both sides of it run; red loses nothing, and the switch goes on.
    flood.wait_for_more(1_000, BUSY).unwrap_or_else(|err| panic!("{err}"));
    let count = flood.stop();
    assert_eq!((count.damaged, count.reordered), (0, 0), "{count:?}");
    assert_eq!(ping(&red_client, "10.5.0.3", 10, 20).unwrap().answered, 10);
    let status = switch.status().unwrap();
    let red = status.endpoint_of("red-vm").unwrap();
    assert_eq!((red.phase.as_str(), red.epoch), ("attached", 1));
    assert!(red.faults.values().all(|count| *count == 0), "{red:?}");
    assert_conserved(&status);
    drop(vms);
    switch.stop().unwrap();
}
