//! Empty buffers for endpoints that make packets of their own.

use shm_ring::desc::Kind;
use switch_core::ids::BufferIndex;
use switch_core::shard::Ingress;

use super::domain::{DomainLane, Frame};
use super::lcore::Lcore;
use super::route::cut_off;

/// Empty buffers lent to an endpoint in one turn.
const EMPTIES_BURST: usize = 16;

impl Lcore {
    /// Lends empty buffers to endpoints that make packets, as far as their credit goes.
    pub(super) fn lend_empties(&mut self) {
        let Self { attached, endpoints, domains, forwarding, live, .. } = self;
        for &position in attached.iter() {
            let lane = &mut endpoints[position];
            let wanted = (lane.credit_left() as usize).min(EMPTIES_BURST);
            let DomainLane { cell, state, .. } = &mut domains[lane.domain.index()];
            if wanted == 0 || state.is_lost || !live.is_live(lane.id) {
                continue;
            }
            let mut shard = cell.borrow();
            let mut indices = [0; EMPTIES_BURST];
            if !shard.take(&mut indices[..wanted]) {
                continue;
            }
            let path = forwarding.path_for_made(lane.id);
            let arrival = Ingress { path, vlan: 0, class: 0, offload_flags: 0, host_time_ms: self.now_ms };
            let offset_bytes = state.geometry.headroom_bytes;
            let mut broken = None;
            for &index in &indices[..wanted] {
                let index = BufferIndex(index);
                let frame = Frame { index, offset_bytes, len_bytes: 0 };
                let is_lent = shard.received(index, &arrival)
                    && lane.lend(&mut shard, frame, Kind::Empty, path, &mut broken).is_ok();
                if !is_lent {
                    shard.give(&[index.0]);
                }
            }
            if let Some(error) = broken {
                cut_off(lane, live, &mut self.events, self.id, error);
            }
        }
    }
}
