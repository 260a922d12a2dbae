//! Passes every packet on to the next hop of its chain.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use guest_netlib::Packet;
use nfs::{Common, NfError};
use packet::ethernet::EthernetMut;

/// Passes every packet on to the next hop of its chain, untouched
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        forwarder                                  in a guest\n  \
        forwarder --socket /run/netvm/demo/endpoint.sock --name fwd0\n  \
        forwarder --idle spin --limit-seconds 10 --json"
)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Read and write the first cache line of each packet: swap its MAC addresses (for measurements)
    #[arg(long)]
    touch: bool,
}

fn main() -> ExitCode {
    nfs::main_with(forward)
}

fn forward(args: Args) -> Result<(), NfError> {
    let mut endpoint = args.common.attach()?;
    let how = args.common.how_to_run()?;
    let run = if args.touch {
        endpoint.run(&how, touch_and_pass)
    } else {
        endpoint.run(&how, |packet| packet.next())
    };
    args.common.conclude("forwarder", run)
}

#[inline]
fn touch_and_pass(mut packet: Packet<'_>) {
    // A frame too short for an Ethernet header passes as it is: a forwarder judges nothing.
    if let Ok(mut ethernet) = EthernetMut::parse(packet.data_mut()) {
        ethernet.swap_addresses();
    }
    packet.next();
}
