//! Limits how often something is done, with room for a burst.

use std::time::Duration;

/// A token bucket: holds a tenth of a second's worth of tokens, but at least one.
#[derive(Clone, Debug)]
pub struct Limiter {
    per_second: u32,
    /// Thousandths of a token.
    level_milli: u64,
    filled_at: Duration,
}

impl Limiter {
    /// A full bucket for `per_second` events a second; 0 allows none.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let mut limiter = Self { per_second, level_milli: 0, filled_at: Duration::ZERO };
        limiter.level_milli = limiter.room_milli();
        limiter
    }

    fn room_milli(&self) -> u64 {
        if self.per_second == 0 { 0 } else { (u64::from(self.per_second) * 100).max(1000) }
    }

    /// Whether it may be done now; if so, it counts as done.
    pub fn allows(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled_at);
        let passed_millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let gained = passed_millis.saturating_mul(u64::from(self.per_second));
        self.level_milli = self.level_milli.saturating_add(gained).min(self.room_milli());
        // Whole milliseconds were used up; the rest counts next time.
        self.filled_at += Duration::from_millis(passed_millis);
        if self.level_milli < 1000 {
            return false;
        }
        self.level_milli -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limiter: &mut Limiter, from_ms: u64, to_ms: u64) -> usize {
        (from_ms..to_ms).filter(|ms| limiter.allows(Duration::from_millis(*ms))).count()
    }

    #[test]
    fn a_burst_of_a_tenth_of_a_second_passes_and_not_one_more() {
        let mut limiter = Limiter::new(100);
        let burst = (0..50).filter(|_| limiter.allows(Duration::ZERO)).count();
        assert_eq!(burst, 10);
    }

    #[test]
    fn a_steady_demand_gets_the_rate() {
        let mut limiter = Limiter::new(100);
        while limiter.allows(Duration::ZERO) {}
        assert_eq!(allowed(&mut limiter, 1, 1001), 100);
    }

    #[test]
    fn one_a_second_is_possible_and_none_is_too() {
        assert_eq!(allowed(&mut Limiter::new(1), 0, 3000), 3);
        assert_eq!(allowed(&mut Limiter::new(0), 0, 3000), 0);
    }
}
