//! Hosts of the laboratory: network namespaces, each with one veth cable to a port of the switch.

use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::child::{run, run_command};
use crate::error::LabError;
use crate::journal::{Change, Journal};

/// A network namespace that plays a host.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    journal: Journal,
}

impl Namespace {
    /// Makes a namespace with its loopback up.
    ///
    /// # Errors
    /// If `ip` refuses.
    pub fn create(name: &str, journal: &Journal) -> Result<Self, LabError> {
        journal.note(Change::Namespace(name.to_owned()))?;
        run("ip", &["netns", "add", name])?;
        let namespace = Self { name: name.to_owned(), journal: journal.clone() };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lays a cable: `port` in the root namespace, for the switch, and `eth0` in here with `address`
    /// ("10.1.0.2/24").
    ///
    /// Both ends do their checksums in software and pass no oversized frames: a veth peer would otherwise
    /// hand over TCP segments of 64 KiB with checksums left blank, which a switch must not believe. IPv6
    /// and ARP chatter of the port's end is off, so that the switch alone speaks there.
    ///
    /// # Errors
    /// If `ip` or `ethtool` refuses.
    pub fn cable(&self, port: &str, address: &str, mtu_bytes: u16) -> Result<(), LabError> {
        let mtu = mtu_bytes.to_string();
        self.journal.note(Change::Link(port.to_owned()))?;
        run(
            "ip",
            &[
                "link", "add", port, "mtu", &mtu, "type", "veth", "peer", "name", "eth0", "mtu", &mtu,
                "netns", &self.name,
            ],
        )?;
        let quiet = format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6");
        fs::write(&quiet, "1").map_err(LabError::file("write", quiet))?;
        run("ethtool", &offloads_off(port))?;
        self.run("ethtool", &offloads_off("eth0"))?;
        self.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6"])?;
        run("ip", &["link", "set", port, "arp", "off", "up"])?;
        self.ip(&["address", "add", address, "dev", "eth0"])?;
        self.ip(&["link", "set", "eth0", "up"])
    }

    /// The MAC address of `eth0`.
    ///
    /// # Errors
    /// If there is no cable yet.
    pub fn mac(&self) -> Result<String, LabError> {
        let output = self.run("cat", &["/sys/class/net/eth0/address"])?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Makes this host know the MAC address behind an IP address for good, without ARP.
    ///
    /// # Errors
    /// If `ip` refuses.
    pub fn know(&self, address: &str, mac: &str) -> Result<(), LabError> {
        self.ip(&["neigh", "replace", address, "lladdr", mac, "dev", "eth0", "nud", "permanent"])
    }

    /// Does something inside, in a thread that goes there and ends there: what it opens stays open.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or as `open` says.
    pub fn inside<T: Send + 'static>(
        &self,
        open: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, LabError> {
        let path = format!("/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let file = File::open(&path).map_err(LabError::file("open", &path))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|err| LabError::file("enter", &path)(err.into()))?;
            open().map_err(LabError::file("open a socket in", &path))
        })
        .join()
        .unwrap_or_else(|_| Err(LabError::Status { what: "a thread that opens a socket panicked".into() }))
    }

    /// A UDP socket in here.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn udp_socket(&self, address: SocketAddr) -> Result<UdpSocket, LabError> {
        self.inside(move || UdpSocket::bind(address))
    }

    /// Runs `ip ARGS` in here.
    ///
    /// # Errors
    /// If `ip` refuses.
    pub fn ip(&self, args: &[&str]) -> Result<(), LabError> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(args);
        run("ip", &all).map(drop)
    }

    /// Runs a command in here to its end.
    ///
    /// # Errors
    /// If it cannot be started or fails.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<std::process::Output, LabError> {
        let mut command = self.command(program);
        command.args(args);
        run_command(command)
    }

    /// A command that will run in here. `ip netns exec` replaces itself, so the child is the program.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command.stdin(std::process::Stdio::null());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Deleting the namespace takes its end of each cable away, and with it the port's end.
        if let Err(err) = run("ip", &["netns", "del", &self.name]) {
            eprintln!("warning: {err}");
            return;
        }
        let _unwritten = self.journal.forget(&Change::Namespace(self.name.clone()));
    }
}

fn offloads_off(interface: &str) -> Vec<&str> {
    vec!["-K", interface, "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"]
}
