//! Which endpoints are being fed, as one lcore sees it.

use crate::ids::{ENDPOINTS_MAX, EndpointId};

const WORDS: usize = ENDPOINTS_MAX / 64;

/// A set of endpoints, owned by one lcore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    words: [u64; WORDS],
}

impl Liveness {
    /// Starts or stops feeding an endpoint; a number beyond the limit is never fed.
    pub fn set(&mut self, endpoint: EndpointId, is_fed: bool) {
        if let Some(word) = self.words.get_mut(endpoint.index() / 64) {
            let bit = 1 << (endpoint.index() % 64);
            if is_fed { *word |= bit } else { *word &= !bit }
        }
    }

    /// Whether the endpoint is being fed.
    #[inline]
    #[must_use]
    pub fn is_live(&self, endpoint: EndpointId) -> bool {
        self.words.get(endpoint.index() / 64).is_some_and(|word| word >> (endpoint.index() % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_one_endpoint_leaves_its_neighbours_alone() {
        let mut live = Liveness::default();
        for id in [0, 63, 64, 1023] {
            live.set(EndpointId(id), true);
        }
        live.set(EndpointId(64), false);
        let fed: Vec<u16> = (0..1024).filter(|&id| live.is_live(EndpointId(id))).collect();
        assert_eq!(fed, [0, 63, 1023]);
    }

    #[test]
    fn an_endpoint_beyond_the_limit_is_never_live() {
        let mut live = Liveness::default();
        live.set(EndpointId(1024), true);
        assert!(!live.is_live(EndpointId(1024)));
        assert_eq!(live, Liveness::default());
    }
}
