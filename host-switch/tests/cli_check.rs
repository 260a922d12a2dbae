//! `netvm check` on every example and every refused file of the configuration language.

#![allow(clippy::unwrap_used, reason = "a laboratory that does not work is a test that failed")]

mod cli;

use std::path::{Path, PathBuf};

use cli::netvm;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../security-domains").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

fn is_config(path: &Path) -> bool {
    std::fs::read_to_string(path).unwrap().contains("[switch]")
}

#[test]
fn every_example_passes_and_says_what_it_needs() {
    let examples: Vec<PathBuf> = files("examples").into_iter().filter(|path| is_config(path)).collect();
    assert!(examples.len() >= 3, "{examples:?}");
    for example in examples {
        let said = netvm(&["check", example.to_str().unwrap()]);
        assert!(said.good, "{}: {}", example.display(), said.errors);
        assert!(said.output.contains("needs at least"), "{}", said.output);
    }
}

#[test]
fn the_private_region_of_a_copied_owner_is_told_like_a_domain() {
    let example = files("examples").into_iter().find(|path| path.ends_with("edges.toml")).unwrap();
    let said = netvm(&["check", example.to_str().unwrap()]);
    assert!(said.output.contains("domain scrub0@lab: 1769 buffers of 2368 B in 4 MiB"), "{}", said.output);
    assert!(said.output.contains("copies from other domains"), "{}", said.output);
}

#[test]
fn every_refused_file_is_refused_with_place_and_count() {
    let refused = files("refused");
    assert!(refused.len() >= 10, "{refused:?}");
    for file in refused {
        let said = netvm(&["check", file.to_str().unwrap()]);
        assert!(!said.good, "{} passes", file.display());
        assert!(said.errors.contains(&format!("{}:", file.display())), "{}", said.errors);
        assert!(said.errors.contains(" finding"), "{}", said.errors);
    }
}

#[test]
fn findings_are_given_as_json_too() {
    let file = files("refused").remove(0);
    let said = netvm(&["check", "--json", file.to_str().unwrap()]);
    assert!(!said.good);
    let told: serde_json::Value = serde_json::from_str(&said.output).unwrap();
    assert!(told["findings"][0]["rule"].is_string(), "{told}");
}

#[test]
fn a_domain_whose_packets_lie_in_two_regions_may_have_a_limit() {
    let example = files("examples").into_iter().find(|path| path.ends_with("edges.toml")).unwrap();
    let text = std::fs::read_to_string(example).unwrap();
    // scrub0 works on copies.
    let limited = text.replacen("name = \"lab\"\n", "name = \"lab\"\nlimit_pps = 1000\n", 1);
    assert_ne!(limited, text);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("limited.toml");
    std::fs::write(&file, limited).unwrap();
    let said = netvm(&["check", file.to_str().unwrap()]);
    assert!(said.good, "{}", said.errors);
}

#[test]
fn a_config_that_is_not_there_is_named() {
    let said = netvm(&["check", "/nonexistent/demo.toml"]);
    assert!(!said.good);
    assert!(said.errors.contains("/nonexistent/demo.toml"), "{}", said.errors);
}

#[test]
fn the_command_of_an_untrusted_vm_has_its_own_memory_and_the_sockets_of_its_nics() {
    let example = files("examples").into_iter().find(|path| path.ends_with("untrusted.toml")).unwrap();
    let said = netvm(&["--run-dir", "/tmp/netvm-no", "boot", "--print", example.to_str().unwrap(), "web0"]);
    assert!(said.good, "{}", said.errors);
    for part in [
        "-machine pc,memory-backend=netvm-ram",
        "memory-backend-memfd,id=netvm-ram,size=256M,share=on,seal=on",
        "path=/tmp/netvm-no/untrusted.nics/web0.eth0.sock,reconnect=1",
        "-append 'console=ttyS0",
        "netvm.ip=dhcp netvm.httpd'",
        "-runas 1900000001:1900000001",
    ] {
        assert!(said.output.contains(part), "{part} is not in {}", said.output);
    }
    assert!(!said.output.contains("ivshmem"), "{}", said.output);
}
