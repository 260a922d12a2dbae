//! A region, a free list that can be looked into, and ports over them.

use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, OnceLock};

use dpdk::{Eal, EalOptions, FreeList, LogLevel, Pool, PoolGeometry, Port, PortSettings, Queues, RxPool};

pub const STRIDE: u32 = 2368;
pub const FIRST_INDEX: u32 = 1000;
const OFFSET_FIRST: usize = 4096;

/// DPDK, started by whichever test comes first; with `NETVM_TEST_HUGEPAGES` set, in hugepages.
pub fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    *EAL.get_or_init(|| {
        let hugepages = std::env::var_os("NETVM_TEST_HUGEPAGES").is_some();
        let options = EalOptions { log_level: LogLevel::Critical, hugepages, ..EalOptions::default() };
        Eal::init(&options).unwrap()
    })
}

/// Indices that are free, in the order in which they will be taken from the end.
pub struct List(Mutex<Vec<u32>>);

impl List {
    pub fn free(&self) -> Vec<u32> {
        let mut free = self.0.lock().unwrap().clone();
        free.sort_unstable();
        free
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

pub struct Handle(Arc<List>);

impl Handle {
    pub fn of(list: Arc<List>) -> Self {
        Self(list)
    }
}

// SAFETY: hands out what was put in, each index once; starts with those of the geometry. The lock is
// the test's, held for a copy.
unsafe impl FreeList for Handle {
    fn take(&self, out: &mut [u32]) -> bool {
        let mut free = self.0.0.lock().unwrap();
        let Some(rest) = free.len().checked_sub(out.len()) else { return false };
        out.copy_from_slice(&free[rest..]);
        free.truncate(rest);
        true
    }

    fn give(&self, indices: &[u32]) {
        self.0.0.lock().unwrap().extend_from_slice(indices);
    }

    fn available(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap()
    }
}

pub struct Bench {
    pub base: usize,
    pub len: usize,
    pub count: u32,
    pub list: Arc<List>,
    pub pool: Pool,
}

impl Bench {
    pub fn new(name: &str, count: u32) -> Self {
        let len = (OFFSET_FIRST + count as usize * STRIDE as usize).next_multiple_of(1 << 21);
        let base = map(len);
        let list = Arc::new(List(Mutex::new((FIRST_INDEX..FIRST_INDEX + count).collect())));
        let geometry = geometry(count);
        // SAFETY: mapped above and never unmapped; nobody else has the mapping.
        let pool = unsafe {
            Pool::over_region(&eal(), name, base, geometry, Box::new(Handle(Arc::clone(&list)))).unwrap()
        };
        Self { base: base.addr().get(), len, count, list, pool }
    }

    pub fn buffer_at(&self, index: u32) -> usize {
        self.base + OFFSET_FIRST + (index - FIRST_INDEX) as usize * STRIDE as usize
    }

    pub fn contains(&self, address: usize) -> bool {
        (self.base..self.base + self.len).contains(&address)
    }

    /// Every buffer is in the free list, once.
    pub fn assert_all_home(&self) {
        assert_eq!(self.list.free(), (FIRST_INDEX..FIRST_INDEX + self.count).collect::<Vec<_>>());
        assert_eq!(self.pool.faults().alien_buffers, 0);
    }
}

pub fn geometry(count: u32) -> PoolGeometry {
    PoolGeometry {
        first_index: FIRST_INDEX,
        count,
        offset_first_bytes: OFFSET_FIRST,
        stride_bytes: STRIDE,
        headroom_bytes: 128,
    }
}

/// Memory that stays.
pub fn map(len: usize) -> NonNull<u8> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping wherever the kernel likes.
    let base = unsafe { libc::mmap(null_mut(), len, prot, flags, -1, 0) };
    assert_ne!(base, libc::MAP_FAILED);
    NonNull::new(base.cast()).unwrap()
}

pub fn settings(pool: impl Into<RxPool>) -> PortSettings {
    PortSettings {
        rx_pools: vec![pool.into()],
        tx_queues: 1,
        rx_slots: 64,
        tx_slots: 64,
        mtu_bytes: 1500,
        tx_segments: true,
        rx_drop_when_full: true,
    }
}

pub fn started(device: &str, pool: impl Into<RxPool>) -> (Port, Queues) {
    let mut port = Port::probe(&eal(), device).unwrap();
    port.configure(&settings(pool)).unwrap();
    let queues = port.start().unwrap();
    (port, queues)
}
