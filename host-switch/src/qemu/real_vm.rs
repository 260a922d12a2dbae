//! Real guests under QEMU: the image boots with our command line, and QMP tells the truth about its end.
//!
//! Each takes seconds and needs QEMU and Debian's package lists, so they are ignored by default.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use images::build::{INITRAMFS_FILE, ImageSpec, KERNEL_FILE, build};
use images::guest_files::{GuestFiles, NfLine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use shm_ring::area::{AreaLayout, AreaSpec, EndpointSpec, HostArea, RegionGeometry, write_region_header};

use super::accel::Accelerator;
use super::boot_watch::{BootNews, BootWatch};
use super::command::{GuestRam, Initramfs, QEMU, SharedArea, VmLaunch};
use super::initramfs::with_guest_files;
use super::launch::{Vm, launch};
use super::qmp::{Command, Event, Qmp};

const PATIENCE: Duration = Duration::from_secs(60);
const REGION_BYTES: u64 = 2 << 20;

/// The image that `cargo xtask test` has built, or else one without network functions, built once per run.
fn image() -> &'static (PathBuf, PathBuf) {
    static IMAGE: std::sync::OnceLock<(PathBuf, PathBuf)> = std::sync::OnceLock::new();
    IMAGE.get_or_init(|| {
        if let Some(folder) = std::env::var_os("NETVM_IMAGE_DIR") {
            let folder = PathBuf::from(folder);
            return (folder.join(KERNEL_FILE), folder.join(INITRAMFS_FILE));
        }
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/out");
        let spec = ImageSpec { programs: Vec::new(), cache: out.join("cache"), out: out.join("bare") };
        let image = build(&spec).unwrap();
        (image.kernel, image.initramfs)
    })
}

/// A VM whose QEMU is killed when the test ends.
struct Guest {
    vm: Vm,
    qmp: Qmp,
    watch: BootWatch,
    log: PathBuf,
    started: Instant,
    _folder: tempfile::TempDir,
}

impl Drop for Guest {
    fn drop(&mut self) {
        _ = self.vm.child.kill();
        _ = self.vm.child.wait();
    }
}

fn sealed(bytes: u64) -> OwnedFd {
    let fd = memfd_create("netvm-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    fd
}

/// Calls `fill` with a mapping of the memory.
fn mapped(fd: &OwnedFd, bytes: u64, fill: impl FnOnce(std::ptr::NonNull<u8>, usize)) {
    let bytes = usize::try_from(bytes).unwrap();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: no address is asked for, so no mapping of ours is replaced.
    let base = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) }.unwrap();
    fill(std::ptr::NonNull::new(base.cast()).unwrap(), bytes);
    // SAFETY: mapped above with this size; `fill` has returned, and what it made of the mapping is gone.
    unsafe { munmap(base, bytes) }.unwrap();
}

/// A control area and a region as the switch makes them.
fn areas() -> Vec<SharedArea> {
    let geometry = RegionGeometry::fit(REGION_BYTES, 2368, 0x6e65_7476_6d21).unwrap();
    let endpoint = EndpointSpec {
        endpoint_id: 0,
        service_id: 0,
        service_name: "forwarder".to_owned(),
        quota_buffers: 64,
        credit_buffers: 0,
        references: 0,
        ring_slots: 64,
        lcores: vec![0],
    };
    let spec = AreaSpec {
        region: geometry,
        access: 0,
        features_offered: 0,
        endpoints: vec![endpoint],
        targets: Vec::new(),
    };
    let layout = AreaLayout::plan(&spec).unwrap();
    let (control, region) = (sealed(layout.bytes()), sealed(REGION_BYTES));
    mapped(&control, layout.bytes(), |base, bytes| {
        // SAFETY: the mapping is new, page-aligned, as long as the layout says, and nobody else's yet.
        _ = unsafe { HostArea::create(base, bytes, &layout) }.unwrap();
    });
    mapped(&region, REGION_BYTES, |base, _| {
        // SAFETY: as above; the geometry was fitted to this size.
        unsafe { write_region_header(base, &geometry) };
    });
    vec![
        SharedArea { name: "control", fd: control, path: None, bytes: layout.bytes(), read_only: false },
        SharedArea { name: "region", fd: region, path: None, bytes: REGION_BYTES, read_only: false },
    ]
}

fn start(files: &GuestFiles, kernel_args: &str, areas: Vec<SharedArea>, run_as: Option<&str>) -> Guest {
    let (kernel, initramfs) = image();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("serial.log");
    let watch = BootWatch::new(&log).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let vm = VmLaunch {
        name: "test".to_owned(),
        qemu: QEMU.into(),
        kernel: Some(kernel.clone()),
        initramfs: Some(Initramfs::Memory(with_guest_files(initramfs, files).unwrap())),
        kernel_args: format!("{} {kernel_args}", images::kernel_args::kernel_args()),
        vcpus: 1,
        memory_mib: 256,
        ram: GuestRam::Private,
        accelerator: Accelerator::Tcg,
        areas,
        nics: Vec::new(),
        disk: None,
        monitors: vec![theirs.into()],
        serial_log: log.clone(),
        console: None,
        run_as: run_as.map(str::to_owned),
        extra: Vec::new(),
    };
    let started = Instant::now();
    let vm = launch(vm).unwrap();
    Guest { vm, qmp: Qmp::new(ours).unwrap(), watch, log, started, _folder: folder }
}

impl Guest {
    /// Waits for the console to show `wanted`.
    fn sees(&mut self, wanted: BootNews) -> Duration {
        loop {
            if self.watch.read().unwrap().contains(&wanted) {
                return self.started.elapsed();
            }
            let words = || std::fs::read_to_string(&self.log).unwrap();
            assert!(self.started.elapsed() < PATIENCE, "no {wanted:?} in:\n{}", words());
            let said = || std::fs::read_to_string(&self.vm.qemu_log).unwrap();
            assert!(self.vm.child.try_wait().unwrap().is_none(), "QEMU ended: {}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for QEMU to say `wanted`.
    fn says(&mut self, wanted: Event) {
        let deadline = Instant::now() + PATIENCE;
        while !self.qmp.read().unwrap().contains(&wanted) {
            assert!(Instant::now() < deadline, "no {wanted:?}");
            let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
            _ = poll(&mut [PollFd::from_borrowed_fd(self.qmp.fd(), PollFlags::IN)], Some(&wait));
        }
    }

    fn console(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

#[test]
#[ignore = "boots a VM"]
fn the_image_boots_with_both_memories_and_reads_its_own_files() {
    // Looks at the two devices as guest-netlib does: the first eight bytes of BAR 2.
    let script = "for d in /sys/bus/pci/devices/*; do\n\
        [ $(cat $d/device) = 0x1110 ] || continue\n\
        echo 1 > $d/enable\n\
        echo \"magic $(dd if=/dev/mem 2>/dev/null bs=1 count=0)$(devmem $(sed -n 3p $d/resource | cut -d' ' -f1) 64)\"\n\
        done > /dev/console 2>&1\n\
        cat '/etc/netvm/a file' > /dev/console\n";
    let files = [("/etc/netvm/boot.d/look", script), ("/etc/netvm/a file", "hello from the host\n")];
    let nf = |endpoint, nf: &str, args: &[&str]| NfLine {
        endpoint,
        nf: nf.to_owned(),
        args: args.iter().map(|&word| word.to_owned()).collect(),
    };
    let files = GuestFiles {
        run: vec![nf(0, "echo", &["NF says", "it's", "a  b"]), nf(1, "absent", &[])],
        files: files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into(),
    };
    let mut guest = start(&files, "", areas(), None);
    let booted = guest.sees(BootNews::Booted);
    println!("image boots to init in {} ms, {} MiB, TCG", booted.as_millis(), 256);
    let deadline = Instant::now() + PATIENCE;
    while !guest.console().contains("hello from the host") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let console = guest.console();
    for line in [
        "NF says it's a  b",
        "netvm-guest: nf echo started (endpoint 0)",
        "netvm-guest: nf absent is not in this image (endpoint 1)",
        "hello from the host",
        &format!("magic 0x{:016X}", shm_ring::layout::CONTROL_MAGIC),
        &format!("magic 0x{:016X}", shm_ring::layout::REGION_MAGIC),
    ] {
        assert!(console.contains(line), "no {line:?} in:\n{console}");
    }
}

#[test]
#[ignore = "boots a VM; needs an image with network functions: cargo xtask test"]
fn a_network_function_finds_both_memories_and_asks_to_attach() {
    let line = NfLine { endpoint: 0, nf: "forwarder".to_owned(), args: Vec::new() };
    let areas = areas();
    let control = areas[0].fd.try_clone().unwrap();
    let mut guest = start(&GuestFiles { run: vec![line], ..GuestFiles::default() }, "", areas, None);
    println!("network function started after {} ms", guest.sees(BootNews::NfStarted).as_millis());
    // The nonce is the first word of the guest's section.
    let mut word = [0; 8];
    let offset = std::mem::offset_of!(shm_ring::layout::ControlHeader, guest_section_offset);
    rustix::io::pread(&control, &mut word, offset as u64).unwrap();
    let nonce_offset = u64::from_le_bytes(word);
    while rustix::io::pread(&control, &mut word, nonce_offset) == Ok(8) && word == [0; 8] {
        assert!(guest.started.elapsed() < PATIENCE, "no nonce; console:\n{}", guest.console());
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("it asked to attach after {} ms", guest.started.elapsed().as_millis());
}

#[test]
#[ignore = "boots a VM"]
fn a_reset_is_an_event_and_the_guest_comes_up_again() {
    let mut guest = start(&GuestFiles::default(), "", areas(), None);
    println!("ready after {} ms", guest.sees(BootNews::Ready).as_millis());
    guest.says(Event::Ready);
    guest.qmp.tell(Command::SystemReset).unwrap();
    let told = Instant::now();
    guest.says(Event::Reset);
    println!("RESET event after {:?}", told.elapsed());
    guest.sees(BootNews::Ready);
}

#[test]
#[ignore = "boots a VM"]
fn the_power_button_ends_the_guest_and_then_qemu() {
    let mut guest = start(&GuestFiles::default(), "", Vec::new(), None);
    guest.sees(BootNews::Ready);
    guest.qmp.tell(Command::SystemPowerdown).unwrap();
    guest.says(Event::Shutdown);
    guest.says(Event::Eof);
    assert!(guest.vm.child.wait().unwrap().success());
    assert!(guest.console().contains("netvm-guest: power off"));
}

#[test]
#[ignore = "boots a VM"]
fn killing_qemu_ends_its_socket_within_a_tenth_of_a_second() {
    let mut guest = start(&GuestFiles::default(), "", areas(), None);
    guest.sees(BootNews::Booted);
    guest.says(Event::Ready);
    guest.vm.child.kill().unwrap();
    let killed = Instant::now();
    guest.says(Event::Eof);
    let elapsed = killed.elapsed();
    println!("end of file {elapsed:?} after SIGKILL");
    assert!(elapsed < Duration::from_millis(100), "{elapsed:?}");
    let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut pidfd = [PollFd::from_borrowed_fd(guest.vm.pidfd.as_fd(), PollFlags::IN)];
    assert_eq!(poll(&mut pidfd, Some(&wait)), Ok(1), "the pidfd tells the end too");
}

#[test]
#[ignore = "boots a VM"]
fn a_guest_that_panics_while_it_boots_is_noticed_twice() {
    // No such init: the kernel looks for a root file system and panics.
    let mut guest = start(&GuestFiles::default(), "rdinit=/nonexistent", Vec::new(), None);
    guest.sees(BootNews::Panicked("Kernel panic"));
    // panic=-1: it resets itself.
    guest.says(Event::Reset);
    guest.sees(BootNews::PanickedAgain("Kernel panic"));
}

#[test]
#[ignore = "boots a VM; needs root"]
fn qemu_can_give_up_its_user_after_it_opened_everything() {
    let mut guest = start(&GuestFiles::default(), "", areas(), Some("1900000007:1900000007"));
    guest.sees(BootNews::Booted);
    let status = std::fs::read_to_string(format!("/proc/{}/status", guest.vm.child.id())).unwrap();
    let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert_eq!(line("Uid:"), "Uid:\t1900000007\t1900000007\t1900000007\t1900000007");
    assert_eq!(line("Gid:"), "Gid:\t1900000007\t1900000007\t1900000007\t1900000007");
    assert_eq!(line("CapEff:"), "CapEff:\t0000000000000000");
    assert_eq!(line("NoNewPrivs:"), "NoNewPrivs:\t1");
}
