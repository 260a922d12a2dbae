//! The command line of netvm.

mod api;
mod apply;
mod audit;
mod boot;
mod check;
pub mod client;
mod config;
pub mod doctor;
mod run;
mod status;
mod vm;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use security_domains::{Config, Findings};

use crate::control::runtime_dir::ROOT_DEFAULT;

/// A packet switch that lends hugepage memory to virtual machines.
#[derive(Debug, Parser)]
#[command(
    name = "netvm",
    version,
    about,
    after_help = "Example:\n  netvm check demo.toml && netvm run demo.toml"
)]
struct Cli {
    /// Where runtime directories of switches are.
    #[arg(long, global = true, value_name = "PATH", default_value = ROOT_DEFAULT)]
    run_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a config and print what it needs; nothing is touched.
    #[command(after_help = "Example:\n  netvm check security-domains/examples/two-tenants.toml")]
    Check(check::CheckArgs),
    /// Run the switch until SIGINT, SIGTERM or `netvm stop`.
    #[command(after_help = "Example:\n  netvm run security-domains/examples/demo.toml")]
    Run(run::RunArgs),
    /// Boot a VM of the config on its running switch, and stay until it ends.
    #[command(
        after_help = "Example:\n  netvm boot security-domains/examples/demo.toml fw0 --serial-log fw0.log"
    )]
    Boot(boot::BootArgs),
    /// Give a running switch another config: all of it, or nothing.
    #[command(after_help = "Example:\n  netvm apply demo.toml --dry-run && netvm apply demo.toml\n\n\
        Shows what is added (+), removed (-) and changed (~). A file with anything that takes a restart is refused\n\
        whole. Packets on their way keep their path, and flows their order. The file is yours: the switch does not\n\
        write it, and reads the file that it is started with when it is started anew.")]
    Apply(apply::ApplyArgs),
    /// Print the config that runs, with the changes since the switch was started.
    #[command(after_help = "Example:\n  netvm config > demo.toml")]
    Config(config::ConfigArgs),
    /// Ask the HTTP API of a running switch, or print its OpenAPI document.
    #[command(after_help = "Examples:\n  netvm api GET /v1/chains\n  \
        netvm api POST '/v1/rules?at=0' --data '{\"port\": \"client\", \"proto\": 17, \"drop\": true}'\n  \
        netvm api DELETE /v1/rules/0\n  netvm api --openapi")]
    Api(api::ApiArgs),
    /// Show ports, endpoints, drops by name and buffers by holder.
    #[command(after_help = "Example:\n  netvm status --watch 1")]
    Status(status::StatusArgs),
    /// List VMs and processes, detach them, let them in again, kill them.
    #[command(after_help = "Example:\n  netvm vm detach fw0")]
    Vm(vm::VmArgs),
    /// Have every lcore count its buffers, and compare.
    #[command(after_help = "Example:\n  netvm audit --switch demo")]
    Audit(audit::AuditArgs),
    /// Stop a running switch.
    #[command(after_help = "Example:\n  netvm stop --switch demo")]
    Stop(WhichSwitch),
    /// Say whether this machine is ready, and how to fix what is not.
    #[command(after_help = "Example:\n  netvm doctor --json")]
    Doctor(DoctorArgs),
    /// The timed loop by which KVM is tried, in a process of its own because it may hang.
    #[command(hide = true, after_help = "Example:\n  netvm kvm-loop")]
    KvmLoop,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// Folder of the guest image (vmlinuz, initramfs.cpio.gz), which KVM is tried with.
    #[arg(long, value_name = "PATH", default_value = "images/out")]
    image: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Which running switch is meant; without either, the only one.
#[derive(Debug, Args)]
struct WhichSwitch {
    /// The switch of this name.
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    switch: Option<String>,
    /// The switch behind this control socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl WhichSwitch {
    fn find(&self, run_dir: &Path) -> Result<client::Client, client::ClientError> {
        match &self.socket {
            Some(socket) => Ok(client::Client::at(socket.clone())),
            None => client::Client::find(run_dir, self.switch.as_deref()),
        }
    }
}

/// How long a switch may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What ends a command badly: its text says what was found, what was allowed, and the fix.
type Failure = Box<dyn Error>;

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_target(false)
        .init();
    let Cli { run_dir, command } = Cli::parse();
    let ended = match command {
        Command::Check(args) => check::check(&args),
        Command::Run(args) => run::run(&run_dir, &args),
        Command::Boot(args) => boot::boot(&run_dir, &args),
        Command::Apply(args) => apply::apply(&run_dir, &args),
        Command::Config(args) => config::config(&run_dir, &args),
        Command::Api(args) => api::api(&run_dir, &args),
        Command::Status(args) => status::status(&run_dir, &args),
        Command::Vm(args) => vm::vm(&run_dir, &args),
        Command::Audit(args) => audit::audit(&run_dir, &args),
        Command::Stop(which) => stop(&run_dir, &which),
        Command::Doctor(args) => Ok(code(doctor::print(&doctor::examine(&args.image), args.json))),
        Command::KvmLoop => Ok(crate::qemu::kvm_loop::main()),
    };
    ended.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        ExitCode::FAILURE
    })
}

/// A config that was refused, with every finding.
#[derive(Debug, thiserror::Error)]
#[error("{}: {} finding{}; nothing was started\n{findings}", file.display(), findings.len(), if findings.len() == 1 { "" } else { "s" })]
struct Refused {
    file: PathBuf,
    findings: Findings,
}

fn load(file: &Path) -> Result<Config, Refused> {
    security_domains::load(file).map_err(|findings| Refused { file: file.to_owned(), findings })
}

fn load_text(file: &Path) -> Result<(Config, String), Refused> {
    security_domains::load_text(file).map_err(|findings| Refused { file: file.to_owned(), findings })
}

fn stop(run_dir: &Path, which: &WhichSwitch) -> Result<ExitCode, Failure> {
    let client = which.find(run_dir)?;
    client.post::<serde_json::Value>("/v1/stop")?;
    let deadline = Instant::now() + STOP_LIMIT;
    while client.is_listening() {
        if Instant::now() > deadline {
            return Err(format!("the switch still runs after {} s; see its log", STOP_LIMIT.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("the switch has stopped");
    Ok(ExitCode::SUCCESS)
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_each_command_shows_an_example() {
        let mut command = Cli::command();
        command.build();
        assert_examples("netvm", &command);
        command.debug_assert();
    }

    fn assert_examples(path: &str, command: &clap::Command) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            let example = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.contains(&path), "{path}: {example}");
            assert_examples(&path, sub);
        }
    }
}
