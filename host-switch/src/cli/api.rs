//! `netvm api`: the calls of the HTTP API as they are, and the document about them.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, WhichSwitch};
use crate::control::openapi;

#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// GET, POST, PUT or DELETE.
    #[arg(value_parser = ["GET", "POST", "PUT", "DELETE"], required_unless_present = "openapi")]
    method: Option<String>,
    /// Such as /v1/chains/upstream.
    #[arg(required_unless_present = "openapi")]
    path: Option<String>,
    /// The body, as JSON; - reads it from standard input.
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// Print the OpenAPI document; no switch need run.
    #[arg(long, conflicts_with_all = ["method", "path", "data"])]
    openapi: bool,
    #[command(flatten)]
    which: WhichSwitch,
}

pub(super) fn api(run_dir: &Path, args: &ApiArgs) -> Result<ExitCode, Failure> {
    let (Some(method), Some(path)) = (&args.method, &args.path) else {
        println!("{:#}", openapi::document());
        return Ok(ExitCode::SUCCESS);
    };
    let mut body = Vec::new();
    match args.data.as_deref() {
        Some("-") => _ = std::io::stdin().read_to_end(&mut body)?,
        data => body.extend(data.unwrap_or_default().as_bytes()),
    }
    let (good, answer) = args.which.find(run_dir)?.ask(method, path, body)?;
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(super::code(good))
}
