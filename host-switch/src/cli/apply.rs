//! `netvm apply`: another config for a running switch, all of it or nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{Failure, WhichSwitch};
use crate::control::request::{Applied, ConfigRequest};

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// The config.
    file: PathBuf,
    /// Only show what would change, and whether a running switch can do it.
    #[arg(long)]
    dry_run: bool,
    /// Refuse if the running config is not of this generation, as `netvm apply` and `netvm config --json` say it.
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
    #[command(flatten)]
    which: WhichSwitch,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn apply(run_dir: &Path, args: &ApplyArgs) -> Result<ExitCode, Failure> {
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| format!("cannot read {}: {error}", args.file.display()))?;
    let file = std::path::absolute(&args.file)?;
    let mut path = format!("/v1/config?dry_run={}", args.dry_run);
    if let Some(generation) = args.generation {
        path += &format!("&generation={generation}");
    }
    let client = args.which.find(run_dir)?;
    let body = serde_json::to_vec(&ConfigRequest { file, text })?;
    let (good, answer) = client.ask("PUT", &path, body)?;
    if args.json {
        println!("{}", String::from_utf8_lossy(&answer));
        let refused =
            serde_json::from_slice::<Applied>(&answer).is_ok_and(|said| said.difference.needs_restart());
        return Ok(super::code(good && !refused));
    }
    let applied: Applied = client.read(good, &answer)?;
    println!("{}", shown(&applied));
    Ok(super::code(!applied.difference.needs_restart()))
}

fn shown(applied: &Applied) -> String {
    let Applied { applied, generation, difference, held_us, overtaken } = applied;
    let ended = match (applied, difference.needs_restart()) {
        (false, true) => "this takes a restart of the switch; it would be refused".to_owned(),
        (false, false) if difference.is_empty() => format!("nothing differs from generation {generation}"),
        (false, false) => "dry run: nothing was changed".to_owned(),
        (true, _) => {
            let late = match overtaken {
                0 => String::new(),
                packets => format!("; {packets} packets on their way may have been overtaken"),
            };
            let held = if *held_us == 0 { String::new() } else { format!("; ports waited {held_us} us") };
            format!("applied: generation {generation}{held}{late}")
        }
    };
    if difference.is_empty() { ended } else { format!("{difference}\n{ended}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_it_is_the_last_line() {
        let mut applied = Applied { generation: 3, ..Applied::default() };
        assert_eq!(shown(&applied), "nothing differs from generation 3");
        applied.applied = true;
        assert_eq!(shown(&applied), "applied: generation 3");
        (applied.held_us, applied.overtaken) = (70, 2);
        assert_eq!(
            shown(&applied),
            "applied: generation 3; ports waited 70 us; 2 packets on their way may have been overtaken"
        );
    }
}
