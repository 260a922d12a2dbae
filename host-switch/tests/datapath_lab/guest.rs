//! A guest that is a thread: the guest's ends of an endpoint's rings, and a behaviour.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use shm_ring::desc::{Desc, RawDesc, Verdict};
use shm_ring::ring::{Consumer, Producer};

use super::Lab;

/// The guest's ends of one queue pair.
pub struct Hands {
    pub from_host: Consumer<'static>,
    pub to_host: Producer<'static>,
}

impl Hands {
    pub fn of(lab: &Lab, number: usize, lcore: u16) -> Self {
        let area = lab.guest_area();
        let pair = *area.endpoint(number).pair(lcore).unwrap();
        Self {
            from_host: Consumer::new(pair.host_to_guest),
            to_host: Producer::new(pair.guest_to_host, None),
        }
    }

    /// What the host has lent since the last time, at most a burst.
    pub fn take(&mut self) -> Vec<Desc> {
        let mut burst = [RawDesc::default(); 32];
        let taken = self.from_host.take(&mut burst).unwrap();
        self.from_host.release();
        burst[..taken].iter().map(|raw| raw.unpack()).collect()
    }

    /// Gives descriptors back, whatever they say.
    pub fn give(&mut self, descs: impl IntoIterator<Item = Desc>) {
        for desc in descs {
            while self.to_host.room(1).unwrap() == 0 {
                std::thread::yield_now();
            }
            assert!(self.to_host.stage(desc.pack()));
        }
        self.to_host.publish();
    }
}

pub fn verdict(desc: Desc, verdict: Verdict) -> Desc {
    Desc { code: verdict as u8, aux: 0, ..desc }
}

/// A running guest.
pub struct Guest {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// Calls `turn` again and again on a thread of its own.
    pub fn run(mut turn: impl FnMut() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                turn();
                std::thread::yield_now();
            }
        });
        Self { is_over, thread: Some(thread) }
    }

    /// Gives every packet back with "next", touching nothing. Attached by the caller.
    pub fn forwarder(lab: &Lab, number: usize) -> Self {
        Self::forwarder_on(lab, number, 0)
    }

    /// The same, of what one lcore lends.
    pub fn forwarder_on(lab: &Lab, number: usize, lcore: u16) -> Self {
        let mut hands = Hands::of(lab, number, lcore);
        Self::run(move || {
            let lent = hands.take();
            hands.give(lent.into_iter().map(|desc| verdict(desc, Verdict::Next)));
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!panicked || std::thread::panicking(), "a guest panicked");
    }
}
