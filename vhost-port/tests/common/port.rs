//! A port whose lanes send back what they get.

use std::fmt::Debug;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use tempfile::TempDir;
use vhost_port::features::{Features, Offer};
use vhost_port::frame::{Frame, Received, Room, Segment};
use vhost_port::lane::Lane;
use vhost_port::memory::MemoryLimits;
use vhost_port::memory_watch::{MemoryWatch, MemoryWatcher};
use vhost_port::notifier::Notifier;
use vhost_port::refusal::Fault;
use vhost_port::server::{Server, open};
use vhost_port::terms::Terms;

use super::fault::Watch;
use super::wait_until;

/// The switch's own handler of lost pages.
#[derive(Debug)]
struct Handler;

#[derive(Debug)]
struct Watched(Watch);

impl MemoryWatch for Watched {
    fn is_lost(&self) -> bool {
        self.0.is_dead()
    }
}

impl MemoryWatcher for Handler {
    unsafe fn watch(
        &self,
        base: NonNull<u8>,
        bytes: usize,
        page_bytes: usize,
    ) -> Result<Box<dyn MemoryWatch>, Box<dyn std::error::Error + Send + Sync>> {
        // SAFETY: the caller promises the same.
        Ok(Box::new(Watched(unsafe { Watch::start(base, bytes, page_bytes) }?)))
    }
}

/// One for all ports, as in a switch.
static NOTIFIER: LazyLock<Arc<Notifier>> = LazyLock::new(|| Arc::new(Notifier::start().unwrap()));

pub fn terms(name: &str) -> Terms {
    Terms {
        name: name.to_owned(),
        queue_pairs: 2,
        ring_entries: 256,
        mtu_bytes: 1500,
        offer: Offer { checksums: false, segmentation: false, multiqueue: false, withheld: Features::NONE },
        memory: MemoryLimits { regions: 8, bytes: 64 << 20, accept_unsealed: false },
        notifier: NOTIFIER.clone(),
        watcher: Arc::new(Handler),
    }
}

pub struct Port {
    pub server: Server,
    pub path: PathBuf,
    lanes: Option<Vec<Lane>>,
    is_over: Arc<AtomicBool>,
    poller: Option<JoinHandle<Vec<Lane>>>,
    _folder: TempDir,
}

impl Port {
    pub fn open(name: &str) -> Self {
        let mut port = Self::still(terms(name));
        port.poll();
        port
    }

    pub fn open_with(name: &str, change: impl FnOnce(&mut Terms)) -> Self {
        let mut terms = terms(name);
        change(&mut terms);
        let mut port = Self::still(terms);
        port.poll();
        port
    }

    /// A port whose lanes nobody polls yet.
    pub fn still(terms: Terms) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("port.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (server, lanes) = open(terms, listener, 2).unwrap();
        let is_over = Arc::default();
        Self { server, path, lanes: Some(lanes), is_over, poller: None, _folder: folder }
    }

    /// Lets one thread poll the lanes of two ports, as an lcore does.
    pub fn poll_with(&mut self, other: &mut Self) {
        self.lanes.as_mut().unwrap().append(other.lanes.as_mut().unwrap());
        self.poll();
    }

    /// Lets the lanes echo.
    pub fn poll(&mut self) {
        let (mut lanes, is_over) = (self.lanes.take().unwrap(), self.is_over.clone());
        self.poller = Some(std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let moved: usize = lanes.iter_mut().map(echo).sum();
                if moved == 0 {
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
            }
            lanes
        }));
    }

    /// Lets nobody poll the lanes any more; they are not parked.
    pub fn stop_polling(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.lanes = self.poller.take().map(|poller| poller.join().unwrap());
        self.is_over.store(false, Ordering::Relaxed);
    }

    pub fn faults(&self, fault: Fault) -> u64 {
        self.server.faults().of(fault)
    }

    /// Waits until this was counted at least so often, and nothing else of another name was.
    pub fn expect(&self, fault: Fault, times: u64) {
        wait_until(fault.name(), || self.faults(fault) >= times);
        let others =
            |(name, count): &(&str, u64)| *count > 0 && *name != fault.name() && *name != "connection_rate";
        let others: Vec<_> = self.server.faults().all().filter(others).collect();
        assert_eq!(others, [], "besides {}", fault.name());
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(poller) = self.poller.take() {
            _ = poller.join();
        }
    }
}

fn echo(lane: &mut Lane) -> usize {
    lane.adopt();
    let mut bytes = [[0_u8; 2048]; 32];
    let mut received = [Received::default(); 32];
    let count = {
        let mut rooms: Vec<_> = bytes.iter_mut().map(|bytes| Room::of(bytes)).collect();
        lane.dequeue(&mut rooms, &mut received)
    };
    let frames: Vec<_> = bytes
        .iter()
        .zip(&received[..count])
        .map(|(bytes, got)| Frame::whole(Segment::of(&bytes[..got.len_bytes as usize]), 0))
        .collect();
    lane.enqueue(&frames);
    count
}
