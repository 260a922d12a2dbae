//! `netvm vm`: what an operator does to one VM or process.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Failure, WhichSwitch};
use crate::control::order::Act;
use crate::control::status::{OwnerStatus, Status};

#[derive(Debug, Args)]
pub(super) struct VmArgs {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Debug, Subcommand)]
enum VmCommand {
    /// List VMs and processes: their state, and what they did wrong.
    #[command(after_help = "Example:\n  netvm vm list --json")]
    List(ListArgs),
    /// Take a VM's or process's rings, and answer no attach of it until `netvm vm attach`. Of an untrusted VM:
    /// take out the cables of its NICs.
    #[command(after_help = "Example:\n  netvm vm detach fw0")]
    Detach(OneArgs),
    /// Let a detached VM or process in again.
    #[command(after_help = "Example:\n  netvm vm attach fw0")]
    Attach(OneArgs),
    /// End a process, or the QEMU of a VM, at once.
    #[command(after_help = "Example:\n  netvm vm kill fw0")]
    Kill(OneArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    which: WhichSwitch,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The VM or process, by its name in the config.
    name: String,
    #[command(flatten)]
    which: WhichSwitch,
    /// Print one JSON object: how it stands afterwards.
    #[arg(long)]
    json: bool,
}

pub(super) fn vm(run_dir: &Path, args: &VmArgs) -> Result<ExitCode, Failure> {
    let (act, args) = match &args.command {
        VmCommand::List(args) => return list(run_dir, args),
        VmCommand::Detach(args) => (Act::Detach, args),
        VmCommand::Attach(args) => (Act::Attach, args),
        VmCommand::Kill(args) => (Act::Kill, args),
    };
    let path = format!("/v1/vms/{}/{}", encoded(&args.name), act.name());
    let status: OwnerStatus = args.which.find(run_dir)?.post(&path)?;
    println!("{}", if args.json { serde_json::to_string(&status)? } else { done(act, &status) });
    Ok(ExitCode::SUCCESS)
}

fn list(run_dir: &Path, args: &ListArgs) -> Result<ExitCode, Failure> {
    let status: Status = args.which.find(run_dir)?.get("/v1/status")?;
    if args.json {
        println!("{}", serde_json::to_string(&status.owners)?);
    } else {
        print!("{}", table(&status.owners));
    }
    Ok(ExitCode::SUCCESS)
}

fn done(act: Act, status: &OwnerStatus) -> String {
    let OwnerStatus { name, kind, pid, untrusted, .. } = status;
    match act {
        Act::Detach if *untrusted => format!(
            "{kind} {name} is detached: the cables of its NICs are out, and it runs on; `netvm vm attach {name}` \
             puts them in again"
        ),
        Act::Attach if *untrusted => {
            format!("{kind} {name} is let in: its QEMU connects its NICs again within a second or two")
        }
        Act::Detach => format!(
            "{kind} {name} is detached: it gets no packets, and no attach of it is answered; what it holds stays \
             quarantined until it is proved that nothing of it runs; `netvm vm attach {name}` lets it in again"
        ),
        Act::Attach => format!("{kind} {name} is let in: it is attached as soon as its NF asks"),
        Act::Kill => format!("{kind} {name}: process {pid} is killed"),
    }
}

/// One line for each VM and process.
pub(super) fn table(owners: &[OwnerStatus]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    _ = writeln!(
        text,
        "{:<16} {:<8} {:<12} {:<10} {:>8}  violations",
        "name", "kind", "domain", "state", "process"
    );
    for OwnerStatus { name, kind, domain, state, pid, out, violations, actions, .. } in owners {
        let pid = if *pid == 0 { "-".to_owned() } else { pid.to_string() };
        let named = violations.values().flatten().filter(|(_, count)| **count > 0);
        let mut said: Vec<String> = named.map(|(name, count)| format!("{name}={count}")).collect();
        said.extend(actions.iter().map(|(action, count)| format!("{action} by policy: {count}")));
        let said = if said.is_empty() { "-".to_owned() } else { said.join(" ") };
        _ = writeln!(text, "{name:<16} {kind:<8} {domain:<12} {state:<10} {pid:>8}  {said}");
        if let Some(out) = out {
            let until = out.left_ms.map_or_else(
                || format!("until `netvm vm attach {name}`"),
                |left_ms| format!("for {} s", left_ms.div_ceil(1000)),
            );
            let until =
                if out.by == "memory" { "until the switch is started anew".to_owned() } else { until };
            _ = writeln!(text, "  detached {until}: {}", out.cause);
        }
    }
    text
}

/// A name as a part of a path.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::OutStatus;

    fn detached(by: &str, left_ms: Option<u64>) -> OwnerStatus {
        OwnerStatus {
            name: "fw0".to_owned(),
            kind: "vm".to_owned(),
            state: "detached".to_owned(),
            out: Some(OutStatus { by: by.to_owned(), cause: "because".to_owned(), left_ms }),
            violations: [("counter".to_owned(), [("peer_counter".to_owned(), 2)].into())].into(),
            actions: [("detach".to_owned(), 1)].into(),
            ..OwnerStatus::default()
        }
    }

    #[test]
    fn the_list_says_who_is_out_why_and_for_how_long() {
        let text = table(&[detached("policy", Some(4001))]);
        assert!(text.contains("peer_counter=2 detach by policy: 1"), "{text}");
        assert!(text.contains("  detached for 5 s: because\n"), "{text}");
        let text = table(&[detached("hand", None)]);
        assert!(text.contains("  detached until `netvm vm attach fw0`: because\n"), "{text}");
    }

    #[test]
    fn what_is_said_of_an_untrusted_vm_is_about_cables_and_not_about_rings() {
        let one = OwnerStatus { untrusted: true, ..detached("hand", None) };
        let text = done(Act::Detach, &one);
        assert!(text.starts_with("vm fw0 is detached: the cables of its NICs are out"), "{text}");
        assert!(done(Act::Attach, &one).contains("connects its NICs again"));
        assert!(done(Act::Detach, &detached("hand", None)).contains("stays quarantined"));
    }

    #[test]
    fn a_name_cannot_become_another_path() {
        assert_eq!(encoded("fw-0_a.b"), "fw-0_a.b");
        assert_eq!(encoded("../stop ü"), "..%2Fstop%20%C3%BC");
    }
}
