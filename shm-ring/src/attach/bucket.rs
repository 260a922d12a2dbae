//! A rate limit: tokens that come back one at a time.

/// Tokens that come back one at a time. The clock is the caller's, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenBucket {
    tokens: u32,
    capacity: u32,
    refill_ms: u64,
    counted_ms: u64,
}

impl TokenBucket {
    /// A full bucket. One token comes back every `refill_ms`, or at once if that is 0.
    #[must_use]
    pub fn full(capacity: u32, refill_ms: u64, now_ms: u64) -> Self {
        Self { tokens: capacity, capacity, refill_ms: refill_ms.max(1), counted_ms: now_ms }
    }

    /// Takes a token if there is one. A clock that goes back brings no tokens.
    pub fn take(&mut self, now_ms: u64) -> bool {
        let due = now_ms.saturating_sub(self.counted_ms) / self.refill_ms;
        let missing = self.capacity - self.tokens;
        if due >= u64::from(missing) {
            self.tokens = self.capacity;
            self.counted_ms = self.counted_ms.max(now_ms);
        } else {
            // Less than `missing`, so it fits.
            self.tokens += u32::try_from(due).unwrap_or(missing);
            self.counted_ms += due * self.refill_ms;
        }
        let taken = self.tokens > 0;
        self.tokens -= u32::from(taken);
        taken
    }

    /// Fills the bucket.
    pub fn refill(&mut self) {
        self.tokens = self.capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_it_holds_and_not_one_more() {
        let mut bucket = TokenBucket::full(3, 1000, 50);
        assert_eq!([(); 4].map(|()| bucket.take(50)), [true, true, true, false]);
    }

    #[test]
    fn a_token_comes_back_after_its_time_and_not_a_millisecond_before() {
        let mut bucket = TokenBucket::full(1, 1000, 50);
        assert!(bucket.take(60));
        assert!(!bucket.take(1059));
        assert!(bucket.take(1060));
        assert!(!bucket.take(1060));
    }

    #[test]
    fn a_fraction_of_a_token_is_not_lost_by_asking() {
        let mut bucket = TokenBucket::full(2, 1000, 0);
        assert!(bucket.take(0) && bucket.take(0));
        assert!(!bucket.take(999));
        assert!(bucket.take(1000));
        assert!(!bucket.take(1999));
        assert!(bucket.take(2000));
    }

    #[test]
    fn never_holds_more_than_its_capacity() {
        let mut bucket = TokenBucket::full(2, 1, 0);
        assert!(bucket.take(u64::MAX) && bucket.take(u64::MAX) && !bucket.take(u64::MAX));
    }

    #[test]
    fn a_clock_that_goes_back_brings_nothing() {
        let mut bucket = TokenBucket::full(1, 10, 1000);
        assert!(bucket.take(1000));
        assert!(!bucket.take(0));
        assert!(!bucket.take(1009));
        assert!(bucket.take(1010));
    }

    #[test]
    fn an_empty_capacity_gives_nothing() {
        assert!(!TokenBucket::full(0, 1, 0).take(1000));
    }
}
