//! What the switch says of itself: the answer of `GET /v1/status` and `GET /v1/audit`.
//!
//! These names are an interface: tools read them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Difference;

/// State of one switch at one moment. Counters are cumulative since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Name of the switch.
    pub switch: String,
    /// Its process.
    pub pid: u32,
    /// How long it has run.
    pub uptime_ms: u64,
    /// Its polling threads.
    pub lcores: Vec<LcoreStatus>,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// Its endpoints, in the order of their ids.
    pub endpoints: Vec<EndpointStatus>,
    /// The VMs that run.
    pub vms: Vec<VmStatus>,
    /// Every VM and process of the config.
    #[serde(default)]
    pub owners: Vec<OwnerStatus>,
    /// The ways between domains on which packets are copied.
    #[serde(default)]
    pub edges: Vec<EdgeStatus>,
    /// Dropped packets: domain, then reason.
    pub drops: BTreeMap<String, BTreeMap<String, u64>>,
    /// Buffers by holder, for each domain.
    pub buffers: BTreeMap<String, BufferStatus>,
    /// Packets whose bytes the host copied between two ports of one domain.
    pub copies_in_trusted_chain: u64,
}

/// One polling thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LcoreStatus {
    /// Its number within the switch.
    pub id: u16,
    /// The CPU it is pinned to; none when it floats.
    pub cpu: Option<usize>,
    /// Rounds of its loop.
    pub polls: u64,
    /// Part of the rounds that found nothing, 0 to 1.
    pub idle_share: f64,
    /// What it remembers of flows, if it is to remember any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<FlowsStatus>,
}

/// What one polling thread remembers of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsStatus {
    /// Most flows.
    pub limit: u32,
    /// Flows that are there.
    pub flows: u32,
    /// Flows among them that both ends have not confirmed yet.
    pub unanswered: u32,
    /// Packets whose flow was known.
    pub hits: u64,
    /// Packets of flows that were not.
    pub misses: u64,
    /// Flows entered.
    pub entered: u64,
    /// Flows that both ends have confirmed.
    pub answered: u64,
    /// Flows that found no room among confirmed ones; rules were asked for each of their packets.
    pub refused_full: u64,
    /// Flows that found no room where they could have been.
    pub refused_buckets_full: u64,
    /// Unconfirmed flows that made room for new ones.
    pub evicted_unanswered: u64,
    /// Flows that were forgotten because no packet came.
    pub expired: u64,
}

/// One port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortStatus {
    /// Its name in the config.
    pub name: String,
    /// The DPDK driver.
    pub driver: String,
    /// Whether frames land in the region; otherwise each is copied there once.
    #[serde(default)]
    pub zero_copy: bool,
    /// Whether the link is up.
    #[serde(default)]
    pub link_up: bool,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that the device or its driver lost for want of a buffer.
    pub rx_nombuf: u64,
    /// Packets that the device missed or marked as bad.
    pub rx_missed: u64,
    /// Packets that the device failed to send.
    pub tx_errors: u64,
    /// Packets that came in by a copy, because the NIC could not write them into the region.
    pub copies: u64,
    /// Polls that a paced port was not given, because its chain was not ready.
    #[serde(default)]
    pub held_back: u64,
    /// What there is to say of the NIC of an untrusted VM besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<NicStatus>,
}

/// The NIC of an untrusted VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NicStatus {
    /// Whether a QEMU is connected.
    pub connected: bool,
    /// Queue pairs that the guest uses.
    pub queue_pairs: u16,
    /// What was agreed with the guest's driver, by name.
    pub features: Vec<String>,
    /// Frames that were not copied, either way, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Queues that were broken by what the guest wrote, and messages that were refused, by name.
    pub faults: BTreeMap<String, u64>,
    /// Interrupts that the guest was sent.
    pub interrupts: u64,
    /// Connections so far.
    pub sessions: u64,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointStatus {
    /// `owner/service`, with `#n` behind it when an owner has several of one service.
    pub name: String,
    /// The VM or process it lives in.
    pub owner: String,
    /// `vm` or `process`.
    pub kind: String,
    /// The service it is an instance of.
    pub service: String,
    /// The domain whose buffers it holds.
    pub domain: String,
    /// detached, published, attached, refused or quarantined.
    pub phase: String,
    /// The epoch of the last attach; 0 = never.
    pub epoch: u32,
    /// Whether packets are lent to it now.
    pub fed: bool,
    /// Buffers it holds.
    pub held: u64,
    /// References that it has, as an observer of its domain's region; they hold nothing.
    #[serde(default)]
    pub references: u64,
    /// References of its that ended because their time was up.
    #[serde(default)]
    pub references_expired: u64,
    /// Buffers that it held when it was released and that wait for proof that nothing of it runs.
    #[serde(default)]
    pub quarantined: u64,
    /// Most buffers it may hold.
    pub quota: u64,
    /// Packets lent or shown to it.
    pub received: u64,
    /// Packets it gave back.
    pub returned: u64,
    /// Packets not lent to it or lost with it, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// Descriptors refused, by violation.
    #[serde(default)]
    pub faults: BTreeMap<String, u64>,
    /// What the NF counts for itself. Shown, not believed.
    #[serde(default)]
    pub nf: BTreeMap<String, u64>,
}

/// One edge: those of the config in its order, then those to and from the private regions of copied owners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeStatus {
    /// The domain that packets leave.
    pub from: String,
    /// The domain that they enter.
    pub to: String,
    /// Packets copied over.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that it is for and that were dropped all the same, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// One VM that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmStatus {
    /// Its name in the config.
    pub name: String,
    /// `kvm` or `tcg`, as `netvm boot` said.
    pub accelerator: String,
    /// QEMU's process id, as `netvm boot` said.
    pub pid: i32,
}

/// One VM or process of the config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerStatus {
    /// Its name in the config.
    pub name: String,
    /// `vm` or `process`.
    pub kind: String,
    /// The domain it belongs to.
    pub domain: String,
    /// absent, connected, attached, ending (its connection has ended, its process has not), or detached (by an
    /// operator or a policy; see `out`).
    pub state: String,
    /// Its process, or its QEMU's; 0 = none.
    pub pid: i32,
    /// Whether it is an untrusted VM: it has NICs instead of rings.
    #[serde(default)]
    pub untrusted: bool,
    /// Why it is kept out, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<OutStatus>,
    /// What it did wrong: descriptor, counter, epoch or control, then the name.
    #[serde(default)]
    pub violations: BTreeMap<String, BTreeMap<String, u64>>,
    /// How often a policy did something to it: throttle, detach, kill.
    #[serde(default)]
    pub actions: BTreeMap<String, u64>,
}

/// Why an owner is kept out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutStatus {
    /// `hand`, `policy` or `memory`.
    pub by: String,
    /// The cause, for people.
    pub cause: String,
    /// When it may attach again; none: when an operator lets it in.
    #[serde(default)]
    pub left_ms: Option<u64>,
}

/// The terms of the conservation law for one domain, each counted by its own walk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BufferStatus {
    /// Buffers in the region.
    pub total: u64,
    /// Free.
    pub pool: u64,
    /// Given to a device driver.
    pub pmd: u64,
    /// In the hands of an lcore.
    pub lcore: u64,
    /// Held by endpoints.
    pub endpoints: BTreeMap<String, u64>,
    /// Held by endpoints that are gone without proof that nothing of theirs still runs.
    pub quarantined: u64,
    /// Done with, but for observers that still look at them.
    pub pinned: u64,
    /// Sum of the terms above.
    pub sum: u64,
}

impl BufferStatus {
    /// Whether every buffer is accounted for.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.sum == self.total
    }
}

/// The answer of `GET /v1/audit`: each lcore has walked its own shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Audit {
    /// Name of the switch.
    pub switch: String,
    /// Whether every shard balances.
    pub balances: bool,
    /// One entry for each domain and lcore.
    pub shards: Vec<ShardStatus>,
}

/// One shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShardStatus {
    /// The domain.
    pub domain: String,
    /// The lcore that owns it.
    #[serde(rename = "lcore_id")]
    pub lcore: u16,
    /// What is wrong; empty when it balances.
    pub findings: Vec<String>,
    /// Its buffers.
    #[serde(flatten)]
    pub buffers: BufferStatus,
}

/// The answer to a request that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiError {
    /// What went wrong.
    pub error: String,
    /// Each place where a config breaks a rule: file, line, column, key, rule, got, nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<serde_json::Value>,
    /// What a running switch cannot do, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
    /// Of the running config, if another one was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}
