//! What an lcore does when nothing moved.

use std::time::Duration;

/// How an lcore spends the time in which there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the lowest latency, a whole core.
    Spin,
    /// Offers the core to others between polls.
    Yield,
    /// Sleeps between polls, longer step by step.
    #[default]
    Sleep,
}

/// Polls without any movement before the lcore starts to wait: a burst takes that long to come back from an NF.
const POLLS_BEFORE_WAITING: u32 = 256;
/// Polls without any movement before it sleeps rather than yields.
const POLLS_BEFORE_SLEEPING: u32 = 512;
const SLEEP_STEP: Duration = Duration::from_micros(50);
const SLEEP_MAX: Duration = Duration::from_micros(200);

/// Counts polls without movement and waits as configured.
#[derive(Debug)]
pub(super) struct Backoff {
    idle: Idle,
    polls_without_movement: u32,
    next_sleep: Duration,
}

impl Backoff {
    pub(super) fn new(idle: Idle) -> Self {
        Self { idle, polls_without_movement: 0, next_sleep: SLEEP_STEP }
    }

    /// Something moved in this poll.
    #[inline]
    pub(super) fn moved(&mut self) {
        self.polls_without_movement = 0;
        self.next_sleep = SLEEP_STEP;
    }

    /// Whether polls without movement wait for so long that each may be the last one before something is due.
    #[inline]
    pub(super) fn is_long(&self) -> bool {
        self.idle != Idle::Spin && self.polls_without_movement >= POLLS_BEFORE_WAITING
    }

    /// Nothing moved in this poll.
    pub(super) fn wait(&mut self) {
        self.polls_without_movement = self.polls_without_movement.saturating_add(1);
        match self.idle {
            _ if self.polls_without_movement < POLLS_BEFORE_WAITING => std::hint::spin_loop(),
            Idle::Spin => std::hint::spin_loop(),
            Idle::Sleep if self.polls_without_movement >= POLLS_BEFORE_SLEEPING => {
                std::thread::sleep(self.next_sleep);
                self.next_sleep = (self.next_sleep + SLEEP_STEP).min(SLEEP_MAX);
            }
            Idle::Yield | Idle::Sleep => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_longer_step_by_step_and_starts_over_after_movement() {
        let mut backoff = Backoff::new(Idle::Sleep);
        for _ in 0..POLLS_BEFORE_SLEEPING - 1 {
            backoff.wait();
        }
        assert_eq!(backoff.next_sleep, SLEEP_STEP);
        for _ in 0..6 {
            backoff.wait();
        }
        assert_eq!(backoff.next_sleep, SLEEP_MAX);
        backoff.moved();
        assert_eq!(backoff.next_sleep, SLEEP_STEP);
        backoff.wait();
        assert_eq!(backoff.next_sleep, SLEEP_STEP);
    }
}
