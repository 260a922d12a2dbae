//! What DPDK refused, and what was asked of it.

use std::ffi::CStr;
use std::fmt;

use crate::port::{Direction, PortId};

/// An error number of DPDK: an `errno`, or one of DPDK's own above 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// `rte_errno` of the calling thread: what the last failing call left there.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local of the calling thread; no precondition.
        Self(unsafe { dpdk_sys::netvm_rte_errno() })
    }

    /// Forgets what earlier calls left there, before a call whose result may say no more than "failed".
    pub(crate) fn clear() {
        // SAFETY: writes a thread-local integer of the calling thread; no precondition.
        unsafe { dpdk_sys::netvm_rte_errno_set(0) };
    }

    /// From the result of a call that returns a negative error number. Some drivers return a bare -1
    /// for "failed" and leave the reason in `rte_errno`; that reading is preferred when there is one.
    pub(crate) fn from_result(result: i32) -> Self {
        let last = Self::last();
        if result == -1 && last.0 != 0 { last } else { Self(result.saturating_neg()) }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: `rte_strerror` takes any number; what it returns is a static or thread-local
        // string that stays as it is until this thread asks again.
        let text = unsafe { dpdk_sys::rte_strerror(self.0) };
        // SAFETY: it is never null and ends with a zero byte (rte_errno.h).
        let text = unsafe { CStr::from_ptr(text) };
        write!(f, "{} (error {})", text.to_string_lossy(), self.0)
    }
}

/// Everything that can go wrong when the switch sets up DPDK. The datapath itself counts instead.
#[derive(Debug, thiserror::Error)]
pub enum DpdkError {
    /// A call into DPDK failed.
    #[error("{call} failed for {asked}: {errno}; {hint}")]
    Call {
        /// Name of the C function.
        call: &'static str,
        /// What it was asked for, in the user's words: device, pool, queue.
        asked: String,
        /// What it answered.
        errno: Errno,
        /// What usually is the matter.
        hint: &'static str,
    },
    /// DPDK's state is one per process, and cannot be made anew after a failure either.
    #[error("the EAL can be initialised once per process, and this process already tried")]
    EalTwice,
    /// Region buffers are given to devices by their virtual address.
    #[error(
        "the EAL chose physical I/O addresses, but regions need virtual ones; \
         bind the device to vfio-pci with an IOMMU"
    )]
    PhysicalIova,
    /// The thread has an lcore id of DPDK already; DPDK itself would lose that one.
    #[error("thread {thread:?} is registered with DPDK already, as lcore {id}")]
    RegisteredTwice {
        /// Name of the thread.
        thread: String,
        /// The id it has.
        id: u32,
    },
    /// Text for C cannot hold a zero byte.
    #[error("{what} contains a zero byte: {text:?}")]
    ZeroByte {
        /// What the text is.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A CPU that the kernel does not let this process run on, or that does not exist.
    #[error("thread cannot be pinned to CPU {cpu}: {source}; allowed CPUs: {allowed}")]
    Pin {
        /// CPU that was asked for.
        cpu: usize,
        /// The kernel's answer.
        source: std::io::Error,
        /// CPUs the calling thread may run on now.
        allowed: String,
    },
    /// PCI devices are named when the EAL starts.
    #[error("PCI device {device} was not among the PCI devices given to the EAL at start")]
    PciNotEnabled {
        /// Device that was asked for.
        device: String,
    },
    /// The device exists, but no Ethernet port came of it.
    #[error("device {device} made no Ethernet port of that name; is it a network device?")]
    NoPort {
        /// Device that was asked for.
        device: String,
    },
    /// One port, one owner.
    #[error("device {device} is already in use as port {port}")]
    PortTwice {
        /// Device that was asked for.
        device: String,
        /// The port it is.
        port: PortId,
    },
    /// The buffers of a pool do not have the shape that DPDK needs.
    #[error("pool {pool}: {fault}")]
    Geometry {
        /// Name of the pool.
        pool: String,
        /// What is wrong with its geometry.
        fault: GeometryFault,
    },
    /// More queues than the driver offers, or none.
    #[error("port {port} ({driver}): {asked} {direction} queues asked, 1 to {allowed} possible")]
    QueueCount {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
        /// Which way.
        direction: Direction,
        /// How many were asked for.
        asked: usize,
        /// How many the driver has.
        allowed: u16,
    },
    /// A queue length that the driver does not take.
    #[error(
        "port {port} ({driver}): {direction} queue of {asked} slots asked, {min} to {max} in steps of {step} \
         possible; nearest: {nearest}"
    )]
    Slots {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
        /// Which way.
        direction: Direction,
        /// How many slots were asked for.
        asked: u16,
        /// Fewest slots.
        min: u16,
        /// Most slots.
        max: u16,
        /// Slots come in multiples of this.
        step: u16,
        /// The legal number nearest to what was asked.
        nearest: u16,
    },
    /// An MTU that the driver does not take.
    #[error("port {port} ({driver}): mtu_bytes is {asked}, {min} to {max} possible")]
    Mtu {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
        /// MTU that was asked for.
        asked: u16,
        /// Smallest.
        min: u16,
        /// Largest.
        max: u16,
    },
    /// A frame of this MTU does not fit into one buffer of the pool.
    #[error(
        "port {port}: a frame of mtu_bytes {mtu} takes up to {frame_bytes} bytes, \
         but a buffer of its pool has room for {room_bytes}; lower the MTU or enlarge buffer_stride_bytes"
    )]
    MtuBeyondBuffer {
        /// The port.
        port: String,
        /// MTU that was asked for.
        mtu: u16,
        /// Longest frame of that MTU.
        frame_bytes: u32,
        /// Data room of a buffer.
        room_bytes: u32,
    },
    /// Queues are still in somebody's hands.
    #[error("port {port} cannot stop: {queues} of its queues are still owned by polling threads")]
    QueuesInUse {
        /// The port.
        port: String,
        /// How many.
        queues: usize,
    },
    /// Somebody else owns the pool already.
    #[error("pool {pool} is already owned by another thread")]
    PoolOwned {
        /// Name of the pool.
        pool: String,
    },
    /// The order of calls is configure, then start.
    #[error("port {port} is {found}, {call} needs it {needed}")]
    PortState {
        /// The port.
        port: String,
        /// What was asked.
        call: &'static str,
        /// What it is now.
        found: &'static str,
        /// What it must be.
        needed: &'static str,
    },
}

/// What is wrong with the geometry of a pool.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryFault {
    /// DPDK's headroom is a constant of its build.
    #[error("headroom is {found} bytes, but this DPDK was built for {needed}")]
    Headroom {
        /// In the geometry.
        found: u16,
        /// In DPDK.
        needed: u16,
    },
    /// A buffer holds headroom and data, and DPDK counts its length in 16 bits.
    #[error("stride is {found} bytes, must be a multiple of 64 from {min} to {max}")]
    Stride {
        /// In the geometry.
        found: u32,
        /// Least.
        min: u32,
        /// Most.
        max: u32,
    },
    /// A pool of nothing.
    #[error("it has no buffers")]
    Empty,
    /// Indices are 32 bits.
    #[error("indices from {first_index} on with {count} buffers do not fit into 32 bits")]
    Indices {
        /// First index.
        first_index: u32,
        /// How many.
        count: u32,
    },
    /// The first buffer does not start on a cache line.
    #[error("its first buffer is at {address:#x}, not on a 64-byte boundary")]
    Alignment {
        /// Address of the first buffer.
        address: usize,
    },
    /// DPDK did not place the headers as index arithmetic needs them.
    #[error("mbuf header {index} was placed at {found:#x}, expected at {expected:#x}")]
    HeaderPlacement {
        /// Which.
        index: u32,
        /// Where it is.
        found: usize,
        /// Where it has to be.
        expected: usize,
    },
    /// DPDK's object size is not the one that index arithmetic is compiled for.
    #[error("an mbuf header takes {found} bytes in a pool of this DPDK, expected {expected}")]
    HeaderBytes {
        /// In DPDK.
        found: u32,
        /// Here.
        expected: u32,
    },
    /// DPDK placed fewer headers than there are buffers.
    #[error("DPDK placed {found} mbuf headers, expected {expected}")]
    HeaderCount {
        /// How many there are.
        found: u32,
        /// How many buffers there are.
        expected: u32,
    },
}
