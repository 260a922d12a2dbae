//! Which MAC address a neighbour has, learned by ARP (RFC 826), and who is being asked for.
//!
//! ```text
//!            wanted                 answered
//!   (absent) ------> Asked (n = 1) ----------> Known
//!                     | no answer in 1 s: n + 1  | FRESH later: used on, and asked again
//!                     v                          v
//!              n = 3: failed, absent       STALE later: absent
//! ```
//!
//! An entry is made only for a neighbour whom we ask for or who asks for us; other ARP packets refresh what is
//! there. So a stranger cannot fill the table by talking; by making us talk, it can, up to its limit.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use packet::MacAddress;

use super::route::InterfaceIndex;

/// Time between two questions for one neighbour.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Questions without an answer, after which a neighbour counts as unreachable.
pub const QUESTIONS_MAX: u8 = 3;
/// How long an answer is believed without asking again.
pub const FRESH: Duration = Duration::from_secs(60);
/// How long an answer is believed at all.
pub const STALE: Duration = Duration::from_secs(300);
/// Most neighbours in the table.
pub const NEIGHBOURS_MAX: usize = 1024;

/// A neighbour: the interface and the address there.
pub type Neighbour = (InterfaceIndex, Ipv4Addr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the router's file; never changes.
    Fixed { mac: MacAddress },
    /// Learned.
    Known { mac: MacAddress, heard_at: Duration, asked_at: Duration },
    /// Asked for.
    Asked { asked_at: Duration, questions: u8 },
}

/// What the table says of a neighbour that a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send it there.
    Mac(MacAddress),
    /// Send it there, and ask again: the entry grows old.
    MacToConfirm(MacAddress),
    /// Not known; ask now.
    Ask,
    /// Asked already; wait.
    Wait,
    /// The table is full.
    Full,
}

/// What became of the questions since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    /// Ask once more.
    pub again: Vec<Neighbour>,
    /// Given up.
    pub failed: Vec<Neighbour>,
}

/// The table of neighbours.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    table: HashMap<Neighbour, State>,
}

impl Neighbours {
    /// Adds one that ARP does not change.
    pub fn fix(&mut self, neighbour: Neighbour, mac: MacAddress) {
        self.table.insert(neighbour, State::Fixed { mac });
    }

    /// Looks up whom a packet is for. [`Answer::Ask`] and [`Answer::MacToConfirm`] count as asked.
    #[inline]
    pub fn look_up(&mut self, neighbour: Neighbour, now: Duration) -> Answer {
        let is_full = self.table.len() >= NEIGHBOURS_MAX;
        match self.table.get_mut(&neighbour) {
            Some(State::Fixed { mac }) => Answer::Mac(*mac),
            Some(State::Known { mac, heard_at, asked_at }) => {
                let is_due = now.saturating_sub(*heard_at) >= FRESH;
                if is_due && now.saturating_sub(*asked_at) >= ASK_AGAIN {
                    *asked_at = now;
                    return Answer::MacToConfirm(*mac);
                }
                Answer::Mac(*mac)
            }
            Some(State::Asked { .. }) => Answer::Wait,
            None if is_full => Answer::Full,
            None => {
                self.table.insert(neighbour, State::Asked { asked_at: now, questions: 1 });
                Answer::Ask
            }
        }
    }

    /// Takes note of an ARP packet of a neighbour. One that is not in the table is taken in if it `asks_us`.
    /// True if the neighbour is one that was asked for and is now known.
    pub fn heard(&mut self, neighbour: Neighbour, mac: MacAddress, asks_us: bool, now: Duration) -> bool {
        if mac.is_multicast() || mac == MacAddress::default() {
            return false;
        }
        let known = State::Known { mac, heard_at: now, asked_at: now };
        let is_full = self.table.len() >= NEIGHBOURS_MAX;
        match self.table.get_mut(&neighbour) {
            Some(State::Fixed { .. }) => false,
            Some(state) => {
                let was_asked = matches!(state, State::Asked { .. });
                *state = known;
                was_asked
            }
            None => {
                if asks_us && !is_full {
                    self.table.insert(neighbour, known);
                }
                false
            }
        }
    }

    /// Looks for questions without an answer, and forgets what is too old to be believed.
    pub fn overdue(&mut self, now: Duration) -> Overdue {
        let mut overdue = Overdue::default();
        self.table.retain(|neighbour, state| match state {
            State::Fixed { .. } => true,
            State::Known { heard_at, .. } => now.saturating_sub(*heard_at) < STALE,
            State::Asked { asked_at, .. } if now.saturating_sub(*asked_at) < ASK_AGAIN => true,
            State::Asked { questions, .. } if *questions >= QUESTIONS_MAX => {
                overdue.failed.push(*neighbour);
                false
            }
            State::Asked { asked_at, questions } => {
                *questions += 1;
                *asked_at = now;
                overdue.again.push(*neighbour);
                true
            }
        });
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Neighbour = (1, Ipv4Addr::new(10, 2, 0, 2));
    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 8]);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn an_unknown_neighbour_is_asked_for_once_a_second_three_times_and_then_given_up() {
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.look_up(WHO, at(0)), Answer::Ask);
        assert_eq!(neighbours.look_up(WHO, at(1)), Answer::Wait);
        assert_eq!(neighbours.overdue(at(999)), Overdue::default());
        assert_eq!(neighbours.overdue(at(1000)).again, [WHO]);
        assert_eq!(neighbours.overdue(at(1999)), Overdue::default());
        assert_eq!(neighbours.overdue(at(2000)).again, [WHO]);
        assert_eq!(neighbours.overdue(at(3000)), Overdue { again: vec![], failed: vec![WHO] });
        assert_eq!(neighbours.look_up(WHO, at(3001)), Answer::Ask);
    }

    #[test]
    fn an_answer_is_used_then_confirmed_then_forgotten() {
        let mut neighbours = Neighbours::default();
        neighbours.look_up(WHO, at(0));
        assert!(neighbours.heard(WHO, MAC, false, at(0)), "it was waited for");
        assert_eq!(neighbours.look_up(WHO, at(59_999)), Answer::Mac(MAC));
        assert_eq!(neighbours.look_up(WHO, at(60_000)), Answer::MacToConfirm(MAC));
        assert_eq!(neighbours.look_up(WHO, at(60_999)), Answer::Mac(MAC), "asked less than a second ago");
        assert_eq!(neighbours.look_up(WHO, at(61_000)), Answer::MacToConfirm(MAC));
        neighbours.overdue(at(299_999));
        assert!(matches!(neighbours.look_up(WHO, at(299_999)), Answer::MacToConfirm(_)));
        neighbours.overdue(at(300_000));
        assert_eq!(neighbours.look_up(WHO, at(300_000)), Answer::Ask);
    }

    #[test]
    fn a_stranger_is_learned_only_when_it_asks_for_us() {
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.heard(WHO, MAC, false, at(0)));
        assert_eq!(neighbours.look_up(WHO, at(0)), Answer::Ask);
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.heard(WHO, MAC, true, at(0)), "nobody waited");
        assert_eq!(neighbours.look_up(WHO, at(0)), Answer::Mac(MAC));
        assert!(!neighbours.heard(WHO, OTHER, false, at(1)));
        assert_eq!(neighbours.look_up(WHO, at(1)), Answer::Mac(OTHER), "a known one may move");
    }

    #[test]
    fn a_group_or_zero_address_is_nobodys() {
        let mut neighbours = Neighbours::default();
        for mac in [MacAddress::BROADCAST, MacAddress([1, 0, 0x5e, 0, 0, 1]), MacAddress::default()] {
            assert!(!neighbours.heard(WHO, mac, true, at(0)));
        }
        assert_eq!(neighbours.look_up(WHO, at(0)), Answer::Ask);
    }

    #[test]
    fn a_fixed_neighbour_never_changes() {
        let mut neighbours = Neighbours::default();
        neighbours.fix(WHO, MAC);
        assert!(!neighbours.heard(WHO, OTHER, true, at(0)));
        neighbours.overdue(at(400_000));
        assert_eq!(neighbours.look_up(WHO, at(400_000)), Answer::Mac(MAC));
    }

    #[test]
    fn a_full_table_takes_in_nobody() {
        let mut neighbours = Neighbours::default();
        let number = |n: usize| (0, Ipv4Addr::from_bits(u32::try_from(n).unwrap()));
        for n in 0..NEIGHBOURS_MAX {
            assert_eq!(neighbours.look_up(number(n), at(0)), Answer::Ask);
        }
        assert_eq!(neighbours.look_up(WHO, at(0)), Answer::Full);
        neighbours.heard(WHO, MAC, true, at(0));
        assert_eq!(neighbours.look_up(WHO, at(0)), Answer::Full);
        assert_eq!(neighbours.look_up(number(0), at(0)), Answer::Wait, "who is in stays in");
    }
}
