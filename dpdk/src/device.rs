//! Devices by name: found, made and removed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::eal::c_text;
use crate::error::{DpdkError, Errno};
use crate::port::PortId;

/// Ports that have an owner here; also the lock for making and removing devices, which DPDK wants one
/// at a time.
static CLAIMED: Mutex<Vec<PortId>> = Mutex::new(Vec::new());

pub(crate) fn claimed() -> MutexGuard<'static, Vec<PortId>> {
    // The list is whole between any two of its operations, so a panic elsewhere does not spoil it.
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A refusal is left to the driver: there is nothing else to try.
pub(crate) fn stop(id: PortId) {
    // SAFETY: a valid port that nobody polls; stopping a stopped port does nothing.
    unsafe { dpdk_sys::rte_eth_dev_stop(id.0) };
}

/// Closes a port, and removes its device.
pub(crate) fn close(id: PortId, device: *mut dpdk_sys::rte_device) {
    // SAFETY: a valid, stopped port.
    unsafe { dpdk_sys::rte_eth_dev_close(id.0) };
    // SAFETY: the device that made the port; removed once, under the lock for devices.
    unsafe { dpdk_sys::rte_dev_remove(device) };
}

pub(crate) fn plug(device: &str) -> Result<(), DpdkError> {
    let arguments = c_text("device", device.to_owned())?;
    Errno::clear();
    // SAFETY: a terminated string that is copied; under the lock for devices.
    let result = unsafe { dpdk_sys::rte_dev_probe(arguments.as_ptr()) };
    if result == 0 {
        return Ok(());
    }
    Err(DpdkError::Call {
        call: "rte_dev_probe",
        asked: format!("device {device}"),
        errno: Errno::from_result(result),
        hint: "check the driver's name and arguments, and that what they name exists and may be opened",
    })
}

/// Number of the port of that name.
pub(crate) fn find(name: &str) -> Result<Option<PortId>, DpdkError> {
    let c_name = c_text("device", name.to_owned())?;
    let mut id = 0;
    // SAFETY: a terminated string, and room for a number.
    let result = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &raw mut id) };
    Ok((result == 0).then_some(PortId(id)))
}

/// Name that DPDK gives the port of a device: no arguments, PCI addresses in full.
pub(crate) fn port_name(device: &str) -> String {
    let name = device.split_once(',').map_or(device, |(name, _)| name);
    if is_pci_address(&format!("0000:{name}")) { format!("0000:{name}") } else { name.to_owned() }
}

/// Whether it looks like `0000:01:00.0`.
pub(crate) fn is_pci_address(name: &str) -> bool {
    let shape = [4, 2, 2, 1];
    let parts: Vec<&str> = name.split([':', '.']).collect();
    name.matches(':').count() == 2
        && parts.len() == shape.len()
        && parts
            .iter()
            .zip(shape)
            .all(|(part, len)| part.len() == len && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_port_without_arguments_and_with_its_pci_domain() {
        assert_eq!(port_name("net_tap0,iface=x,mac=fixed"), "net_tap0");
        assert_eq!(port_name("01:00.0,arg=1"), "0000:01:00.0");
        assert_eq!(port_name("0000:01:00.0"), "0000:01:00.0");
    }

    #[test]
    fn tells_pci_addresses_from_virtual_devices() {
        assert!(is_pci_address("0000:0a:1f.7"));
        for other in ["net_null0", "01:00.0", "0000:01:00", "0000.01.00.0", "0000:01:0g.0", ""] {
            assert!(!is_pci_address(other), "{other}");
        }
    }
}
