//! Interrupts guests on behalf of the lcores: one thread a switch.
//!
//! An lcore only says that it wishes to ([`Bell::ring`]): a store, and a system call if the thread sleeps. The
//! thread raises the guest's eventfd by [`EventSignal`], which no eventfd can hold up, so one thread serves all
//! guests.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{JoinHandle, Thread};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crate::event_signal::EventSignal;

#[derive(Debug, Default)]
struct Shared {
    /// Whether the thread is about to sleep, or does.
    is_asleep: AtomicBool,
    has_ended: AtomicBool,
    thread: OnceLock<Thread>,
    bells: Mutex<Vec<Weak<Bell>>>,
}

/// The thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Notifier {
    shared: Arc<Shared>,
    /// For the first signal of each bell, which says whether it is an eventfd.
    probe: Mutex<EventSignal>,
    worker: Option<JoinHandle<()>>,
}

/// One guest's eventfd.
#[derive(Debug)]
pub struct Bell {
    is_wished: AtomicBool,
    call: OwnedFd,
    shared: Arc<Shared>,
}

impl Notifier {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread or no asynchronous reads.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (signal, probe) = (EventSignal::new()?, Mutex::new(EventSignal::new()?));
        let of_thread = shared.clone();
        let worker = std::thread::Builder::new()
            .name("vhost-notifier".to_owned())
            .spawn(move || serve(&of_thread, signal))?;
        shared.thread.get_or_init(|| worker.thread().clone());
        Ok(Self { shared, probe, worker: Some(worker) })
    }

    /// A bell that raises this eventfd, and raises it once now: a driver that lost an interrupt looks again.
    ///
    /// # Errors
    /// If it is no eventfd.
    pub fn bell(&self, call: File) -> io::Result<Arc<Bell>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner).raise(call.as_fd())?;
        Ok(self.keep(call))
    }

    /// A bell that raises this eventfd only when it is rung.
    ///
    /// Whoever lets go of a bell last closes its descriptor, and that may be the thread that serves every guest: an
    /// eventfd closes at once, a socket with unsent data need not.
    ///
    /// # Errors
    /// If it is no eventfd.
    pub fn silent_bell(&self, call: File) -> io::Result<Arc<Bell>> {
        let link = format!("/proc/self/fd/{}", call.as_raw_fd());
        if std::fs::read_link(link)?.as_os_str() != "anon_inode:[eventfd]" {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(self.keep(call))
    }

    fn keep(&self, call: File) -> Arc<Bell> {
        let bell = Arc::new(Bell {
            is_wished: AtomicBool::new(false),
            call: call.into(),
            shared: self.shared.clone(),
        });
        let mut bells = self.shared.bells();
        bells.retain(|bell| bell.strong_count() > 0);
        bells.push(Arc::downgrade(&bell));
        bell
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(worker) = self.worker.take()
            && worker.join().is_err()
        {
            log::error!("the thread that interrupts guests had panicked");
        }
    }
}

impl Bell {
    /// Wishes the guest to be interrupted soon. Never blocks; wishes that meet become one.
    #[inline]
    pub fn ring(&self) {
        // Release: what was written into the rings becomes visible before the wish. Pairs with the Acquire in
        // `take_wish`.
        self.is_wished.store(true, Ordering::Release);
        // Pairs with the fence in `Shared::wished`: either this sees the thread asleep, or the thread sees the wish.
        fence(Ordering::SeqCst);
        if self.shared.is_asleep.load(Ordering::Relaxed) {
            self.shared.wake();
        }
    }
}

impl Shared {
    fn bells(&self) -> MutexGuard<'_, Vec<Weak<Bell>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    fn wake(&self) {
        self.is_asleep.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The bells that are wished to be rung; sleeps if there are none.
    fn wished(&self) -> Vec<Arc<Bell>> {
        self.is_asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Bell::ring`.
        fence(Ordering::SeqCst);
        let wished: Vec<_> =
            self.bells().iter().filter_map(Weak::upgrade).filter(|bell| bell.take_wish()).collect();
        if wished.is_empty() && !self.has_ended.load(Ordering::Relaxed) {
            std::thread::park();
        }
        self.is_asleep.store(false, Ordering::Relaxed);
        wished
    }
}

impl Bell {
    fn take_wish(&self) -> bool {
        // Acquire: what the lcore wrote into the rings before it wished is in memory before the guest is told.
        self.is_wished.load(Ordering::Relaxed) && self.is_wished.swap(false, Ordering::Acquire)
    }
}

fn serve(shared: &Shared, mut signal: EventSignal) {
    while !shared.has_ended.load(Ordering::Relaxed) {
        for bell in shared.wished() {
            if let Err(error) = signal.raise(bell.call.as_fd()) {
                // Said at debug only: a hostile guest must not fill the log.
                log::debug!("a guest could not be interrupted: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

    use super::*;

    fn counter() -> (File, OwnedFd) {
        let counter = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        (File::from(counter.try_clone().unwrap()), counter)
    }

    fn is_raised(counter: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(counter, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
        rustix::io::read(counter, &mut [0; 8]).is_ok()
    }

    #[test]
    fn every_wish_is_heard_whether_the_thread_sleeps_or_not() {
        let notifier = Notifier::start().unwrap();
        let (call, counter) = counter();
        let bell = notifier.bell(call).unwrap();
        assert!(is_raised(&counter));
        for round in 0..2000 {
            if round % 50 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            bell.ring();
            assert!(is_raised(&counter), "round {round}");
        }
    }

    #[test]
    fn a_full_and_blocking_eventfd_holds_up_nobody_else() {
        let notifier = Notifier::start().unwrap();
        let full = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let hostile = notifier.bell(File::from(full)).unwrap();
        let (call, counter) = counter();
        let honest = notifier.bell(call).unwrap();
        assert!(is_raised(&counter));
        for _ in 0..100 {
            hostile.ring();
            honest.ring();
            assert!(is_raised(&counter));
        }
    }

    #[test]
    fn refuses_a_bell_of_what_is_no_eventfd() {
        let notifier = Notifier::start().unwrap();
        assert!(notifier.bell(tempfile::tempfile().unwrap()).is_err());
    }
}
