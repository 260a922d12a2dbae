//! The smallest complete network function: every packet goes on to the next hop of its chain.
use guest_netlib::{Device, Endpoint, Options, Run, Stop};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::find(&Options::from_env())?;
    let mut endpoint = Endpoint::attach(&device, 0)?;
    let how = Run { stop: Stop::on_signals()?, ..Run::default() };
    let report = endpoint.run(&how, |packet| packet.next())?;
    println!("{} packets forwarded", report.counters.sent);
    Ok(())
}
