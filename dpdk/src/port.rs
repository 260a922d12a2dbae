//! Ethernet ports, from the device's name to queues that threads poll.

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use crate::device;
use crate::eal::Eal;
use crate::error::{DpdkError, Errno};
use crate::memory::ExternalMemory;
use crate::queue::{QueueId, RxPool, RxQueue, TxQueue};
use crate::setup;
use crate::stats::{LinkState, PortStats};

/// DPDK's number of a port in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the switch.
    Rx,
    /// Out of the switch.
    Tx,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        })
    }
}

/// How a port is to work.
#[derive(Clone, Debug)]
pub struct PortSettings {
    /// One receive queue for each: where its frames go.
    pub rx_pools: Vec<RxPool>,
    /// Number of transmit queues.
    pub tx_queues: u16,
    /// Length of each receive queue, frames.
    pub rx_slots: u16,
    /// Length of each transmit queue, frames.
    pub tx_slots: u16,
    /// Longest payload of a frame, without its Ethernet header.
    pub mtu_bytes: u16,
    /// Send frames of several segments, where [`PortInfo::sends_segments`] says that it can.
    pub tx_segments: bool,
    /// Let a full receive queue drop its frames instead of holding up the port's other queues.
    pub rx_drop_when_full: bool,
}

/// What the driver says of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Name of the driver, e.g. `net_af_packet`.
    pub driver: String,
    /// Most receive queues.
    pub rx_queues_max: u16,
    /// Most transmit queues.
    pub tx_queues_max: u16,
    /// Smallest MTU.
    pub mtu_bytes_min: u16,
    /// Largest MTU.
    pub mtu_bytes_max: u16,
    /// Whether it sends frames of several segments.
    pub sends_segments: bool,
}

/// Drivers known to leave pinned buffers where they are: they fill the buffer that the header names and
/// keep no header after giving it away. Any other driver gets a private pool.
///
/// `net_virtio_user` is not among them: it tells its peer of DPDK's own memory only and skips memory from
/// outside, so frames in a region never arrive (tried with `net_vhost` as the peer).
const REGION_DRIVERS: &[&str] =
    &["net_null", "net_ring", "net_af_packet", "net_tap", "net_pcap", "net_memif", "net_vhost"];

impl PortInfo {
    /// Whether the driver is on the list of those that work with buffers in a region. From a port of any
    /// other driver frames are received into a private pool and copied; and what is sent to it is a copy
    /// in a private pool as well.
    pub fn may_use_region(&self) -> bool {
        REGION_DRIVERS.contains(&self.driver.as_str())
    }
}

/// The polling halves of a started port.
#[derive(Debug)]
pub struct Queues {
    /// One for each pool of the settings, in their order.
    pub rx: Vec<RxQueue>,
    /// As many as the settings asked for.
    pub tx: Vec<TxQueue>,
}

#[derive(Debug)]
enum State {
    Found,
    Configured { tx_queues: u16 },
    Started,
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Found => "not configured",
            Self::Configured { .. } => "configured",
            Self::Started => "started",
        }
    }
}

/// One Ethernet port. Closed, and its device removed, when dropped; if a queue of it is still in a
/// thread's hands then, it stays open.
#[derive(Debug)]
pub struct Port {
    id: PortId,
    name: String,
    info: PortInfo,
    device: *mut dpdk_sys::rte_device,
    state: State,
    /// Kept until the port is closed: the driver's rings hold buffers of them.
    rx_pools: Vec<RxPool>,
    mapped: Vec<Arc<ExternalMemory>>,
    lease: Arc<()>,
}

// SAFETY: DPDK's control calls may come from any thread, one at a time for a port (`&mut self` where
// they change it). `device` is DPDK's and stays until we remove it.
unsafe impl Send for Port {}

impl Port {
    /// Finds or makes the device and takes its port.
    ///
    /// `wanted` is a virtual device with its arguments (`net_af_packet0,iface=eth1`) or a PCI address
    /// that was given to the EAL at start.
    ///
    /// # Errors
    /// [`DpdkError::Call`] naming the device when the driver refuses it; others as named.
    pub fn probe(_eal: &Eal, wanted: &str) -> Result<Self, DpdkError> {
        let name = device::port_name(wanted);
        let mut claimed = device::claimed();
        let id = match device::find(&name)? {
            Some(id) if claimed.contains(&id) => {
                return Err(DpdkError::PortTwice { device: wanted.to_owned(), port: id });
            }
            Some(id) => id,
            None if device::is_pci_address(&name) => return Err(DpdkError::PciNotEnabled { device: name }),
            None => {
                device::plug(wanted)?;
                device::find(&name)?.ok_or_else(|| DpdkError::NoPort { device: wanted.to_owned() })?
            }
        };
        let raw = setup::device_info(id, &name)?;
        claimed.push(id);
        Ok(Self {
            id,
            info: port_info(&raw),
            name,
            device: raw.device,
            state: State::Found,
            rx_pools: Vec::new(),
            mapped: Vec::new(),
            lease: Arc::new(()),
        })
    }

    /// DPDK's number of the port.
    pub fn id(&self) -> PortId {
        self.id
    }

    /// Name of the device, without its arguments.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the driver says of it.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Sets up queues. A port that is not started can be configured again.
    ///
    /// # Errors
    /// Queue numbers, lengths and MTU are checked against the driver's bounds first, each with an error
    /// that names them; then [`DpdkError::Call`] for what DPDK refuses.
    pub fn configure(&mut self, settings: &PortSettings) -> Result<(), DpdkError> {
        if matches!(self.state, State::Started) {
            return Err(self.wrong_state("configure", "not started"));
        }
        let raw = setup::device_info(self.id, &self.name)?;
        setup::check(&self.name, &self.info, &raw, settings)?;
        // Kept from before the first queue has one, and those from an earlier time as well: the
        // driver frees old rings into them while it sets up new ones.
        self.rx_pools.splice(0..0, settings.rx_pools.iter().cloned());
        setup::apply(self.id, &self.name, &raw, settings)?;
        self.rx_pools.truncate(settings.rx_pools.len());
        self.state = State::Configured { tx_queues: settings.tx_queues };
        Ok(())
    }

    /// Starts the port and hands out its queues.
    ///
    /// # Errors
    /// [`DpdkError::PortState`] unless it is configured and stopped; [`DpdkError::Call`].
    pub fn start(&mut self) -> Result<Queues, DpdkError> {
        let State::Configured { tx_queues } = self.state else {
            return Err(self.wrong_state("start", "configured and not started"));
        };
        // SAFETY: a valid port that is configured; nobody polls it, since no queue is handed out.
        let result = unsafe { dpdk_sys::rte_eth_dev_start(self.id.0) };
        if result != 0 {
            return Err(self.call("rte_eth_dev_start", result, "is there free memory in its pools?"));
        }
        self.state = State::Started;
        let lease = || Arc::clone(&self.lease);
        let rx = (0..).zip(&self.rx_pools);
        let rx = rx.map(|(queue, pool)| RxQueue::new(self.id, QueueId(queue), pool.clone(), lease()));
        let tx = (0..tx_queues).map(|queue| TxQueue::new(self.id, QueueId(queue), lease()));
        Ok(Queues { rx: rx.collect(), tx: tx.collect() })
    }

    /// Stops the port, after all its queues have been dropped. Configure it to start it again.
    ///
    /// # Errors
    /// [`DpdkError::QueuesInUse`] while a thread has one; nothing changes then.
    pub fn stop(&mut self) -> Result<(), DpdkError> {
        let queues = self.queues_in_use();
        if queues > 0 {
            return Err(DpdkError::QueuesInUse { port: self.name.clone(), queues });
        }
        if !matches!(self.state, State::Started) {
            return Err(self.wrong_state("stop", "started"));
        }
        // SAFETY: a valid, started port that nobody polls any more (no queue is left).
        let result = unsafe { dpdk_sys::rte_eth_dev_stop(self.id.0) };
        if result != 0 {
            return Err(self.call("rte_eth_dev_stop", result, "the driver cannot stop it now"));
        }
        self.state = State::Found;
        Ok(())
    }

    /// Lets the port's device reach a region. Does nothing for virtual devices.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the IOMMU refuses.
    pub fn dma_map(&mut self, memory: &Arc<ExternalMemory>) -> Result<(), DpdkError> {
        let (address, len) = (memory.address(), memory.len_bytes());
        Errno::clear();
        // SAFETY: our device; memory that stays mapped and registered while we keep `memory`. Its
        // I/O address is its virtual one (checked by `Eal::init`).
        let result = unsafe { dpdk_sys::rte_dev_dma_map(self.device, address, address.addr() as u64, len) };
        if result == 0 {
            self.mapped.push(Arc::clone(memory));
            return Ok(());
        }
        Err(self.call("rte_dev_dma_map", result, "is the device bound to vfio-pci, with an IOMMU?"))
    }

    /// Lets frames for other MAC addresses in.
    ///
    /// # Errors
    /// [`DpdkError::Call`]; some virtual devices have no such switch.
    pub fn enable_promiscuous(&mut self) -> Result<(), DpdkError> {
        // SAFETY: a valid port.
        let result = unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.id.0) };
        if result == 0 {
            return Ok(());
        }
        Err(self.call("rte_eth_promiscuous_enable", result, "the driver may not offer it"))
    }

    /// The port's MAC address.
    ///
    /// # Errors
    /// [`DpdkError::Call`].
    pub fn mac(&self) -> Result<[u8; 6], DpdkError> {
        let mut mac = dpdk_sys::rte_ether_addr::default();
        // SAFETY: a valid port, and room for an address.
        let result = unsafe { dpdk_sys::rte_eth_macaddr_get(self.id.0, &raw mut mac) };
        if result == 0 {
            return Ok(mac.addr_bytes);
        }
        Err(self.call("rte_eth_macaddr_get", result, "the device is gone"))
    }

    /// State of the link, without waiting for it.
    ///
    /// # Errors
    /// [`DpdkError::Call`].
    pub fn link(&self) -> Result<LinkState, DpdkError> {
        let mut link = dpdk_sys::rte_eth_link::default();
        // SAFETY: a valid port, and room for a link state.
        let result = unsafe { dpdk_sys::rte_eth_link_get_nowait(self.id.0, &raw mut link) };
        if result != 0 {
            return Err(self.call("rte_eth_link_get_nowait", result, "the driver may not know"));
        }
        let speed_mbps = if link.link_speed == u32::MAX { 0 } else { link.link_speed };
        Ok(LinkState { up: link.link_status() != 0, speed_mbps })
    }

    /// The port's counters. May be asked while threads poll its queues.
    ///
    /// # Errors
    /// [`DpdkError::Call`].
    pub fn stats(&self) -> Result<PortStats, DpdkError> {
        let mut stats = dpdk_sys::rte_eth_stats::default();
        // SAFETY: a valid port, and room for its counters.
        let result = unsafe { dpdk_sys::rte_eth_stats_get(self.id.0, &raw mut stats) };
        if result == 0 {
            return Ok(PortStats::from(&stats));
        }
        Err(self.call("rte_eth_stats_get", result, "the driver may not count"))
    }

    fn queues_in_use(&self) -> usize {
        Arc::strong_count(&self.lease) - 1
    }

    fn wrong_state(&self, call: &'static str, needed: &'static str) -> DpdkError {
        DpdkError::PortState { port: self.name.clone(), call, found: self.state.name(), needed }
    }

    fn call(&self, call: &'static str, result: i32, hint: &'static str) -> DpdkError {
        let asked = format!("port {} ({})", self.name, self.info.driver);
        DpdkError::Call { call, asked, errno: Errno::from_result(result), hint }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if self.queues_in_use() > 0 {
            // Closing would free the rings that a thread polls. What the rings name stays too.
            std::mem::take(&mut self.rx_pools).into_iter().for_each(std::mem::forget);
            std::mem::take(&mut self.mapped).into_iter().for_each(std::mem::forget);
            return;
        }
        let mut claimed = device::claimed();
        device::stop(self.id);
        for memory in &self.mapped {
            let (address, len) = (memory.address(), memory.len_bytes());
            // SAFETY: mapped by `dma_map` with these very values, and unmapped once; the device is
            // stopped, so it uses nothing of it.
            unsafe { dpdk_sys::rte_dev_dma_unmap(self.device, address, address.addr() as u64, len) };
        }
        device::close(self.id, self.device);
        claimed.retain(|&id| id != self.id);
    }
}

fn port_info(raw: &dpdk_sys::rte_eth_dev_info) -> PortInfo {
    let driver = if raw.driver_name.is_null() {
        "unknown".to_owned()
    } else {
        // SAFETY: not null; a static string of the driver, which is never unloaded.
        let name = unsafe { CStr::from_ptr(raw.driver_name) };
        name.to_string_lossy().into_owned()
    };
    PortInfo {
        driver,
        rx_queues_max: raw.max_rx_queues,
        tx_queues_max: raw.max_tx_queues,
        mtu_bytes_min: raw.min_mtu,
        mtu_bytes_max: raw.max_mtu,
        sends_segments: raw.tx_offload_capa & dpdk_sys::NETVM_ETH_TX_OFFLOAD_MULTI_SEGS != 0,
    }
}
