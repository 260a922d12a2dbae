//! A switch in miniature: it serves the memory over an endpoint socket, answers attaches, and a test plays its
//! lcores. Neither root nor DPDK nor hugepages.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "support of tests: a failure here is a failed test")]

use std::io::IoSlice;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guest_netlib::{Device, Options};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept, bind, listen, recv, sendmsg, socket_with,
};
use shm_ring::area::{
    AreaLayout, AreaSpec, EndpointSpec, HostArea, RegionGeometry, TargetKind, TargetSpec, write_region_header,
};
use shm_ring::attach::{AttachAction, GuestEvent, GuestWatch, HostPhase, Refusal};
use shm_ring::desc::{Desc, Kind, REFERENCE, RawDesc, mark, reference_aux};
use shm_ring::layout::STRIDE_BYTES_DEFAULT;
use shm_ring::reference::ReferenceTable;
use shm_ring::ring::{Consumer, Producer};

pub const REGION_BYTES: u64 = 2 << 20;
pub const QUOTA: u32 = 64;
pub const CREDIT: u32 = 4;
pub const RING_SLOTS: u32 = 64;
/// Of each queue pair of an observer.
pub const REFERENCES: u16 = 16;
pub const COOKIE: u64 = 0x1122_3344_5566_7788;
/// What the host puts into the mark of each packet.
pub const INGRESS_PORT: u16 = 3;
pub const RULE_MARK: u16 = 7;

/// A shared file, and where this process maps it for good.
pub struct Memory {
    pub fd: OwnedFd,
    pub base: NonNull<u8>,
    pub bytes: usize,
}

// SAFETY: an address of a mapping that is never undone; tests touch it as the switch would.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(bytes: u64) -> Self {
        let fd = rustix::fs::memfd_create("netvm-test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        Self::map(fd, usize::try_from(bytes).unwrap())
    }

    pub fn map(fd: OwnedFd, bytes: usize) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint replaces no memory in use.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &fd, 0) };
        Self { fd, base: NonNull::new(base.unwrap().cast()).unwrap(), bytes }
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes);
        // SAFETY: inside the mapping, checked above.
        let at = unsafe { self.base.add(offset) };
        // SAFETY: both ranges are valid for their length and do not overlap: one is private.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.as_ptr(), bytes.len()) }
    }

    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.bytes);
        let mut copy = vec![0; len];
        // SAFETY: inside the mapping, checked above.
        let at = unsafe { self.base.add(offset) };
        // SAFETY: both ranges are valid for their length and do not overlap: one is private.
        unsafe { std::ptr::copy_nonoverlapping(at.as_ptr(), copy.as_mut_ptr(), len) }
        copy
    }
}

/// One control area and its region, written as a switch does.
pub struct Areas {
    pub control: Memory,
    pub region: Memory,
    pub geometry: RegionGeometry,
    pub read_only: bool,
    pub host: HostArea<'static>,
}

pub fn endpoint(lcores: &[u16]) -> EndpointSpec {
    EndpointSpec {
        endpoint_id: 5,
        service_id: 1,
        service_name: "forwarder".into(),
        quota_buffers: QUOTA,
        credit_buffers: CREDIT,
        references: 0,
        ring_slots: RING_SLOTS,
        lcores: lcores.to_vec(),
    }
}

impl Areas {
    pub fn new(endpoints: Vec<EndpointSpec>) -> Self {
        Self::with_access(0, endpoints)
    }

    fn with_access(access: u16, endpoints: Vec<EndpointSpec>) -> Self {
        let geometry = RegionGeometry::fit(REGION_BYTES, STRIDE_BYTES_DEFAULT, COOKIE).unwrap();
        let target = |kind, id, name: &str| TargetSpec { kind, id, name: name.into() };
        let layout = AreaLayout::plan(&AreaSpec {
            region: geometry,
            access,
            features_offered: 0,
            endpoints,
            targets: vec![
                target(TargetKind::Service, 2, "router"),
                target(TargetKind::Port, INGRESS_PORT, "client"),
            ],
        })
        .unwrap();
        let (control, region) = (Memory::new(layout.bytes()), Memory::new(REGION_BYTES));
        // SAFETY: mapped for good, page-aligned, and all others go through shm-ring.
        let host = unsafe { HostArea::create(control.base, control.bytes, &layout) }.unwrap();
        // SAFETY: as above.
        unsafe { write_region_header(region.base, &geometry) };
        Self { control, region, geometry, read_only: access != 0, host }
    }
}

struct Shared {
    areas: Areas,
    stop: AtomicBool,
    /// Answers nothing while set.
    silent: AtomicBool,
    refuse: Mutex<Option<Refusal>>,
    events: Mutex<Vec<(usize, GuestEvent)>>,
    last_epoch: AtomicU32,
    /// Connections of processes that ended.
    ended: AtomicUsize,
    /// Ends every connection while set.
    hang_up: AtomicBool,
}

pub struct TestHost {
    folder: tempfile::TempDir,
    pub socket: PathBuf,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl TestHost {
    /// One endpoint with a queue pair for each of `lcores`.
    pub fn new(lcores: &[u16]) -> Self {
        Self::serving(Areas::new(vec![endpoint(lcores)]))
    }

    /// One endpoint that observes.
    pub fn observed(lcores: &[u16]) -> Self {
        let observer = EndpointSpec { references: REFERENCES.into(), credit_buffers: 0, ..endpoint(lcores) };
        Self::serving(Areas::with_access(1, vec![observer]))
    }

    pub fn serving(areas: Areas) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("endpoint.sock");
        let listener =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        listen(&listener, 8).unwrap();
        let shared = Arc::new(Shared {
            areas,
            stop: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            refuse: Mutex::new(None),
            events: Mutex::new(Vec::new()),
            last_epoch: AtomicU32::new(40),
            ended: AtomicUsize::new(0),
            hang_up: AtomicBool::new(false),
        });
        let (for_socket, for_attach) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || serve_socket(&listener, &for_socket)),
            std::thread::spawn(move || serve_attaches(&for_attach)),
        ];
        Self { folder, socket, shared, threads }
    }

    pub fn options(&self) -> Options {
        Options::process(&self.socket, "fwd0")
    }

    /// The device of a program that knows how to observe.
    pub fn observer(&self) -> Arc<Device> {
        Device::find(&Options { observes: true, ..self.options() }).unwrap()
    }

    pub fn device(&self) -> Arc<Device> {
        Device::find(&self.options()).unwrap()
    }

    pub fn areas(&self) -> &Areas {
        &self.shared.areas
    }

    pub fn refuse(&self, refusal: Option<Refusal>) {
        *self.shared.refuse.lock().unwrap() = refusal;
    }

    pub fn silence(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    pub fn hang_up(&self) {
        self.shared.hang_up.store(true, Ordering::SeqCst);
        self.wait_until("all connections to end", || self.ended_connections() > 0);
    }

    pub fn ended_connections(&self) -> usize {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Ends an attach, once the host has taken part in it.
    pub fn detach(&self, position: usize) {
        let is_attached = || {
            let events = self.shared.events.lock().unwrap();
            let mut own = events.iter().filter(|(seen_at, _)| *seen_at == position).map(|(_, event)| event);
            own.rfind(|event| !matches!(event, GuestEvent::Beat(_)))
                .is_some_and(|event| matches!(event, GuestEvent::Confirmed(_)))
        };
        self.wait_until("the confirmation", is_attached);
        self.shared.areas.host.endpoint(position).set_phase(HostPhase::Detached);
    }

    pub fn has_seen(&self, event: GuestEvent) -> bool {
        self.shared.events.lock().unwrap().iter().any(|(_, seen)| *seen == event)
    }

    /// What happened to the attach, without nonces and heartbeats.
    pub fn handshakes(&self) -> Vec<GuestEvent> {
        let events = self.shared.events.lock().unwrap();
        let kept = events.iter().map(|(_, event)| *event);
        kept.filter(|event| !matches!(event, GuestEvent::NonceSeen(_) | GuestEvent::Beat(_))).collect()
    }

    pub fn counters(&self) -> [u64; 16] {
        self.shared.areas.host.endpoint(0).counters()
    }

    pub fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(10), "waited 10 s for {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The other end of a queue pair whose rings were just reset by an attach.
    pub fn lcore(&self, lcore: u16) -> Lcore<'_> {
        let endpoint = self.shared.areas.host.endpoint(0);
        let pair = *endpoint.queue_pairs().iter().find(|pair| pair.lcore == lcore).unwrap();
        Lcore {
            host: self,
            to_guest: Producer::new(pair.host_to_guest, None),
            references: pair.references,
            from_guest: Consumer::new(pair.guest_to_host),
        }
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        assert!(self.folder.path().is_absolute());
    }
}

/// One lcore of the switch, played by a test.
pub struct Lcore<'h> {
    host: &'h TestHost,
    to_guest: Producer<'static>,
    references: ReferenceTable<'static>,
    from_guest: Consumer<'static>,
}

/// What a test lends: buffer `index` with the usual headroom.
pub fn loan(index: u32, len: u16) -> Desc {
    Desc {
        buffer_index: index,
        data_offset_bytes: 128,
        data_len_bytes: len,
        generation: 100 + u16::try_from(index).unwrap(),
        code: Kind::Packet as u8,
        flags: 0,
        aux: mark(INGRESS_PORT, RULE_MARK),
    }
}

/// The reference to what would be lent by `desc`.
pub fn reference(desc: Desc, slot: u16) -> Desc {
    Desc { code: REFERENCE, aux: reference_aux(INGRESS_PORT, slot), ..desc }
}

pub fn empty_loan(index: u32) -> Desc {
    Desc { code: Kind::Empty as u8, aux: 0, ..loan(index, 0) }
}

impl Lcore<'_> {
    /// Lends buffers `first..first + count`, each with a 64-byte frame full of its own index.
    pub fn lend(&mut self, first: u32, count: u32) {
        for index in first..first + count {
            let frame = [u8::try_from(index % 251).unwrap(); 64];
            self.write_frame(index, &frame);
            self.lend_desc(loan(index, 64));
        }
        self.publish();
    }

    pub fn lend_desc(&mut self, desc: Desc) {
        assert!(self.to_guest.room(1).unwrap() >= 1);
        assert!(self.to_guest.stage(desc.pack()));
    }

    /// Brings a reference, good from here on, to what would be lent by `desc`.
    pub fn refer(&mut self, desc: Desc, slot: u16) {
        self.references.show(slot, desc.generation);
        self.lend_desc(reference(desc, slot));
    }

    /// Ends a reference.
    pub fn end(&self, desc: Desc, slot: u16) {
        self.references.show(slot, desc.generation.wrapping_add(1));
    }

    pub fn publish(&mut self) {
        self.to_guest.publish();
    }

    pub fn write_frame(&self, index: u32, frame: &[u8]) {
        self.host.areas().region.write(self.place(index) + 128, frame);
    }

    pub fn read_buffer(&self, index: u32, offset: u16, len: u16) -> Vec<u8> {
        self.host.areas().region.read(self.place(index) + usize::from(offset), len.into())
    }

    fn place(&self, index: u32) -> usize {
        usize::try_from(self.host.areas().geometry.buffer_offset(index)).unwrap()
    }

    /// What has come back since the last call.
    pub fn returned(&mut self) -> Vec<Desc> {
        let mut all = Vec::new();
        let mut burst = [RawDesc::default(); 16];
        loop {
            let count = self.from_guest.take(&mut burst).unwrap();
            if count == 0 {
                return all;
            }
            all.extend(burst[..count].iter().map(|raw| raw.unpack()));
            self.from_guest.release();
        }
    }
}

fn serve_attaches(shared: &Shared) {
    let count = shared.areas.host.endpoint_count();
    let endpoints: Vec<_> = (0..count).map(|position| shared.areas.host.endpoint(position)).collect();
    let mut watches = vec![GuestWatch::default(); count];
    while !shared.stop.load(Ordering::SeqCst) {
        for (position, endpoint) in endpoints.iter().enumerate() {
            if shared.silent.load(Ordering::SeqCst) {
                continue;
            }
            for event in endpoint.poll(&mut watches[position]) {
                match event {
                    GuestEvent::NonceSeen(ask) => answer(shared, endpoint, ask.nonce),
                    GuestEvent::Confirmed(_) => endpoint.set_phase(HostPhase::Attached),
                    GuestEvent::Draining(_) => endpoint.show(&AttachAction::ShowDraining),
                    GuestEvent::Left(_) | GuestEvent::Reaped(_) => endpoint.set_phase(HostPhase::Detached),
                    GuestEvent::Beat(_) => {}
                }
                // Seen means answered.
                shared.events.lock().unwrap().push((position, event));
            }
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn answer(shared: &Shared, endpoint: &shm_ring::area::HostEndpoint<'_>, nonce: u64) {
    let mut refuse = shared.refuse.lock().unwrap();
    if let Some(refusal) = *refuse {
        // One refusal of this kind, then yes: that is what a rate limit does.
        if refusal == Refusal::TooOften {
            *refuse = None;
        }
        endpoint.refuse(nonce, refusal);
        return;
    }
    endpoint.reset_rings();
    endpoint.publish(nonce, shared.last_epoch.fetch_add(1, Ordering::SeqCst) + 1);
}

fn serve_socket(listener: &OwnedFd, shared: &Shared) {
    rustix::io::ioctl_fionbio(listener, true).unwrap();
    let mut connections: Vec<OwnedFd> = Vec::new();
    while !shared.stop.load(Ordering::SeqCst) {
        if let Ok(connection) = accept(listener) {
            rustix::io::ioctl_fionbio(&connection, false).unwrap();
            lend_memory(&connection, shared);
            connections.push(connection);
        }
        let before = connections.len();
        if shared.hang_up.load(Ordering::SeqCst) {
            connections.clear();
        }
        let mut byte = [0u8; 1];
        connections
            .retain(|connection| !matches!(recv(connection, &mut byte, RecvFlags::DONTWAIT), Ok((_, 0))));
        shared.ended.fetch_add(before - connections.len(), Ordering::SeqCst);
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn lend_memory(connection: &OwnedFd, shared: &Shared) {
    let mut text = [0u8; 4096];
    let (count, _) = recv(connection, &mut text, RecvFlags::empty()).unwrap();
    let hello: serde_json::Value = serde_json::from_slice(&text[..count]).unwrap();
    assert_eq!(hello, serde_json::json!({"netvm": 1, "hello": "process", "name": hello["name"]}));
    if hello["name"] != "fwd0" {
        let answer = serde_json::json!({"netvm": 1, "error": format!("no process {}", hello["name"])});
        rustix::net::send(connection, answer.to_string().as_bytes(), SendFlags::empty()).unwrap();
        return;
    }
    let (control, region) = (&shared.areas.control, &shared.areas.region);
    let read_only = shared.areas.read_only;
    let answer = serde_json::json!({"netvm": 1, "ok": {
        "control_bytes": control.bytes, "region_bytes": region.bytes, "read_only": read_only}});
    let reader = read_only.then(|| {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&region.fd));
        rustix::fs::open(path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap()
    });
    let files = [control.fd.as_fd(), reader.as_ref().unwrap_or(&region.fd).as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
    let text = answer.to_string();
    sendmsg(connection, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::empty()).unwrap();
}

/// A folder that looks like /sys/bus/pci/devices, with one shared-memory device for each file.
pub fn pci_folder(folder: &Path, memories: &[&Memory]) -> Vec<PathBuf> {
    let devices = (0..memories.len()).map(|slot| folder.join(format!("0000:00:{:02x}.0", slot + 4)));
    devices
        .zip(memories)
        .map(|(device, memory)| {
            std::fs::create_dir(&device).unwrap();
            std::fs::write(device.join("vendor"), "0x1af4\n").unwrap();
            std::fs::write(device.join("device"), "0x1110\n").unwrap();
            std::fs::write(device.join("enable"), "0\n").unwrap();
            // By process id, so that other processes find it too.
            let (pid, fd) = (std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&memory.fd));
            let file = format!("/proc/{pid}/fd/{fd}");
            std::os::unix::fs::symlink(file, device.join("resource2")).unwrap();
            device
        })
        .collect()
}
