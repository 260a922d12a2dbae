//! What one VM or process did wrong so far, and what its policies make of it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::policy::{Action, Policy, Watch};
use super::violation::{Violation, ViolationKind};

/// The record of one owner.
#[derive(Debug)]
pub struct Conduct {
    counts: BTreeMap<ViolationKind, BTreeMap<&'static str, u64>>,
    actions: BTreeMap<&'static str, u64>,
    watches: Vec<Watch>,
    since: Instant,
}

impl Conduct {
    /// A clean record under these policies.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut counts: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for violation in Violation::all() {
            counts.entry(violation.kind()).or_default().insert(violation.name(), 0);
        }
        let watches = policies.into_iter().map(Watch::new).collect();
        Self { counts, actions: BTreeMap::new(), watches, since: Instant::now() }
    }

    /// Is judged by these policies from here on; what was seen by those that stay counts.
    pub fn judge_by(&mut self, policies: Vec<Policy>) {
        let mut old = std::mem::take(&mut self.watches);
        let watch = |policy: Policy| match old.iter().position(|watch| *watch.policy() == policy) {
            Some(stays) => old.swap_remove(stays),
            None => Watch::new(policy),
        };
        self.watches = policies.into_iter().map(watch).collect();
    }

    /// Notes violations.
    pub fn note(&mut self, violation: Violation, count: u64) {
        if count == 0 {
            return;
        }
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let counted = self.counts.entry(violation.kind()).or_default().entry(violation.name()).or_default();
        *counted = counted.saturating_add(count);
        for watch in &mut self.watches {
            watch.note(violation.kind(), count, now_ms);
        }
    }

    /// The most severe action that is due, and why. It is taken as done.
    pub fn judge(&mut self) -> Option<(Action, String)> {
        let (action, cause) = self.watches.iter().filter_map(Watch::due).max_by_key(|(action, _)| *action)?;
        for watch in &mut self.watches {
            watch.forget_if_at_most(action);
        }
        if action == Action::Count {
            return None;
        }
        *self.actions.entry(action.name()).or_default() += 1;
        Some((action, cause))
    }

    /// Violations by kind and name, zeroes too.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let named = |names: &BTreeMap<&'static str, u64>| {
            names.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        self.counts.iter().map(|(kind, names)| (kind.name().to_owned(), named(names))).collect()
    }

    /// What policies have done, by action.
    #[must_use]
    pub fn actions(&self) -> BTreeMap<String, u64> {
        self.actions.iter().map(|(action, count)| ((*action).to_owned(), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(action: Action, threshold: u64) -> Policy {
        Policy { violation: None, owner: None, action, threshold, window_s: 10 }
    }

    #[test]
    fn the_most_severe_action_that_is_due_is_taken_once() {
        let (detach, kill) = (Action::Detach { for_s: 1 }, Action::Kill { for_s: 1 });
        let mut conduct = Conduct::new(vec![policy(kill, 20), policy(detach, 10)]);
        conduct.note(Violation::WrongEpoch, 10);
        assert_eq!(conduct.judge().map(|(action, _)| action), Some(detach));
        assert_eq!(conduct.judge(), None);
        conduct.note(Violation::PeerCounter, 10);
        assert_eq!(conduct.judge().map(|(action, _)| action), Some(kill));
        assert_eq!(conduct.judge(), None);
        assert_eq!(conduct.actions(), [("detach".to_owned(), 1), ("kill".to_owned(), 1)].into());
    }

    #[test]
    fn a_policy_that_stays_goes_on_counting_and_one_that_is_gone_does_nothing() {
        let (detach, kill) = (Action::Detach { for_s: 1 }, Action::Kill { for_s: 1 });
        let mut conduct = Conduct::new(vec![policy(kill, 5), policy(detach, 10)]);
        conduct.note(Violation::WrongEpoch, 9);
        conduct.judge_by(vec![policy(detach, 10)]);
        assert_eq!(conduct.judge(), None, "nobody kills any more");
        conduct.note(Violation::WrongEpoch, 1);
        assert_eq!(conduct.judge().map(|(action, _)| action), Some(detach));
        conduct.judge_by(vec![policy(kill, 1)]);
        assert_eq!(conduct.judge(), None, "what was before it does not count");
    }

    #[test]
    fn counting_is_shown_by_kind_and_name_and_does_nothing() {
        let mut conduct = Conduct::new(vec![policy(Action::Count, 1)]);
        conduct.note(Violation::MessageTooLong, 3);
        assert_eq!(conduct.judge(), None);
        assert_eq!(conduct.counts()["control"]["message_too_long"], 3);
        assert_eq!(conduct.counts()["descriptor"]["not_held"], 0);
    }
}
