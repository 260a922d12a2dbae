//! The flags that every network function understands.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use guest_netlib::{Device, Endpoint, Idle, Options, Run, RunError, RunReport, Stop};

use crate::{NfError, Summary};

/// Where the switch is, which endpoint to take, and how long to run.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The switch's endpoint socket; without it, the PCI devices of this guest are searched
    #[arg(long, value_name = "PATH", env = "NETVM_SOCKET")]
    socket: Option<PathBuf>,

    /// Name of this process in the switch's config; needed with --socket
    #[arg(long, value_name = "NAME", env = "NETVM_NAME")]
    name: Option<String>,

    /// Which endpoint of this VM or process, counted from 0 in the order of the config
    #[arg(long, value_name = "NUMBER", env = "NETVM_ENDPOINT", default_value_t = 0)]
    endpoint: usize,

    /// What to do when there are no packets: spin, yield or sleep
    #[arg(long, value_name = "HOW", default_value_t = Idle::sleep())]
    idle: Idle,

    /// Poll on this CPU only
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<usize>,

    /// End after this many packets
    #[arg(long, value_name = "PACKETS")]
    limit_packets: Option<u64>,

    /// End after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    limit_seconds: Option<Duration>,

    /// Seconds to wait for the switch to let this endpoint in
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    attach_seconds: Duration,

    /// Print statistics as one line of JSON at exit
    #[arg(long)]
    json: bool,
}

impl Common {
    /// Takes the CPU of the command line, finds the switch's memory and attaches.
    ///
    /// # Errors
    /// If there is no such CPU or no switch, or it does not let us in.
    pub fn attach(&self) -> Result<Endpoint, NfError> {
        self.attach_to(self.options())
    }

    /// As [`Common::attach`], for a function that can also observe: [`Endpoint::observes`] says which it is to do.
    ///
    /// # Errors
    /// As [`Common::attach`].
    pub fn attach_or_observe(&self) -> Result<Endpoint, NfError> {
        self.attach_to(Options { observes: true, ..self.options() })
    }

    fn options(&self) -> Options {
        Options { socket: self.socket.clone(), name: self.name.clone(), ..Options::from_env() }
    }

    fn attach_to(&self, options: Options) -> Result<Endpoint, NfError> {
        if let Some(cpu) = self.cpu {
            pin(cpu)?;
        }
        let device = Device::find(&options)?;
        Ok(Endpoint::attach_within(&device, self.endpoint, self.attach_seconds)?)
    }

    /// How to run: until SIGINT or SIGTERM, or a limit of the command line.
    ///
    /// # Errors
    /// If the kernel takes no signal handler.
    pub fn how_to_run(&self) -> Result<Run, NfError> {
        Ok(Run {
            idle: self.idle,
            stop: Stop::on_signals().map_err(NfError::Signals)?,
            packets_max: self.limit_packets,
            time_max: self.limit_seconds,
        })
    }

    /// Says what was done, also when the run failed: a log line, and with --json one line on standard output.
    ///
    /// # Errors
    /// If the run failed, or the summary has no JSON form.
    pub fn conclude(&self, nf: &str, run: Result<RunReport, RunError>) -> Result<(), NfError> {
        let report = run.as_ref().unwrap_or_else(|failed| failed.report());
        let summary = Summary::new(nf, report);
        log::info!("{summary}");
        if self.json {
            println!("{}", serde_json::to_string(&summary)?);
        }
        Ok(run.map(drop)?)
    }
}

/// Keeps the calling thread, which is the one that will poll, on one CPU.
fn pin(cpu: usize) -> Result<(), NfError> {
    let refused = |err: rustix::io::Errno| NfError::Cpu { cpu, source: err.into() };
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(refused(rustix::io::Errno::INVAL));
    }
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus).map_err(refused)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number of seconds"))?;
    Duration::try_from_secs_f64(number).map_err(|_| format!("{text} seconds: must be 0 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        common: Common,
    }

    fn parse(flags: &[&str]) -> Result<Common, clap::Error> {
        Program::try_parse_from(["nf"].iter().chain(flags)).map(|program| program.common)
    }

    #[test]
    fn without_flags_it_runs_for_ever_on_endpoint_0_and_sleeps_when_idle() {
        let common = parse(&[]).unwrap();
        assert_eq!((common.endpoint, common.idle), (0, Idle::sleep()));
        assert_eq!((common.limit_packets, common.limit_seconds), (None, None));
    }

    #[test]
    fn seconds_may_have_a_fraction_but_no_sign() {
        assert_eq!(
            parse(&["--limit-seconds", "1.5"]).unwrap().limit_seconds,
            Some(Duration::from_millis(1500))
        );
        assert!(parse(&["--limit-seconds=-1"]).is_err());
        assert!(parse(&["--limit-seconds", "soon"]).is_err());
    }

    #[test]
    fn an_unknown_idle_strategy_is_refused_with_the_known_ones() {
        let err = parse(&["--idle", "nap"]).unwrap_err();
        assert!(err.to_string().contains("use spin, yield or sleep"), "{err}");
    }
}
