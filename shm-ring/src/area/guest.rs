//! The guest's view of a control area: tables copied and checked once, then its own words.

use alloc::vec::Vec;
use core::ptr::NonNull;

use super::host::locate_pairs;
use super::mapping::Mapping;
use super::plan::{TargetKind, TargetSpec};
use super::tables::{Tables, check_name};
use super::{AreaError, QueuePair, RegionGeometry};
use crate::attach::{Ask, HostPhase, Refusal};
use crate::layout::{
    ControlHeader, EndpointEntry, EndpointFacts, FEATURES_KNOWN, GuestCounter, GuestWords, HostWords,
    VERSION_MAJOR, VERSION_MINOR,
};
use crate::sync::{AtomicU64, Ordering};

/// A control area as a guest sees it, checked.
#[derive(Debug)]
pub struct GuestArea<'m> {
    tables: Tables,
    endpoints: Vec<GuestEndpoint<'m>>,
}

impl<'m> GuestArea<'m> {
    /// Copies header and tables once, checks the copy in full, and locates everything by it.
    ///
    /// # Safety
    /// - `mapped_bytes` at `base` are mapped readable and writable and stay in place for `'m`.
    /// - Everyone on this machine who writes these bytes does so atomically.
    ///
    /// # Errors
    /// Naming what was found and what was expected.
    pub unsafe fn open(base: NonNull<u8>, mapped_bytes: usize) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise is the same.
        let mapping = unsafe { Mapping::new(base, mapped_bytes) }?;
        let tables = Tables::copy_and_check(&mapping)?;
        let table = u64::from(tables.header.endpoint_table_offset);
        let mut endpoints = Vec::with_capacity(tables.endpoints.len());
        for (position, facts) in tables.endpoints.iter().enumerate() {
            let entry = table + position as u64 * size_of::<EndpointEntry>() as u64;
            let rings = tables.rings_of(position).unwrap_or_default();
            endpoints.push(GuestEndpoint {
                facts: *facts,
                features: tables.header.features_offered & FEATURES_KNOWN,
                host: mapping.host_words(entry + core::mem::offset_of!(EndpointEntry, words) as u64)?,
                own: mapping.guest_words(facts.guest_words_offset)?,
                pairs: locate_pairs(&mapping, rings)?,
            });
        }
        Ok(Self { tables, endpoints })
    }

    /// The header, as copied.
    #[must_use]
    pub fn header(&self) -> &ControlHeader {
        &self.tables.header
    }

    /// How the region divides into buffers.
    #[must_use]
    pub fn region(&self) -> &RegionGeometry {
        &self.tables.region
    }

    /// How many endpoints this VM or process has.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// The endpoint at a position of the table.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn endpoint(&self, position: usize) -> GuestEndpoint<'m> {
        self.endpoints[position].clone()
    }

    /// The rings between an endpoint and an lcore.
    #[must_use]
    pub fn rings(&self, position: usize, lcore: u16) -> Option<QueuePair<'m>> {
        self.endpoints.get(position)?.pairs.iter().find(|pair| pair.lcore == lcore).copied()
    }

    /// The lcores that an endpoint has rings with.
    pub fn lcores(&self, position: usize) -> impl Iterator<Item = u16> + use<'_, 'm> {
        self.endpoints.get(position).into_iter().flat_map(|endpoint| &endpoint.pairs).map(|pair| pair.lcore)
    }

    /// What verdicts may name.
    pub fn targets(&self) -> impl Iterator<Item = TargetSpec> + use<'_, 'm> {
        // Kinds and names were checked by `open`, so nothing is left out here.
        self.tables.targets.iter().filter_map(|entry| {
            let kind = TargetKind::from_code(entry.kind)?;
            let name = check_name(&entry.name).ok()?.into();
            Some(TargetSpec { kind, id: entry.id, name })
        })
    }
}

/// What the host answers to an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Take up the rings, then confirm this epoch.
    Epoch(u32),
    /// No. `None` is a reason that this library does not know.
    Refused(Option<Refusal>),
}

/// One endpoint as its guest sees it.
#[derive(Clone, Debug)]
pub struct GuestEndpoint<'m> {
    facts: EndpointFacts,
    features: u64,
    host: &'m HostWords,
    own: &'m GuestWords,
    pairs: Vec<QueuePair<'m>>,
}

impl<'m> GuestEndpoint<'m> {
    /// What never changes about it.
    #[must_use]
    pub fn facts(&self) -> &EndpointFacts {
        &self.facts
    }

    /// The service it is an instance of.
    #[must_use]
    pub fn service_name(&self) -> &str {
        check_name(&self.facts.service_name).unwrap_or_default()
    }

    /// One queue pair for each lcore.
    #[must_use]
    pub fn queue_pairs(&self) -> &[QueuePair<'m>] {
        &self.pairs
    }

    /// The ask of this library with a given nonce: fresh, not zero, never used before on this endpoint.
    #[must_use]
    pub fn ask_with(&self, nonce: u64) -> Ask {
        Ask { nonce, version: Ask::pack_version(VERSION_MAJOR, VERSION_MINOR), features: self.features }
    }

    /// Asks the host for an attach.
    pub fn ask(&self, ask: Ask) {
        // Relaxed: the Release of the nonce makes both visible.
        self.own.version.store(ask.version, Ordering::Relaxed);
        self.own.features_accepted.store(ask.features, Ordering::Relaxed);
        // Release: version and features are visible once the nonce is. Pairs with the Acquire in
        // `HostEndpoint::report`.
        self.own.attach_nonce.store(ask.nonce, Ordering::Release);
    }

    /// The host's answer to the ask with this nonce, once it is there.
    #[must_use]
    pub fn answered(&self, nonce: u64) -> Option<Answer> {
        // Acquire: the rest of the answer and the reset rings are visible once the nonce is.
        // Pairs with the Release in `HostEndpoint::publish`.
        if self.host.answered_nonce.load(Ordering::Acquire) != nonce {
            return None;
        }
        // Acquire: keeps the second look at the nonce below behind these.
        let epoch = self.host.epoch.load(Ordering::Acquire);
        let refusal = self.host.refusal.load(Ordering::Acquire);
        // The host may be answering somebody's newer ask meanwhile.
        if self.host.answered_nonce.load(Ordering::Relaxed) != nonce {
            return None;
        }
        Some(if epoch != 0 { Answer::Epoch(epoch) } else { Answer::Refused(Refusal::from_code(refusal)) })
    }

    /// The host's view, `None` if this library does not know the code.
    #[must_use]
    pub fn phase(&self) -> Option<HostPhase> {
        // Acquire: pairs with the Release in `HostEndpoint::set_phase`.
        HostPhase::from_code(self.host.phase.load(Ordering::Acquire))
    }

    /// The epoch that the host serves now; 0 = none. Another one than the confirmed: attach anew.
    #[must_use]
    pub fn host_epoch(&self) -> u32 {
        // Relaxed: a hint; the answer to an ask is what counts.
        self.host.epoch.load(Ordering::Relaxed)
    }

    /// Sets the guest's own words of the rings to zero and takes up the epoch. The caller's producers and
    /// consumers start anew; packets flow from here on.
    pub fn confirm(&self, epoch: u32) {
        for pair in &self.pairs {
            for line in [pair.host_to_guest.consumed_line(), pair.guest_to_host.produced_line()] {
                // Relaxed: the Release below makes them visible.
                line.value.store(0, Ordering::Relaxed);
                line.want_wakeup.store(0, Ordering::Relaxed);
            }
        }
        // Release: the zeroed counters are visible once the confirmation is. Pairs with the Acquire in
        // `HostEndpoint::report`.
        self.own.confirmed_epoch.store(epoch, Ordering::Release);
    }

    /// Says that the NF itself has ended the epoch: it touches no buffer of it any more.
    pub fn leave(&self, epoch: u32) {
        // Release: what the NF gave back before is visible. Pairs with the Acquire in `HostEndpoint::report`.
        self.own.detached_epoch.store(epoch, Ordering::Release);
    }

    /// Says, as supervisor, that the NF process of this epoch was reaped: it runs no more.
    pub fn reaped(&self, epoch: u32) {
        // Release: as in `leave`.
        self.own.reaped_epoch.store(epoch, Ordering::Release);
    }

    /// The epoch that this endpoint's NF confirmed last: what its supervisor reports when the NF has died.
    #[must_use]
    pub fn confirmed_epoch(&self) -> u32 {
        // Acquire: pairs with the Release in `confirm`, which another process of this guest may have run.
        self.own.confirmed_epoch.load(Ordering::Acquire)
    }

    /// Moves the heartbeat on. Only the NF's polling thread calls this.
    #[inline]
    pub fn beat(&self) {
        Counter { word: &self.own.heartbeat }.add(1);
    }

    /// One of the NF's counters.
    #[inline]
    #[must_use]
    pub fn counter(&self, counter: GuestCounter) -> Counter<'m> {
        Counter { word: &self.own.counters[counter as usize] }
    }

    /// One of the eight counters that belong to the app, if `number` is below 8.
    #[must_use]
    pub fn app_counter(&self, number: usize) -> Option<Counter<'m>> {
        let word = self.own.counters.get(number.checked_add(GuestCounter::App as usize)?)?;
        Some(Counter { word })
    }
}

/// A counter with one writer, for display only.
#[derive(Clone, Copy, Debug)]
pub struct Counter<'m> {
    word: &'m AtomicU64,
}

impl Counter<'_> {
    /// Counts on, without a locked instruction: there is one writer.
    #[inline]
    pub fn add(self, count: u64) {
        // Relaxed, and no read-modify-write: one writer, nothing hangs on it.
        self.word.store(self.word.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }
}
