//! What `netvm status --json` says, as far as the laboratory needs it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// State of one switch at one moment.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Its ports.
    pub ports: Vec<Port>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The VMs that run.
    #[serde(default)]
    pub vms: Vec<Vm>,
    /// Every VM and process of the config.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// The ways between domains.
    #[serde(default)]
    pub edges: Vec<Edge>,
    /// Drops: domain → reason → packets.
    pub drops: BTreeMap<String, BTreeMap<String, u64>>,
    /// Buffers by holder: domain → terms.
    pub buffers: BTreeMap<String, Buffers>,
    /// Packets whose bytes the host copied between two ports of one domain.
    pub copies_in_trusted_chain: u64,
}

/// One VM or process of the config.
#[derive(Clone, Debug, Deserialize)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its domain.
    pub domain: String,
    /// What it did wrong: descriptor, counter, epoch or control, then the name.
    #[serde(default)]
    pub violations: BTreeMap<String, BTreeMap<String, u64>>,
}

/// One VM that is connected to the switch.
#[derive(Clone, Debug, Deserialize)]
pub struct Vm {
    /// Its name in the config.
    pub name: String,
    /// kvm or tcg.
    pub accelerator: String,
    /// QEMU's process, which leads a process group of its own.
    pub pid: u32,
}

/// One port.
#[derive(Clone, Debug, Deserialize)]
pub struct Port {
    /// Its name in the config.
    pub name: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// More about it if it is the NIC of an untrusted VM.
    #[serde(default)]
    pub nic: Option<Nic>,
}

/// The NIC of an untrusted VM.
#[derive(Clone, Debug, Deserialize)]
pub struct Nic {
    /// Whether a QEMU is connected.
    pub connected: bool,
    /// Queue pairs that the guest uses.
    pub queue_pairs: u16,
    /// What its driver agreed to, by name.
    pub features: Vec<String>,
    /// Frames that were not copied, by reason.
    pub drops: BTreeMap<String, u64>,
    /// What the guest and its QEMU did wrong, by name.
    pub faults: BTreeMap<String, u64>,
}

/// One way on which packets are copied from a domain into another.
#[derive(Clone, Debug, Deserialize)]
pub struct Edge {
    /// The domain that they leave.
    pub from: String,
    /// The domain that they enter.
    pub to: String,
    /// Packets copied over.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One endpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoint {
    /// Its name, `OWNER/SERVICE` or as the switch says.
    pub name: String,
    /// Name of the VM or process it lives in.
    pub owner: String,
    /// Its service.
    pub service: String,
    /// The domain whose buffers it holds.
    #[serde(default)]
    pub domain: String,
    /// detached, published, attached, refused or quarantined.
    pub phase: String,
    /// The epoch of the last attach.
    pub epoch: u32,
    /// Buffers it holds.
    pub held: u64,
    /// References that it has, as an observer.
    #[serde(default)]
    pub references: u64,
    /// References of its that ended because their time was up.
    #[serde(default)]
    pub references_expired: u64,
    /// Packets lent or shown to it.
    pub received: u64,
    /// Packets it gave back.
    pub returned: u64,
    /// Packets not lent or shown to it, lost with it, or dropped when it sent them on, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// Violations by name.
    #[serde(default)]
    pub faults: BTreeMap<String, u64>,
}

/// The terms of promise 6 for one domain, each counted by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Buffers {
    /// Buffers of the domain's region.
    pub total: u64,
    /// On the free stacks.
    pub pool: u64,
    /// Given to drivers.
    pub pmd: u64,
    /// In the hands of lcores.
    pub lcore: u64,
    /// Held by each endpoint.
    pub endpoints: BTreeMap<String, u64>,
    /// Waiting for proof that their holder is gone.
    pub quarantined: u64,
    /// Done with, but for observers that still look at them.
    #[serde(default)]
    pub pinned: u64,
    /// What the terms add up to.
    pub sum: u64,
}

impl Buffers {
    /// The sum of the terms, added up here.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        let held: u64 = self.endpoints.values().sum();
        self.pool + self.pmd + self.lcore + held + self.quarantined + self.pinned
    }
}

impl Status {
    /// The endpoint of this VM or process, if the switch knows it.
    #[must_use]
    pub fn endpoint_of(&self, owner: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.owner == owner)
    }

    /// The port with this name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// Packets dropped for this reason, over all domains.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops.values().filter_map(|reasons| reasons.get(reason)).sum()
    }

    /// All drops by reason, over all domains.
    #[must_use]
    pub fn drops_by_reason(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (reason, packets) in self.drops.values().flatten() {
            *all.entry(reason.clone()).or_insert(0) += packets;
        }
        all
    }
}
