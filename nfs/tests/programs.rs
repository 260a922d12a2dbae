//! The programs as an operator meets them: help, refused files, legal files.

use std::path::PathBuf;
use std::process::{Command, Output};

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env_remove("NETVM_SOCKET")
        .env_remove("NETVM_NAME")
        .output()
        .expect("a program that starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

const PROGRAMS: [&str; 5] = [
    env!("CARGO_BIN_EXE_forwarder"),
    env!("CARGO_BIN_EXE_firewall"),
    env!("CARGO_BIN_EXE_router"),
    env!("CARGO_BIN_EXE_monitor"),
    env!("CARGO_BIN_EXE_l2fwd"),
];

#[test]
fn every_program_has_a_help_with_examples() {
    for program in PROGRAMS {
        let help = run(program, &["--help"]);
        let text = text(&help);
        assert!(help.status.success() && text.contains("Examples:") && text.contains("--socket"), "{text}");
    }
}

#[test]
fn a_refused_file_ends_the_program_with_every_finding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    std::fs::write(&path, "default = 1\nnonsense = 2\n").unwrap();
    let path = path.display().to_string();
    for (program, flag) in
        [(env!("CARGO_BIN_EXE_firewall"), "--rules"), (env!("CARGO_BIN_EXE_router"), "--routes")]
    {
        let refused = run(program, &[flag, &path]);
        let text = text(&refused);
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("{path}:2:1: nonsense must be one of the keys")), "{text}");
        let missing = run(program, &[flag, "/nonexistent.toml"]);
        assert_eq!(missing.status.code(), Some(1));
    }
}

#[test]
fn the_files_of_the_demo_are_legal() {
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../security-domains/examples");
    for (program, flag, file) in [
        (env!("CARGO_BIN_EXE_firewall"), "--rules", "firewall-rules.toml"),
        (env!("CARGO_BIN_EXE_router"), "--routes", "router-routes.toml"),
    ] {
        let checked = run(program, &[flag, &examples.join(file).display().to_string(), "--check"]);
        assert!(checked.status.success(), "{}", text(&checked));
    }
}

#[test]
fn l2fwd_without_or_with_contradicting_addresses_is_refused() {
    for args in [&[][..], &["--swap", "--dst", "02:00:00:00:00:01"], &["--dst", "02:00"]] {
        let refused = run(env!("CARGO_BIN_EXE_l2fwd"), args);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    }
}
