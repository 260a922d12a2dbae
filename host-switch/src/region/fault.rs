//! Survives the loss of pages under a mapping: the SIGBUS handler.
//!
//! A guest that holds the file of a region cannot truncate it (the seals forbid that), but it can punch holes
//! into it, and with huge pages the kernel may then have none left to fill the hole. The next access of the
//! switch is a SIGBUS. The handler maps a private zero page over the lost one, marks the mapping dead, and
//! returns: the access repeats and sees zeroes. Whoever serves that mapping looks at [`Watch::is_dead`].
//!
//! The handler does only what is async-signal-safe: atomic loads and stores, and the mmap system call. It
//! keeps `errno`. A SIGBUS that somebody sent is ignored. A fault outside every watched mapping gets the action that was installed before.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vhost_port::memory::REGIONS_MAX;
use vhost_port::memory_watch::{MemoryWatch, MemoryWatcher};

/// Most mappings watched at once: of domains and owners of one switch, and of the guests behind 2048 NICs, each twice
/// while a new table replaces an old one.
pub const WATCHED_MAX: usize = 1024 + 2048 * 2 * REGIONS_MAX;

struct Watched {
    base: AtomicUsize,
    /// 0: the slot is free.
    bytes: AtomicUsize,
    page_bytes: AtomicUsize,
    taken: AtomicBool,
    dead: AtomicBool,
}

static WATCHED: [Watched; WATCHED_MAX] = [const {
    Watched {
        base: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        page_bytes: AtomicUsize::new(0),
        taken: AtomicBool::new(false),
        dead: AtomicBool::new(false),
    }
}; WATCHED_MAX];

/// What SIGBUS did before the handler was installed.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Why a mapping cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The table is full.
    #[error("no room to watch one more mapping for SIGBUS, {WATCHED_MAX} are watched already")]
    Full,
    /// The kernel refused the handler.
    #[error("cannot install the SIGBUS handler: {0}")]
    Handler(#[source] std::io::Error),
}

/// A mapping under watch; dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    slot: usize,
}

impl Watch {
    /// Watches `bytes` bytes from `base`, made of pages of `page_bytes`.
    ///
    /// # Safety
    /// - The range is one shared mapping of this process and stays mapped until the watch is dropped.
    /// - `page_bytes` is the page size of that mapping, and `base` is aligned to it.
    /// - Nothing relies on bytes of that mapping keeping what was written to them: a lost page turns into zeroes.
    ///
    /// # Errors
    /// If the table is full or the handler cannot be installed.
    pub unsafe fn start(base: NonNull<u8>, bytes: usize, page_bytes: usize) -> Result<Self, WatchError> {
        install()?;
        let free = WATCHED.iter().position(|watched| !watched.taken.swap(true, Ordering::AcqRel));
        let slot = free.ok_or(WatchError::Full)?;
        let watched = &WATCHED[slot];
        watched.base.store(base.addr().get(), Ordering::Relaxed);
        watched.page_bytes.store(page_bytes, Ordering::Relaxed);
        watched.dead.store(false, Ordering::Relaxed);
        // Release: a handler that sees the length sees base and page size too. Pairs with the Acquire in `find`.
        watched.bytes.store(bytes, Ordering::Release);
        Ok(Self { slot })
    }

    /// Whether a page of this mapping was lost and replaced by zeroes.
    #[inline]
    #[must_use]
    pub fn is_dead(&self) -> bool {
        // Relaxed: the flag stands alone; the faulting thread itself needs no ordering with its own handler.
        WATCHED[self.slot].dead.load(Ordering::Relaxed)
    }

    /// As if a page had been lost: sealed memory loses none that a test could take.
    #[cfg(test)]
    pub fn mark_dead(&self) {
        WATCHED[self.slot].dead.store(true, Ordering::Relaxed);
    }
}

/// Watches the memory of untrusted guests as other mappings.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestMemoryWatcher;

impl MemoryWatch for Watch {
    fn is_lost(&self) -> bool {
        self.is_dead()
    }
}

impl MemoryWatcher for GuestMemoryWatcher {
    unsafe fn watch(
        &self,
        base: NonNull<u8>,
        bytes: usize,
        page_bytes: usize,
    ) -> Result<Box<dyn MemoryWatch>, Box<dyn std::error::Error + Send + Sync>> {
        // SAFETY: the caller promises the same.
        let watch = unsafe { Watch::start(base, bytes, page_bytes) }?;
        Ok(Box::new(watch))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let watched = &WATCHED[self.slot];
        watched.bytes.store(0, Ordering::Release);
        watched.taken.store(false, Ordering::Release);
    }
}

/// The watched mapping that `address` lies in.
fn find(address: usize) -> Option<&'static Watched> {
    WATCHED.iter().find(|watched| {
        let bytes = watched.bytes.load(Ordering::Acquire);
        address.wrapping_sub(watched.base.load(Ordering::Relaxed)) < bytes
    })
}

fn install() -> Result<(), WatchError> {
    static INSTALLED: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks for the current one, written to `before`, which is large enough.
    let asked = unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), before.as_mut_ptr()) };
    if asked != 0 {
        return Err(WatchError::Handler(std::io::Error::last_os_error()));
    }
    // SAFETY: the call above succeeded, so the kernel has filled it in; all-zero would be valid besides.
    let before = unsafe { before.assume_init() };
    BEFORE.get_or_init(|| before);

    // SAFETY: `sigaction` is a C struct of integers, a bit set and a nullable function; zero is valid for each.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    // ONSTACK: a thread that runs out of its own stack has an alternate one from the standard library.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is filled in above, its handler has the three-argument signature that SA_SIGINFO asks
    // for and does only async-signal-safe work; the old action is not wanted.
    let installed_now = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if installed_now != 0 {
        return Err(WatchError::Handler(std::io::Error::last_os_error()));
    }
    *installed = true;
    Ok(())
}

/// The handler. Async-signal-safe: no allocation, no lock, no formatting.
extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler installed with SA_SIGINFO.
    let info = unsafe { &*info };
    // Sent by somebody (kill, sigqueue, tgkill) and no fault: there is no address, and nothing is lost.
    if info.si_code <= 0 {
        return;
    }
    // SAFETY: for a SIGBUS that is a fault the kernel fills in the fault variant of the union.
    let address = unsafe { info.si_addr() }.addr();
    // SAFETY: has no preconditions; the interrupted code may be between a system call and its errno.
    let errno_at = unsafe { libc::__errno_location() };
    // SAFETY: errno's location is valid for as long as the calling thread lives.
    let errno = unsafe { errno_at.read() };
    let replaced = find(address).is_some_and(|watched| replace_page(watched, address));
    // SAFETY: as above.
    unsafe { errno_at.write(errno) };
    if !replaced {
        give_back_to_earlier_action();
    }
}

/// Maps a zero page over the page of `address` and marks the mapping dead.
fn replace_page(watched: &Watched, address: usize) -> bool {
    watched.dead.store(true, Ordering::Relaxed);
    let page_bytes = watched.page_bytes.load(Ordering::Relaxed);
    let page = address & !(page_bytes - 1);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page lies inside a watched mapping (`find`), so MAP_FIXED replaces only memory whose owner
    // agreed to that in `Watch::start`. mmap is a plain system call wrapper, safe in a handler.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::with_exposed_provenance_mut(page),
            page_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

/// Puts the earlier action back; the access repeats after the return and meets that action.
fn give_back_to_earlier_action() {
    let before = BEFORE.get().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `before` is what the kernel told at installation; sigaction is async-signal-safe.
    unsafe { libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut()) };
}
