//! `netvm boot`: boots a VM of the config on its running switch.

mod background;
mod grant;
mod link;
mod vm;
mod watch;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use security_domains::{Access, Config, Vm};

use super::Failure;
use crate::control::protocol::Request;
use crate::control::runtime_dir::NicSockets;
use crate::control::stop::Stop;
use crate::control::uid;
use crate::plan::Plan;
use crate::qemu::accel::{self, Accelerator, Trial};
use crate::qemu::command::VmLaunch;
use crate::qemu::launch::launch;
use grant::Grant;
use link::{Link, Renewal};

#[derive(Debug, Args)]
pub(super) struct BootArgs {
    /// The config that the switch runs.
    file: PathBuf,
    /// The VM, by its name in the config.
    vm: String,
    /// Print QEMU's command line instead of starting it. Needs no running switch.
    #[arg(long)]
    print: bool,
    /// Come back once its network functions run (an untrusted VM: once QEMU runs); a process in the background
    /// looks after it, and ends it with the switch (an untrusted VM lives on without one).
    #[arg(long)]
    detach: bool,
    /// This process is the one in the background.
    #[arg(long, hide = true, requires = "detach")]
    background: bool,
    /// How the guest's instructions are run.
    #[arg(long, value_enum, default_value_t = AccelArg::Auto)]
    accel: AccelArg,
    /// Where the guest's serial console is written to [default: VM.serial.log in the switch's directory].
    #[arg(long, value_name = "PATH")]
    serial_log: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AccelArg {
    /// KVM if it was tried and works, else TCG.
    Auto,
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

pub(super) fn boot(run_dir: &Path, args: &BootArgs) -> Result<ExitCode, Failure> {
    let config = super::load(&args.file)?;
    let vm = find_vm(&config, &args.vm)?;
    let switch_dir = run_dir.join(&config.switch.name);
    if args.print {
        return print(&config, vm, args, run_dir);
    }
    if args.detach && !args.background {
        return background::start(run_dir, args);
    }
    let stop = Stop::default();
    stop.on_signals()?;
    vm::check_image(vm)?;
    let endpoint_socket = switch_dir.join("endpoint.sock");
    let mut grant = Grant::fetch(&endpoint_socket, &args.file, &vm.name)?;
    let (accelerator, reason) = accelerator(args.accel, vm, run_dir)?;
    log::info!("vm {} runs with {accelerator}: {reason}", vm.name);

    let is_untrusted = vm.access == Access::Untrusted;
    let (own_end, qemu_end) = UnixStream::pair()?;
    let mut monitors = vec![qemu_end.into()];
    if !is_untrusted {
        let (switch_end, qemu_end) = UnixStream::pair()?;
        // Before QEMU starts: should this process die on the way, the switch still sees the end of the socket.
        grant.hand_over(&Request::Qmp, switch_end.as_fd())?;
        monitors.insert(0, qemu_end.into());
    }
    let areas = std::mem::take(&mut grant.areas);
    let run_as = grant.uid.map(run_as);
    let serial_log = serial_log(args, vm, &switch_dir);
    // What an earlier boot wrote there must not be taken for this one.
    File::create(&serial_log).map_err(|error| format!("cannot write {}: {error}", serial_log.display()))?;
    let nics = vm::nics_of(&config, vm, &NicSockets::of_switch(run_dir, &config.switch.name));
    let launched = vm::launch_of(vm, accelerator, areas, nics, monitors, &serial_log)?;
    let running = launch(VmLaunch { run_as, ..launched })?;

    let pid = i32::try_from(running.child.id())?;
    let process = Request::Pid { pid, accelerator: Some(accelerator.to_string()), with_launcher: true };
    if let Err(refused) = grant.hand_over(&process, running.pidfd.as_fd()) {
        return watch::give_up(&vm.name, running, &refused);
    }
    log::info!("vm {} is process {pid}, its console is in {}", vm.name, serial_log.display());
    let link = if is_untrusted {
        Link::Renewed(Renewal::new(grant, endpoint_socket, args.file.clone(), &vm.name, process))
    } else {
        Link::Needed(grant.connection)
    };
    watch::Watched::new(&vm.name, running, link, own_end, &serial_log, stop)?.attend(args.detach)
}

/// A user and a group of this number, as QEMU takes them.
fn run_as(uid: u32) -> String {
    format!("{uid}:{uid}")
}

fn find_vm<'c>(config: &'c Config, name: &str) -> Result<&'c Vm, String> {
    config.vm_named(name).map(|(_, vm)| vm).ok_or_else(|| {
        let file = config.file.display();
        if config.processes.iter().any(|process| process.name == name) {
            return format!(
                "{name} of {file} is a process, no VM: start its network function with --socket and --name {name}"
            );
        }
        let known: Vec<&str> = config.vms.iter().map(|vm| vm.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!("no VM {name:?} in {file}; it has: {known}")
    })
}

/// The command line with memory of the right sizes in place of the switch's: nothing is asked for.
fn print(config: &Config, vm: &Vm, args: &BootArgs, run_dir: &Path) -> Result<ExitCode, Failure> {
    let switch_dir = run_dir.join(&config.switch.name);
    let accelerator = match args.accel {
        AccelArg::Kvm => Accelerator::Kvm,
        AccelArg::Auto | AccelArg::Tcg => Accelerator::Tcg,
    };
    let plan = Plan::new(config, 0)?;
    let is_untrusted = vm.access == Access::Untrusted;
    let areas = if is_untrusted { Vec::new() } else { grant::stand_in(&plan, &vm.name)? };
    let (monitor, _) = UnixStream::pair()?;
    let nics = vm::nics_of(config, vm, &NicSockets::of_switch(run_dir, &config.switch.name));
    let log = serial_log(args, vm, &switch_dir);
    let launched = vm::launch_of(vm, accelerator, areas, nics, vec![monitor.into()], &log)?;
    let position = config.vms.iter().position(|listed| listed.name == vm.name);
    let run_as = position.and_then(|position| uid::uid(0, position)).map(run_as);
    let launched = VmLaunch { run_as, ..launched };
    println!("{}", launched.command().to_shell());
    if is_untrusted {
        eprintln!(
            "The paths of the chardevs are sockets that `netvm run` makes; the user of -runas may connect to them, \
             which a running switch decides. Numbers in fd= and under /proc/self/fd are descriptors that QEMU \
             inherits; the QMP socket stays with the launcher."
        );
        return Ok(ExitCode::SUCCESS);
    }
    let memory = if launched.areas.iter().any(|area| area.path.is_some()) {
        "Control area and region are files that `netvm run` makes. "
    } else {
        ""
    };
    let inherited = if memory.is_empty() { "control area and region, " } else { "" };
    eprintln!(
        "{memory}The numbers under /proc/self/fd and in fd= are descriptors that QEMU inherits: {inherited}a QMP \
         socket whose other end goes to the switch over {}, an initramfs with the files of this VM. The user of \
         -runas is this VM's own; a running switch says which.",
        switch_dir.join("endpoint.sock").display()
    );
    Ok(ExitCode::SUCCESS)
}

fn serial_log(args: &BootArgs, vm: &Vm, switch_dir: &Path) -> PathBuf {
    args.serial_log.clone().unwrap_or_else(|| switch_dir.join(format!("{}.serial.log", vm.name)))
}

fn accelerator(asked: AccelArg, vm: &Vm, run_dir: &Path) -> Result<(Accelerator, String), Failure> {
    let by_request = || "asked for by --accel".to_owned();
    Ok(match asked {
        AccelArg::Kvm => (Accelerator::Kvm, by_request()),
        AccelArg::Tcg => (Accelerator::Tcg, by_request()),
        AccelArg::Auto => {
            // What an untrusted VM boots need not be our image, and its failure would say nothing of KVM.
            let image = vm.kernel.clone().zip(vm.initramfs.clone());
            let image = image.filter(|_| vm.access != Access::Untrusted);
            let choice = accel::choose(&Trial::of_netvm(image)?, run_dir);
            (choice.accelerator, choice.reason)
        }
    })
}
