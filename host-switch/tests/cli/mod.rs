//! Runs the program as an operator does.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a laboratory that does not work is a test that failed")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a run said.
#[derive(Debug)]
pub struct Said {
    pub good: bool,
    pub output: String,
    pub errors: String,
}

/// Runs `netvm` to its end.
pub fn netvm(arguments: &[&str]) -> Said {
    said(Command::new(env!("CARGO_BIN_EXE_netvm")).args(arguments))
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        good: output.status.success(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder for runtime directories and configs of one test.
pub struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Writes the config of a switch with one process NF and these devices as ports.
    pub fn config(&self, switch: &str, devices: &[&str]) -> PathBuf {
        let mut text = format!("[switch]\nname = \"{switch}\"\nlcores = [0]\n");
        text += "[[domain]]\nname = \"blue\"\nregion_mib = 8\npages = \"plain\"\n";
        for (number, device) in devices.iter().enumerate() {
            text += &format!("[[port]]\nname = \"port{number}\"\ndevice = \"{device}\"\n");
            text += "domain = \"blue\"\nchain = \"way\"\n";
        }
        text += "[[service]]\nname = \"forwarder\"\n";
        text += "[[chain]]\nname = \"way\"\npath = [\"forwarder\"]\negress = \"port0\"\n";
        text += "[[process]]\nname = \"fwd0\"\ndomain = \"blue\"\n";
        text += "[[process.endpoint]]\nservice = \"forwarder\"\n";
        let path = self.folder.path().join(format!("{switch}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Lets every user into the lab's folder, so that what is refused is refused further in.
    pub fn open_to_all(&self) {
        std::fs::set_permissions(self.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes a config as it is.
    pub fn write_config(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Writes a config with one VM whose kernel is there, or not.
    pub fn vm_config(&self, kernel: &str) -> PathBuf {
        let path = self.config("vms", &["net_null0"]);
        let text = std::fs::read_to_string(&path).unwrap();
        let process = text.find("[[process]]").unwrap();
        let vm = format!(
            "[[vm]]\nname = \"fw0\"\ndomain = \"blue\"\nkernel = \"{kernel}\"\ninitramfs = \"/dev/null\"\n\
             [[vm.endpoint]]\nservice = \"forwarder\"\nnf = \"forwarder\"\nargs = [\"it's\"]\n"
        );
        std::fs::write(&path, format!("{}{vm}", &text[..process])).unwrap();
        path
    }

    /// Puts a script where programs are looked for first, and says how PATH has to be for that.
    pub fn program(&self, name: &str, script: &str) -> String {
        let folder = self.folder.path().join("bin");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(name);
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
    }

    /// Runs `netvm` on this lab's runtime directories.
    pub fn netvm(&self, arguments: &[&str]) -> Said {
        self.netvm_with_path(&std::env::var("PATH").unwrap(), arguments)
    }

    /// As [`Lab::netvm`], with programs looked for in `path`.
    pub fn netvm_with_path(&self, path: &str, arguments: &[&str]) -> Said {
        said(self.command(arguments).env("PATH", path))
    }

    /// A command of this lab that has not been started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netvm"));
        command.arg("--run-dir").arg(self.run_dir()).args(arguments);
        command
    }

    /// Starts a switch and waits until it runs.
    pub fn switch(&self, config: &Path) -> Switch {
        let mut child = Command::new(env!("CARGO_BIN_EXE_netvm"))
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("run")
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (line, lines) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            errors.lines().map_while(Result::ok).for_each(|text| drop(line.send(text)))
        });
        let switch = Switch { child, lines };
        switch.wait_for(" runs: ");
        switch
    }

    /// Whatever is left of runtime directories and locks.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.run_dir()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// A running switch; it is killed with the test.
pub struct Switch {
    child: Child,
    lines: Receiver<String>,
}

impl Switch {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of its log.
    pub fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no {text:?} in {seen:#?}"),
            }
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the switch does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Ours and not reaped; if it has ended already, so much the better.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
