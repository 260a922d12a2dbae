//! Endpoints from which nothing is taken for a while.

use std::time::{Duration, Instant};

use switch_core::ids::EndpointId;

use super::lcore::Lcore;

/// An endpoint that is not served, by its position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throttled {
    position: usize,
    until: Instant,
}

impl Lcore {
    /// Takes nothing from an endpoint for so long, also when it attaches anew.
    pub(super) fn throttle(&mut self, endpoint: EndpointId, duration: Duration) {
        let position = endpoint.index();
        let Some(until) = Instant::now().checked_add(duration) else { return };
        if position >= self.endpoints.len() {
            return;
        }
        self.serve_no_more(position);
        self.throttled.retain(|throttled| throttled.position != position);
        self.throttled.push(Throttled { position, until });
    }

    /// Serves those again whose time is over.
    #[inline]
    pub(super) fn end_throttles(&mut self) {
        if !self.throttled.is_empty() {
            self.end_throttles_until(Instant::now());
        }
    }

    #[cold]
    fn end_throttles_until(&mut self, now: Instant) {
        let is_over = |throttled: &mut Throttled| throttled.until <= now;
        let over: Vec<Throttled> = self.throttled.extract_if(.., is_over).collect();
        for Throttled { position, .. } in over {
            self.serve_again(position);
        }
    }

    /// Takes what an attached endpoint gives back from here on, unless it is throttled.
    pub(super) fn serve_again(&mut self, position: usize) {
        let is_throttled = self.throttled.iter().any(|throttled| throttled.position == position);
        let served = &mut self.domains[self.endpoints[position].domain.index()].served;
        if self.attached.contains(&position) && !is_throttled && !served.contains(&position) {
            served.push(position);
        }
    }

    /// Takes nothing more from an endpoint.
    pub(super) fn serve_no_more(&mut self, position: usize) {
        let served = &mut self.domains[self.endpoints[position].domain.index()].served;
        served.retain(|&served| served != position);
    }
}
