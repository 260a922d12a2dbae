//! What violations lead to: so many of a kind within a time, and then.

use std::collections::VecDeque;

use super::violation::ViolationKind;

/// What is done to an owner, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Nothing but counting.
    Count,
    /// What it gives back is not looked at for a while.
    Throttle {
        /// How long.
        for_ms: u32,
    },
    /// Its rings are taken, and no attach is answered for a while.
    Detach {
        /// How long; 0: until an operator lets it in.
        for_s: u32,
    },
    /// Its process, or its QEMU, is ended, and nobody may come in its place for a while.
    Kill {
        /// How long; 0: until an operator lets it in.
        for_s: u32,
    },
}

impl Action {
    /// Its name in configs and counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Throttle { .. } => "throttle",
            Self::Detach { .. } => "detach",
            Self::Kill { .. } => "kill",
        }
    }
}

/// One rule: `threshold` violations of a kind within `window_s` lead to an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which violations; none: any.
    pub violation: Option<ViolationKind>,
    /// Whose, by the name of a VM or process; none: everybody's.
    pub owner: Option<String>,
    /// What follows.
    pub action: Action,
    /// This many.
    pub threshold: u64,
    /// Within this time.
    pub window_s: u32,
}

/// What holds for counters where no policy of the config speaks of them. An honest NF never breaks them, and an
/// endpoint whose counters broke is served by nobody, so it has to attach anew in any case.
const COUNTERS_DEFAULT: Policy = Policy {
    violation: Some(ViolationKind::Counter),
    owner: None,
    action: Action::Detach { for_s: 10 },
    threshold: 1,
    window_s: 10,
};

impl Policy {
    fn concerns(&self, kind: ViolationKind) -> bool {
        self.violation.is_none_or(|named| named == kind)
    }

    /// Those that hold for an owner: what the config says, and the default for counters if it is silent there.
    #[must_use]
    pub fn of_owner(policies: &[Self], owner: &str) -> Vec<Self> {
        let is_for = |policy: &&Self| policy.owner.as_deref().is_none_or(|named| named == owner);
        let mut own: Vec<Self> = policies.iter().filter(is_for).cloned().collect();
        if !own.iter().any(|policy| policy.concerns(ViolationKind::Counter)) {
            own.push(COUNTERS_DEFAULT);
        }
        own
    }
}

/// Parts of a window that are kept apart: what is older than the window is forgotten that exactly.
const SLOTS: u64 = 64;

/// How many events there were within the last so many milliseconds.
#[derive(Debug)]
struct Window {
    slot_ms: u64,
    /// Number of the slot, and events in it; the newest last.
    slots: VecDeque<(u64, u64)>,
}

impl Window {
    fn new(seconds: u32) -> Self {
        Self { slot_ms: (u64::from(seconds) * 1000).div_ceil(SLOTS).max(1), slots: VecDeque::new() }
    }

    /// Adds events; how many there are within the window.
    fn add(&mut self, count: u64, now_ms: u64) -> u64 {
        let now = now_ms / self.slot_ms;
        while self.slots.front().is_some_and(|&(slot, _)| slot + SLOTS <= now) {
            self.slots.pop_front();
        }
        match self.slots.back_mut() {
            Some((slot, sum)) if *slot == now => *sum = sum.saturating_add(count),
            _ => self.slots.push_back((now, count)),
        }
        self.slots.iter().fold(0, |sum: u64, &(_, count)| sum.saturating_add(count))
    }
}

/// A policy and what it has seen.
#[derive(Debug)]
pub struct Watch {
    policy: Policy,
    window: Window,
    seen: u64,
}

impl Watch {
    /// Watches from here on.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { window: Window::new(policy.window_s), policy, seen: 0 }
    }

    /// What it watches for.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Violations have been met.
    pub fn note(&mut self, kind: ViolationKind, count: u64, now_ms: u64) {
        if self.policy.concerns(kind) {
            self.seen = self.window.add(count, now_ms);
        }
    }

    /// The action, if it is due, and why.
    #[must_use]
    pub fn due(&self) -> Option<(Action, String)> {
        let Policy { violation, action, threshold, window_s, .. } = &self.policy;
        let what = violation.map_or("any", ViolationKind::name);
        (self.seen >= *threshold).then(|| {
            (
                *action,
                format!(
                    "{} violations of kind {what} within {window_s} s, {threshold} are enough",
                    self.seen
                ),
            )
        })
    }

    /// Begins anew, since something as severe or worse was done.
    pub fn forget_if_at_most(&mut self, done: Action) {
        if self.policy.action <= done {
            self.window.slots.clear();
            self.seen = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(violation: Option<ViolationKind>, owner: Option<&str>) -> Policy {
        let owner = owner.map(str::to_owned);
        Policy { violation, owner, action: Action::Kill { for_s: 0 }, threshold: 100, window_s: 10 }
    }

    #[test]
    fn the_threshold_is_reached_at_exactly_so_many_and_not_with_one_less() {
        let mut watch = Watch::new(policy(None, None));
        watch.note(ViolationKind::Epoch, 99, 0);
        assert_eq!(watch.due(), None);
        watch.note(ViolationKind::Control, 1, 9000);
        let (action, cause) = watch.due().unwrap();
        assert_eq!(action, Action::Kill { for_s: 0 });
        assert_eq!(cause, "100 violations of kind any within 10 s, 100 are enough");
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut watch = Watch::new(policy(None, None));
        watch.note(ViolationKind::Epoch, 99, 0);
        watch.note(ViolationKind::Epoch, 1, 10_100);
        assert_eq!(watch.due(), None);
    }

    #[test]
    fn a_policy_of_one_kind_does_not_see_the_others() {
        let mut watch = Watch::new(policy(Some(ViolationKind::Descriptor), None));
        watch.note(ViolationKind::Counter, 1000, 0);
        assert_eq!(watch.due(), None);
    }

    #[test]
    fn counters_detach_unless_a_policy_for_that_owner_speaks_of_them() {
        let descriptors = policy(Some(ViolationKind::Descriptor), None);
        let own = Policy::of_owner(std::slice::from_ref(&descriptors), "fw0");
        assert_eq!(own, [descriptors, COUNTERS_DEFAULT]);
        let any = policy(None, Some("fw0"));
        let any = std::slice::from_ref(&any);
        assert_eq!(Policy::of_owner(any, "fw0"), any);
        assert_eq!(Policy::of_owner(any, "fw1"), [COUNTERS_DEFAULT]);
    }

    #[test]
    fn a_long_window_takes_no_more_memory_than_its_slots() {
        let mut window = Window::new(3600);
        for now_ms in (0..7_200_000).step_by(100) {
            window.add(1, now_ms);
        }
        assert!(window.slots.len() as u64 <= SLOTS);
    }

    #[test]
    fn a_worse_policy_goes_on_counting_after_a_milder_action() {
        let mut watch = Watch::new(policy(None, None));
        watch.note(ViolationKind::Epoch, 99, 0);
        watch.forget_if_at_most(Action::Detach { for_s: 10 });
        watch.note(ViolationKind::Epoch, 1, 1);
        assert!(watch.due().is_some());
        watch.forget_if_at_most(Action::Kill { for_s: 0 });
        assert_eq!(watch.due(), None);
    }
}
