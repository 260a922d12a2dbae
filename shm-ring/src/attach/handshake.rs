//! The guest's steps of an attach: ask, wait for the answer, take up the rings, confirm.

use core::num::NonZeroU64;

use super::Refusal;
use crate::endpoint::{Answer, GuestEndpoint};

/// One attach in progress, on the guest's side. The pace and the patience are the caller's.
#[derive(Debug)]
pub struct Handshake {
    nonce: NonZeroU64,
}

/// How an attach stands.
#[derive(Debug)]
pub enum HandshakeStep {
    /// The host has not answered yet: it may be waiting for its lcores, or not be running. Step again later.
    Waiting(Handshake),
    /// The epoch is confirmed, the own counters are zero: make producers and consumers of the rings.
    Confirmed {
        /// The epoch to leave later.
        epoch: u32,
    },
    /// No. `None`: the epoch was withdrawn again meanwhile, or a reason that this library does not know.
    /// Ask again later with another nonce.
    Refused(Option<Refusal>),
}

impl Handshake {
    /// Asks for an attach. Every producer and consumer of this endpoint's rings must be gone by now, and the
    /// nonce be fresh: random, never used before on this endpoint.
    #[must_use]
    pub fn begin(endpoint: &GuestEndpoint<'_>, nonce: NonZeroU64) -> Self {
        endpoint.ask(endpoint.ask_with(nonce.get()));
        Self { nonce }
    }

    /// Looks for the answer once; an epoch is taken up and confirmed here. That ends the handshake, since
    /// another step would zero counters that are in use.
    #[must_use]
    pub fn step(self, endpoint: &GuestEndpoint<'_>) -> HandshakeStep {
        match endpoint.answered(self.nonce.get()) {
            None => HandshakeStep::Waiting(self),
            Some(Answer::Refused(refusal)) => HandshakeStep::Refused(refusal),
            Some(Answer::Epoch(epoch)) => {
                endpoint.confirm(epoch);
                HandshakeStep::Confirmed { epoch }
            }
        }
    }
}
