//! What the monitor prints: one JSON object a report.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use packet::FlowKey;
use serde::{Serialize, Serializer};

use super::Amount;

/// What was seen so far, and since the last report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Since the start.
    pub seconds: f64,
    /// Since the last report.
    pub interval_seconds: f64,
    /// Packets since the start.
    pub packets: u64,
    /// Bytes since the start.
    pub bytes: u64,
    /// What came since the last report.
    pub interval: Amount,
    /// Flows in the table.
    pub flows: usize,
    /// Packets since the start whose flow found no place in the table.
    pub untracked_packets: u64,
    /// Of an observer: views since the start that had ended before they were looked at. They are counted nowhere
    /// else.
    pub expired_views: u64,
    /// Since the start, by protocol.
    pub protocols: BTreeMap<&'static str, Amount>,
    /// The flows with the most bytes since the last report.
    pub top: Vec<Talker>,
}

/// A flow in a report. Both directions are one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Talker {
    /// One end.
    pub a: SocketAddr,
    /// The other end.
    pub b: SocketAddr,
    /// Their protocol.
    pub protocol: Protocol,
    /// What they sent since the last report.
    #[serde(flatten)]
    pub amount: Amount,
}

/// An IP protocol, by name if it has a common one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// 1 or 58.
    Icmp,
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// Any other.
    Number(u8),
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Icmp => serializer.serialize_str("icmp"),
            Self::Tcp => serializer.serialize_str("tcp"),
            Self::Udp => serializer.serialize_str("udp"),
            Self::Number(number) => serializer.serialize_u8(*number),
        }
    }
}

impl From<(FlowKey, Amount)> for Talker {
    fn from((key, amount): (FlowKey, Amount)) -> Self {
        Self {
            a: SocketAddr::new(key.source, key.source_port),
            b: SocketAddr::new(key.destination, key.destination_port),
            protocol: match key.protocol {
                1 | 58 => Protocol::Icmp,
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                other => Protocol::Number(other),
            },
            amount,
        }
    }
}
