//! Random bytes over memory that is shared.

use super::kind::Kind;
use super::memory::Memory;
use super::siege::Siege;
use crate::random::Random;

/// A cache line.
const LINE_BYTES: usize = 64;
/// Lines of one bout.
const LINES: usize = 2048;

/// Values that lie at an edge of something.
const EDGES: [u64; 8] = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 63, u64::MAX];

impl Siege<'_> {
    /// Scribbles over the control area, then puts back what the next reader of the tables needs. The attach that
    /// was in force is over: its counters are gone.
    pub(super) fn scribble_control(&mut self) {
        let lines = scribble(&self.device.control, &mut self.random);
        self.attempts.add(Kind::ScribbleControl, lines);
        self.device.seat.restore(&self.device.control);
        self.ended.extend(self.session.take().map(|session| session.epoch));
    }

    /// Scribbles over the region, its header included, and puts the header back.
    pub(super) fn scribble_region(&mut self) {
        let lines = scribble(&self.device.region, &mut self.random);
        self.attempts.add(Kind::ScribbleRegion, lines);
        self.device.region.write(0, &self.region_header);
    }
}

/// Scribbles over lines from a random one on, round the end; every line of a small memory.
fn scribble(memory: &Memory, random: &mut Random) -> u64 {
    let lines = memory.bytes() / LINE_BYTES;
    let first = random.index(lines);
    let count = LINES.min(lines);
    for line in 0..count {
        let at = (first + line) % lines * LINE_BYTES;
        for word in (at..at + LINE_BYTES).step_by(8) {
            let edge = EDGES[random.index(EDGES.len())];
            memory.store64(word, if random.below(4) == 0 { edge } else { random.next() });
        }
    }
    count as u64
}
