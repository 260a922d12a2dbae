//! Counts packets by flow and protocol, and says so in lines of JSON.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use guest_netlib::holding::{Handler, SHOWN_COUNTERS};
use guest_netlib::{Expired, Packet, View};
use nfs::monitor::{FLOWS_MAX_DEFAULT, Monitor};
use nfs::{Common, HEADER_BYTES, NfError};

/// Counts packets by flow and protocol, and says so in lines of JSON
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        monitor                                  in a guest: a line each 5 seconds, packets pass\n  \
        monitor --drop --every 1                 at the end of a chain: count and drop\n  \
        monitor --socket /run/netvm/demo/endpoint.sock --name mon0 --top 10\n\n\
        With access = \"observer\" it looks on, and passes nothing.\n\n\
        A line: {\"seconds\":5.0,\"packets\":12,\"bytes\":1176,\"interval\":{...},\"flows\":1,\n\
        \"protocols\":{\"icmp\":{\"packets\":12,\"bytes\":1176}},\"top\":[{\"a\":\"10.1.0.2:0\",\"b\":\"10.2.0.2:0\",...}]}"
)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Seconds between two lines
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    every: u32,

    /// Flows with the most bytes, in each line
    #[arg(long, value_name = "FLOWS", default_value_t = 5)]
    top: usize,

    /// Flows that are told apart at most; packets of others are counted as untracked
    #[arg(long, value_name = "FLOWS", default_value_t = FLOWS_MAX_DEFAULT)]
    flows: usize,

    /// Drop each packet when it is counted, instead of passing it on; an observer does neither
    #[arg(long)]
    drop: bool,
}

fn main() -> ExitCode {
    nfs::main_with(watch)
}

fn watch(args: Args) -> Result<(), NfError> {
    let mut endpoint = args.common.attach_or_observe()?;
    let how = args.common.how_to_run()?;
    let every = Duration::from_secs(args.every.into());
    let monitor = Monitor::new(args.flows);
    let mut watch = Watch {
        monitor,
        top: args.top,
        drops: args.drop,
        every,
        due_at: every,
        now: Duration::ZERO,
        flows_most: 0,
    };
    let run = endpoint.run_holding(&how, |attach| attach.poll(&mut watch));
    watch.now = run.as_ref().unwrap_or_else(|failed| failed.report()).elapsed;
    watch.print();
    args.common.conclude("monitor", run)
}

struct Watch {
    monitor: Monitor,
    top: usize,
    drops: bool,
    every: Duration,
    due_at: Duration,
    now: Duration,
    flows_most: usize,
}

impl Watch {
    fn print(&mut self) {
        let report = self.monitor.report(self.now, self.top);
        let line = serde_json::to_string(&report);
        let mut out = std::io::stdout().lock();
        let printed = line.map_err(std::io::Error::from).and_then(|line| writeln!(out, "{line}"));
        if let Err(err) = printed.and_then(|()| out.flush()) {
            log::warn!("a report is lost: {err}");
        }
    }
}

impl<'q> Handler<'q> for Watch {
    #[inline]
    fn packet(&mut self, packet: Packet<'q>, now: Duration) {
        let mut headers = [0; HEADER_BYTES];
        let copied_bytes = packet.copy_to(&mut headers);
        self.monitor.count(&headers[..copied_bytes], packet.len(), now);
        if self.drops { packet.drop_packet() } else { packet.next() }
    }

    #[inline]
    fn view(&mut self, view: View<'q>, now: Duration) {
        let mut headers = [0; HEADER_BYTES];
        match view.copy_out(&mut headers) {
            Ok(copied_bytes) => self.monitor.count(&headers[..copied_bytes], view.len(), now),
            Err(Expired) => self.monitor.count_expired(),
        }
    }

    fn tick(&mut self, now: Duration) {
        self.now = now;
        self.flows_most = self.flows_most.max(self.monitor.flow_count());
        if now >= self.due_at {
            self.due_at = now + self.every;
            self.print();
        }
    }

    fn shown(&self) -> [u64; SHOWN_COUNTERS] {
        self.monitor.shown(self.flows_most)
    }
}
