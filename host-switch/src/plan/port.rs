//! What the datapath gets to know of each port.

use security_domains::{Config, Device, Port};
use switch_core::forwarding::Forwarding;
use switch_core::ids::{EndpointId, PortId};

use crate::datapath::{NicSpec, PortDevice, PortPool, PortSpec};

pub(super) fn ports(config: &Config, forwarding: &Forwarding) -> Vec<PortSpec> {
    let plan = |(id, port): (u16, &Port)| PortSpec {
        id: PortId(id),
        name: port.name.clone(),
        device: device(config, port),
        domains: forwarding.domains_of(PortId(id)).to_vec(),
        mtu_bytes: port.mtu_bytes,
        rx_slots: port.rx_slots,
        tx_slots: port.tx_slots,
        paced: port.paced.then(|| endpoints_of_chain(config, port)),
        pool: PortPool::ByDriver,
    };
    (0..).zip(&config.ports).map(plan).collect()
}

fn device(config: &Config, port: &Port) -> PortDevice {
    match &port.device {
        Device::Dpdk(devargs) => PortDevice::Dpdk(devargs.clone()),
        Device::Nic(nic) => {
            let vm = &config.vms[nic.vm.index()];
            PortDevice::Nic(NicSpec {
                queue_pairs: nic.queue_pairs,
                offloads: nic.offloads,
                withhold: nic.withhold.clone(),
                memory_bytes: u64::from(vm.memory_mib) << 20,
                accept_unsealed: vm.accept_unsealed_memory,
            })
        }
    }
}

/// All endpoints that a packet of this port may meet on its chain.
fn endpoints_of_chain(config: &Config, port: &Port) -> Vec<EndpointId> {
    let path = &config.chains[port.chain.index()].path;
    let on_path = config.endpoints().into_iter().filter(|listing| path.contains(&listing.endpoint.service));
    on_path.map(|listing| EndpointId(listing.endpoint.id.0)).collect()
}
