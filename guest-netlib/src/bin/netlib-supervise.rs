//! Keeps a network function of a guest running, and tells the switch when it has died.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use guest_netlib::{DeathNotice, Device, Options, Stop, Supervised};

const HELP: &str = "\
Keeps a network function of a guest running: when it dies, tells the switch that its buffers may come home,
and starts it again. One that ends with success is not started again.

Usage: netlib-supervise [OPTIONS] -- PROGRAM [ARGS...]

Options:
      --endpoint NUMBER  Which endpoint of this VM, counted from 0 in the order of the config [default: 0]
      --restarts NUMBER  Give up after this many restarts [default: never]
  -h, --help             Print help

Example:
  netlib-supervise --endpoint 0 -- /bin/forwarder --idle sleep
";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let done = match read(&mut args) {
        Ok(Some(supervised)) => supervise(&supervised),
        Ok(None) => {
            print!("{HELP}");
            Ok(())
        }
        Err(err) => Err(format!("{err}; see netlib-supervise --help").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("netlib-supervise: error: {err}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(supervised: &Supervised) -> Result<(), Box<dyn std::error::Error>> {
    let stop = Stop::on_signals()?;
    // A process of the host needs no supervisor: the end of its connection is the proof of its death.
    let device = Device::find(&Options { socket: None, observes: true, ..Options::from_env() })?;
    let notice = DeathNotice::new(device, supervised.endpoint)?;
    Ok(supervised.run(&notice, &stop)?)
}

/// The command line; none if it asks for help.
fn read(args: &mut impl Iterator<Item = OsString>) -> Result<Option<Supervised>, String> {
    let (mut endpoint, mut restarts_max) = (0, None);
    while let Some(flag) = args.next() {
        match flag.to_str() {
            Some("-h" | "--help") => return Ok(None),
            Some("--endpoint") => endpoint = number("--endpoint", args.next())?,
            Some("--restarts") => restarts_max = Some(number("--restarts", args.next())?),
            Some("--") => {
                let program = args.next().ok_or("no program after --")?;
                return Ok(Some(Supervised { program, args: args.collect(), endpoint, restarts_max }));
            }
            _ => return Err(format!("unknown option {}", flag.display())),
        }
    }
    Err("no program: it stands after --".to_owned())
}

fn number<N: std::str::FromStr>(flag: &str, value: Option<OsString>) -> Result<N, String> {
    let value = value.ok_or_else(|| format!("{flag} needs a number"))?;
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| format!("{flag} needs a number, got {}", value.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &[&str]) -> Result<Option<Supervised>, String> {
        read(&mut words.iter().map(OsString::from))
    }

    #[test]
    fn what_stands_after_the_dashes_is_the_program_with_its_own_flags() {
        let read = read_words(&["--endpoint", "1", "--restarts", "3", "--", "/bin/forwarder", "--help"]);
        let supervised = read.unwrap().unwrap();
        assert_eq!((supervised.endpoint, supervised.restarts_max), (1, Some(3)));
        assert_eq!(supervised.program, "/bin/forwarder");
        assert_eq!(supervised.args, ["--help"]);
    }

    #[test]
    fn a_command_line_without_a_program_is_refused() {
        assert_eq!(read_words(&[]), Err("no program: it stands after --".to_owned()));
        assert_eq!(read_words(&["--"]), Err("no program after --".to_owned()));
        assert_eq!(read_words(&["--endpoint", "x"]), Err("--endpoint needs a number, got x".to_owned()));
        assert_eq!(read_words(&["forwarder"]), Err("unknown option forwarder".to_owned()));
        assert_eq!(read_words(&["--help"]), Ok(None));
    }
}
