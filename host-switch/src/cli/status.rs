//! `netvm status`: the switch at a glance.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Failure, WhichSwitch};
use crate::control::status::{
    BufferStatus, EdgeStatus, EndpointStatus, FlowsStatus, LcoreStatus, NicStatus, PortStatus, Status,
};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    which: WhichSwitch,
    /// Print one JSON object (with --watch: one a line).
    #[arg(long)]
    json: bool,
    /// Print again every so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

pub(super) fn status(run_dir: &Path, args: &StatusArgs) -> Result<ExitCode, Failure> {
    let client = args.which.find(run_dir)?;
    loop {
        let status: Status = client.get("/v1/status")?;
        let mut text = if args.json { serde_json::to_string(&status)? + "\n" } else { table(&status) };
        let mut out = std::io::stdout();
        if args.watch.is_some() && !args.json && out.is_terminal() {
            // Clear the screen and go to its top left corner.
            text.insert_str(0, "\x1b[2J\x1b[H");
        }
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever read has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            written => written?,
        }
        let Some(seconds) = args.watch else { return Ok(ExitCode::SUCCESS) };
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

fn table(status: &Status) -> String {
    let mut text = format!(
        "switch {} (process {}), up {} s, copies in the trusted chain: {}\n",
        status.switch,
        status.pid,
        status.uptime_ms / 1000,
        status.copies_in_trusted_chain
    );
    // Writing to a String cannot fail.
    _ = lcores(&mut text, &status.lcores);
    _ = ports(&mut text, &status.ports);
    _ = endpoints(&mut text, &status.endpoints);
    _ = edges(&mut text, &status.edges);
    text += &super::vm::table(&status.owners);
    text.push('\n');
    for vm in &status.vms {
        _ = writeln!(text, "vm {} runs ({}, process {})", vm.name, vm.accelerator, vm.pid);
    }
    for (domain, reasons) in &status.drops {
        for (reason, packets) in reasons.iter().filter(|(_, packets)| **packets > 0) {
            _ = writeln!(text, "dropped in {domain}: {packets} {reason}");
        }
    }
    // Not dropped, so in no domain's drops: the packet itself went on.
    for EndpointStatus { name, drops, .. } in &status.endpoints {
        if let Some(packets @ 1..) = drops.get("observer_full") {
            _ = writeln!(text, "not shown to {name}: {packets} observer_full");
        }
    }
    for (domain, buffers) in &status.buffers {
        _ = self::buffers(&mut text, domain, buffers);
    }
    text
}

fn lcores(text: &mut String, lcores: &[LcoreStatus]) -> std::fmt::Result {
    for LcoreStatus { id, cpu, polls, idle_share, flows } in lcores {
        let cpu = cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string());
        writeln!(text, "lcore {id} on CPU {cpu}: {polls} polls, {:.0} % idle", idle_share * 100.0)?;
        if let Some(FlowsStatus { limit, flows, unanswered, hits, misses, .. }) = flows {
            writeln!(
                text,
                "lcore {id} remembers {flows} of at most {limit} flows, {unanswered} unanswered: {hits} packets known, {misses} not"
            )?;
        }
    }
    Ok(())
}

fn ports(text: &mut String, ports: &[PortStatus]) -> std::fmt::Result {
    writeln!(
        text,
        "\n{:<16} {:<16} {:>12} {:>12} {:>10} {:>10} {:>10}",
        "port", "driver", "rx", "tx", "rx_nombuf", "rx_missed", "copies"
    )?;
    for port in ports {
        let PortStatus { name, driver, rx_packets, tx_packets, rx_nombuf, rx_missed, copies, .. } = port;
        writeln!(
            text,
            "{name:<16} {driver:<16} {rx_packets:>12} {tx_packets:>12} {rx_nombuf:>10} {rx_missed:>10} {copies:>10}"
        )?;
    }
    for PortStatus { name, nic, .. } in ports {
        nic.as_ref().map_or(Ok(()), |nic| self::nic(text, name, nic))?;
    }
    Ok(())
}

/// One line for the NIC of an untrusted VM.
fn nic(text: &mut String, name: &str, nic: &NicStatus) -> std::fmt::Result {
    let NicStatus { connected, queue_pairs, features, drops, faults, .. } = nic;
    let state = match (connected, queue_pairs) {
        (false, _) => "not connected".to_owned(),
        (true, 0) => "connected, its guest has not started it".to_owned(),
        (true, 1) => format!("1 queue pair, {}", features.join(" ")),
        (true, pairs) => format!("{pairs} queue pairs, {}", features.join(" ")),
    };
    let counted = drops.iter().chain(faults).filter(|(_, count)| **count > 0);
    let counted: Vec<String> = counted.map(|(name, count)| format!("{name}={count}")).collect();
    let counted = if counted.is_empty() { "-".to_owned() } else { counted.join(" ") };
    writeln!(text, "nic {name}: {state}; faults and drops: {counted}")
}

fn endpoints(text: &mut String, endpoints: &[EndpointStatus]) -> std::fmt::Result {
    writeln!(
        text,
        "\n{:<24} {:<11} {:>5} {:>11} {:>12} {:>12}  faults",
        "endpoint", "phase", "epoch", "held/quota", "received", "returned"
    )?;
    for endpoint in endpoints {
        let EndpointStatus { name, phase, epoch, held, quota, received, returned, faults, fed, .. } =
            endpoint;
        let phase = if phase == "attached" && !fed { "silent" } else { phase };
        let held = format!("{held}/{quota}");
        let faults: Vec<String> = faults
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(fault, count)| format!("{fault}={count}"))
            .collect();
        let faults = if faults.is_empty() { "-".to_owned() } else { faults.join(" ") };
        writeln!(
            text,
            "{name:<24} {phase:<11} {epoch:>5} {held:>11} {received:>12} {returned:>12}  {faults}"
        )?;
    }
    text.push('\n');
    Ok(())
}

fn edges(text: &mut String, edges: &[EdgeStatus]) -> std::fmt::Result {
    for EdgeStatus { from, to, packets, bytes, drops } in edges {
        let dropped: u64 = drops.values().sum();
        writeln!(text, "edge {from} to {to}: {packets} packets, {bytes} bytes copied, {dropped} dropped")?;
    }
    if !edges.is_empty() {
        text.push('\n');
    }
    Ok(())
}

fn buffers(text: &mut String, domain: &str, buffers: &BufferStatus) -> std::fmt::Result {
    let BufferStatus { total, pool, pmd, lcore, endpoints, quarantined, pinned, sum } = buffers;
    write!(text, "buffers of {domain}: {total} = {pool} pool + {pmd} pmd + {lcore} lcore")?;
    for (endpoint, held) in endpoints {
        write!(text, " + {held} {endpoint}")?;
    }
    write!(text, " + {quarantined} quarantined")?;
    if *pinned > 0 {
        write!(text, " + {pinned} pinned")?;
    }
    if buffers.balances() { writeln!(text) } else { writeln!(text, "  DOES NOT BALANCE: sum {sum}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        let buffers = BufferStatus { total: 10, pool: 7, pmd: 3, sum: 10, ..BufferStatus::default() };
        Status {
            switch: "demo".to_owned(),
            ports: vec![PortStatus { name: "client".to_owned(), rx_packets: 42, ..PortStatus::default() }],
            endpoints: vec![EndpointStatus {
                name: "fw0/firewall".to_owned(),
                phase: "attached".to_owned(),
                faults: [("not_held".to_owned(), 2)].into(),
                drops: [("observer_full".to_owned(), 7)].into(),
                ..EndpointStatus::default()
            }],
            drops: [("blue".to_owned(), [("ring_full".to_owned(), 5), ("nf_drop".to_owned(), 0)].into())]
                .into(),
            buffers: [("blue".to_owned(), buffers)].into(),
            ..Status::default()
        }
    }

    #[test]
    fn the_table_names_what_moved_and_leaves_out_what_did_not() {
        let text = table(&sample());
        assert!(text.contains("dropped in blue: 5 ring_full"), "{text}");
        assert!(!text.contains("nf_drop"), "{text}");
        assert!(text.contains("not_held=2"), "{text}");
        assert!(text.contains("not shown to fw0/firewall: 7 observer_full"), "{text}");
        assert!(text.contains("buffers of blue: 10 = 7 pool + 3 pmd + 0 lcore + 0 quarantined"), "{text}");
    }

    #[test]
    fn an_attached_endpoint_that_is_not_fed_is_shown_as_silent() {
        assert!(table(&sample()).contains(" silent "));
    }
}
