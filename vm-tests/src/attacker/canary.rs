//! A search for what others keep secret: canaries, in everything that can be mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::memory::{Memory, PAGE_BYTES};
use crate::random::Random;

/// Bytes of a canary.
pub const CANARY_BYTES: usize = 16;

/// Random bytes that stand for a secret, and where the secret is.
///
/// The bytes are small letters and digits, so that a canary can also be a name in a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Where it is: "names", "packets", ...
    pub place: String,
    /// Its bytes.
    pub bytes: [u8; CANARY_BYTES],
}

impl Canary {
    /// A fresh one.
    pub fn random(place: &str, random: &mut Random) -> Self {
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
        // A letter first, as a name needs it.
        let bytes = std::array::from_fn(|at| letters[random.index(if at == 0 { 26 } else { 36 })]);
        Self { place: place.to_owned(), bytes }
    }

    /// As text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }

    /// As the attacker's command line has it, each byte inverted and in hexadecimal, so that the command line
    /// itself does not hold it.
    #[must_use]
    pub fn to_argument(&self) -> String {
        let hex: String = self.bytes.iter().map(|byte| format!("{:02x}", !byte)).collect();
        format!("{}={hex}", self.place)
    }
}

impl FromStr for Canary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not PLACE=HEX with {CANARY_BYTES} inverted bytes");
        let (place, hex) = text.split_once('=').ok_or_else(wrong)?;
        let pairs = hex.as_bytes().as_chunks::<2>().0;
        let mut bytes = [0; CANARY_BYTES];
        if hex.len() != 2 * CANARY_BYTES {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digits = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = !u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self { place: place.to_owned(), bytes })
    }
}

/// A canary that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// Where it should have been, and nowhere else.
    pub place: String,
    /// In which mapping it was.
    pub mapping: String,
}

/// A search through all mappings, page by page, over and over.
#[derive(Debug)]
pub struct Search<'c> {
    canaries: &'c [Canary],
    found: BTreeSet<Finding>,
    /// The next page: position of the mapping, page in it.
    next: (usize, usize),
    /// By position of the mapping: which of its pages were searched.
    pages: BTreeMap<usize, BTreeSet<usize>>,
    uncounted: u64,
}

impl<'c> Search<'c> {
    /// A search for these that begins somewhere.
    #[must_use]
    pub fn of(canaries: &'c [Canary], device: &Device, random: &mut Random) -> Self {
        let sizes: Vec<usize> = device.mappings().map(|(_, memory)| memory.bytes()).collect();
        let position = random.index(sizes.len());
        let next = (position, random.index(sizes[position].div_ceil(PAGE_BYTES) + 1));
        Self { canaries, found: BTreeSet::new(), next, pages: BTreeMap::new(), uncounted: 0 }
    }

    /// Searches page by page from where it stopped, until the deadline or a time round.
    pub fn go_on(&mut self, device: &Device, deadline: Instant) {
        let mappings: Vec<(&str, &Memory)> = device.mappings().collect();
        let pages: usize = mappings.iter().map(|(_, memory)| memory.bytes().div_ceil(PAGE_BYTES)).sum();
        for _ in 0..pages {
            self.search_next(&mappings);
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Searches everything once.
    pub fn sweep(&mut self, device: &Device) {
        let mappings: Vec<(&str, &Memory)> = device.mappings().collect();
        self.next = (0, 0);
        let pages: usize = mappings.iter().map(|(_, memory)| memory.bytes().div_ceil(PAGE_BYTES)).sum();
        (0..pages).for_each(|_| self.search_next(&mappings));
    }

    fn search_next(&mut self, mappings: &[(&str, &Memory)]) {
        let (mut position, mut page) = self.next;
        while page >= mappings[position].1.bytes().div_ceil(PAGE_BYTES) {
            (position, page) = ((position + 1) % mappings.len(), 0);
        }
        let (name, memory) = mappings[position];
        let start = page * PAGE_BYTES;
        // Into the next page, so that nothing hides across the border.
        let end = (start + PAGE_BYTES + CANARY_BYTES).min(memory.bytes());
        let copy = memory.copy(start..end);
        for canary in self.canaries {
            if holds(&copy, &canary.bytes) {
                self.found.insert(Finding { place: canary.place.clone(), mapping: name.to_owned() });
            }
        }
        self.pages.entry(position).or_default().insert(page);
        self.uncounted += 1;
        self.next = (position, page + 1);
    }

    /// Pages searched since the last call.
    pub fn take_pages(&mut self) -> u64 {
        std::mem::take(&mut self.uncounted)
    }

    /// What was found so far.
    #[must_use]
    pub fn found(&self) -> Vec<Finding> {
        self.found.iter().cloned().collect()
    }

    /// Bytes searched of each mapping.
    #[must_use]
    pub fn searched(&self, device: &Device) -> BTreeMap<String, u64> {
        let mappings = device.mappings().enumerate();
        mappings
            .map(|(position, (name, memory))| {
                let pages = self.pages.get(&position).map_or(0, BTreeSet::len);
                (name.to_owned(), (pages * PAGE_BYTES).min(memory.bytes()) as u64)
            })
            .collect()
    }
}

/// Whether these bytes are somewhere in others.
pub(crate) fn holds(bytes: &[u8], needle: &[u8; CANARY_BYTES]) -> bool {
    bytes.windows(CANARY_BYTES).any(|window| window[0] == needle[0] && window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_survives_its_way_through_a_command_line_that_does_not_hold_it() {
        let canary = Canary::random("names", &mut Random::seeded(7));
        let argument = canary.to_argument();
        assert_eq!(argument.parse(), Ok(canary.clone()));
        assert!(!argument.contains(canary.text()));
        assert!("names=00".parse::<Canary>().is_err());
    }

    #[test]
    fn finds_a_canary_at_any_offset_and_none_that_lacks_a_byte() {
        let canary = Canary::random("packets", &mut Random::seeded(8));
        let mut page = vec![0; PAGE_BYTES];
        assert!(!holds(&page, &canary.bytes));
        page[PAGE_BYTES - CANARY_BYTES..].copy_from_slice(&canary.bytes);
        assert!(holds(&page, &canary.bytes));
        assert!(!holds(&page[..PAGE_BYTES - 1], &canary.bytes));
    }
}
