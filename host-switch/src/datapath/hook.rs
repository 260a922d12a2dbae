//! Calls a test in the middle of what a guest could only hit by chance.

use std::sync::{Mutex, PoisonError};

use crate::region::Mapping;

/// Where the host stands between a copy of what a guest may rewrite and the use of that copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A descriptor was copied out of a ring, and not looked at yet.
    DescriptorCopied,
    /// The headers of a frame were judged, and the frame was not copied or sent yet.
    HeadersJudged,
}

/// What a test does then: it gets the place of the frame in the region, 0 for a descriptor.
type Act = Box<dyn FnMut(usize) + Send>;

/// Whether the driver of a shared port is full: it gets how many frames wait in each line.
type Room = Box<dyn FnMut(&[usize]) -> bool + Send>;

static ACTS: Mutex<Vec<(Moment, usize, Act)>> = Mutex::new(Vec::new());

/// From now on `act` is called at each such moment in the domain of `region`.
pub fn at(moment: Moment, region: &'static Mapping, act: impl FnMut(usize) + Send + 'static) {
    let mut acts = ACTS.lock().unwrap_or_else(PoisonError::into_inner);
    acts.push((moment, region.base().addr().get(), Box::new(act)));
}

static ROOMS: Mutex<Vec<(usize, Room)>> = Mutex::new(Vec::new());

/// From now on `is_full` is asked before frames are offered to the driver of a port that the domain of `region`
/// shares with others.
pub fn when_driver_is_full(region: &'static Mapping, is_full: impl FnMut(&[usize]) -> bool + Send + 'static) {
    let mut rooms = ROOMS.lock().unwrap_or_else(PoisonError::into_inner);
    rooms.push((region.base().addr().get(), Box::new(is_full)));
}

/// Whether a test says so.
pub(super) fn is_driver_full(regions: &[&Mapping], waiting: &[usize]) -> bool {
    let mut rooms = ROOMS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_here = |base: &usize| regions.iter().any(|region| region.base().addr().get() == *base);
    rooms.iter_mut().any(|(base, is_full)| is_here(base) && is_full(waiting))
}

/// The host stands there with a frame at `position` of `region`.
pub(super) fn reach(moment: Moment, region: &Mapping, position: usize) {
    let here = (moment, region.base().addr().get());
    let mut acts = ACTS.lock().unwrap_or_else(PoisonError::into_inner);
    acts.iter_mut().filter(|(at, base, _)| (*at, *base) == here).for_each(|(_, _, act)| act(position));
}
