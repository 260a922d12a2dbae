//! A hop through an untrusted VM: packets go in by one of its NICs, and come out by another.
//!
//! `nat0.in>out` in a path is short for two chains: the one that is written ends on `nat0.in`, and one behind the
//! chains of the file begins where packets come out, at `nat0.out`. What goes through the other way is another path's.

use crate::book::Place;
use crate::chain::{self, Chain};
use crate::cursor::{Cursor, quoted};
use crate::finding::Kind;
use crate::ids::{ChainId, PortId};
use crate::nearest::nearest;
use crate::scope::{Named, Scope};

/// Between the NIC that packets go in by, with its VM's name, and the NIC of the same VM that they come out by.
pub(crate) const THROUGH: char = '>';

/// A hop through an untrusted VM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passage {
    /// The chain of the file whose path has it, and where.
    pub(crate) chain: ChainId,
    position: usize,
    /// Where packets go in.
    pub(crate) entry: PortId,
    /// Where they come out.
    pub(crate) exit: PortId,
    /// The chain that they take then.
    pub(crate) rest: ChainId,
}

/// Whether a hop is written as one through a VM.
pub(crate) fn is_passage(text: &str) -> bool {
    text.contains(THROUGH)
}

/// The passages of all paths, in file order; those that make no sense are left out, and refused where paths are read.
pub(crate) fn gather(chains: &Named<'_>, ports: &Named<'_>, declared: usize) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    for (chain, cursor) in (0..).map(ChainId).zip(&chains.cursors) {
        for (position, text) in cursor.peek_texts(&chain::PATH).into_iter().enumerate() {
            let Some((entry, exit)) = text.and_then(ends) else { continue };
            let port =
                |name: &str| ports.names.find(name).map(PortId).filter(|port| port.index() >= declared);
            let (Some(entry), Some(exit)) = (port(entry), port(&exit)) else { continue };
            // The limits of the tables keep the count within 16 bits.
            let rest = u16::try_from(chains.cursors.len() + passages.len()).unwrap_or(u16::MAX);
            passages.push(Passage { chain, position, entry, exit, rest: ChainId(rest) });
        }
    }
    passages
}

/// The names of the two ports.
fn ends(text: &str) -> Option<(&str, String)> {
    let (entry, exit) = text.split_once(THROUGH)?;
    let (vm, own) = entry.split_once('.')?;
    (own != exit).then(|| (entry, format!("{vm}.{exit}")))
}

/// The passage of a value in a path, or a finding.
pub(crate) fn read(
    cursor: &Cursor<'_>,
    (chain, position): (ChainId, usize),
    (place, text): (&Place, &str),
    scope: &Scope<'_>,
) -> Option<Passage> {
    let is_here = |passage: &&Passage| passage.chain == chain && passage.position == position;
    let Some(found) = scope.passages.iter().find(is_here) else {
        let known = scope.nic_names().filter_map(|name| name.split_once('.'));
        let known: Vec<(&str, &str)> = known.collect();
        let ways = known.iter().flat_map(|(vm, own)| {
            let others = known.iter().filter(move |(other, exit)| other == vm && exit != own);
            others.map(move |(_, exit)| format!("{vm}.{own}{THROUGH}{exit}"))
        });
        let ways: Vec<String> = ways.collect();
        let rule = "must be vm.in>out: two NICs of one untrusted VM, by which packets go in and come out";
        cursor.refuse_at(place, Kind::Name, rule, quoted(nearest(text, ways.iter().map(String::as_str))));
        return None;
    };
    let first = scope.passages.iter().find(|passage| passage.exit == found.exit).unwrap_or(found);
    if (first.chain, first.position) != (chain, position) {
        let other = scope.chains.names.name(first.chain.index()).unwrap_or_default();
        let exit = scope.ports.names.name(found.exit.index()).unwrap_or_default();
        let rule =
            format!("must come out by a NIC of its own (what comes out by {exit} goes on in chain {other})");
        cursor.refuse_at(place, Kind::Conflict, rule, Vec::new());
        return None;
    }
    Some(*found)
}

/// What the chain behind a passage is called: no chain of a file is called so.
pub(crate) fn rest_name(chain: &str, exit: PortId, scope: &Scope<'_>) -> String {
    format!("{chain}@{}", scope.ports.names.name(exit.index()).unwrap_or_default())
}

/// The chains as ids count them: those of the file, then what is behind their passages.
pub(crate) fn in_order(read: Vec<Vec<Chain>>) -> Vec<Chain> {
    let (mut heads, mut rests) = (Vec::new(), Vec::new());
    for chains in read {
        let mut chains = chains.into_iter();
        heads.extend(chains.next());
        rests.extend(chains);
    }
    heads.extend(rests);
    heads
}
