//! The environment abstraction layer: DPDK's state of this process.

use std::ffi::{CStr, CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{DpdkError, Errno};
use crate::{lcore, ops};

/// How much DPDK writes to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What makes it give up.
    Critical,
    /// What failed.
    Error,
    /// What looks wrong.
    #[default]
    Warning,
    /// What it chose.
    Notice,
    /// What it does.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    /// As `--log-level` takes it (`RTE_LOG_CRIT` is `critical`).
    fn argument(self) -> &'static str {
        match self {
            Self::Critical => "--log-level=critical",
            Self::Error => "--log-level=error",
            Self::Warning => "--log-level=warning",
            Self::Notice => "--log-level=notice",
            Self::Info => "--log-level=info",
            Self::Debug => "--log-level=debug",
        }
    }
}

/// What DPDK is given at start.
#[derive(Clone, Debug)]
pub struct EalOptions {
    /// Keep DPDK's own memory (mbuf headers, driver queues) in hugepages. Without, ports on real
    /// hardware are slower, and drivers that need physically contiguous memory refuse.
    pub hugepages: bool,
    /// Memory DPDK takes for itself at start, MiB. Regions are not in it.
    pub memory_mib: u32,
    /// PCI devices, each an address with optional arguments (`0000:01:00.0,arg=1`). None of them:
    /// the PCI bus is not even looked at.
    pub pci_devices: Vec<String>,
    /// How much it says.
    pub log_level: LogLevel,
}

impl Default for EalOptions {
    fn default() -> Self {
        Self { hugepages: false, memory_mib: 128, pci_devices: Vec::new(), log_level: LogLevel::default() }
    }
}

/// Proof that DPDK is up. Copies are free; there is no way back.
///
/// Never cleaned up: `rte_eal_cleanup` unmaps memory that a thread may still poll, and nothing of
/// DPDK outlives the process anyway. Sockets of virtual devices go when
/// their [`crate::Port`] is dropped.
#[derive(Clone, Copy, Debug)]
pub struct Eal {
    _by_init_only: PhantomData<()>,
}

static TRIED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK in this process.
    ///
    /// Always `--in-memory`, or without hugepages `--no-shconf` (a killed switch leaves nothing but
    /// an empty folder `/run/dpdk/rte`, or in `/tmp/dpdk` without root), `--no-telemetry` (no second control socket) and `--iova-mode=va` (regions are given to
    /// devices by virtual address). The calling thread becomes DPDK's main lcore but keeps its CPU
    /// affinity.
    ///
    /// # Errors
    /// [`DpdkError::EalTwice`] at every call but the first, even if that failed: DPDK cannot start
    /// over. [`DpdkError::Call`] with DPDK's reason otherwise.
    pub fn init(options: &EalOptions) -> Result<Self, DpdkError> {
        let arguments = arguments(options, &lcore::allowed_cpus())?;
        // Relaxed: the flag guards nothing but itself; only one caller sees `false`.
        if TRIED.swap(true, Ordering::Relaxed) {
            return Err(DpdkError::EalTwice);
        }
        start(&arguments)?;
        // SAFETY: takes no arguments; valid once the EAL is up, which it is here.
        let iova_mode = unsafe { dpdk_sys::rte_eal_iova_mode() };
        if iova_mode != dpdk_sys::RTE_IOVA_VA {
            return Err(DpdkError::PhysicalIova);
        }
        ops::register()?;
        Ok(Self { _by_init_only: PhantomData })
    }
}

fn arguments(options: &EalOptions, cpus: &[usize]) -> Result<Vec<CString>, DpdkError> {
    let mut words = vec![
        "netvm".to_owned(),
        "--no-telemetry".to_owned(),
        "--iova-mode=va".to_owned(),
        options.log_level.argument().to_owned(),
        "-m".to_owned(),
        options.memory_mib.to_string(),
    ];
    // One lcore, allowed on every CPU this thread is allowed on: the EAL pins the thread that starts
    // it, and threads started later would inherit that.
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    words.push(format!("--lcores=0@({})", cpus.join(",")));
    if options.hugepages {
        // One file for many pages: `net_virtio_user` passes its memory on by file, eight at most.
        words.extend(["--in-memory".to_owned(), "--single-file-segments".to_owned()]);
    } else {
        // 22.11 calls `--no-huge` "legacy memory" and refuses it together with `--in-memory`; without
        // hugepages the shared configuration is the only thing that would be a file.
        words.extend(["--no-huge".to_owned(), "--no-shconf".to_owned()]);
    }
    if options.pci_devices.is_empty() {
        words.push("--no-pci".to_owned());
    }
    for device in &options.pci_devices {
        words.push("-a".to_owned());
        words.push(device.clone());
    }
    words.into_iter().map(|word| c_text("EAL argument", word)).collect()
}

fn start(arguments: &[CString]) -> Result<(), DpdkError> {
    let mut argv: Vec<*mut c_char> = arguments.iter().map(|word| word.clone().into_raw()).collect();
    let argc = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
    argv.push(std::ptr::null_mut());
    // The vector and its strings are given away for good: the EAL may keep and permute them.
    let argv = Vec::leak(argv).as_mut_ptr();
    // SAFETY: `argv` has `argc` C strings and a null behind them, writable and never freed. Called
    // at most once per process (`TRIED`).
    let parsed = unsafe { dpdk_sys::rte_eal_init(argc, argv) };
    if parsed >= 0 {
        return Ok(());
    }
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    Err(DpdkError::Call {
        call: "rte_eal_init",
        asked: format!("`{}`", words.join(" ")),
        errno: Errno::last(),
        hint: "reserve hugepages (nr_hugepages) or start without them; raise the log level for the reason",
    })
}

/// Name and release of the DPDK that is linked, e.g. `DPDK 22.11.11`. Works before [`Eal::init`].
pub fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        // SAFETY: the first call writes a static string, later ones only read it; `OnceLock` makes
        // this the only call.
        let text = unsafe { dpdk_sys::rte_version() };
        // SAFETY: not null, and terminated.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    })
}

/// Text for C.
pub(crate) fn c_text(what: &'static str, text: String) -> Result<CString, DpdkError> {
    CString::new(text).map_err(|err| DpdkError::ZeroByte {
        what,
        text: String::from_utf8_lossy(&err.into_vec()).into_owned(),
    })
}
