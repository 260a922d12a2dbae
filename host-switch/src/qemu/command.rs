//! What QEMU is asked for, for one VM.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fstat};

use super::accel::Accelerator;
use super::extra;
use super::options::{CommandLine, QemuOption, Section, escaped};

/// The program that is started unless another is named.
pub const QEMU: &str = "qemu-system-x86_64";

/// Memory that the VM sees as a PCI device (`ivshmem-plain`).
#[derive(Debug)]
pub struct SharedArea {
    /// What it is, and part of its ids: `control` or `region`.
    pub name: &'static str,
    /// The memory; QEMU inherits it, unless it finds it by its path.
    pub fd: OwnedFd,
    /// Where its file lies, for a QEMU that somebody else starts.
    pub path: Option<PathBuf>,
    /// All of it.
    pub bytes: u64,
    /// The guest's writes are dropped. The descriptor must then be one that was opened for reading only.
    pub read_only: bool,
}

/// The guest's initramfs.
#[derive(Debug)]
pub enum Initramfs {
    /// A file.
    File(PathBuf),
    /// A file descriptor; QEMU inherits it.
    Memory(OwnedFd),
}

/// What the guest's own memory is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestRam {
    /// Memory that QEMU shares with nobody.
    Private,
    /// A sealed memfd, which QEMU shows to the back ends of NICs.
    Memfd {
        /// Of 2 MiB pages.
        hugetlb: bool,
    },
    /// A file, which QEMU shows to the back ends of NICs and cannot seal.
    File(PathBuf),
}

/// A virtio network card whose back end is the switch (`vhost-user`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicDevice {
    /// Its name within the VM, and part of its ids.
    pub name: String,
    /// Where the switch listens for it; QEMU connects again when the switch has gone and come.
    pub socket: PathBuf,
    /// Its address.
    pub mac: String,
    /// Queue pairs.
    pub queue_pairs: u16,
    /// Slots of each queue in which the guest receives.
    pub rx_slots: u16,
    /// Slots of each queue by which it sends.
    pub tx_slots: u16,
    /// Largest IP packet.
    pub mtu_bytes: u16,
}

/// One VM to start.
#[derive(Debug)]
pub struct VmLaunch {
    /// Its name in the config.
    pub name: String,
    /// The program, [`QEMU`] as a rule.
    pub qemu: PathBuf,
    /// A Linux kernel (bzImage); none: it boots from its disk.
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    pub initramfs: Option<Initramfs>,
    /// The kernel's command line.
    pub kernel_args: String,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Memory of its own.
    pub memory_mib: u32,
    /// What that is made of.
    pub ram: GuestRam,
    /// How its instructions are run.
    pub accelerator: Accelerator,
    /// Control area and region; none for an untrusted VM.
    pub areas: Vec<SharedArea>,
    /// Network cards; only an untrusted VM has some.
    pub nics: Vec<NicDevice>,
    /// A raw image.
    pub disk: Option<PathBuf>,
    /// QEMU's ends of QMP sockets, one for each party that watches or commands it.
    pub monitors: Vec<OwnedFd>,
    /// Where the guest's serial console is written to.
    pub serial_log: PathBuf,
    /// A pipe into that log, which QEMU inherits; [`super::launch::launch`] makes it.
    pub console: Option<OwnedFd>,
    /// A user that QEMU changes to when it has opened everything.
    pub run_as: Option<String>,
    /// More options, checked against [`extra::check`].
    pub extra: Vec<String>,
}

/// Why QEMU is not started like this.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// QEMU would abort.
    #[error("shared memory {name} must be a power of two of at least 4096 bytes, got {bytes}")]
    Size {
        /// Which memory.
        name: &'static str,
        /// Its size.
        bytes: u64,
    },
    /// The descriptor holds another amount of memory.
    #[error("shared memory {name} has {found} bytes, {bytes} were promised")]
    Length {
        /// Which memory.
        name: &'static str,
        /// What the descriptor holds.
        found: u64,
        /// What was promised.
        bytes: u64,
    },
    /// An observer's QEMU could write.
    #[error("shared memory {name} is read-only for the guest, and its descriptor can write")]
    Writable {
        /// Which memory.
        name: &'static str,
    },
    /// The descriptor cannot be used.
    #[error("descriptor of {name} cannot be used: {source}")]
    Fd {
        /// What it is for.
        name: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the image is missing.
    #[error("cannot read {path}: {source}; `cargo xtask image` builds the guest image")]
    Image {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The disk is missing, or cannot be written.
    #[error("cannot use the disk {path}: {source}")]
    Disk {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An option of the operator's.
    #[error(transparent)]
    Extra(#[from] extra::ExtraError),
}

impl VmLaunch {
    /// Finds what QEMU would abort on, or silently take wrongly.
    ///
    /// # Errors
    /// The first thing found.
    pub fn check(&self) -> Result<(), CommandError> {
        extra::check(&self.extra)?;
        if let Some(path) = &self.kernel {
            readable(path)?;
        }
        if let Some(Initramfs::File(path)) = &self.initramfs {
            readable(path)?;
        }
        if let Some(path) = &self.disk {
            let open = std::fs::File::options().read(true).write(true).open(path);
            open.map_err(|source| CommandError::Disk { path: path.clone(), source })?;
        }
        self.areas.iter().try_for_each(SharedArea::check)
    }

    /// The command line. Descriptors appear under the numbers that they have here.
    #[must_use]
    pub fn command(&self) -> CommandLine {
        let mut options = self.machine();
        if let Some(kernel) = &self.kernel {
            options.push(plain("kernel", text(kernel)));
            options.extend(self.initramfs.as_ref().map(|initramfs| plain("initrd", initramfs.path())));
            options.push(plain("append", self.kernel_args.clone()));
        }
        options.extend(self.areas.iter().flat_map(SharedArea::options));
        options.extend(self.nics.iter().flat_map(|nic| nic.options(self.accelerator)));
        if let Some(disk) = &self.disk {
            let drive = format!("if=none,id=netvm-disk,format=raw,file={}", escaped(&text(disk)));
            let settings = vec![("drive", "netvm-disk".to_owned())];
            options.push(plain("drive", drive));
            options.push(section("device", "driver", "virtio-blk-pci", "netvm-disk-device", settings));
        }
        for (index, monitor) in self.monitors.iter().enumerate() {
            let fd = monitor.as_raw_fd().to_string();
            let [socket, control] = [format!("netvm-qmp{index}-socket"), format!("netvm-qmp{index}")];
            options.push(section("chardev", "backend", "socket", &socket, vec![("fd", fd)]));
            options.push(section("mon", "chardev", &socket, &control, vec![("mode", "control".to_owned())]));
        }
        let console = self.console.as_ref().map_or_else(|| text(&self.serial_log), fd_path);
        options.push(section("chardev", "backend", "file", "netvm-serial", vec![("path", console)]));
        options.push(plain("serial", "chardev:netvm-serial".to_owned()));
        CommandLine { program: text(&self.qemu), options, extra: self.extra.clone() }
    }

    /// What holds for every VM.
    fn machine(&self) -> Vec<QemuOption> {
        let (accel, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg,thread=multi", "max"),
        };
        // `-runas` changes the user after the sandbox has closed, which needs this rule open; without
        // privileges and with spawn=deny nothing is left to elevate.
        let elevate = if self.run_as.is_some() { "allow" } else { "deny" };
        let sandbox = format!("on,obsolete=deny,elevateprivileges={elevate},spawn=deny,resourcecontrol=deny");
        // No `-no-reboot`: a guest that resets itself is served again, and its RESET event is proof.
        let (machine, ram) = self.ram();
        let mut options = vec![
            plain("name", self.name.clone()),
            QemuOption::Plain("nodefaults", None),
            QemuOption::Plain("no-user-config", None),
            plain("display", "none".to_owned()),
            plain("sandbox", sandbox),
            plain("machine", machine),
            plain("accel", accel.to_owned()),
            plain("cpu", cpu.to_owned()),
            plain("smp", self.vcpus.to_string()),
            plain("m", format!("{}M", self.memory_mib)),
        ];
        options.extend(ram);
        options.extend(self.run_as.clone().map(|user| plain("runas", user)));
        options
    }

    /// The machine, and the object that its memory is, unless that is QEMU's own.
    fn ram(&self) -> (String, Option<QemuOption>) {
        // The switch maps it, so it is shared. A memfd is sealed by QEMU (`seal` is on unless it is switched off).
        let mut settings = vec![("size", format!("{}M", self.memory_mib)), ("share", "on".to_owned())];
        let kind = match &self.ram {
            GuestRam::Private => return ("pc".to_owned(), None),
            GuestRam::Memfd { hugetlb } => {
                if *hugetlb {
                    settings.extend([("hugetlb", "on".to_owned()), ("hugetlbsize", "2M".to_owned())]);
                }
                settings.push(("seal", "on".to_owned()));
                "memory-backend-memfd"
            }
            GuestRam::File(path) => {
                settings.push(("mem-path", text(path)));
                "memory-backend-file"
            }
        };
        let ram = section("object", "qom-type", kind, "netvm-ram", settings);
        ("pc,memory-backend=netvm-ram".to_owned(), Some(ram))
    }

    /// How long a file may become that QEMU writes: its disk, the memory of the guest, or `least_bytes`.
    #[must_use]
    pub fn file_bytes_max(&self, least_bytes: u64) -> u64 {
        let disk_bytes =
            self.disk.as_ref().and_then(|disk| std::fs::metadata(disk).ok()).map_or(0, |disk| disk.len());
        let ram_bytes = if self.ram == GuestRam::Private { 0 } else { u64::from(self.memory_mib) << 20 };
        least_bytes.max(disk_bytes).max(ram_bytes)
    }

    /// Every descriptor that QEMU needs.
    #[must_use]
    pub fn inherited(&self) -> Vec<&OwnedFd> {
        let initramfs = match &self.initramfs {
            None | Some(Initramfs::File(_)) => None,
            Some(Initramfs::Memory(fd)) => Some(fd),
        };
        self.areas
            .iter()
            .map(|area| &area.fd)
            .chain(&self.monitors)
            .chain(initramfs)
            .chain(&self.console)
            .collect()
    }
}

impl Initramfs {
    fn path(&self) -> String {
        match self {
            Self::File(path) => text(path),
            Self::Memory(fd) => fd_path(fd),
        }
    }
}

impl NicDevice {
    fn options(&self, accelerator: Accelerator) -> [QemuOption; 3] {
        let [socket, backend, device] =
            ["-socket", "", "-device"].map(|part| format!("netvm-{}{part}", self.name));
        let (path, queues) = (text(&self.socket), self.queue_pairs.to_string());
        // Of each pair two, besides those for configuration and control. Under TCG, QEMU 7.2 crashes with MSI-X
        // interrupts of a vhost-user NIC when the guest's driver starts.
        let vectors = match accelerator {
            Accelerator::Kvm => 2 * self.queue_pairs + 2,
            Accelerator::Tcg => 0,
        };
        let settings = vec![
            ("netdev", backend.clone()),
            ("mac", self.mac.clone()),
            ("mq", if self.queue_pairs > 1 { "on" } else { "off" }.to_owned()),
            ("vectors", vectors.to_string()),
            ("rx_queue_size", self.rx_slots.to_string()),
            ("tx_queue_size", self.tx_slots.to_string()),
            ("host_mtu", self.mtu_bytes.to_string()),
            ("disable-legacy", "on".to_owned()),
            // No boot from the network.
            ("romfile", String::new()),
        ];
        let reconnecting = vec![("path", path), ("reconnect", "1".to_owned())];
        let netdev = vec![("chardev", socket.clone()), ("queues", queues)];
        [
            section("chardev", "backend", "socket", &socket, reconnecting),
            section("netdev", "type", "vhost-user", &backend, netdev),
            section("device", "driver", "virtio-net-pci", &device, settings),
        ]
    }
}

impl SharedArea {
    fn check(&self) -> Result<(), CommandError> {
        let Self { name, bytes, .. } = *self;
        if !bytes.is_power_of_two() || bytes < 4096 {
            return Err(CommandError::Size { name, bytes });
        }
        let fd_error = |error: rustix::io::Errno| CommandError::Fd { name, source: error.into() };
        // A negative size is no size that was promised.
        let found = u64::try_from(fstat(&self.fd).map_err(fd_error)?.st_size).unwrap_or(0);
        if found != bytes {
            return Err(CommandError::Length { name, found, bytes });
        }
        let mode = fcntl_getfl(&self.fd).map_err(fd_error)? & OFlags::RWMODE;
        if self.read_only && mode != OFlags::RDONLY {
            return Err(CommandError::Writable { name });
        }
        Ok(())
    }

    fn options(&self) -> [QemuOption; 2] {
        let [object, device] = [format!("netvm-{}", self.name), format!("netvm-{}-device", self.name)];
        let mut settings = vec![
            ("mem-path", self.path.as_deref().map_or_else(|| fd_path(&self.fd), text)),
            ("size", self.bytes.to_string()),
            // With share=off, QEMU's default, the guest would see a private copy.
            ("share", "on".to_owned()),
        ];
        if self.read_only {
            settings.push(("readonly", "on".to_owned()));
        }
        [
            section("object", "qom-type", "memory-backend-file", &object, settings),
            section("device", "driver", "ivshmem-plain", &device, vec![("memdev", object.clone())]),
        ]
    }
}

fn plain(flag: &'static str, value: String) -> QemuOption {
    QemuOption::Plain(flag, Some(value))
}

fn section(
    group: &'static str,
    kind_key: &'static str,
    kind: &str,
    id: &str,
    settings: Vec<(&'static str, String)>,
) -> QemuOption {
    QemuOption::Section(Section { group, kind_key, kind: kind.to_owned(), id: id.to_owned(), settings })
}

/// The path under which the process that inherits it finds a descriptor.
fn fd_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn readable(path: &Path) -> Result<(), CommandError> {
    let open = std::fs::File::open(path);
    open.map(drop).map_err(|source| CommandError::Image { path: path.to_owned(), source })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, Mode, ftruncate, memfd_create, open};

    /// Plain shared memory.
    pub fn memory(bytes: u64) -> OwnedFd {
        let fd = memfd_create("netvm-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, bytes).unwrap();
        fd
    }

    pub fn area(name: &'static str, bytes: u64) -> SharedArea {
        SharedArea { name, fd: memory(bytes), path: None, bytes, read_only: false }
    }

    /// A launch of files that exist; it would not boot.
    pub fn sample() -> VmLaunch {
        VmLaunch {
            name: "fw0".to_owned(),
            qemu: QEMU.into(),
            kernel: Some("/dev/null".into()),
            initramfs: Some(Initramfs::File("/dev/null".into())),
            kernel_args: images::kernel_args::kernel_args(),
            vcpus: 1,
            memory_mib: 256,
            ram: GuestRam::Private,
            accelerator: Accelerator::Tcg,
            areas: vec![area("control", 65_536), area("region", 2 << 20)],
            nics: Vec::new(),
            disk: None,
            monitors: vec![memory(0)],
            serial_log: "/tmp/fw0.log".into(),
            console: None,
            run_as: None,
            extra: Vec::new(),
        }
    }

    #[test]
    fn a_launch_of_right_sizes_passes() {
        sample().check().unwrap();
    }

    #[test]
    fn refuses_a_size_that_qemu_would_abort_on() {
        for bytes in [0, 2048, 3 << 20] {
            let launch = VmLaunch { areas: vec![area("region", bytes)], ..sample() };
            assert!(matches!(launch.check(), Err(CommandError::Size { .. })), "{bytes}");
        }
        let least = VmLaunch { areas: vec![area("region", 4096)], ..sample() };
        least.check().unwrap();
    }

    #[test]
    fn refuses_a_descriptor_of_another_size() {
        let short = SharedArea { bytes: 4 << 20, ..area("region", 2 << 20) };
        let launch = VmLaunch { areas: vec![short], ..sample() };
        assert_eq!(
            launch.check().unwrap_err().to_string(),
            "shared memory region has 2097152 bytes, 4194304 were promised"
        );
    }

    #[test]
    fn an_observer_needs_a_descriptor_that_cannot_write() {
        let writable = area("region", 4096);
        let read_only = open(fd_path(&writable.fd), OFlags::RDONLY, Mode::empty()).unwrap();
        let launch = |fd| VmLaunch {
            areas: vec![SharedArea { name: "region", fd, path: None, bytes: 4096, read_only: true }],
            ..sample()
        };
        assert!(launch(read_only).check().is_ok());
        assert!(matches!(launch(writable.fd).check(), Err(CommandError::Writable { .. })));
    }

    /// An untrusted VM: it maps nothing of the switch.
    fn untrusted() -> VmLaunch {
        let nic = NicDevice {
            name: "eth0".to_owned(),
            socket: "/run/netvm/demo.nics/web0.eth0.sock".into(),
            mac: "02:00:00:00:00:07".to_owned(),
            queue_pairs: 4,
            rx_slots: 256,
            tx_slots: 1024,
            mtu_bytes: 9000,
        };
        VmLaunch { areas: Vec::new(), nics: vec![nic], ram: GuestRam::Memfd { hugetlb: false }, ..sample() }
    }

    #[test]
    fn an_untrusted_vm_shares_its_own_sealed_memory_and_sees_nothing_but_nics() {
        let shell = untrusted().command().to_shell();
        assert!(
            shell.contains("-object memory-backend-memfd,id=netvm-ram,size=256M,share=on,seal=on"),
            "{shell}"
        );
        assert!(shell.contains("-machine pc,memory-backend=netvm-ram"), "{shell}");
        assert!(
            shell.contains("id=netvm-eth0-socket,path=/run/netvm/demo.nics/web0.eth0.sock,reconnect=1"),
            "{shell}"
        );
        assert!(
            shell.contains("-netdev vhost-user,id=netvm-eth0,chardev=netvm-eth0-socket,queues=4"),
            "{shell}"
        );
        assert!(
            shell.contains("mq=on,vectors=0,rx_queue_size=256,tx_queue_size=1024,host_mtu=9000"),
            "{shell}"
        );
        assert!(!shell.contains("ivshmem"), "{shell}");
        let kvm = VmLaunch { accelerator: Accelerator::Kvm, ..untrusted() }.command().to_shell();
        assert!(kvm.contains("vectors=10,"), "{kvm}");
    }

    #[test]
    fn a_vm_without_a_kernel_boots_from_its_disk() {
        let launch = VmLaunch { kernel: None, initramfs: None, disk: Some("/a,b.raw".into()), ..untrusted() };
        let shell = launch.command().to_shell();
        assert!(shell.contains("-drive if=none,id=netvm-disk,format=raw,file=/a,,b.raw"), "{shell}");
        assert!(!shell.contains("-kernel") && !shell.contains("-append"), "{shell}");
        assert!(matches!(launch.check(), Err(CommandError::Disk { .. })));
    }

    #[test]
    fn qemu_may_write_files_as_long_as_its_disk_and_its_memory() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.raw");
        std::fs::File::create(&disk).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(sample().file_bytes_max(1), 1);
        assert_eq!(untrusted().file_bytes_max(1), 256 << 20);
        assert_eq!(VmLaunch { disk: Some(disk), ..untrusted() }.file_bytes_max(1), 1 << 30);
    }

    #[test]
    fn a_missing_kernel_is_said_with_the_way_to_get_one() {
        let launch = VmLaunch { kernel: Some("/nonexistent/vmlinuz".into()), ..sample() };
        let text = launch.check().unwrap_err().to_string();
        assert!(text.ends_with("`cargo xtask image` builds the guest image"), "{text}");
    }

    #[test]
    fn memory_is_always_shared_and_every_descriptor_inherited() {
        let launch = sample();
        let shell = launch.command().to_shell();
        assert_eq!(shell.matches("share=on").count(), 2);
        for fd in launch.inherited() {
            let (path, number) = (fd_path(fd), format!(",fd={}", fd.as_raw_fd()));
            assert!(shell.contains(&path) || shell.contains(&number), "{path}");
        }
    }

    /// The committed example for users who bring their own launcher.
    #[test]
    fn the_example_config_file_is_what_we_use_ourselves() {
        let launch = sample();
        let fds: Vec<_> = launch.inherited().iter().map(|fd| fd.as_raw_fd()).collect();
        let mut config = launch.command().to_config();
        // The example has the numbers 3, 4, 5 in this order: control area, region, QMP socket.
        for (number, fd) in (3..).zip(fds) {
            config = config.replace(&format!("/proc/self/fd/{fd}\""), &format!("/proc/self/fd/{number}\""));
            config = config.replace(&format!("fd = \"{fd}\""), &format!("fd = \"{number}\""));
        }
        let file = include_str!("../../../qemu-patches/netvm-vm.cfg");
        let (comments, sections): (Vec<_>, Vec<_>) = file.lines().partition(|line| line.starts_with('#'));
        assert_eq!(sections.join("\n").trim(), config.trim());

        let command = comments.join(" ").replace(['#', '\\'], " ");
        let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
        for option in launch.command().options {
            // These are the VM's own.
            let QemuOption::Plain(flag, value) = option else { continue };
            if ["name", "kernel", "initrd"].contains(&flag) {
                continue;
            }
            let value = value.map_or(String::new(), |value| format!(" {value}"));
            let words = format!("-{flag}{value}").replace("-append console", "-append 'console");
            assert!(command.contains(&words), "the comment lacks {words}");
        }
    }
}
