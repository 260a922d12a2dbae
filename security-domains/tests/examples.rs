//! Every example is a legal configuration, and means what it says.

use std::path::{Path, PathBuf};

use security_domains::{
    Config, DomainId, EndpointId, Idle, Owner, ProcessId, RuleAction, Target, VmId, load,
};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn loaded(name: &str) -> Config {
    load(&example(name)).unwrap_or_else(|findings| panic!("{findings}"))
}

#[test]
fn every_example_loads_without_findings() {
    let mut count = 0;
    for entry in std::fs::read_dir(example("")).unwrap() {
        let path = entry.unwrap().path();
        let is_config = std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\n[switch]\n"));
        if is_config {
            count += 1;
            if let Err(findings) = load(&path) {
                panic!("{findings}");
            }
        }
    }
    assert_eq!(count, 5);
}

#[test]
fn the_demo_resolves_its_names() {
    let config = loaded("demo.toml");
    assert_eq!((config.switch.name.as_str(), &config.switch.lcores[..]), ("demo", &[0][..]));
    assert_eq!(config.switch.idle, Idle::Sleep);
    let (server, _) = config.port_named("server").unwrap();
    let (firewall, service) = config.service_named("firewall").unwrap();
    let (router, _) = config.service_named("router").unwrap();
    assert_eq!(service.domain, DomainId(0));
    let (upstream, chain) = config.chain_named("upstream").unwrap();
    assert_eq!((chain.egress, &chain.path[..]), (server, &[firewall, router][..]));
    assert_eq!(config.port_named("client").unwrap().1.chain, upstream);
    assert_eq!(config.domains[0].buffer_stride_bytes, 2368);
}

#[test]
fn endpoints_are_counted_through_vms_then_processes() {
    let config = loaded("two-tenants.toml");
    let listed = config.endpoints();
    let ids: Vec<EndpointId> = listed.iter().map(|listing| listing.endpoint.id).collect();
    assert_eq!(ids, [EndpointId(0), EndpointId(1)]);
    assert_eq!(listed[0].owner, Owner::Vm(VmId(0)));
    assert_eq!(listed[1].owner, Owner::Process(ProcessId(0)));
    assert_eq!(listed[0].name, "red-fw0/red-firewall");
    assert_eq!(listed[1].domain, DomainId(1));
    assert_eq!(listed[1].endpoint.quota_buffers, 1024);
}

#[test]
fn tenants_share_nothing() {
    let config = loaded("two-tenants.toml");
    assert_eq!(config.rules[0].action, RuleAction::Drop);
    for (port, domain) in config.ports.iter().map(|port| (port, port.domain())) {
        assert_eq!(config.chains[port.chain.index()].domain, domain);
    }
    let (green_in, _) = config.port_named("green-in").unwrap();
    assert_eq!(config.service_named("green-forwarder").unwrap().1.may_target, [Target::Port(green_in)]);
}

#[test]
fn paths_count_from_the_folder_of_the_file() {
    let config = loaded("demo.toml");
    assert_eq!(config.vms[0].kernel, Some(example("").join("../../images/out/vmlinuz")));
    let file = &config.vms[0].endpoints[0].files[0];
    assert_eq!(file.guest_path, "/etc/netvm/rules.toml");
    assert_eq!(file.host_path, example("firewall-rules.toml"));
}

#[test]
fn a_missing_file_is_told_from_a_wrong_one() {
    let findings = load(Path::new("/nonexistent/netvm.toml")).unwrap_err();
    assert!(findings.is_unreadable());
    assert!(findings.to_string().starts_with("/nonexistent/netvm.toml: cannot read the configuration, got "));
}

#[test]
fn bytes_that_are_no_text_are_found_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes.toml");
    std::fs::write(&path, b"[switch]\nname = \"\xff\"").unwrap();
    let findings = load(&path).unwrap_err();
    assert!(!findings.is_unreadable());
    assert!(
        findings.to_string().ends_with("bytes.toml:2:9: text must be UTF-8, got byte 0xff"),
        "{findings}"
    );
}

#[test]
fn the_nic_of_an_untrusted_vm_is_a_port_of_its_domain() {
    let config = loaded("untrusted.toml");
    let (id, port) = config.port_named("web0.eth0").unwrap();
    let (_, vm) = config.vm_named("web0").unwrap();
    assert_eq!((&vm.nics[..], vm.endpoints.len()), (&[id][..], 0));
    let nic = port.nic().unwrap();
    assert_eq!((port.domains.as_slice(), nic.queue_pairs, port.mtu_bytes), (&[DomainId(0)][..], 1, 1500));
    assert_eq!(nic.mac.0[0], 2, "of those that nobody administers, and no group's");
    assert_eq!(config.chain_named("in").unwrap().1.egress, id);
    let term = &config.needs()[0].ports[1];
    assert_eq!((term.port.as_str(), term.buffers), ("web0.eth0", security_domains::NIC_BUFFERS));
}
