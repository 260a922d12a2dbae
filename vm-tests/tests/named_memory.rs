//! Memory that has a name cannot be sealed: whoever truncates it ends its own domain, or its own service, and
//! nothing else.

use std::fs::OpenOptions;
use std::time::Duration;

use lab::transfer::ping;
use vm_tests::config::{CABLES, RED_AND_CABLES, SWITCH_AND_DOMAIN};
use vm_tests::scene::assert_conserved;
use vm_tests::{Scene, config};

/// Domains "blue", whose memory is the file DIR/blue, and "red", each with a forwarder between its two hosts.
fn two_domains() -> String {
    let blue = SWITCH_AND_DOMAIN.replace("pages =", "path = \"DIR/blue\"\npages =");
    let red_process = config::process("fwd1", "red-forwarder", "").replace("\"blue\"", "\"red\"");
    [
        &blue,
        RED_AND_CABLES,
        CABLES,
        &config::service("forwarder", ""),
        &config::service("red-forwarder", ""),
        &config::there_and_back(&["forwarder"]),
        &config::chain("red-upstream", &["red-forwarder"], "red-server"),
        &config::chain("red-downstream", &["red-forwarder"], "red-client"),
        &config::process("fwd0", "forwarder", ""),
        &red_process,
    ]
    .concat()
}

#[test]
fn a_truncated_file_ends_its_domain_or_its_owner_and_nothing_else() {
    for file in ["blue", "blue.fwd0"] {
        let scene = Scene::new();
        let (client, _server) = scene.hosts();
        let (red_client, _red_server) =
            (scene.host("d", "10.5.0.2/24", None), scene.host("t", "10.5.0.3/24", None));
        let mut switch = scene.switch(&two_domains());
        let _blue = switch.start_process("fwd0", "forwarder", &[]).unwrap();
        let _red = switch.start_process("fwd1", "forwarder", &[]).unwrap();
        let limit = Duration::from_secs(20);
        switch.wait_attached(&["fwd0", "fwd1"], limit).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!(ping(&client, "10.1.0.3", 5, 20).unwrap().answered, 5);

        let path = scene.dir.join(file);
        OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
        // These packets meet the hole.
        assert_eq!(ping(&client, "10.1.0.3", 5, 20).unwrap().answered, 0);
        assert_eq!(ping(&red_client, "10.5.0.3", 20, 20).unwrap().answered, 20);
        let status = switch
            .wait_for("blue to be lost", Duration::from_secs(10), |status| {
                status.endpoint_of("fwd0").is_some_and(|endpoint| endpoint.phase == "quarantined")
            })
            .unwrap_or_else(|err| panic!("{file}: {err}"));
        assert_eq!(status.endpoint_of("fwd1").unwrap().phase, "attached");
        assert_conserved(&status);
        switch.stop().unwrap();
        assert!(!scene.dir.join("blue").exists() && !scene.dir.join("blue.fwd0").exists());
    }
}
