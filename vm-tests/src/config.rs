//! Pieces of configs that tests put together; [`crate::Scene::config`] fills in the words in capitals.

/// The switch with one lcore, and its only domain.
pub const SWITCH_AND_DOMAIN: &str = r#"
[switch]
name = "NAME"
lcores = [0]

[[domain]]
name = "blue"
region_mib = 16
pages = "hugetlb-or-plain"
"#;

/// Ports `client` and `server` on the cables of hosts "c" and "s".
pub const CABLES: &str = r#"
[[port]]
name = "client"
device = "net_af_packet0,iface=IDc"
domain = "blue"
chain = "upstream"

[[port]]
name = "server"
device = "net_af_packet1,iface=IDs"
domain = "blue"
chain = "downstream"
"#;

/// Domain "red", with ports `red-client` and `red-server` on the cables of hosts "d" and "t".
pub const RED_AND_CABLES: &str = r#"
[[domain]]
name = "red"
region_mib = 16
pages = "hugetlb-or-plain"

[[port]]
name = "red-client"
device = "net_af_packet2,iface=IDd"
domain = "red"
chain = "red-upstream"

[[port]]
name = "red-server"
device = "net_af_packet3,iface=IDt"
domain = "red"
chain = "red-downstream"
"#;

/// Port `client` plays in.pcap as fast as its chain takes it, port `server` records out.pcap.
pub const CAPTURES: &str = r#"
[[port]]
name = "client"
device = "net_pcap0,rx_pcap=DIR/in.pcap,tx_pcap=DIR/back.pcap"
domain = "blue"
chain = "upstream"
paced = true

[[port]]
name = "server"
device = "net_pcap1,rx_pcap=DIR/none.pcap,tx_pcap=DIR/out.pcap"
domain = "blue"
chain = "downstream"
"#;

/// Chains through `services` from client to server, and back in the opposite order.
#[must_use]
pub fn there_and_back(services: &[&str]) -> String {
    let back: Vec<&str> = services.iter().rev().copied().collect();
    format!("{}{}", chain("upstream", services, "server"), chain("downstream", &back, "client"))
}

/// One chain.
#[must_use]
pub fn chain(name: &str, services: &[&str], egress: &str) -> String {
    format!("\n[[chain]]\nname = \"{name}\"\npath = {services:?}\negress = \"{egress}\"\n")
}

/// One service; `keys` are further lines of its table.
#[must_use]
pub fn service(name: &str, keys: &str) -> String {
    format!("\n[[service]]\nname = \"{name}\"\n{keys}\n")
}

/// A process with one endpoint; `keys` are further lines of the endpoint's table.
#[must_use]
pub fn process(name: &str, service: &str, keys: &str) -> String {
    format!("\n[[process]]\nname = \"{name}\"\ndomain = \"blue\"\n{}", endpoint("process", service, keys))
}

/// A VM with the built image and one endpoint; `keys` are further lines of the endpoint's table.
#[must_use]
pub fn vm(name: &str, service: &str, nf: &str, keys: &str) -> String {
    let keys = format!("nf = \"{nf}\"\n{keys}");
    format!(
        "\n[[vm]]\nname = \"{name}\"\ndomain = \"blue\"\nkernel = \"KERNEL\"\ninitramfs = \"INITRAMFS\"\n{}",
        endpoint("vm", service, &keys)
    )
}

fn endpoint(owner: &str, service: &str, keys: &str) -> String {
    format!(
        "\n[[{owner}.endpoint]]\nservice = \"{service}\"\nquota_buffers = 512\nring_slots = 512\n{keys}\n"
    )
}

/// An untrusted VM with the built image; `keys` are further lines of its table.
#[must_use]
pub fn untrusted_vm(name: &str, keys: &str, nics: &str) -> String {
    format!(
        "\n[[vm]]\nname = \"{name}\"\ndomain = \"blue\"\naccess = \"untrusted\"\nkernel = \"KERNEL\"\n\
         initramfs = \"INITRAMFS\"\n{keys}\n{nics}"
    )
}

/// One network card of the untrusted VM before it; `keys` are further lines of its table.
#[must_use]
pub fn nic(name: &str, chain: &str, keys: &str) -> String {
    format!("\n[[vm.nic]]\nname = \"{name}\"\nchain = \"{chain}\"\n{keys}\n")
}
