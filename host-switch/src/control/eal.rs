//! Chooses what DPDK is started with.

use dpdk::{EalOptions, LogLevel};

use super::preflight::Device;
use crate::datapath::PortSpec;
use crate::plan::Plan;

/// Host memory for each buffer outside its region: the mbuf header and its place in a mempool, with room for
/// host-private pools of ports that do not receive into the region.
const BYTES_PER_BUFFER: u64 = 512;
/// Memory for the EAL itself and the queues of each port's driver.
const BASE_MIB: u64 = 64;
const PORT_MIB: u64 = 32;
/// Buffers of a private pool of a shared port besides its slots, and for each of its domains; bytes of each: a frame
/// and its header.
const PRIVATE_EXTRA: u64 = 128;
const PRIVATE_OF_DOMAIN: u64 = 73;
const PRIVATE_HEADER_BYTES: u64 = 512;
/// Size of a huge page.
pub const MIB_PER_HUGEPAGE: u64 = 2;

/// What DPDK is started with, given how many huge pages of 2 MiB are free after the regions took theirs; `None`
/// when it shall use ordinary memory.
#[must_use]
pub fn options(plan: &Plan, free_hugepages: Option<u64>) -> EalOptions {
    let memory_mib = memory_mib(plan);
    let hugepages = free_hugepages.is_some_and(|free| free * MIB_PER_HUGEPAGE >= memory_mib);
    let pci_devices: Vec<String> = plan
        .ports
        .iter()
        .filter_map(PortSpec::devargs)
        .filter(|devargs| matches!(Device::parse(devargs), Device::Pci { .. }))
        .map(str::to_owned)
        .collect();
    if let Some(free) = free_hugepages.filter(|_| !hugepages) {
        let consequence =
            if pci_devices.is_empty() { "slower" } else { "slower, and drivers of NICs may refuse to start" };
        log::warn!(
            "DPDK gets ordinary memory: it needs {} huge pages of 2 MiB besides the regions, {free} are free; the \
             switch is {consequence}; reserve more with /proc/sys/vm/nr_hugepages",
            memory_mib.div_ceil(MIB_PER_HUGEPAGE)
        );
    }
    EalOptions {
        hugepages,
        memory_mib: u32::try_from(memory_mib).unwrap_or(u32::MAX),
        pci_devices,
        log_level: LogLevel::Error,
    }
}

/// Memory that DPDK takes for itself besides the regions.
#[must_use]
pub fn memory_mib(plan: &Plan) -> u64 {
    let buffers: u64 = plan.domains.iter().map(|domain| u64::from(domain.buffer_count)).sum();
    let headers_mib = (buffers * BYTES_PER_BUFFER).div_ceil(1 << 20);
    let private_bytes: u64 = plan.ports.iter().filter(|port| port.domains.len() > 1).map(private_bytes).sum();
    let private_mib = (private_bytes * plan.lcores.len() as u64).div_ceil(1 << 20);
    let wanted = BASE_MIB
        + headers_mib
        + private_mib
        + PORT_MIB * plan.ports.iter().filter_map(PortSpec::devargs).count() as u64;
    wanted.next_multiple_of(MIB_PER_HUGEPAGE)
}

/// What a port that domains share takes for each lcore: frames wait in private pools on their way in and out.
fn private_bytes(port: &PortSpec) -> u64 {
    let lines = PRIVATE_OF_DOMAIN * port.domains.len() as u64;
    let slots = u64::from(port.rx_slots) + u64::from(port.tx_slots) + 2 * PRIVATE_EXTRA + lines;
    slots * (u64::from(port.mtu_bytes).max(2048) + PRIVATE_HEADER_BYTES)
}

/// Free huge pages of 2 MiB by the kernel's count.
#[must_use]
pub fn free_hugepages() -> u64 {
    let count = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    count.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        planned(&text())
    }

    fn planned(text: &str) -> Plan {
        let config =
            security_domains::parse(text, "test.toml").unwrap_or_else(|findings| panic!("{findings}"));
        Plan::new(&config, 1).unwrap()
    }

    fn text() -> String {
        let text = "[switch]\nname = \"demo\"\nlcores = [0]\n\
                    [[domain]]\nname = \"blue\"\nregion_mib = 8\npages = \"plain\"\n\
                    [[port]]\nname = \"client\"\ndevice = \"0000:01:00.0\"\ndomain = \"blue\"\nchain = \"way\"\n\
                    [[service]]\nname = \"forwarder\"\n\
                    [[chain]]\nname = \"way\"\npath = [\"forwarder\"]\negress = \"client\"\n\
                    [[process]]\nname = \"fwd0\"\ndomain = \"blue\"\n[[process.endpoint]]\nservice = \"forwarder\"\n";
        text.to_owned()
    }

    #[test]
    fn the_private_pools_of_a_shared_port_are_part_of_it() {
        let green = "[[domain]]\nname = \"green\"\nregion_mib = 8\npages = \"plain\"\n";
        let alone = text() + green;
        let shared = alone.replacen("domain = \"blue\"", "domains = [\"blue\", \"green\"]", 1);
        // (512 + 512 + 2 × 128 + 2 × 73) × (2048 + 512) bytes are more than 3 MiB.
        assert_eq!(memory_mib(&planned(&shared)), memory_mib(&planned(&alone)) + 4);
    }

    #[test]
    fn huge_pages_are_used_when_exactly_enough_are_free_and_not_with_one_less() {
        let plan = plan();
        let enough = memory_mib(&plan) / MIB_PER_HUGEPAGE;
        assert!(options(&plan, Some(enough)).hugepages);
        assert!(!options(&plan, Some(enough - 1)).hugepages);
        assert!(!options(&plan, None).hugepages);
    }

    #[test]
    fn the_pci_bus_is_looked_at_for_the_devices_of_ports_only() {
        assert_eq!(options(&plan(), None).pci_devices, ["0000:01:00.0"]);
    }
}
