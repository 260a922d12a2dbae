//! What an operator wants of one VM or process: out, in again, dead.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::status::OwnerStatus;

/// How long the keeper may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Take its rings and answer no attach until [`Act::Attach`].
    Detach,
    /// Let it in again.
    Attach,
    /// End its process or QEMU.
    Kill,
}

impl Act {
    /// Every act.
    pub const ALL: [Self; 3] = [Self::Detach, Self::Attach, Self::Kill];

    /// Its name in paths and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detach => "detach",
            Self::Attach => "attach",
            Self::Kill => "kill",
        }
    }

    /// The act of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.name() == name)
    }
}

/// Why it is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Nobody has this name.
    #[error("no VM or process {name:?} in the config of this switch; {nearest}")]
    Unknown {
        /// The name as given, cut to what a name may be long.
        name: String,
        /// Names that may have been meant.
        nearest: String,
    },
    /// It is not in a state for that.
    #[error("{0}")]
    NotNow(String),
    /// The keeper does not answer.
    #[error("the keeper thread does not answer; see the log of the switch")]
    NoAnswer,
}

impl OrderError {
    /// Nobody has this name, and these are had.
    #[must_use]
    pub fn unknown(name: &str, known: &[&str]) -> Self {
        let near = security_domains::near_enough(name, known.iter().copied());
        let nearest = match (near.as_slice(), known) {
            (_, []) => "it has none".to_owned(),
            ([], known) => format!("it has: {}", known.join(", ")),
            (near, _) => format!("nearest: {}", near.join(" or ")),
        };
        Self::Unknown { name: name.to_owned(), nearest }
    }
}

/// An order under way.
#[derive(Debug)]
pub struct Order {
    /// What is wanted.
    pub act: Act,
    /// Of whom.
    pub name: String,
    /// Where the answer goes.
    pub done: Sender<Result<OwnerStatus, OrderError>>,
}

/// Where orders are given.
#[derive(Clone, Debug)]
pub struct Orders(Sender<Order>);

impl Orders {
    /// A place to give orders, and the one where they arrive.
    #[must_use]
    pub fn new() -> (Self, Receiver<Order>) {
        let (orders, arriving) = channel();
        (Self(orders), arriving)
    }

    /// Gives an order and waits until it is carried out.
    ///
    /// # Errors
    /// Why it is not.
    pub fn give(&self, act: Act, name: &str) -> Result<OwnerStatus, OrderError> {
        let (done, answer) = channel();
        let order = Order { act, name: name.to_owned(), done };
        self.0.send(order).map_err(|_| OrderError::NoAnswer)?;
        answer.recv_timeout(PATIENCE).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected => Err(OrderError::NoAnswer),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_hears_the_nearest_or_all() {
        let said = |name| OrderError::unknown(name, &["fw0", "router"]).to_string();
        assert_eq!(said("fw1"), "no VM or process \"fw1\" in the config of this switch; nearest: fw0");
        assert_eq!(
            said("zzzzz"),
            "no VM or process \"zzzzz\" in the config of this switch; it has: fw0, router"
        );
    }

    #[test]
    fn each_act_is_found_by_its_name() {
        assert!(Act::ALL.into_iter().all(|act| Act::named(act.name()) == Some(act)));
        assert_eq!(Act::named("restart"), None);
    }
}
