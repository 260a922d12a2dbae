//! How much a port may write into the log: whoever causes the lines must not fill it.

use std::fmt::Arguments;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

/// Lines at once: an honest frontend that comes, goes and comes again needs a few.
const LINES_AT_ONCE: u32 = 20;
/// One more for each of these, in the long run.
const PERIOD: Duration = Duration::from_secs(5);

/// The lines of one port.
#[derive(Debug)]
pub(crate) struct LogBudget {
    port: String,
    spent: Mutex<Spent>,
}

/// What of a budget is spent.
#[derive(Clone, Copy, Debug)]
struct Spent {
    left: u32,
    /// Lines were earned up to here.
    since: Instant,
    unsaid: u64,
}

impl LogBudget {
    /// A whole budget for the port of this name.
    pub(crate) fn new(port: &str) -> Self {
        let spent = Spent { left: LINES_AT_ONCE, since: Instant::now(), unsaid: 0 };
        Self { port: port.to_owned(), spent: Mutex::new(spent) }
    }

    /// Writes a line, or takes note that it was left out.
    pub(crate) fn say(&self, level: Level, what: Arguments<'_>) {
        let port = &self.port;
        let unsaid = self.spent.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        match unsaid {
            None => {}
            Some(0) => log::log!(level, "port {port}: {what}"),
            Some(unsaid) => log::log!(
                level,
                "port {port}: {what}; {unsaid} lines before this one were left out: a port writes one in {} s in \
                 the long run, and counts all in its status",
                PERIOD.as_secs()
            ),
        }
    }
}

impl Spent {
    /// Takes a line, and says how many were left out since the last; `None` if this one is to be left out.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_duration_since(self.since).as_secs() / PERIOD.as_secs();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX).min(LINES_AT_ONCE);
        if earned > 0 {
            self.left = (self.left + earned).min(LINES_AT_ONCE);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.unsaid))
            }
            None => {
                self.unsaid += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_budget_are_left_out_and_the_next_one_says_how_many() {
        let start = Instant::now();
        let mut spent = Spent { left: LINES_AT_ONCE, since: start, unsaid: 0 };
        for _ in 0..LINES_AT_ONCE {
            assert_eq!(spent.take(start), Some(0));
        }
        for _ in 0..100 {
            assert_eq!(spent.take(start + PERIOD - Duration::from_millis(1)), None);
        }
        assert_eq!(spent.take(start + PERIOD), Some(100));
        assert_eq!(spent.take(start + PERIOD), None);
    }

    #[test]
    fn a_long_silence_earns_no_more_than_a_whole_budget() {
        let start = Instant::now();
        let mut spent = Spent { left: 0, since: start, unsaid: 0 };
        let later = start + PERIOD * 1000;
        for _ in 0..LINES_AT_ONCE {
            assert_eq!(spent.take(later), Some(0));
        }
        assert_eq!(spent.take(later), None);
    }
}
