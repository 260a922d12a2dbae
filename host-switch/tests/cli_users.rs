//! What a guest that broke out of its QEMU can open: it is a process of that VM's user. Needs root.

mod cli;

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cli::Lab;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Pid, test_kill_process};

/// A stand-in for QEMU: it keeps what it inherited, changes its user as QEMU does, and stays.
const QEMU: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        -runas) user="${2%%:*}" ;;
        *id=netvm-serial,path=*) log="${1##*path=}" ;;
    esac
    shift
done
printf 'netvm-guest: booted\nnetvm-guest: ready\n' >> "$log"
exec setpriv --reuid "$user" --regid "$user" --clear-groups sleep 600
"#;

const CONFIG: &str = r#"
[switch]
name = "users"
lcores = [0]
[[domain]]
name = "blue"
region_mib = 8
pages = "plain"
[[domain]]
name = "red"
region_mib = 8
pages = "plain"
[[port]]
name = "blue0"
device = "net_null0"
domain = "blue"
chain = "blue-way"
[[port]]
name = "red0"
device = "net_null1"
domain = "red"
chain = "red-way"
[[service]]
name = "blue-nf"
[[service]]
name = "red-nf"
[[chain]]
name = "blue-way"
path = ["blue-nf"]
egress = "blue0"
[[chain]]
name = "red-way"
path = ["red-nf"]
egress = "red0"
[[vm]]
name = "blue-vm"
domain = "blue"
kernel = "/dev/null"
initramfs = "/dev/null"
[[vm.endpoint]]
service = "blue-nf"
nf = "forwarder"
[[vm]]
name = "red-vm"
domain = "red"
kernel = "/dev/null"
initramfs = "/dev/null"
[[vm.endpoint]]
service = "red-nf"
nf = "forwarder"
"#;

/// Tries everything that a path or a number leads to, and prints what opened.
#[test]
#[ignore = "the process of a_process_with_the_user_of_one_vm_opens_nothing_of_another"]
fn intruder() {
    let Ok(own) = std::env::var("NETVM_OWN") else { return };
    let strange: Vec<i32> =
        std::env::var("NETVM_STRANGE").unwrap().split(',').map(|pid| pid.parse().unwrap()).collect();
    let run_dir = PathBuf::from(std::env::var("NETVM_RUN_DIR").unwrap());
    let opened = |path: &str, how: &str| println!("OPENED {path} {how}");
    let try_file = |path: &str| {
        if File::open(path).is_ok() {
            opened(path, "to read");
        }
        if File::options().write(true).open(path).is_ok() {
            opened(path, "to write");
        }
    };
    for pid in &strange {
        for folder in ["fd", "map_files"] {
            let path = format!("/proc/{pid}/{folder}");
            if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some_and(|entry| entry.is_ok()))
            {
                opened(&path, "to list");
            }
        }
        (0..64).for_each(|fd| try_file(&format!("/proc/{pid}/fd/{fd}")));
        try_file(&format!("/proc/{pid}/mem"));
        if test_kill_process(Pid::from_raw(*pid).unwrap()).is_ok() {
            opened(&format!("process {pid}"), "to signal");
        }
    }
    // Of its own VM it has what it inherited; it cannot open that anew with more rights.
    for fd in 0..64 {
        let path = format!("/proc/{own}/fd/{fd}");
        if fs::read_link(&path).is_ok_and(|link| link.to_string_lossy().contains("memfd:netvm-")) {
            println!("SEEN {path}");
            try_file(&path);
        }
    }
    if fs::read_dir(&run_dir).is_ok() {
        opened("run directory", "to list");
    }
    try_file(run_dir.join("ledger").to_str().unwrap());
    if UnixStream::connect(run_dir.join("control.sock")).is_ok() {
        opened("control.sock", "to connect");
    }
    let packets = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    if connect(&packets, &SocketAddrUnix::new(run_dir.join("endpoint.sock")).unwrap()).is_ok() {
        opened("endpoint.sock", "to connect");
    }
    println!("DONE");
}

#[test]
fn a_process_with_the_user_of_one_vm_opens_nothing_of_another() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let lab = Lab::new();
    lab.open_to_all();
    let config = lab.write_config("users", CONFIG);
    let path = lab.program("qemu-system-x86_64", QEMU);
    let switch = lab.switch(&config);
    for vm in ["blue-vm", "red-vm"] {
        let boot = ["boot", "--detach", "--accel", "tcg", config.to_str().unwrap(), vm];
        let booted = lab.netvm_with_path(&path, &boot);
        assert!(booted.good, "{booted:?}");
    }
    let status: serde_json::Value = serde_json::from_str(&lab.netvm(&["status", "--json"]).output).unwrap();
    let pid = |vm: usize| i32::try_from(status["vms"][vm]["pid"].as_i64().unwrap()).unwrap();
    let (own, other) = (pid(0), pid(1));
    let line = fs::read_to_string(format!("/proc/{own}/status")).unwrap();
    let uid: u32 = line
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
        .unwrap();
    assert!(uid >= 1_900_000_000, "{uid}");

    // Where another user can run it.
    let folder = std::env::temp_dir().join(format!("netvm-intruder-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("intruder");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let intrude = |uid: u32| {
        let mut command = Command::new(&program);
        command
            .args(["--exact", "intruder", "--ignored", "--nocapture"])
            .current_dir("/")
            .stdin(Stdio::null());
        command.env("NETVM_OWN", own.to_string()).env("NETVM_STRANGE", format!("{},{other}", switch.pid()));
        command.env("NETVM_RUN_DIR", lab.run_dir().join("users"));
        let output = command.uid(uid).gid(uid).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("DONE"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let found = |what: &str| text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect();
        let (opened, seen): (Vec<String>, Vec<String>) = (found("OPENED "), found("SEEN "));
        (opened, seen)
    };
    let (as_root, _) = intrude(0);
    let (as_vm, seen) = intrude(uid);
    fs::remove_dir_all(&folder).unwrap();
    // The same attempts by root all lead somewhere.
    for what in
        ["/fd/", "/mem to read", "to signal", "control.sock", "endpoint.sock", "ledger", "run directory"]
    {
        assert!(as_root.iter().any(|opened| opened.contains(what)), "{what}: {as_root:#?}");
    }
    assert_eq!(as_vm, Vec::<String>::new());
    assert!(seen.len() >= 2, "control area and region of its own VM were tried: {seen:?}");
}
