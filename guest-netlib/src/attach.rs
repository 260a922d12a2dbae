//! The handshake with the switch: ask, wait for the answer, confirm.

use std::io;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};
use shm_ring::area::GuestEndpoint;
use shm_ring::attach::{Handshake, HandshakeStep, Refusal};
use shm_ring::layout::{VERSION_MAJOR, VERSION_MINOR};

use crate::device::Device;
use crate::seat::SeatError;

/// Between two looks at the answer.
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// Before asking again after a refusal that passes with time.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Why an endpoint is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No such endpoint in the control area.
    #[error("no endpoint {position}: the switch's config gives this VM or process {count}, counted from 0")]
    NoSuchEndpoint {
        /// The position asked for.
        position: usize,
        /// How many there are.
        count: usize,
    },
    /// Somebody else in this guest or process has it.
    #[error("endpoint {position} is in use by another network function of this VM or process")]
    InUse {
        /// The position asked for.
        position: usize,
    },
    /// The lock that tells processes apart does not work.
    #[error("locking endpoint {position}: {source}")]
    Lock {
        /// The position asked for.
        position: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The switch said no.
    #[error("the switch refuses endpoint {position}: {}", reason(*refusal))]
    Refused {
        /// The position asked for.
        position: usize,
        /// Its reason; none if this program does not know the code.
        refusal: Option<Refusal>,
    },
    /// The switch did not answer.
    #[error(
        "the switch did not answer the attach of endpoint {position} within {waited:?}; check `netvm status`"
    )]
    TimedOut {
        /// The position asked for.
        position: usize,
        /// How long we waited.
        waited: Duration,
    },
    /// The switch closed its end of the connection.
    #[error("the switch has closed the connection while endpoint {position} was attaching")]
    SwitchGone {
        /// The position asked for.
        position: usize,
    },
}

impl AttachError {
    pub(crate) fn of_seat(err: SeatError, position: usize) -> Self {
        match err {
            SeatError::Taken => Self::InUse { position },
            SeatError::Lock(source) => Self::Lock { position, source },
        }
    }
}

fn reason(refusal: Option<Refusal>) -> String {
    match refusal {
        Some(Refusal::Version) => {
            format!("it does not speak layout version {VERSION_MAJOR}.{VERSION_MINOR} of this program")
        }
        Some(Refusal::Features) => "it did not offer the features that this program accepts".to_owned(),
        Some(Refusal::TooOften) => "too many attaches in a short time".to_owned(),
        Some(Refusal::Quarantined) => "the endpoint is quarantined; check `netvm status`".to_owned(),
        Some(Refusal::Unproven) => {
            "earlier instances that may still run hold too many buffers; end them, or restart the VM"
                .to_owned()
        }
        None => "for a reason that this program does not know".to_owned(),
    }
}

/// Asks until the switch publishes an epoch, and confirms it: rings start at zero from here on.
///
/// No producer or consumer of this endpoint's rings may be left.
pub(crate) fn confirm_epoch(
    device: &Device,
    endpoint: &GuestEndpoint<'_>,
    position: usize,
    timeout: Duration,
) -> Result<u32, AttachError> {
    let started = Instant::now();
    loop {
        let refusal = match ask_once(device, endpoint, position, started, timeout)? {
            Ok(epoch) => return Ok(epoch),
            Err(refusal) => refusal,
        };
        // These pass with time: a limit by the second, a death that its supervisor is about to report, an
        // epoch that was withdrawn before we saw it.
        let passes = matches!(refusal, Some(Refusal::TooOften | Refusal::Unproven) | None);
        if !passes || started.elapsed() + ASK_AGAIN >= timeout {
            return Err(AttachError::Refused { position, refusal });
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

/// The epoch, or the switch's refusal.
fn ask_once(
    device: &Device,
    endpoint: &GuestEndpoint<'_>,
    position: usize,
    started: Instant,
    timeout: Duration,
) -> Result<Result<u32, Option<Refusal>>, AttachError> {
    let mut handshake = Handshake::begin(endpoint, fresh_nonce());
    loop {
        handshake = match handshake.step(endpoint) {
            HandshakeStep::Confirmed { epoch } => return Ok(Ok(epoch)),
            HandshakeStep::Refused(refusal) => return Ok(Err(refusal)),
            HandshakeStep::Waiting(handshake) => handshake,
        };
        if started.elapsed() > timeout {
            return Err(AttachError::TimedOut { position, waited: timeout });
        }
        if !device.is_connected() {
            return Err(AttachError::SwitchGone { position });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A number that nobody used on this endpoint before, never 0. It need not be secret: only this VM sees it.
fn fresh_nonce() -> NonZeroU64 {
    let mut bytes = [0u8; 8];
    // Insecure: does not wait for entropy, which a guest may lack for long after its boot.
    let filled = getrandom(&mut bytes, GetRandomFlags::INSECURE);
    let random = match filled {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => clock_nonce(),
    };
    NonZeroU64::new(random).unwrap_or(NonZeroU64::MIN)
}

/// For kernels that give no random number: time and process differ from attach to attach.
fn clock_nonce() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() << 32 ^ u64::from(now.subsec_nanos()) ^ u64::from(std::process::id()) << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_differ_with_and_without_a_source_of_random_numbers() {
        assert_ne!(fresh_nonce(), fresh_nonce());
        assert_ne!(clock_nonce(), 0);
    }
}
