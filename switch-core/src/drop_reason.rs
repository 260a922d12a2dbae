//! Why a packet was dropped: each reason is a counter's name too.

use crate::named::named_enum;

named_enum! {
    /// Why a packet went no further.
    pub enum DropReason {
        /// The endpoint's host_to_guest ring had no free slot.
        RingFull = "ring_full",
        /// The endpoint holds as many buffers as its quota allows.
        QuotaFull = "quota_full",
        /// No instance of the service is being fed, and the service fails closed.
        ServiceDead = "service_dead",
        /// A rule says so.
        RuleDrop = "rule_drop",
        /// An NF said so.
        NfDrop = "nf_drop",
        /// An NF named a target that its service may not name, or that does not exist.
        VerdictDenied = "verdict_denied",
        /// The packet has been at as many endpoints as any packet may.
        HopLimit = "hop_limit",
        /// Longer than the port sends.
        FrameTooLong = "frame_too_long",
        /// Shorter than an Ethernet header.
        FrameTooShort = "frame_too_short",
        /// The port's transmit queue had no room.
        TxFull = "tx_full",
        /// The port is down.
        PortDown = "port_down",
        /// The pool of the domain had no buffer left.
        NoBuffer = "no_buffer",
        /// In the hands of an endpoint when it died.
        LostWithEndpoint = "lost_with_endpoint",
        /// A rule asks for a field that a malformed header does not give.
        HeaderMalformed = "header_malformed",
        /// A rule asks for the transport of a fragment.
        FragmentUnclassified = "fragment_unclassified",
        /// A rule asks for the transport behind IPv6 extension headers.
        Ipv6ExtensionUnclassified = "ipv6_extension_unclassified",
        /// A rule asks for what a tunnel or an encapsulation hides.
        TunnelUnclassified = "tunnel_unclassified",
        /// The port belongs to another domain than the buffer.
        EgressPoolForeign = "egress_pool_foreign",
        /// No chain carries the packet: the port has none, an NF made it outside any, or the chain has changed
        /// and has no such hop.
        NoChain = "no_chain",
        /// No edge is drawn on which the packet could cross into the other domain.
        DomainEdgeDenied = "domain_edge_denied",
        /// The edge carries no more at present.
        EdgeRate = "edge_rate",
        /// The domain takes in no more at present.
        DomainRate = "domain_rate",
        /// The endpoint may send on no more at present.
        EndpointRate = "endpoint_rate",
        /// The rule makes no more copies at present: the packet goes on, this copy of it does not.
        ReplicateLimit = "replicate_limit",
        /// An observer had no room for one more reference: it loses its own view, the packet goes on.
        ObserverFull = "observer_full",
        /// The ledger says that the buffer is not the lcore's to hand on: a fault of the host.
        LedgerRefused = "ledger_refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named::Named;

    #[test]
    fn names_are_unique_snake_case() {
        for (position, reason) in DropReason::ALL.iter().enumerate() {
            let name = reason.name();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert!(DropReason::ALL[position + 1..].iter().all(|other| other.name() != name), "{name}");
            assert_eq!(Named::index(*reason), position);
        }
    }
}
