//! Settings of a port: checked against what its driver can do, then applied.

use crate::error::{DpdkError, Errno};
use crate::port::{Direction, PortId, PortInfo, PortSettings};
use crate::queue::RxPool;

/// Ethernet header, one VLAN tag and the checksum, which some drivers leave in the buffer.
const FRAME_OVERHEAD_BYTES: u32 = 14 + 4 + 4;

/// Hash key for which both directions of a flow get one hash: 16 bits, repeated (Woo and Park,
/// "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling", 2012).
const SYMMETRIC_KEY_PAIR: [u8; 2] = [0x6d, 0x5a];

/// What the driver says of a port.
pub(crate) fn device_info(id: PortId, name: &str) -> Result<dpdk_sys::rte_eth_dev_info, DpdkError> {
    let mut info = dpdk_sys::rte_eth_dev_info::default();
    // SAFETY: any number is checked by DPDK; room for the answer.
    let result = unsafe { dpdk_sys::rte_eth_dev_info_get(id.0, &raw mut info) };
    if result == 0 {
        return Ok(info);
    }
    Err(DpdkError::Call {
        call: "rte_eth_dev_info_get",
        asked: format!("port {name}"),
        errno: Errno::from_result(result),
        hint: "the device is gone",
    })
}

/// Refuses what the driver cannot do, before anything changes.
pub(crate) fn check(
    name: &str,
    info: &PortInfo,
    raw: &dpdk_sys::rte_eth_dev_info,
    settings: &PortSettings,
) -> Result<(), DpdkError> {
    check_queues(name, info, settings)?;
    check_slots(name, info, Direction::Rx, settings.rx_slots, &raw.rx_desc_lim)?;
    check_slots(name, info, Direction::Tx, settings.tx_slots, &raw.tx_desc_lim)?;
    check_mtu(name, info, settings)
}

fn check_queues(name: &str, info: &PortInfo, settings: &PortSettings) -> Result<(), DpdkError> {
    let asked = [
        (Direction::Rx, settings.rx_pools.len(), info.rx_queues_max),
        (Direction::Tx, usize::from(settings.tx_queues), info.tx_queues_max),
    ];
    for (direction, asked, allowed) in asked {
        if !(1..=usize::from(allowed)).contains(&asked) {
            let (port, driver) = (name.to_owned(), info.driver.clone());
            return Err(DpdkError::QueueCount { port, driver, direction, asked, allowed });
        }
    }
    Ok(())
}

fn check_slots(
    name: &str,
    info: &PortInfo,
    direction: Direction,
    asked: u16,
    limits: &dpdk_sys::rte_eth_desc_lim,
) -> Result<(), DpdkError> {
    let step = limits.nb_align.max(1);
    let (min, max) = (limits.nb_min.max(1), limits.nb_max);
    if (min..=max).contains(&asked) && asked.is_multiple_of(step) {
        return Ok(());
    }
    // Down to a multiple, and up again if that is too few.
    let down = asked.clamp(min, max) / step * step;
    let nearest = if down < min { min.next_multiple_of(step) } else { down };
    let (port, driver) = (name.to_owned(), info.driver.clone());
    Err(DpdkError::Slots { port, driver, direction, asked, min, max, step, nearest })
}

fn check_mtu(name: &str, info: &PortInfo, settings: &PortSettings) -> Result<(), DpdkError> {
    let (asked, min, max) = (settings.mtu_bytes, info.mtu_bytes_min, info.mtu_bytes_max);
    if !(min..=max).contains(&asked) {
        return Err(DpdkError::Mtu { port: name.to_owned(), driver: info.driver.clone(), asked, min, max });
    }
    let frame_bytes = u32::from(asked) + FRAME_OVERHEAD_BYTES;
    let room_bytes = settings.rx_pools.iter().map(RxPool::room_bytes).min().unwrap_or(0);
    if frame_bytes > room_bytes {
        return Err(DpdkError::MtuBeyondBuffer {
            port: name.to_owned(),
            mtu: asked,
            frame_bytes,
            room_bytes,
        });
    }
    Ok(())
}

/// Configures the port and its queues. The settings have passed [`check`].
pub(crate) fn apply(
    id: PortId,
    name: &str,
    raw: &dpdk_sys::rte_eth_dev_info,
    settings: &PortSettings,
) -> Result<(), DpdkError> {
    let rx_queues = u16::try_from(settings.rx_pools.len()).unwrap_or(u16::MAX);
    configure_device(id, name, raw, settings, rx_queues)?;
    for (queue, pool) in (0..rx_queues).zip(&settings.rx_pools) {
        set_up_rx(id, name, raw, settings, queue, pool)?;
    }
    for queue in 0..settings.tx_queues {
        set_up_tx(id, name, raw, settings, queue)?;
    }
    Ok(())
}

fn configure_device(
    id: PortId,
    name: &str,
    raw: &dpdk_sys::rte_eth_dev_info,
    settings: &PortSettings,
    rx_queues: u16,
) -> Result<(), DpdkError> {
    let mut conf = dpdk_sys::rte_eth_conf::default();
    conf.rxmode.mtu = u32::from(settings.mtu_bytes);
    if settings.tx_segments {
        conf.txmode.offloads = raw.tx_offload_capa & dpdk_sys::NETVM_ETH_TX_OFFLOAD_MULTI_SEGS;
    }
    let key_len = if raw.hash_key_size == 0 { 40 } else { usize::from(raw.hash_key_size) };
    let mut key: Vec<u8> = SYMMETRIC_KEY_PAIR.into_iter().cycle().take(key_len).collect();
    let hash_functions = raw.flow_type_rss_offloads & dpdk_sys::NETVM_ETH_RSS_IP_TCP_UDP;
    if rx_queues > 1 && hash_functions != 0 {
        conf.rxmode.mq_mode = dpdk_sys::RTE_ETH_MQ_RX_RSS;
        conf.rxmode.offloads = raw.rx_offload_capa & dpdk_sys::NETVM_ETH_RX_OFFLOAD_RSS_HASH;
        conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
        conf.rx_adv_conf.rss_conf.rss_key_len = u8::try_from(key_len).unwrap_or(u8::MAX);
        conf.rx_adv_conf.rss_conf.rss_hf = hash_functions;
    }
    // SAFETY: a valid, stopped port; `conf` and the key it points at are read during the call.
    let result =
        unsafe { dpdk_sys::rte_eth_dev_configure(id.0, rx_queues, settings.tx_queues, &raw const conf) };
    refused("rte_eth_dev_configure", result, || {
        format!(
            "port {name}: {rx_queues} rx and {} tx queues, mtu {}",
            settings.tx_queues, settings.mtu_bytes
        )
    })
}

fn set_up_rx(
    id: PortId,
    name: &str,
    raw: &dpdk_sys::rte_eth_dev_info,
    settings: &PortSettings,
    queue: u16,
    pool: &RxPool,
) -> Result<(), DpdkError> {
    let mut conf = raw.default_rxconf;
    conf.rx_drop_en = u8::from(settings.rx_drop_when_full);
    conf.offloads = 0;
    // SAFETY: a valid, stopped port and a queue it was configured with; the port keeps a handle of
    // the pool for as long as the queue exists.
    let result = unsafe {
        dpdk_sys::rte_eth_rx_queue_setup(
            id.0,
            queue,
            settings.rx_slots,
            socket_of(id),
            &raw const conf,
            pool.mempool(),
        )
    };
    refused("rte_eth_rx_queue_setup", result, || {
        format!("rx queue {queue} of port {name}, {} slots, {pool:?}", settings.rx_slots)
    })
}

fn set_up_tx(
    id: PortId,
    name: &str,
    raw: &dpdk_sys::rte_eth_dev_info,
    settings: &PortSettings,
    queue: u16,
) -> Result<(), DpdkError> {
    let mut conf = raw.default_txconf;
    // None beside the port's, and above all not MBUF_FAST_FREE: it skips the checks on freeing, and wants all
    // frames of a queue to be of one pool.
    conf.offloads = 0;
    // SAFETY: a valid, stopped port and a queue it was configured with.
    let result = unsafe {
        dpdk_sys::rte_eth_tx_queue_setup(id.0, queue, settings.tx_slots, socket_of(id), &raw const conf)
    };
    refused("rte_eth_tx_queue_setup", result, || {
        format!("tx queue {queue} of port {name}, {} slots", settings.tx_slots)
    })
}

/// NUMA node of the port, in the odd type that queue set-up takes: -1 for "any" becomes its maximum.
fn socket_of(id: PortId) -> u32 {
    // SAFETY: any number is checked by DPDK.
    unsafe { dpdk_sys::rte_eth_dev_socket_id(id.0) }.cast_unsigned()
}

fn refused(call: &'static str, result: i32, asked: impl FnOnce() -> String) -> Result<(), DpdkError> {
    if result == 0 {
        return Ok(());
    }
    Err(DpdkError::Call {
        call,
        asked: asked(),
        errno: Errno::from_result(result),
        hint: "the driver cannot work with these settings; raise the log level for its reason",
    })
}
