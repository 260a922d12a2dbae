//! A VM or process of the config: its memory, its endpoints, and whoever lives behind it now.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use shm_ring::attach::TokenBucket;

use super::area::ControlArea;
use super::conduct::Conduct;
use super::lending::{EndpointFaults, Lending};
use super::nic::Nic;
use super::order::OrderError;
use super::out::Out;
use super::peer::Peer;
use super::policy::{Action, Policy};
use super::protocol::{ClientKind, Granted};
use super::served::{ASK_REFILL_MS, ASKS, Account, ServedEndpoint};
use super::status::{OwnerStatus, VmStatus};
use super::violation::Violation;
use crate::plan::OwnerPlan;
use crate::qemu::qmp::{Event, Qmp};
use crate::region::Region;

/// Time between the end of a connection and the end of its process. The kernel needs a moment; whoever needs
/// longer has closed its connection and lives on.
const EXIT_LIMIT: Duration = Duration::from_millis(500);

/// A VM or process.
#[derive(Debug)]
pub struct Owner {
    name: String,
    kind: ClientKind,
    /// Name of its domain.
    domain: String,
    /// What it maps; nothing if it is untrusted.
    memory: Option<OwnerMemory>,
    /// The network cards of an untrusted VM.
    nics: Vec<Nic>,
    /// The user that its QEMU is to run as.
    uid: Option<u32>,
    endpoints: Vec<ServedEndpoint>,
    account: Account,
    out: Option<Out>,
    /// Whether somebody is connected for it.
    connected: bool,
    /// The process itself, or its QEMU.
    process: Option<Peer>,
    running: Running,
    ending: Option<Ending>,
}

/// What an owner maps.
#[derive(Debug)]
pub struct OwnerMemory {
    area: ControlArea,
    region: Arc<Region>,
    /// What an observer gets of the region.
    reader: Option<OwnedFd>,
}

impl OwnerMemory {
    /// The memory of an owner: its control area, and the region of its domain.
    ///
    /// # Errors
    /// If an observer's region cannot be opened for reading.
    pub fn new(plan: &OwnerPlan, area: ControlArea, region: Arc<Region>) -> std::io::Result<Self> {
        let reader = || {
            if cfg!(feature = "sabotage-observer-writable") {
                return region.memory().fd().try_clone_to_owned();
            }
            region.memory().reader()
        };
        let reader = plan.read_only.then(reader).transpose()?;
        Ok(Self { area, region, reader })
    }

    fn fds(&self) -> [BorrowedFd<'_>; 2] {
        let region = self.reader.as_ref().map_or(self.region.memory().fd(), AsFd::as_fd);
        [self.area.fd(), region]
    }

    /// What was lost of it, if something was.
    fn lost(&self) -> Option<&'static str> {
        if self.region.mapping().is_dead() {
            Some("a page of the region of its domain is lost")
        } else if self.area.is_dead() {
            Some("a page of its control area is lost")
        } else {
            None
        }
    }
}

/// What is known of the VM behind an owner.
#[derive(Debug, Default)]
struct Running {
    qmp: Option<Qmp>,
    /// Its launcher stays, and wants it ended when it does not any more.
    with_launcher: bool,
    accelerator: String,
    /// QEMU has said that it shuts down; its CPUs may still run.
    is_shutting_down: bool,
}

/// A connection that has ended. That is half of the proof; the other is the end of the process.
#[derive(Debug)]
struct Ending {
    since: Instant,
    cause: &'static str,
    /// It has taken too long, and that was counted.
    told: bool,
}

/// Memory that is handed out: sizes, control area, region.
#[derive(Debug)]
pub struct Grant<'o> {
    /// What the client is told.
    pub told: Granted,
    /// What it maps: control area and region, or nothing.
    pub fds: Vec<BorrowedFd<'o>>,
}

impl Owner {
    /// An owner that nobody has come for yet.
    #[must_use]
    pub fn new(
        plan: &OwnerPlan,
        domain: &str,
        memory: Option<OwnerMemory>,
        endpoints: Vec<ServedEndpoint>,
        policies: Vec<Policy>,
    ) -> Self {
        // Room for each endpoint to attach once at the start, besides.
        let asks = ASKS.saturating_add(u32::try_from(endpoints.len()).unwrap_or(u32::MAX));
        let account =
            Account { asks: TokenBucket::full(asks, ASK_REFILL_MS, 0), conduct: Conduct::new(policies) };
        Self {
            name: plan.name.clone(),
            kind: plan.kind,
            domain: domain.to_owned(),
            memory,
            nics: Vec::new(),
            uid: None,
            endpoints,
            account,
            out: None,
            connected: false,
            process: None,
            running: Running::default(),
            ending: None,
        }
    }

    /// The same, with a user for its QEMU.
    #[must_use]
    pub fn with_uid(self, uid: Option<u32>) -> Self {
        Self { uid, ..self }
    }

    /// The same, with network cards: an untrusted VM.
    #[must_use]
    pub fn with_nics(self, nics: Vec<Nic>) -> Self {
        Self { nics, ..self }
    }

    /// Its network cards.
    #[must_use]
    pub fn nics(&self) -> &[Nic] {
        &self.nics
    }

    /// Whether it maps nothing of ours, so that its life does not depend on ours.
    fn is_untrusted(&self) -> bool {
        self.memory.is_none()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// VM or process.
    #[must_use]
    pub fn kind(&self) -> ClientKind {
        self.kind
    }

    /// Its endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[ServedEndpoint] {
        &self.endpoints
    }

    /// Why nobody can come for it now: somebody is connected, or what was connected may still run, or it is
    /// kept out.
    #[must_use]
    pub fn why_not_now(&self) -> Option<String> {
        let called = self.called();
        if let Some(out) = &self.out {
            return Some(format!("{called} is detached {}", out.describe(&self.name)));
        }
        if self.ending.is_some() {
            let pid = self.pid();
            return Some(format!(
                "{called}: its former process {pid} has ended its connection and runs on; end it first, with \
                 `netvm vm kill {}`",
                self.name
            ));
        }
        self.is_taken().then(|| format!("{called} is connected already; one at a time"))
    }

    /// Whether somebody is connected, or may still run.
    fn is_taken(&self) -> bool {
        self.connected || self.running.qmp.is_some() || self.ending.is_some()
    }

    /// Whether a guest is listened to, or the end of its process waited for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.ending.is_some() || self.endpoints.iter().any(ServedEndpoint::is_open)
    }

    /// Its VM, while one runs.
    #[must_use]
    pub fn vm(&self) -> Option<VmStatus> {
        let Running { qmp, accelerator, .. } = &self.running;
        let runs = qmp.is_some() || self.is_untrusted() && self.process.is_some();
        runs.then(|| VmStatus { name: self.name.clone(), pid: self.pid(), accelerator: accelerator.clone() })
    }

    /// Everything about it, for tools.
    #[must_use]
    pub fn status(&self) -> OwnerStatus {
        let is_attached = self.endpoints.iter().any(|endpoint| endpoint.view().is_attached())
            || self.nics.iter().any(Nic::is_connected);
        let state = match self {
            Self { out: Some(_), .. } => "detached",
            Self { ending: Some(_), .. } => "ending",
            _ if is_attached => "attached",
            _ if self.is_taken() => "connected",
            _ => "absent",
        };
        OwnerStatus {
            name: self.name.clone(),
            kind: self.kind.name().to_owned(),
            domain: self.domain.clone(),
            state: state.to_owned(),
            pid: self.pid(),
            untrusted: self.is_untrusted(),
            out: self.out.as_ref().map(Out::status),
            violations: self.account.conduct.counts(),
            actions: self.account.conduct.actions(),
        }
    }

    /// The QMP connection to wait on.
    #[must_use]
    pub fn qmp(&self) -> Option<&Qmp> {
        self.running.qmp.as_ref()
    }

    fn pid(&self) -> i32 {
        self.process.as_ref().map_or(0, Peer::pid)
    }

    fn called(&self) -> String {
        format!("{} {}", self.kind.name(), self.name)
    }

    /// Takes a client. A process is proved by its connection and its pidfd; a VM has to bring QMP and QEMU's
    /// pidfd first.
    pub fn take(&mut self, client: Peer, lending: &dyn Lending) -> Grant<'_> {
        self.connected = true;
        for endpoint in &mut self.endpoints {
            endpoint.prepare(lending);
        }
        if self.kind == ClientKind::Process {
            self.process = Some(client);
            self.open();
        }
        let Some(memory) = &self.memory else {
            return Grant { told: Granted::nothing(self.uid), fds: Vec::new() };
        };
        let told = Granted {
            control_bytes: memory.area.bytes(),
            region_bytes: memory.region.memory().bytes(),
            read_only: memory.reader.is_some(),
            uid: self.uid,
        };
        Grant { told, fds: memory.fds().to_vec() }
    }

    fn open(&mut self) {
        self.endpoints.iter_mut().for_each(ServedEndpoint::open);
    }

    /// QEMU's QMP socket has come.
    ///
    /// # Errors
    /// If there is one already, or none is wanted.
    pub fn watch_qmp(&mut self, qmp: Qmp) -> Result<(), &'static str> {
        if self.is_untrusted() {
            return Err("nothing is lent to an untrusted VM, so its QMP socket stays with its launcher");
        }
        if self.running.qmp.is_some() || self.ending.is_some() {
            return Err("this VM has a QMP socket already");
        }
        self.running.qmp = Some(qmp);
        Ok(())
    }

    /// The pidfd of QEMU has come, with what runs its instructions. Its guest is listened to from here on: nothing
    /// is lent to a VM whose end could not be proved.
    ///
    /// # Errors
    /// If there is one already, or QMP is not there, or that is no pidfd.
    pub fn watch_process(
        &mut self,
        pidfd: OwnedFd,
        accelerator: Option<String>,
        with_launcher: bool,
    ) -> Result<(), String> {
        if self.process.is_some() {
            return Err("this VM has a QEMU process already".to_owned());
        }
        if self.running.qmp.is_none() && !self.is_untrusted() {
            return Err("qmp comes before pid; it has not come, or it has ended".to_owned());
        }
        let process = Peer::new(pidfd).map_err(|error| error.to_string())?;
        self.admit_user_of(&process);
        self.process = Some(process);
        self.running.accelerator = accelerator.unwrap_or_default();
        self.running.with_launcher = with_launcher;
        self.open();
        Ok(())
    }

    /// QEMU may have been started by the launcher of an earlier switch, which had another block of users.
    fn admit_user_of(&self, qemu: &Peer) {
        let Some(uid) = qemu.vm_user().filter(|uid| Some(*uid) != self.uid) else { return };
        for nic in &self.nics {
            match nic.admit(uid) {
                Ok(()) => log::info!("{}: user {uid}, as which its QEMU runs, may connect", nic.name()),
                Err(error) => log::error!("{}: its QEMU cannot connect: {error}", nic.name()),
            }
        }
    }

    /// The client's connection has ended.
    pub fn disconnected(&mut self, lending: &dyn Lending) {
        self.connected = false;
        if self.kind == ClientKind::Process {
            // Its last words first: who left in good order is not reported dead.
            self.poll(lending);
            self.begin_ending("its process has ended", lending);
        } else if self.running.with_launcher && self.process.as_ref().is_some_and(|qemu| !qemu.has_exited()) {
            // The kernel ends QEMU with its parent only as long as it keeps its user.
            log::warn!("vm {}: its launcher has ended without it: killed", self.name);
            if let Err(error) = self.end_process() {
                log::error!("vm {}: {error}", self.name);
            }
        }
        // Of the others, QMP tells the end.
        if self.kind == ClientKind::Vm && self.is_untrusted() {
            self.running = Running::default();
            self.begin_ending("its launcher has ended", lending);
        }
    }

    /// Looks at the QMP connection, which has something to read.
    pub fn read_qmp(&mut self, lending: &dyn Lending) {
        let Some(qmp) = &mut self.running.qmp else { return };
        let events = match qmp.read() {
            Ok(events) => events,
            Err(error) => return self.lose_qmp(&error, lending),
        };
        for event in events {
            match event {
                Event::Ready => log::info!("vm {} started", self.name),
                // Said while the CPUs are paused, behind the reset.
                Event::Reset => {
                    self.running.is_shutting_down = false;
                    self.prove_stopped(false, "its guest starts over", lending);
                }
                // Said before the CPUs are stopped: the guest may write for some milliseconds more. What proves
                // its end is the end of QEMU, or, if QEMU stays (`-no-shutdown`), STOP; only a reset leads on from
                // there.
                Event::Shutdown => self.running.is_shutting_down = true,
                Event::Stop if self.running.is_shutting_down => {
                    self.prove_stopped(false, "its guest has shut down", lending);
                }
                Event::Eof => {
                    self.running = Running::default();
                    self.begin_ending("its VM has ended", lending);
                }
                Event::Stop | Event::Resume | Event::Powerdown | Event::Done | Event::Refused => {}
            }
        }
    }

    /// QMP cannot be read: nothing of this VM is served any more, and nobody else gets its memory until its
    /// QEMU has exited.
    fn lose_qmp(&mut self, error: &std::io::Error, lending: &dyn Lending) {
        log::error!("vm {}: its QMP socket cannot be read: {error}; it is not served again", self.name);
        self.running.qmp = None;
        self.begin_ending("its VM cannot be watched any more", lending);
    }

    /// A connection has ended: feeds nothing more, and waits for the end of the process. A peer that shuts its
    /// socket down, or never had a process that we know of, proves nothing by it.
    fn begin_ending(&mut self, cause: &'static str, lending: &dyn Lending) {
        self.ending = Some(Ending { since: Instant::now(), cause, told: false });
        self.see_end(lending);
        if self.ending.is_some() {
            for endpoint in &mut self.endpoints {
                endpoint.close(lending);
            }
        }
    }

    /// Looks whether the process behind an ended connection has exited, too.
    fn see_end(&mut self, lending: &dyn Lending) {
        let Some(Ending { since, cause, told }) = self.ending else { return };
        // A VM whose launcher never told its process was never listened to: nothing is lent to it.
        if self.process.as_ref().is_none_or(proves_end) {
            if self.kind == ClientKind::Vm && self.process.is_some() {
                log::info!("vm {} ended", self.name);
            }
            (self.ending, self.process) = (None, None);
            return self.prove_stopped(true, cause, lending);
        }
        if !told && since.elapsed() > EXIT_LIMIT {
            self.ending = Some(Ending { since, cause, told: true });
            self.account.conduct.note(Violation::EndedWithoutExit, 1);
            log::error!(
                "{} has ended its connection, and its process {} runs on: it is served no more, and its buffers \
                 stay quarantined until that process ends (`netvm vm kill {}`)",
                self.called(),
                self.pid(),
                self.name
            );
            self.expel("its connection has ended and its process runs on", lending);
        }
    }

    /// Polls the guests' words, and looks at what time brings.
    pub fn poll(&mut self, lending: &dyn Lending) {
        if self.out.as_ref().is_some_and(|out| out.is_over(Instant::now())) {
            self.let_in("its time is over", lending);
        }
        self.notice_lost_memory(lending);
        let Self { endpoints, account, .. } = self;
        for endpoint in endpoints {
            endpoint.poll(account, lending);
        }
        self.see_end(lending);
    }

    /// Takes note of what the lcores have counted.
    pub fn survey(&mut self, faults: &[EndpointFaults], lending: &dyn Lending) {
        for nic in &mut self.nics {
            nic.survey(&mut self.account.conduct);
        }
        for endpoint in &mut self.endpoints {
            if let Some(faults) = faults.get(endpoint.id().index()) {
                endpoint.survey(faults, &mut self.account.conduct, lending);
            }
        }
    }

    /// Something was said that is none of ours.
    pub fn note(&mut self, violation: Violation) {
        self.account.conduct.note(violation, 1);
    }

    /// Is judged by these policies from here on, as far as they are for it.
    pub fn judge_by(&mut self, policies: &[Policy]) {
        self.account.conduct.judge_by(Policy::of_owner(policies, &self.name));
    }

    /// Does what a policy wants by now.
    pub fn judge(&mut self, lending: &dyn Lending) {
        let Some((action, cause)) = self.account.conduct.judge() else { return };
        log::warn!("{}: {} by policy: {cause}", self.called(), action.name());
        match action {
            Action::Count => {}
            Action::Throttle { for_ms } => {
                for endpoint in &self.endpoints {
                    lending.throttle(endpoint.id(), for_ms);
                }
            }
            Action::Detach { for_s } => self.keep_out(Out::by_policy(cause, for_s, Instant::now()), lending),
            Action::Kill { for_s } => {
                self.keep_out(Out::by_policy(cause, for_s, Instant::now()), lending);
                if let Err(error) = self.end_process() {
                    log::error!("{}: {error}", self.called());
                }
            }
        }
    }

    /// An operator wants it out.
    ///
    /// # Errors
    /// If it is out already, or nobody is there.
    pub fn detach(&mut self, lending: &dyn Lending) -> Result<(), OrderError> {
        match &self.out {
            Some(out @ (Out::Hand | Out::Memory { .. })) => {
                let why = out.describe(&self.name);
                return Err(OrderError::NotNow(format!("{} is detached already {why}", self.called())));
            }
            None if !self.is_taken() && !self.nics.iter().any(Nic::is_connected) => {
                return Err(OrderError::NotNow(format!(
                    "{} is not attached: nobody has come for it",
                    self.called()
                )));
            }
            None | Some(Out::Policy { .. }) => {}
        }
        let consequence =
            if self.is_untrusted() { "the cables of its NICs are out" } else { "no attach is answered" };
        log::warn!("{} detached by hand: {consequence} until `netvm vm attach {}`", self.called(), self.name);
        self.keep_out(Out::Hand, lending);
        Ok(())
    }

    /// An operator lets it in again.
    ///
    /// # Errors
    /// If it is not out, or its memory is lost.
    pub fn attach(&mut self, lending: &dyn Lending) -> Result<(), OrderError> {
        match &self.out {
            None => {
                let asks = if self.is_untrusted() { "QEMU connects" } else { "NF asks" };
                let called = self.called();
                let why = format!("{called} is not detached; it is attached as soon as its {asks}");
                Err(OrderError::NotNow(why))
            }
            Some(out @ Out::Memory { .. }) => {
                let why = out.describe(&self.name);
                Err(OrderError::NotNow(format!("{} is detached {why}", self.called())))
            }
            Some(Out::Hand | Out::Policy { .. }) => {
                self.let_in("by hand", lending);
                Ok(())
            }
        }
    }

    /// An operator wants its process or QEMU dead.
    ///
    /// # Errors
    /// If there is none, or the kernel refuses.
    pub fn kill(&self) -> Result<(), OrderError> {
        self.end_process().map_err(OrderError::NotNow)?;
        log::warn!("{} (process {}) is killed by hand", self.called(), self.pid());
        Ok(())
    }

    fn end_process(&self) -> Result<(), String> {
        let process = self.process.as_ref().ok_or_else(|| {
            if self.is_taken() {
                format!(
                    "{} has not said which process its QEMU is; end it where it was started",
                    self.called()
                )
            } else {
                format!("{} does not run", self.called())
            }
        })?;
        let pid = process.pid();
        process.signal(Signal::KILL).map_err(|error| format!("process {pid} cannot be killed: {error}"))
    }

    fn keep_out(&mut self, out: Out, lending: &dyn Lending) {
        let cause = match &out {
            Out::Hand => "detached by hand",
            Out::Policy { .. } => "detached by policy",
            Out::Memory { cause } => cause,
        };
        self.expel(cause, lending);
        self.nics.iter().for_each(Nic::close);
        self.out = Some(out);
    }

    fn let_in(&mut self, why: &str, lending: &dyn Lending) {
        self.out = None;
        log::info!("{} is let in again: {why}", self.called());
        for endpoint in &mut self.endpoints {
            endpoint.pardon("let in again", lending);
        }
        self.nics.iter().for_each(Nic::reopen);
    }

    /// Memory that it maps has lost a page, perhaps by its own doing: it is not served again by this process.
    fn notice_lost_memory(&mut self, lending: &dyn Lending) {
        let Some(cause) = self.memory.as_ref().and_then(OwnerMemory::lost) else { return };
        if !matches!(self.out, Some(Out::Memory { .. })) {
            log::error!("{} is detached for good: {cause}; start the switch anew", self.called());
            self.keep_out(Out::Memory { cause }, lending);
            for endpoint in &mut self.endpoints {
                endpoint.close(lending);
            }
        }
    }

    fn expel(&mut self, cause: &str, lending: &dyn Lending) {
        for endpoint in &mut self.endpoints {
            endpoint.expel(cause, lending);
        }
    }

    /// Tells its guests that the switch ends; a VM that nobody else looks after ends too, unless it is untrusted:
    /// such a one needs no switch to live.
    pub fn say_goodbye(&self) {
        for endpoint in &self.endpoints {
            endpoint.say_goodbye();
        }
        let orphan = self
            .process
            .as_ref()
            .filter(|_| self.kind == ClientKind::Vm && !self.connected && !self.is_untrusted());
        if let Some(qemu) = orphan {
            match qemu.signal(Signal::TERM) {
                Ok(()) => {
                    log::info!("vm {} was detached from `netvm boot`: ended with the switch", self.name)
                }
                Err(error) => log::warn!("vm {} runs on without a switch: {error}", self.name),
            }
        }
    }

    fn prove_stopped(&mut self, closed: bool, cause: &str, lending: &dyn Lending) {
        for endpoint in &mut self.endpoints {
            endpoint.prove_stopped(closed, cause, lending);
        }
    }
}

/// Whether the exit of this process is proved.
fn proves_end(process: &Peer) -> bool {
    process.has_exited() || cfg!(feature = "sabotage-exit-proof")
}
