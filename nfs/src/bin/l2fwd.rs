//! Rewrites or swaps the MAC addresses of each packet and passes it on.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nfs::l2fwd::Rewrite;
use nfs::{Common, NfError};
use packet::MacAddress;

/// Rewrites or swaps the MAC addresses of each packet and passes it on
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        l2fwd --swap                             in a guest\n  \
        l2fwd --dst 02:00:00:00:02:02 --src 02:00:00:00:02:01\n  \
        l2fwd --swap --to-port client            reflect: back out of the port \"client\"\n  \
        l2fwd --socket /run/netvm/demo/endpoint.sock --name l2 --swap\n\n\
        A frame without an Ethernet header is dropped, and so is a broadcast that would have to be swapped.\n\
        --to-port needs the port in may_target of the service, in the switch's config."
)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Source and destination change places
    #[arg(long, conflicts_with_all = ["dst", "src"], required_unless_present_any = ["dst", "src"])]
    swap: bool,

    /// New destination address
    #[arg(long, value_name = "MAC")]
    dst: Option<MacAddress>,

    /// New source address
    #[arg(long, value_name = "MAC")]
    src: Option<MacAddress>,

    /// Send packets out of this port, instead of on along their chain
    #[arg(long, value_name = "PORT")]
    to_port: Option<String>,
}

fn main() -> ExitCode {
    nfs::main_with(forward)
}

fn forward(args: Args) -> Result<(), NfError> {
    let rewrite = match args.swap {
        true => Rewrite::Swap,
        false => Rewrite::Set { destination: args.dst, source: args.src },
    };
    let mut endpoint = args.common.attach()?;
    let how = args.common.how_to_run()?;
    let port = args.to_port.as_deref().map(|name| endpoint.target_port(name)).transpose()?;
    let run = endpoint.run(&how, |mut packet| match (rewrite.apply(packet.data_mut()), port) {
        (false, _) => packet.drop_packet(),
        (true, Some(port)) => packet.to_port(port),
        (true, None) => packet.next(),
    });
    args.common.conclude("l2fwd", run)
}
