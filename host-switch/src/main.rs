//! The switch process and its command line: netvm.

use std::process::ExitCode;

fn main() -> ExitCode {
    host_switch::cli::main()
}
