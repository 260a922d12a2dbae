//! An untrusted VM meets the keeper: its launcher over a real socket, a stand-in for its QEMU at the socket of its NIC.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Child;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use switch_core::ids::PortId;
use vhost_port::notifier::Notifier;

use super::tests::{PATIENCE, sleeper};
use super::*;
use crate::control::nic::Nic;
use crate::control::policy::Policy;
use crate::control::runtime_dir::NicSockets;
use crate::datapath::{NicLanes, QueuePairHandle, Released};
use crate::plan::Plan;

const UID: u32 = 1_900_000_000;

/// A datapath that an untrusted VM has no business with.
struct Untouched;

impl Lending for Untouched {
    fn attach(&self, _: EndpointId, _: Vec<QueuePairHandle>) -> Result<(), String> {
        unreachable!("it has no endpoint")
    }
    fn stop_feeding(&self, _: EndpointId) {
        unreachable!("it has no endpoint")
    }
    fn resume_feeding(&self, _: EndpointId) {
        unreachable!("it has no endpoint")
    }
    fn throttle(&self, _: EndpointId, _: u32) {
        unreachable!("it has no endpoint")
    }
    fn release(&self, _: EndpointId) -> Released {
        unreachable!("it has no endpoint")
    }
    fn reclaim(&self, _: EndpointId) -> u32 {
        unreachable!("it has no endpoint")
    }
    fn events(&self) -> Vec<Event> {
        Vec::new()
    }
    fn faults(&self) -> Vec<crate::control::lending::EndpointFaults> {
        Vec::new()
    }
}

/// The VM of the example, its keeper, and a process in the place of its QEMU.
struct Lab {
    keeper: Option<Keeper>,
    qemu: Child,
    sockets: NicSockets,
    _lanes: NicLanes,
    folder: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        _ = self.qemu.kill();
        _ = self.qemu.wait();
    }
}

impl Lab {
    fn start() -> Self {
        let text = include_str!("../../../../security-domains/examples/untrusted.toml");
        let config = security_domains::parse(text, "untrusted.toml").unwrap();
        let plan = Plan::new(&config, 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let sockets = NicSockets::of_switch(folder.path(), "untrusted");
        let port = &plan.ports[1];
        let notifier = Arc::new(Notifier::start().unwrap());
        let (nic, lanes) =
            Nic::open(port, port.nic().unwrap(), (&sockets, None), plan.lcores.len(), &notifier).unwrap();
        let owner = plan.owners.iter().find(|owner| owner.nics == [PortId(1)]).unwrap();
        let owner = Owner::new(owner, "blue", None, Vec::new(), Policy::of_owner(&[], "web0"));
        let owners = vec![owner.with_uid(Some(UID)).with_nics(vec![nic])];
        let witness: Witness = Box::new(Peer::of);
        let keeper =
            Keeper::start(&folder.path().join("endpoint.sock"), owners, Arc::new(Untouched), witness);
        Self { keeper: Some(keeper.unwrap()), qemu: sleeper(), sockets, _lanes: lanes, folder }
    }

    /// A launcher that has said hello; what it was told.
    fn launcher(&self) -> (OwnedFd, Said, usize) {
        let socket = seqpacket::connect_to(&self.folder.path().join("endpoint.sock")).unwrap();
        let hello = Request::Hello(ClientKind::Vm, "web0".to_owned()).to_bytes();
        seqpacket::send(&socket, &hello, &[]).unwrap();
        let (said, fds) = answer(&socket);
        (socket, said, fds)
    }

    /// A launcher that has told which process its QEMU is.
    fn booted(&self) -> OwnedFd {
        let (launcher, ..) = self.launcher();
        let pidfd = pidfd_open(Pid::from_child(&self.qemu), PidfdFlags::empty()).unwrap();
        let pid = Request::Pid { pid: 1, accelerator: Some("tcg".to_owned()), with_launcher: true };
        seqpacket::send(&launcher, &pid.to_bytes(), &[pidfd.as_fd()]).unwrap();
        assert_eq!(answer(&launcher).0, Said::Taken(true));
        launcher
    }

    /// QEMU's end of a NIC.
    fn cable(&self) -> UnixStream {
        let cable = UnixStream::connect(self.sockets.path("web0.eth0")).unwrap();
        cable.set_read_timeout(Some(PATIENCE)).unwrap();
        cable
    }

    fn keeper(&self) -> &Keeper {
        self.keeper.as_ref().unwrap()
    }

    fn wait_until(&self, what: &str, reached: impl Fn(&View) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(&self.keeper().view().lock().unwrap()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.keeper().view().lock().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn answer(socket: &OwnedFd) -> (Said, usize) {
    let Received::Message { bytes, fds } = seqpacket::receive(socket).unwrap() else { panic!("no answer") };
    (Reply::parse(&bytes).unwrap(), fds.len())
}

#[test]
fn an_untrusted_vm_gets_a_user_and_no_memory_and_keeps_its_monitor() {
    let lab = Lab::start();
    let (launcher, said, fds) = lab.launcher();
    let Said::Ok(granted) = said else { panic!("{said:?}") };
    assert!(granted.is_nothing() && granted.uid == Some(UID) && fds == 0, "{granted:?} with {fds}");
    let (ours, _theirs) = UnixStream::pair().unwrap();
    seqpacket::send(&launcher, &Request::Qmp.to_bytes(), &[ours.as_fd()]).unwrap();
    let Said::Error(why) = answer(&launcher).0 else { panic!("its monitor was taken") };
    assert!(why.contains("its QMP socket stays with its launcher"), "{why}");
}

#[test]
fn a_switch_that_ends_leaves_an_untrusted_vm_alive() {
    let mut lab = Lab::start();
    let launcher = lab.booted();
    lab.wait_until("the VM runs", |view| view.vms.iter().any(|vm| vm.name == "web0" && vm.pid > 0));
    lab.keeper.take().unwrap().stop();
    // The launcher sees the end of its switch, and its QEMU none.
    assert!(matches!(seqpacket::receive(&launcher).unwrap(), Received::End));
    assert!(lab.qemu.try_wait().unwrap().is_none());
}

#[test]
fn the_end_of_its_launcher_is_the_end_of_an_untrusted_vm() {
    let mut lab = Lab::start();
    drop(lab.booted());
    let ended = Instant::now();
    while lab.qemu.try_wait().unwrap().is_none() {
        assert!(ended.elapsed() < PATIENCE, "it runs on");
        std::thread::sleep(Duration::from_millis(1));
    }
    lab.wait_until("the VM is gone", |view| view.owners.iter().all(|owner| owner.state == "absent"));
    // Its place is free.
    lab.qemu = sleeper();
    drop(lab.booted());
}

#[test]
fn a_detached_vm_has_its_cable_cut_and_gets_none_until_it_is_let_in() {
    let lab = Lab::start();
    let mut cable = lab.cable();
    lab.wait_until("it is connected", |view| view.nics["web0.eth0"].connected);
    let order = |act| lab.keeper().orders().give(act, "web0").map_err(|error| error.to_string());
    order(Act::Detach).unwrap();
    assert_eq!(cable.read(&mut [0; 1]).unwrap(), 0, "it was cut");
    assert_eq!(lab.cable().read(&mut [0; 1]).unwrap_or(0), 0, "another is cut at once");
    order(Act::Attach).unwrap();
    let _cable = lab.cable();
    lab.wait_until("it is connected again", |view| view.nics["web0.eth0"].connected);
}

#[test]
fn a_message_that_no_frontend_sends_is_a_violation_of_its_vm() {
    use std::io::Write;
    let lab = Lab::start();
    let mut cable = lab.cable();
    cable.write_all(&[0xff; 12]).unwrap();
    assert_eq!(cable.read(&mut [0; 1]).unwrap(), 0, "its session is over");
    lab.wait_until("it is counted", |view| {
        view.owners.iter().any(|owner| owner.violations["control"]["nic_message"] > 0)
    });
}
