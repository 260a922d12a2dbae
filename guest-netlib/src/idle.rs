//! What a poller does when there is nothing to do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Empty polls that [`Idle::Sleep`] answers with a spin, before it yields.
const SPINS_BEFORE_YIELD: u32 = 64;
/// Empty polls in a row before [`Idle::Sleep`] sleeps.
const POLLS_BEFORE_SLEEP: u32 = 128;
/// First sleep; each one after that is twice as long, up to the limit.
const FIRST_SLEEP: Duration = Duration::from_micros(10);
/// Longest sleep unless the caller says otherwise.
const LONGEST_SLEEP_DEFAULT: Duration = Duration::from_micros(200);

/// How a poller waits: the price of latency in CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls again at once: lowest latency, one whole CPU. Only where each poller has a CPU to itself.
    Spin,
    /// Offers the CPU to others between two empty polls.
    Yield,
    /// Spins a little, yields a little, then sleeps longer and longer. The default, and the right choice where
    /// pollers outnumber CPUs.
    Sleep {
        /// The longest sleep.
        longest: Duration,
    },
}

impl Idle {
    /// [`Idle::Sleep`] of at most 200 µs.
    #[must_use]
    pub const fn sleep() -> Self {
        Self::Sleep { longest: LONGEST_SLEEP_DEFAULT }
    }

    /// Waits after the `empty_polls`th empty poll in a row (the first is 1).
    #[inline]
    pub fn wait(self, empty_polls: u32) {
        match self {
            Self::Spin => std::hint::spin_loop(),
            Self::Yield => std::thread::yield_now(),
            Self::Sleep { .. } if empty_polls < SPINS_BEFORE_YIELD => std::hint::spin_loop(),
            Self::Sleep { .. } if empty_polls < POLLS_BEFORE_SLEEP => std::thread::yield_now(),
            Self::Sleep { longest } => {
                std::thread::sleep(sleep_time(empty_polls - POLLS_BEFORE_SLEEP, longest))
            }
        }
    }
}

/// The `nth` sleep in a row: doubles from [`FIRST_SLEEP`] to `longest`.
fn sleep_time(nth: u32, longest: Duration) -> Duration {
    FIRST_SLEEP.saturating_mul(1 << nth.min(16)).min(longest)
}

impl Default for Idle {
    fn default() -> Self {
        Self::sleep()
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spin => "spin",
            Self::Yield => "yield",
            Self::Sleep { .. } => "sleep",
        })
    }
}

/// The text names no idle strategy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("idle strategy \"{found}\" is unknown: use spin, yield or sleep")]
pub struct UnknownIdle {
    /// The text.
    pub found: String,
}

impl FromStr for Idle {
    type Err = UnknownIdle;

    fn from_str(text: &str) -> Result<Self, UnknownIdle> {
        match text {
            "spin" => Ok(Self::Spin),
            "yield" => Ok(Self::Yield),
            "sleep" => Ok(Self::sleep()),
            _ => Err(UnknownIdle { found: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_double_up_to_the_limit_and_never_wrap() {
        let longest = Duration::from_micros(200);
        assert_eq!(sleep_time(0, longest), Duration::from_micros(10));
        assert_eq!(sleep_time(4, longest), Duration::from_micros(160));
        assert_eq!(sleep_time(5, longest), longest);
        assert_eq!(sleep_time(u32::MAX, longest), longest);
    }

    #[test]
    fn an_unknown_strategy_is_refused_with_the_known_ones() {
        let err = "nap".parse::<Idle>().unwrap_err();
        assert_eq!(err.to_string(), "idle strategy \"nap\" is unknown: use spin, yield or sleep");
        assert_eq!("spin".parse(), Ok(Idle::Spin));
    }
}
