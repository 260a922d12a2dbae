//! `netvm audit`: every lcore counts the buffers of its own shards.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, WhichSwitch, code};
use crate::control::status::{Audit, BufferStatus, ShardStatus};

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    which: WhichSwitch,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn audit(run_dir: &Path, args: &AuditArgs) -> Result<ExitCode, Failure> {
    let audit: Audit = args.which.find(run_dir)?.get("/v1/audit")?;
    if args.json {
        println!("{}", serde_json::to_string(&audit)?);
    } else {
        print!("{}", table(&audit));
    }
    Ok(code(audit.balances))
}

fn table(audit: &Audit) -> String {
    let mut text = format!(
        "{:<12} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9}\n",
        "domain", "lcore", "total", "pool", "pmd", "lcore", "endpoints", "quarantined", "pinned", "sum"
    );
    for ShardStatus { domain, lcore, findings, buffers } in &audit.shards {
        let BufferStatus { total, pool, pmd, lcore: in_hand, endpoints, quarantined, pinned, sum } = buffers;
        let held: u64 = endpoints.values().sum();
        text += &format!(
            "{domain:<12} {lcore:>5} {total:>9} {pool:>9} {pmd:>9} {in_hand:>9} {held:>9} {quarantined:>11} {pinned:>9} {sum:>9}"
        );
        text += "\n";
        for finding in findings {
            text += &format!("  WRONG: {finding}\n");
        }
    }
    text += if audit.balances {
        "every buffer is accounted for\n"
    } else {
        "buffers are missing or counted twice: a fault of the switch; keep its log, restart it, and report it\n"
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_does_not_balance_stands_out() {
        let buffers = BufferStatus { total: 10, pool: 9, sum: 9, ..BufferStatus::default() };
        let findings = vec!["sum is 9, expected 10".to_owned()];
        let shard = ShardStatus { domain: "blue".to_owned(), lcore: 0, findings, buffers };
        let text = table(&Audit { switch: "demo".to_owned(), balances: false, shards: vec![shard] });
        assert!(text.contains("WRONG: sum is 9, expected 10\n"), "{text}");
    }
}
