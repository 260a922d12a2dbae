//! Lets packets pass by rules over their 5-tuples, and drops the rest.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use guest_netlib::Packet;
use guest_netlib::holding::{Handler, SHOWN_COUNTERS};
use nfs::firewall::{Action, Policy, Tally, file};
use nfs::settings::Findings;
use nfs::{Common, HEADER_BYTES, NfError};

/// Lets packets pass by rules over their 5-tuples, and drops the rest
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        firewall --rules /etc/netvm/rules.toml                in a guest\n  \
        firewall --socket /run/netvm/demo/endpoint.sock --name fw0 --rules rules.toml\n  \
        firewall --rules rules.toml --check                   is this file legal?\n\n\
        A rules file (everything that is not said is dropped; the first rule that matches wins):\n  \
        arp = \"allow\"\n  \
        [[rule]]\n  \
        name = \"web\"\n  \
        action = \"allow\"\n  \
        proto = \"tcp\"\n  \
        src = \"10.1.0.0/24\"\n  \
        dport = \"8000-8099\"\n\n\
        Further keys: default, ndp, fragments, extension_headers, tunnels, other_ethertypes; rule.dst, rule.sport."
)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// The rules file
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,

    /// Say whether the rules file is legal, and end
    #[arg(long)]
    check: bool,
}

#[derive(Debug, thiserror::Error)]
enum FirewallError {
    #[error("the rules file is refused:\n{0}")]
    Rules(#[from] Findings),
    #[error(transparent)]
    Nf(#[from] NfError),
}

fn main() -> ExitCode {
    nfs::main_with(guard)
}

fn guard(args: Args) -> Result<(), FirewallError> {
    let policy = file::load(&args.rules)?;
    if args.check {
        println!("{}: {} rules, all legal", args.rules.display(), policy.rules.len());
        return Ok(());
    }
    let mut endpoint = args.common.attach()?;
    let how = args.common.how_to_run()?;
    let mut tally = Tally::new(&policy);
    let run =
        endpoint.run_holding(&how, |attach| attach.poll(&mut Guard { policy: &policy, tally: &mut tally }));
    tally.to_string().lines().for_each(|line| log::info!("{line}"));
    Ok(args.common.conclude("firewall", run)?)
}

struct Guard<'f> {
    policy: &'f Policy,
    tally: &'f mut Tally,
}

impl<'q> Handler<'q> for Guard<'_> {
    #[inline]
    fn packet(&mut self, packet: Packet<'q>, _now: Duration) {
        let mut headers = [0; HEADER_BYTES];
        let copied_bytes = packet.copy_to(&mut headers);
        let judgement = self.policy.judge(&headers[..copied_bytes], packet.len());
        self.tally.count(judgement, packet.len());
        match judgement.action {
            Action::Allow => packet.next(),
            Action::Drop => packet.drop_packet(),
        }
    }

    fn tick(&mut self, _now: Duration) {}

    fn shown(&self) -> [u64; SHOWN_COUNTERS] {
        self.tally.shown()
    }
}
