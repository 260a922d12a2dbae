//! The wish to stop, set by a signal or by another thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the signal handler; a handler can reach nothing but a static.
static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// A flag that a polling loop looks at; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    by_signal: bool,
}

impl Stop {
    /// A flag that only [`Stop::ask`] sets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag that SIGINT and SIGTERM set too, for the rest of the process.
    ///
    /// # Errors
    /// If the kernel does not take the handler.
    pub fn on_signals() -> io::Result<Self> {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            catch(signal)?;
        }
        Ok(Self { by_signal: true, ..Self::default() })
    }

    /// Asks the loop to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    #[inline]
    #[must_use]
    pub fn asked(&self) -> bool {
        // Relaxed: the flag guards no other data.
        self.asked.load(Ordering::Relaxed) || (self.by_signal && SIGNALLED.load(Ordering::Relaxed))
    }
}

extern "C" fn note_signal(_signal: libc::c_int) {
    SIGNALLED.store(true, Ordering::Relaxed);
}

/// Installs [`note_signal`]; sleeps are interrupted, other system calls restart.
fn catch(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all zero is a valid `sigaction`: default handler, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = note_signal as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is initialised and outlives the call; a null old action is allowed; the handler only
    // stores to an atomic, which is async-signal-safe.
    let done = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_asks_for_all() {
        let stop = Stop::new();
        assert!(!stop.asked());
        stop.clone().ask();
        assert!(stop.asked());
    }

    #[test]
    fn a_signal_asks_only_those_who_listen_to_signals() {
        let (listening, deaf) = (Stop::on_signals().unwrap(), Stop::new());
        note_signal(libc::SIGTERM);
        assert!(listening.asked());
        assert!(!deaf.asked());
    }
}
