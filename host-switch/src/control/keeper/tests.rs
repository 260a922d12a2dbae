//! A process NF meets the keeper over a real socket and real shared memory; only the datapath is pretended.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags, mmap};
use shm_ring::area::GuestArea;
use shm_ring::attach::{Ask, HostPhase};
use shm_ring::endpoint::{Answer, GuestEndpoint};
use switch_core::ids::EndpointId;

use super::*;
use crate::control::area::ControlArea;
use crate::datapath::{QueuePairHandle, Released};
use crate::plan::Plan;
use crate::region::{Pages, Region};

const CONFIG: &str = r#"
[switch]
name = "demo"
lcores = [0]
[[domain]]
name = "blue"
region_mib = 8
pages = "plain"
[[port]]
name = "client"
device = "net_null0"
domain = "blue"
chain = "way"
[[service]]
name = "forwarder"
[[chain]]
name = "way"
path = ["forwarder"]
egress = "client"
"#;
const PROCESS: &str = r#"
[[process]]
name = "fwd0"
domain = "blue"
[[process.endpoint]]
service = "forwarder"
"#;
const VM: &str = r#"
[[vm]]
name = "fwd0"
domain = "blue"
kernel = "vmlinuz"
initramfs = "initramfs"
[[vm.endpoint]]
service = "forwarder"
nf = "forwarder"
"#;

/// A datapath that holds nothing and notes what it is told.
#[derive(Default)]
struct Noted {
    calls: Mutex<Vec<String>>,
    events: Mutex<Vec<Event>>,
}

impl Noted {
    fn note(&self, call: &str) {
        self.calls.lock().unwrap().push(call.to_owned());
    }

    fn wait_for(&self, calls: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while *self.calls.lock().unwrap() != calls {
            assert!(Instant::now() < deadline, "{:?}, expected {calls:?}", self.calls.lock().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Lending for Noted {
    fn attach(&self, endpoint: EndpointId, pairs: Vec<QueuePairHandle>) -> Result<(), String> {
        self.note(&format!("attach {endpoint} with {} pairs", pairs.len()));
        Ok(())
    }
    fn stop_feeding(&self, _: EndpointId) {
        self.note("stop feeding");
    }
    fn resume_feeding(&self, _: EndpointId) {
        self.note("resume feeding");
    }
    fn release(&self, _: EndpointId) -> Released {
        self.note("release");
        Released { drained: 0, quarantined: 7 }
    }
    fn reclaim(&self, _: EndpointId) -> u32 {
        self.note("reclaim");
        7
    }
    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

struct Lab {
    kind: ClientKind,
    socket: PathBuf,
    noted: Arc<Noted>,
    keeper: Keeper,
}

impl Lab {
    fn start(test: &str) -> Self {
        Self::of(ClientKind::Process, test)
    }

    fn of(kind: ClientKind, test: &str) -> Self {
        let owner = if kind == ClientKind::Vm { VM } else { PROCESS };
        let config = security_domains::parse(&format!("{CONFIG}{owner}"), "test.toml")
            .unwrap_or_else(|findings| panic!("{findings}"));
        let plan = Plan::new(&config, 1).unwrap();
        let region = Arc::new(Region::create("blue", 8 << 20, 2368, Pages::Plain).unwrap());
        let owner = &plan.owners[0];
        let area = ControlArea::create(owner, *region.geometry()).unwrap();
        let journal: &'static AtomicU32 = Box::leak(Box::default());
        let served =
            ServedEndpoint::new(EndpointId(0), "fwd0/forwarder".to_owned(), area.endpoint(0), vec![journal]);
        let socket = std::env::temp_dir().join(format!("netvm-keeper-{}-{test}", std::process::id()));
        let noted = Arc::new(Noted::default());
        let owners = vec![Owner::new(owner, area, region, vec![served])];
        let keeper = Keeper::start(&socket, owners, noted.clone()).unwrap();
        Self { kind, socket, noted, keeper }
    }

    fn say_hello(&self, name: &str) -> (OwnedFd, Received) {
        let socket = seqpacket::connect_to(&self.socket).unwrap();
        let hello = Request::Hello(self.kind, name.to_owned()).to_bytes();
        seqpacket::send(&socket, &hello, &[]).unwrap();
        let answer = seqpacket::receive(&socket).unwrap();
        (socket, answer)
    }

    /// A connected process or `netvm boot`, and its endpoint.
    fn process(&self) -> (OwnedFd, GuestEndpoint<'static>) {
        let (socket, answer) = self.say_hello("fwd0");
        let Received::Message { bytes, fds } = answer else { panic!("{answer:?}") };
        let Said::Ok(granted) = Reply::parse(&bytes).unwrap() else { panic!("{bytes:?}") };
        let control_bytes = usize::try_from(granted.control_bytes).unwrap();
        let (protection, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping of a file that stays as long as it says; the test leaks it.
        let base =
            unsafe { mmap(std::ptr::null_mut(), control_bytes, protection, shared, &fds[0], 0) }.unwrap();
        let base = NonNull::new(base).unwrap().cast();
        // SAFETY: mapped writable for good, and written on both sides by shm-ring only.
        let area = unsafe { GuestArea::open(base, control_bytes) }.unwrap();
        (socket, area.endpoint(0))
    }

    fn end(self) {
        self.keeper.stop();
        std::fs::remove_file(self.socket).unwrap();
    }
}

fn answer_of(endpoint: &GuestEndpoint<'_>, nonce: u64) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(answer) = endpoint.answered(nonce) {
            return answer;
        }
        assert!(Instant::now() < deadline, "no answer");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn attach(endpoint: &GuestEndpoint<'_>, nonce: u64) -> u32 {
    endpoint.ask(endpoint.ask_with(nonce));
    let Answer::Epoch(epoch) = answer_of(endpoint, nonce) else { panic!("refused") };
    endpoint.confirm(epoch);
    epoch
}

#[test]
fn a_process_is_served_and_its_death_brings_its_buffers_home() {
    let lab = Lab::start("death");
    let (socket, endpoint) = lab.process();
    assert_eq!(attach(&endpoint, 11), 1);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    drop(socket);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    assert_eq!(endpoint.phase(), Some(HostPhase::Detached));
    let (_socket, endpoint) = lab.process();
    assert_eq!(attach(&endpoint, 12), 2);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim", "attach 0 with 1 pairs"]);
    lab.end();
}

#[test]
fn what_an_earlier_process_left_in_its_words_attaches_nobody() {
    let lab = Lab::start("stale");
    let (socket, endpoint) = lab.process();
    drop(socket);
    // A writer that the switch does not know of, at the worst moment.
    endpoint.ask(endpoint.ask_with(13));
    let (_socket, endpoint) = lab.process();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!matches!(endpoint.answered(13), Some(Answer::Epoch(_))));
    lab.noted.wait_for(&[]);
    lab.end();
}

#[test]
fn a_clean_leave_brings_buffers_home_and_the_process_may_attach_again() {
    let lab = Lab::start("leave");
    let (_socket, endpoint) = lab.process();
    endpoint.leave(attach(&endpoint, 21));
    // Whether the confirmation was seen before the leave or only with it, nothing may stay behind.
    assert_eq!(attach(&endpoint, 22), 2);
    lab.end();
}

#[test]
fn a_fault_detaches_and_keeps_the_buffers_until_the_end() {
    let lab = Lab::start("fault");
    let (socket, endpoint) = lab.process();
    attach(&endpoint, 31);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    lab.noted.events.lock().unwrap().push(Event::Counter {
        endpoint: EndpointId(0),
        lcore: switch_core::ids::LcoreId(0),
        error: shm_ring::ring::PeerCounterError { claimed: 9, slot_count: 8 },
    });
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release"]);
    drop(socket);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.end();
}

#[test]
fn another_layout_version_is_refused() {
    let lab = Lab::start("version");
    let (_socket, endpoint) = lab.process();
    endpoint.ask(Ask { version: Ask::pack_version(9, 0), ..endpoint.ask_with(41) });
    assert!(matches!(answer_of(&endpoint, 41), Answer::Refused(Some(shm_ring::attach::Refusal::Version))));
    lab.end();
}

#[test]
fn one_process_of_a_name_at_a_time() {
    let lab = Lab::start("twice");
    let (_first, _endpoint) = lab.process();
    let (_second, answer) = lab.say_hello("fwd0");
    let Received::Message { bytes, fds } = answer else { panic!("{answer:?}") };
    assert!(fds.is_empty());
    let Said::Error(why) = Reply::parse(&bytes).unwrap() else { panic!("{bytes:?}") };
    assert_eq!(why, "process fwd0 is connected already; one at a time");
    lab.end();
}

#[test]
fn an_unknown_name_hears_which_there_are() {
    let lab = Lab::start("unknown");
    let (_socket, answer) = lab.say_hello("fwd1");
    let Received::Message { bytes, .. } = answer else { panic!("{answer:?}") };
    let Said::Error(why) = Reply::parse(&bytes).unwrap() else { panic!("{bytes:?}") };
    assert_eq!(why, "no process \"fwd1\" in the config of this switch; it has: fwd0");
    lab.end();
}

#[test]
fn a_vm_is_served_once_its_qmp_socket_has_come_and_again_after_a_reset() {
    let lab = Lab::of(ClientKind::Vm, "reset");
    let (boot, endpoint) = lab.process();
    endpoint.ask(endpoint.ask_with(51));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(endpoint.answered(51), None);

    let (ours, mut qemu) = UnixStream::pair().unwrap();
    seqpacket::send(&boot, &Request::Qmp.to_bytes(), &[ours.as_fd()]).unwrap();
    drop(ours);
    assert_eq!(attach(&endpoint, 52), 1);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);

    qemu.write_all(b"{\"event\": \"RESET\"}\n").unwrap();
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    assert_eq!(attach(&endpoint, 53), 2);
    lab.end();
}

#[test]
fn a_vm_that_shuts_down_keeps_its_buffers_until_its_cpus_stand_still() {
    let lab = Lab::of(ClientKind::Vm, "shutdown");
    let (boot, endpoint) = lab.process();
    let (ours, mut qemu) = UnixStream::pair().unwrap();
    seqpacket::send(&boot, &Request::Qmp.to_bytes(), &[ours.as_fd()]).unwrap();
    drop(ours);
    attach(&endpoint, 56);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);

    // Paused and continued: the guest goes on where it was.
    qemu.write_all(b"{\"event\": \"STOP\"}\n{\"event\": \"RESUME\"}\n").unwrap();
    qemu.write_all(b"{\"event\": \"SHUTDOWN\"}\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    qemu.write_all(b"{\"event\": \"STOP\"}\n").unwrap();
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.end();
}

#[test]
fn the_end_of_qemu_is_the_end_of_a_vm_and_the_end_of_its_launcher_is_not() {
    let lab = Lab::of(ClientKind::Vm, "qemu");
    let (boot, endpoint) = lab.process();
    let (ours, qemu) = UnixStream::pair().unwrap();
    seqpacket::send(&boot, &Request::Qmp.to_bytes(), &[ours.as_fd()]).unwrap();
    drop(ours);
    attach(&endpoint, 61);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);

    drop(boot);
    std::thread::sleep(Duration::from_millis(50));
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    drop(qemu);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.end();
}

#[test]
fn a_process_brings_no_qmp_socket() {
    let lab = Lab::start("qmp");
    let (socket, _endpoint) = lab.process();
    let (ours, _qemu) = UnixStream::pair().unwrap();
    seqpacket::send(&socket, &Request::Qmp.to_bytes(), &[ours.as_fd()]).unwrap();
    let Received::Message { bytes, .. } = seqpacket::receive(&socket).unwrap() else { panic!("no answer") };
    let Said::Error(why) = Reply::parse(&bytes).unwrap() else { panic!("{bytes:?}") };
    assert_eq!(why, "only a VM has QMP and a QEMU process");
    lab.end();
}

#[test]
fn a_process_that_talks_nonsense_keeps_its_buffers_and_its_name_until_it_ends() {
    let lab = Lab::start("nonsense");
    let (socket, endpoint) = lab.process();
    attach(&endpoint, 91);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    for nonsense in [&b"what?"[..], b"", &[b'x'; seqpacket::MESSAGE_BYTES_MAX + 1]] {
        seqpacket::send(&socket, nonsense, &[]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    // It runs and writes: nothing of it may come home, and nobody else may come in its place.
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    let (_second, answer) = lab.say_hello("fwd0");
    let Received::Message { bytes, .. } = answer else { panic!("{answer:?}") };
    assert!(matches!(Reply::parse(&bytes).unwrap(), Said::Error(_)));
    drop(socket);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.end();
}

#[test]
fn a_silent_endpoint_is_not_fed_and_loses_nothing() {
    let lab = Lab::start("silent");
    let (_socket, endpoint) = lab.process();
    attach(&endpoint, 71);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "stop feeding"]);
    endpoint.beat();
    lab.noted.wait_for(&["attach 0 with 1 pairs", "stop feeding", "resume feeding"]);
    lab.end();
}

#[test]
fn a_region_that_lost_a_page_serves_nobody() {
    let lab = Lab::start("lost");
    let (_socket, endpoint) = lab.process();
    attach(&endpoint, 81);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    let (domain, lcore) = (switch_core::ids::DomainId(0), switch_core::ids::LcoreId(0));
    lab.noted.events.lock().unwrap().push(Event::RegionLost { domain, lcore });
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release"]);
    assert_eq!(endpoint.phase(), Some(HostPhase::Quarantined));
    endpoint.ask(endpoint.ask_with(82));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(endpoint.answered(82), None);
    lab.end();
}

#[test]
fn a_message_that_is_no_hello_ends_the_connection() {
    let lab = Lab::start("garbage");
    let socket = seqpacket::connect_to(&lab.socket).unwrap();
    seqpacket::send(socket.as_fd(), b"GET / HTTP/1.1", &[]).unwrap();
    assert!(matches!(seqpacket::receive(&socket).unwrap(), Received::Message { .. }));
    assert!(matches!(seqpacket::receive(&socket).unwrap(), Received::End));
    lab.end();
}
