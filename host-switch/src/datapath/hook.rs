//! Calls a test in the middle of what a guest could only hit by chance.

use std::sync::{Mutex, PoisonError};

use crate::region::Mapping;

/// What a test does at that moment: it gets the place of the frame in the region.
type Act = Box<dyn FnMut(usize) + Send>;

static ACTS: Mutex<Vec<(usize, Act)>> = Mutex::new(Vec::new());

/// What a test does at that moment.
type TakenAct = Box<dyn FnMut() + Send>;

static TAKEN_ACTS: Mutex<Vec<(usize, TakenAct)>> = Mutex::new(Vec::new());

/// From now on `act` is called for each burst of descriptors that was copied out of a ring of an endpoint of
/// `region`, and that was not yet looked at.
pub fn between_copy_and_check(region: &'static Mapping, act: impl FnMut() + Send + 'static) {
    let mut acts = TAKEN_ACTS.lock().unwrap_or_else(PoisonError::into_inner);
    acts.push((region.base().addr().get(), Box::new(act)));
}

/// A burst of an endpoint of `region` was copied.
pub(super) fn taken(region: &Mapping) {
    let mut acts = TAKEN_ACTS.lock().unwrap_or_else(PoisonError::into_inner);
    acts.iter_mut().filter(|(base, _)| *base == region.base().addr().get()).for_each(|(_, act)| act());
}

/// From now on `act` is called for each frame of `region` whose crossing was allowed and that was not yet
/// copied.
pub fn between_judgement_and_copy(region: &'static Mapping, act: impl FnMut(usize) + Send + 'static) {
    let mut acts = ACTS.lock().unwrap_or_else(PoisonError::into_inner);
    acts.push((region.base().addr().get(), Box::new(act)));
}

/// A frame at `position` of `region` was judged.
pub(super) fn judged(region: &Mapping, position: usize) {
    let mut acts = ACTS.lock().unwrap_or_else(PoisonError::into_inner);
    for (base, act) in acts.iter_mut() {
        if *base == region.base().addr().get() {
            act(position);
        }
    }
}
