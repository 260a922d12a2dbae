//! What the demo found, for people and, as one JSON object, for programs.

use std::collections::BTreeMap;

use lab::status::{Buffers, Status};
use serde::Serialize;

/// The demo's result. Keys are stable.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// kvm, tcg, or none when the NFs ran as processes.
    pub accelerator: String,
    /// From `netvm boot` to attached, for each VM, in milliseconds.
    pub boot_ms: BTreeMap<String, u64>,
    /// Bytes of the file that came through.
    pub tcp_bytes: u64,
    /// Whether the file's hash is that of the one sent.
    pub tcp_sha256_ok: bool,
    /// Seconds that the transfer took.
    pub tcp_seconds: f64,
    /// Echo requests sent.
    pub pings_sent: u64,
    /// Echo replies that came back.
    pub pings_answered: u64,
    /// Packets that each NF gave back.
    pub packets_per_hop: BTreeMap<String, u64>,
    /// Packets whose bytes the host copied on the way.
    pub copies_in_trusted_chain: u64,
    /// Buffers of all regions.
    pub buffers_total: u64,
    /// Sum of all terms of `buffers`.
    pub buffers_accounted: u64,
    /// The terms, by domain.
    pub buffers: BTreeMap<String, Buffers>,
    /// Drops by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Summary {
    /// Takes over what the switch's final status says.
    pub fn account(&mut self, status: &Status) {
        self.packets_per_hop = status
            .endpoints
            .iter()
            .map(|endpoint| (format!("{}/{}", endpoint.owner, endpoint.service), endpoint.returned))
            .collect();
        self.copies_in_trusted_chain = status.copies_in_trusted_chain;
        self.buffers_total = status.buffers.values().map(|buffers| buffers.total).sum();
        self.buffers_accounted = status.buffers.values().map(Buffers::accounted).sum();
        self.buffers = status.buffers.clone();
        self.drops = status.drops_by_reason().into_iter().filter(|(_, packets)| *packets > 0).collect();
    }

    /// What is wrong with the result, if anything.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        if !self.tcp_sha256_ok {
            return Some("the file that arrived is not the file that was sent".to_owned());
        }
        if self.pings_answered == 0 {
            return Some(format!("none of {} pings was answered", self.pings_sent));
        }
        if self.copies_in_trusted_chain > 0 {
            return Some(format!(
                "the host copied {} packets in the trusted chain",
                self.copies_in_trusted_chain
            ));
        }
        if self.buffers_accounted != self.buffers_total {
            return Some(format!(
                "{} of {} buffers are accounted for",
                self.buffers_accounted, self.buffers_total
            ));
        }
        None
    }

    /// A few lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        #[allow(clippy::cast_precision_loss, reason = "a rate for display")]
        let rate = self.tcp_bytes as f64 / self.tcp_seconds.max(1e-3) / f64::from(1 << 20);
        let boots: Vec<String> = self.boot_ms.iter().map(|(vm, ms)| format!("{vm} {ms} ms")).collect();
        let hops: Vec<String> =
            self.packets_per_hop.iter().map(|(hop, packets)| format!("{hop} {packets}")).collect();
        format!(
            "accelerator       {}\n\
             boot to attached  {}\n\
             file              {} bytes in {:.1} s ({rate:.1} MiB/s), hash {}\n\
             pings             {} of {} answered\n\
             packets per hop   {}\n\
             copies            {} in the trusted chain\n\
             buffers           {} of {} accounted for\n\
             drops             {:?}",
            self.accelerator,
            if boots.is_empty() { "-".to_owned() } else { boots.join(", ") },
            self.tcp_bytes,
            self.tcp_seconds,
            if self.tcp_sha256_ok { "equal" } else { "DIFFERENT" },
            self.pings_answered,
            self.pings_sent,
            hops.join(", "),
            self.copies_in_trusted_chain,
            self.buffers_accounted,
            self.buffers_total,
            self.drops,
        )
    }
}
