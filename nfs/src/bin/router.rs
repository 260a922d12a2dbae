//! Routes IPv4 packets between the ports of the switch.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use guest_netlib::holding::{Handler, SHOWN_COUNTERS};
use guest_netlib::{Endpoint, Packet, PortTarget, QueuePair};
use nfs::router::{Exits, Interface, InterfaceIndex, Router, Waiting, file};
use nfs::settings::Findings;
use nfs::{Common, NfError};

/// Routes IPv4 packets between the ports of the switch
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        router --routes /etc/netvm/routes.toml                in a guest\n  \
        router --socket /run/netvm/demo/endpoint.sock --name rt0 --routes routes.toml\n  \
        router --routes routes.toml --check                   is this file legal?\n\n\
        A routes file:\n  \
        [[interface]]\n  \
        port = \"client\"                     a port of the switch's config\n  \
        address = \"10.1.0.1/24\"\n  \
        mac = \"02:00:00:00:01:01\"\n  \
        [[interface]]\n  \
        port = \"server\"\n  \
        address = \"10.2.0.1/24\"\n  \
        mac = \"02:00:00:00:02:01\"\n  \
        [[route]]\n  \
        prefix = \"0.0.0.0/0\"\n  \
        via = \"10.2.0.254\"\n\n\
        Further keys: forward, icmp_errors_per_second; interface.mtu_bytes; [[neighbour]] with address and mac.\n\n\
        In the switch's config, the router's service needs may_target with the ports of its interfaces, and its\n\
        endpoint credit_buffers for ARP requests of its own (without: the first packet to a new neighbour is\n\
        turned into the request). Forwarded packets go on along their chain (forward = \"next\") or, with three\n\
        interfaces or more, straight out of a port (forward = \"port\")."
)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// The routes file
    #[arg(long, value_name = "FILE")]
    routes: PathBuf,

    /// Say whether the routes file is legal, and end
    #[arg(long)]
    check: bool,
}

#[derive(Debug, thiserror::Error)]
enum RouterError {
    #[error("the routes file is refused:\n{0}")]
    Routes(#[from] Findings),
    #[error(transparent)]
    Nf(#[from] NfError),
}

fn main() -> ExitCode {
    nfs::main_with(route)
}

fn route(args: Args) -> Result<(), RouterError> {
    let settings = file::load(&args.routes)?;
    if args.check {
        println!("{}: {} interfaces, all legal", args.routes.display(), settings.interfaces.len());
        return Ok(());
    }
    let mut endpoint = args.common.attach()?;
    let how = args.common.how_to_run()?;
    let ports = ports_of(&endpoint, &settings.interfaces)?;
    // Most of what the switch lends has to flow: a quarter may wait for neighbours.
    let held_max = usize::try_from(endpoint.quota_buffers() / 4).unwrap_or(usize::MAX);
    let mut router = Router::new(settings, ports.iter().map(|port| port.id()).collect());
    let run = endpoint.run_holding(&how, |attach| {
        let exits = Ports { pairs: attach.queue_pairs(), ports: &ports };
        attach.poll(&mut Crossing { router: &mut router, waiting: Waiting::new(held_max), exits })
    });
    router.counters().to_string().lines().for_each(|line| log::info!("{line}"));
    Ok(args.common.conclude("router", run)?)
}

/// The switch's ports of the interfaces, in their order.
fn ports_of(endpoint: &Endpoint, interfaces: &[Interface]) -> Result<Vec<PortTarget>, NfError> {
    interfaces.iter().map(|interface| Ok(endpoint.target_port(&interface.port)?)).collect()
}

/// The router during one attach, with the packets that it holds.
struct Crossing<'q, 'r> {
    router: &'r mut Router,
    waiting: Waiting<Packet<'q>>,
    exits: Ports<'q, 'r>,
}

impl<'q> Handler<'q> for Crossing<'q, '_> {
    #[inline]
    fn packet(&mut self, packet: Packet<'q>, now: Duration) {
        self.router.packet(packet, now, &mut self.waiting, &mut self.exits);
    }

    fn tick(&mut self, now: Duration) {
        self.router.tick(now, &mut self.waiting, &mut self.exits);
    }

    fn shown(&self) -> [u64; SHOWN_COUNTERS] {
        self.router.counters().shown()
    }
}

/// The ways out of the router.
struct Ports<'q, 'r> {
    pairs: &'q [QueuePair],
    ports: &'r [PortTarget],
}

impl<'q> Exits<Packet<'q>> for Ports<'q, '_> {
    fn next(&mut self, packet: Packet<'q>) {
        packet.next();
    }

    fn to_port(&mut self, packet: Packet<'q>, interface: InterfaceIndex) {
        match self.ports.get(interface) {
            Some(port) => packet.to_port(*port),
            None => packet.drop_packet(),
        }
    }

    fn drop(&mut self, packet: Packet<'q>) {
        packet.drop_packet();
    }

    fn make(&mut self, bytes: &[u8]) -> Option<Packet<'q>> {
        let empty = self.pairs.iter().find_map(QueuePair::take_empty)?;
        empty.fill(bytes).ok()
    }
}
