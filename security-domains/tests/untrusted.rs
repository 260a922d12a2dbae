//! What an untrusted VM may say, and what follows from it.

use security_domains::{Config, GuestMemory, Withheld, parse};

const WEB: &str = include_str!("../examples/untrusted.toml");
const NIC: &str = "[[vm.nic]]\nname = \"eth0\"\nchain = \"out\"\n";
const INITRAMFS: &str = "initramfs = \"../../images/out/initramfs.cpio.gz\"\nkernel_args";

fn accepted(old: &str, new: &str) -> Config {
    assert_eq!(WEB.matches(old).count(), 1, "{old}");
    parse(&WEB.replace(old, new), "web.toml").unwrap_or_else(|findings| panic!("{findings}"))
}

#[test]
fn a_nic_has_defaults_and_takes_both_ends_of_its_limits() {
    let port = accepted(NIC, NIC).ports.remove(1);
    let nic = port.nic().unwrap().clone();
    assert_eq!((port.rx_slots, port.tx_slots, nic.offloads, nic.withhold.len()), (1024, 1024, false, 0));
    let keys = "mtu_bytes = 68\nqueue_pairs = 8\nrx_slots = 256\ntx_slots = 512\noffloads = true\n\
                withhold = [\"indirect\", \"mrg_rxbuf\", \"event_idx\"]\nmac = \"02:00:00:00:00:07\"\n";
    let port = accepted(NIC, &[NIC, keys].concat()).ports.remove(1);
    let nic = port.nic().unwrap().clone();
    assert_eq!((port.mtu_bytes, port.rx_slots, port.tx_slots), (68, 256, 512));
    assert_eq!((nic.queue_pairs, nic.offloads, nic.mac.to_string().as_str()), (8, true, "02:00:00:00:00:07"));
    assert_eq!(nic.withhold, [Withheld::Indirect, Withheld::MrgRxbuf, Withheld::EventIdx]);
}

#[test]
fn a_derived_address_hangs_on_the_names_of_switch_vm_and_nic() {
    let mac = |config: &Config| config.ports[1].nic().unwrap().mac;
    let one = mac(&accepted(NIC, NIC));
    assert_eq!(one, mac(&accepted(NIC, &[NIC, "queue_pairs = 2\n"].concat())));
    assert_ne!(one, mac(&accepted("name = \"untrusted\"", "name = \"other\"")));
}

#[test]
fn the_memory_of_a_guest_is_sealed_unless_a_file_is_accepted() {
    let memory = |keys: &str| {
        accepted(INITRAMFS, &INITRAMFS.replace("kernel_args", &format!("{keys}kernel_args"))).vms.remove(1)
    };
    assert_eq!(memory("").guest_memory, GuestMemory::Memfd);
    assert_eq!(memory("guest_memory = \"hugetlb-memfd\"\n").guest_memory, GuestMemory::HugetlbMemfd);
    let vm = memory("guest_memory = \"/dev/hugepages/web0\"\naccept_unsealed_memory = true\n");
    assert_eq!(vm.guest_memory, GuestMemory::File("/dev/hugepages/web0".into()));
    assert!(vm.accept_unsealed_memory);
}

#[test]
fn an_untrusted_vm_boots_from_a_disk_alone() {
    let kernel = "access = \"untrusted\"\nkernel = \"../../images/out/vmlinuz\"\n\
                  initramfs = \"../../images/out/initramfs.cpio.gz\"\nkernel_args = \"netvm.ip=dhcp netvm.httpd\"\n";
    let vm = accepted(kernel, "access = \"untrusted\"\ndisk = \"web.raw\"\n").vms.remove(1);
    assert_eq!((vm.kernel, vm.initramfs, vm.disk), (None, None, Some("web.raw".into())));
}

#[test]
fn a_chain_without_services_leads_straight_to_its_egress() {
    let config = accepted("name = \"out\"\npath = [\"firewall\"]", "name = \"out\"\npath = []");
    let (_, chain) = config.chain_named("out").unwrap();
    assert!(chain.path.is_empty());
    assert_eq!(chain.domain, config.ports[0].domain());
}

#[test]
fn a_straight_chain_into_another_domain_needs_an_edge() {
    let red = "[[domain]]\nname = \"red\"\nregion_mib = 16\npages = \"hugetlb-or-plain\"\n\n[[port]]\nname = \"far\"\n\
               device = \"net_null0\"\ndomain = \"red\"\nchain = \"in\"\n\n[[port]]\nname = \"uplink\"";
    let text = WEB.replace("[[port]]\nname = \"uplink\"", red).replace(
        "name = \"out\"\npath = [\"firewall\"]\negress = \"uplink\"",
        "name = \"out\"\npath = []\negress = \"far\"",
    );
    let refused = parse(&text, "web.toml").unwrap_err().to_string();
    assert!(refused.contains("[[edge]] with from = \"blue\" and to = \"red\""), "{refused}");
    assert!(refused.contains("[[edge]] with from = \"red\" and to = \"blue\""), "{refused}");
    let edges = "\n[[edge]]\nfrom = \"red\"\nto = \"blue\"\n[[edge]]\nfrom = \"blue\"\nto = \"red\"\n";
    parse(&[&text, edges].concat(), "web.toml").unwrap_or_else(|findings| panic!("{findings}"));
}

#[test]
fn vm_and_nic_share_the_length_of_one_name() {
    let name = |length: usize| {
        let nic = "n".repeat(length - "web0.".len());
        parse(&WEB.replace("eth0", &nic), "web.toml")
    };
    assert!(name(27).is_ok());
    assert!(name(28).unwrap_err().to_string().contains("at most 27 characters"));
}
