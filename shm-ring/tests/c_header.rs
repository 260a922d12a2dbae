//! The C header against the Rust layout: sizes, places, constants, and a guest in C at work.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use shm_ring::area::{AreaLayout, AreaSpec, EndpointSpec, HostArea, HostEndpoint, RegionGeometry};
use shm_ring::attach::{
    AttachAction, AttachEvent, AttachLimits, AttachMachine, AttachState, GuestWatch, HostPhase, Refusal,
};
use shm_ring::desc::{self, Desc, Kind, RawDesc, Verdict};
use shm_ring::layout::{self, Direction, GuestCounter};
use shm_ring::ring::{Consumer, Producer};

fn compile(source: &Path, program: &str) -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(program);
    let status = Command::new("cc")
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-I"])
        .arg(crate_dir.join("include"))
        .arg(source)
        .arg("-o")
        .arg(&program)
        .status()
        .expect("a C compiler called cc is needed to hold the header against the layout");
    assert!(status.success(), "cc refused {}", source.display());
    program
}

/// Name, offset and size of each field, as Rust has it.
struct Struct {
    rust: &'static str,
    c: &'static str,
    bytes: usize,
    fields: Vec<(&'static str, usize, usize)>,
}

fn size_of_field<S, F>(_: impl Fn(&S) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! structs {
    ($($rust:ident = $c:ident { $($field:ident $(as $c_field:ident)?),+ $(,)? })+) => {
        vec![$(Struct {
            rust: stringify!($rust),
            c: stringify!($c),
            bytes: size_of::<layout::$rust>(),
            fields: vec![$((
                [$(stringify!($c_field),)? stringify!($field)][0],
                core::mem::offset_of!(layout::$rust, $field),
                size_of_field(|of: &layout::$rust| &of.$field),
            )),+],
        }),+]
    };
}

fn structs() -> Vec<Struct> {
    structs! {
        ControlHeader = netvm_control_header {
            magic, version_major, version_minor, header_bytes, control_bytes, features_offered,
            guest_section_offset, region_bytes, region_cookie, buffers_offset, buffer_stride_bytes, buffer_count,
            headroom_bytes, access, endpoint_table_offset, ring_table_offset, target_table_offset, endpoint_count,
            endpoint_entry_bytes, ring_count, ring_entry_bytes, target_count, target_entry_bytes,
            guest_words_bytes, reserved,
        }
        EndpointFacts = netvm_endpoint_facts {
            endpoint_id, service_id, first_ring, ring_count, quota_buffers, credit_buffers, guest_words_offset,
            service_name, reserved0,
        }
        HostWords = netvm_host_words { epoch, phase, answered_nonce, refusal, reserved }
        EndpointEntry = netvm_endpoint_entry { facts, words }
        RingEntry = netvm_ring_entry {
            direction, class as class_, endpoint, lcore, reserved0, slots, doorbell_id, produced_offset,
            consumed_offset, descriptors_offset, metadata_offset, references_offset, reference_count, reserved1,
        }
        TargetEntry = netvm_target_entry { kind, reserved, id, name }
        GuestWords = netvm_guest_words {
            attach_nonce, version, confirmed_epoch, features_accepted, detached_epoch, reaped_epoch, heartbeat, draining_epoch,
            reserved0, counters, reserved1,
        }
        CounterLine = netvm_counter_line { value, want_wakeup, reserved }
        Slot = netvm_slot { word0, word1 }
        RegionHeader = netvm_region_header {
            magic, version_major, version_minor, reserved0, cookie, region_bytes, reserved1,
        }
    }
}

fn constants() -> Vec<(&'static str, u64)> {
    vec![
        ("NETVM_CONTROL_MAGIC", layout::CONTROL_MAGIC),
        ("NETVM_REGION_MAGIC", layout::REGION_MAGIC),
        ("NETVM_VERSION_MAJOR", layout::VERSION_MAJOR.into()),
        ("NETVM_VERSION_MINOR", layout::VERSION_MINOR.into()),
        ("NETVM_PAGE_BYTES", layout::PAGE_BYTES as u64),
        ("NETVM_COUNTER_LINE_BYTES", layout::COUNTER_LINE_BYTES as u64),
        ("NETVM_CACHE_LINE_BYTES", layout::CACHE_LINE_BYTES.into()),
        ("NETVM_DESC_BYTES", layout::DESC_BYTES as u64),
        ("NETVM_RING_SLOTS_MIN", layout::RING_SLOTS_MIN.into()),
        ("NETVM_RING_SLOTS_MAX", layout::RING_SLOTS_MAX.into()),
        ("NETVM_REFERENCES_MAX", layout::REFERENCES_MAX.into()),
        ("NETVM_HEADROOM_BYTES", layout::HEADROOM_BYTES.into()),
        ("NETVM_NAME_BYTES", layout::NAME_BYTES as u64),
        ("NETVM_FEATURES_KNOWN", layout::FEATURES_KNOWN),
        ("NETVM_HOST_TO_GUEST", Direction::HostToGuest as u64),
        ("NETVM_GUEST_TO_HOST", Direction::GuestToHost as u64),
        ("NETVM_TARGET_SERVICE", shm_ring::area::TargetKind::Service as u64),
        ("NETVM_TARGET_PORT", shm_ring::area::TargetKind::Port as u64),
        ("NETVM_KIND_PACKET", Kind::Packet as u64),
        ("NETVM_KIND_EMPTY", Kind::Empty as u64),
        ("NETVM_REFERENCE", desc::REFERENCE.into()),
        ("NETVM_VERDICT_NEXT", Verdict::Next as u64),
        ("NETVM_VERDICT_TO_SERVICE", Verdict::ToService as u64),
        ("NETVM_VERDICT_TO_PORT", Verdict::ToPort as u64),
        ("NETVM_VERDICT_DROP", Verdict::Drop as u64),
        ("NETVM_VERDICT_RETURN_EMPTY", Verdict::ReturnEmpty as u64),
        ("NETVM_RELEASE", desc::RELEASE.into()),
        ("NETVM_FLAG_MORE", desc::FLAG_MORE.into()),
        ("NETVM_FLAGS_KNOWN", desc::FLAGS_KNOWN.into()),
        ("NETVM_PHASE_DETACHED", HostPhase::Detached as u64),
        ("NETVM_PHASE_PUBLISHED", HostPhase::Published as u64),
        ("NETVM_PHASE_ATTACHED", HostPhase::Attached as u64),
        ("NETVM_PHASE_REFUSED", HostPhase::Refused as u64),
        ("NETVM_PHASE_QUARANTINED", HostPhase::Quarantined as u64),
        ("NETVM_PHASE_DRAINING", HostPhase::Draining as u64),
        ("NETVM_REFUSAL_VERSION", Refusal::Version as u64),
        ("NETVM_REFUSAL_FEATURES", Refusal::Features as u64),
        ("NETVM_REFUSAL_TOO_OFTEN", Refusal::TooOften as u64),
        ("NETVM_REFUSAL_QUARANTINED", Refusal::Quarantined as u64),
        ("NETVM_REFUSAL_UNPROVEN", Refusal::Unproven as u64),
        ("NETVM_COUNTER_RECEIVED", GuestCounter::Received as u64),
        ("NETVM_COUNTER_SENT", GuestCounter::Sent as u64),
        ("NETVM_COUNTER_DROPPED", GuestCounter::Dropped as u64),
        ("NETVM_COUNTER_MADE", GuestCounter::Made as u64),
        ("NETVM_COUNTER_EMPTY_POLLS", GuestCounter::EmptyPolls as u64),
        ("NETVM_COUNTER_APP", GuestCounter::App as u64),
    ]
}

/// A descriptor with another value in each byte.
const SAMPLE: Desc = Desc {
    buffer_index: 0x0403_0201,
    data_offset_bytes: 0x0605,
    data_len_bytes: 0x0807,
    generation: 0x0a09,
    code: 0x0b,
    flags: 0x0c,
    aux: 0x100f_0e0d,
};

fn print_layout_in_c() -> String {
    let mut body = String::new();
    for Struct { c, fields, .. } in structs() {
        let _ = writeln!(body, r#"    printf("{c} %zu\n", sizeof(struct {c}));"#);
        for (field, ..) in fields {
            let _ = writeln!(
                body,
                r#"    printf("{c}.{field} %zu %zu\n", offsetof(struct {c}, {field}), sizeof(((struct {c} *)0)->{field}));"#
            );
        }
    }
    for (name, _) in constants() {
        let _ = writeln!(body, r#"    printf("{name} %llu\n", (unsigned long long){name});"#);
    }
    format!(
        "#include <stdio.h>\n#include \"netvm.h\"\nint main(void)\n{{\n{body}\
         struct netvm_desc sample = netvm_desc_unpack(0x{:x}ull, 0x{:x}ull);\n\
         printf(\"sample %x %x %x %x %x %x %x\\n\", sample.buffer_index, sample.data_offset_bytes, \
         sample.data_len_bytes, sample.generation, sample.code, sample.flags, sample.aux);\n\
         printf(\"words %llx %llx\\n\", (unsigned long long)netvm_desc_word0(sample), \
         (unsigned long long)netvm_desc_word1(sample));\n    return 0;\n}}\n",
        SAMPLE.pack().word0,
        SAMPLE.pack().word1,
    )
}

#[test]
fn the_c_header_says_what_rust_says() {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("print_layout.c");
    std::fs::write(&source, print_layout_in_c()).unwrap();
    let printed = Command::new(compile(&source, "print_layout")).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let in_c: BTreeMap<&str, &str> = printed.lines().filter_map(|line| line.split_once(' ')).collect();

    let mut differences = Vec::new();
    let mut compare = |name: &str, rust: String| {
        if in_c.get(name) != Some(&rust.as_str()) {
            differences.push(format!("{name}: {rust} in Rust, {:?} in C", in_c.get(name)));
        }
    };
    for Struct { c, bytes, fields, .. } in structs() {
        compare(c, bytes.to_string());
        for (field, offset, size) in fields {
            compare(&format!("{c}.{field}"), format!("{offset} {size}"));
        }
    }
    for (name, value) in constants() {
        compare(name, value.to_string());
    }
    compare("sample", "4030201 605 807 a09 b c 100f0e0d".into());
    compare("words", format!("{:x} {:x}", SAMPLE.pack().word0, SAMPLE.pack().word1));
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn the_comparison_leaves_out_no_byte() {
    for Struct { rust, bytes, fields, .. } in structs() {
        let mut end = 0;
        for (field, offset, size) in fields {
            assert_eq!(offset, end, "a gap, or a field left out, before {rust}::{field}");
            end = offset + size;
        }
        assert_eq!(end, bytes, "a gap, or a field left out, at the end of {rust}");
    }
}

#[test]
fn every_constant_of_the_header_is_compared() {
    let header =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("include/netvm.h")).unwrap();
    let compared: Vec<&str> = constants().iter().map(|(name, _)| *name).collect();
    let names = header.lines().filter_map(|line| line.strip_prefix("#define ")?.split_whitespace().next());
    // The include guard, and the codes that only C functions return.
    let others = |name: &&str| *name != "NETVM_H" && !name.starts_with("NETVM_E_");
    let missing: Vec<&str> = names.filter(others).filter(|name| !compared.contains(name)).collect();
    assert_eq!(missing, [""; 0]);
}

/// A memfd mapped by this process; a child opens it by the path.
struct SharedFile {
    fd: std::os::fd::OwnedFd,
    base: NonNull<u8>,
    bytes: usize,
}

impl SharedFile {
    fn new(bytes: u64) -> Self {
        let fd = memfd_create("netvm-control", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, bytes).unwrap();
        let bytes = usize::try_from(bytes).unwrap();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice replaces none.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, &fd, 0) }.unwrap();
        Self { fd, base: NonNull::new(base.cast()).unwrap(), bytes }
    }

    fn path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; whoever borrowed it is gone by the borrow's lifetime.
        unsafe { munmap(self.base.as_ptr().cast(), self.bytes) }.unwrap();
    }
}

/// Ends with its owner, whatever the test does.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(
    host: &HostEndpoint<'_>,
    machine: &mut AttachMachine,
    watch: &mut GuestWatch,
    state: AttachState,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while machine.state() != state {
        assert!(Instant::now() < deadline, "the guest never led to {state:?}, but to {:?}", machine.state());
        for event in host.poll(watch) {
            for action in machine.apply(event.into(), 0).unwrap_or_default() {
                host.show(&action);
            }
        }
        std::thread::yield_now();
    }
}

fn packet(index: u32, generation: u16) -> Desc {
    let code = Kind::Packet as u8;
    Desc {
        buffer_index: index,
        data_offset_bytes: 128,
        data_len_bytes: 60,
        generation,
        code,
        flags: 0,
        aux: 0,
    }
}

const QUOTA: u32 = 64;

fn region() -> RegionGeometry {
    RegionGeometry::fit(2 << 20, layout::STRIDE_BYTES_DEFAULT, 1).unwrap()
}

/// The plan for a guest that forwards, or observes by so many references.
fn plan(references: u32) -> AreaLayout {
    let spec = AreaSpec {
        region: region(),
        access: u16::from(references > 0),
        features_offered: 0,
        endpoints: vec![EndpointSpec {
            endpoint_id: 1,
            service_id: 1,
            service_name: "forwarder".into(),
            quota_buffers: QUOTA,
            credit_buffers: 0,
            references,
            ring_slots: 16,
            lcores: vec![0],
        }],
        targets: vec![],
    };
    AreaLayout::plan(&spec).unwrap()
}

fn host<'m>(file: &'m SharedFile, layout: &AreaLayout) -> HostEndpoint<'m> {
    // SAFETY: mapped until `file` is dropped, which the borrow outlives; the guest accesses it atomically.
    unsafe { HostArea::create(file.base, file.bytes, layout) }.unwrap().endpoint(0)
}

/// Starts the guest in C; with a region it observes. `name` is the test's own, so that no two compile to the same place.
fn start_guest(file: &SharedFile, packets: u32, region: Option<&SharedFile>, name: &str) -> Guest {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/guest.c");
    let mut command = Command::new(compile(&source, name));
    Guest(
        command.arg(file.path()).arg(packets.to_string()).args(region.map(SharedFile::path)).spawn().unwrap(),
    )
}

#[test]
fn a_guest_in_c_refuses_another_major_version() {
    let layout = plan(0);
    let file = SharedFile::new(layout.bytes());
    host(&file, &layout);
    let at = core::mem::offset_of!(layout::ControlHeader, version_major);
    // SAFETY: inside the mapping.
    let version = unsafe { file.base.add(at) };
    // SAFETY: inside the mapping, aligned, and accessed atomically by whoever else maps it.
    let version = unsafe { AtomicU16::from_ptr(version.cast().as_ptr()) };
    version.store(2, Ordering::Relaxed);
    assert!(!start_guest(&file, 1, None, "guest_version").0.wait().unwrap().success());
}

#[test]
fn a_guest_in_c_refuses_a_counter_beyond_the_ring() {
    let layout = plan(0);
    let file = SharedFile::new(layout.bytes());
    let host = host(&file, &layout);
    let mut child = start_guest(&file, 1, None, "guest_counter");
    let mut machine = AttachMachine::new(0, AttachLimits::default(), 0);
    let mut watch = GuestWatch::default();
    wait_until(&host, &mut machine, &mut watch, AttachState::Attached);
    let ring = host.queue_pairs()[0].host_to_guest;
    ring.produced_line().value.store(ring.slot_count() + 1, Ordering::Release);
    assert!(!child.0.wait().unwrap().success());
}

#[test]
fn a_guest_in_c_takes_packets_and_gives_them_back() {
    const PACKETS: u32 = 5000;
    let layout = plan(0);
    let file = SharedFile::new(layout.bytes());
    let host = host(&file, &layout);
    let mut child = start_guest(&file, PACKETS, None, "guest");

    let mut machine = AttachMachine::new(0, AttachLimits::default(), 0);
    let mut watch = GuestWatch::default();
    wait_until(&host, &mut machine, &mut watch, AttachState::Attached);
    let pair = host.queue_pairs()[0];
    let (lend, mut take) = (Producer::new(pair.host_to_guest, None), Consumer::new(pair.guest_to_host));
    let (mut lent, mut back) = (0, 0);
    let mut burst = [RawDesc::default(); 32];
    let deadline = Instant::now() + Duration::from_secs(20);
    while back < PACKETS {
        assert!(Instant::now() < deadline, "{lent} lent, {back} came back");
        let room = lend.room(32).unwrap().min(PACKETS - lent).min(QUOTA - (lent - back));
        for index in lent..lent + room {
            assert!(lend.stage(packet(index, u16::try_from(index % 1000).unwrap()).pack()));
        }
        lent += room;
        lend.publish();
        let count = take.take(&mut burst).unwrap();
        for raw in &burst[..count] {
            let expected = Desc {
                code: Verdict::Next as u8,
                aux: back + 1,
                ..packet(back, u16::try_from(back % 1000).unwrap())
            };
            assert_eq!(raw.unpack(), expected);
            back += 1;
        }
        take.release();
        if room == 0 && count == 0 {
            std::thread::yield_now();
        }
    }
    wait_until(&host, &mut machine, &mut watch, AttachState::Releasing);
    let home = machine.apply(AttachEvent::RingsReleased, 0).unwrap();
    assert_eq!(home, [AttachAction::Reclaim]);
    assert!(child.0.wait().unwrap().success());
    assert_eq!(host.counters()[GuestCounter::Received as usize], u64::from(PACKETS));
}

#[test]
fn an_observer_in_c_copies_what_it_is_shown_and_notices_the_end_of_a_reference() {
    const SLOTS: u16 = 4;
    let layout = plan(SLOTS.into());
    let (file, packets) = (SharedFile::new(layout.bytes()), SharedFile::new(region().region_bytes));
    let host = host(&file, &layout);
    let mut child = start_guest(&file, 3, Some(&packets), "observer");
    let mut machine = AttachMachine::new(0, AttachLimits::default(), 0);
    let mut watch = GuestWatch::default();
    wait_until(&host, &mut machine, &mut watch, AttachState::Attached);
    let pair = host.queue_pairs()[0];
    let (show, mut take) = (Producer::new(pair.host_to_guest, None), Consumer::new(pair.guest_to_host));
    assert_eq!(pair.references.count(), usize::from(SLOTS));
    let at = usize::try_from(region().buffer_offset(2)).unwrap() + 128;
    for offset in 0..60 {
        // SAFETY: inside the mapping, since the buffer is one of the region's.
        let byte = unsafe { packets.base.add(at + offset) };
        // SAFETY: as above; whoever else maps it reads it atomically.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }.store(3, Ordering::Relaxed);
    }
    let reference = |slot, generation| Desc {
        code: desc::REFERENCE,
        aux: desc::reference_aux(5, slot),
        ..packet(2, generation)
    };
    pair.references.show(1, 9);
    // The last holds, the others have ended: before they came, and in a slot that there is not.
    let shown = [reference(1, 8), reference(SLOTS, 0), reference(1, 9)];
    for desc in shown {
        assert!(show.stage(desc.pack()));
    }
    show.publish();
    let (mut burst, mut back) = ([RawDesc::default(); 4], Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    while back.len() < shown.len() {
        assert!(Instant::now() < deadline, "{} came back", back.len());
        let count = take.take(&mut burst).unwrap();
        back.extend(burst[..count].iter().map(|raw| raw.unpack()));
        take.release();
        std::thread::yield_now();
    }
    assert_eq!(back, shown.map(|desc| Desc { code: desc::RELEASE, ..desc }));
    wait_until(&host, &mut machine, &mut watch, AttachState::Releasing);
    assert!(child.0.wait().unwrap().success());
    let app = GuestCounter::App as usize;
    assert_eq!(host.counters()[app..app + 2], [60 * 3, 2]);
}
