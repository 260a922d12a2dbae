//! The host's view of a control area: it writes its own words, reads the guest's once, and trusts no table.

use alloc::vec::Vec;
use core::ptr::NonNull;

use super::mapping::Mapping;
use super::plan::AreaLayout;
use super::{AreaError, QueuePair};
use crate::attach::{Ask, GuestEvent, GuestWatch, HostPhase, Refusal};
use crate::layout::{Direction, EndpointEntry, GuestWords, HostWords, RingEntry};
use crate::ring::RingMemory;
use crate::sync::Ordering;

/// A control area as its host sees it. Everything was located by the host's own plan.
#[derive(Debug)]
pub struct HostArea<'m> {
    endpoints: Vec<HostEndpoint<'m>>,
}

impl<'m> HostArea<'m> {
    /// Writes header and tables of a new control area, the magic last, and everything else to zero.
    ///
    /// # Safety
    /// - `mapped_bytes` at `base` are mapped writable and stay in place for `'m`.
    /// - Everyone on this machine who writes these bytes does so atomically.
    ///
    /// # Errors
    /// If the mapping is shorter than [`AreaLayout::bytes`] or not aligned to a page.
    pub unsafe fn create(
        base: NonNull<u8>,
        mapped_bytes: usize,
        layout: &AreaLayout,
    ) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise is the same.
        let mapping = unsafe { Mapping::new(base, mapped_bytes) }?;
        let area = Self::locate(&mapping, layout)?;
        let header = layout.header();
        mapping.zero(0, layout.bytes())?;
        for (offset, facts) in endpoint_offsets(layout).zip(layout.endpoints()) {
            mapping.write(offset, facts)?;
        }
        for (position, ring) in (0u64..).zip(layout.rings()) {
            let offset = u64::from(header.ring_table_offset) + position * size_of_val(ring) as u64;
            mapping.write(offset, ring)?;
        }
        for (position, target) in (0u64..).zip(layout.targets()) {
            let offset = u64::from(header.target_table_offset) + position * size_of_val(target) as u64;
            mapping.write(offset, target)?;
        }
        mapping.write(0, &crate::layout::ControlHeader { magic: 0, ..*header })?;
        // Release: header and tables are visible to whoever sees the magic. Pairs with the Acquire in
        // `Tables::copy_and_check`.
        mapping.word(0)?.store(header.magic, Ordering::Release);
        Ok(area)
    }

    /// Takes over a control area that an earlier process of this host created by the same plan. Nothing in
    /// it is read or changed; the plan comes from the host's own records, never from the area.
    ///
    /// # Safety
    /// As for [`HostArea::create`].
    ///
    /// # Errors
    /// As for [`HostArea::create`].
    pub unsafe fn adopt(
        base: NonNull<u8>,
        mapped_bytes: usize,
        layout: &AreaLayout,
    ) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise is the same.
        let mapping = unsafe { Mapping::new(base, mapped_bytes) }?;
        Self::locate(&mapping, layout)
    }

    fn locate(mapping: &Mapping<'m>, layout: &AreaLayout) -> Result<Self, AreaError> {
        if mapping.bytes() < layout.bytes() {
            return Err(AreaError::Mapping { mapped_bytes: mapping.bytes(), needed_bytes: layout.bytes() });
        }
        let mut endpoints = Vec::with_capacity(layout.endpoints().len());
        for (offset, facts) in endpoint_offsets(layout).zip(layout.endpoints()) {
            let first = usize::from(facts.first_ring);
            let rings = &layout.rings()[first..first + usize::from(facts.ring_count)];
            endpoints.push(HostEndpoint {
                own: mapping.host_words(offset + core::mem::offset_of!(EndpointEntry, words) as u64)?,
                guest: mapping.guest_words(facts.guest_words_offset)?,
                pairs: locate_pairs(mapping, rings)?,
            });
        }
        Ok(Self { endpoints })
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// The endpoint at a position of the plan.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn endpoint(&self, position: usize) -> HostEndpoint<'m> {
        self.endpoints[position].clone()
    }

    /// The ring from an lcore to the endpoint at a position of the plan.
    #[must_use]
    pub fn host_to_guest(&self, position: usize, lcore: u16) -> Option<RingMemory<'m>> {
        Some(self.endpoints.get(position)?.pair(lcore)?.host_to_guest)
    }

    /// The ring back to an lcore from the endpoint at a position of the plan.
    #[must_use]
    pub fn guest_to_host(&self, position: usize, lcore: u16) -> Option<RingMemory<'m>> {
        Some(self.endpoints.get(position)?.pair(lcore)?.guest_to_host)
    }
}

fn endpoint_offsets(layout: &AreaLayout) -> impl Iterator<Item = u64> {
    let table = u64::from(layout.header().endpoint_table_offset);
    (0u64..).map(move |position| table + position * size_of::<EndpointEntry>() as u64)
}

/// The rings of one endpoint by lcore. The table is the caller's own or has been checked: one each way.
pub(super) fn locate_pairs<'m>(
    mapping: &Mapping<'m>,
    rings: &[RingEntry],
) -> Result<Vec<QueuePair<'m>>, AreaError> {
    let locate = |ring: &RingEntry| -> Result<RingMemory<'m>, AreaError> {
        Ok(RingMemory::new(
            mapping.counter_line(ring.produced_offset)?,
            mapping.counter_line(ring.consumed_offset)?,
            mapping.slots(ring.descriptors_offset, ring.slots)?,
        ))
    };
    let mut pairs = Vec::with_capacity(rings.len() / 2);
    for towards_guest in rings.iter().filter(|ring| ring.direction == Direction::HostToGuest as u8) {
        let is_way_back = |ring: &&RingEntry| {
            ring.direction == Direction::GuestToHost as u8 && ring.lcore == towards_guest.lcore
        };
        let endpoint = usize::from(towards_guest.endpoint);
        let back = rings.iter().find(is_way_back).ok_or(AreaError::RingTable { endpoint })?;
        pairs.push(QueuePair {
            lcore: towards_guest.lcore,
            host_to_guest: locate(towards_guest)?,
            guest_to_host: locate(back)?,
        });
    }
    Ok(pairs)
}

/// What a guest says of one endpoint, each word read once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestReport {
    /// See [`GuestWords::attach_nonce`], with the words that belong to it.
    pub ask: Ask,
    /// See [`GuestWords::confirmed_epoch`].
    pub confirmed_epoch: u32,
    /// See [`GuestWords::detached_epoch`].
    pub detached_epoch: u32,
    /// See [`GuestWords::reaped_epoch`].
    pub reaped_epoch: u32,
    /// See [`GuestWords::heartbeat`].
    pub heartbeat: u64,
}

/// One endpoint as its host sees it.
#[derive(Clone, Debug)]
pub struct HostEndpoint<'m> {
    own: &'m HostWords,
    guest: &'m GuestWords,
    pairs: Vec<QueuePair<'m>>,
}

impl<'m> HostEndpoint<'m> {
    /// One queue pair for each lcore.
    #[must_use]
    pub fn queue_pairs(&self) -> &[QueuePair<'m>] {
        &self.pairs
    }

    fn pair(&self, lcore: u16) -> Option<&QueuePair<'m>> {
        self.pairs.iter().find(|pair| pair.lcore == lcore)
    }

    /// Reads each word of the guest's handshake once. The guest may change them at any moment.
    #[must_use]
    pub fn report(&self) -> GuestReport {
        let guest = self.guest;
        // Acquire: version and features of this ask, and the death notice of whoever asked before, are
        // visible once the nonce is. Pairs with the Release in `GuestEndpoint::ask`.
        let nonce = guest.attach_nonce.load(Ordering::Acquire);
        let ask = Ask {
            nonce,
            version: guest.version.load(Ordering::Relaxed),
            features: guest.features_accepted.load(Ordering::Relaxed),
        };
        GuestReport {
            ask,
            // Acquire: the guest's zeroed counters are visible once the confirmation is. Pairs with the
            // Release in `GuestEndpoint::confirm`.
            confirmed_epoch: guest.confirmed_epoch.load(Ordering::Acquire),
            // Acquire: the guest's last descriptors are visible once it says that it left or was reaped.
            // Pairs with the Release in `GuestEndpoint::leave` and `GuestEndpoint::reaped`.
            detached_epoch: guest.detached_epoch.load(Ordering::Acquire),
            reaped_epoch: guest.reaped_epoch.load(Ordering::Acquire),
            // Relaxed: nothing hangs on it.
            heartbeat: guest.heartbeat.load(Ordering::Relaxed),
        }
    }

    /// Reads the guest's words once and says what is new since the last call with this `watch`.
    pub fn poll(&self, watch: &mut GuestWatch) -> Vec<GuestEvent> {
        watch.compare(&self.report())
    }

    /// The NF's own counters, for display only; believe none. Index by [`crate::layout::GuestCounter`].
    #[must_use]
    pub fn counters(&self) -> [u64; 16] {
        // Relaxed: nothing hangs on them.
        core::array::from_fn(|counter| self.guest.counters[counter].load(Ordering::Relaxed))
    }

    /// Sets the host's own words of this endpoint's rings to zero. Only while no lcore holds the rings.
    pub fn reset_rings(&self) {
        for pair in &self.pairs {
            for line in [pair.host_to_guest.produced_line(), pair.guest_to_host.consumed_line()] {
                // Relaxed: the Release of the nonce in `publish` makes them visible.
                line.value.store(0, Ordering::Relaxed);
                line.want_wakeup.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Answers an ask: rings are reset, this is the epoch. The guest may take them up from here on.
    pub fn publish(&self, nonce: u64, epoch: u32) {
        self.answer(nonce, epoch, HostPhase::Published, 0);
    }

    /// Answers an ask: no.
    pub fn refuse(&self, nonce: u64, refusal: Refusal) {
        self.answer(nonce, 0, HostPhase::Refused, refusal as u32);
    }

    fn answer(&self, nonce: u64, epoch: u32, phase: HostPhase, refusal: u32) {
        // Relaxed: the Release of the nonce makes the three visible.
        self.own.epoch.store(epoch, Ordering::Relaxed);
        self.own.phase.store(phase as u32, Ordering::Relaxed);
        self.own.refusal.store(refusal, Ordering::Relaxed);
        // Release: the whole answer and the reset rings are visible once the nonce is.
        // Pairs with the Acquire in `GuestEndpoint::answered`.
        self.own.answered_nonce.store(nonce, Ordering::Release);
    }

    /// Shows the guest the host's view.
    pub fn set_phase(&self, phase: HostPhase) {
        // Release: what the host did before it says so is visible. Pairs with the Acquire in
        // `GuestEndpoint::phase`.
        self.own.phase.store(phase as u32, Ordering::Release);
    }
}
