//! The choice among the live instances of a service.
//!
//! Rendezvous hashing: each live instance draws a number from the flow's hash and its own id, and the
//! highest draw wins. When an instance dies, only its own flows move; when it returns, only they come back.

use crate::ids::EndpointId;
use crate::liveness::Liveness;

/// The live instance that serves a flow; `None` if none is live.
#[inline]
#[must_use]
pub fn choose(instances: &[EndpointId], flow_hash: u32, live: &Liveness) -> Option<EndpointId> {
    match instances {
        [] => None,
        [only] => live.is_live(*only).then_some(*only),
        several => several
            .iter()
            .copied()
            .filter(|endpoint| live.is_live(*endpoint))
            .max_by_key(|endpoint| draw(flow_hash, *endpoint)),
    }
}

/// One instance's draw: the finalizer of a multiply-xorshift hash over both numbers.
#[inline]
fn draw(flow_hash: u32, endpoint: EndpointId) -> u64 {
    let mut x = u64::from(flow_hash) << 16 | u64::from(endpoint.0);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: [EndpointId; 4] = [EndpointId(3), EndpointId(4), EndpointId(5), EndpointId(9)];

    fn all_live() -> Liveness {
        let mut live = Liveness::default();
        FOUR.iter().for_each(|endpoint| live.set(*endpoint, true));
        live
    }

    #[test]
    fn flows_spread_evenly_over_the_instances() {
        let live = all_live();
        let mut counts = [0u32; 10];
        for flow in 0..4000u32 {
            counts[choose(&FOUR, flow.wrapping_mul(0x9e37_79b9), &live).unwrap().index()] += 1;
        }
        for endpoint in FOUR {
            assert!((850..1150).contains(&counts[endpoint.index()]), "{counts:?}");
        }
    }

    #[test]
    fn the_death_of_an_instance_moves_only_its_own_flows() {
        let before = all_live();
        let mut after = before.clone();
        after.set(EndpointId(4), false);
        for flow in 0..1000 {
            let old = choose(&FOUR, flow, &before).unwrap();
            let new = choose(&FOUR, flow, &after).unwrap();
            assert!(old == new || old == EndpointId(4));
            assert_ne!(new, EndpointId(4));
        }
    }

    #[test]
    fn without_a_live_instance_nobody_is_chosen() {
        assert_eq!(choose(&FOUR, 1, &Liveness::default()), None);
        assert_eq!(choose(&[], 1, &all_live()), None);
        assert_eq!(choose(&[EndpointId(8)], 1, &all_live()), None);
    }
}
