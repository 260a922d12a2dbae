//! Counts what the firewall did, by rule and by reason.

use std::fmt;

use super::policy::{Judgement, Policy, Reason};
use super::rule::Action;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// The reasons besides rules, with the names that reports give them.
const REASONS: [(Reason, &str); 10] = [
    (Reason::Default, "default"),
    (Reason::Arp, "arp"),
    (Reason::Ndp, "ndp"),
    (Reason::Fragment, "fragments"),
    (Reason::ExtensionHeader, "extension_headers"),
    (Reason::Tunnel, "tunnels"),
    (Reason::OtherEthertype, "other_ethertypes"),
    (Reason::Encapsulated, "encapsulated"),
    (Reason::Truncated, "truncated"),
    (Reason::Malformed, "malformed"),
];

/// What was allowed and dropped so far.
#[derive(Clone, Debug)]
pub struct Tally {
    rules: Vec<(String, Action, Amount)>,
    allowed: [Amount; REASONS.len()],
    dropped: [Amount; REASONS.len()],
}

impl Tally {
    /// Zeros for each rule and reason of a policy.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let zero = Amount::default();
        Self {
            rules: policy.rules.iter().map(|rule| (rule.name.clone(), rule.action, zero)).collect(),
            allowed: [zero; REASONS.len()],
            dropped: [zero; REASONS.len()],
        }
    }

    /// Counts one packet.
    #[inline]
    pub fn count(&mut self, judgement: Judgement, frame_bytes: usize) {
        let amount = match judgement.reason {
            Reason::Rule(position) => self.rules.get_mut(position).map(|(_, _, amount)| amount),
            reason => {
                let amounts = match judgement.action {
                    Action::Allow => &mut self.allowed,
                    Action::Drop => &mut self.dropped,
                };
                REASONS.iter().position(|(known, _)| *known == reason).map(|at| &mut amounts[at])
            }
        };
        if let Some(amount) = amount {
            amount.packets += 1;
            amount.bytes += frame_bytes as u64;
        }
    }

    /// What was done for a reason: allowed, dropped. Of a rule, one of the two is always zero.
    #[must_use]
    pub fn of(&self, reason: Reason) -> (Amount, Amount) {
        let none = Amount::default();
        match reason {
            Reason::Rule(position) => match self.rules.get(position) {
                Some((_, Action::Allow, amount)) => (*amount, none),
                Some((_, Action::Drop, amount)) => (none, *amount),
                None => (none, none),
            },
            reason => REASONS
                .iter()
                .position(|(known, _)| *known == reason)
                .map_or((none, none), |at| (self.allowed[at], self.dropped[at])),
        }
    }

    /// The eight numbers that the switch shows for a firewall: packets allowed and dropped by rules, by the
    /// default, by the keys for what is not IP or not a flow; then fragments, and malformed frames.
    #[must_use]
    pub fn shown(&self) -> [u64; 8] {
        let mut shown = [0; 8];
        for (_, action, amount) in &self.rules {
            shown[usize::from(*action == Action::Drop)] += amount.packets;
        }
        for (at, (reason, _)) in REASONS.iter().enumerate() {
            let (allowed, dropped) = (self.allowed[at].packets, self.dropped[at].packets);
            match reason {
                Reason::Default => (shown[2], shown[3]) = (allowed, dropped),
                Reason::Fragment => shown[6] = allowed + dropped,
                Reason::Malformed => shown[7] = dropped,
                _ => {
                    shown[4] += allowed;
                    shown[5] += dropped;
                }
            }
        }
        shown
    }
}

/// One line for each rule, and for each reason that occurred.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, action, amount) in &self.rules {
            write_line(f, &format!("rule[{name}]"), *action, *amount)?;
        }
        for (at, (_, name)) in REASONS.iter().enumerate() {
            for (action, amounts) in [(Action::Allow, &self.allowed), (Action::Drop, &self.dropped)] {
                if amounts[at].packets > 0 {
                    write_line(f, name, action, amounts[at])?;
                }
            }
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, what: &str, action: Action, amount: Amount) -> fmt::Result {
    let done = match action {
        Action::Allow => "allowed",
        Action::Drop => "dropped",
    };
    writeln!(f, "{what} {done} {} packets, {} bytes", amount.packets, amount.bytes)
}
