//! References of observers that map the region of their domain read-only: brought as a packet enters its chain, and
//! ended without waiting for anybody.
//!
//! An end is shown before the buffer is let go: whoever is given that buffer next writes it behind the end, so that an
//! observer that copies those bytes sees the end, too.

use shm_ring::desc::{Desc, REFERENCE, RawDesc, reference_aux};
use shm_ring::reference::ReferenceTable;
use shm_ring::ring::PeerCounterError;
use switch_core::drop_reason::DropReason;
use switch_core::fault::DescFault;
use switch_core::ledger::PacketPath;
use switch_core::references::{Ended, References};
use switch_core::shard::Shard;

use super::domain::Frame;
use super::endpoint::EndpointLane;
use super::lcore::Lcore;
use super::returns::refuse;
use super::route::Route;
use super::spec::ReferenceSpec;

/// The references of one observer on one lcore, and the words that show it which are good.
#[derive(Debug)]
pub(super) struct ReferenceLane {
    references: References,
    /// Of the attach in force, or of the last one.
    table: ReferenceTable<'static>,
}

impl ReferenceLane {
    pub(super) fn new(spec: ReferenceSpec) -> Self {
        let references = References::new(spec.count, spec.lifetime_ms.into());
        Self { references, table: ReferenceTable::new(&[]) }
    }

    /// Takes up the words of a new attach, and shows in each what is good there.
    pub(super) fn take_up(&mut self, table: ReferenceTable<'static>) {
        self.table = table;
        self.references.good().for_each(|(slot, generation)| table.show(slot, generation));
    }

    /// References that hold now.
    pub(super) fn live(&self) -> u32 {
        self.references.live()
    }

    /// Whether one more could be brought now.
    pub(super) fn has_room(&self) -> bool {
        self.references.has_room()
    }

    /// Shows an end, then lets go of the buffer.
    fn let_go(&self, shard: &mut Shard<'static>, ended: Ended) {
        self.table.show(ended.slot, ended.generation);
        // Counted when it was brought.
        let is_counted = shard.unobserve(ended.buffer);
        debug_assert!(is_counted);
    }

    /// Checks what the observer has given back, and ends that reference if it has not ended before.
    fn give_back(&mut self, shard: &mut Shard<'static>, raw: RawDesc) -> Result<(), DescFault> {
        if let Some(ended) = self.references.give_back(&raw.unpack())? {
            self.let_go(shard, ended);
        }
        Ok(())
    }

    /// Ends the references whose time is up; how many.
    fn expire(&mut self, shard: &mut Shard<'static>, now_ms: u32) -> u64 {
        let mut expired = 0;
        while let Some(ended) = self.references.expire(now_ms) {
            self.let_go(shard, ended);
            expired += 1;
        }
        expired
    }

    /// Ends all references at once. No proof is asked for: the observer cannot write, so that whatever still runs
    /// of it harms nobody who is given these buffers next.
    pub(super) fn end(&mut self, shard: &mut Shard<'static>) {
        while let Some(ended) = self.references.end() {
            self.let_go(shard, ended);
        }
    }
}

impl EndpointLane {
    /// Brings it a reference to a frame of its domain that the lcore has in its hands. On refusal nothing has
    /// changed.
    pub(super) fn refer(
        &mut self,
        shard: &mut Shard<'static>,
        frame: Frame,
        path: PacketPath,
        now_ms: u32,
        broken: &mut Option<PeerCounterError>,
    ) -> Result<(), DropReason> {
        let (Some(pair), Some(lane)) = (&mut self.pair, &mut self.references) else {
            return Err(DropReason::ObserverFull);
        };
        match pair.to_guest.room(1) {
            Ok(0) => return Err(DropReason::ObserverFull),
            Ok(_) => {}
            Err(error) => {
                *broken = Some(error);
                return Err(DropReason::ObserverFull);
            }
        }
        if !lane.references.has_room() || !shard.observe(frame.index) {
            return Err(DropReason::ObserverFull);
        }
        let Some(reference) = lane.references.bring(frame.index, now_ms) else {
            shard.unobserve(frame.index);
            return Err(DropReason::ObserverFull);
        };
        let desc = Desc {
            buffer_index: frame.index.0,
            data_offset_bytes: frame.offset_bytes,
            data_len_bytes: frame.len_bytes,
            generation: reference.generation,
            code: REFERENCE,
            flags: 0,
            aux: reference_aux(path.ingress_port.0, reference.slot),
        };
        let staged = pair.to_guest.stage(desc.pack());
        // `room` said that there is a slot, and nobody else stages.
        debug_assert!(staged);
        self.is_staged = true;
        self.counters.referred += 1;
        Ok(())
    }

    /// Ends its references, if it has any.
    pub(super) fn end_references(&mut self, shard: &mut Shard<'static>) {
        if let Some(lane) = &mut self.references {
            lane.end(shard);
        }
    }
}

/// Takes the references that an observer has given back; how many descriptors were accepted.
pub(super) fn take_references(
    route: &mut Route<'_>,
    position: usize,
    returns: impl Iterator<Item = RawDesc>,
) -> u64 {
    let endpoint = &mut route.endpoints[position];
    // Out of the lane meanwhile, since a refusal is counted there.
    let Some(mut lane) = endpoint.references.take() else { return 0 };
    let mut accepted = 0;
    for raw in returns {
        match lane.give_back(route.shard, raw) {
            Ok(()) => accepted += 1,
            Err(fault) => refuse(endpoint, route.events, fault),
        }
    }
    endpoint.references = Some(lane);
    accepted
}

impl Lcore {
    /// Ends the references whose time is up.
    pub(super) fn expire_references(&mut self) {
        for &position in &self.observing {
            let endpoint = &mut self.endpoints[position];
            let domain = &self.domains[endpoint.domain.index()];
            if let Some(lane) = &mut endpoint.references {
                endpoint.counters.expired += lane.expire(&mut domain.cell.borrow(), self.now_ms);
            }
        }
    }
}
