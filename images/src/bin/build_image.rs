//! Builds the guest image; see `--help`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use images::build::{BuildError, Image, ImageSpec, build, programs_in};
use images::debian::{Debian, KERNEL_ARGS, build_debian};

/// Builds the guest image: a Debian kernel, an initramfs, and a manifest of what they were made of.
#[derive(Parser)]
#[command(
    name = "build-image",
    after_help = "Example:\n  build-image --programs target/guest/release --out images/out\n  \
                  build-image --debian --out images/out/debian"
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
    /// Build a small Debian instead, as the disk of an untrusted VM; needs root, and fetches its packages
    #[arg(long, conflicts_with_all = ["programs", "program", "cache"])]
    debian: bool,
}

fn run(options: Options) -> Result<Image, BuildError> {
    let mut programs = options.program;
    if let Some(folder) = &options.programs {
        programs.extend(programs_in(folder)?);
    }
    let cache = options.cache.unwrap_or_else(|| options.out.join("cache"));
    build(&ImageSpec { programs, out: options.out, cache })
}

fn debian(out: &Path) -> ExitCode {
    match build_debian(out) {
        Ok(Debian { disk, kernel, initramfs }) => {
            println!("disk      {}", disk.display());
            println!("kernel    {}\ninitramfs {}", kernel.display(), initramfs.display());
            println!("arguments {KERNEL_ARGS}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("build-image: {error}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.debian {
        return debian(&options.out);
    }
    match run(options) {
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
