//! From a VM of the config to what QEMU is asked for.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use images::guest_files::{GuestFiles, NfLine};
use images::kernel_args::kernel_args;
use security_domains::{Access, Config, GuestMemory, Port, Vm, VmEndpoint, VmFile};

use crate::cli::Failure;
use crate::control::runtime_dir::NicSockets;
use crate::qemu::accel::Accelerator;
use crate::qemu::command::{GuestRam, Initramfs, NicDevice, QEMU, SharedArea, VmLaunch};
use crate::qemu::{extra, initramfs};

/// Looks for the image before anybody is asked for memory.
pub fn check_image(vm: &Vm) -> Result<(), String> {
    let image = [("kernel", &vm.kernel), ("initramfs", &vm.initramfs)];
    for (what, path) in image.into_iter().filter_map(|(what, path)| Some((what, path.as_ref()?))) {
        File::open(path).map_err(|error| {
            format!(
                "vm {}: cannot read its {what} {}: {error}; build the guest image with `cargo xtask image`, or \
                 correct the path in the config",
                vm.name,
                path.display()
            )
        })?;
    }
    let Some(disk) = &vm.disk else { return Ok(()) };
    let opened = File::options().read(true).write(true).open(disk);
    opened.map(drop).map_err(|error| {
        let disk = disk.display();
        format!(
            "vm {}: cannot use its disk {disk}: {error}; make it, or correct `disk` in the config",
            vm.name
        )
    })
}

/// What QEMU is asked for.
pub fn launch_of(
    vm: &Vm,
    accelerator: Accelerator,
    areas: Vec<SharedArea>,
    nics: Vec<NicDevice>,
    monitors: Vec<OwnedFd>,
    serial_log: &Path,
) -> Result<VmLaunch, Failure> {
    for note in extra::notes(&vm.qemu_extra) {
        log::warn!("vm {}: {note}", vm.name);
    }
    let initramfs = vm.initramfs.as_deref().map(|base| initramfs_of(vm, base)).transpose()?;
    let kernel_args = [Some(kernel_args()), vm.kernel_args.clone()].into_iter().flatten().collect::<Vec<_>>();
    Ok(VmLaunch {
        name: vm.name.clone(),
        qemu: QEMU.into(),
        kernel: vm.kernel.clone(),
        initramfs,
        kernel_args: kernel_args.join(" "),
        vcpus: vm.vcpus,
        memory_mib: vm.memory_mib,
        ram: ram_of(vm),
        accelerator,
        areas,
        nics,
        disk: vm.disk.clone(),
        monitors,
        serial_log: serial_log.to_owned(),
        console: None,
        run_as: None,
        extra: vm.qemu_extra.clone(),
    })
}

/// What its memory is made of: the switch maps that of an untrusted VM.
fn ram_of(vm: &Vm) -> GuestRam {
    match &vm.guest_memory {
        _ if vm.access != Access::Untrusted => GuestRam::Private,
        GuestMemory::Memfd => GuestRam::Memfd { hugetlb: false },
        GuestMemory::HugetlbMemfd => GuestRam::Memfd { hugetlb: true },
        GuestMemory::File(path) => GuestRam::File(path.clone()),
    }
}

/// The image's initramfs, with the files of this VM behind it if it has some.
fn initramfs_of(vm: &Vm, base: &Path) -> Result<Initramfs, Failure> {
    if vm.access == Access::Untrusted && vm.files.is_empty() {
        return Ok(Initramfs::File(base.to_owned()));
    }
    Ok(Initramfs::Memory(initramfs::with_guest_files(base, &guest_files(vm)?)?))
}

/// Its network cards, each with the socket of its switch.
pub fn nics_of(config: &Config, vm: &Vm, sockets: &NicSockets) -> Vec<NicDevice> {
    let ports = vm.nics.iter().map(|port| &config.ports[port.index()]);
    let device = |port: &Port| {
        let nic = port.nic()?;
        Some(NicDevice {
            name: nic.nic.clone(),
            socket: sockets.path(&port.name),
            mac: nic.mac.to_string(),
            queue_pairs: nic.queue_pairs,
            rx_slots: port.rx_slots,
            tx_slots: port.tx_slots,
            mtu_bytes: port.mtu_bytes,
        })
    };
    ports.filter_map(device).collect()
}

/// Its NFs, in the order of their endpoints in the control area, and their files.
fn guest_files(vm: &Vm) -> Result<GuestFiles, Failure> {
    let mut guest = GuestFiles::default();
    for (endpoint, VmEndpoint { nf, args, files, .. }) in (0..).zip(&vm.endpoints) {
        guest.run.push(NfLine { endpoint, nf: nf.clone(), args: args.clone() });
        add_files(&mut guest, files, || format!("vm {}, NF {nf}", vm.name))?;
    }
    add_files(&mut guest, &vm.files, || format!("vm {}", vm.name))?;
    Ok(guest)
}

fn add_files(guest: &mut GuestFiles, files: &[VmFile], owner: impl Fn() -> String) -> Result<(), Failure> {
    for file in files {
        let bytes = fs::read(&file.host_path)
            .map_err(|error| format!("{}: cannot read {}: {error}", owner(), file.host_path.display()))?;
        guest.files.insert(file.guest_path.clone(), bytes);
    }
    Ok(())
}
