//! Deficit round robin: what one lcore or port gives to each domain when there is not enough for all.
//!
//! In each round every domain that has work gets credit in proportion to its weight, and pays from it what its
//! work costs: cycles of an lcore, bytes of a port. Who has none left waits. The next round begins when no domain
//! that has work has credit left, so nothing lies idle while there is work.
//!
//! Work is done before its cost is known, so a domain can end a round in debt; it pays that off first. Credit is
//! not saved: a domain whose queues are empty loses what it has, and keeps its debt.

use crate::ids::DomainId;

/// Rounds of its own credit that a domain is in debt at most. One visit is bounded by its burst and costs less
/// than a few rounds; what is beyond was a thread that the kernel took off its CPU, which no domain is to pay for.
const DEBT_ROUNDS_MAX: i64 = 16;

/// Who may have how much of one lcore or port.
#[derive(Clone, Debug)]
pub struct Shares {
    accounts: Box<[Account]>,
}

#[derive(Clone, Debug)]
struct Account {
    /// Credit of one round; above 0.
    quantum: i64,
    credit: i64,
}

impl Shares {
    /// Shares of the domains in order. `quantum` is what a domain of the least weight gets in a round; best
    /// about what one visit costs: less makes rounds of many turns, more makes turns unequal for longer.
    #[must_use]
    pub fn new(weights: &[u16], quantum: u32) -> Self {
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
        let account = |weight: &u16| {
            let quantum = i64::from((*weight / divisor).max(1)) * i64::from(quantum.max(1));
            Account { quantum, credit: 0 }
        };
        Self { accounts: weights.iter().map(account).collect() }
    }

    /// Begins a turn in which these domains have work; a new round if none of them has credit left.
    pub fn start_turn(&mut self, has_work: impl Fn(DomainId) -> bool) {
        let mut rounds = i64::MAX;
        for (domain, account) in (0..).map(DomainId).zip(&self.accounts) {
            if has_work(domain) {
                rounds = rounds.min(account.rounds_to_credit());
            }
        }
        for (domain, account) in (0..).map(DomainId).zip(&mut self.accounts) {
            if has_work(domain) {
                account.receive(rounds);
            } else {
                account.rest(rounds);
            }
        }
    }

    /// Whether the domain has credit left in this turn.
    #[inline]
    #[must_use]
    pub fn may_run(&self, domain: DomainId) -> bool {
        self.accounts.get(domain.index()).is_some_and(|account| account.credit > 0)
    }

    /// Takes what the domain's work has cost.
    #[inline]
    pub fn charge(&mut self, domain: DomainId, cost: u64) {
        if let Some(account) = self.accounts.get_mut(domain.index()) {
            let cost =
                if cfg!(feature = "sabotage-share") { 0 } else { i64::try_from(cost).unwrap_or(i64::MAX) };
            account.credit = account.credit.saturating_sub(cost).max(-DEBT_ROUNDS_MAX * account.quantum);
        }
    }

    /// Notes that the domain's queues were found empty: it keeps no credit.
    #[inline]
    pub fn rest(&mut self, domain: DomainId) {
        if let Some(account) = self.accounts.get_mut(domain.index()) {
            account.rest(0);
        }
    }
}

impl Account {
    /// How many rounds from now it has credit.
    fn rounds_to_credit(&self) -> i64 {
        if self.credit > 0 { 0 } else { -self.credit / self.quantum + 1 }
    }

    /// As many rounds as the first domain needs to get into credit, so no credit is ever above one round's.
    fn receive(&mut self, rounds: i64) {
        self.credit = self.credit.saturating_add(self.quantum.saturating_mul(rounds));
    }

    /// Rounds without work pay off debt and leave no credit.
    fn rest(&mut self, rounds: i64) {
        // Without anybody at work, `rounds` is as good as endless.
        self.credit = self.credit.saturating_add(self.quantum.saturating_mul(rounds)).min(0);
    }
}

const fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RED: DomainId = DomainId(0);
    const BLUE: DomainId = DomainId(1);

    /// Turns of a switch whose domains always have work: what each was served.
    fn serve(shares: &mut Shares, turns: usize, cost_of: impl Fn(usize, DomainId) -> u64) -> Vec<u64> {
        let mut served = vec![0; shares.accounts.len()];
        for turn in 0..turns {
            shares.start_turn(|_| true);
            for (domain, served) in (0..).map(DomainId).zip(&mut served) {
                if shares.may_run(domain) {
                    let cost = cost_of(turn, domain);
                    shares.charge(domain, cost);
                    *served += cost;
                }
            }
        }
        served
    }

    #[test]
    fn who_costs_more_is_served_less_often_and_gets_the_same() {
        let mut shares = Shares::new(&[1, 1], 1000);
        let served = serve(&mut shares, 10_000, |_, domain| if domain == RED { 9000 } else { 1000 });
        assert!(served[0].abs_diff(served[1]) <= 10_000, "{served:?}");
    }

    #[test]
    fn a_domain_of_thrice_the_weight_gets_three_times_as_much() {
        let mut shares = Shares::new(&[300, 100], 1000);
        let served = serve(&mut shares, 10_000, |_, _| 2000);
        assert!(served[0].abs_diff(3 * served[1]) <= 3 * 5000, "{served:?}");
    }

    #[test]
    fn a_lone_domain_runs_in_every_turn() {
        let mut shares = Shares::new(&[1, 1000], 10);
        for _ in 0..1000 {
            shares.start_turn(|domain| domain == RED);
            assert!(shares.may_run(RED) && !shares.may_run(BLUE));
            shares.charge(RED, 1_000_000);
        }
    }

    #[test]
    fn idle_domains_keep_no_credit() {
        let mut shares = Shares::new(&[1, 1], 1000);
        for _ in 0..100 {
            shares.start_turn(|domain| domain == RED);
            shares.charge(RED, 1000);
        }
        shares.start_turn(|_| true);
        assert_eq!(
            shares.accounts[BLUE.index()].credit,
            1000,
            "one round, and nothing of the hundred before"
        );
        shares.rest(BLUE);
        assert!(!shares.may_run(BLUE));
    }

    #[test]
    fn idle_domains_keep_their_debt_until_rounds_of_others_have_paid_it() {
        let mut shares = Shares::new(&[1, 1], 1000);
        shares.start_turn(|_| true);
        shares.charge(RED, 5000);
        shares.charge(BLUE, 1000);
        shares.rest(RED);
        for _ in 0..3 {
            shares.start_turn(|domain| domain == BLUE);
            shares.charge(BLUE, 1000);
        }
        shares.start_turn(|_| true);
        assert!(!shares.may_run(RED), "a debt of 4000 is paid in four rounds");
        shares.charge(BLUE, 1000);
        shares.start_turn(|_| true);
        assert!(shares.may_run(RED));
    }

    #[test]
    fn who_asks_for_little_in_every_turn_holds_nobody_up() {
        let mut shares = Shares::new(&[1000, 1], 20_000);
        let mut blue = 0;
        for _ in 0..1000 {
            shares.start_turn(|_| true);
            // Red always has one packet, and never a second one.
            shares.charge(RED, 200);
            shares.rest(RED);
            if shares.may_run(BLUE) {
                shares.charge(BLUE, 20_000);
                blue += 1;
            }
        }
        assert!(blue >= 500, "{blue} visits in 1000 turns");
    }

    #[test]
    fn a_thread_that_was_off_its_cpu_costs_at_most_sixteen_rounds() {
        let mut shares = Shares::new(&[1, 1], 1000);
        shares.start_turn(|_| true);
        shares.charge(RED, u64::MAX);
        let mut turns = 0;
        while !shares.may_run(RED) {
            shares.charge(BLUE, 1000);
            shares.start_turn(|_| true);
            turns += 1;
        }
        assert_eq!(turns, 17);
    }

    #[test]
    fn a_domain_beyond_the_table_has_no_share() {
        let mut shares = Shares::new(&[1], 1000);
        shares.start_turn(|_| true);
        shares.charge(BLUE, 1);
        shares.rest(BLUE);
        assert!(shares.may_run(RED) && !shares.may_run(BLUE));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn domains_that_always_have_work_get_what_their_weights_say(
            weights in proptest::collection::vec(1..1000u16, 2..6),
            costs in proptest::collection::vec(1..30_000u64, 1..50),
        ) {
            let mut shares = Shares::new(&weights, 10_000);
            let cost_of = |turn: usize, domain: DomainId| costs[(turn * 7 + domain.index()) % costs.len()];
            let served = serve(&mut shares, 2000, cost_of);
            // By weight, each is within a round and the dearest visit of every other.
            for (one, weight) in served.iter().zip(&weights) {
                for (other, other_weight) in served.iter().zip(&weights) {
                    let (one, weight) = (i128::from(*one), i128::from(*weight));
                    let (other, other_weight) = (i128::from(*other), i128::from(*other_weight));
                    let slack = 2 * weight * other_weight * 10_000 + 30_000 * (weight + other_weight);
                    prop_assert!((one * other_weight - other * weight).abs() <= slack, "{served:?}");
                }
            }
        }

        #[test]
        fn whenever_somebody_has_work_somebody_may_run(
            weights in proptest::collection::vec(1..=1000u16, 1..5),
            turns in proptest::collection::vec((any::<u8>(), 0..1_000_000u64, any::<u8>()), 1..200),
        ) {
            let mut shares = Shares::new(&weights, 5000);
            for (at_work, cost, empty) in turns {
                let has_work = |domain: DomainId| at_work >> domain.0 & 1 == 1;
                shares.start_turn(has_work);
                let domains = || (0..).map(DomainId).take(weights.len());
                let running: Vec<_> = domains().filter(|domain| shares.may_run(*domain)).collect();
                prop_assert_eq!(running.is_empty(), !domains().any(has_work));
                prop_assert!(running.iter().all(|domain| has_work(*domain)));
                for domain in running {
                    shares.charge(domain, cost);
                    if empty >> domain.0 & 1 == 1 {
                        shares.rest(domain);
                    }
                }
            }
        }
    }
}
