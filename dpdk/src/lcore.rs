//! Polling threads as DPDK knows them.

use std::io;
use std::marker::PhantomData;
use std::mem::{size_of, zeroed};

use crate::eal::Eal;
use crate::error::{DpdkError, Errno};

/// The calling thread has an lcore id of DPDK until this is dropped, on the same thread.
///
/// With an id, host-private pools give the thread a cache of its own. Region pools need none.
#[derive(Debug)]
pub struct RegisteredThread {
    id: u32,
    _stays_on_its_thread: PhantomData<*const ()>,
}

impl RegisteredThread {
    /// Number that DPDK gave the thread.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: this thread registered itself (the guard is not `Send`) and has not
        // unregistered yet (the guard is not `Clone`).
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

impl Eal {
    /// Registers the calling thread. Pin it first: DPDK notes the affinity it finds.
    ///
    /// # Errors
    /// [`DpdkError::RegisteredTwice`] for a thread that has an id, as the one that started the EAL does;
    /// [`DpdkError::Call`] when DPDK has none left (128 in Debian's build).
    pub fn register_thread(&self) -> Result<RegisteredThread, DpdkError> {
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let id = lcore_id();
        if id != dpdk_sys::NETVM_LCORE_ID_ANY {
            return Err(DpdkError::RegisteredTwice { thread, id });
        }
        // SAFETY: the EAL is up (`self`), and this thread has no id yet (22.11 does not look, and would
        // lose the old one).
        let result = unsafe { dpdk_sys::rte_thread_register() };
        if result < 0 {
            return Err(DpdkError::Call {
                call: "rte_thread_register",
                asked: format!("thread {thread:?}"),
                errno: Errno::last(),
                hint: "there are at most RTE_MAX_LCORE registered threads",
            });
        }
        Ok(RegisteredThread { id: lcore_id(), _stays_on_its_thread: PhantomData })
    }
}

fn lcore_id() -> u32 {
    // SAFETY: reads a thread-local of the calling thread.
    unsafe { dpdk_sys::netvm_rte_lcore_id() }
}

/// Lets the calling thread run on one CPU only.
///
/// # Errors
/// [`DpdkError::Pin`] when that CPU does not exist or is not allowed for this process.
pub fn pin_current_thread(cpu: usize) -> Result<(), DpdkError> {
    let refused = |source| DpdkError::Pin { cpu, source, allowed: format!("{:?}", allowed_cpus()) };
    if cpu >= cpu_set_size() {
        return Err(refused(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let mut set = empty_set();
    // SAFETY: `cpu` is below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: 0 is the calling thread; `set` is as long as we say.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(refused(io::Error::last_os_error())) }
}

/// CPUs that the calling thread may run on; CPU 0 if the kernel does not say.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let mut set = empty_set();
    // SAFETY: 0 is the calling thread; `set` is as long as we say.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return vec![0];
    }
    // SAFETY: every number asked for is below the size of the set.
    (0..cpu_set_size()).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

fn cpu_set_size() -> usize {
    size_of::<libc::cpu_set_t>() * 8
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: an array of integers; all zero is the empty set.
    unsafe { zeroed() }
}
