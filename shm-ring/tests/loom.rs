//! Models of every ordering between two sides, in all interleavings that loom knows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p shm-ring --test loom`
//!
//! The crate's documentation says what these models check and what they do not. `xtask/src/sabotage.rs` lists, for each
//! weakened ordering, the model that must fail.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;
use shm_ring::attach::AttachAction;
use shm_ring::desc::RawDesc;
use shm_ring::endpoint::{Answer, GuestEndpoint, HostEndpoint, QueuePair};
use shm_ring::layout::{CounterLine, EndpointFacts, GuestWords, HostWords, NAME_BYTES, Slot};
use shm_ring::reference::ReferenceTable;
use shm_ring::ring::{Consumer, Producer, RingMemory};

/// The smallest ring; both counters start at the same value.
struct Parts {
    produced: CounterLine,
    consumed: CounterLine,
    slots: Vec<Slot>,
}

impl Parts {
    fn at(counters: u32) -> Self {
        Self {
            produced: CounterLine::at(counters),
            consumed: CounterLine::at(counters),
            slots: (0..8).map(|_| Slot::zeroed()).collect(),
        }
    }

    fn ring(&self) -> RingMemory<'_> {
        RingMemory::new(&self.produced, &self.consumed, &self.slots)
    }
}

fn desc(number: u32) -> RawDesc {
    RawDesc { word0: number.into(), word1: !u64::from(number) }
}

/// Takes until `count` descriptors came, and checks that they are those from `first` on.
fn take_all(consumer: &mut Consumer<'_>, first: u32, count: u32) {
    let mut burst = [RawDesc::default(); 8];
    let mut taken = 0;
    while taken < count {
        let came = consumer.take(&mut burst).expect("an honest producer");
        for raw in &burst[..came] {
            assert_eq!(*raw, desc(first + taken));
            taken += 1;
        }
        if came == 0 {
            thread::yield_now();
        }
    }
}

#[test]
fn what_is_taken_is_what_was_published() {
    loom::model(|| {
        let parts = Arc::new(Parts::at(0));
        let theirs = Arc::clone(&parts);
        let producing = thread::spawn(move || {
            let mut producer = Producer::new(theirs.ring(), None);
            assert!(producer.stage(desc(1)));
            assert!(producer.stage(desc(2)));
            producer.publish();
            assert!(producer.stage(desc(3)));
            producer.publish();
        });
        let mut consumer = Consumer::new(parts.ring());
        take_all(&mut consumer, 1, 3);
        producing.join().expect("the producer ends");
    });
}

#[test]
fn a_slot_is_overwritten_only_after_it_was_read_also_where_counters_wrap() {
    loom::model(|| {
        let start = u32::MAX - 5;
        let parts = Arc::new(Parts::at(start));
        let mut producer = Producer::resume(parts.ring(), None, start);
        assert_eq!(producer.room(8), Ok(8));
        assert!((1..=8).all(|number| producer.stage(desc(number))));
        producer.publish();

        let theirs = Arc::clone(&parts);
        let full = start.wrapping_add(8);
        let producing = thread::spawn(move || {
            let mut producer = Producer::resume(theirs.ring(), None, full);
            while producer.room(1).expect("an honest consumer") == 0 {
                thread::yield_now();
            }
            assert!(producer.stage(desc(9)));
            producer.publish();
        });
        let mut consumer = Consumer::resume(parts.ring(), None, start);
        let mut burst = [RawDesc::default(); 2];
        assert_eq!(consumer.take(&mut burst), Ok(2));
        assert_eq!(burst, [desc(1), desc(2)]);
        consumer.release();
        take_all(&mut consumer, 3, 7);
        producing.join().expect("the producer ends");
    });
}

#[test]
fn a_descriptor_that_the_peer_sees_is_in_the_journal() {
    loom::model(|| {
        let parts = Arc::new(Parts::at(0));
        let journal = Arc::new(AtomicU32::new(0));
        let (theirs, their_journal) = (Arc::clone(&parts), Arc::clone(&journal));
        let lending = thread::spawn(move || {
            let mut producer = Producer::new(theirs.ring(), Some(&their_journal));
            assert!(producer.stage(desc(1)));
            producer.publish();
        });
        // The lender may be dead here: whoever takes over compares what the peer saw with the journal.
        let seen = Consumer::new(parts.ring()).pending().expect("an honest producer");
        assert!(journal.load(Ordering::Relaxed) >= seen);
        lending.join().expect("the lender ends");
    });
}

#[test]
fn who_takes_over_finds_the_ledger_as_of_the_journal() {
    loom::model(|| {
        let parts = Arc::new(Parts::at(0));
        let journal = Arc::new(AtomicU32::new(0));
        let holder = Arc::new(AtomicU32::new(0));
        let (theirs, their_journal, their_holder) =
            (Arc::clone(&parts), Arc::clone(&journal), Arc::clone(&holder));
        let lending = thread::spawn(move || {
            let mut producer = Producer::new(theirs.ring(), Some(&their_journal));
            their_holder.store(7, Ordering::Relaxed);
            assert!(producer.stage(desc(1)));
            producer.publish();
        });
        if journal.load(Ordering::Acquire) == 1 {
            assert_eq!(holder.load(Ordering::Relaxed), 7);
        }
        lending.join().expect("the lender ends");
    });
}

#[test]
fn who_takes_over_finds_what_was_taken_as_of_the_journal() {
    loom::model(|| {
        let parts = Arc::new(Parts::at(0));
        let mut producer = Producer::new(parts.ring(), None);
        assert!(producer.stage(desc(1)));
        producer.publish();
        let journal = Arc::new(AtomicU32::new(0));
        let holder = Arc::new(AtomicU32::new(7));
        let (theirs, their_journal, their_holder) =
            (Arc::clone(&parts), Arc::clone(&journal), Arc::clone(&holder));
        let taking = thread::spawn(move || {
            let mut consumer = Consumer::resume(theirs.ring(), Some(&their_journal), 0);
            take_all(&mut consumer, 1, 1);
            their_holder.store(0, Ordering::Relaxed);
            consumer.release();
        });
        if journal.load(Ordering::Acquire) == 1 {
            assert_eq!(holder.load(Ordering::Relaxed), 0);
        }
        taking.join().expect("the taker ends");
    });
}

/// The doorbell protocol that the `want_wakeup` words are reserved for: a consumer that goes to sleep wants a
/// wake-up, fences, and looks once more; a producer that published fences and looks whether one is wanted.
#[test]
fn no_consumer_sleeps_beside_a_descriptor_unless_the_doorbell_rings() {
    loom::model(|| {
        let parts = Arc::new(Parts::at(0));
        let theirs = Arc::clone(&parts);
        let producing = thread::spawn(move || {
            let mut producer = Producer::new(theirs.ring(), None);
            assert!(producer.stage(desc(1)));
            producer.publish();
            if !cfg!(feature = "sabotage-wakeup-producer-fence") {
                // SeqCst: either this side sees the wish or the consumer sees the descriptor.
                // Pairs with the fence of the consumer.
                fence(Ordering::SeqCst);
            }
            theirs.consumed.want_wakeup.load(Ordering::Relaxed) == 1
        });
        parts.consumed.want_wakeup.store(1, Ordering::Relaxed);
        if !cfg!(feature = "sabotage-wakeup-fence") {
            // SeqCst: pairs with the fence of the producer.
            fence(Ordering::SeqCst);
        }
        let sleeps = Consumer::new(parts.ring()).pending().expect("an honest producer") == 0;
        let rings = producing.join().expect("the producer ends");
        assert!(rings || !sleeps, "a lost wake-up");
    });
}

/// One endpoint with one queue pair, its counters left over from an earlier epoch.
struct Area {
    host: HostWords,
    guest: GuestWords,
    towards: Parts,
    back: Parts,
}

/// Far from any counter that a fresh ring of eight slots may show.
const STALE: u32 = 1000;

impl Area {
    fn stale() -> Arc<Self> {
        Arc::new(Self {
            host: HostWords::zeroed(),
            guest: GuestWords::zeroed(),
            towards: Parts::at(STALE),
            back: Parts::at(STALE),
        })
    }

    fn pair(&self) -> QueuePair<'_> {
        let references = ReferenceTable::new(&[]);
        QueuePair {
            lcore: 0,
            host_to_guest: self.towards.ring(),
            guest_to_host: self.back.ring(),
            references,
        }
    }

    fn host(&self) -> HostEndpoint<'_> {
        HostEndpoint::new(&self.host, &self.guest, vec![self.pair()])
    }

    fn guest(&self) -> GuestEndpoint<'_> {
        let facts = EndpointFacts {
            endpoint_id: 0,
            service_id: 0,
            first_ring: 0,
            ring_count: 2,
            quota_buffers: 8,
            credit_buffers: 0,
            guest_words_offset: 0,
            service_name: [b'x'; NAME_BYTES],
            reserved0: 0,
        };
        GuestEndpoint::new(facts, 0, &self.host, &self.guest, vec![self.pair()])
    }
}

#[test]
fn who_sees_the_nonce_sees_the_version_and_that_the_old_epoch_is_over() {
    loom::model(|| {
        let area = Area::stale();
        let theirs = Arc::clone(&area);
        let asking = thread::spawn(move || {
            let guest = theirs.guest();
            guest.reaped(4);
            guest.ask(guest.ask_with(9));
        });
        let report = area.host().report();
        if report.ask.nonce == 9 {
            assert_eq!(report.ask.version_major(), 1);
            assert_eq!(report.reaped_epoch, 4);
        }
        asking.join().expect("the asker ends");
    });
}

#[test]
fn who_sees_the_answer_sees_epoch_and_reset_rings() {
    loom::model(|| {
        let area = Area::stale();
        let theirs = Arc::clone(&area);
        let answering = thread::spawn(move || {
            let host = theirs.host();
            host.reset_rings();
            host.publish(9, 5);
        });
        if let Some(answer) = area.guest().answered(9) {
            assert_eq!(answer, Answer::Epoch(5));
            let pair = area.pair();
            assert_eq!(Consumer::new(pair.host_to_guest).pending(), Ok(0));
            assert!(Producer::new(pair.guest_to_host, None).room(9).is_ok());
        }
        answering.join().expect("the host ends");
    });
}

#[test]
fn who_sees_the_confirmation_sees_the_guests_counters_at_zero() {
    loom::model(|| {
        let area = Area::stale();
        area.host().reset_rings();
        let theirs = Arc::clone(&area);
        let confirming = thread::spawn(move || theirs.guest().confirm(5));
        if area.host().report().confirmed_epoch == 5 {
            let pair = area.pair();
            assert_eq!(Consumer::new(pair.guest_to_host).pending(), Ok(0));
            assert!(Producer::new(pair.host_to_guest, None).room(9).is_ok());
        }
        confirming.join().expect("the guest ends");
    });
}

fn who_sees_the_end_sees_the_last_descriptor(
    end: fn(&GuestEndpoint<'_>),
    ended: fn(&HostEndpoint<'_>) -> bool,
) {
    loom::model(move || {
        let area = Area::stale();
        area.host().reset_rings();
        area.guest().confirm(5);
        let theirs = Arc::clone(&area);
        let ending = thread::spawn(move || {
            let guest = theirs.guest();
            let mut back = Producer::new(theirs.pair().guest_to_host, None);
            assert!(back.stage(desc(1)));
            back.publish();
            end(&guest);
        });
        if ended(&area.host()) {
            take_all_now(area.pair().guest_to_host);
        }
        ending.join().expect("the guest ends");
    });
}

fn take_all_now(ring: RingMemory<'_>) {
    assert_eq!(Consumer::new(ring).pending(), Ok(1));
}

#[test]
fn who_sees_that_an_nf_left_sees_what_it_gave_back() {
    who_sees_the_end_sees_the_last_descriptor(
        |guest| guest.leave(5),
        |host| host.report().detached_epoch == 5,
    );
}

#[test]
fn who_sees_that_an_nf_was_reaped_sees_what_it_gave_back() {
    who_sees_the_end_sees_the_last_descriptor(
        |guest| guest.reaped(5),
        |host| host.report().reaped_epoch == 5,
    );
}

#[test]
fn who_sees_that_the_feeding_has_stopped_sees_the_last_descriptor() {
    loom::model(|| {
        let area = Area::stale();
        area.host().reset_rings();
        area.guest().confirm(5);
        let theirs = Arc::clone(&area);
        let stopping = thread::spawn(move || {
            let mut towards = Producer::new(theirs.pair().host_to_guest, None);
            assert!(towards.stage(desc(1)));
            towards.publish();
            theirs.host().show(&AttachAction::ShowDraining);
        });
        if area.guest().feeding_has_stopped() {
            take_all_now(area.pair().host_to_guest);
        }
        stopping.join().expect("the host ends");
    });
}

#[test]
fn a_copy_under_a_reference_that_still_holds_is_of_its_own_packet() {
    loom::model(|| {
        const OLD: u32 = 1;
        const NEW: u32 = 2;
        // The word of the slot, and the packet byte: what comes after the end is another packet's.
        let words = Arc::new([AtomicU32::new(7)]);
        let byte = Arc::new(AtomicU32::new(OLD));
        let (their_words, their_byte) = (Arc::clone(&words), Arc::clone(&byte));
        let ending = thread::spawn(move || {
            ReferenceTable::new(&*their_words).show(0, 8);
            // Whoever gets the buffer next.
            their_byte.store(NEW, Ordering::Relaxed);
        });
        let copied = byte.load(Ordering::Relaxed);
        if ReferenceTable::new(&*words).holds(0, 7) {
            assert_eq!(copied, OLD);
        }
        ending.join().expect("the host ends");
    });
}

#[test]
fn a_reference_that_comes_out_of_the_ring_is_shown_as_good() {
    loom::model(|| {
        let parts = Arc::new(Parts::at(0));
        let words = Arc::new([AtomicU32::new(7)]);
        let (theirs, their_words) = (Arc::clone(&parts), Arc::clone(&words));
        let showing = thread::spawn(move || {
            let producer = Producer::new(theirs.ring(), None);
            // The reference before this one has ended: nothing more of it is in the ring.
            ReferenceTable::new(&*their_words).show(0, 8);
            assert!(producer.stage(desc(1)));
            producer.publish();
        });
        let mut consumer = Consumer::new(parts.ring());
        let mut burst = [RawDesc::default(); 8];
        if consumer.take(&mut burst).expect("an honest producer") == 1 {
            assert!(ReferenceTable::new(&*words).holds(0, 8));
        }
        showing.join().expect("the host ends");
    });
}
