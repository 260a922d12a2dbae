//! A host that sends the same datagram again and again, whether anybody receives it or not.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::LabError;
use crate::namespace::Namespace;

/// A running beacon; dropping it stops it.
#[derive(Debug)]
pub struct Beacon {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Beacon {
    /// Sends `payload` from a host to an address every `period`.
    ///
    /// # Errors
    /// If the namespace cannot be entered or a socket cannot be made.
    pub fn start(
        from: &Namespace,
        to: (Ipv4Addr, u16),
        payload: Vec<u8>,
        period: Duration,
    ) -> Result<Self, LabError> {
        let socket = from.udp_socket((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                // A datagram that the kernel refuses is followed by another.
                let _refused = socket.send_to(&payload, to);
                std::thread::sleep(period);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _panicked = thread.join();
        }
    }
}
