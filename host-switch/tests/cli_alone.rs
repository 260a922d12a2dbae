//! What the commands say when there is no switch.

#![allow(clippy::unwrap_used, reason = "a laboratory that does not work is a test that failed")]

mod cli;

use cli::{Lab, netvm};

#[test]
fn status_says_how_to_start_one() {
    let lab = Lab::new();
    for command in ["status", "audit", "stop"] {
        let said = lab.netvm(&[command]);
        assert!(!said.good);
        assert!(said.errors.contains("no switch runs"), "{}", said.errors);
        assert!(said.errors.contains("start one with `netvm run FILE`"), "{}", said.errors);
    }
}

#[test]
fn status_names_the_switch_that_does_not_run() {
    let said = Lab::new().netvm(&["status", "--switch", "blue"]);
    assert!(!said.good);
    assert!(said.errors.contains("switch blue does not run"), "{}", said.errors);
}

#[test]
fn boot_says_which_switch_to_start() {
    let lab = Lab::new();
    let config = lab.vm_config("/dev/null");
    let said = lab.netvm(&["boot", config.to_str().unwrap(), "fw0"]);
    assert!(!said.good);
    let fix = format!("start it first with `netvm run {}`", config.display());
    assert!(said.errors.contains(&fix), "{}", said.errors);
}

#[test]
fn boot_says_what_to_do_with_a_process() {
    let lab = Lab::new();
    let said = lab.netvm(&["boot", lab.config("one", &["net_null0"]).to_str().unwrap(), "fwd0"]);
    assert!(!said.good);
    assert!(said.errors.contains("is a process, no VM: start its network function"), "{}", said.errors);
}

#[test]
fn boot_names_the_vms_of_the_config() {
    let lab = Lab::new();
    let said = lab.netvm(&["boot", lab.vm_config("/dev/null").to_str().unwrap(), "fw1"]);
    assert!(!said.good);
    assert!(said.errors.contains("no VM \"fw1\" in "), "{}", said.errors);
    assert!(said.errors.contains("it has: fw0"), "{}", said.errors);
}

#[test]
fn boot_says_how_to_get_an_image() {
    let lab = Lab::new();
    let said = lab.netvm(&["boot", lab.vm_config("/nonexistent/vmlinuz").to_str().unwrap(), "fw0"]);
    assert!(!said.good);
    assert!(said.errors.contains("`cargo xtask image`"), "{}", said.errors);
}

#[test]
fn boot_prints_the_command_line_without_a_switch() {
    let lab = Lab::new();
    let said = lab.netvm(&["boot", lab.vm_config("/dev/null").to_str().unwrap(), "fw0", "--print"]);
    assert!(said.good, "{}", said.errors);
    assert!(said.output.starts_with("qemu-system-x86_64"), "{}", said.output);
    assert!(said.output.contains("size=8388608,share=on"), "{}", said.output);
}

#[test]
fn doctor_gives_a_fix_for_whatever_is_not_ok() {
    let said = netvm(&["doctor", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&said.output).unwrap();
    let checks = told["checks"].as_array().unwrap();
    for name in ["hugepages", "memory", "kvm", "qemu", "dpdk", "iommu", "numa", "isolation"] {
        assert!(checks.iter().any(|check| check["name"] == name), "{name}");
    }
    for check in checks {
        assert!(check["verdict"] == "ok" || check["fix"].is_string(), "{check}");
    }
    assert_eq!(said.good, checks.iter().all(|check| check["verdict"] != "fail"));
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in ["check", "run", "boot", "status", "audit", "stop", "doctor"] {
        let said = netvm(&[command, "--help"]);
        assert!(said.good && said.output.contains("Example:\n  netvm "), "{command}: {}", said.output);
    }
}
