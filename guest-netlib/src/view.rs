//! Packets that an observer looks at by copy, while others have them.
//!
//! An observer (`access = "observer"` in the config) maps the packet memory of its domain read-only. It holds no
//! packet: the switch brings it references, and ends each without asking when its time (`pinned_ms_max`) is up. So a
//! [`View`] gives out no slice. [`View::copy_out`] copies, looks whether the reference held until then, and says
//! [`Expired`] if not: what was copied may be part of another packet, and is no use.
//!
//! ```no_run
//! use guest_netlib::{Device, Endpoint, Options, Run};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::find(&Options { observes: true, ..Options::from_env() })?;
//! let mut endpoint = Endpoint::attach(&device, 0)?;
//! let mut bytes = 0;
//! endpoint.run_views(&Run::default(), |view| {
//!     let mut headers = [0; 128];
//!     if let Ok(copied) = view.copy_out(&mut headers) {
//!         bytes += copied;
//!     }
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! The functions of the chain go on meanwhile, and may change the packet while it is copied: a copy can hold part of
//! what was received and part of what a function wrote. And the region is one: "chosen flows" is convenience, not
//! confidentiality. An observer that must not see the rest of the domain is a copy observer.
//!
//! A view goes back when it is dropped, ended or not; until then its slot brings no other. Whoever keeps views, or
//! does not poll, is shown less, and nobody waits for it.

use std::fmt;

use shm_ring::desc::{RELEASE, RawDesc, reference_slot};

use crate::queue::QueuePair;

/// The reference has ended: the copy is no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the switch has ended this reference: its buffer may hold another packet by now")]
pub struct Expired;

/// A packet to look at by copy. Dropped, it goes back.
pub struct View<'q> {
    queue: &'q QueuePair,
    /// Invariant: it has passed [`crate::packet::is_inside`] for what `queue` may look at.
    raw: RawDesc,
}

impl<'q> View<'q> {
    /// `raw` has passed [`crate::packet::is_inside`] for what `queue` may look at.
    pub(crate) fn new(queue: &'q QueuePair, raw: RawDesc) -> Self {
        Self { queue, raw }
    }

    /// Bytes of the frame when it entered its chain.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.raw.unpack().data_len_bytes)
    }

    /// Whether the frame had no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Id of the port where the switch received the packet; see [`crate::Endpoint::port_name`].
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the port id is the low half")]
    pub fn ingress_port(&self) -> u16 {
        self.raw.unpack().aux as u16
    }

    /// Whether the reference held until now.
    #[must_use]
    pub fn holds(&self) -> bool {
        let desc = self.raw.unpack();
        self.queue.references().holds(reference_slot(desc.aux), desc.generation)
    }

    /// Copies the frame, or as much of its beginning as `copy` has room for; how many bytes. The functions of the
    /// chain may change it meanwhile.
    ///
    /// # Errors
    /// If the reference has ended; what `copy` holds then may be another packet's.
    pub fn copy_out(&self, copy: &mut [u8]) -> Result<usize, Expired> {
        self.copy_then(copy, || ())
    }

    /// `copied` comes between the copy and the look that judges it.
    fn copy_then(&self, copy: &mut [u8], copied: impl FnOnce()) -> Result<usize, Expired> {
        // Ended already: other packets' bytes are not even copied.
        if !self.holds() {
            return Err(Expired);
        }
        let desc = self.raw.unpack();
        let len_bytes = self.len().min(copy.len());
        // SAFETY: by the invariant of `raw` the data lies in a buffer of the region, and this is no more of it.
        unsafe {
            self.queue.seen().copy_out(
                desc.buffer_index,
                usize::from(desc.data_offset_bytes),
                &mut copy[..len_bytes],
            );
        }
        copied();
        // Behind the copy: only now it is known to be of this packet.
        if self.holds() || cfg!(feature = "sabotage-view-check") { Ok(len_bytes) } else { Err(Expired) }
    }

    /// Gives it back. The same as dropping the value, said aloud.
    pub fn release(self) {}
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        self.queue.give_back_view(self.raw);
    }
}

/// Shows place and size; packet bytes are never printed.
impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let desc = self.raw.unpack();
        f.debug_struct("View")
            .field("buffer_index", &desc.buffer_index)
            .field("len_bytes", &desc.data_len_bytes)
            .field("slot", &reference_slot(desc.aux))
            .field("holds", &self.holds())
            .finish()
    }
}

/// The descriptor that gives a reference back.
pub(crate) fn released(raw: RawDesc) -> RawDesc {
    shm_ring::desc::Desc { code: RELEASE, ..raw.unpack() }.pack()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{REFERENCES, TestHost, loan};
    use crate::{Endpoint, PollError};

    fn shown(then: impl FnMut(View<'_>, &TestHost)) -> Result<usize, PollError> {
        let host = TestHost::observed(&[0]);
        let endpoint = Endpoint::attach(&host.observer(), 0).unwrap();
        let mut lcore = host.lcore(0);
        lcore.write_frame(7, &[1; 300]);
        lcore.refer(loan(7, 300), REFERENCES - 1);
        lcore.publish();
        let mut then = then;
        endpoint.queue_pairs()[0].poll_views(|view| then(view, &host))
    }

    #[test]
    fn a_reference_that_ends_behind_the_copy_makes_it_worthless() {
        let seen = shown(|view, host| {
            let mut copy = [0; 300];
            let copied = view.copy_then(&mut copy, || host.lcore(0).end(loan(7, 300), REFERENCES - 1));
            assert_eq!(copied, Err(Expired));
            assert!(!view.holds());
        });
        assert_eq!(seen, Ok(1));
    }

    #[test]
    fn an_ended_reference_is_not_even_copied() {
        let seen = shown(|view, host| {
            host.lcore(0).end(loan(7, 300), REFERENCES - 1);
            let mut copy = [0xee; 300];
            assert_eq!(view.copy_then(&mut copy, || panic!("copied")), Err(Expired));
            assert_eq!(copy, [0xee; 300]);
        });
        assert_eq!(seen, Ok(1));
    }
}
