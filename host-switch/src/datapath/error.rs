//! Why the datapath does not start, or does not do what it was asked.

use dpdk::DpdkError;
use flow_table::SetupError;
use switch_core::ids::{EndpointId, LcoreId};
use switch_core::shard::ShardError;

/// What the datapath refuses.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// DPDK refused.
    #[error(transparent)]
    Dpdk(#[from] DpdkError),
    /// A port of the config cannot be set up.
    #[error("port {port}: {source}")]
    Port {
        /// Its name in the config.
        port: String,
        /// What DPDK said.
        source: DpdkError,
    },
    /// A ledger cannot be a shard.
    #[error("ledger of domain {domain}: {source}")]
    Shard {
        /// Name of the domain.
        domain: String,
        /// What is wrong.
        source: ShardError,
    },
    /// The parts of the plan do not fit each other.
    #[error("{count} {what}, expected {expected}")]
    Plan {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there should be.
        expected: usize,
    },
    /// What lcores remember of flows cannot be made.
    #[error("memory of flows: {0}")]
    Flows(#[from] SetupError),
    /// There is no memory for it.
    #[error("no memory for {flows} flows on each lcore: {needed} bytes")]
    FlowMemory {
        /// How many were asked for.
        flows: u32,
        /// What they take.
        needed: usize,
    },
    /// No thread.
    #[error("cannot start the thread of lcore {lcore}: {source}")]
    Thread {
        /// Which.
        lcore: LcoreId,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A polling thread is gone; that is a bug of the switch.
    #[error("the thread of lcore {lcore} has ended")]
    LcoreGone {
        /// Which.
        lcore: LcoreId,
    },
    /// The endpoint cannot be attached now.
    #[error(
        "endpoint {endpoint} cannot be attached on lcore {lcore}: it is attached, or its domain lost memory"
    )]
    AttachRefused {
        /// Which endpoint.
        endpoint: EndpointId,
        /// Which lcore refused.
        lcore: LcoreId,
    },
}
