//! Finds out by trying whether KVM can run our guests here, and remembers the answer until the next boot.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::boot_watch::{BootNews, BootWatch};
use super::command::{GuestRam, Initramfs, QEMU, VmLaunch};
use super::kvm_loop::RESULT_PREFIX;
use super::launch::launch;

/// The loop takes a millisecond or two on hardware, and more than a second when it is emulated.
const LOOP_MAX: Duration = Duration::from_millis(100);
/// After this the loop's process is killed.
const LOOP_PATIENCE: Duration = Duration::from_secs(3);
/// Our image boots in a second with hardware.
const BOOT_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// How the instructions of a guest are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// By the hardware.
    Kvm,
    /// By QEMU's translator: slower, and needs nothing.
    Tcg,
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The answer, with what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// What to use.
    pub accelerator: Accelerator,
    /// Why, for people.
    pub reason: String,
    /// How long the loop took, if it ended.
    pub loop_us: Option<u64>,
    /// How long the image took to boot, if it did.
    pub boot_ms: Option<u64>,
}

impl Choice {
    fn tcg(reason: impl Into<String>, loop_us: Option<u64>) -> Self {
        Self { accelerator: Accelerator::Tcg, reason: reason.into(), loop_us, boot_ms: None }
    }
}

/// What is tried.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The device, `/dev/kvm`.
    pub device: PathBuf,
    /// The command whose main function is [`super::kvm_loop::main`].
    pub loop_command: Vec<OsString>,
    /// QEMU.
    pub qemu: PathBuf,
    /// Kernel and initramfs of the guest image; none: a guest is to run that is not ours, and the loop decides.
    pub image: Option<(PathBuf, PathBuf)>,
}

impl Trial {
    /// The trial by this program, which must be `netvm`: it runs itself as `netvm kvm-loop`.
    ///
    /// # Errors
    /// If this program does not know its own path.
    pub fn of_netvm(image: Option<(PathBuf, PathBuf)>) -> io::Result<Self> {
        let loop_command = vec![std::env::current_exe()?.into(), "kvm-loop".into()];
        Ok(Self { device: "/dev/kvm".into(), loop_command, qemu: QEMU.into(), image })
    }

    /// Tries KVM, in at most a quarter of a minute.
    #[must_use]
    pub fn run(&self) -> Choice {
        if let Err(error) = File::options().read(true).write(true).open(&self.device) {
            let device = self.device.display();
            return Choice::tcg(format!("{device} cannot be used ({error}): using TCG"), None);
        }
        let elapsed = match self.time_loop() {
            Ok(elapsed) => elapsed,
            Err(why) => return cannot_boot(&why, None),
        };
        let loop_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        if elapsed > LOOP_MAX {
            let limit = LOOP_MAX.as_millis();
            let why = format!("a loop took {} ms, at most {limit} ms are expected", loop_us / 1000);
            return cannot_boot(&why, Some(loop_us));
        }
        let Some(image) = &self.image else {
            let reason = format!("a loop took {loop_us} µs");
            return Choice { accelerator: Accelerator::Kvm, reason, loop_us: Some(loop_us), boot_ms: None };
        };
        match self.boot(image) {
            Ok(elapsed) => Choice {
                accelerator: Accelerator::Kvm,
                reason: format!("boots the guest image in {} ms", elapsed.as_millis()),
                loop_us: Some(loop_us),
                boot_ms: u64::try_from(elapsed.as_millis()).ok(),
            },
            Err(why) => cannot_boot(&why, Some(loop_us)),
        }
    }

    /// How long the loop takes in a process of its own.
    fn time_loop(&self) -> Result<Duration, String> {
        let (program, arguments) = self.loop_command.split_first().ok_or("no loop to run")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("the loop cannot be started: {error}"))?;
        let stdout = child.stdout.take();
        if !ended_within(&mut child, LOOP_PATIENCE) {
            end(child);
            return Err(format!("a loop did not end within {} s", LOOP_PATIENCE.as_secs()));
        }
        let mut text = String::new();
        // The process has ended, so this ends; what it wrote fits the pipe.
        stdout.and_then(|mut pipe| pipe.read_to_string(&mut text).ok());
        let micros = text.lines().find_map(|line| line.strip_prefix(RESULT_PREFIX)?.parse().ok());
        micros.map(Duration::from_micros).ok_or_else(|| "a loop could not be run".to_owned())
    }

    /// How long the guest image takes to boot under KVM.
    fn boot(&self, image: &(PathBuf, PathBuf)) -> Result<Duration, String> {
        let folder = std::env::temp_dir().join(format!("netvm-kvm-trial-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| format!("no room for a log: {error}"))?;
        let booted = self.boot_with_log(image, &folder.join("serial.log"));
        // A leftover log in the temporary folder harms nobody.
        _ = std::fs::remove_dir_all(&folder);
        booted
    }

    fn boot_with_log(
        &self,
        (kernel, initramfs): &(PathBuf, PathBuf),
        log: &Path,
    ) -> Result<Duration, String> {
        let vm = VmLaunch {
            name: "kvm-trial".to_owned(),
            qemu: self.qemu.clone(),
            kernel: Some(kernel.clone()),
            initramfs: Some(Initramfs::File(initramfs.clone())),
            kernel_args: images::kernel_args::kernel_args(),
            vcpus: 1,
            memory_mib: 256,
            ram: GuestRam::Private,
            accelerator: Accelerator::Kvm,
            areas: Vec::new(),
            nics: Vec::new(),
            disk: None,
            monitors: Vec::new(),
            serial_log: log.to_owned(),
            console: None,
            run_as: None,
            extra: Vec::new(),
        };
        let started = Instant::now();
        let mut watch = BootWatch::new(log).map_err(|error| error.to_string())?;
        let mut vm = launch(vm).map_err(|error| error.to_string())?;
        let result = loop {
            match watch.read() {
                Ok(news) if news.contains(&BootNews::Booted) => break Ok(started.elapsed()),
                Ok(_) => {}
                Err(error) => break Err(error.to_string()),
            }
            if ended_within(&mut vm.child, POLL) {
                break Err("QEMU ended while the guest image booted".to_owned());
            }
            if started.elapsed() > BOOT_PATIENCE {
                break Err(format!("the guest image did not boot within {} s", BOOT_PATIENCE.as_secs()));
            }
        };
        end(vm.child);
        result
    }
}

fn cannot_boot(why: &str, loop_us: Option<u64>) -> Choice {
    Choice::tcg(format!("KVM is present, but cannot boot Linux: using TCG ({why})"), loop_us)
}

/// Whether the process has ended, after waiting for it at most so long.
fn ended_within(child: &mut Child, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return true,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            // That it cannot be waited for is as good as still running: it will be killed.
            Ok(None) | Err(_) => return false,
        }
    }
}

/// Kills the process, and waits for it only a moment: a process that hangs inside KVM may end late.
fn end(mut child: Child) {
    // Ours and not reaped, so this cannot hit another process; if it has ended already, so much the better.
    _ = child.kill();
    if !ended_within(&mut child, Duration::from_millis(500)) {
        std::thread::spawn(move || child.wait());
    }
}

/// The answer of an earlier trial since this machine was started, or of a new one, which is then remembered
/// in `folder`.
#[must_use]
pub fn choose(trial: &Trial, folder: &Path) -> Choice {
    let Some(file) = memory_file(folder) else { return trial.run() };
    if let Some(choice) = remembered(&file) {
        return choice;
    }
    let choice = trial.run();
    if trial.image.is_none() {
        // Half a trial; the next VM with our image makes a whole one.
        return choice;
    }
    if let Err(error) = remember(&file, &choice) {
        log::warn!("the choice of the accelerator is not remembered, {}: {error}", file.display());
    }
    choice
}

/// A name that another boot of the machine does not find.
fn memory_file(folder: &Path) -> Option<PathBuf> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(folder.join(format!("accel-{}.json", boot.trim())))
}

fn remembered(file: &Path) -> Option<Choice> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

/// In one step: another `netvm` reads all of it or nothing.
fn remember(file: &Path, choice: &Choice) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = file.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, serde_json::to_string(choice)?)?;
    std::fs::rename(&temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trial whose loop is a shell command and whose device is there.
    fn trial(script: &str) -> Trial {
        Trial {
            device: "/dev/null".into(),
            loop_command: ["sh", "-c", script].map(OsString::from).to_vec(),
            qemu: "/nonexistent/qemu".into(),
            image: Some(("/dev/null".into(), "/dev/null".into())),
        }
    }

    #[test]
    fn without_an_image_of_ours_the_loop_decides_and_nothing_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let choice = choose(&Trial { image: None, ..trial("echo kvm-loop-us=70") }, folder.path());
        assert_eq!(choice.accelerator, Accelerator::Kvm);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_machine_without_the_device_uses_tcg() {
        let choice = Trial { device: "/nonexistent/kvm".into(), ..trial("") }.run();
        assert_eq!(choice.accelerator, Accelerator::Tcg);
        assert!(choice.reason.starts_with("/nonexistent/kvm cannot be used"), "{}", choice.reason);
    }

    #[test]
    fn a_loop_of_exactly_the_limit_is_fast_and_one_microsecond_more_is_slow() {
        let choice = trial("echo kvm-loop-us=100000").run();
        assert!(choice.reason.contains("cannot start /nonexistent/qemu"), "{}", choice.reason);
        let choice = trial("echo kvm-loop-us=100001").run();
        assert!(choice.reason.contains("a loop took 100 ms"), "{}", choice.reason);
        assert_eq!(choice.loop_us, Some(100_001));
    }

    #[test]
    fn a_loop_that_hangs_is_ended() {
        let started = Instant::now();
        let choice = trial("exec sleep 60").run();
        assert_eq!(
            choice.reason,
            "KVM is present, but cannot boot Linux: using TCG (a loop did not end within 3 s)"
        );
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn the_answer_is_remembered_for_this_boot_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let count = folder.path().join("count");
        let script = format!("echo x >> {}; echo kvm-loop-us=900000", count.display());
        let [first, second] = [(); 2].map(|()| choose(&trial(&script), folder.path()));
        assert_eq!(first, second);
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
    }

    /// Not a test: the process that the trial below runs.
    #[test]
    #[ignore = "the loop's process of kvm_is_tried_for_real"]
    fn kvm_loop_process() {
        _ = super::super::kvm_loop::main();
    }

    #[test]
    fn kvm_is_tried_for_real_and_never_hangs() {
        let this = std::env::current_exe().unwrap();
        let name = format!("{}::kvm_loop_process", module_path!().split_once("::").unwrap().1);
        let mut loop_command = vec![this.into()];
        loop_command.extend([&*name, "--exact", "--ignored", "--nocapture"].map(OsString::from));
        let started = Instant::now();
        let choice = Trial { device: "/dev/kvm".into(), loop_command, ..trial("") }.run();
        println!("{choice:?} after {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(15));
        // The QEMU of this trial is missing, so whatever the loop says, TCG it is.
        assert_eq!(choice.accelerator, Accelerator::Tcg);
    }
}
