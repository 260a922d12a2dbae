//! Why an owner is kept out, and until when.

use std::time::{Duration, Instant};

use super::status::OutStatus;

/// Who keeps an owner out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// An operator, until an operator lets it in.
    Hand,
    /// A policy, until then; none: until an operator lets it in.
    Policy {
        /// What led to it.
        cause: String,
        /// When it is let in by itself.
        until: Option<Instant>,
    },
    /// Memory that it maps is lost; the switch has to be started anew.
    Memory {
        /// Which.
        cause: &'static str,
    },
}

impl Out {
    /// A policy keeps it out for so many seconds; 0: until an operator lets it in.
    #[must_use]
    pub fn by_policy(cause: String, seconds: u32, now: Instant) -> Self {
        let until = (seconds > 0).then(|| now + Duration::from_secs(seconds.into()));
        Self::Policy { cause, until }
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        matches!(self, Self::Policy { until: Some(until), .. } if now >= *until)
    }

    /// Why, and when it ends, after "it is detached".
    #[must_use]
    pub fn describe(&self, name: &str) -> String {
        match self {
            Self::Hand => format!("by hand; `netvm vm attach {name}` lets it in"),
            Self::Policy { cause, until: None } => {
                format!("by policy ({cause}); `netvm vm attach {name}` lets it in")
            }
            Self::Policy { cause, until: Some(until) } => {
                let left_s = until.saturating_duration_since(Instant::now()).as_secs() + 1;
                format!("by policy ({cause}) for {left_s} s; `netvm vm attach {name}` lets it in at once")
            }
            Self::Memory { cause } => format!("since {cause}; start the switch anew"),
        }
    }

    /// The same for tools.
    #[must_use]
    pub fn status(&self) -> OutStatus {
        let (by, cause, until) = match self {
            Self::Hand => ("hand", "an operator detached it", None),
            Self::Policy { cause, until } => ("policy", cause.as_str(), *until),
            Self::Memory { cause } => ("memory", *cause, None),
        };
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        OutStatus {
            by: by.to_owned(),
            cause: cause.to_owned(),
            left_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_lets_in_again_when_its_time_is_over_and_not_before() {
        let now = Instant::now();
        let out = Out::by_policy("x".to_owned(), 10, now);
        assert!(!out.is_over(now + Duration::from_millis(9999)));
        assert!(out.is_over(now + Duration::from_secs(10)));
    }

    #[test]
    fn what_an_operator_did_and_what_has_no_end_stays() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1 << 20);
        assert!(!Out::Hand.is_over(later));
        assert!(!Out::by_policy("x".to_owned(), 0, now).is_over(later));
        assert!(!Out::Memory { cause: "x" }.is_over(later));
    }
}
