//! A model of the host's death: stopped in front of any store, taken over by a successor.
//!
//! The host lends buffers, takes some back, and lends again, in the order that the design lays down: ledger
//! entry (state last), descriptors, journal, `produced`; and ledger entry, journal, `consumed` on the way back.
//! It is stopped in front of each of its stores in turn. The guest, honest but in no hurry, takes and gives back
//! any number before and after. Then a successor recovers from ledger and journals alone.
//!
//! What the model checks: whatever the guest did, each buffer has one holder and none is lost, and the honest
//! guest is accused of nothing. What it does not: orders in which a processor may show stores to others (the
//! loom models do), a torn write of the ledger's file, and the ledger of switch-core itself; the one here has
//! the same fields and the same order of stores.

use std::collections::BTreeSet;

use crate::desc::{Desc, RawDesc};
use crate::layout::{CounterLine, Slot};
use crate::ring::{Consumer, Producer, RingMemory, was_published};
use crate::sync::stopping::{stop_after, uncounted};
use crate::sync::{AtomicU32, Ordering};

const BUFFERS: u32 = 8;
const SLOTS: u32 = 8;

/// Host-private and in a file: outlives the host.
struct Entry {
    state: AtomicU32,
    generation: AtomicU32,
    sequence: AtomicU32,
}

const POOL: u32 = 0;
const LCORE: u32 = 1;
const ENDPOINT: u32 = 2;

struct Parts {
    produced: CounterLine,
    consumed: CounterLine,
    slots: Vec<Slot>,
}

impl Parts {
    fn at(counter: u32) -> Self {
        let slots = (0..SLOTS).map(|_| Slot::zeroed()).collect();
        Self { produced: CounterLine::at(counter), consumed: CounterLine::at(counter), slots }
    }

    fn ring(&self) -> RingMemory<'_> {
        RingMemory::new(&self.produced, &self.consumed, &self.slots)
    }
}

/// Everything that outlives the host: the ledger, the journals, the control area.
struct World {
    ledger: Vec<Entry>,
    produced_journal: AtomicU32,
    consumed_journal: AtomicU32,
    towards: Parts,
    back: Parts,
}

impl World {
    fn new(counter: u32) -> Self {
        let entry = |_| Entry {
            state: AtomicU32::new(POOL),
            generation: AtomicU32::new(0),
            // Left over from an earlier loan.
            sequence: AtomicU32::new(counter.wrapping_sub(1)),
        };
        Self {
            ledger: (0..BUFFERS).map(entry).collect(),
            produced_journal: AtomicU32::new(counter),
            consumed_journal: AtomicU32::new(counter),
            towards: Parts::at(counter),
            back: Parts::at(counter),
        }
    }

    fn held_by_endpoint(&self) -> BTreeSet<u32> {
        let held = |index: &u32| self.ledger[*index as usize].state.load(Ordering::Relaxed) == ENDPOINT;
        (0..BUFFERS).filter(held).collect()
    }
}

/// A host process: what dies with it.
struct Host<'w> {
    world: &'w World,
    lend: Producer<'w>,
    take: Consumer<'w>,
    pool: Vec<u32>,
}

impl<'w> Host<'w> {
    /// Starts, or takes over: the rule of recovery is all here.
    fn recover(world: &'w World) -> Self {
        let produced = world.produced_journal.load(Ordering::Acquire);
        let consumed = world.consumed_journal.load(Ordering::Acquire);
        let mut pool = Vec::new();
        for (index, entry) in (0..).zip(&world.ledger) {
            let lent = entry.state.load(Ordering::Relaxed) == ENDPOINT;
            if !lent || !was_published(entry.sequence.load(Ordering::Relaxed), produced, SLOTS) {
                entry.state.store(POOL, Ordering::Relaxed);
                // The dead host may have stopped before it did so; a replay must find nothing that fits.
                entry.generation.store(entry.generation.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                pool.push(index);
            }
        }
        let lend = Producer::resume(world.towards.ring(), Some(&world.produced_journal), produced);
        lend.publish();
        let mut take = Consumer::resume(world.back.ring(), Some(&world.consumed_journal), consumed);
        take.release();
        Self { world, lend, take, pool }
    }

    fn lend(&mut self, count: u32) {
        let room = self.lend.room(count).expect("an honest guest");
        for _ in 0..count.min(room) {
            let Some(index) = self.pool.pop() else { break };
            let entry = &self.world.ledger[index as usize];
            entry.state.store(LCORE, Ordering::Relaxed);
            entry.sequence.store(self.lend.next_sequence(), Ordering::Relaxed);
            entry.state.store(ENDPOINT, Ordering::Relaxed);
            let generation = u16::try_from(entry.generation.load(Ordering::Relaxed)).expect("few loans");
            assert!(self.lend.stage(desc(index, generation)));
        }
        self.lend.publish();
    }

    /// Takes back what waits; returns how many descriptors were refused.
    fn take_back(&mut self) -> usize {
        let mut burst = [RawDesc::default(); SLOTS as usize];
        let count = self.take.take(&mut burst).expect("an honest guest's counter");
        let mut refused = 0;
        for raw in &burst[..count] {
            let Desc { buffer_index, generation, .. } = raw.unpack();
            let entry = &self.world.ledger[buffer_index as usize];
            let lent = entry.state.load(Ordering::Relaxed) == ENDPOINT;
            let current = entry.generation.load(Ordering::Relaxed);
            if !lent || u32::from(generation) != current {
                refused += 1;
                continue;
            }
            // State first: stopped after the generation alone, the entry would be the endpoint's for ever, and
            // the descriptor that could end that would be refused.
            let (come, gone) = (current + 1, LCORE);
            if cfg!(feature = "sabotage-generation-order") {
                entry.generation.store(come, Ordering::Relaxed);
                entry.state.store(gone, Ordering::Relaxed);
            } else {
                entry.state.store(gone, Ordering::Relaxed);
                entry.generation.store(come, Ordering::Relaxed);
            }
            entry.state.store(POOL, Ordering::Relaxed);
            self.pool.push(buffer_index);
        }
        self.take.release();
        refused
    }
}

fn desc(buffer_index: u32, generation: u16) -> RawDesc {
    let (data_offset_bytes, data_len_bytes) = (128, 60);
    Desc { buffer_index, data_offset_bytes, data_len_bytes, generation, code: 1, flags: 0, aux: 0 }.pack()
}

/// An honest guest.
struct Guest<'w> {
    take: Consumer<'w>,
    give: Producer<'w>,
    holds: Vec<RawDesc>,
}

impl<'w> Guest<'w> {
    fn new(world: &'w World, counter: u32) -> Self {
        Self {
            take: Consumer::resume(world.towards.ring(), None, counter),
            give: Producer::resume(world.back.ring(), None, counter),
            holds: Vec::new(),
        }
    }

    fn take(&mut self, at_most: usize) {
        let mut burst = vec![RawDesc::default(); at_most];
        let count = self.take.take(&mut burst).expect("a host that keeps its word");
        self.take.release();
        self.holds.extend(&burst[..count]);
    }

    fn give_back(&mut self, at_most: usize) {
        let wanted = at_most.min(self.holds.len());
        let room = self.give.room(SLOTS).expect("a host that keeps its word") as usize;
        for raw in self.holds.drain(..wanted.min(room)) {
            assert!(self.give.stage(raw));
        }
        self.give.publish();
    }

    fn indices(&self) -> Vec<u32> {
        self.holds.iter().map(|raw| raw.unpack().buffer_index).collect()
    }
}

/// What the guest does in between, and what it does with the host's own words when the host is dead.
#[derive(Clone, Copy, Debug)]
struct Pace {
    counter: u32,
    taken_before: usize,
    given_before: usize,
    taken_after: usize,
    given_after: usize,
    scribbles: bool,
    /// Whether the successor lends before it looks at what came back.
    lends_first: bool,
}

/// One life of a host until it has made `stores` stores, then its successor. True: it was not stopped.
fn live_die_and_take_over(pace: Pace, stores: u32) -> bool {
    let world = World::new(pace.counter);
    let mut guest = Guest::new(&world, pace.counter);
    let first = Host::recover(&world);
    let ended = stop_after(stores, || {
        let mut host = first;
        host.lend(4);
        uncounted(|| {
            guest.take(pace.taken_before);
            guest.give_back(pace.given_before);
        });
        assert_eq!(host.take_back(), 0, "an honest guest is refused nothing");
        host.lend(5);
    });
    guest.take(pace.taken_after);
    guest.give_back(pace.given_after);
    if pace.scribbles {
        world.towards.produced.value.store(0xdead_beef, Ordering::Relaxed);
        world.back.consumed.value.store(0xdead_beef, Ordering::Relaxed);
    }

    let mut successor = Host::recover(&world);
    if pace.lends_first {
        successor.lend(BUFFERS);
    }
    // What the host had dealt with and not yet journalled comes again and is refused by state or generation.
    // That is no fault of the guest's: the first look after a take-over must not be held against it.
    let _replays = successor.take_back();
    guest.take(BUFFERS as usize);

    let in_hand = guest.indices();
    let by_guest: BTreeSet<u32> = in_hand.iter().copied().collect();
    assert_eq!(by_guest.len(), in_hand.len(), "a buffer was lent twice: {pace:?} after {stores} stores");
    let at_home: BTreeSet<u32> = successor.pool.iter().copied().collect();
    assert_eq!(at_home.len(), successor.pool.len(), "a buffer is twice in the pool: {pace:?} after {stores}");
    assert_eq!(world.held_by_endpoint(), by_guest, "ledger and guest differ: {pace:?} after {stores} stores");
    assert!(at_home.is_disjoint(&by_guest), "two holders: {pace:?} after {stores} stores");
    assert_eq!(at_home.len() + by_guest.len(), BUFFERS as usize, "lost: {pace:?} after {stores} stores");

    guest.give_back(usize::MAX);
    assert_eq!(
        successor.take_back(),
        0,
        "an honest guest is refused nothing: {pace:?} after {stores} stores"
    );
    assert_eq!(successor.pool.len(), BUFFERS as usize);
    ended
}

fn paces() -> Vec<Pace> {
    let mut paces = Vec::new();
    for (taken_before, given_before) in (0..=4).flat_map(|taken| (0..=taken).map(move |given| (taken, given)))
    {
        for (taken_after, given_after) in
            (0..=8).flat_map(|taken| [0, 1, 3, 8].map(move |given| (taken, given)))
        {
            for (counter, scribbles, lends_first) in [
                (0, false, false),
                (0, false, true),
                (u32::MAX - 4, false, false),
                (u32::MAX - 4, true, true),
            ] {
                paces.push(Pace {
                    counter,
                    taken_before,
                    given_before,
                    taken_after,
                    given_after,
                    scribbles,
                    lends_first,
                });
            }
        }
    }
    paces
}

#[test]
fn no_buffer_has_two_holders_or_none_wherever_the_host_stops() {
    for pace in paces() {
        let stops = (0..).take_while(|&stores| !live_die_and_take_over(pace, stores)).count();
        // 4 loans of 3 + 2 stores and a publication of 2 at least, or the stops were not between stores.
        assert!(stops >= 22, "{stops} stops for {pace:?}");
    }
}

#[test]
fn a_sequence_counts_as_published_up_to_the_journal_and_not_at_it() {
    for journal in [0, 100, u32::MAX] {
        assert!(was_published(journal.wrapping_sub(1), journal, 8));
        assert!(!was_published(journal, journal, 8));
        assert!(!was_published(journal.wrapping_add(7), journal, 8));
        assert!(was_published(journal.wrapping_add(8), journal, 8));
        assert!(
            was_published(journal.wrapping_add(1 << 31), journal, 8),
            "held for half a round of the counter"
        );
    }
}
