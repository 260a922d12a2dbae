//! From a VM of the config to what QEMU is asked for.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use images::guest_files::{GuestFiles, NfLine};
use images::kernel_args::kernel_args;
use security_domains::{Vm, VmEndpoint};

use crate::cli::Failure;
use crate::qemu::accel::Accelerator;
use crate::qemu::command::{Initramfs, QEMU, SharedArea, VmLaunch};
use crate::qemu::{extra, initramfs};

/// Looks for the image before anybody is asked for memory.
pub fn check_image(vm: &Vm) -> Result<(), String> {
    for (what, path) in [("kernel", &vm.kernel), ("initramfs", &vm.initramfs)] {
        File::open(path).map_err(|error| {
            format!(
                "vm {}: cannot read its {what} {}: {error}; build the guest image with `cargo xtask image`, or \
                 correct the path in the config",
                vm.name,
                path.display()
            )
        })?;
    }
    Ok(())
}

/// What QEMU is asked for.
pub fn launch_of(
    vm: &Vm,
    accelerator: Accelerator,
    areas: Vec<SharedArea>,
    monitors: Vec<OwnedFd>,
    serial_log: &Path,
) -> Result<VmLaunch, Failure> {
    for note in extra::notes(&vm.qemu_extra) {
        log::warn!("vm {}: {note}", vm.name);
    }
    let initramfs = initramfs::with_guest_files(&vm.initramfs, &guest_files(vm)?)?;
    Ok(VmLaunch {
        name: vm.name.clone(),
        qemu: QEMU.into(),
        kernel: vm.kernel.clone(),
        initramfs: Initramfs::Memory(initramfs),
        kernel_args: kernel_args(),
        vcpus: vm.vcpus,
        memory_mib: vm.memory_mib,
        accelerator,
        areas,
        monitors,
        serial_log: serial_log.to_owned(),
        console: None,
        run_as: None,
        extra: vm.qemu_extra.clone(),
    })
}

/// Its NFs, in the order of their endpoints in the control area, and their files.
fn guest_files(vm: &Vm) -> Result<GuestFiles, Failure> {
    let mut guest = GuestFiles::default();
    for (endpoint, VmEndpoint { nf, args, files, .. }) in (0..).zip(&vm.endpoints) {
        guest.run.push(NfLine { endpoint, nf: nf.clone(), args: args.clone() });
        for file in files {
            let bytes = fs::read(&file.host_path).map_err(|error| {
                format!("vm {}: cannot read {} for its NF {nf}: {error}", vm.name, file.host_path.display())
            })?;
            guest.files.insert(file.guest_path.clone(), bytes);
        }
    }
    Ok(guest)
}
