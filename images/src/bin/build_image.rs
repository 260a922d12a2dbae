//! Builds the guest image; see `--help`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use images::build::{BuildError, Image, ImageSpec, build, programs_in};

/// Builds the guest image: a Debian kernel, an initramfs, and a manifest of what they were made of.
#[derive(Parser)]
#[command(
    name = "build-image",
    after_help = "Example:\n  build-image --programs target/guest/release --out images/out"
)]
struct Options {
    /// Folder with static programs for the guest's /bin
    #[arg(long)]
    programs: Option<PathBuf>,
    /// A static program for the guest's /bin; may be given several times
    #[arg(long)]
    program: Vec<PathBuf>,
    /// Where vmlinuz, initramfs.cpio.gz and manifest.json go
    #[arg(long, default_value = "images/out")]
    out: PathBuf,
    /// Where fetched packages are kept; default: the folder cache in the output folder
    #[arg(long)]
    cache: Option<PathBuf>,
}

fn run(options: Options) -> Result<Image, BuildError> {
    let mut programs = options.program;
    if let Some(folder) = &options.programs {
        programs.extend(programs_in(folder)?);
    }
    let cache = options.cache.unwrap_or_else(|| options.out.join("cache"));
    build(&ImageSpec { programs, out: options.out, cache })
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(image) => {
            for note in &image.notes {
                eprintln!("note: {note}");
            }
            println!("kernel    {}\ninitramfs {}", image.kernel.display(), image.initramfs.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("build-image: {error}");
            ExitCode::FAILURE
        }
    }
}
