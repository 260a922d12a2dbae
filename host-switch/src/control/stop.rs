//! The wish that the switch end: from a signal, from the API, from a part that failed.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Shared by everybody who may wish it. The first cause counts.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    shared: Arc<(Mutex<Option<String>>, Condvar)>,
}

impl Stop {
    /// Wishes the end.
    pub fn request(&self, cause: &str) {
        let (asked, changed) = &*self.shared;
        asked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| cause.to_owned());
        changed.notify_all();
    }

    /// Why it shall end, if it shall.
    #[must_use]
    pub fn requested(&self) -> Option<String> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the wish, at most `limit`.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<String> {
        let (asked, changed) = &*self.shared;
        let guard = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = changed
            .wait_timeout_while(guard, limit, |asked| asked.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        guard.clone()
    }

    /// Turns SIGINT and SIGTERM into the wish, from here to the end of the process.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn on_signals(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let stop = self.clone();
        std::thread::Builder::new().name("netvm-signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let name = tokio::select! {
                        _ = interrupt.recv() => "SIGINT",
                        _ = terminate.recv() => "SIGTERM",
                    };
                    stop.request(name);
                }
            });
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_counts() {
        let stop = Stop::default();
        assert_eq!(stop.wait(Duration::ZERO), None);
        stop.request("SIGTERM");
        stop.request("the API");
        assert_eq!(stop.wait(Duration::ZERO).as_deref(), Some("SIGTERM"));
    }
}
