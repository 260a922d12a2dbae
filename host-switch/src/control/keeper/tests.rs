//! A process NF meets the keeper over a real socket and real shared memory; only the datapath is pretended.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use shm_ring::area::GuestArea;
use shm_ring::attach::{Ask, HostPhase, Refusal};
use shm_ring::endpoint::{Answer, GuestEndpoint};
use switch_core::fault::DescFaultKind;
use switch_core::ids::EndpointId;

use super::*;
use crate::control::area::ControlArea;
use crate::control::lending::EndpointFaults;
use crate::control::owner::OwnerMemory;
use crate::control::policy::{Action, Policy};
use crate::control::violation::ViolationKind;
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

/// How long a machine that is busy may take for what must come; where a check is turned off, it does not come.
pub(super) const PATIENCE: Duration = Duration::from_secs(if cfg!(feature = "sabotage") { 10 } else { 60 });

/// A datapath that holds nothing and notes what it is told.
#[derive(Default)]
struct Noted {
    calls: Mutex<Vec<String>>,
    faults: Mutex<EndpointFaults>,
}

impl Noted {
    fn note(&self, call: &str) {
        self.calls.lock().unwrap().push(call.to_owned());
    }

    fn wait_for(&self, calls: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while *self.calls.lock().unwrap() != calls {
            assert!(Instant::now() < deadline, "{:?}, expected {calls:?}", self.calls.lock().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Lending for Noted {
    fn attach(&self, endpoint: EndpointId, pairs: Vec<QueuePairHandle>) -> Result<(), String> {
        self.note(&format!("attach {endpoint} with {} pairs", pairs.len()));
        self.faults.lock().unwrap().served = true;
        Ok(())
    }
    fn stop_feeding(&self, _: EndpointId) {
        self.note("stop feeding");
    }
    fn resume_feeding(&self, _: EndpointId) {
        self.note("resume feeding");
    }
    fn throttle(&self, _: EndpointId, for_ms: u32) {
        self.note(&format!("throttle {for_ms}"));
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
        Vec::new()
    }
    fn faults(&self) -> Vec<EndpointFaults> {
        vec![self.faults.lock().unwrap().clone()]
    }
}

/// A process that stands for an NF or a QEMU; the test itself speaks and writes for it.
struct Body(Mutex<Child>);

pub(super) fn sleeper() -> Child {
    // Its own streams: one that a failed test leaves behind keeps nobody waiting for the end of ours.
    let null = std::process::Stdio::null;
    Command::new("sleep").arg("600").stdin(null()).stdout(null()).stderr(null()).spawn().unwrap()
}

impl Body {
    fn new() -> Self {
        Self(Mutex::new(sleeper()))
    }

    fn pidfd(&self) -> OwnedFd {
        pidfd_open(Pid::from_child(&self.0.lock().unwrap()), PidfdFlags::empty()).unwrap()
    }

    fn die(&self) {
        let mut child = self.0.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn renew(&self) {
        *self.0.lock().unwrap() = sleeper();
    }

    /// Whether it ends without us.
    fn is_killed(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.0.lock().unwrap().try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let child = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        _ = child.kill();
        _ = child.wait();
    }
}

struct Lab {
    kind: ClientKind,
    socket: PathBuf,
    noted: Arc<Noted>,
    body: Arc<Body>,
    region: Arc<Region>,
    keeper: Keeper,
}

impl Lab {
    fn start(test: &str) -> Self {
        Self::of(ClientKind::Process, test)
    }

    fn of(kind: ClientKind, test: &str) -> Self {
        Self::under(kind, &[], test)
    }

    fn under(kind: ClientKind, policies: &[Policy], test: &str) -> Self {
        let owner = if kind == ClientKind::Vm { VM } else { PROCESS };
        Self::with(kind, owner, policies, test)
    }

    fn with(kind: ClientKind, owner: &str, policies: &[Policy], test: &str) -> Self {
        let config = security_domains::parse(&format!("{CONFIG}{owner}"), "test.toml")
            .unwrap_or_else(|findings| panic!("{findings}"));
        let plan = Plan::new(&config, 1).unwrap();
        let region = Arc::new(Region::create("blue", 8 << 20, 2368, Pages::Plain).unwrap());
        let owner = &plan.owners[0];
        let area = ControlArea::create(owner, *region.geometry()).unwrap();
        let served = (0..).zip(owner.endpoints()).map(|(position, id)| {
            let journal: &'static AtomicU32 = Box::leak(Box::default());
            ServedEndpoint::new(
                id,
                format!("fwd0/forwarder#{position}"),
                area.endpoint(position),
                vec![journal],
            )
        });
        let served = served.collect();
        let socket = std::env::temp_dir().join(format!("netvm-keeper-{}-{test}", std::process::id()));
        let noted = Arc::new(Noted::default());
        let policies = Policy::of_owner(policies, "fwd0");
        let memory = OwnerMemory::new(owner, area, Arc::clone(&region)).unwrap();
        let owners = vec![Owner::new(owner, "blue", Some(memory), served, policies)];
        let body = Arc::new(Body::new());
        let behind = Arc::clone(&body);
        let witness: Witness = Box::new(move |_| Peer::new(behind.pidfd()));
        let keeper = Keeper::start(&socket, owners, noted.clone(), witness).unwrap();
        Self { kind, socket, noted, body, region, keeper }
    }

    /// How the only owner stands, once `reached` says so.
    fn wait_until(&self, what: &str, reached: impl Fn(&OwnerStatus) -> bool) -> OwnerStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.keeper.view().lock().unwrap().owners[0].clone();
            if reached(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn order(&self, act: Act) -> Result<OwnerStatus, String> {
        self.keeper.orders().give(act, "fwd0").map_err(|error| error.to_string())
    }

    /// A VM with both ends of its QEMU, and QEMU's end of QMP.
    fn vm(&self) -> (OwnedFd, GuestEndpoint<'static>, UnixStream) {
        self.launched(false)
    }

    fn launched(&self, with_launcher: bool) -> (OwnedFd, GuestEndpoint<'static>, UnixStream) {
        let (boot, endpoint) = self.process();
        let (ours, qemu) = UnixStream::pair().unwrap();
        seqpacket::send(&boot, &Request::Qmp.to_bytes(), &[ours.as_fd()]).unwrap();
        assert_taken(&boot);
        let pid = Request::Pid { pid: 1, accelerator: None, with_launcher }.to_bytes();
        seqpacket::send(&boot, &pid, &[self.body.pidfd().as_fd()]).unwrap();
        assert_taken(&boot);
        (boot, endpoint, qemu)
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
        let (socket, area) = self.grant();
        (socket, area.endpoint(0))
    }

    fn grant(&self) -> (OwnedFd, GuestArea<'static>) {
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
        (socket, area)
    }

    fn end(self) {
        self.keeper.stop();
        std::fs::remove_file(self.socket).unwrap();
    }
}

fn assert_taken(boot: &OwnedFd) {
    let Received::Message { bytes, .. } = seqpacket::receive(boot).unwrap() else { panic!("no answer") };
    assert_eq!(Reply::parse(&bytes).unwrap(), Said::Taken(true));
}

fn answer_of(endpoint: &GuestEndpoint<'_>, nonce: u64) -> Answer {
    let deadline = Instant::now() + PATIENCE;
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

/// "fwd0" observes what another forwards.
const OBSERVER: &str = r#"
[[service]]
name = "ids"
[[process]]
name = "fwd0"
domain = "blue"
access = "observer"
[[process.endpoint]]
service = "ids"
[[process]]
name = "fwd1"
domain = "blue"
[[process.endpoint]]
service = "forwarder"
"#;

#[test]
fn an_observer_gets_a_region_that_it_cannot_write() {
    let lab = Lab::with(ClientKind::Process, OBSERVER, &[], "observer");
    let (_socket, answer) = lab.say_hello("fwd0");
    let Received::Message { bytes, fds } = answer else { panic!("{answer:?}") };
    let Said::Ok(granted) = Reply::parse(&bytes).unwrap() else { panic!("{bytes:?}") };
    assert!(granted.read_only);
    let (region_bytes, region) = (usize::try_from(granted.region_bytes).unwrap(), &fds[1]);
    let map = |protection| {
        // SAFETY: a new mapping, which nobody uses.
        unsafe { mmap(std::ptr::null_mut(), region_bytes, protection, MapFlags::SHARED, region, 0) }
    };
    assert_eq!(map(ProtFlags::READ | ProtFlags::WRITE).unwrap_err(), Errno::ACCESS);
    let mapped = map(ProtFlags::READ).unwrap();
    // SAFETY: the mapping made above, which nobody uses.
    let more = unsafe { mprotect(mapped, region_bytes, MprotectFlags::READ | MprotectFlags::WRITE) };
    assert_eq!(more.unwrap_err(), Errno::ACCESS);
    assert_eq!(rustix::io::pwrite(region, &[1], 64).unwrap_err(), Errno::BADF);
    lab.end();
}

#[test]
fn a_process_is_served_and_its_death_brings_its_buffers_home() {
    let lab = Lab::start("death");
    let (socket, endpoint) = lab.process();
    assert_eq!(attach(&endpoint, 11), 1);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    lab.body.die();
    drop(socket);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    assert_eq!(endpoint.phase(), Some(HostPhase::Detached));
    lab.body.renew();
    let (_socket, endpoint) = lab.process();
    assert_eq!(attach(&endpoint, 12), 2);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim", "attach 0 with 1 pairs"]);
    lab.end();
}

#[test]
fn what_an_earlier_process_left_in_its_words_attaches_nobody() {
    let lab = Lab::start("stale");
    let (socket, endpoint) = lab.process();
    lab.body.die();
    drop(socket);
    lab.wait_until("its end", |owner| owner.state == "absent");
    // A writer that the switch does not know of, at the worst moment.
    endpoint.ask(endpoint.ask_with(13));
    lab.body.renew();
    let (_socket, endpoint) = lab.process();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!matches!(endpoint.answered(13), Some(Answer::Epoch(_))));
    lab.noted.wait_for(&[]);
    lab.end();
}

#[test]
fn who_is_about_to_leave_is_told_when_the_lcores_have_stopped_feeding() {
    let lab = Lab::start("drain");
    let (_socket, endpoint) = lab.process();
    let epoch = attach(&endpoint, 31);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    assert!(!endpoint.feeding_has_stopped());
    endpoint.drain(epoch);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "stop feeding"]);
    let deadline = Instant::now() + PATIENCE;
    while !endpoint.feeding_has_stopped() {
        assert!(Instant::now() < deadline, "no word of it");
        std::thread::sleep(Duration::from_millis(1));
    }
    endpoint.leave(epoch);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "stop feeding", "release", "reclaim"]);
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
fn a_broken_counter_detaches_and_keeps_the_buffers_until_the_end() {
    let lab = Lab::start("fault");
    let (socket, endpoint) = lab.process();
    attach(&endpoint, 31);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    // No event tells of it: what the lcores counted is enough.
    *lab.noted.faults.lock().unwrap() = EndpointFaults { counter_errors: 1, ..EndpointFaults::default() };
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release"]);
    let owner = lab.wait_until("the policy", |owner| owner.out.is_some());
    assert_eq!((owner.state.as_str(), owner.violations["counter"]["peer_counter"]), ("detached", 1));
    assert_eq!(owner.actions, [("detach".to_owned(), 1)].into());
    endpoint.ask(endpoint.ask_with(32));
    assert!(matches!(answer_of(&endpoint, 32), Answer::Refused(Some(Refusal::Quarantined))));
    lab.body.die();
    drop(socket);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.end();
}

/// What an endpoint did that gave so many descriptors of buffers that it does not hold.
fn bad_descriptors(count: u64) -> EndpointFaults {
    let mut faults = EndpointFaults { served: true, ..EndpointFaults::default() };
    faults.descriptors.add(DescFaultKind::NotHeld, count);
    faults
}

#[test]
fn bad_descriptors_are_counted_and_lead_to_nothing_without_a_policy() {
    let lab = Lab::start("counted");
    let (_socket, endpoint) = lab.process();
    attach(&endpoint, 33);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    for count in [1, 100_000] {
        *lab.noted.faults.lock().unwrap() = bad_descriptors(count);
        lab.wait_until("the count", |owner| owner.violations["descriptor"]["not_held"] == count);
    }
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    lab.end();
}

fn policy(action: Action) -> Policy {
    let violation = Some(ViolationKind::Descriptor);
    Policy { violation, owner: None, action, threshold: 100, window_s: 10 }
}

#[test]
fn a_policy_acts_at_its_threshold_and_not_before() {
    let lab = Lab::under(ClientKind::Process, &[policy(Action::Throttle { for_ms: 250 })], "throttle");
    let (_socket, endpoint) = lab.process();
    attach(&endpoint, 34);
    *lab.noted.faults.lock().unwrap() = bad_descriptors(99);
    lab.wait_until("the count", |owner| owner.violations["descriptor"]["not_held"] == 99);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    *lab.noted.faults.lock().unwrap() = bad_descriptors(100);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "throttle 250"]);
    lab.end();
}

#[test]
fn a_policy_that_detaches_lets_in_again_when_its_time_is_over() {
    let lab = Lab::under(ClientKind::Process, &[policy(Action::Detach { for_s: 1 })], "detach");
    let (_socket, endpoint) = lab.process();
    attach(&endpoint, 35);
    *lab.noted.faults.lock().unwrap() = bad_descriptors(100);
    lab.wait_until("the policy", |owner| owner.out.is_some());
    endpoint.ask(endpoint.ask_with(36));
    assert!(matches!(answer_of(&endpoint, 36), Answer::Refused(Some(Refusal::Quarantined))));
    lab.wait_until("the end of its time", |owner| owner.out.is_none());
    assert_eq!(attach(&endpoint, 37), 2);
    lab.end();
}

#[test]
fn a_policy_that_kills_ends_the_process_and_keeps_others_out() {
    let lab = Lab::under(ClientKind::Process, &[policy(Action::Kill { for_s: 0 })], "kill");
    let (socket, endpoint) = lab.process();
    attach(&endpoint, 38);
    *lab.noted.faults.lock().unwrap() = bad_descriptors(100);
    assert!(lab.body.is_killed());
    drop(socket);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.body.renew();
    let (_socket, answer) = lab.say_hello("fwd0");
    let Received::Message { bytes, .. } = answer else { panic!("{answer:?}") };
    let Said::Error(why) = Reply::parse(&bytes).unwrap() else { panic!("{bytes:?}") };
    assert!(
        why.starts_with("process fwd0 is detached by policy (100 violations of kind descriptor"),
        "{why}"
    );
    lab.end();
}

#[test]
fn who_was_detached_by_hand_stays_out_until_it_is_let_in_by_hand() {
    let lab = Lab::start("hand");
    assert_eq!(
        lab.order(Act::Detach),
        Err("process fwd0 is not attached: nobody has come for it".to_owned())
    );
    let (socket, endpoint) = lab.process();
    attach(&endpoint, 101);
    let not_out = lab.order(Act::Attach).unwrap_err();
    assert_eq!(not_out, "process fwd0 is not detached; it is attached as soon as its NF asks");

    assert_eq!(lab.order(Act::Detach).unwrap().state, "detached");
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release"]);
    endpoint.ask(endpoint.ask_with(102));
    assert!(matches!(answer_of(&endpoint, 102), Answer::Refused(Some(Refusal::Quarantined))));
    assert!(lab.order(Act::Detach).unwrap_err().contains("is detached already by hand"));

    // Not by starting anew either.
    lab.body.die();
    drop(socket);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.body.renew();
    let (_refused, answer) = lab.say_hello("fwd0");
    let Received::Message { bytes, fds } = answer else { panic!("{answer:?}") };
    assert!(fds.is_empty());
    assert!(matches!(Reply::parse(&bytes).unwrap(), Said::Error(_)));

    assert_eq!(lab.order(Act::Attach).unwrap().state, "absent");
    let (_socket, endpoint) = lab.process();
    assert_eq!(attach(&endpoint, 103), 2);
    lab.end();
}

#[test]
fn an_operator_kills_by_pidfd_and_hears_when_nothing_runs() {
    let lab = Lab::start("killed");
    assert_eq!(lab.order(Act::Kill), Err("process fwd0 does not run".to_owned()));
    let (socket, endpoint) = lab.process();
    attach(&endpoint, 104);
    lab.order(Act::Kill).unwrap();
    assert!(lab.body.is_killed());
    drop(socket);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    let unknown = lab.keeper.orders().give(Act::Kill, "fwd1").unwrap_err().to_string();
    assert!(unknown.ends_with("nearest: fwd0"), "{unknown}");
    lab.end();
}

#[test]
fn an_endpoint_that_attaches_without_end_uses_up_its_budget() {
    let lab = Lab::start("storm");
    let (_socket, endpoint) = lab.process();
    let began = Instant::now();
    let mut refused = 0;
    for nonce in 1000..1200 {
        endpoint.ask(endpoint.ask_with(nonce));
        refused += u64::from(matches!(answer_of(&endpoint, nonce), Answer::Refused(Some(Refusal::TooOften))));
    }
    // 33 at once, and eight in a second, however long the machine takes for this.
    let refilled = u64::try_from(began.elapsed().as_millis()).unwrap() / 125 + 1;
    assert!(refused + 33 + refilled >= 200, "{refused} of 200, {refilled} refilled");
    lab.wait_until("the count", |owner| owner.violations["epoch"]["attach_too_often"] == refused);
    lab.end();
}

#[test]
fn the_endpoints_of_one_owner_share_a_budget_of_attaches() {
    let owner = format!("{PROCESS}[[process.endpoint]]\nservice = \"forwarder\"\n");
    let lab = Lab::with(ClientKind::Process, &owner, &[], "shared-budget");
    let (_socket, area) = lab.grant();
    let endpoints = [area.endpoint(0), area.endpoint(1)];
    let began = Instant::now();
    let mut answered = 0;
    for nonce in 1..=60 {
        for endpoint in &endpoints {
            endpoint.ask(endpoint.ask_with(nonce));
            answered += u64::from(matches!(answer_of(endpoint, nonce), Answer::Epoch(_)));
        }
    }
    // What each endpoint may by itself is 32 at once; an owner may as much, and one for each endpoint.
    let refilled = u64::try_from(began.elapsed().as_millis()).unwrap() / 125 + 1;
    assert!(answered <= 34 + refilled, "{answered} attaches, {refilled} refilled");
    lab.end();
}

#[test]
fn a_word_about_an_epoch_that_never_was_is_counted() {
    let lab = Lab::start("epoch");
    let (_socket, endpoint) = lab.process();
    let epoch = attach(&endpoint, 105);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    endpoint.confirm(epoch + 1);
    lab.wait_until("the confirmation", |owner| owner.violations["epoch"]["wrong_epoch"] == 1);
    endpoint.leave(epoch + 7);
    lab.wait_until("the leave", |owner| owner.violations["epoch"]["wrong_epoch"] == 2);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    lab.end();
}

#[test]
fn a_process_that_only_hangs_up_keeps_its_buffers_quarantined_until_it_has_exited() {
    let lab = Lab::start("hangs-up");
    let (socket, endpoint) = lab.process();
    attach(&endpoint, 106);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    drop(socket);
    // Fed no more at once, out after a moment, and nothing comes home: it runs and can write.
    lab.noted.wait_for(&["attach 0 with 1 pairs", "stop feeding", "release"]);
    let owner = lab.wait_until("the count", |owner| owner.violations["control"]["ended_without_exit"] == 1);
    assert_eq!(owner.state, "ending");
    let (_second, answer) = lab.say_hello("fwd0");
    let Received::Message { bytes, fds } = answer else { panic!("{answer:?}") };
    assert!(fds.is_empty());
    let Said::Error(why) = Reply::parse(&bytes).unwrap() else { panic!("{bytes:?}") };
    assert!(why.contains("has ended its connection and runs on; end it first"), "{why}");

    lab.order(Act::Kill).unwrap();
    assert!(lab.body.is_killed());
    lab.noted.wait_for(&["attach 0 with 1 pairs", "stop feeding", "release", "reclaim"]);
    lab.body.renew();
    let (_socket, endpoint) = lab.process();
    assert_eq!(attach(&endpoint, 107), 2);
    lab.end();
}

#[test]
fn a_qemu_that_only_closes_its_monitor_keeps_its_buffers_quarantined_until_it_has_exited() {
    let lab = Lab::of(ClientKind::Vm, "hangs-up-vm");
    let (_boot, endpoint, qemu) = lab.vm();
    attach(&endpoint, 108);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    drop(qemu);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "stop feeding", "release"]);
    lab.wait_until("the count", |owner| owner.violations["control"]["ended_without_exit"] == 1);
    lab.body.die();
    lab.noted.wait_for(&["attach 0 with 1 pairs", "stop feeding", "release", "reclaim"]);
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
fn a_vm_is_served_once_both_its_ends_can_be_seen_and_again_after_a_reset() {
    let lab = Lab::of(ClientKind::Vm, "reset");
    let (boot, endpoint) = lab.process();
    endpoint.ask(endpoint.ask_with(51));
    let (ours, mut qemu) = UnixStream::pair().unwrap();
    seqpacket::send(&boot, &Request::Qmp.to_bytes(), &[ours.as_fd()]).unwrap();
    drop(ours);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(endpoint.answered(51), None);

    let pid = Request::Pid { pid: 1, accelerator: None, with_launcher: false }.to_bytes();
    seqpacket::send(&boot, &pid, &[lab.body.pidfd().as_fd()]).unwrap();
    let Answer::Epoch(epoch) = answer_of(&endpoint, 51) else { panic!("refused") };
    endpoint.confirm(epoch);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);

    qemu.write_all(b"{\"event\": \"RESET\"}\n").unwrap();
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    assert_eq!(attach(&endpoint, 53), epoch + 1);
    lab.end();
}

#[test]
fn a_vm_that_shuts_down_keeps_its_buffers_until_its_cpus_stand_still() {
    let lab = Lab::of(ClientKind::Vm, "shutdown");
    let (_boot, endpoint, mut qemu) = lab.vm();
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
    let (boot, endpoint, qemu) = lab.vm();
    attach(&endpoint, 61);
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);

    drop(boot);
    std::thread::sleep(Duration::from_millis(50));
    lab.noted.wait_for(&["attach 0 with 1 pairs"]);
    lab.body.die();
    drop(qemu);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.end();
}

#[test]
fn a_vm_that_is_to_end_with_its_launcher_is_killed_with_it() {
    let lab = Lab::of(ClientKind::Vm, "launcher");
    let (boot, endpoint, qemu) = lab.launched(true);
    attach(&endpoint, 62);
    drop(boot);
    assert!(lab.body.is_killed());
    drop(qemu);
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release", "reclaim"]);
    lab.end();
}

#[test]
fn a_second_qmp_socket_is_refused_with_the_reason() {
    let lab = Lab::of(ClientKind::Vm, "second-qmp");
    let (boot, _endpoint, _qemu) = lab.vm();
    let (ours, _other) = UnixStream::pair().unwrap();
    seqpacket::send(&boot, &Request::Qmp.to_bytes(), &[ours.as_fd()]).unwrap();
    let Received::Message { bytes, .. } = seqpacket::receive(&boot).unwrap() else { panic!("no answer") };
    assert_eq!(Reply::parse(&bytes).unwrap(), Said::Error("this VM has a QMP socket already".to_owned()));
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
    let control = &lab.wait_until("the counts", |owner| owner.violations["control"]["message_too_long"] == 1);
    assert_eq!(control.violations["control"]["message_malformed"], 2);
    lab.body.die();
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
    lab.region.mapping().mark_dead();
    lab.noted.wait_for(&["attach 0 with 1 pairs", "release"]);
    assert_eq!(endpoint.phase(), Some(HostPhase::Quarantined));
    endpoint.ask(endpoint.ask_with(82));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(endpoint.answered(82), None);
    assert!(lab.order(Act::Attach).unwrap_err().ends_with("is lost; start the switch anew"));
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
